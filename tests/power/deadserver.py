"""The worst server: a session that is dead and does not show it (PROTOCOL.md, trap 3).

The first socket is reset after a second; to all later ones it says hello, answers every barrier, and keeps nothing. No
`t` ping ever says that it is recording.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import WSMsgType, web

FIRST_SOCKET_S = 1.0
SOCKETS, OPEN = web.AppKey("sockets", list[float]), web.AppKey("open", set[int])


async def _start(request: web.Request) -> web.Response:
    return web.json_response({"status": "success", "session_id": "dead", "recording_status": "started"})


async def _status(request: web.Request) -> web.Response:
    backlog = {"pending_segments": 0, "max_pending": 20}
    return web.json_response({"exists": True, "connected": bool(request.app[OPEN]), "backlog": backlog})


async def _socket(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    request.app[SOCKETS].append(time.monotonic())
    is_first = len(request.app[SOCKETS]) == 1
    request.app[OPEN].add(id(socket))
    try:
        await socket.send_json({"type": "hello", "session_id": "dead"})
        async for message in socket:
            if is_first and time.monotonic() - request.app[SOCKETS][0] > FIRST_SOCKET_S and request.transport:
                request.transport.abort()
                break
            if message.type is WSMsgType.TEXT and json.loads(message.data).get("type") == "ping":
                await socket.send_json({"type": "pong"})
    finally:
        request.app[OPEN].discard(id(socket))
    return socket


@contextmanager
def dead_server() -> Iterator[str]:
    """Its address, while it runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    address: list[str] = []
    is_up = threading.Event()

    async def serve() -> None:
        app = web.Application()
        app[SOCKETS], app[OPEN] = [], set()
        app.router.add_post("/api/recording/start", _start)
        app.router.add_post("/api/recording/stop", _start)
        app.router.add_get("/session/{id}/status", _status)
        app.router.add_get("/ws/audio_stream/{id}", _socket)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address.append(runner.addresses[0][1])
        is_up.set()

    def run() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    is_up.wait(10)
    try:
        yield f"http://127.0.0.1:{address[0]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
