"""Calls the service of soap_server.py by zeep: soap_client.py WSDL-URL [PROXY-URL]

The WSDL is fetched the same way. Its address is the one that the client used; an address inside it that the client cannot
reach is replaced, since rewriting served WSDL is the gateway's task only where it is asked for.
"""

import sys

import requests
import zeep

wsdl, proxy = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
session = requests.Session()
session.trust_env = False
if proxy:
    session.proxies = {"http": proxy, "https": proxy}
client = zeep.Client(wsdl, transport=zeep.transports.Transport(session=session, timeout=30, operation_timeout=30))
binding = next(iter(client.wsdl.bindings))
service = client.create_service(binding, wsdl.split("?")[0])
line = client.get_type("{urn:example:orders}Line")
lines = [line(item="bolt <&> é", count=40), line(item="nut", count=2)]
answer = service.place("Müller & Söhne", {"Line": lines})
assert answer == "Müller & Söhne: 42 of bolt <&> é, nut", answer
try:
    service.place("nobody", {"Line": []})
    raise SystemExit("an empty order was taken")
except zeep.exceptions.Fault as fault:
    assert "at least one line" in fault.message, fault.message
print("ok", answer)
