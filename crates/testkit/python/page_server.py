"""Serves a directory over TLS, and nothing else: ADDRESS PORT DIRECTORY CERTIFICATE KEY."""

import http.server
import functools
import ssl
import sys

address, port, directory, certificate, key = sys.argv[1:]


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".webmanifest": "application/manifest+json",
    }

    def do_GET(self):
        if self.path == "/enrol":
            self.path = "/"
        super().do_GET()


server = http.server.ThreadingHTTPServer((address, int(port)), functools.partial(Handler, directory=directory))
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
