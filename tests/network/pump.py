"""A thread that carries packets between descriptors, and what such threads do here: tunnels, delays, a name server."""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping

from tests.network.netns import inside

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x1, 0x1000
_MOST = 65536
_A, _AAAA, _IN = 1, 28, 1


class Pump:
    """Calls a handler whenever its descriptor is readable. `due` does what is due and says in how many seconds
    something will be again (None: nothing is planned). The descriptors remain the caller's."""

    def __init__(
        self, name: str, handlers: Mapping[int, Callable[[], None]], due: Callable[[], float | None] = lambda: None
    ) -> None:
        self._handlers = dict(handlers)
        self._due = due
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        os.write(self._waker, b"x")
        self._thread.join()
        os.close(self._wake)
        os.close(self._waker)

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for descriptor in (*self._handlers, self._wake):
                selector.register(descriptor, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select(self._due()):
                    if key.fd == self._wake:
                        return
                    self._handlers[key.fd]()


def open_tun(namespace: str, name: str) -> int:
    """A tun device in the namespace, not yet up; it is gone when the descriptor is closed."""
    with inside(namespace):
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        except OSError:
            os.close(descriptor)
            raise
    return descriptor


class Tunnel:
    """Two tun devices, in two namespaces, joined by UDP datagrams: what a VPN is to the kernel."""

    def __init__(self, near: tuple[str, str], far: tuple[str, str], far_address: str, port: int = 1194) -> None:
        """`near` and `far`: namespace and name of the device. `far_address`: where `near` finds the other end."""
        self._tuns = [open_tun(*near), open_tun(*far)]
        self._sockets = []
        for namespace in (near[0], far[0]):
            with inside(namespace):
                self._sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            self._sockets[-1].setblocking(False)
        self._sockets[1].bind((far_address, port))
        self._peers: list[tuple[str, int] | None] = [(far_address, port), None]
        handlers: dict[int, Callable[[], None]] = {}
        for end in (0, 1):
            handlers[self._tuns[end]] = lambda end=end: self._out(end)  # type: ignore[misc]
            handlers[self._sockets[end].fileno()] = lambda end=end: self._in(end)  # type: ignore[misc]
        self._pump = Pump("tunnel", handlers)

    def _out(self, end: int) -> None:
        with contextlib.suppress(OSError):  # no way to the other end: lost, as on any network
            packet, peer = os.read(self._tuns[end], _MOST), self._peers[end]
            if peer is not None:
                self._sockets[end].sendto(packet, peer)

    def _in(self, end: int) -> None:
        with contextlib.suppress(OSError):
            packet, peer = self._sockets[end].recvfrom(_MOST)
            self._peers[end] = peer
            os.write(self._tuns[end], packet)

    def close(self) -> None:
        """The devices, and all routes by them, are gone."""
        self._pump.close()
        for descriptor in self._tuns:
            os.close(descriptor)
        for one in self._sockets:
            one.close()


class Delay:
    """What comes out of tun device `into` of a router goes in again at `back`, late by `base_s` and up to `jitter_s`
    more. The order of each direction stays, as on a radio link that repeats until it succeeds."""

    def __init__(self, namespace: str, into: str, back: str, base_s: float, jitter_s: float, seed: int = 0) -> None:
        self._into, self._back = open_tun(namespace, into), open_tun(namespace, back)
        self._base_s, self._jitter_s = base_s, jitter_s
        self._dice = random.Random(seed)
        self._waiting: list[tuple[float, int, bytes]] = []
        self._numbers = itertools.count()
        self._latest: dict[bytes, float] = {}
        self._pump = Pump("delay", {self._into: self._take}, self._give)

    def _take(self) -> None:
        packet = os.read(self._into, _MOST)
        towards = packet[16:20] if packet[0] >> 4 == 4 else packet[24:40]
        at = time.monotonic() + self._base_s + self._dice.random() * self._jitter_s
        at = self._latest[towards] = max(at, self._latest.get(towards, 0.0))
        heapq.heappush(self._waiting, (at, next(self._numbers), packet))

    def _give(self) -> float | None:
        while self._waiting:
            remaining = self._waiting[0][0] - time.monotonic()
            if remaining > 0:
                return remaining
            with contextlib.suppress(OSError):
                os.write(self._back, heapq.heappop(self._waiting)[2])
        return None

    def close(self) -> None:
        """The devices are gone, with what was under way."""
        self._pump.close()
        os.close(self._into)
        os.close(self._back)


class NameServer:
    """Answers for the names in `names` (name -> addresses, IPv4 and IPv6) on UDP port 53, and says that it knows no
    other. `is_dead`: it is silent, like a server beyond a dead line."""

    def __init__(self, namespace: str, address: str, names: Mapping[str, list[str]]) -> None:
        self.names = dict(names)
        self.is_dead = False
        self.asked = 0
        with inside(namespace):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((address, 53))
        self._socket.setblocking(False)
        self._pump = Pump("names", {self._socket.fileno(): self._serve})

    def _serve(self) -> None:
        query, peer = self._socket.recvfrom(512)
        self.asked += 1
        if self.is_dead:
            return
        with contextlib.suppress(IndexError, struct.error, OSError, UnicodeDecodeError):
            self._socket.sendto(self._answer(query), peer)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        kind = struct.unpack_from(">H", query, at + 1)[0]
        question = query[12 : at + 5]
        known = self.names.get(".".join(labels).lower())
        family = {_A: socket.AF_INET, _AAAA: socket.AF_INET6}.get(kind)
        fitting = [text for text in known or () if (":" in text) == (family == socket.AF_INET6)]
        packed = [socket.inet_pton(family, text) for text in fitting] if family is not None else []
        flags = 0x8580 | (0 if known is not None else 3)
        records = b"".join(struct.pack(">HHHIH", 0xC00C, kind, _IN, 0, len(one)) + one for one in packed)
        return query[:2] + struct.pack(">HHHHH", flags, 1, len(packed), 0, 0) + question + records

    def close(self) -> None:
        """Nobody listens there any more."""
        self._pump.close()
        self._socket.close()
