import com.sun.xml.ws.api.addressing.AddressingVersion;
import com.sun.xml.ws.api.message.Header;
import com.sun.xml.ws.api.message.HeaderList;
import com.sun.xml.ws.developer.JAXWSProperties;
import com.sun.xml.ws.developer.MemberSubmissionAddressingFeature;
import javax.annotation.Resource;
import javax.jws.WebService;
import javax.xml.namespace.QName;
import javax.xml.stream.XMLStreamException;
import javax.xml.ws.Endpoint;
import javax.xml.ws.WebServiceContext;
import javax.xml.ws.WebServiceFeature;
import javax.xml.ws.handler.MessageContext;
import javax.xml.ws.soap.AddressingFeature;
import javax.xml.ws.soap.SOAPBinding;
import orders.Orders;

/**
 * Takes orders by JAX-WS (Metro): OrdersServer ADDRESS
 *
 * <p>/soap11 and /soap12 speak WS-Addressing 2005/08, /member 2004/08 over SOAP 1.1. Answers to ReplyTo are Metro's own work.
 */
@WebService(endpointInterface = "orders.Orders", targetNamespace = "urn:example:orders", serviceName = "OrdersService", portName = "OrdersPort")
public class OrdersServer implements Orders {
    private static final String SOAP12 = "http://java.sun.com/xml/ns/jaxws/2003/05/soap/bindings/HTTP/";

    @Resource private WebServiceContext context;

    public static void main(String[] args) {
        publish(args[0] + "/soap11", SOAPBinding.SOAP11HTTP_BINDING, new AddressingFeature());
        publish(args[0] + "/soap12", SOAP12, new AddressingFeature());
        publish(args[0] + "/member", SOAPBinding.SOAP11HTTP_BINDING, new MemberSubmissionAddressingFeature());
        Say.stopOnSignal();
        Say.that("ready");
    }

    private static void publish(String address, String binding, WebServiceFeature addressing) {
        Endpoint.create(binding, new OrdersServer(), addressing).publish(address);
    }

    @Override
    public String place(String customer, String item, int count) {
        MessageContext message = context.getMessageContext();
        HeaderList headers = (HeaderList) message.get(JAXWSProperties.INBOUND_HEADER_LIST_PROPERTY);
        AddressingVersion addressing = headers.get(AddressingVersion.W3C.actionTag, false) != null
                ? AddressingVersion.W3C
                : AddressingVersion.MEMBER;
        Say.that("request", "message_id", text(headers, addressing.messageIDTag), "to", text(headers, addressing.toTag),
                "reply_to", address(headers, addressing.replyToTag, addressing),
                "fault_to", address(headers, addressing.faultToTag, addressing),
                "host", Say.header(message, "Host"), "item", item, "count", count);
        if (count == 0) {
            throw new IllegalArgumentException("an order has at least one piece");
        }
        return customer + ": " + count + " of " + item;
    }

    private static String text(HeaderList headers, QName name) {
        Header header = headers.get(name, false);
        return header == null ? null : header.getStringContent();
    }

    private static String address(HeaderList headers, QName name, AddressingVersion addressing) {
        Header header = headers.get(name, false);
        try {
            return header == null ? null : header.readAsEPR(addressing).getAddress();
        } catch (XMLStreamException e) {
            throw new IllegalStateException(e);
        }
    }
}
