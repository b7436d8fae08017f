import java.util.List;
import java.util.Map;
import javax.xml.ws.handler.MessageContext;

/** One JSON object a line on standard output for each thing that happens. */
final class Say {
    private Say() {}

    /** What happened, then names and values in turn; what is null is left out. */
    static void that(String event, Object... rest) {
        StringBuilder line = new StringBuilder("{\"event\":").append(quoted(event));
        for (int i = 0; i + 1 < rest.length; i += 2) {
            if (rest[i + 1] == null) {
                continue;
            }
            line.append(',').append(quoted(rest[i].toString())).append(':');
            line.append(quoted(rest[i + 1].toString()));
        }
        synchronized (System.out) {
            System.out.println(line.append('}'));
            System.out.flush();
        }
    }

    /** Ends by SIGTERM with status 0, and says so. */
    static void stopOnSignal() {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            that("stopped");
            Runtime.getRuntime().halt(0);
        }));
    }

    /** A header of the HTTP request that is being answered. */
    @SuppressWarnings("unchecked")
    static String header(MessageContext context, String name) {
        Map<String, List<String>> headers = (Map<String, List<String>>) context.get(MessageContext.HTTP_REQUEST_HEADERS);
        for (Map.Entry<String, List<String>> each : headers.entrySet()) {
            if (name.equalsIgnoreCase(each.getKey())) {
                return String.join(", ", each.getValue());
            }
        }
        return null;
    }

    private static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ' || c > '~') {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }
}
