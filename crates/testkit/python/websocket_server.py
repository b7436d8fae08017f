"""A WebSocket server that sends back what comes: websocket_server.py IP PORT"""

import asyncio
import sys

from websockets.asyncio.server import serve


async def echo(socket):
    async for message in socket:
        if message == "close":
            await socket.close(4001, "as asked")
            return
        await socket.send(message)


async def main():
    async with serve(echo, sys.argv[1], int(sys.argv[2]), max_size=None, subprotocols=["echo"]) as server:
        print("ready", flush=True)
        await server.serve_forever()


asyncio.run(main())
