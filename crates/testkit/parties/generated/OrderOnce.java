import orders.OrdersService;

/** Places one order with what wsimport generated from a service's own WSDL, which alone says where the service is. */
public final class OrderOnce {
    private OrderOnce() {}

    public static void main(String[] args) {
        String answer = new OrdersService().getOrdersPort().place("M\u00fcller & S\u00f6hne", "rivet", 5);
        Say.that("called", "order", answer);
    }
}
