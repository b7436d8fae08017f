"""Tells where parcels are (parcels.json): parcel_service.py IP PORT [PROXY]

The description is at /openapi.json. The line "move PARCEL PLACE" on standard input is told to those who subscribed to it.
"""

import itertools
import json
import sys
from pathlib import Path

from say import listen, orders, say, session

ip, port, *proxy = sys.argv[1:]
posts = session(*proxy or [None])
subscriptions = {}
ids = itertools.count(1)


def on_post(handler, body):
    match handler.command, handler.path.split("/")[1:]:
        case "POST", ["v1", "subscriptions"]:
            made, asked = f"s{next(ids)}", json.loads(body)
            subscriptions[made] = asked
            say("subscribe", id=made, callback_url=asked["callbackUrl"], parcel=asked["parcel"])
            handler.answer(201, json.dumps({"id": made}).encode())
        case "DELETE", ["v1", "subscriptions", gone] if subscriptions.pop(gone, None):
            handler.answer(204)
        case _:
            handler.answer(404)


def on_get(handler):
    text = (Path(__file__).parents[1] / "parcels.json").read_text()
    handler.answer(200, text.replace("http://localhost", f"http://{ip}:{port}").encode())


def move(_, parcel, place):
    to = [s["callbackUrl"] for s in list(subscriptions.values()) if s["parcel"] == parcel]
    for url in to:
        status = posts.post(url, json={"parcel": parcel, "place": place}, timeout=30).status_code
        say("posted", to=url, status=status, place=place)
    say("done", place=place, subscriptions=len(to))


listen(ip, port, on_post, on_get)
orders(move)
