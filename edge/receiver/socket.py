"""One WebSocket of a client: bounded answers, the pings that every socket gets, and how it ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import WSMsgType, web

from edge.receiver.config import Limits, Timing

INBOX_MESSAGES = 256
INBOX_BYTES = 1 << 18
FINALIZE = "Session stopped by server (finalize)"
Message = dict[str, Any]


class Ended:
    """The socket has ended: `in_order` after a close frame, otherwise the connection was lost."""

    def __init__(self, *, in_order: bool) -> None:
        self.in_order = in_order


class Socket:
    """Sending never waits: answers queue up, and a client that reads none of them loses its connection.

    Whoever accepts a socket reads it by `receive` until `Ended`, and then calls `finish`. Reading runs a bounded
    stretch ahead of whoever handles, so that RFC 6455 pings are answered by themselves, and that `close` can wait for
    the peer. `news` is set whenever something comes into `inbox`, or the end.
    """

    def __init__(self, limits: Limits, timing: Timing) -> None:
        self._timing = timing
        self._limit = limits.outbox_messages
        self._ws = web.WebSocketResponse(
            timeout=timing.close, autoping=True, compress=False, max_msg_size=limits.message_bytes
        )
        self._transport: asyncio.Transport | None = None
        self._queue: deque[str] = deque()
        self._ack: int | None = None
        self._acked = 0
        self._closing: tuple[int, str] | None = None
        self._wake = asyncio.Event()
        self.inbox: deque[str | bytes] = deque()
        self.ended: Ended | None = None
        self.news = asyncio.Event()
        self._inbox_bytes = 0
        self._room = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.opened_at = self.heard_at = time.monotonic()
        self.gone = asyncio.Event()
        self.closed = asyncio.Event()

    @property
    def response(self) -> web.WebSocketResponse:
        """What the HTTP handler has to return."""
        return self._ws

    async def open(self, request: web.Request) -> None:
        """Complete the handshake."""
        self._transport = request.transport
        await self._ws.prepare(request)
        self._start(self._write(), "outbox")
        self._start(self._read(), "inbox")

    def begin_pings(self, *, is_idle_at: Callable[[], float]) -> None:
        """Send the pings that every socket gets; close without a reason once `is_idle_at()` has passed."""
        self._start(self._ping(is_idle_at), "pings")

    @property
    def is_full(self) -> bool:
        """True while so much waits in `inbox` that nothing more is read."""
        return len(self.inbox) >= INBOX_MESSAGES or self._inbox_bytes >= INBOX_BYTES

    async def receive(self) -> str | bytes | Ended:
        """The next message, or how the socket ended. After our own close nothing that comes is told any more."""
        while True:
            if self._closing is not None:
                return Ended(in_order=True)
            if self.inbox:
                return self.take()
            if self.ended is not None:
                return self.ended
            self.news.clear()
            await self.news.wait()

    def take(self) -> str | bytes:
        """The oldest message in `inbox`."""
        message = self.inbox.popleft()
        self._inbox_bytes -= len(message)
        if not self.is_full:
            self._room.set()
        return message

    def send(self, message: Message) -> None:
        """Queue one JSON message."""
        if self._closing is not None:
            return
        if len(self._queue) >= self._limit:
            self.abort()
            return
        self._queue.append(json.dumps(message, separators=(",", ":")))
        self._wake.set()

    def ack(self, seq: int) -> None:
        """Acknowledge everything up to `seq`; of several that wait only the last is sent."""
        if self._closing is None and seq > self._acked:
            self._ack = self._acked = seq
            self._wake.set()

    def close(self, code: int, reason: str = "") -> None:
        """Close once all that is queued has been sent. Later messages are dropped."""
        if self._closing is None:
            self._closing = (code, reason)
            self._wake.set()
            self.news.set()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._closing = self._closing or (1006, "")
        self.gone.set()
        self._wake.set()
        self.news.set()
        if self._transport is not None:
            self._transport.abort()

    async def finish(self) -> None:
        """Wait until the last answers and the close frame are out; ends everything that belongs to the socket."""
        if self._closing is None:
            self._closing = (1000, "")
        self._wake.set()
        for task in self._tasks[1:]:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=self._timing.send + 2 * self._timing.close)
            self._tasks[0].cancel()
        self.gone.set()
        self.closed.set()

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(coroutine, name=f"socket {name}"))

    async def _read(self) -> None:
        while True:
            message = await self._ws.receive()
            match message.type:
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    self.inbox.append(message.data)
                    self._inbox_bytes += len(message.data)
                    self.news.set()
                    if self.is_full:
                        self._room.clear()
                        await self._room.wait()
                case WSMsgType.CLOSE | WSMsgType.CLOSING:
                    self._end(in_order=True)
                    return
                case WSMsgType.CLOSED | WSMsgType.ERROR:
                    # After our own close frame it is no loss.
                    self._end(in_order=self._closing is not None)
                    return

    def _end(self, *, in_order: bool) -> None:
        self.ended = Ended(in_order=in_order)
        self.news.set()

    async def _write(self) -> None:
        try:
            while not self.gone.is_set():
                await self._wake.wait()
                self._wake.clear()
                if not await self._send_queued():
                    return
                if self._closing is not None:
                    await self._close(*self._closing)
                    return
        except (OSError, RuntimeError):
            pass  # the connection is gone: `receive` tells
        except TimeoutError:
            self.abort()
        finally:
            self.gone.set()
            self.news.set()

    async def _close(self, code: int, reason: str) -> None:
        # The library closes at once under a pending receive, and what the peer still sends would then reset the
        # connection before the close frame is read. Without one it waits for the peer's answer.
        self._tasks[1].cancel()
        await asyncio.wait(self._tasks[1:2])
        async with asyncio.timeout(2 * self._timing.close):
            await self._ws.close(code=code, message=reason.encode())
        if self._transport is not None and self._transport.get_write_buffer_size():
            self._transport.abort()  # a peer that is gone would keep the buffer for a quarter of an hour

    async def _send_queued(self) -> bool:
        async with asyncio.timeout(self._timing.send):
            while self._queue or self._ack is not None:
                if self.gone.is_set():
                    return False
                if self._ack is not None:
                    seq, self._ack = self._ack, None
                    await self._ws.send_str(f'{{"type":"ack","seq":{seq}}}')
                else:
                    await self._ws.send_str(self._queue.popleft())
        return True

    async def _ping(self, is_idle_at: Callable[[], float]) -> None:
        while not self.gone.is_set():
            idle_in = is_idle_at() - time.monotonic()
            if idle_in <= 0:
                self.close(1000)
                return
            await asyncio.sleep(min(self._timing.ts_ping, idle_in))
            if is_idle_at() > time.monotonic():
                self.send({"type": "ping", "ts": int(time.time())})
