"""Takes orders by spyne: orders_server.py IP PORT [PROXY]

spyne knows nothing of WS-Addressing. What stands around it here is what its users write: a request that asks for its answer
elsewhere is answered with 202, and spyne's answer is posted to ReplyTo, or to FaultTo.
"""

import io
import sys
import threading
import uuid
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from lxml import etree
from say import orders, say, session
from spyne import Application, Fault, Integer, ServiceBase, Unicode, rpc
from spyne.protocol.soap import Soap11
from spyne.server.wsgi import WsgiApplication

WSA = "{http://www.w3.org/2005/08/addressing}"
SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
ANONYMOUS = "http://www.w3.org/2005/08/addressing/anonymous"
TYPE = "text/xml; charset=utf-8"


class Orders(ServiceBase):
    @rpc(Unicode, Unicode, Integer, _returns=Unicode, _out_variable_name="order")
    def place(ctx, customer, item, count):
        if count == 0:
            raise Fault("Client.Empty", "an order has at least one piece")
        return f"{customer}: {count} of {item}"


spyne = WsgiApplication(
    Application([Orders], "urn:example:orders", in_protocol=Soap11(validator="lxml"), out_protocol=Soap11())
)


def application(environ, start_response):
    if environ["REQUEST_METHOD"] != "POST":
        return spyne(environ, start_response)
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    environ["wsgi.input"] = io.BytesIO(body)
    header = etree.fromstring(body).find(f"{SOAP}Header")
    said = {name: text(header, path) for name, path in FIELDS.items()}
    say("request", host=environ["HTTP_HOST"], **said)
    if said["reply_to"] in (None, ANONYMOUS):
        return spyne(environ, start_response)
    threading.Thread(target=answer, args=(environ, said), daemon=True).start()
    start_response("202 Accepted", [("Content-Length", "0")])
    return [b""]


FIELDS = {
    "message_id": f"{WSA}MessageID",
    "to": f"{WSA}To",
    "reply_to": f"{WSA}ReplyTo/{WSA}Address",
    "fault_to": f"{WSA}FaultTo/{WSA}Address",
}


def text(header, path):
    return None if header is None else header.findtext(path)


def answer(environ, request):
    """Has spyne work, and posts what it says."""
    envelope = etree.fromstring(b"".join(spyne(environ, lambda status, headers: None)))
    fault = envelope.find(f"{SOAP}Body/{SOAP}Fault") is not None
    to = request["fault_to"] or request["reply_to"] if fault else request["reply_to"]
    action = "http://www.w3.org/2005/08/addressing/fault" if fault else "urn:example:orders/placeResponse"
    header = etree.Element(f"{SOAP}Header")
    for name, value in {
        "To": to,
        "Action": action,
        "MessageID": f"urn:uuid:{uuid.uuid4()}",
        "RelatesTo": request["message_id"],
    }.items():
        etree.SubElement(header, WSA + name).text = value
    envelope.insert(0, header)
    headers = {"Content-Type": TYPE, "SOAPAction": f'"{action}"'}
    try:
        response = posts.post(to, etree.tostring(envelope), headers=headers, timeout=30)
        say("answered", status=response.status_code, to=to)
    except OSError as e:
        say("failed", why=repr(e), to=to)


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


posts = session(sys.argv[3] if len(sys.argv) > 3 else None)
server = make_server(sys.argv[1], int(sys.argv[2]), application, Server, Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
orders(lambda *_: None)
