"""What a change of the link does to an uplink: with a server with acks, and with an aia-v4 server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from edge.core.context import Phase
from edge.core.link import Change, LinkDelta, LinkSnapshot
from edge.core.policy import Policy
from edge.core.session import State
from edge.errors import Unreachable
from edge.runtime.attempts import RetryPolicy
from edge.runtime.courier import Courier
from edge.runtime.happening import Happening
from edge.runtime.uplink import Uplink
from tests.runtime.fakes import MONO, PACKET, FakeSocket, Feed, Line, joined, now, simulate
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
    FarServer,
    state,
    step,
    unplugged,
)

ETH_ADDRESS, WLAN_ADDRESS, MODEM_ADDRESS = BY_ETH.source, BY_WLAN.source, BY_WWAN.source
BESIDE_MODEM = state(ETH, WWAN, ways=[BY_ETH, BY_WWAN])
PULLED_BESIDE_MODEM = state(unplugged(ETH), WWAN, ways=[BY_WWAN])
both_kinds = pytest.mark.parametrize("is_plain", [False, True], ids=["acks", "aia-v4"])


class Rig:
    """A recording under delivery, over a link that changes by `link`."""

    def __init__(self, before: LinkSnapshot, *, is_plain: bool, retry: RetryPolicy | None = None) -> None:
        self.state = before
        self.server = FarServer(is_plain=is_plain, local_address=before.path.source if before.path else "")
        self.line = Line(self.server, retry)
        self.uplink = self.line.uplink
        self.feed = self.line.feed(seconds=600.0)
        self.feed.talk(PACKET)
        self.delivering = asyncio.create_task(self.uplink.deliver(self.feed.recording))

    async def begin(self) -> FakeSocket:
        """Until audio flows and all of it is confirmed; the socket."""
        await asyncio.sleep(1)
        await self.talk(1.0)
        await asyncio.sleep(1)
        assert self.uplink.state is State.CONNECTED
        assert self.handled == self.feed.ledger.last
        return self.socket

    @property
    def socket(self) -> FakeSocket:
        """The latest one."""
        return self.server.sockets[-1]

    def phase(self) -> Phase:
        assert self.uplink.session is not None
        return self.uplink.session.phase

    def is_connected(self) -> bool:
        return self.uplink.state is State.CONNECTED

    @property
    def handled(self) -> int:
        assert self.uplink.session is not None
        return self.uplink.session.handled

    @property
    def notes(self) -> list[str]:
        quiet = {"attempt", "connected", "state", "waiting", "message"}
        return [kind for kind in self.line.kinds() if kind not in quiet]

    async def talk(self, seconds: float) -> None:
        for _ in range(round(10 * seconds)):
            await asyncio.sleep(0.1)
            self.feed.talk(PACKET)

    def link(self, after: LinkSnapshot) -> Change:
        """The kernel says that it is `after` now; what does not run carries nothing, and new sockets take the path."""
        delta = step(self.state, after, self.uplink.local_address)
        self.state = after
        for address in (ETH_ADDRESS, WLAN_ADDRESS, MODEM_ADDRESS):
            if after.carries(address):
                self.server.revive(address)
            else:
                self.server.kill(address)
        self.server.local_address = after.path.source if after.path else "nowhere"
        self.server.outage, self.server.is_down = Unreachable("network is unreachable"), after.path is None
        self.uplink.link_changed(delta, after)
        return delta.change

    async def whole(self) -> None:
        """To the end; everything arrived."""
        self.feed.end()
        await asyncio.wait_for(self.delivering, 300)
        assert self.server.audio("r") == self.feed.given
        assert self.feed.ledger.delivered_frames == self.feed.ledger.stored
        assert self.server.in_use == set()
        assert self.server.most_in_use == 1


def course(
    before: LinkSnapshot, *, is_plain: bool, retry: RetryPolicy | None = None
) -> Callable[[Callable[[Rig], Coroutine[Any, Any, None]]], None]:
    """Run the decorated function in simulated time; the recording is whole in the end."""

    def run(main: Callable[[Rig], Coroutine[Any, Any, None]]) -> None:
        async def all_of_it() -> None:
            rig = Rig(before, is_plain=is_plain, retry=retry)
            await main(rig)
            await rig.whole()

        simulate(all_of_it())

    return run


# --- lost ------------------------------------------------------------------------------------------------------------


def test_with_acks_the_socket_is_dropped_at_once_and_made_anew_once_there_is_a_way() -> None:
    @course(WIRED, is_plain=False)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        assert rig.link(PULLED) is Change.LOST
        assert await settled(socket)
        assert rig.uplink.state is State.RECONNECTING
        await rig.talk(20.0)
        assert len(rig.server.sockets) == 1
        since = now()
        assert rig.link(WIRED) is Change.FOUND
        while not rig.is_connected():
            await asyncio.sleep(0.001)
        assert now() - since < 0.1
        assert len(rig.server.sockets) == 2
        await asyncio.sleep(0.1)
        assert rig.handled == rig.feed.ledger.last


async def settled(socket: FakeSocket) -> bool:
    """The abort is a task of its own."""
    await asyncio.sleep(0)
    return not socket.is_open and socket.was_aborted


def test_an_aia_v4_servers_socket_is_held_nothing_is_written_to_it_and_it_returns() -> None:
    @course(WIRED, is_plain=True)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        assert rig.link(PULLED) is Change.LOST
        assert rig.uplink.state is State.RECONNECTING
        sent = len(socket.sent)
        await rig.talk(20.0)
        assert len(socket.sent) == sent
        assert socket.is_open
        since = now()
        assert rig.link(WIRED) is Change.FOUND
        while not rig.is_connected():
            await asyncio.sleep(0.001)
        assert now() - since < 0.1
        assert socket.sent[sent] == {"type": "ping"}
        await rig.talk(3.0)
        assert rig.notes == ["held", "returned"]
        assert len(rig.server.sockets) == 1
        assert rig.server.duplicates == 0
        assert rig.line.states() == ["connecting", "connected", "reconnecting", "connected"]


def test_a_held_socket_that_does_not_answer_when_its_way_is_back_is_given_up() -> None:
    @course(WIRED, is_plain=True)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        rig.link(PULLED)
        await asyncio.sleep(5)
        socket.end(1006, "reset by somebody in between")
        rig.link(WIRED)
        await asyncio.sleep(5)
        assert len(rig.server.sockets) == 2
        assert rig.is_connected()


def test_a_held_socket_whose_way_comes_back_beside_another_one_is_asked_at_once() -> None:
    """The path moved to the modem, and back: the held socket is on it, but not yet known to be alive."""

    @course(BESIDE_MODEM, is_plain=True)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        assert rig.link(PULLED_BESIDE_MODEM) is Change.MOVED
        await asyncio.sleep(1.5)
        assert rig.phase() is Phase.HELD
        assert rig.link(BESIDE_MODEM) is Change.BETTER
        await asyncio.sleep(0.1)
        assert rig.phase() is Phase.STREAMING
        await rig.talk(3.0)
        assert rig.server.sockets == [socket]


def test_a_held_socket_that_returns_where_the_path_is_not_moves_to_the_path() -> None:
    """Nothing in the state of the link changes any more that could be a reason to."""

    @course(BESIDE_MODEM, is_plain=True)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        assert rig.link(PULLED_BESIDE_MODEM) is Change.MOVED
        await asyncio.sleep(0.5)
        assert rig.phase() is Phase.HELD
        rig.server.revive(ETH_ADDRESS)
        rig.uplink.retry_now("RETRY was pressed")
        await asyncio.sleep(5)
        assert not socket.is_open
        assert not socket.was_aborted
        assert rig.notes[:4] == ["held", "returned", "moving", "moved"]
        assert rig.socket.local_address == MODEM_ADDRESS


def test_held_beside_another_way_it_gets_its_moment_and_no_more() -> None:
    @course(BESIDE_MODEM, is_plain=True)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        rig.link(PULLED_BESIDE_MODEM)
        await rig.talk(1.9)
        assert socket in rig.server.in_use
        await rig.talk(3.0)
        assert socket not in rig.server.in_use
        assert rig.uplink.local_address == MODEM_ADDRESS
        assert rig.is_connected()


@both_kinds
def test_gone_with_its_address_the_socket_is_dropped_at_once(is_plain: bool) -> None:
    @course(WIRED, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        readdressed = state(
            replace(ETH, addresses=frozenset({"192.0.2.7"})), ways=[replace(BY_ETH, source="192.0.2.7")]
        )
        since = now()
        assert rig.link(readdressed) is Change.READDRESSED
        while rig.uplink.local_address != "192.0.2.7":
            await asyncio.sleep(0.001)
        assert now() - since < 0.1
        assert await settled(socket)
        await rig.talk(2.0)
        assert rig.is_connected()


def test_with_acks_it_is_on_the_other_path_at_once() -> None:
    @course(BESIDE_MODEM, is_plain=False)
    async def main(rig: Rig) -> None:
        await rig.begin()
        since = now()
        rig.link(PULLED_BESIDE_MODEM)
        while rig.uplink.local_address != MODEM_ADDRESS:
            await asyncio.sleep(0.001)
        assert now() - since < 0.1


@both_kinds
def test_a_socket_that_is_carried_stays(is_plain: bool) -> None:
    @course(BESIDE_MODEM, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        for change in (Change.LOST, Change.MOVED, Change.FOUND, Change.READDRESSED):
            rig.uplink.link_changed(LinkDelta(change, "something else"), BESIDE_MODEM)
            await rig.talk(1.0)
        assert rig.server.sockets == [socket]
        assert rig.notes == []


@both_kinds
def test_what_is_irrelevant_changes_nothing(is_plain: bool) -> None:
    @course(WIRED, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        rig.uplink.link_changed(LinkDelta(Change.IRRELEVANT, "another cable"), PULLED)
        await rig.talk(1.0)
        assert rig.server.sockets == [socket]
        assert rig.server.forgotten == 0


@both_kinds
def test_kept_http_connections_are_given_up_at_each_change_whether_or_not_anything_is_delivered(is_plain: bool) -> None:
    async def main() -> None:
        rig = Rig(WIRED, is_plain=is_plain)
        await rig.begin()
        rig.link(PULLED)
        rig.link(WIRED)
        assert rig.server.forgotten == 2
        await asyncio.sleep(3)
        await rig.whole()
        rig.link(PULLED)
        assert rig.server.forgotten == 3

    simulate(main())


# --- better ----------------------------------------------------------------------------------------------------------


@both_kinds
def test_a_better_path_is_moved_to_in_order_and_once(is_plain: bool) -> None:
    @course(ON_MODEM, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        first = await rig.begin()
        assert rig.link(BOTH) is Change.BETTER
        await rig.talk(3.0)
        assert (first.is_open, first.was_aborted) == (False, False)
        assert rig.uplink.local_address == WLAN_ADDRESS
        assert len(rig.server.sockets) == 2
        assert rig.notes == ["moving", "moved"]
        assert rig.server.duplicates == 0
        rig.uplink.link_changed(LinkDelta(Change.BETTER, "said once more"), BOTH)
        await rig.talk(3.0)
        assert len(rig.server.sockets) == 2
        attempts = [happening.text for _, happening in rig.line.told if happening.kind == "attempt"]
        assert attempts[1:] == ["attempt 1: reconnecting on the better path"]


@both_kinds
@pytest.mark.parametrize("in_phase", [Phase.OPENING, Phase.GREETING, Phase.INITIALISING])
def test_a_better_path_that_comes_during_an_attempt_is_moved_to_once_that_has_connected(
    in_phase: Phase, is_plain: bool
) -> None:
    @course(ON_MODEM, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        if in_phase is Phase.OPENING:
            rig.server.dial_takes = 0.5
        elif in_phase is Phase.GREETING:
            rig.server.is_silent = True
        else:
            rig.server.on_text = lambda socket, message: True
        await asyncio.sleep(0.2)
        assert rig.phase() is in_phase
        rig.link(BOTH)
        assert rig.phase() is in_phase
        await asyncio.sleep(0.5)
        rig.server.dial_takes, rig.server.is_silent = 0.0, False
        rig.server.on_text = lambda socket, message: False
        if in_phase is Phase.GREETING:
            rig.server.greet(rig.socket)
        elif in_phase is Phase.INITIALISING:
            rig.socket.tell({"type": "pong"})
        await rig.talk(5.0)
        assert rig.is_connected()
        assert [socket.local_address for socket in rig.server.sockets] == [MODEM_ADDRESS, WLAN_ADDRESS]


@both_kinds
def test_a_better_path_cuts_a_wait_short(is_plain: bool) -> None:
    @course(ON_MODEM, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        await rig.begin()
        rig.server.is_down = True
        rig.socket.end(1006, "reset")
        await asyncio.sleep(40)
        since = now()
        rig.link(BOTH)
        while not rig.is_connected():
            await asyncio.sleep(0.001)
        assert now() - since < 0.1
        assert rig.uplink.local_address == WLAN_ADDRESS


@both_kinds
def test_an_attempt_that_hangs_while_a_better_path_comes_is_followed_at_once_by_one_on_that(is_plain: bool) -> None:
    @course(ON_MODEM, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        rig.server.kill(MODEM_ADDRESS)
        await asyncio.sleep(45)
        while rig.phase() is not Phase.STARTING:
            await asyncio.sleep(0.1)
        began = now()
        await asyncio.sleep(1)
        rig.link(BOTH)
        rig.server.kill(MODEM_ADDRESS)  # to the kernel it carries
        while not rig.is_connected():
            await asyncio.sleep(0.001)
        assert now() - began < FarServer.timeout_s + 0.5
        assert rig.uplink.local_address == WLAN_ADDRESS


def test_a_socket_whose_address_nobody_knows_moves_once_and_not_for_ever() -> None:
    @course(ON_MODEM, is_plain=False)
    async def main(rig: Rig) -> None:
        rig.server.local_address = ""
        await rig.begin()
        rig.uplink.link_changed(LinkDelta(Change.BETTER, "the path moved"), BOTH)
        await rig.talk(10.0)
        assert len(rig.server.sockets) == 2


# --- an attempt under way --------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("in_phase", [Phase.STARTING, Phase.OPENING])
def test_an_attempt_on_a_dead_path_is_begun_again_at_once_on_the_new_one(in_phase: Phase, is_plain: bool) -> None:
    @course(ON_MODEM, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        if in_phase is Phase.STARTING:
            rig.server.kill(MODEM_ADDRESS)
        else:
            rig.server.on_dial = lambda: rig.server.kill(MODEM_ADDRESS)
            rig.server.dial_takes = 9.0
        await asyncio.sleep(2)
        assert rig.phase() is in_phase
        rig.server.on_dial = lambda: None
        rig.server.dial_takes = 0.0
        since = now()
        assert rig.link(state(WLAN, unplugged(WWAN), ways=[BY_WLAN])) is Change.MOVED
        while not rig.is_connected():
            await asyncio.sleep(0.001)
        assert now() - since < 0.1
        await rig.talk(20.0)  # what was asked on the old path fails by now
        assert rig.is_connected()
        assert len(rig.server.sockets) == 1
        said = [h.text for _, h in rig.line.told if h.kind in {"attempt", "waiting", "woken"}]
        reason = "wwan0 lost its carrier; the path is wlan0 from 198.51.100.3 through 198.51.100.254 now"
        assert said == ["attempt 1: there is audio to deliver", f"trying now: {reason}", f"attempt 1: {reason}"]


def test_a_late_answer_of_the_old_path_is_passed_over() -> None:
    """The session that it opened is not this attempt's any more."""

    @course(ON_MODEM, is_plain=False)
    async def main(rig: Rig) -> None:
        late = asyncio.Event()
        start = rig.server.start

        async def slow(settings: Any) -> str:
            session_id = await start(settings)
            if session_id == "session-1":
                await late.wait()
            return session_id

        rig.server.start = slow  # type: ignore[method-assign]
        await asyncio.sleep(1)
        rig.link(state(WLAN, unplugged(WWAN), ways=[BY_WLAN]))
        await asyncio.sleep(1)
        assert rig.is_connected()
        late.set()
        await rig.talk(3.0)
        assert [socket.session_id for socket in rig.server.sockets] == ["session-2"]
        assert rig.feed.recording.session_ids == ["session-2"]


@both_kinds
def test_an_attempt_that_loses_its_last_way_ends_and_nobody_is_woken(is_plain: bool) -> None:
    @course(WIRED, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        rig.server.dial_takes = 5.0
        await asyncio.sleep(1)
        assert rig.phase() is Phase.OPENING
        rig.link(NOTHING)
        assert rig.phase() is Phase.WAITING
        assert "woken" not in rig.line.kinds()
        await asyncio.sleep(0.5)
        rig.server.dial_takes = 0.0
        rig.link(WIRED)
        await asyncio.sleep(0.1)
        assert rig.is_connected()


def test_a_link_that_comes_during_the_last_attempt_does_not_let_it_fail_for_good() -> None:
    @course(ON_MODEM, is_plain=False, retry=RetryPolicy(1, 1.0, 1.0))
    async def main(rig: Rig) -> None:
        rig.server.kill(MODEM_ADDRESS)
        await asyncio.sleep(1)
        rig.link(ON_WLAN)
        await asyncio.sleep(1)
        assert rig.line.states() == ["connecting", "connected"]


# --- doubt and RETRY -------------------------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("word", ["doubt", "retry_now"])
def test_a_connection_in_doubt_is_asked_at_once_and_kept(word: str, is_plain: bool) -> None:
    @course(WIRED, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        sent = len(socket.sent)
        getattr(rig.uplink, word)("the machine slept")
        await asyncio.sleep(0.001)
        assert socket.sent[sent:] == [{"type": "ping"}]
        await rig.talk(5.0)
        assert rig.server.sockets == [socket]
        assert rig.notes == []


@both_kinds
@pytest.mark.parametrize("word", ["doubt", "retry_now"])
def test_one_that_does_not_answer_is_made_anew_at_once(word: str, is_plain: bool) -> None:
    @course(WIRED, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        rig.server.is_silent = True
        since = now()
        getattr(rig.uplink, word)("the machine slept")
        await asyncio.sleep(0.001)
        rig.server.is_silent = False
        while socket.is_open:
            await asyncio.sleep(0.01)
        assert now() - since == pytest.approx(2.0, abs=0.1)
        await asyncio.sleep(0.1)
        assert len(rig.server.sockets) == 2
        assert rig.is_connected()


def test_retry_tests_a_held_socket_and_gives_it_up_while_a_clock_that_was_set_does_not() -> None:
    """A person may know better than the kernel; the clock says nothing of the link, whose return tests the socket."""

    @course(WIRED, is_plain=True)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        rig.link(PULLED)
        await asyncio.sleep(1)
        rig.uplink.doubt("the clock was set")
        await asyncio.sleep(10)
        assert socket in rig.server.in_use
        rig.uplink.retry_now("RETRY was pressed")
        await asyncio.sleep(3)
        assert socket not in rig.server.in_use
        rig.link(WIRED)
        await asyncio.sleep(5)
        assert rig.is_connected()


@both_kinds
@pytest.mark.parametrize("word", ["doubt", "retry_now", "try_again"])
def test_while_it_waits_for_the_next_attempt_each_of_them_is_one(word: str, is_plain: bool) -> None:
    @course(WIRED, is_plain=is_plain)
    async def main(rig: Rig) -> None:
        rig.server.is_down = True
        await asyncio.sleep(20)
        rig.server.is_down = False
        getattr(rig.uplink, word)("there is a new token")
        await asyncio.sleep(0.1)
        assert rig.is_connected()
        told = [happening.text for _, happening in rig.line.told if happening.kind == "woken"]
        assert told == ["trying now: there is a new token"]


@pytest.mark.parametrize(("word", "is_spread"), [("doubt", True), ("retry_now", False), ("try_again", True)])
def test_only_a_person_cuts_through_a_fleets_spread(word: str, is_spread: bool) -> None:
    """With the network all clocks are set, and all tokens renewed, in one moment."""

    @course(WIRED, is_plain=False, retry=RetryPolicy(fleet_spread=1e6))
    async def main(rig: Rig) -> None:
        await rig.begin()
        rig.socket.end(1006, "reset")
        await asyncio.sleep(1)
        getattr(rig.uplink, word)("the clock was set")
        await asyncio.sleep(1)
        assert len(rig.server.sockets) == (1 if is_spread else 2)
        rig.uplink.retry_now("enough")
        await asyncio.sleep(0.1)


def test_a_token_that_was_renewed_says_nothing_of_a_connection() -> None:
    @course(WIRED, is_plain=True)
    async def main(rig: Rig) -> None:
        socket = await rig.begin()
        sent = len(socket.sent)
        rig.uplink.try_again("there is a new token")
        await asyncio.sleep(0.001)
        assert len(socket.sent) == sent


# --- both ways, and none ---------------------------------------------------------------------------------------------


class TwoWays:
    """A courier whose two uplinks wait in a backoff."""

    def __init__(self) -> None:
        self.server = FarServer(local_address=ETH_ADDRESS)
        self.server.most_sockets = 2
        self.told: dict[str, list[Happening]] = {"main": [], "aside": []}
        self.main, self.aside = self._uplink("main"), self._uplink("aside")
        self.courier = Courier(self.main, {}, self.told["main"].append, self.aside)
        self.feeds = [Feed("live", 600.0), Feed("stored", 10.0)]

    def _uplink(self, name: str) -> Uplink:
        return Uplink(self.server, self.server, Policy(MONO, PACKET), RetryPolicy(), self.told[name].append, now)

    def deliver(self) -> list[asyncio.Task[None]]:
        for feed in self.feeds:
            feed.talk(PACKET)
        ways = zip((self.main, self.aside), self.feeds, strict=True)
        return [asyncio.create_task(uplink.deliver(feed.recording)) for uplink, feed in ways]


@pytest.mark.parametrize("word", ["link_changed", "doubt", "retry_now", "try_again"])
def test_both_uplinks_are_told(word: str) -> None:
    async def main() -> None:
        ways = TwoWays()
        ways.server.is_down = True
        delivering = ways.deliver()
        await asyncio.sleep(20)
        ways.server.is_down = False
        if word == "link_changed":
            ways.courier.link_changed(step(PULLED, WIRED), WIRED)
        else:
            getattr(ways.courier, word)("now")
        await asyncio.sleep(0.1)
        assert (ways.main.state, ways.aside.state) == (State.CONNECTED, State.CONNECTED)
        await joined(delivering)

    simulate(main())


def test_both_sockets_are_dropped() -> None:
    async def main() -> None:
        ways = TwoWays()
        delivering = ways.deliver()
        await asyncio.sleep(3)
        assert len(ways.server.in_use) == 2
        ways.courier.link_changed(step(WIRED, NOTHING, ETH_ADDRESS), NOTHING)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ways.server.in_use == set()
        await joined(delivering)

    simulate(main())


@both_kinds
@pytest.mark.parametrize("is_connected", [True, False])
def test_nothing_follows_once_the_delivery_was_cancelled(is_connected: bool, is_plain: bool) -> None:
    async def main() -> None:
        rig = Rig(WIRED, is_plain=is_plain)
        if is_connected:
            await rig.begin()
        else:
            rig.server.is_down = True
            await asyncio.sleep(20)
        await joined([rig.delivering])
        times, told, sockets = len(rig.server.times), len(rig.line.told), len(rig.server.sockets)
        for after in (PULLED, WIRED, ON_WLAN, BOTH):
            rig.link(after)
        rig.uplink.doubt("the machine slept")
        rig.uplink.retry_now("RETRY was pressed")
        rig.uplink.try_again("there is a new token")
        await asyncio.sleep(100)
        assert (len(rig.server.times), len(rig.line.told), len(rig.server.sockets)) == (times, told, sockets)
        rig.delivering = asyncio.create_task(rig.uplink.deliver(rig.feed.recording))
        await asyncio.sleep(1)
        assert rig.is_connected()
        assert "woken" not in [happening.kind for _, happening in rig.line.told[told:]]
        if not is_plain:
            await rig.whole()
        else:
            await joined([rig.delivering])

    simulate(main())
