"""What passed at the server's network card, put together again: an AF_PACKET socket that feeds a campaign `Wire`.

The stamps are the kernel's, of the packet's arrival or departure there: nothing of the programs under test takes part,
and a late reader reads the right time. Reads on the running event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.campaign.wire import Connection, Wire
from tests.network.netns import socket_in

_ETH_P_ALL = 0x0003
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE, _SOL_PACKET, _PACKET_STATISTICS = 35, 33, 263, 6
_FIN, _SYN, _RST = 0x01, 0x02, 0x04
_HALF = 1 << 31
_LOOK_S = 0.5


@dataclass(slots=True)
class _Way:
    """One direction of a TCP connection: the number that is due, and what came before its turn."""

    due: int
    early: dict[int, bytes] = field(default_factory=dict)

    def take(self, number: int, data: bytes) -> bytes:
        """What is new and in order now."""
        if data:
            self.early.setdefault(number, data)
        ready = b""
        for start in sorted(self.early, key=lambda one: (one - self.due + _HALF) % (1 << 32)):
            behind = (self.due - start) % (1 << 32)
            if behind >= _HALF:
                break  # a hole is before it
            ready += (piece := self.early.pop(start)[behind:])
            self.due = (self.due + len(piece)) % (1 << 32)
        return ready


@dataclass(slots=True)
class Flow:
    """A TCP connection to the server."""

    link: int
    client: tuple[str, int]
    opened_at: float
    up: _Way
    down: _Way | None = None


class Tap:
    """`wire` has the WebSockets and what went over them. An async context manager."""

    def __init__(self, namespace: str, port: int, interface: str = "lan") -> None:
        self.wire = Wire()
        self.flows: list[Flow] = []
        self._port = port
        self._open: dict[tuple[str, int], Flow] = {}
        self._news = asyncio.Event()
        self._socket = socket_in(namespace, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    def missed(self) -> int:
        """Packets that came faster than they were read, since the last call: any makes the evidence worthless."""
        return int(struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1])

    async def wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Until it is true; looked at whenever a packet passed, and every now and then. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._news.wait()

    def client_of(self, connection: Connection) -> str:
        """The address from which the server saw it."""
        return next(flow.client[0] for flow in self.flows if flow.link == connection.link)

    # --- packets ---------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, ancillary, _, sender = self._socket.recvmsg(1 << 17, 256)
                seconds, nanoseconds = struct.unpack_from("qq", ancillary[0][2])
                at = seconds + nanoseconds * 1e-9 - time.time() + time.monotonic()
                self._packet(data, at, is_outgoing=sender[2] == socket.PACKET_OUTGOING)
        self._news.set()

    def _packet(self, frame: bytes, at: float, *, is_outgoing: bool) -> None:
        kind = frame[12:14]
        if kind == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
            head, end = 14 + 4 * (frame[14] & 15), 14 + int.from_bytes(frame[16:18], "big")
            source, target = (socket.inet_ntop(socket.AF_INET, frame[start : start + 4]) for start in (26, 30))
        elif kind == b"\x86\xdd" and frame[20] == socket.IPPROTO_TCP:
            head, end = 54, 54 + int.from_bytes(frame[18:20], "big")
            source, target = (socket.inet_ntop(socket.AF_INET6, frame[start : start + 16]) for start in (22, 38))
        else:
            return
        from_port, to_port, number = struct.unpack_from(">HHI", frame, head)
        flags, data = frame[head + 13], frame[head + 4 * (frame[head + 12] >> 4) : end]
        if not is_outgoing and to_port == self._port:
            self._up((source, from_port), number, flags, data, at)
        elif is_outgoing and from_port == self._port:
            self._down((target, to_port), number, flags, data, at)

    def _up(self, client: tuple[str, int], number: int, flags: int, data: bytes, at: float) -> None:
        flow = self._open.get(client)
        if flags & _SYN:
            first = (number + 1) % (1 << 32)
            if flow is None or flow.up.due != first:  # else the same one, sent again
                flow = self._open[client] = Flow(len(self.flows), client, at, _Way(first))
                self.flows.append(flow)
                self.wire.opened(flow.link, at)
            return
        if flow is None:
            return
        if ready := flow.up.take(number, data):
            self.wire.sent(flow.link, ready, at)
            self.wire.handed(flow.link, ready, at)
        if flags & (_FIN | _RST):
            self._closed(flow, at)

    def _down(self, client: tuple[str, int], number: int, flags: int, data: bytes, at: float) -> None:
        flow = self._open.get(client)
        if flow is None:
            return
        if flags & _SYN:
            flow.down = flow.down or _Way((number + 1) % (1 << 32))
        elif flow.down is not None:
            if ready := flow.down.take(number, data):
                self.wire.told(flow.link, ready, at)
            if flags & (_FIN | _RST):
                self._closed(flow, at)

    def _closed(self, flow: Flow, at: float) -> None:
        """One side has ended it, so the server knows; what still passes is read all the same."""
        connection = next((one for one in self.wire.connections if one.link == flow.link), None)
        if connection is None or connection.closed_at is None:
            self.wire.closed(flow.link, at)
