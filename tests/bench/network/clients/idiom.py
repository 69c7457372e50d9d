"""python-websockets as its documentation shows it: `async for socket in connect(...)`, with a queue before it.

python idiom.py URL
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.bench.network.clients.audio import INIT, PACKET_S, packet


async def capture(queue: asyncio.Queue[bytes]) -> None:
    """The microphone."""
    begun_at, seq = time.monotonic(), 0
    while True:
        seq += 1
        await asyncio.sleep(begun_at + seq * PACKET_S - time.monotonic())
        queue.put_nowait(packet(seq))


async def listen(socket: ClientConnection) -> None:
    """Answer the server's pings."""
    async for message in socket:
        if json.loads(message).get("type") == "ping":
            await socket.send('{"type":"pong"}')


async def main(url: str) -> None:
    """For ever."""
    queue: asyncio.Queue[bytes] = asyncio.Queue()
    capturing = asyncio.create_task(capture(queue))
    print("started", flush=True)
    async for socket in connect(url, proxy=None, compression=None):
        listening = asyncio.create_task(listen(socket))
        try:
            await socket.send(INIT)
            while True:
                await socket.send(await queue.get())
        except ConnectionClosed:
            continue
        finally:
            listening.cancel()
            await asyncio.wait([listening])
    await capturing


asyncio.run(main(sys.argv[1]))
