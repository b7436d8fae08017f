"""Follows parcels with a client that openapi-generator-cli generated: parcel_client.py GENERATED IP PORT [PROXY]

Where the service is, the generated code knows from its description. Lines on standard input: "subscribe PARCEL", "unsubscribe ID".
Moves are called back to a listener at IP and PORT.
"""

import sys

from say import listen, orders, say

generated, ip, port, *proxy = sys.argv[1:]
sys.path.insert(0, generated)
import parcels  # noqa: E402

configuration = parcels.Configuration()
if proxy:
    configuration.proxy = f"http://{proxy[0]}"
api = parcels.DefaultApi(parcels.ApiClient(configuration))


def carry_out(kind, what):
    if kind == "subscribe":
        asked = parcels.Subscription(parcel=what, callback_url=f"http://{ip}:{port}/moves?client=7")
        say("subscribed", id=api.subscribe(asked).id, parcel=what, host=configuration.host)
    else:
        api.unsubscribe(what)
        say("unsubscribed", id=what)


def moved(handler, body):
    move = parcels.Move.from_json(body)
    say("moved", parcel=move.parcel, place=move.place, target=handler.path, host=handler.headers["Host"])
    handler.answer(204)


listen(ip, port, moved)
orders(carry_out)
