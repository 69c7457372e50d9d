"""The Device between the kernel's word and its ways to the server, in simulated time; nothing is recorded here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge.adapters.wire import Connector
from edge.core.link import LinkSnapshot
from edge.core.policy import Policy
from edge.core.session import State
from edge.errors import Unreachable
from edge.links import steer
from edge.runtime.attempts import RetryPolicy
from edge.runtime.clockwatch import INTERVAL_S, ClockWatch
from edge.runtime.device import Device
from edge.runtime.happening import Happening
from edge.runtime.uplink import Uplink
from tests.runtime.fakes import MONO, PACKET, FakeClock, FedSource, Feed, joined, now, simulate
from tests.runtime.links import AIM, BOTH, BY_WLAN, BY_WWAN, ON_MODEM, PULLED, WIRED, FakeWatch, FarServer

SPREAD_S = 120.0


class Rig:
    """A Device with a recording that goes on for ever."""

    def __init__(
        self, before: LinkSnapshot, *, is_plain: bool = False, is_watched: bool = True, fleet_spread: float = 0.0
    ) -> None:
        self.server = FarServer(is_plain=is_plain, local_address=before.path.source if before.path else "nowhere")
        self.server.is_down = before.path is None
        self.told: list[Happening] = []
        self.clock = FakeClock()
        self.watch = FakeWatch(before)
        policy = Policy(MONO, PACKET)
        self.uplink = Uplink(self.server, self.server, policy, RetryPolicy(), self.told.append, now)
        self.device = Device(
            FedSource,
            MONO,
            policy,
            1.0,
            {},
            self.uplink,
            self.told.append,
            clock=ClockWatch(self.clock, self.told.append),
            watch=self.watch if is_watched else None,
            fleet_spread=fleet_spread,
        )
        self.feed = Feed()
        self.feed.uplink = self.uplink
        self.feed.talk(PACKET)
        self.device.owe(self.feed.recording)

    @property
    def sockets(self) -> int:
        return len(self.server.sockets)

    def is_connected(self) -> bool:
        return self.uplink.state is State.CONNECTED

    async def show(self, snapshot: LinkSnapshot) -> None:
        self.server.local_address = snapshot.path.source if snapshot.path else "nowhere"
        self.server.is_down = snapshot.path is None
        self.watch.show(snapshot)
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[Rig]:
    task = asyncio.create_task(rig.device.run())
    try:
        await asyncio.sleep(0.5)
        yield rig
        assert not task.done()
    finally:
        await joined([task])
    assert rig.watch.closes == (0 if rig.device.roaming is None else 1)


def test_a_way_that_is_found_cuts_the_wait_of_what_is_owed() -> None:
    async def main() -> None:
        async with running(Rig(PULLED)) as rig:
            await asyncio.sleep(20)
            assert not rig.is_connected()
            await rig.show(WIRED)
            assert rig.is_connected()

    simulate(main())


def test_a_connection_whose_way_is_lost_is_dropped_by_its_own_address() -> None:
    async def main() -> None:
        async with running(Rig(WIRED)) as rig:
            assert rig.is_connected()
            await rig.show(PULLED)
            assert not rig.is_connected()
            assert rig.server.in_use == set()

    simulate(main())


def test_a_watch_that_fails_leaves_no_socket_held_for_ever() -> None:
    async def main() -> None:
        async with running(Rig(WIRED, is_plain=True)) as rig:
            await asyncio.sleep(10)
            rig.server.kill(rig.uplink.local_address)
            await rig.show(PULLED)
            await asyncio.sleep(100)
            (held,) = rig.server.in_use
            rig.watch.fail(OSError("no buffer space"))
            await asyncio.sleep(3)
            assert held not in rig.server.in_use
            rig.server.local_address, rig.server.is_down = "192.0.2.9", False
            await asyncio.sleep(30)
            assert rig.is_connected()

    simulate(main())


def test_without_a_watch_it_connects_all_the_same() -> None:
    async def main() -> None:
        async with running(Rig(WIRED, is_watched=False)) as rig:
            assert rig.is_connected()
            rig.server.sockets[-1].end(1006, "reset")
            await asyncio.sleep(2)
            assert (rig.is_connected(), rig.sockets) == (True, 2)

    simulate(main())


def test_a_sleep_and_a_clock_that_is_set_have_the_connection_tested() -> None:
    async def main() -> None:
        async with running(Rig(WIRED)) as rig:
            await asyncio.sleep(10)
            (socket,) = rig.server.sockets
            for is_sleep in (True, False):
                before = len(socket.sent)
                if is_sleep:
                    rig.clock.slept += 60.0
                else:
                    rig.clock.set(1.8e9, trusted=True)
                await asyncio.sleep(INTERVAL_S + 0.1)
                assert {"type": "ping"} in socket.sent[before:]
            assert rig.server.sockets == [socket]

    simulate(main())


def test_retry_reaches_what_is_owed() -> None:
    async def main() -> None:
        rig = Rig(WIRED)
        rig.server.is_down, rig.server.outage = True, Unreachable("refused")
        async with running(rig):
            await asyncio.sleep(20)
            rig.server.is_down = False
            rig.device.retry_now("RETRY was pressed")
            await asyncio.sleep(0.01)
            assert rig.is_connected()

    simulate(main())


def test_one_of_a_fleet_moves_when_it_is_its_turn() -> None:
    async def moved_after(fleet_spread: float) -> float:
        async with running(Rig(ON_MODEM, fleet_spread=fleet_spread)) as rig:
            assert rig.uplink.local_address == BY_WWAN.source
            await rig.show(BOTH)
            since = now()
            while rig.uplink.local_address != BY_WLAN.source:
                assert now() - since < SPREAD_S + 5
                await asyncio.sleep(0.1)
            return now() - since

    async def main() -> None:
        waits = await asyncio.gather(*(moved_after(SPREAD_S) for _ in range(20)))
        assert max(waits) > 10.0
        assert await moved_after(0.0) < 2.0

    simulate(main())


def test_dialling_aims_the_watch_and_the_path_says_what_to_bind_to() -> None:
    async def main() -> None:
        connector = Connector("http://127.0.0.1:1")
        async with running(Rig(WIRED)) as rig:
            steer(connector, rig.device)
            connector.on_resolved(AIM)
            assert rig.watch.aims == [AIM]
            assert connector.bound_to(AIM) == "eth0"
            assert connector.bound_to(["203.0.113.77"]) == ""  # the path to that one is not known
            await rig.show(PULLED)
            assert connector.bound_to(AIM) == ""

    simulate(main())


def test_without_a_watch_nothing_is_bound() -> None:
    async def main() -> None:
        connector = Connector("http://127.0.0.1:1")
        steer(connector, Rig(WIRED, is_watched=False).device)
        connector.on_resolved(AIM)
        assert connector.bound_to(AIM) == ""

    simulate(main())
