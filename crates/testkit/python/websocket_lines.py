"""Sends each line of its input over one WebSocket, and prints what comes back: websocket_lines.py URL"""

import asyncio
import sys

from websockets.asyncio.client import connect


async def main():
    async with connect(sys.argv[1], proxy=None, subprotocols=["echo"]) as socket:
        while line := await asyncio.to_thread(sys.stdin.readline):
            await socket.send(line.strip())
            print(await asyncio.wait_for(socket.recv(), 30), flush=True)


asyncio.run(main())
