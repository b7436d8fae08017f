/* What client and server share: a context with the WS-Addressing plugin, and the Host of the request that is served. */
#ifndef COMMON_H
#define COMMON_H

#include <stdlib.h>
#include <string.h>

#include "OrdersBinding.nsmap"
#include "soapH.h"
#include "wsaapi.h"

#include "say.h"

static __thread char http_host[256];
static int (*parse_header)(struct soap *, const char *, const char *);

static int note_header(struct soap *soap, const char *name, const char *value) {
    if (!soap_tag_cmp(name, "Host")) snprintf(http_host, sizeof http_host, "%s", value);
    return parse_header(soap, name, value);
}

/* PROXY is "HOST:PORT", or NULL. */
static struct soap *new_context(const char *proxy) {
    struct soap *soap = soap_new1(SOAP_C_UTFSTRING);
    soap_register_plugin(soap, soap_wsa);
    parse_header = soap->fparsehdr;
    soap->fparsehdr = note_header;
    soap->bind_flags = SO_REUSEADDR;
    soap->connect_timeout = soap->send_timeout = soap->recv_timeout = 30;
    if (proxy) {
        char *host = strdup(proxy), *colon = strrchr(host, ':');
        *colon = 0;
        soap->proxy_host = host;
        soap->proxy_port = atoi(colon + 1);
    }
    return soap;
}

/* Serves one connection after the other, for ever. */
static void serve(struct soap *soap, const char *ip, int port, int tell) {
    if (!soap_valid_socket(soap_bind(soap, ip, port, 100))) {
        soap_print_fault(soap, stderr);
        exit(1);
    }
    if (tell) say("ready", NULL);
    for (;;) {
        if (!soap_valid_socket(soap_accept(soap))) continue;
        if (soap_serve(soap) && soap->error != SOAP_EOF && soap->error != SOAP_STOP) soap_print_fault(soap, stderr);
        soap_destroy(soap);
        soap_end(soap);
    }
}

#endif
