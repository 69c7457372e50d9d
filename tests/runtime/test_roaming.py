"""Roaming in simulated time: what is acted upon, when, and what is left alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from edge.core.link import Change, Interface, LinkDelta, LinkSnapshot, Path
from edge.runtime.happening import Happening
from edge.runtime.roaming import CALM_S, MOST_SETTLE_S, SETTLE_S, Roaming
from tests.runtime.fakes import joined, now, simulate
from tests.runtime.links import (
    BOTH,
    BY_ETH,
    BY_WLAN,
    BY_WWAN,
    ETH,
    NOTHING,
    ON_MODEM,
    ON_WLAN,
    PULLED,
    WIRED,
    WLAN,
    WWAN,
    FakeWatch,
    state,
    unplugged,
)

MODEM_ADDRESS, WLAN_ADDRESS, ETH_ADDRESS = BY_WWAN.source, BY_WLAN.source, BY_ETH.source
OTHER_AIM = ("203.0.113.77",)


class Rig:
    """A Roaming that is fed; `acted` has what it did, and how many seconds after the state was shown."""

    def __init__(self, *states: LinkSnapshot, used: str = "", fleet_spread: float = 0.0) -> None:
        self.watch = FakeWatch(*states)
        self.used = used
        self.acted: list[tuple[Change, float]] = []
        self.snapshots: list[LinkSnapshot] = []
        self.told: list[Happening] = []
        self.blind: list[str] = []
        self.roaming = Roaming(
            self.watch,
            self._on_change,
            lambda: self.used,
            self.told.append,
            now,
            self.blind.append,
            fleet_spread,
        )
        self._shown_at = 0.0

    def _on_change(self, delta: LinkDelta, snapshot: LinkSnapshot) -> None:
        self.acted.append((delta.change, round(now() - self._shown_at, 6)))
        self.snapshots.append(snapshot)

    async def show(self, snapshot: LinkSnapshot) -> None:
        self._shown_at = now()
        self.watch.show(snapshot)
        await asyncio.sleep(0.001)

    def take(self) -> list[tuple[Change, float]]:
        acted, self.acted = self.acted, []
        return acted


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[None]:
    task = asyncio.create_task(rig.roaming.run())
    await asyncio.sleep(0.001)
    try:
        yield
    finally:
        await joined([task])


def roaming(*states: LinkSnapshot, used: str = "") -> Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]:
    """Run the decorated course in simulated time, beside a Roaming that has seen `states`."""

    def run(course: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            rig = Rig(*states, used=used)
            async with running(rig):
                await course(rig)
            assert rig.watch.closes == 1

        simulate(main())

    return run


# --- at once ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [WIRED, PULLED, NOTHING])
def test_what_there_was_in_the_beginning_is_no_change(first: LinkSnapshot) -> None:
    @roaming(first)
    async def course(rig: Rig) -> None:
        await asyncio.sleep(10)
        assert rig.roaming.current is first
        assert (rig.acted, rig.told) == ([], [])


READDRESSED = state(replace(ETH, addresses=frozenset({"192.0.2.7"})), ways=[replace(BY_ETH, source="192.0.2.7")])


@pytest.mark.parametrize("is_connected", [True, False])
@pytest.mark.parametrize(
    ("old", "new", "change", "reason"),
    [
        (WIRED, PULLED, Change.LOST, "eth0 lost its carrier"),
        (PULLED, WIRED, Change.FOUND, "there is a way to the server: eth0"),
        (WIRED, ON_WLAN, Change.MOVED, "eth0 is gone; the path is wlan0"),
        (WIRED, READDRESSED, Change.READDRESSED, "eth0 lost its address 192.0.2.1; it sends from 192.0.2.7 now"),
    ],
)
def test_what_ends_or_makes_a_way_is_acted_upon_at_once_and_said_once(
    old: LinkSnapshot, new: LinkSnapshot, change: Change, reason: str, is_connected: bool
) -> None:
    used = ETH_ADDRESS if is_connected and change is not Change.FOUND else ""

    @roaming(old, used=used)
    async def course(rig: Rig) -> None:
        await rig.show(new)
        assert rig.take() == [(change, 0.0)]
        assert rig.snapshots == [new]
        (told,) = rig.told
        assert told.kind == "link"
        assert reason in told.text
        assert told.detail == {"change": change.value}
        await rig.show(replace(new))
        await asyncio.sleep(100)
        assert (rig.take(), len(rig.told)) == ([], 1)


def test_lost_and_found_and_lost_again_are_three_changes() -> None:
    @roaming(WIRED)
    async def course(rig: Rig) -> None:
        for snapshot in (PULLED, WIRED, PULLED):
            await rig.show(snapshot)
        assert [change for change, _ in rig.take()] == [Change.LOST, Change.FOUND, Change.LOST]


def test_what_is_of_no_interest_is_not_told_but_remembered() -> None:
    @roaming(WIRED)
    async def course(rig: Rig) -> None:
        also = state(ETH, WLAN, ways=[BY_ETH, BY_WLAN])
        await rig.show(also)
        assert (rig.acted, rig.told, rig.roaming.current) == ([], [], also)
        await rig.show(state(unplugged(ETH), WLAN, ways=[BY_WLAN]))
        assert [change for change, _ in rig.acted] == [Change.MOVED]


# --- a better path settles -------------------------------------------------------------------------------------------


def test_a_better_path_is_moved_to_once_it_has_lasted() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        await asyncio.sleep(0.9 * SETTLE_S)
        assert (rig.acted, rig.told) == ([], [])
        await asyncio.sleep(0.2 * SETTLE_S)
        assert rig.take() == [(Change.BETTER, SETTLE_S)]
        assert [happening.text for happening in rig.told] == [
            "network: the path moved from wwan0 to wlan0 from 198.51.100.3 through 198.51.100.254"
        ]
        await asyncio.sleep(100)
        assert rig.take() == []


def test_news_that_leaves_the_better_path_better_does_not_put_it_off() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        shown_at = now() - 0.001
        while not rig.acted:
            await rig.show(replace(BOTH))  # a renewed lease, say
            await asyncio.sleep(0.1 * SETTLE_S)
            assert now() - shown_at < 2 * SETTLE_S
        assert now() - shown_at >= SETTLE_S


def test_where_another_one_is_better_still_the_best_is_moved_to() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        await asyncio.sleep(0.5 * SETTLE_S)
        best = state(ETH, WLAN, WWAN, ways=[BY_ETH, BY_WLAN, BY_WWAN])
        await rig.show(best)
        await asyncio.sleep(SETTLE_S)
        assert [change for change, _ in rig.acted] == [Change.BETTER]
        assert rig.snapshots == [best]
        assert "from wwan0 to eth0" in rig.told[0].text


def test_one_that_goes_again_is_not_moved_to() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        await asyncio.sleep(0.5 * SETTLE_S)
        await rig.show(ON_MODEM)
        await asyncio.sleep(100)
        assert (rig.acted, rig.told) == ([], [])


async def flap(rig: Rig) -> None:
    await rig.show(BOTH)
    await asyncio.sleep(0.1 * SETTLE_S)
    await rig.show(ON_MODEM)


async def moved_after(rig: Rig) -> float:
    """How long the better path has to last now; the modem's is the path again afterwards."""
    await rig.show(BOTH)
    while not rig.acted:
        await asyncio.sleep(0.1)
    ((change, seconds),) = rig.take()
    assert change is Change.BETTER
    return seconds


def test_one_that_comes_and_goes_has_to_last_longer_each_time_up_to_a_bound() -> None:
    for flaps, wanted in [(1, 2 * SETTLE_S), (2, 4 * SETTLE_S), (5, 32 * SETTLE_S), (6, MOST_SETTLE_S), (20, 60.0)]:

        @roaming(ON_MODEM, used=MODEM_ADDRESS)
        async def course(rig: Rig, flaps: int = flaps, wanted: float = wanted) -> None:
            for _ in range(flaps):
                await flap(rig)
            assert await moved_after(rig) == min(wanted, MOST_SETTLE_S)


def test_after_a_while_without_flapping_it_is_trusted_again() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        for _ in range(3):
            await flap(rig)
        await asyncio.sleep(CALM_S + 1)
        assert await moved_after(rig) == SETTLE_S


def test_one_that_lasts_just_long_enough_each_time_is_damped_too() -> None:
    """It is moved to and dies, again and again: each time it has to last longer."""

    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        waits = []
        for _ in range(4):
            waits.append(await moved_after(rig))
            rig.used = WLAN_ADDRESS
            await rig.show(ON_MODEM)
            assert [change for change, _ in rig.take()] == [Change.MOVED]
            rig.used = MODEM_ADDRESS
        assert waits == [SETTLE_S, 2 * SETTLE_S, 4 * SETTLE_S, 8 * SETTLE_S]
        assert await moved_after(rig) == 16 * SETTLE_S
        await asyncio.sleep(CALM_S + 1)
        rig.used = WLAN_ADDRESS
        await rig.show(ON_MODEM)
        rig.take()
        rig.used = MODEM_ADDRESS
        assert await moved_after(rig) == SETTLE_S


def test_news_of_no_interest_is_no_flapping() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        for _ in range(5):
            await rig.show(replace(ON_MODEM))
        assert await moved_after(rig) == SETTLE_S


def test_nor_is_a_way_that_dies_while_a_better_one_settles() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        rig.used = ""
        await rig.show(NOTHING)
        await rig.show(ON_MODEM)
        rig.take()
        rig.used = MODEM_ADDRESS
        assert await moved_after(rig) == SETTLE_S


def test_nor_are_two_that_are_better_one_behind_the_other() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        assert await moved_after(rig) == SETTLE_S
        rig.used = WLAN_ADDRESS
        await rig.show(state(ETH, WLAN, WWAN, ways=[BY_ETH, BY_WLAN, BY_WWAN]))
        await asyncio.sleep(1.5 * SETTLE_S)
        assert rig.take() == [(Change.BETTER, SETTLE_S)]


def test_nor_is_the_end_of_the_way_that_was_left() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        assert await moved_after(rig) == SETTLE_S
        await rig.show(state(WLAN, unplugged(WWAN), ways=[BY_WLAN]))
        assert [change for change, _ in rig.take()] == [Change.MOVED]
        rig.used = WLAN_ADDRESS
        await rig.show(state(ETH, WLAN, ways=[BY_ETH, BY_WLAN]))
        await asyncio.sleep(1.5 * SETTLE_S)
        assert rig.take() == [(Change.BETTER, SETTLE_S)]


def test_one_that_was_moved_to_and_died_counts_once() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        assert await moved_after(rig) == SETTLE_S
        rig.used = WLAN_ADDRESS
        await rig.show(ON_MODEM)
        rig.used = MODEM_ADDRESS
        for _ in range(3):
            await rig.show(NOTHING)
            await rig.show(ON_MODEM)
        rig.take()
        assert await moved_after(rig) == 2 * SETTLE_S


def test_one_that_goes_and_comes_has_to_last_anew_however_often_it_was_told() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        for _ in range(3):
            await rig.show(replace(BOTH))
        await asyncio.sleep(0.5 * SETTLE_S)
        await rig.show(ON_MODEM)
        assert await moved_after(rig) == 2 * SETTLE_S


def test_a_fleet_moves_to_a_better_path_one_by_one() -> None:
    async def wait() -> float:
        rig = Rig(ON_MODEM, used=MODEM_ADDRESS, fleet_spread=120.0)
        async with running(rig):
            return await moved_after(rig)

    async def main() -> None:
        random.seed(4)
        waits = sorted(await asyncio.gather(*(wait() for _ in range(200))))
        assert SETTLE_S <= waits[0] < 5.0
        assert 115.0 < waits[-1] <= SETTLE_S + 120.0
        assert waits[100] == pytest.approx(60.0, abs=12.0)

    simulate(main())


def test_a_way_that_dies_while_a_better_one_settles_is_left_at_once() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        await asyncio.sleep(0.5 * SETTLE_S)
        await rig.show(state(WLAN, unplugged(WWAN), ways=[BY_WLAN]))
        assert rig.take() == [(Change.MOVED, 0.0)]
        await asyncio.sleep(100)
        assert rig.take() == []
        rig.used = WLAN_ADDRESS
        await rig.show(NOTHING)
        assert rig.take() == [(Change.LOST, 0.0)]


def test_all_lost_while_a_better_one_settles_is_lost_at_once() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        await rig.show(NOTHING)
        assert rig.take() == [(Change.LOST, 0.0)]
        await asyncio.sleep(100)
        assert rig.take() == []


def test_the_way_of_a_held_socket_comes_back_beside_another_one_and_is_used_at_once() -> None:
    """It has two seconds to answer, and what it lost would have to be sent again."""

    @roaming(state(ETH, WWAN, ways=[BY_ETH, BY_WWAN]), used=ETH_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(state(unplugged(ETH), WWAN, ways=[BY_WWAN]))
        assert rig.take() == [(Change.MOVED, 0.0)]
        await rig.show(state(ETH, WWAN, ways=[BY_ETH, BY_WWAN]))
        assert rig.take() == [(Change.BETTER, 0.0)]


def test_without_a_connection_it_is_the_kernels_path_that_counts() -> None:
    @roaming(ON_MODEM)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        await asyncio.sleep(2 * SETTLE_S)
        assert rig.take() == [(Change.BETTER, SETTLE_S)]
        await rig.show(state(unplugged(WLAN), WWAN, ways=[BY_WWAN]))
        assert rig.take() == [(Change.MOVED, 0.0)]


def test_the_one_in_use_counts_not_the_one_that_was_announced() -> None:
    """The move to Wi-Fi is under way; its end is no loss, but that of the modem is."""

    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await moved_after(rig)
        await rig.show(state(WLAN, unplugged(WWAN), ways=[BY_WLAN]))
        assert [change for change, _ in rig.take()] == [Change.MOVED]


# --- the aim ---------------------------------------------------------------------------------------------------------


def aimed(snapshot: LinkSnapshot, aim: tuple[str, ...] = OTHER_AIM) -> LinkSnapshot:
    return replace(snapshot, aim=aim)


def test_the_servers_addresses_are_passed_on() -> None:
    @roaming(WIRED)
    async def course(rig: Rig) -> None:
        rig.roaming.aim(["203.0.113.1", "2001:db8::1"])
        assert rig.watch.aims == [("203.0.113.1", "2001:db8::1")]


@pytest.mark.parametrize("new", [WIRED, ON_WLAN, NOTHING])
def test_another_address_of_the_server_is_no_news_of_the_link(new: LinkSnapshot) -> None:
    @roaming(WIRED)
    async def course(rig: Rig) -> None:
        await rig.show(aimed(new))
        await asyncio.sleep(100)
        assert (rig.acted, rig.told, rig.roaming.current) == ([], [], aimed(new))


def test_unless_the_used_address_is_lost_in_the_same_moment() -> None:
    @roaming(WIRED, used=ETH_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(aimed(state(unplugged(ETH), WLAN, ways=[BY_WLAN])))
        assert rig.take() == [(Change.MOVED, 0.0)]


def test_or_a_way_was_found_in_the_same_moment() -> None:
    """A backoff would go on though the network is there."""

    @roaming(NOTHING)
    async def course(rig: Rig) -> None:
        await rig.show(aimed(WIRED))
        assert rig.take() == [(Change.FOUND, 0.0)]


def test_the_first_aim_finds_nothing() -> None:
    """A server on the local network needs no default route; until its name is resolved there seems to be no way."""

    @roaming(aimed(NOTHING, ()))
    async def course(rig: Rig) -> None:
        await rig.show(WIRED)
        assert rig.take() == []


def test_a_better_path_that_settles_is_not_forgotten_when_the_name_is_resolved_again() -> None:
    """Names with many addresses come in another order each time."""

    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        await asyncio.sleep(0.5 * SETTLE_S)
        await rig.show(aimed(BOTH))
        await asyncio.sleep(2 * SETTLE_S)
        assert [change for change, _ in rig.take()] == [Change.BETTER]


def test_a_better_path_that_is_none_to_the_new_aim_is_forgotten() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        await rig.show(aimed(ON_MODEM))
        await asyncio.sleep(2 * SETTLE_S)
        assert rig.take() == []


@pytest.mark.parametrize("after", [NOTHING, ON_WLAN])
def test_what_happens_after_a_new_aim_is_seen(after: LinkSnapshot) -> None:
    @roaming(WIRED)
    async def course(rig: Rig) -> None:
        await rig.show(aimed(WIRED))
        await rig.show(aimed(after))
        assert len(rig.take()) == 1


def test_a_path_that_came_with_a_new_aim_is_no_news_later() -> None:
    """The VPN is the way to this address of the server, say."""

    @roaming(ON_MODEM)
    async def course(rig: Rig) -> None:
        await rig.show(aimed(BOTH))
        await rig.show(aimed(replace(BOTH)))
        await asyncio.sleep(100)
        assert rig.take() == []


def test_what_goes_again_under_a_new_aim_has_flapped() -> None:
    @roaming(aimed(ON_MODEM), used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(aimed(BOTH))
        await rig.show(BOTH)
        await rig.show(ON_MODEM)
        assert await moved_after(rig) == 2 * SETTLE_S


def test_what_comes_again_under_a_new_aim_settles_anew() -> None:
    @roaming(aimed(ON_MODEM), used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(aimed(BOTH))
        await asyncio.sleep(0.5 * SETTLE_S)
        await rig.show(ON_MODEM)
        assert await moved_after(rig) == SETTLE_S


# --- its end ---------------------------------------------------------------------------------------------------------


def test_a_watch_that_raises_is_said_once_and_what_it_said_last_is_forgotten() -> None:
    """No socket may be bound for ever to an interface that was once the way."""

    @roaming(aimed(WIRED))
    async def course(rig: Rig) -> None:
        assert rig.roaming.interface_to(OTHER_AIM) == "eth0"
        rig.watch.fail(OSError("no buffer space"))
        await asyncio.sleep(100)
        (told,) = rig.told
        assert told.kind == "warning"
        assert "not watched any more" in told.text
        assert "OSError" in told.text
        assert rig.blind == ["the network is not watched any more"]
        assert rig.watch.closes == 1
        assert rig.roaming.current is None
        assert rig.roaming.interface_to(OTHER_AIM) == ""
        rig.roaming.aim(["203.0.113.1"])


def test_nothing_settles_after_a_watch_that_raised() -> None:
    @roaming(ON_MODEM, used=MODEM_ADDRESS)
    async def course(rig: Rig) -> None:
        await rig.show(BOTH)
        rig.watch.fail(OSError("gone"))
        await asyncio.sleep(100)
        assert rig.acted == []


def test_nothing_settles_after_it_was_cancelled() -> None:
    async def main() -> None:
        rig = Rig(ON_MODEM, used=MODEM_ADDRESS)
        async with running(rig):
            await rig.show(BOTH)
        assert rig.watch.closes == 1
        await asyncio.sleep(100)
        assert (rig.acted, rig.told) == ([], [])

    simulate(main())


def test_a_socket_is_bound_where_the_path_leads_to_the_very_addresses_that_it_dials() -> None:
    @roaming(WIRED)
    async def course(rig: Rig) -> None:
        assert rig.roaming.interface_to(OTHER_AIM) == ""  # the path leads to anywhere as yet
        await rig.show(aimed(WIRED))
        assert rig.roaming.interface_to(OTHER_AIM) == "eth0"
        assert rig.roaming.interface_to(["203.0.113.1"]) == ""
        await rig.show(aimed(NOTHING))
        assert rig.roaming.interface_to(OTHER_AIM) == ""


def test_nothing_is_bound_to_the_loopback() -> None:
    loopback = Interface("lo", 1, "loopback", is_running=True, addresses=frozenset({"127.0.0.1"}))

    @roaming(LinkSnapshot((loopback,), Path("lo", "127.0.0.1", ""), (), ("127.0.0.1",)))
    async def course(rig: Rig) -> None:
        assert rig.roaming.interface_to(["127.0.0.1"]) == ""
