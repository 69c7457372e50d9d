"""A link watch that a test feeds, and the states that it is fed with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from edge.core.link import Interface, LinkDelta, LinkSnapshot, Path, link_delta
from edge.errors import Unreachable
from edge.runtime.ports import JsonObject, SessionStatus, Socket
from tests.runtime.fakes import FakeServer, FakeSocket, Misuse

LO = Interface("lo", 1, "loopback", True, frozenset({"127.0.0.1"}))
ETH = Interface("eth0", 2, "wired", True, frozenset({"192.0.2.1"}))
WLAN = Interface("wlan0", 3, "wireless", True, frozenset({"198.51.100.3"}))
WWAN = Interface("wwan0", 4, "modem", True, frozenset({"10.64.0.4"}))
BY_LO = Path("lo", "127.0.0.1", "")
BY_ETH = Path("eth0", "192.0.2.1", "192.0.2.254")
BY_WLAN = Path("wlan0", "198.51.100.3", "198.51.100.254")
BY_WWAN = Path("wwan0", "10.64.0.4", "")
AIM = ("203.0.113.9",)


def state(*interfaces: Interface, ways: Sequence[Path] = (), aim: tuple[str, ...] = AIM) -> LinkSnapshot:
    """The first of the ways is the path."""
    return LinkSnapshot(interfaces, ways[0] if ways else None, tuple(ways), aim)


def unplugged(interface: Interface) -> Interface:
    return replace(interface, is_running=False)


WIRED = state(ETH, ways=[BY_ETH])
PULLED = state(unplugged(ETH))
ON_MODEM = state(WWAN, ways=[BY_WWAN])
BOTH = state(WLAN, WWAN, ways=[BY_WLAN, BY_WWAN])  # Wi-Fi is preferred
ON_WLAN = state(WLAN, ways=[BY_WLAN])
NOTHING = state()


def step(old: LinkSnapshot, new: LinkSnapshot, used: str = "") -> LinkDelta:
    return link_delta(old, new, used)


class FakeWatch:
    """A LinkWatch: `show` and `fail` are heard in order by the one who iterates."""

    def __init__(self, *states: LinkSnapshot) -> None:
        self.aims: list[tuple[str, ...]] = []
        self.closes = 0
        self._news: asyncio.Queue[LinkSnapshot | Exception] = asyncio.Queue()
        self._is_iterated = False
        for one in states:
            self.show(one)

    def show(self, snapshot: LinkSnapshot) -> None:
        self._news.put_nowait(snapshot)

    def fail(self, error: Exception) -> None:
        self._news.put_nowait(error)

    def aim(self, addresses: Sequence[str]) -> None:
        self.aims.append(tuple(addresses))

    async def snapshots(self) -> AsyncIterator[LinkSnapshot]:
        if self._is_iterated or self.closes:
            raise Misuse("snapshots of a watch that is used already")
        self._is_iterated = True
        while True:
            news = await self._news.get()
            if isinstance(news, Exception):
                raise news
            yield news

    async def close(self) -> None:
        self.closes += 1


class FarServer(FakeServer):
    """A server at the end of paths that may die without a word. With `is_plain` it is an aia-v4 server: no
    acknowledgements, signs of life every 10 s.

    What is sent on a dead path is heard once that lives again, if the socket is still open then: TCP repeats. What is
    dialled or asked there hangs until `timeout_s`.
    """

    timeout_s = 10.0

    def __init__(self, *, is_plain: bool = False, local_address: str = "") -> None:
        super().__init__()
        self.is_plain = is_plain
        self.acks = not is_plain
        self.local_address = local_address or self.local_address
        self.dead: set[str] = set()
        self._under_way: list[tuple[FakeSocket, JsonObject | bytes]] = []

    def kill(self, address: str) -> None:
        self.dead.add(address)

    def revive(self, address: str) -> None:
        self.dead.discard(address)
        under_way, self._under_way = self._under_way, []
        for socket, message in under_way:
            if socket.is_open:
                self.hear(socket, message)

    async def start(self, settings: JsonObject) -> str:
        await self._pass(self.local_address)
        return await super().start(settings)

    async def status(self, session_id: str) -> SessionStatus:
        await self._pass(self.local_address)
        return await super().status(session_id)

    async def __call__(self, session_id: str) -> Socket:
        address = self.local_address
        if address in self.dead:
            self._use(self)
            try:
                await self._pass(address)
            finally:
                self.in_use.discard(self)
        socket = await super().__call__(session_id)
        assert isinstance(socket, FakeSocket)
        socket.local_address = address
        return socket

    async def _pass(self, address: str) -> None:
        if address in self.dead:
            await asyncio.sleep(self.timeout_s)
            raise Unreachable("no answer")

    def greet(self, socket: FakeSocket) -> None:
        if not self.is_plain:
            super().greet(socket)
            return
        socket.tell({"type": "hello", "session_id": socket.session_id})
        self._sign_of_life(socket)

    def _sign_of_life(self, socket: FakeSocket) -> None:
        if socket.is_open and socket.closed is None:
            if socket.local_address not in self.dead:
                socket.tell({"type": "ping", "t": 1, "is_recording": True})
            asyncio.get_running_loop().call_later(10.0, self._sign_of_life, socket)

    def hear(self, socket: FakeSocket, message: JsonObject | bytes) -> None:
        if socket.local_address in self.dead:
            self._under_way.append((socket, message))
        else:
            super().hear(socket, message)
