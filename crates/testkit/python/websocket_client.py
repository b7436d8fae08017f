"""Talks to websocket_server.py: websocket_client.py URL [PROXY-URL|- [AUTHORITY]]

AUTHORITY is a PEM file with whom it trusts (wss).
"""

import asyncio
import os
import ssl
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError


async def main():
    url, proxy, authority, *_ = [*sys.argv[1:], None, None]
    proxy = None if proxy == "-" else proxy
    tls = ssl.create_default_context(cafile=authority) if authority else None
    async with connect(url, proxy=proxy, ssl=tls, max_size=None, subprotocols=["echo"]) as socket:
        assert socket.subprotocol == "echo", socket.subprotocol
        for i in range(50):
            await socket.send(f"message {i}")
            assert await asyncio.wait_for(socket.recv(), 30) == f"message {i}"
        big = os.urandom(3_000_000)
        await socket.send(big)
        assert await asyncio.wait_for(socket.recv(), 60) == big
        await asyncio.wait_for(await socket.ping(), 30)
        await socket.send("close")
        try:
            await asyncio.wait_for(socket.recv(), 30)
            raise SystemExit("no close")
        except ConnectionClosedError as closed:
            assert closed.rcvd.code == 4001 and closed.rcvd.reason == "as asked", closed
    print("ok")


asyncio.run(main())
