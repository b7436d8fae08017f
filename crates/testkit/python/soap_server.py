"""A SOAP 1.1 service by spyne, on the standard library's own web server: soap_server.py IP PORT"""

import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from spyne import Application, ServiceBase, Array, ComplexModel, Fault, Integer, Unicode, rpc
from spyne.protocol.soap import Soap11
from spyne.server.wsgi import WsgiApplication


class Line(ComplexModel):
    __namespace__ = "urn:example:orders"
    item = Unicode
    count = Integer


class Orders(ServiceBase):
    @rpc(Unicode, Array(Line), _returns=Unicode)
    def place(ctx, customer, lines):
        if not lines:
            raise Fault("Client.Empty", "an order has at least one line")
        total = sum(line.count for line in lines)
        return f"{customer}: {total} of {', '.join(line.item for line in lines)}"


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


application = Application(
    [Orders], "urn:example:orders", in_protocol=Soap11(validator="lxml"), out_protocol=Soap11()
)
with make_server(sys.argv[1], int(sys.argv[2]), WsgiApplication(application), Server, Quiet) as server:
    print("ready", flush=True)
    server.serve_forever()
