"""Places orders by zeep: orders_client.py SERVICE IP PORT [PROXY]

Each line on standard input is an order: "place VARIANT ITEM COUNT" has the answer sent to the listener at IP and PORT,
"call ..." waits for it. Where the service is, it reads from the WSDL at SERVICE/VARIANT?wsdl.
"""

import sys

import zeep
from lxml import etree
from lxml.builder import ElementMaker
from say import listen, orders, say, session
from zeep.plugins import HistoryPlugin
from zeep.wsa import WsAddressingPlugin

ADDRESSING = "http://www.w3.org/2005/08/addressing"
WSA = "{%s}" % ADDRESSING
SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
element = ElementMaker(namespace=ADDRESSING, nsmap={"wsa": ADDRESSING})

service, ip, port, *proxy = sys.argv[1:]
clients = {}


def client(variant):
    if variant not in clients:
        transport = zeep.Transport(session=session(*proxy or [None]), timeout=30, operation_timeout=30)
        history = HistoryPlugin()
        plugins = [WsAddressingPlugin(), history]
        made = zeep.Client(f"{service}/{variant}?wsdl", transport=transport, plugins=plugins)
        clients[variant] = made, history
    return clients[variant]


def reference(name, of, variant, item):
    to = f"http://{ip}:{port}/{of}/{variant}?client=7&for={item}"
    return element(name, element("Address", to))


def carry_out(kind, variant, item, count):
    made, history = client(variant)
    headers = []
    if kind == "place":
        headers = [reference("ReplyTo", "answers", variant, item), reference("FaultTo", "faults", variant, item)]
    answer = made.service.place("Müller & Söhne", item, int(count), _soapheaders=headers)
    sent = history.last_sent["envelope"].find(f"{SOAP}Header")
    if answer is None:
        say("sent", message_id=sent.findtext(f"{WSA}MessageID"), status=202, to=sent.findtext(f"{WSA}To"))
    else:
        say("called", order=answer)


def arrived(handler, body):
    envelope = etree.fromstring(body)
    header = envelope.find(f"{SOAP}Header")
    fault = envelope.findtext(f"{SOAP}Body/{SOAP}Fault/faultstring")
    said = fault or "".join(envelope.find(f"{SOAP}Body").itertext())
    say(
        "fault" if fault else "answer",
        relates_to=header.findtext(f"{WSA}RelatesTo"),
        action=header.findtext(f"{WSA}Action"),
        to=header.findtext(f"{WSA}To"),
        host=handler.headers["Host"],
        target=handler.path,
        said=said.strip(),
    )
    handler.answer(202)


listen(ip, port, arrived)
orders(carry_out)
