"""What a change of the link does to the connection: to a server with acks, and to an aia-v4 server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edge.core.context import Phase
from edge.core.events import (
    Ack,
    Attempted,
    CloseSocket,
    Doubted,
    LinkChanged,
    Note,
    OpenSocket,
    SendText,
    StopSession,
)
from edge.core.link import Change
from edge.core.roam import UNDER_WAY
from edge.core.session import State
from edge.errors import Unreachable
from tests.core.driver import FINALIZED, Driver, of, over, packets, texts

PING = {"type": "ping"}
ABORT, IN_ORDER = [CloseSocket(abort=True)], [CloseSocket(abort=False)]


def lost(*, is_kept: bool = True, has_path: bool = False) -> LinkChanged:
    change = Change.MOVED if has_path else Change.LOST
    return LinkChanged(change, "eth0 lost its carrier", is_carried=False, is_kept=is_kept, has_path=has_path)


def back(*, is_carried: bool = True) -> LinkChanged:
    return LinkChanged(Change.FOUND, "eth0 is back", is_carried=is_carried, is_kept=True, has_path=True)


def better(*, is_carried: bool = True) -> LinkChanged:
    return LinkChanged(Change.BETTER, "the path moved to wlan0", is_carried=is_carried, is_kept=True, has_path=True)


def streaming(*, acks: bool = False, **changes: float) -> Driver:
    d = Driver(**changes)
    d.start(acks=acks)
    if acks:
        d.record(10)
        d.tell(Ack, 10)
    else:
        d.stream(10)
    return d


def kinds(effects: list[Any]) -> list[str]:
    return [note.kind for note in of(Note, effects)]


# --- while audio flows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_kept", [True, False])
def test_with_acks_a_lost_way_ends_the_socket_at_once(is_kept: bool) -> None:
    d = streaming(acks=True)
    d.record(3)
    effects = d.feed(lost(is_kept=is_kept))
    assert of(CloseSocket, effects) == ABORT
    assert over(effects) is None  # so waits and counts start afresh
    assert (d.phase, d.session.state) == (Phase.WAITING, State.RECONNECTING)
    d.feed(Attempted())
    assert packets(d.open(acks=True, next_seq=12)) == [12, 13]


def test_towards_aia_v4_a_socket_whose_address_is_gone_is_given_up_at_once() -> None:
    d = streaming()
    d.record(3)
    effects = d.feed(lost(is_kept=False))
    assert (of(CloseSocket, effects), over(effects), d.phase) == (ABORT, None, Phase.WAITING)
    d.feed(Attempted())
    assert d.phase is Phase.ASKING  # rule 5


def test_towards_aia_v4_a_socket_whose_address_is_kept_is_held_and_nothing_is_written() -> None:
    d = streaming()
    d.record(3)
    effects = d.feed(lost())
    assert kinds(effects) == ["held"]
    assert not of(CloseSocket, effects)
    assert (d.phase, d.session.state, d.session.wants_attempt) == (Phase.HELD, State.RECONNECTING, False)
    effects = d.record(30) + d.wait(60.0)
    assert not of(SendText, effects)
    assert not packets(effects)
    assert d.session.deadline is None


def test_a_held_socket_that_answers_goes_on_where_it_was() -> None:
    d = streaming()
    d.record(3)
    d.wait(0.3)  # a barrier is on its way
    d.feed(lost())
    d.record(20)
    d.wait(5.0)
    effects = d.feed(back())
    assert texts(effects) == [PING]
    assert not packets(effects)
    d.wait(1.9)
    effects = d.pong()
    assert (kinds(effects), d.phase, d.session.state) == (["returned"], Phase.STREAMING, State.CONNECTED)
    assert packets(effects)[0] == 14
    assert d.session.reconnects == 0
    d.pongs = True
    d.pong(2)
    d.wait(3.0)
    assert (d.session.handled, d.phase) == (33, Phase.STREAMING)  # nobody looks at the old patience any more


def test_a_held_socket_that_does_not_answer_in_time_is_given_up_by_rule_5() -> None:
    d = streaming()
    d.feed(lost())
    d.wait(5.0)
    d.feed(back())
    assert not of(CloseSocket, d.wait(1.95))
    effects = d.wait(0.1)
    assert (of(CloseSocket, effects), over(effects), d.phase) == (ABORT, None, Phase.WAITING)
    d.feed(Attempted())
    assert d.phase is Phase.ASKING


def test_a_slow_link_gets_more_time_to_answer() -> None:
    d = streaming()
    d.status = {}
    for _ in range(30):  # a round trip of three quarters of a second, smoothed
        d.record(1)
        d.wait(0.75)
        d.pong()
    d.feed(lost())
    d.feed(back())
    assert d.wait(3.0) == []
    assert of(CloseSocket, d.wait(3.0)) == ABORT


def test_a_held_socket_whose_address_goes_is_given_up() -> None:
    d = streaming()
    d.feed(lost())
    effects = d.feed(lost(is_kept=False))
    assert (of(CloseSocket, effects), d.phase) == (ABORT, Phase.WAITING)


def test_where_another_path_is_there_the_held_socket_gets_its_moment_and_no_more() -> None:
    d = streaming()
    d.feed(lost(has_path=True))
    due = d.session.deadline
    d.wait(1.0)
    d.feed(back(is_carried=False))  # yet another one
    assert d.session.deadline == due
    d.feed(lost())  # and none again: there is no hurry
    assert d.session.deadline is None
    d.feed(back(is_carried=False))
    assert of(CloseSocket, d.wait(2.05)) == ABORT
    assert d.phase is Phase.WAITING


def test_a_server_that_is_heard_on_the_held_socket_is_asked() -> None:
    d = streaming()
    d.feed(lost())
    assert texts(d.alive()) == [{"type": "pong"}, PING]
    assert texts(d.alive()) == [{"type": "pong"}]  # it is being asked already
    d.pong()
    assert d.phase is Phase.STREAMING


def test_a_session_that_died_meanwhile_is_not_returned_to() -> None:
    d = streaming()
    d.feed(lost())
    assert of(CloseSocket, d.alive(False)) == IN_ORDER
    assert d.phase is Phase.WAITING


def test_polls_that_were_under_way_do_not_end_the_hold() -> None:
    d = streaming()
    d.until_poll()
    d.feed(lost())
    assert d.polled(answered=False) == []
    assert d.phase is Phase.HELD
    d.feed(back())
    d.pong()
    d.until_poll()  # it goes on polling
    d.polled()
    assert d.phase is Phase.STREAMING


def test_a_held_socket_that_ends_is_a_lost_connection() -> None:
    d = streaming()
    d.feed(lost())
    d.closed()
    assert d.phase is Phase.WAITING


def test_a_link_that_carries_on_changes_nothing() -> None:
    d = streaming()
    irrelevant = LinkChanged(Change.IRRELEVANT, "another interface", is_carried=True, is_kept=True, has_path=True)
    assert d.feed(irrelevant) == []
    assert d.phase is Phase.STREAMING


# --- doubt -----------------------------------------------------------------------------------------------------------


def test_a_connection_in_doubt_is_asked_at_once_and_goes_on() -> None:
    d = streaming()
    assert texts(d.feed(Doubted("it slept"))) == [PING]
    d.pong()
    d.status = {}
    assert d.phase is Phase.STREAMING
    d.pongs = True
    d.wait(10.0)
    assert d.phase is Phase.STREAMING


@pytest.mark.parametrize("acks", [True, False])
def test_a_connection_in_doubt_that_does_not_answer_is_dropped(acks: bool) -> None:
    d = streaming(acks=acks)
    d.feed(Doubted("it slept"))
    effects = d.wait(2.1)
    assert (of(CloseSocket, effects), d.phase) == (ABORT, Phase.WAITING)


def test_doubt_tests_a_held_socket() -> None:
    d = streaming()
    d.feed(lost())
    assert texts(d.feed(Doubted("RETRY was pressed"))) == [PING]
    assert of(CloseSocket, d.wait(2.1)) == ABORT


# --- to a better way -------------------------------------------------------------------------------------------------


def test_a_better_path_is_moved_to_once_the_old_one_has_confirmed_all() -> None:
    d = streaming()
    d.record(3)
    effects = d.feed(better())
    assert (kinds(effects), texts(effects), d.phase) == (["moving"], [PING], Phase.MOVING)
    assert d.session.state is State.CONNECTED
    assert not packets(d.record(5))
    effects = d.pong()
    assert (of(CloseSocket, effects), over(effects), kinds(effects)) == (IN_ORDER, None, ["moved"])
    d.feed(Attempted())
    assert d.phase is Phase.ASKING  # trap 1: it waits until the server has let go
    d.polled(connected=True)
    assert d.phase is Phase.SETTLING
    assert of(OpenSocket, d.next_poll(connected=False))
    assert packets(d.open()) == [14, 15, 16, 17, 18]


def test_with_acks_it_waits_for_the_acknowledgement() -> None:
    d = streaming(acks=True)
    d.record(3)
    assert texts(d.feed(better())) == []
    assert not of(CloseSocket, d.tell(Ack, 12))
    assert not of(CloseSocket, d.tell(Ack, 12))
    assert of(CloseSocket, d.tell(Ack, 13)) == IN_ORDER
    assert of(OpenSocket, d.feed(Attempted()))


def test_where_nothing_is_under_way_it_moves_at_once() -> None:
    for acks in (True, False):
        d = streaming(acks=acks)
        assert of(CloseSocket, d.feed(better())) == IN_ORDER


def test_a_barrier_in_the_middle_is_not_all() -> None:
    d = streaming()
    d.record(3)
    d.wait(0.3)
    d.record(1)
    d.feed(better())
    assert not of(CloseSocket, d.pong())
    assert of(CloseSocket, d.pong()) == IN_ORDER
    assert d.session.handled == 14


def test_an_old_path_that_confirms_nothing_is_left_after_two_seconds() -> None:
    d = streaming()
    d.record(3)
    d.feed(better())
    assert not of(CloseSocket, d.wait(1.9))
    assert of(CloseSocket, d.wait(0.2)) == IN_ORDER


def test_a_path_that_dies_while_it_is_left_is_held_or_dropped() -> None:
    d = streaming()
    d.record(3)
    d.feed(better())
    assert d.feed(better()) == []
    d.feed(lost(has_path=True))
    assert d.phase is Phase.HELD
    d = streaming(acks=True)
    d.record(3)
    d.feed(better())
    assert of(CloseSocket, d.feed(lost(has_path=True))) == ABORT


# --- under way, and at rest ------------------------------------------------------------------------------------------


def under_way(phase: Phase) -> Driver:
    """A driver in `phase`, on the way that the protocol takes there."""
    d = Driver()
    if phase in (Phase.STARTING, Phase.OPENING, Phase.GREETING, Phase.INITIALISING):
        d.feed(Attempted())
        steps: list[Callable[[], object]] = [d.tell_started, d.tell_opened, d.open_hello]
    else:
        d.start()
        d.stream(20)
        d.closed()
        if phase in (Phase.FLUSHING, Phase.STOPPING_OLD, Phase.VERIFYING):
            d.wait(115.0)
        d.feed(Attempted())
        steps = [
            lambda: d.polled(connected=True, pending=1),
            lambda: d.wait(3.1) if phase is Phase.TAKING_OVER else d.next_poll(connected=True, pending=0),
            d.tell_stopped,
        ]
    for step in steps:
        if d.phase is phase:
            break
        step()
    assert d.phase is phase
    return d


@pytest.mark.parametrize("phase", sorted(UNDER_WAY, key=str))
def test_an_attempt_on_a_path_that_is_gone_begins_again(phase: Phase) -> None:
    d = under_way(phase)
    carried = LinkChanged(Change.BETTER, "another way", is_carried=True, is_kept=True, has_path=True)
    assert d.feed(carried) == []
    assert d.phase is phase
    had_socket = d.has_socket
    effects = d.feed(lost(has_path=True))
    assert of(CloseSocket, effects) == (ABORT if had_socket else [])
    assert isinstance(over(effects), Unreachable)
    assert str(over(effects)) == "eth0 lost its carrier"
    assert (d.phase, d.has_socket) == (Phase.WAITING, False)


def test_at_rest_it_is_the_retry_policy_that_acts() -> None:
    d = Driver()
    assert d.feed(lost()) == []
    assert d.feed(back()) == []
    assert d.feed(Doubted("it slept")) == []
    assert d.phase is Phase.WAITING


# --- while stopping --------------------------------------------------------------------------------------------------


def stopping(*, acks: bool) -> Driver:
    d = streaming(acks=acks)
    d.status = {}
    d.end()
    d.wait(1.0)
    assert d.phase is Phase.STOPPING
    return d


def test_a_stop_on_a_lost_way_is_asked_about_on_the_next_attempt() -> None:
    d = stopping(acks=False)
    assert d.feed(back()) == []
    effects = d.feed(lost(is_kept=False))
    assert (of(CloseSocket, effects), d.phase) == (ABORT, Phase.WAITING)
    d.status = None
    d.feed(Attempted())
    assert of(StopSession, d.polled(connected=False))  # rule 4: flushed, not trusted


def test_with_acks_all_that_is_acknowledged_needs_no_stop() -> None:
    d = stopping(acks=True)
    effects = d.feed(lost())
    assert (of(CloseSocket, effects), d.phase) == (ABORT, Phase.DONE)


def test_towards_aia_v4_a_stop_whose_address_is_kept_waits() -> None:
    d = stopping(acks=False)
    assert d.feed(lost()) == []
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.DONE
