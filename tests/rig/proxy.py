"""A TCP proxy that does on command what networks do by themselves, between a client and a server on loopback.

    reset()                     every connection ends with a RST on both sides; what was held is gone
    stall(everything)           half-open: nothing passes, nothing closes; `everything` also holds new connections
    resume() / blackhole()      the end of a stall: what was held passes on / never passes, the ends never learn
    refuse(how) / admit()       new connections are refused (nobody listens, or accepted and reset)
    latency_s, bytes_per_s      plain attributes: how slow each direction is from now on

A middlebox is all it is: it passes bytes, FINs and RSTs on in order, and knows just enough of HTTP to tell a request
for a WebSocket from others. For the rule "one socket at a time" it looks at the client's side of each WebSocket as the
kernel does (TCP state): a socket counts as open until the client itself sent FIN or RST, whatever a fault holds back.
`timeline` has each command with its CLOCK_MONOTONIC time. A `Tap` sees every byte pass, for tests that judge the wire.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Literal, Protocol, Self

from tests.rig.process import ReservedPort

_LINGER_RESET = struct.pack("ii", 1, 0)
_TCP_ESTABLISHED = 1
_HEAD_LIMIT = 65536
_UPGRADE = re.compile(rb"^upgrade:[ \t]*websocket[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_HELD_LIMIT = 1 << 20  # bytes that one direction keeps before it stops reading


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """One command that the proxy carried out. `at` is CLOCK_MONOTONIC in seconds."""

    at: float
    kind: str
    detail: str = ""


class Tap(Protocol):
    """Sees the bytes of all links. Called in the proxy's loop; must return at once."""

    def opened(self, link: int, now: float) -> None:
        """The proxy accepted a connection of the client."""

    def sent(self, link: int, data: bytes, now: float) -> None:
        """`data` came from the client."""

    def handed(self, link: int, data: bytes, now: float) -> None:
        """`data` was written to the server."""

    def told(self, link: int, data: bytes, now: float) -> None:
        """`data` was written to the client."""

    def closed(self, link: int, now: float) -> None:
        """The client's side ended, by whomever."""


@dataclass(slots=True)
class Counters:
    """What passed so far. `websockets_at_once` is the greatest number of open WebSockets seen on the client's side."""

    connections: int = 0
    websockets: int = 0
    websockets_at_once: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    too_many: list[float] = field(default_factory=list)  # CLOCK_MONOTONIC of each second socket


class _End(Enum):
    """What a direction carries besides bytes."""

    FIN = auto()
    RST = auto()


class _Side(asyncio.Protocol):
    """One end of a link: the client's or the server's socket."""

    def __init__(self, link: _Link, outward: _Direction, inward: _Direction) -> None:
        self._link = link
        self._outward = outward  # what this end sends
        self._inward = inward  # what this end gets
        self.transport: asyncio.Transport | None = None
        self.alive = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.alive = True
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._link.side_opened(self)
        self._inward.pump()

    def data_received(self, data: bytes) -> None:
        self._link.data_from(self, data)
        self._outward.feed(data)

    def eof_received(self) -> bool:
        self._outward.feed(_End.FIN)
        return True  # half-closed: the other direction goes on

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False
        self._link.side_closed(self)
        self._outward.feed(_End.RST if error is not None else _End.FIN)

    def pause_writing(self) -> None:
        self._inward.blocked = True

    def resume_writing(self) -> None:
        self._inward.blocked = False
        self._inward.pump()

    def set_reading(self, wanted: bool) -> None:
        """Read on, or leave bytes in the kernel."""
        if self.transport is not None and self.alive:
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def reset(self) -> None:
        """End with a RST."""
        if self.transport is not None and self.alive:
            connection: socket.socket = self.transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self.transport.abort()

    def tcp_state(self) -> int | None:
        """The kernel's TCP state of this socket; None when it is closed."""
        if self.transport is None or not self.alive:
            return None
        connection: socket.socket = self.transport.get_extra_info("socket")
        try:
            return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except OSError:
            return None


class _Direction:
    """One direction of a link: a queue with the time at which each piece may pass."""

    def __init__(self, proxy: FaultProxy, passed: Callable[[bytes, float], None]) -> None:
        self._proxy = proxy
        self._passed = passed
        self._queue: deque[tuple[float, bytes | _End]] = deque()
        self._held_bytes = 0
        self._free_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self.source: _Side | None = None
        self.sink: _Side | None = None
        self.stopped = False  # a stall holds this link
        self.blocked = False  # the sink's buffer is full
        self.fin_passed = False

    def feed(self, piece: bytes | _End) -> None:
        """Take what the source sent."""
        if self._ended:
            return
        if isinstance(piece, _End):
            self._ended = piece is _End.RST or self._ended
        else:
            self._held_bytes += len(piece)
            if self._held_bytes > _HELD_LIMIT and self.source is not None:
                self.source.set_reading(False)
        self._queue.append((time.monotonic() + self._proxy.latency_s, piece))
        self.pump()

    def drop(self) -> None:
        """Forget what is held."""
        self._queue.clear()
        self._held_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pump(self) -> None:
        """Pass on what may pass now."""
        while self._queue and not (self.stopped or self.blocked) and self.sink is not None:
            if self.sink.transport is None:
                return
            now = time.monotonic()
            due = max(self._queue[0][0], self._free_at)
            if due > now:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = asyncio.get_running_loop().call_at(
                    asyncio.get_running_loop().time() + due - now, self._timer_fired
                )
                return
            self._pass_one(now)

    def _timer_fired(self) -> None:
        self._timer = None
        self.pump()

    def _pass_one(self, now: float) -> None:
        assert self.sink is not None
        assert self.sink.transport is not None
        at, piece = self._queue.popleft()
        if isinstance(piece, _End):
            if piece is _End.RST:
                self.sink.reset()
            elif self.sink.alive:
                self.fin_passed = True
                with contextlib.suppress(OSError):
                    self.sink.transport.write_eof()
                self.sink._link.fin_passed()
            return
        speed = self._proxy.bytes_per_s
        if speed is not None:
            most = max(1, int(speed * 0.05))
            if len(piece) > most:
                self._queue.appendleft((at, piece[most:]))
                piece = piece[:most]
            self._free_at = max(now, self._free_at) + len(piece) / speed
        was_over = self._held_bytes > _HELD_LIMIT
        self._held_bytes -= len(piece)
        if was_over and self._held_bytes <= _HELD_LIMIT and self.source is not None:
            self.source.set_reading(True)
        if self.sink.alive and not self.sink.transport.is_closing():
            self.sink.transport.write(piece)
            self._passed(piece, now)


class _Link:
    """One connection of a client and the one to the server that belongs to it."""

    def __init__(self, proxy: FaultProxy, number: int) -> None:
        self._proxy = proxy
        self.number = number
        self.is_websocket = False
        self.dead = False  # black-holed for ever
        self._head = bytearray()
        self._head_done = False
        self._dialling: asyncio.Task[None] | None = None
        self._up = _Direction(proxy, self._handed)
        self._down = _Direction(proxy, self._told)
        self.client = _Side(self, self._up, self._down)
        self.server = _Side(self, self._down, self._up)
        self._up.source, self._up.sink = self.client, self.server
        self._down.source, self._down.sink = self.server, self.client

    @property
    def stopped(self) -> bool:
        """Whether a stall holds it."""
        return self._up.stopped

    def hold(self) -> None:
        """Nothing passes from now on."""
        self._up.stopped = self._down.stopped = True

    def let_go(self) -> None:
        """Everything passes again, first what was held."""
        self._up.stopped = self._down.stopped = False
        if self._dialling is None and self.server.transport is None and self.client.alive:
            self._dial()
        self._up.pump()
        self._down.pump()

    def reset(self) -> None:
        """RST to both ends."""
        self._up.drop()
        self._down.drop()
        self.client.reset()
        self.server.reset()

    def open_at_client(self) -> bool:
        """Whether the client has neither ended the connection nor been told of its end."""
        return self.client.tcp_state() == _TCP_ESTABLISHED

    def side_opened(self, side: _Side) -> None:
        """A socket is connected; with the client's, dial the server unless the network is stalled."""
        if side is self.client and self._proxy.link_opened(self) and not self.stopped:
            self._dial()

    def _dial(self) -> None:
        self._dialling = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.server, *self._proxy.upstream)
        except OSError:
            self.client.reset()
        finally:
            self._dialling = None
            self._forget_if_over()

    def side_closed(self, side: _Side) -> None:
        """A socket is gone."""
        if side is self.client and self._proxy.tap is not None:
            self._proxy.tap.closed(self.number, time.monotonic())
        self._forget_if_over()

    def _forget_if_over(self) -> None:
        if not self.client.alive and not self.server.alive and self._dialling is None:
            self._proxy.link_closed(self)

    def fin_passed(self) -> None:
        """Both directions have ended in order: let both sockets go."""
        if self._up.fin_passed and self._down.fin_passed:
            for side in (self.client, self.server):
                if side.transport is not None:
                    side.transport.close()

    def data_from(self, side: _Side, data: bytes) -> None:
        """Count, and look for the upgrade in the head of the first request."""
        now = time.monotonic()
        counters = self._proxy.counters
        if side is self.server:
            counters.bytes_down += len(data)
            return
        counters.bytes_up += len(data)
        if self._proxy.tap is not None:
            self._proxy.tap.sent(self.number, data, now)
        if self._head_done:
            return
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end >= 0 or len(self._head) > _HEAD_LIMIT:
            self._head_done = True
            if _UPGRADE.search(bytes(self._head[: end + 2])):
                self.is_websocket = True
                self._proxy.websocket_opened(now)
            self._head.clear()

    def _handed(self, data: bytes, now: float) -> None:
        if self._proxy.tap is not None:
            self._proxy.tap.handed(self.number, data, now)

    def _told(self, data: bytes, now: float) -> None:
        if self._proxy.tap is not None:
            self._proxy.tap.told(self.number, data, now)

    async def close(self) -> None:
        """Without ceremony, at the end of a test."""
        if self._dialling is not None:
            self._dialling.cancel()
            await asyncio.wait([self._dialling])
        self.reset()


class FaultProxy:
    """See the module's text. An async context manager; all methods belong to its event loop."""

    def __init__(self, upstream_port: int, *, upstream_host: str = "127.0.0.1", tap: Tap | None = None) -> None:
        self.upstream = (upstream_host, upstream_port)
        self.tap = tap
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.counters = Counters()
        self.timeline: list[FaultEvent] = []
        self._port = ReservedPort()
        self._server: asyncio.Server | None = None
        self._links: dict[int, _Link] = {}
        self._numbers = 0
        self._stalled = False
        self._resetting = False
        self._empty = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_listener()
        for link in list(self._links.values()):
            await link.close()
        if self._links:
            await self._empty.wait()  # aborted transports report their end in the loop's next rounds
        self._port.close()

    @property
    def port(self) -> int:
        """Where clients connect; the same for the proxy's whole life."""
        return self._port.number

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, sock=self._port.listener())

    def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _accept(self) -> _Side:
        self._numbers += 1
        link = _Link(self, self._numbers)
        if self._stalled:
            link.hold()
        return link.client

    def _note(self, kind: str, detail: str = "") -> None:
        self.timeline.append(FaultEvent(time.monotonic(), kind, detail))

    # --- commands ---

    def reset(self) -> None:
        """RST every connection that is not black-holed."""
        victims = [link for link in self._links.values() if not link.dead]
        self._note("reset", f"{sum(link.is_websocket for link in victims)} WebSockets of {len(victims)} connections")
        for link in victims:
            link.reset()

    def stall(self, everything: bool = True) -> None:
        """Nothing passes on the connections there are; with `everything`, nor on new ones."""
        self._note("stall", "everything" if everything else "open connections")
        self._stalled = everything
        for link in self._links.values():
            link.hold()

    def resume(self) -> None:
        """End a stall: what was held passes now."""
        self._note("resume")
        self._stalled = False
        for link in list(self._links.values()):
            if link.stopped and not link.dead:
                link.let_go()

    def blackhole(self) -> None:
        """End a stall for new connections only: those that it held stay silent for ever."""
        self._note("blackhole")
        self._stalled = False
        for link in self._links.values():
            link.dead = link.dead or link.stopped

    def refuse(self, how: Literal["closed", "reset"] = "closed") -> None:
        """Refuse new connections; those there are stay."""
        self._note("refuse", how)
        if how == "closed":
            self._close_listener()
        else:
            self._resetting = True

    async def admit(self) -> None:
        """Take new connections again."""
        self._note("admit")
        self._resetting = False
        if self._server is None:
            await self._listen()

    # --- figures ---

    def websockets_open(self) -> int:
        """WebSockets that are open on the client's side now."""
        return sum(link.is_websocket and link.open_at_client() for link in self._links.values())

    # --- called by links ---

    def link_opened(self, link: _Link) -> bool:
        """A client connected; returns whether it is welcome."""
        self._links[link.number] = link
        self._empty.clear()
        self.counters.connections += 1
        if self.tap is not None:
            self.tap.opened(link.number, time.monotonic())
        if self._resetting:
            link.reset()
        return not self._resetting

    def link_closed(self, link: _Link) -> None:
        """Both sockets of a link are gone."""
        self._links.pop(link.number, None)
        if not self._links:
            self._empty.set()

    def websocket_opened(self, now: float) -> None:
        """A client asked for a WebSocket: count those that it has open."""
        self.counters.websockets += 1
        at_once = self.websockets_open()
        self.counters.websockets_at_once = max(self.counters.websockets_at_once, at_once)
        if at_once > 1:
            self.counters.too_many.append(now)
