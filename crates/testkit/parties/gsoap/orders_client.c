/* Places orders by gSOAP, with code that wsdl2h and soapcpp2 generated: orders_client SERVICE IP PORT [PROXY]

   Each line on standard input is an order: "place VARIANT ITEM COUNT" has the answer sent to the listener at IP and PORT,
   "call ..." waits for it. VARIANT is what the service's path ends with. */
#include <pthread.h>

#include "common.h"

static const char *ip, *port, *proxy;

static void arrived(struct soap *soap, const char *event, const char *said) {
    struct SOAP_ENV__Header *h = soap->header;
    say(event, "relates_to", h->wsa5__RelatesTo ? h->wsa5__RelatesTo->__item : NULL, "action", h->wsa5__Action,
        "to", h->wsa5__To, "host", http_host, "target", soap->path, "said", said, NULL);
}

int __ns1__placeResponse(struct soap *soap, struct _ns1__placeResponse *response) {
    if (soap_wsa_check(soap)) return soap_send_empty_response(soap, 500);
    arrived(soap, "answer", response->order);
    return soap_send_empty_response(soap, SOAP_OK);
}

int SOAP_ENV__Fault(struct soap *soap, char *code, char *string, char *actor, struct SOAP_ENV__Detail *detail,
                    struct SOAP_ENV__Code *code12, struct SOAP_ENV__Reason *reason12, char *node, char *role,
                    struct SOAP_ENV__Detail *detail12) {
    (void)code, (void)actor, (void)detail, (void)code12, (void)reason12, (void)node, (void)role, (void)detail12;
    if (soap_wsa_check(soap)) return soap_send_empty_response(soap, 500);
    arrived(soap, "fault", string);
    return soap_send_empty_response(soap, SOAP_OK);
}

int __ns1__place(struct soap *soap, struct _ns1__place *order, struct _ns1__placeResponse *response) {
    (void)order, (void)response;
    return soap_send_empty_response(soap, 404);
}

static void *listen_on(void *ready) {
    struct soap *soap = new_context(NULL);
    (void)ready;
    serve(soap, ip, atoi(port), 1);
    return NULL;
}

static void order(struct soap *soap, const char *service, int decoupled, const char *variant, char *item, int count) {
    char url[2048], reply_to[2048], fault_to[2048], status[16];
    struct _ns1__place place = {"Müller & Söhne", item, count};
    struct _ns1__placeResponse response;
    const char *id = soap_wsa_rand_uuid(soap);
    snprintf(url, sizeof url, "%s/%s", service, variant);
    snprintf(reply_to, sizeof reply_to, "http://%s:%s/answers/%s?client=7&for=%s", ip, port, variant, item);
    snprintf(fault_to, sizeof fault_to, "http://%s:%s/faults/%s?client=7&for=%s", ip, port, variant, item);
    soap_wsa_request(soap, id, url, "urn:example:orders/place");
    if (decoupled) {
        soap_wsa_add_ReplyTo(soap, reply_to);
        soap_wsa_add_FaultTo(soap, fault_to);
    }
    if (soap_call___ns1__place(soap, url, NULL, &place, &response) == SOAP_OK) {
        say("called", "order", response.order, NULL);
    } else if (soap->error == 200 || soap->error == 202) {
        snprintf(status, sizeof status, "%d", soap->error);
        say("sent", "message_id", id, "status", status, "to", url, NULL);
    } else {
        char why[512];
        soap_sprint_fault(soap, why, sizeof why);
        say("failed", "why", why, NULL);
    }
    soap_destroy(soap);
    soap_end(soap);
}

int main(int argc, char **argv) {
    pthread_t listener;
    char line[1024], kind[16], variant[64], item[512];
    int count;
    struct soap *soap;
    ip = argv[2], port = argv[3], proxy = argc > 4 ? argv[4] : NULL;
    soap = new_context(proxy);
    stop_on_signal();
    pthread_create(&listener, NULL, listen_on, NULL);
    while (fgets(line, sizeof line, stdin))
        if (sscanf(line, "%15s %63s %511s %d", kind, variant, item, &count) == 4)
            order(soap, argv[1], !strcmp(kind, "place"), variant, item, count);
    pthread_join(listener, NULL);
    return 0;
}
