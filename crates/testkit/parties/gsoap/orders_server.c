/* Takes orders by gSOAP: orders_server IP PORT [PROXY]. That answers go to ReplyTo is the work of the plugin wsaapi. */
#include "common.h"

int __ns1__place(struct soap *soap, struct _ns1__place *order, struct _ns1__placeResponse *response) {
    struct SOAP_ENV__Header *h = soap->header;
    char count[16], *text;
    size_t size;
    if (soap_wsa_check(soap)) return soap->error;
    snprintf(count, sizeof count, "%d", order->count);
    say("request", "message_id", h->wsa5__MessageID, "to", h->wsa5__To,
        "reply_to", h->wsa5__ReplyTo ? h->wsa5__ReplyTo->Address : NULL,
        "fault_to", h->wsa5__FaultTo ? h->wsa5__FaultTo->Address : NULL,
        "host", http_host, "item", order->item, "count", count, NULL);
    if (order->count == 0) return soap_wsa_sender_fault(soap, "an order has at least one piece", NULL);
    size = strlen(order->customer) + strlen(order->item) + sizeof count + 8;
    text = soap_malloc(soap, size);
    snprintf(text, size, "%s: %d of %s", order->customer, order->count, order->item);
    response->order = text;
    return soap_wsa_reply(soap, NULL, "urn:example:orders/placeResponse");
}

int __ns1__placeResponse(struct soap *soap, struct _ns1__placeResponse *response) {
    (void)response;
    return soap_send_empty_response(soap, 404);
}

int SOAP_ENV__Fault(struct soap *soap, char *code, char *string, char *actor, struct SOAP_ENV__Detail *detail,
                    struct SOAP_ENV__Code *code12, struct SOAP_ENV__Reason *reason12, char *node, char *role,
                    struct SOAP_ENV__Detail *detail12) {
    (void)code, (void)string, (void)actor, (void)detail, (void)code12, (void)reason12, (void)node, (void)role, (void)detail12;
    return soap_send_empty_response(soap, 404);
}

int main(int argc, char **argv) {
    struct soap *soap = new_context(argc > 3 ? argv[3] : NULL);
    stop_on_signal();
    serve(soap, argv[1], atoi(argv[2]), 1);
    return 0;
}
