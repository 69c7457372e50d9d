"""PROTOCOL.md, "Rules of delivery that held": each rule, event by event."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from edge.core.context import Phase
from edge.core.events import (
    Attempted,
    CloseSocket,
    Note,
    OpenSocket,
    PollStatus,
    Release,
    StartSession,
    Stopped,
    StopSession,
)
from edge.errors import NameFailure, Unreachable
from tests.core.driver import FINALIZED, FRAMES, Driver, of, over, packets, texts
from tests.core.simserver import Faults, PlainServer
from tests.core.simworld import World, small_policy

STOP = {"action": "stop_stream"}
PING = {"type": "ping"}


def streaming(count: int = 10, **changes: float) -> Driver:
    d = Driver(**changes)
    d.start()
    d.stream(count)
    return d


# --- 1 ---


def test_rule_1_pongs_of_a_later_socket_need_proof() -> None:
    d = streaming(140)
    d.closed()
    d.reattach()
    d.stream(20)
    d.next_poll()
    assert d.ledger.delivered == 0
    d.alive()
    d.next_poll()
    assert d.ledger.delivered == 150


def test_rule_1_one_sign_of_life_confirms_all_earlier_pongs_and_all_later_ones_of_that_socket() -> None:
    d = streaming(100)
    d.closed()
    d.reattach()
    d.stream(30)
    d.closed()
    d.reattach()
    d.alive()
    d.stream(20)
    d.next_poll()
    assert d.ledger.delivered == 150


def test_rule_1_the_first_socket_needs_no_proof() -> None:
    d = streaming(150)
    assert d.ledger.delivered == 150


# --- 2 ---


def test_rule_2_a_cut_alone_delivers_nothing() -> None:
    d = Driver()
    d.start()
    d.stream(200, pending=1)
    assert d.ledger.delivered == 0
    effects = d.next_poll(pending=0)
    assert of(Release, effects) == [Release(150 * FRAMES)]


def test_rule_2_only_a_poll_started_after_the_barrier_counts() -> None:
    d = Driver()
    d.start()
    d.stream(140, pending=1)
    d.wait(1.0)
    poll = d.polls[-1].poll
    assert poll is not None
    assert poll.surely_cut == 0
    d.pongs = True
    d.record(20)
    d.wait(0.5)
    assert d.session.handled == 160
    d.polled(pending=0)
    assert d.ledger.delivered == 0
    d.next_poll(pending=0)
    assert d.ledger.delivered == 150


def between_two_sockets(**status: Any) -> Driver:
    """Reattached; a cut was handled and pending when the first socket broke, and a poll since then said `status`."""
    d = streaming(140)
    d.stream(20, pending=1)
    d.closed()
    d.feed(Attempted())
    d.polled(**status)
    while d.phase is not Phase.OPENING:
        d.next_poll(connected=False, pending=1)
    d.open()
    assert d.ledger.delivered == 0
    return d


def test_rule_2_pending_zero_between_two_sockets_counts_once_the_session_was_alive_after_it() -> None:
    d = between_two_sockets(connected=False)
    assert of(Release, d.alive()) == [Release(150 * FRAMES)]
    assert not of(Release, d.alive())


def test_rule_2_pending_zero_between_two_sockets_says_nothing_of_a_session_that_was_finalised() -> None:
    d = between_two_sockets(connected=False)
    d.alive(False)
    d.feed(Attempted())
    d.polled(connected=False)
    d.tell(Stopped)
    d.polled(connected=False)
    assert d.ledger.delivered == 0


def test_rule_2_pending_segments_between_two_sockets_count_for_nothing() -> None:
    d = between_two_sockets(connected=False, pending=1)
    assert not of(Release, d.alive())


def test_rule_2_pending_zero_while_the_old_socket_is_still_held_counts_as_well() -> None:
    d = between_two_sockets(connected=True)
    assert of(Release, d.alive()) == [Release(150 * FRAMES)]


def test_rule_2_of_several_polls_between_sockets_each_counts_for_what_it_said() -> None:
    d = between_two_sockets(connected=False)
    d.closed()
    d.feed(Attempted())
    d.polled(connected=False)
    d.open()
    assert of(Release, d.alive()) == [Release(150 * FRAMES)]


def test_rule_2_a_session_that_may_have_been_finalised_proves_nothing_by_pending_zero() -> None:
    d = streaming(140)
    d.closed()
    d.reattach()
    d.alive()
    d.stream(20, pending=1)
    d.now += 108.0  # no sign of life for so long; timers late
    d.polls.clear()
    d.session.tick(d.now)
    d.session.tick(d.now)
    assert d.ledger.delivered == 0


# --- 3 ---


@pytest.mark.parametrize("how", ["poll", "1011", "asked", "1011 at the door"])
def test_rule_3_the_server_died_follow_on_after_the_last_delivered_packet(how: str) -> None:
    d = streaming(170)
    assert d.ledger.delivered == 150
    if how == "poll":
        effects = d.next_poll(exists=False, connected=False)
        assert of(CloseSocket, effects) == [CloseSocket(abort=False)]
        assert over(effects) is None
    elif how == "1011":
        assert over(d.closed(1011, "Session not found")) is None
    else:
        d.closed()
    if d.session.wants_attempt:
        d.feed(Attempted())
    if how == "asked":
        d.polled(exists=False, connected=False)
    elif how == "1011 at the door":
        d.polled(connected=False)
        d.tell_opened()
        d.closed(1011, "Session not found")
    assert d.phase is Phase.STARTING
    d.sent.clear()
    d.start(session_id="s2")
    assert d.sent[0] == 151
    assert [text["next_seq"] for text in d.texts if text.get("type") == "init"] == [1, 151]


def test_rule_3_a_server_that_does_not_know_the_session_it_has_just_opened_is_not_asked_in_a_loop() -> None:
    d = Driver()
    d.record(1)
    d.feed(Attempted())
    d.tell_started()
    d.tell_opened()
    assert isinstance(over(d.closed(1011, "Session not found")), Unreachable)
    assert d.phase is Phase.WAITING
    assert of(StartSession, d.feed(Attempted()))


def test_rule_3_finalised_follow_on_at_the_first_packet_not_proved() -> None:
    d = streaming(170)
    d.alive()
    d.closed()
    d.reattach()
    d.stream(10)  # handled, never proved
    d.alive(False)
    d.feed(Attempted())
    d.polled(connected=False)
    d.tell(Stopped)
    d.polled(connected=False)
    assert d.ledger.delivered == 170


def test_rule_3_pongs_since_the_last_sign_of_life_prove_nothing_of_a_finalised_session() -> None:
    """Somebody stops it while our first socket is open, and that is reset before the close gets through."""
    d = streaming(100)
    d.alive()
    d.pongs = True
    d.record(2)
    d.wait(0.3)
    d.closed()
    d.wait(200.0)
    d.feed(Attempted())
    d.polled(connected=False)
    d.tell(Stopped)
    d.polled(connected=False)
    assert d.ledger.delivered == 100


def test_rule_3_unless_a_cut_may_have_fallen_since_the_last_pending_zero() -> None:
    d = streaming(140)
    d.stream(20, pending=1)
    d.closed()
    d.reattach()
    d.alive(False)
    d.feed(Attempted())
    d.polled(connected=False)
    d.tell(Stopped)
    d.polled(connected=False)
    assert d.ledger.delivered == 0


# --- 4 ---


def stopping_old(pending: int = 0) -> Driver:
    """Beyond grace: the old session is asked about."""
    d = streaming(140)
    d.record(30)
    d.closed()
    d.wait(200.0)
    d.feed(Attempted())
    d.polled(connected=False, pending=pending)
    return d


def test_rule_4_beyond_grace_the_old_session_is_stopped_before_the_next_is_opened() -> None:
    d = stopping_old()
    assert of(StopSession, d.last) == [StopSession("s1")]
    assert not of(StartSession, d.last)
    effects = d.tell(Stopped)
    assert of(PollStatus, effects)
    assert not of(StartSession, effects)
    assert of(StartSession, d.polled(connected=False))


def test_rule_4_it_waits_for_pending_zero_before_it_stops() -> None:
    d = stopping_old(pending=2)
    assert d.phase is Phase.FLUSHING
    for pending in (2, 1):
        effects = d.wait(0.5)
        assert of(PollStatus, effects)
        assert not of(StopSession, d.polled(connected=False, pending=pending))
    d.wait(0.5)
    assert of(StopSession, d.polled(connected=False))


def test_rule_4_a_pending_zero_of_the_dead_delivers_nothing() -> None:
    """A session that was finalised under us has dropped its pending segments: its pending 0 means nothing."""
    d = streaming(140)
    d.stream(20, pending=1)
    d.alive(False)
    d.feed(Attempted())
    d.polled(connected=False, pending=1)
    d.wait(0.5)
    d.polled(connected=False, pending=0)
    assert d.phase is Phase.STOPPING_OLD
    assert d.ledger.delivered == 0


def test_rule_4_the_wait_is_bounded() -> None:
    d = stopping_old(pending=2)
    d.status = {"connected": False, "pending": 2}
    effects = d.wait(60.0)
    assert of(StopSession, effects)
    assert d.phase is Phase.STOPPING_OLD


def test_rule_4_a_poll_from_before_the_stop_does_not_verify_it() -> None:
    d = stopping_old(pending=2)
    d.wait(0.5)
    late = d.session.attempt
    d.wait(60.0)
    assert d.phase is Phase.STOPPING_OLD
    d.tell(Stopped)
    assert d.phase is Phase.VERIFYING
    assert d.feed(d.polled_event(late)) == []
    assert d.phase is Phase.VERIFYING


def test_rule_4_the_stop_may_fail_and_is_repeated() -> None:
    d = stopping_old()
    assert isinstance(over(d.failed(Unreachable("time-out"))), Unreachable)
    d.feed(Attempted())
    assert of(StopSession, d.polled(connected=False))


@pytest.mark.parametrize("phase", ["FLUSHING", "VERIFYING"])
def test_rule_4_polls_may_fail_on_the_way(phase: str) -> None:
    d = stopping_old(pending=2 if phase == "FLUSHING" else 0)
    if phase == "VERIFYING":
        d.tell(Stopped)
    else:
        d.wait(0.5)
    assert d.phase is Phase[phase]
    assert isinstance(over(d.polled(answered=False)), Unreachable)
    d.feed(Attempted())
    assert d.phase is Phase.ASKING


def test_rule_4_a_session_that_died_meanwhile_is_followed_at_once() -> None:
    d = stopping_old(pending=2)
    d.wait(0.5)
    assert of(StartSession, d.polled(exists=False, connected=False))
    assert "session-gone" in [note.kind for note in of(Note, d.last)]


# --- 5 ---


def test_rule_5_reattach_only_once_the_server_has_let_go() -> None:
    d = streaming()
    d.closed()
    d.feed(Attempted())
    assert not of(OpenSocket, d.polled(connected=True))
    assert d.phase is Phase.SETTLING
    for _ in range(3):
        assert of(PollStatus, d.wait(0.25))
        assert not of(OpenSocket, d.polled(connected=True))
    d.wait(0.25)
    assert of(OpenSocket, d.polled(connected=False)) == [OpenSocket("s1")]
    assert d.phase is Phase.OPENING


def test_rule_5_once_it_has_let_go_the_patience_for_it_is_forgotten() -> None:
    d = streaming()
    d.record(1)
    d.closed()
    d.feed(Attempted())
    d.polled(connected=True)
    d.wait(0.25)
    d.polled(connected=False)
    assert d.phase is Phase.OPENING
    assert not d.wait(9.9)
    assert d.wait(0.2)
    assert d.phase is Phase.WAITING


def taking_over() -> Driver:
    """A half-open old socket: still connected after 3 s."""
    d = streaming()
    d.record(3)
    d.closed()
    d.feed(Attempted())
    d.status = {"connected": True}
    d.polled(connected=True)
    effects = d.wait(2.9)
    assert d.phase is Phase.SETTLING
    effects = d.wait(0.1)
    d.status = None
    assert d.phase is Phase.TAKING_OVER
    assert of(OpenSocket, effects)
    return d


def test_rule_5_a_half_open_socket_is_replaced_by_a_sacrificial_one() -> None:
    d = taking_over()
    d.sent.clear()
    d.texts.clear()
    effects = d.open()
    assert of(PollStatus, effects)
    d.polled(connected=True)
    assert of(PollStatus, d.wait(0.25))
    effects = d.polled(connected=False)
    assert of(CloseSocket, effects) == [CloseSocket(abort=False)]
    assert (d.sent, d.texts) == ([], [])  # nothing is sent on it
    d.wait(1.4)
    assert d.phase is Phase.PAUSING
    d.wait(0.1)
    assert d.phase is Phase.ASKING
    assert of(OpenSocket, d.polled(connected=False))
    assert packets(d.open()) == [11, 12, 13]


def test_rule_5_the_sacrificial_socket_only_answers_pings_and_proves_nothing() -> None:
    d = taking_over()
    d.open()
    d.texts.clear()
    d.alive()
    assert d.texts == [{"type": "pong"}]
    d.polled(connected=False)
    d.wait(1.5)
    d.polled(connected=False)
    d.open()
    d.stream(140)
    d.next_poll()
    assert d.ledger.delivered == 0


@pytest.mark.parametrize("code", [1012, 1006, 1000])
def test_rule_5_the_sacrificial_socket_may_be_thrown_out(code: int) -> None:
    d = taking_over()
    d.open()
    d.closed(code)
    assert d.phase is Phase.PAUSING


def test_rule_5_the_takeover_may_fail() -> None:
    d = taking_over()
    assert isinstance(over(d.failed(Unreachable("refused"))), Unreachable)
    d = taking_over()
    d.open()
    d.status = {"answered": False}
    d.polled(answered=False)
    effects = d.wait(6.0)
    assert of(CloseSocket, effects) == [CloseSocket(abort=True)]
    assert d.phase is Phase.WAITING
    d = taking_over()
    d.open()
    effects = d.polled(exists=False, connected=False)
    assert of(CloseSocket, effects)
    assert of(StartSession, effects)


@pytest.mark.parametrize("exists", [None, False])
def test_rule_5_while_settling_the_server_may_vanish(exists: bool | None) -> None:
    d = streaming()
    d.record(1)
    d.closed()
    d.feed(Attempted())
    d.polled(connected=True)
    d.wait(0.25)
    if exists is None:
        assert isinstance(over(d.polled(answered=False)), Unreachable)
    else:
        assert of(StartSession, d.polled(exists=False, connected=False))


# --- 6 ---


def test_rule_6_after_a_reattach_it_looks_for_an_orphan_every_second_later_every_five() -> None:
    d = streaming()
    d.closed()
    d.reattach()
    d.pongs, d.status = True, {}
    d.poll_times.clear()
    for _ in range(6):
        d.wait(10.0)
        d.alive()
    waits = [later - earlier for earlier, later in pairwise(d.poll_times)]
    assert waits[:28] == pytest.approx([1.0] * 28)
    assert waits[31:] == pytest.approx([5.0] * len(waits[31:]))
    assert len(waits) > 34


def test_rule_6_the_first_socket_is_looked_at_too() -> None:
    d = Driver()
    d.start()
    d.wait(1.0)
    assert d.polls
    effects = d.polled(connected=False)
    assert of(CloseSocket, effects)


def test_rule_6_while_something_waits_for_it_the_poll_is_soon() -> None:
    d = Driver()
    d.start()
    d.stream(150, pending=1)
    before = len(d.polls)
    d.wait(1.0)
    assert len(d.polls) == before + 1
    d.polled(pending=0)
    d.pongs = True
    d.wait(4.9)
    assert len(d.polls) == before + 1
    d.wait(0.2)
    assert len(d.polls) == before + 2


# --- 7 ---


def test_rule_7_what_is_unconfirmed_is_bounded() -> None:
    d = Driver()
    d.start()
    assert packets(d.record(50)) == list(range(1, 21))
    assert packets(d.wait(0.2)) == []
    assert packets(d.pong()) == list(range(21, 41))
    d.pong()
    assert d.sent == list(range(1, 51))


def test_rule_7_barriers_come_every_quarter_second_sooner_where_much_waits_for_one() -> None:
    d = streaming()
    assert texts(d.record(1)) == [PING]  # the last barrier is long ago
    d.pong()
    assert PING not in texts(d.record(3))
    d.wait(0.2)
    d.pongs = True
    assert texts(d.wait(0.3)).count(PING) == 1
    assert texts(d.wait(1.0)).count(PING) == 0  # nothing new
    d.pongs = False
    assert texts(d.record(10)).count(PING) == 1
    d.pong()
    assert PING not in texts(d.record(9))
    assert PING in texts(d.record(1))
    d.pong()
    assert PING not in texts(d.record(3))
    assert PING in texts(d.record(7))  # sooner than its time
    d.pongs = True
    d.pong()
    assert PING not in texts(d.wait(0.3))  # which is not kept besides


def test_rule_7_what_is_sent_again_gets_a_barrier_of_its_own() -> None:
    d = streaming()
    d.record(5)
    d.closed()
    assert packets(d.reattach()) == [11, 12, 13, 14, 15]
    d.wait(0.3)
    assert d.texts[-1] == PING
    d.pong()
    assert d.session.handled == 15


def test_rule_7_a_stall_is_noticed_and_repeats_the_bound() -> None:
    d = streaming()
    d.record(40)
    d.wait(1.9)
    assert d.phase is Phase.STREAMING
    effects = d.wait(0.2)
    assert of(CloseSocket, effects) == [CloseSocket(abort=True)]
    assert "stopped answering" in str(over(effects)) if over(effects) else True
    d.sent.clear()
    d.reattach()
    assert d.sent == [11, 12, 13, 14]  # the link may have been too slow for two seconds of audio at once
    d.pongs = True
    d.pong()
    assert d.sent[:20] == list(range(11, 31))
    assert d.ledger.resent_frames == 20 * FRAMES


def test_rule_7_a_barrier_that_came_by_its_timer_is_watched_too() -> None:
    d = streaming()
    d.record(1)
    d.pong()
    d.record(1)
    d.wait(0.2)
    assert d.texts.count(PING) >= 1
    effects = d.wait(4.2)
    assert of(CloseSocket, effects) == [CloseSocket(abort=True)]


def test_rule_7_patience_grows_with_the_round_trip_up_to_10_s() -> None:
    d = streaming()
    d.status = {}
    for _ in range(60):
        assert texts(d.record(1)) == [PING]
        d.wait(1.5)
        d.pong()
        d.alive()
    d.record(1)
    d.wait(9.9)
    assert d.phase is Phase.STREAMING
    d.wait(0.2)
    assert d.phase is Phase.WAITING


def test_rule_7_patience_begins_with_the_question() -> None:
    d = streaming()
    d.status = {}
    d.wait(20.0)
    d.alive()
    effects = d.wait(10.0)
    assert texts(effects) == [PING]  # the heartbeat: 30 s without anything to confirm
    d.wait(0.0)
    assert d.phase is Phase.STREAMING
    d.alive()
    d.wait(5.0)
    assert d.phase is Phase.WAITING


# --- 8 ---


def test_rule_8_at_most_four_cuts_are_sent_since_the_last_pending_zero() -> None:
    d = Driver()
    d.start()
    d.pongs, d.status = True, {"pending": 1}
    d.record(2000)
    d.wait(3.0)
    assert d.sent[-1] == 4 * 145
    d.status = {"pending": 0}
    d.wait(1.0)
    assert d.sent[-1] == 8 * 145
    d.alive()
    d.wait(3.0)
    assert d.sent[-1] == 2000


def test_rule_8_held_while_status_polls_fail_for_a_second() -> None:
    d = streaming()
    d.pongs = True
    d.wait(5.0)
    assert len(d.polls) > 0
    assert packets(d.record(1)) == [11]
    d.wait(1.1)
    assert packets(d.record(1)) == []
    d.polled(answered=False)
    assert packets(d.record(1)) == []
    d.wait(1.0)
    assert packets(d.polled()) == [12, 13]


def test_rule_8_a_new_session_is_not_held_for_the_silence_of_the_last() -> None:
    d = streaming()
    d.until_poll()
    d.wait(2.0)
    assert packets(d.record(1)) == []
    d.closed(1011)
    d.sent.clear()
    d.start(session_id="s2")
    assert d.sent == list(range(1, 12))


def test_rule_8_held_at_half_of_the_servers_limit() -> None:
    d = streaming()
    d.wait(5.0)
    d.polled(pending=10)
    assert packets(d.record(1)) == []
    d.next_poll(pending=1, max_pending=2)
    assert d.sent[-1] == 10
    d.next_poll(pending=9)
    assert d.sent[-1] == 11
    d.wait(1.0)
    assert packets(d.polled(pending=0, max_pending=0) + d.record(1)) == [12]  # a limit of nonsense holds nothing


def test_rule_8_http_dead_for_6_s_while_pongs_flow_is_sigterm() -> None:
    d = streaming()
    d.pongs, d.status = True, {"answered": False}
    d.wait(5.5)
    assert d.phase is Phase.STREAMING
    d.wait(7.0)
    assert STOP in d.texts


def test_rule_8_http_that_answers_again_is_forgiven() -> None:
    d = streaming()
    d.pongs, d.status = True, {"answered": False}
    d.until_poll()
    d.wait(5.0)
    d.status = {}
    d.wait(10.0)
    assert STOP not in d.texts
    assert d.phase is Phase.STREAMING


def test_rule_8_a_name_that_cannot_be_resolved_says_nothing_of_the_server() -> None:
    d = streaming()
    d.pongs, d.status = True, {"answered": False, "failure": NameFailure("the name cannot be resolved")}
    d.wait(12.0)
    assert STOP not in d.texts
    assert d.phase is Phase.STREAMING
    d.status = {"answered": False, "failure": Unreachable("connection refused")}
    d.wait(12.0)
    assert STOP in d.texts


# --- 9 ---


def test_rule_9_it_stops_only_when_all_is_handled_proved_and_pending_is_zero() -> None:
    d = streaming()
    d.closed()
    d.reattach()
    d.record(0, frames=100)
    d.end()
    assert packets(d.wait(0.3)) == []
    assert d.sent[-1] == 11  # the short last packet
    assert STOP not in d.texts
    d.pong()
    d.status = {"pending": 0}
    d.wait(2.0)
    assert STOP not in d.texts  # not proved
    d.status = {"pending": 1}
    d.alive()
    d.wait(3.0)
    assert STOP not in d.texts  # pending
    d.status = {"pending": 0}
    d.wait(0.3)
    assert STOP in d.texts
    assert d.phase is Phase.STOPPING
    effects = d.closed(1000, FINALIZED)
    assert of(Release, effects)
    assert over(effects) is None
    assert d.phase is Phase.DONE


def test_rule_9_the_end_is_not_waited_for_longer_than_needed() -> None:
    d = streaming()
    d.pongs, d.status = True, {}
    d.wait(4.0)
    d.end()
    d.wait(0.3)
    assert d.phase is Phase.STOPPING


def test_rule_9_a_poll_that_is_under_way_is_not_doubled() -> None:
    d = streaming()
    d.pongs = True
    d.record(1)
    d.wait(0.3)
    d.until_poll()
    d.end()
    assert not of(PollStatus, d.wait(0.9))
    d.polled()
    assert d.phase is Phase.STOPPING


def test_rule_9_the_last_poll_is_hastened_and_not_put_off_again() -> None:
    d = streaming()
    d.closed()
    d.record(1)
    d.reattach()
    d.pongs = True
    d.wait(0.3)
    d.end()
    d.next_poll()
    effects = d.alive()
    for _ in range(3):
        effects += d.wait(0.1)
        effects += d.alive()
    assert of(PollStatus, effects)
    d.polled()
    assert d.phase is Phase.STOPPING


def test_rule_9_no_pong_is_expected_during_a_stop_and_no_pong_time_out_applies() -> None:
    d = streaming()
    d.pongs, d.status = True, {}
    d.until_poll()
    d.end()
    assert d.phase is Phase.STOPPING
    assert not d.wait(29.9)
    effects = d.wait(0.2)
    assert of(CloseSocket, effects) == [CloseSocket(abort=True)]
    assert d.phase is Phase.WAITING
    d.status = None
    d.feed(Attempted())
    assert of(StopSession, d.polled(connected=False))  # asked about, flushed
    d.tell(Stopped)
    d.polled(connected=False)
    assert d.phase is Phase.DONE


@pytest.mark.parametrize(("code", "reason"), [(1006, ""), (1000, ""), (1011, "Session not found"), (1012, "finalize")])
def test_rule_9_a_stop_counts_only_with_1000_finalize(code: int, reason: str) -> None:
    d = streaming()
    d.pongs, d.status = True, {}
    d.end()
    d.wait(1.0)
    assert d.phase is Phase.STOPPING
    d.status = None
    effects = d.closed(code, reason)
    assert not of(Release, effects)
    assert d.phase is Phase.WAITING
    d.feed(Attempted())
    assert not of(OpenSocket, d.polled(connected=False))  # never reattach to what may be finalised
    assert d.phase is Phase.STOPPING_OLD


def test_rule_9_the_poll_that_is_on_its_way_does_not_disturb_the_stop() -> None:
    d = streaming()
    d.until_poll()
    d.end()
    assert d.phase is Phase.STOPPING
    assert d.polled(exists=False, connected=False) == []
    assert d.phase is Phase.STOPPING
    assert d.pong() == []
    deadline = d.session.deadline
    for alive in (False, True):
        assert texts(d.alive(alive)) == [{"type": "pong"}]
    assert d.phase is Phase.STOPPING
    assert d.session.deadline == deadline
    assert not d.wait(25.0)


# --- sure cuts, gaps, and all of it together ---


def test_sure_cuts_where_something_was_sent_twice() -> None:
    """25 packets arrive twice, the cut falls 25 packets early, and the server dies right behind what was believed."""
    world = World(small_policy(), faults=Faults(transcribe_s=0.0))
    server = world.server
    assert isinstance(server, PlainServer)
    for _ in range(6):
        world.run(1.9)
        world.network.cut()  # what is handled is not confirmed
        world.run(0.6)
        world.reset()
        world.network.heal()
        world.run(12.0)
        world.check()
    for _ in range(40):
        world.run(0.25)
        world.check()
    server.kill()
    server.restart()
    world.check()
    world.finish()


def test_a_long_gap_begins_a_follow_on_session() -> None:
    d = streaming(7)
    d.pongs, d.status = True, {}
    d.record(0, frames=100)
    d.gap(10.1)
    d.record(5)
    assert d.sent[-1] == 8
    d.wait(5.5)
    assert d.phase is Phase.STOPPING
    effects = d.closed(1000, FINALIZED)
    assert of(StartSession, effects)
    assert not of(CloseSocket, effects)
    d.sent.clear()
    d.start(session_id="s2")
    assert d.sent == [9, 10, 11, 12, 13]
    assert d.session.session_ids == ("s1", "s2")


def test_a_session_that_ended_well_was_progress_even_if_the_next_is_not_opened() -> None:
    d = Driver()
    d.start()
    d.gap(11.0)
    d.record(2)
    d.pongs, d.status = True, {}
    d.wait(0.5)
    d.status = None
    d.closed()
    d.reattach()
    d.status = {}
    d.alive()
    d.wait(3.0)
    assert d.phase is Phase.STREAMING  # the gap was before the first packet: its clock is right
    d.gap(11.0)
    d.record(1)
    d.wait(6.0)
    assert d.phase is Phase.STOPPING
    assert of(StartSession, d.closed(1000, FINALIZED))
    assert over(d.failed(Unreachable("no answer"))) is None


def test_a_shorter_gap_closes_up() -> None:
    d = streaming(7)
    d.pongs, d.status = True, {}
    d.gap(10.0)
    d.record(5)
    d.wait(6.0)
    assert d.phase is Phase.STREAMING
    assert d.sent[-1] == 12


def test_behind_a_long_gap_without_audio_no_session_is_opened_until_there_is_some() -> None:
    d = streaming(7)
    d.pongs, d.status = True, {}
    d.gap(11.0)
    d.wait(6.0)
    effects = d.closed(1000, FINALIZED)
    assert over(effects) is None
    assert d.phase is Phase.IDLE
    assert not d.session.wants_attempt
    d.gap(5.0)
    assert d.phase is Phase.IDLE
    d.record(0, frames=10)
    assert d.phase is Phase.IDLE
    d.record(1)
    assert d.session.wants_attempt
    d.start(session_id="s2")
    assert d.sent[-1] == 8


def test_behind_a_long_gap_the_end_may_come() -> None:
    d = streaming(7)
    d.pongs, d.status = True, {}
    d.gap(11.0)
    d.wait(6.0)
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.IDLE
    d.end()
    assert d.phase is Phase.DONE


def test_gaps_are_no_message_to_an_aia_server() -> None:
    d = streaming(7)
    assert texts(d.gap(1.0) + d.record(5)) == [PING]
