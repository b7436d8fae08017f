import alarms.AlarmService;
import alarms.AttributedURI;
import alarms.DeliveryType;
import alarms.EndpointReferenceType;
import alarms.EventSource;
import alarms.ReferenceParametersType;
import alarms.SubscriptionManager;
import alarms.Unsubscribe;
import com.sun.xml.ws.developer.MemberSubmissionAddressingFeature;
import com.sun.xml.ws.developer.MemberSubmissionEndpointReference;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.StringReader;
import java.io.StringWriter;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import javax.xml.bind.JAXB;
import javax.xml.bind.JAXBElement;
import javax.xml.namespace.QName;
import javax.xml.transform.stream.StreamSource;
import javax.xml.ws.Endpoint;
import javax.xml.ws.Holder;

/**
 * Subscribes to alarms by JAX-WS (Metro): AlarmClient SERVICE LISTENER. Client and sink are what wsimport generated from alarms.wsdl.
 *
 * <p>Lines on standard input: "subscribe EXPIRES", and for the last subscription "renew EXPIRES" and "unsubscribe". Where the source
 * is, it reads from the WSDL at SERVICE/source?wsdl, and where the subscription manager is, from the source's answer.
 */
public final class AlarmClient {
    private static final String ADDRESSING = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
    private static final String PUSH = "http://schemas.xmlsoap.org/ws/2004/08/eventing/DeliveryModes/Push";

    private final AlarmService service;
    private final String listener;
    private SubscriptionManager manager;

    private AlarmClient(AlarmService service, String listener) {
        this.service = service;
        this.listener = listener;
    }

    public static void main(String[] args) throws Exception {
        Endpoint.publish(args[1] + "/alarms", new AlarmListener());
        Endpoint.publish(args[1] + "/ends", new AlarmListener());
        AlarmClient client = new AlarmClient(new AlarmService(new URL(args[0] + "/source?wsdl")), args[1]);
        Say.stopOnSignal();
        Say.that("ready");
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = orders.readLine()) != null; ) {
            String[] words = line.split(" ");
            try {
                switch (words[0]) {
                    case "subscribe":
                        client.subscribe(words[1]);
                        break;
                    case "renew":
                        Holder<String> expires = new Holder<>(words[1]);
                        client.manager.renew(expires);
                        Say.that("renewed", "expires", expires.value);
                        break;
                    default:
                        client.manager.unsubscribe(new Unsubscribe());
                        Say.that("unsubscribed");
                }
            } catch (Exception e) {
                Say.that("failed", "why", e);
            }
        }
        Thread.currentThread().join();
    }

    private void subscribe(String duration) {
        EventSource source = service.getPort(EventSource.class, new MemberSubmissionAddressingFeature());
        DeliveryType delivery = new DeliveryType();
        delivery.setMode(PUSH);
        delivery.setNotifyTo(reference("/alarms?desk=7"));
        Holder<String> expires = new Holder<>(duration);
        Holder<EndpointReferenceType> at = new Holder<>();
        source.subscribe(reference("/ends?desk=7"), delivery, expires, at);
        // Its reference parameters become headers of what is sent to it.
        manager = service.getPort(stock(at.value), SubscriptionManager.class, new MemberSubmissionAddressingFeature());
        Say.that("subscribed", "manager", at.value.getAddress().getValue(), "expires", expires.value);
    }

    private EndpointReferenceType reference(String target) {
        AttributedURI address = new AttributedURI();
        address.setValue(listener + target);
        ReferenceParametersType parameters = new ReferenceParametersType();
        parameters.getAny().add(new JAXBElement<>(AlarmListener.DESK, String.class, "desk 7"));
        EndpointReferenceType reference = new EndpointReferenceType();
        reference.setAddress(address);
        reference.setReferenceParameters(parameters);
        return reference;
    }

    /** The class that Metro takes for what wsimport made a class of its own. */
    private static MemberSubmissionEndpointReference stock(EndpointReferenceType made) {
        StringWriter text = new StringWriter();
        JAXB.marshal(new JAXBElement<>(new QName(ADDRESSING, "EndpointReference"), EndpointReferenceType.class, made), text);
        return new MemberSubmissionEndpointReference(new StreamSource(new StringReader(text.toString())));
    }
}
