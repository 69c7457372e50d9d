"""A link watch that a test feeds, and the states that it is fed with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from edge.core.link import Interface, LinkDelta, LinkSnapshot, Path, link_delta
from tests.runtime.fakes import Misuse

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
