import com.sun.xml.ws.api.addressing.AddressingVersion;
import com.sun.net.httpserver.HttpExchange;
import com.sun.xml.ws.developer.JAXWSProperties;
import java.util.Iterator;
import javax.annotation.Resource;
import javax.xml.namespace.QName;
import javax.xml.soap.Node;
import javax.xml.soap.SOAPException;
import javax.xml.soap.SOAPMessage;
import javax.xml.ws.Provider;
import javax.xml.ws.Service;
import javax.xml.ws.ServiceMode;
import javax.xml.ws.WebServiceContext;
import javax.xml.ws.WebServiceProvider;
import javax.xml.ws.handler.MessageContext;

/** Where a client's answers and faults come in. */
@WebServiceProvider
@ServiceMode(Service.Mode.MESSAGE)
public class Listener implements Provider<SOAPMessage> {
    @Resource private WebServiceContext context;

    /** Nothing to answer: 202. */
    @Override
    public SOAPMessage invoke(SOAPMessage message) {
        try {
            boolean member = text(message, AddressingVersion.W3C.actionTag) == null;
            AddressingVersion addressing = member ? AddressingVersion.MEMBER : AddressingVersion.W3C;
            boolean fault = message.getSOAPBody().hasFault();
            String said = fault ? message.getSOAPBody().getFault().getFaultString() : message.getSOAPBody().getTextContent().trim();
            MessageContext http = context.getMessageContext();
            Say.that(fault ? "fault" : "answer", "relates_to", text(message, addressing.relatesToTag),
                    "action", text(message, addressing.actionTag), "to", text(message, addressing.toTag),
                    "host", Say.header(http, "Host"), "target",
                    ((HttpExchange) http.get(JAXWSProperties.HTTP_EXCHANGE)).getRequestURI(), "said", said);
            return null;
        } catch (SOAPException e) {
            throw new IllegalStateException(e);
        }
    }

    private static String text(SOAPMessage message, QName name) throws SOAPException {
        Iterator<?> found = message.getSOAPHeader().getChildElements(name);
        return found.hasNext() ? ((Node) found.next()).getTextContent() : null;
    }
}
