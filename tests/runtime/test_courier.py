"""What is stored goes out beside the live recording, gives way to it, and keeps its order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from edge.core.policy import Policy
from edge.runtime.attempts import PROBE_S, RetryPolicy
from edge.runtime.courier import Courier
from edge.runtime.happening import Happening
from edge.runtime.ports import JsonObject
from edge.runtime.uplink import Uplink
from tests.runtime.fakes import MONO, PACKET, FakeServer, FakeSocket, Feed, joined, now, simulate

AGENT: JsonObject = {"agent": "a", "event": "e"}


class Server(FakeServer):
    """Takes two sockets, remembers who asked for a session, and reads nothing of the recordings in `unread`."""

    def __init__(self) -> None:
        super().__init__()
        self.most_sockets = 2
        self.asked: list[str] = []
        self.unread: dict[str, asyncio.Event] = {}

    async def admit(self, socket: FakeSocket) -> None:
        if self.sessions[socket.session_id] in self.unread:
            await self.unread[self.sessions[socket.session_id]].wait()
        await super().admit(socket)

    async def start(self, settings: JsonObject) -> str:
        self.asked.append(settings["recording"])
        return await super().start(settings)


class Rig:
    """A courier with both of its ways."""

    def __init__(self) -> None:
        self.server = Server()
        self.told: list[Happening] = []
        self.delivered: list[str] = []
        self.uplink = self._way(self.told.append)
        self.courier = Courier(self.uplink, AGENT, self.told.append, self._way(lambda happening: None))

    def _way(self, tell: Callable[[Happening], None]) -> Uplink:
        return Uplink(self.server, self.server, Policy(MONO, PACKET), RetryPolicy(10, 0.5, 1.0), tell, now)

    def live(self) -> Feed:
        """A recording that has begun."""
        feed = Feed("live", 600.0)
        feed.uplink = self.uplink
        feed.talk(PACKET)
        self.courier.owe(feed.recording)
        return feed

    def stored(self, *names: str) -> None:
        """What an earlier run left, oldest first."""
        feeds = [Feed(name, 10.0) for name in names]
        for feed in feeds:
            feed.talk(3 * PACKET)
            feed.end()
            feed.recording.release = lambda offset: None
        self.courier.owe_stored([feed.recording for feed in feeds])


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[None]:
    task = asyncio.create_task(rig.courier.run(lambda recording: rig.delivered.append(recording.recording_id)))
    try:
        yield
    finally:
        await joined([task])


async def talk(feed: Feed, seconds: int) -> None:
    """Now and then."""
    for _ in range(seconds):
        feed.talk(PACKET)
        await asyncio.sleep(1.0)


def test_what_is_stored_goes_out_beside_the_live_one_oldest_first() -> None:
    async def main() -> None:
        rig = Rig()
        async with running(rig):
            live = rig.live()
            rig.stored("1", "2")
            await talk(live, 20)
            assert rig.delivered == ["1", "2"]
            assert rig.server.most_in_use == 2
            live.end()
            await rig.courier.delivered()
        assert rig.delivered == ["1", "2", "live"]
        assert rig.server.duplicates == 0

    simulate(main())


def test_one_that_was_under_way_beside_comes_before_younger_ones() -> None:
    async def main() -> None:
        rig = Rig()
        async with running(rig):
            live = rig.live()
            rig.server.unread["1"] = asyncio.Event()
            rig.stored("1", "2")
            await talk(live, 3)
            assert rig.server.asked == ["live", "1"]
            assert rig.server.stored["1"] == []
            live.end()
            while rig.delivered != ["live"]:
                await rig.courier.uplink.moved()
            rig.server.unread["1"].set()
            await rig.courier.delivered()
        assert rig.delivered == ["live", "1", "2"]

    simulate(main())


def test_one_that_is_refused_beside_is_asked_for_now_and_then() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.refuse_recordings = {"1"}
        async with running(rig):
            live = rig.live()
            rig.stored("1")
            await talk(live, 300)
            assert 2 <= rig.server.asked.count("1") <= 300 / PROBE_S + 2
            rig.server.refuse_recordings = set()
            rig.courier.retry_now("somebody put it right")
            await talk(live, 5)
            assert rig.delivered == ["1"]
            live.end()
            await rig.courier.delivered()
        assert rig.server.audio("live") == live.given

    simulate(main())
