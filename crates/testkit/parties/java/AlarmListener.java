import alarms.AlarmSink;
import alarms.EndpointReferenceType;
import com.sun.net.httpserver.HttpExchange;
import com.sun.xml.ws.api.addressing.AddressingVersion;
import com.sun.xml.ws.api.message.Header;
import com.sun.xml.ws.api.message.HeaderList;
import com.sun.xml.ws.developer.JAXWSProperties;
import javax.annotation.Resource;
import javax.jws.WebService;
import javax.xml.namespace.QName;
import javax.xml.ws.WebServiceContext;
import javax.xml.ws.handler.MessageContext;

/** Where alarms come in, and the news that there will be no more. */
@WebService(endpointInterface = "alarms.AlarmSink", targetNamespace = "urn:example:alarms", serviceName = "AlarmSinkService", portName = "AlarmSinkPort")
public class AlarmListener implements AlarmSink {
    /** A reference parameter of ours that has to come back. */
    static final QName DESK = new QName("urn:example:desk", "Desk");

    @Resource private WebServiceContext context;

    @Override
    public void alarm(String text) {
        say("alarm", "text", text, null, null);
    }

    @Override
    public void subscriptionEnd(EndpointReferenceType manager, String status, String reason) {
        say("ended", "status", status, "manager", manager.getAddress().getValue());
    }

    private void say(String event, String name, String text, String other, String more) {
        MessageContext message = context.getMessageContext();
        HeaderList headers = (HeaderList) message.get(JAXWSProperties.INBOUND_HEADER_LIST_PROPERTY);
        HttpExchange http = (HttpExchange) message.get(JAXWSProperties.HTTP_EXCHANGE);
        Say.that(event, name, text, "to", text(headers, AddressingVersion.MEMBER.toTag), "desk", text(headers, DESK),
                "host", Say.header(message, "Host"), "target", http.getRequestURI(), other, more);
    }

    private static String text(HeaderList headers, QName name) {
        Header header = headers.get(name, false);
        return header == null ? null : header.getStringContent();
    }
}
