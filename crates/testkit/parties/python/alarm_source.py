"""A source of alarms by WS-Eventing 2004/08 (alarms.wsdl): alarm_source.py IP PORT [PROXY]

The source is at /source, its subscription manager at /manager, the WSDL at /source?wsdl. Lines on standard input: "fire TEXT"
notifies every subscriber, "cancel" ends every subscription with a SubscriptionEnd. One that expires ends without.
"""

import re
import sys
import threading
import time
import uuid
from pathlib import Path

from lxml import etree
from lxml.builder import ElementMaker
from say import listen, orders, say, session

SOAP_NS = "http://schemas.xmlsoap.org/soap/envelope/"
WSA_NS = "http://schemas.xmlsoap.org/ws/2004/08/addressing"
WSE_NS = "http://schemas.xmlsoap.org/ws/2004/08/eventing"
ANONYMOUS = f"{WSA_NS}/role/anonymous"
OWN_NS = "urn:example:alarms"
SOAP, WSA, WSE = ("{%s}" % ns for ns in (SOAP_NS, WSA_NS, WSE_NS))
maps = {"soap": SOAP_NS, "wsa": WSA_NS, "wse": WSE_NS}
soap, wsa, wse = (ElementMaker(namespace=ns, nsmap=maps) for ns in (SOAP_NS, WSA_NS, WSE_NS))
own = ElementMaker(namespace=OWN_NS, nsmap={"a": OWN_NS})

ip, port, *proxy = sys.argv[1:]
base = f"http://{ip}:{port}"
posts = session(*proxy or [None])
subscriptions = {}
lock = threading.Lock()


class Reference:
    """Where to send to, and what to send along as headers."""

    def __init__(self, element):
        self.address = element.findtext(f"{WSA}Address")
        parameters = element.find(f"{WSA}ReferenceParameters")
        self.headers = [] if parameters is None else list(parameters)

    def post(self, action, body, **about):
        header = soap.Header(wsa.To(self.address), wsa.Action(action), wsa.MessageID(new_id()))
        header.extend(etree.fromstring(etree.tostring(h)) for h in self.headers)
        envelope = etree.tostring(soap.Envelope(header, soap.Body(body)), xml_declaration=True, encoding="utf-8")
        headers = {"Content-Type": "text/xml; charset=utf-8", "SOAPAction": f'"{action}"'}
        try:
            status = posts.post(self.address, envelope, headers=headers, timeout=30).status_code
            say("posted", to=self.address, status=status, **about)
        except OSError as e:
            say("failed", to=self.address, why=repr(e), **about)


class Subscription:
    def __init__(self, body):
        self.id = new_id()
        self.notify_to = Reference(body.find(f"{WSE}Delivery/{WSE}NotifyTo"))
        self.end_to = Reference(body.find(f"{WSE}EndTo"))
        self.renew(body)

    def renew(self, body):
        self.expires = body.findtext(f"{WSE}Expires")
        self.until = time.monotonic() + seconds(self.expires)

    def manager(self):
        return wse.SubscriptionManager(wsa.Address(base + "/manager"), wsa.ReferenceParameters(wse.Identifier(self.id)))


def new_id():
    return f"urn:uuid:{uuid.uuid4()}"


def seconds(duration):
    hours, minutes, rest = re.fullmatch(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?", duration).groups("0")
    return int(hours) * 3600 + int(minutes) * 60 + int(rest)


def act(kind, header, body):
    """The body of the answer; KeyError if there is no such subscription."""
    if kind == "Subscribe":
        made = Subscription(body)
        subscriptions[made.id] = made
        say("subscribe", notify_to=made.notify_to.address, end_to=made.end_to.address)
        return wse.SubscribeResponse(made.manager(), wse.Expires(made.expires))
    identifier = header.findtext(f"{WSE}Identifier")
    subscription = subscriptions[identifier]
    say(kind.lower(), to=header.findtext(f"{WSA}To"))
    if kind == "Renew":
        subscription.renew(body)
        return wse.RenewResponse(wse.Expires(subscription.expires))
    del subscriptions[identifier]
    return None


def on_post(handler, sent):
    envelope = etree.fromstring(sent)
    header, body = envelope.find(f"{SOAP}Header"), envelope.find(f"{SOAP}Body")[0]
    kind = etree.QName(body).localname
    answer, status = soap.Body(), 200
    action = f"{WSE_NS}/{kind}Response"
    try:
        with lock:
            result = act(kind, header, body)
        if result is not None:
            answer.append(result)
    except KeyError:
        status, action = 500, f"{WSA_NS}/fault"
        fault = soap.Fault()
        etree.SubElement(fault, "faultcode").text = "soap:Client"
        etree.SubElement(fault, "faultstring").text = "there is no such subscription"
        answer.append(fault)
    relates_to = header.findtext(f"{WSA}MessageID")
    headers = soap.Header(wsa.To(ANONYMOUS), wsa.Action(action), wsa.RelatesTo(relates_to))
    handler.answer(status, etree.tostring(soap.Envelope(headers, answer)), "text/xml; charset=utf-8")


def on_get(handler):
    wsdl = (Path(__file__).parents[1] / "alarms.wsdl").read_text()
    for path in ("source", "manager"):
        wsdl = wsdl.replace(f"http://localhost/{path}", f"{base}/{path}")
    handler.answer(200, wsdl.encode(), "text/xml; charset=utf-8")


def expire():
    while True:
        time.sleep(0.1)
        with lock:
            over = [s for s in subscriptions.values() if s.until < time.monotonic()]
            for s in over:
                del subscriptions[s.id]
                say("expired", notify_to=s.notify_to.address)


def carry_out(kind, *words):
    text = " ".join(words)
    with lock:
        all_of_them = list(subscriptions.values())
        if kind == "cancel":
            subscriptions.clear()
    if kind == "fire":
        for s in all_of_them:
            s.notify_to.post(f"{OWN_NS}/Alarm", own.Alarm(own.text(text)), alarm=text)
    else:
        for s in all_of_them:
            end = wse.SubscriptionEnd(s.manager(), wse.Status(f"{WSE_NS}/SourceCanceling"), wse.Reason("no more alarms"))
            s.end_to.post(f"{WSE_NS}/SubscriptionEnd", end)
    say("done", order=f"{kind} {text}".strip(), subscriptions=len(all_of_them))


listen(ip, port, on_post, on_get)
threading.Thread(target=expire, daemon=True).start()
orders(carry_out)
