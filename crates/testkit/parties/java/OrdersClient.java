import com.sun.xml.ws.api.addressing.AddressingVersion;
import com.sun.xml.ws.api.addressing.WSEndpointReference;
import com.sun.xml.ws.api.message.Headers;
import com.sun.xml.ws.developer.MemberSubmissionAddressingFeature;
import com.sun.xml.ws.developer.WSBindingProvider;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.UUID;
import javax.xml.bind.JAXBContext;
import javax.xml.namespace.QName;
import javax.xml.ws.BindingProvider;
import javax.xml.ws.Dispatch;
import javax.xml.ws.Endpoint;
import javax.xml.ws.Service;
import javax.xml.ws.WebServiceFeature;
import javax.xml.ws.handler.MessageContext;
import javax.xml.ws.soap.AddressingFeature;
import javax.xml.ws.soap.SOAPBinding;
import orders.ObjectFactory;
import orders.OrdersService;
import orders.Place;

/**
 * Places orders by JAX-WS (Metro), with code that wsimport generated: OrdersClient SERVICE LISTENER
 *
 * <p>Each line on standard input is an order: "place VARIANT ITEM COUNT" has the answer sent to the listener, "call ..." waits for
 * it. VARIANT is a path of OrdersServer. Where the service is, it reads from the WSDL at SERVICE/VARIANT?wsdl.
 */
public final class OrdersClient {
    private static final QName PORT = new QName("urn:example:orders", "OrdersPort");

    private final String service;
    private final String listener;

    private OrdersClient(String service, String listener) {
        this.service = service;
        this.listener = listener;
    }

    public static void main(String[] args) throws Exception {
        OrdersClient client = new OrdersClient(args[0], args[1]);
        for (String of : new String[] {"answers", "faults"}) {
            String address = args[1] + "/" + of;
            Endpoint.create(SOAPBinding.SOAP11HTTP_BINDING, new Listener()).publish(address + "/soap11");
            Endpoint.create(SOAPBinding.SOAP12HTTP_BINDING, new Listener()).publish(address + "/soap12");
            Endpoint.create(SOAPBinding.SOAP11HTTP_BINDING, new Listener()).publish(address + "/member");
        }
        Say.stopOnSignal();
        Say.that("ready");
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = orders.readLine()) != null; ) {
            String[] words = line.split(" ");
            Place order = new ObjectFactory().createPlace();
            order.setCustomer("M\u00fcller & S\u00f6hne");
            order.setItem(words[2]);
            order.setCount(Integer.parseInt(words[3]));
            try {
                if (words[0].equals("place")) {
                    client.place(words[1], order);
                } else {
                    client.call(words[1], order);
                }
            } catch (Exception e) {
                Say.that("failed", "why", e);
            }
        }
        Thread.currentThread().join();
    }

    private OrdersService service(String variant) throws Exception {
        return new OrdersService(new URL(service + "/" + variant + "?wsdl"));
    }

    /** Metro's proxies wait for the answer on the connection; a decoupled answer is had by sending one way with a ReplyTo. */
    private void place(String variant, Place order) throws Exception {
        boolean member = variant.equals("member");
        AddressingVersion addressing = member ? AddressingVersion.MEMBER : AddressingVersion.W3C;
        WebServiceFeature feature = member ? new MemberSubmissionAddressingFeature() : new AddressingFeature();
        JAXBContext types = JAXBContext.newInstance(ObjectFactory.class);
        Dispatch<Object> dispatch = service(variant).createDispatch(PORT, types, Service.Mode.PAYLOAD, feature);
        dispatch.getRequestContext().put(BindingProvider.SOAPACTION_USE_PROPERTY, true);
        dispatch.getRequestContext().put(BindingProvider.SOAPACTION_URI_PROPERTY, "urn:example:orders/place");
        String id = "urn:uuid:" + UUID.randomUUID();
        String query = variant + "?client=7&for=" + order.getItem();
        ((WSBindingProvider) dispatch).setOutboundHeaders(
                Headers.create(addressing.messageIDTag, id),
                new WSEndpointReference(listener + "/answers/" + query, addressing).createHeader(addressing.replyToTag),
                new WSEndpointReference(listener + "/faults/" + query, addressing).createHeader(addressing.faultToTag));
        dispatch.invokeOneWay(order);
        Object status = dispatch.getResponseContext().get(MessageContext.HTTP_RESPONSE_CODE);
        Say.that("sent", "message_id", id, "status", status, "to", dispatch.getRequestContext().get(BindingProvider.ENDPOINT_ADDRESS_PROPERTY));
    }

    private void call(String variant, Place order) throws Exception {
        WebServiceFeature feature = variant.equals("member") ? new MemberSubmissionAddressingFeature() : new AddressingFeature();
        String answer = service(variant).getOrdersPort(feature).place(order.getCustomer(), order.getItem(), order.getCount());
        Say.that("called", "order", answer);
    }
}
