"""The session as people and the shell see it: states, refusals, stale attempts, and its table of transitions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from edge.core.context import Context, Phase
from edge.core.events import (
    Ack,
    Attempted,
    Backpressure,
    ClockChanged,
    CloseSocket,
    Doubted,
    Event,
    Failed,
    GaveUp,
    Hello,
    LinkChanged,
    Note,
    OfAttempt,
    Opened,
    OpenSocket,
    Pinged,
    Polled,
    PollStatus,
    Pong,
    Refused,
    SendText,
    SocketClosed,
    Started,
    StartSession,
    Stopped,
    Supplied,
    Unknown,
)
from edge.core.link import Change
from edge.core.packet import AudioFormat
from edge.core.session import TIMERS, TRANSITIONS, Session, State
from edge.core.timebase import Anchor
from edge.errors import InternalError, NameFailure, ServerRefused, TokenRefused, Unreachable
from tests.core.driver import FINALIZED, Driver, of, over, policy, texts

EXAMPLES: tuple[Event, ...] = (
    Attempted(),
    GaveUp("10 attempts"),
    Refused(TokenRefused("expired")),
    Supplied(),
    ClockChanged(Anchor("b", 1.0, trusted=True)),
    LinkChanged(Change.LOST, "eth0 lost its carrier", is_carried=False, is_kept=True, has_path=False),
    Doubted("it slept"),
    Started(0, "s1"),
    Stopped(0),
    Failed(0, Unreachable("no")),
    Polled(0, None, answered=False),
    Opened(0),
    SocketClosed(0, 1006, ""),
    Hello(0, False),
    Pong(0),
    Ack(0, 1),
    Pinged(0, None),
    Backpressure(0),
    Unknown(0, {}),
)


# --- what people see ---


def test_states_of_a_whole_life() -> None:
    d = Driver()
    assert (d.session.state, d.session.wants_attempt) == (State.CONNECTING, True)
    d.feed(Attempted())
    assert (d.session.state, d.phase, d.session.wants_attempt) == (State.CONNECTING, Phase.STARTING, False)
    d.tell(Started, "s1")
    assert d.session.state is State.CONNECTING
    d.open()
    assert d.phase is Phase.INITIALISING
    assert [note.kind for note in of(Note, d.pong())] == ["connected"]
    assert (d.session.state, d.session.reconnects, d.session.session_ids) == (State.CONNECTED, 0, ("s1",))
    d.stream(3)
    d.closed()
    assert d.session.state is State.RECONNECTING
    d.reattach()
    assert (d.session.state, d.session.reconnects) == (State.CONNECTED, 1)
    d.alive()
    d.end()
    assert (d.phase, d.session.state) == (Phase.STOPPING, State.CONNECTED)
    d.closed(1000, FINALIZED)
    assert (d.phase, d.session.state, d.session.failure) == (Phase.DONE, State.DISCONNECTED, None)
    assert d.session.deadline is None
    assert not d.session.wants_attempt


def test_an_attempt_that_confirmed_something_ends_without_an_error() -> None:
    d = Driver()
    d.start()
    d.stream(3)
    assert over(d.closed()) is None
    assert isinstance(over(d.reattach_fails()), Unreachable)


def test_what_was_lost_is_said_with_code_and_reason() -> None:
    d = Driver()
    d.start()
    assert str(over(d.closed(1012, "replaced"))) == "the connection was lost (1012 replaced)"
    d = Driver()
    d.start()
    assert str(over(d.closed(1006))) == "the connection was lost (1006)"


@pytest.mark.parametrize("refusal", [ServerRefused("the agent is unknown"), ServerRefused("409")])
def test_a_refusal_is_shown_as_what_it_is_while_it_is_probed(refusal: ServerRefused) -> None:
    d = Driver()
    d.feed(Attempted())
    assert over(d.failed(refusal)) is refusal
    assert (d.session.state, d.session.failure, d.phase) == (State.FAILED, refusal, Phase.FAILED)
    assert d.session.wants_attempt
    d.feed(Attempted())
    assert (d.session.state, d.session.failure) == (State.FAILED, refusal)
    d.tell(Started, "s1")
    d.open()
    assert d.session.state is State.FAILED
    d.pong()
    assert (d.session.state, d.session.failure) == (State.CONNECTED, None)
    d.closed()
    assert (d.session.state, d.session.failure) == (State.RECONNECTING, None)


def test_a_probe_that_fails_otherwise_does_not_hide_the_refusal() -> None:
    d = Driver()
    d.feed(Attempted())
    d.failed(ServerRefused("409"))
    d.feed(Attempted())
    assert isinstance(over(d.failed(Unreachable("no way"))), Unreachable)
    assert str(d.session.failure) == "409"


def test_a_refused_attempt_is_noted_by_its_error_alone_a_lost_one_by_a_note() -> None:
    d = Driver()
    d.feed(Attempted())
    assert [note.kind for note in of(Note, d.failed(Unreachable("no way")))] == ["lost"]
    d.feed(Attempted())
    assert of(Note, d.failed(ServerRefused("409"))) == []


def test_attempts_that_are_used_up_are_a_failure_until_audio_flows() -> None:
    d = Driver()
    d.feed(Attempted())
    d.failed(Unreachable("no way"))
    d.feed(GaveUp("no way (10 attempts)"))
    assert (d.session.state, str(d.session.failure)) == (State.FAILED, "no way (10 attempts)")
    assert d.phase is Phase.FAILED
    assert d.session.wants_attempt
    d.start()
    assert d.session.state is State.CONNECTED


def test_a_socket_that_closes_before_hello_without_a_word_is_a_bad_token() -> None:
    d = Driver()
    d.feed(Attempted())
    d.tell(Started, "s1")
    d.tell(Opened)
    error = over(d.closed(1000))
    assert isinstance(error, TokenRefused)
    assert "token" in str(error)
    d.feed(Refused(error))
    assert (d.session.state, d.session.failure) == (State.FAILED, error)


def test_a_refused_token_is_a_failure_only_once_no_other_can_be_had() -> None:
    d = Driver()
    d.feed(Attempted())
    error = TokenRefused("expired")
    effects = d.failed(error)
    assert over(effects) is error
    assert of(Note, effects) == []
    assert (d.phase, d.session.state, d.session.failure) == (Phase.WAITING, State.CONNECTING, None)
    d.feed(Attempted())
    d.failed(error)
    d.feed(Refused(error))
    assert (d.phase, d.session.state, d.session.failure) == (Phase.FAILED, State.FAILED, error)
    assert d.session.wants_attempt
    d.feed(Attempted())
    d.failed(TokenRefused("expired, too"))
    other = TokenRefused("there is no other")
    d.feed(Refused(other))
    assert (d.phase, d.session.failure) == (Phase.FAILED, other)
    d.start()
    assert (d.session.state, d.session.failure) == (State.CONNECTED, None)


@pytest.mark.parametrize(("code", "reason"), [(1000, "finalize"), (1012, ""), (1006, ""), (1008, "exists")])
def test_any_other_end_before_hello_is_worth_another_try(code: int, reason: str) -> None:
    d = Driver()
    d.feed(Attempted())
    d.tell(Started, "s1")
    d.tell(Opened)
    assert isinstance(over(d.closed(code, reason)), Unreachable)
    assert d.session.state is State.CONNECTING


def test_a_crash_behind_hello_is_no_refusal() -> None:
    d = Driver()
    d.feed(Attempted())
    d.tell(Started, "s1")
    d.open()
    assert isinstance(over(d.closed(1000)), Unreachable)


def test_nothing_recorded_nothing_to_deliver() -> None:
    d = Driver()
    d.gap(1.0)
    d.end()
    assert d.phase is Phase.DONE
    d = Driver()
    d.start()
    d.end()
    d.next_poll() if d.phase is Phase.STREAMING else None
    assert d.phase is Phase.STOPPING
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.DONE


def test_all_may_turn_out_to_be_delivered_while_waiting() -> None:
    for fail in (False, True):
        d = Driver()
        d.start()
        d.stream(3)
        d.alive()
        d.closed(1000, FINALIZED)
        if fail:
            d.feed(GaveUp("no"))
        d.end()
        assert d.phase is Phase.DONE


def test_a_session_that_is_not_needed_is_not_opened() -> None:
    d = Driver()
    d.start()
    d.stream(3)
    d.alive()
    d.closed(1000, FINALIZED)
    effects = d.feed(Attempted())
    assert over(effects) is None
    assert not of(StartSession, effects)
    assert (d.phase, d.session.state) == (Phase.IDLE, State.DISCONNECTED)


def test_an_ended_recording_that_is_delivered_ends_the_attempt() -> None:
    d = Driver()
    d.record(3)
    d.feed(Attempted())
    d.tell(Started, "s1")
    d.end()
    d.tell(Opened)
    d.tell(Hello, True, 4)
    assert d.ledger.delivered == 3
    d.closed()
    assert d.phase is Phase.DONE


def test_a_connection_is_opened_before_the_first_packet_is_full() -> None:
    d = Driver()
    assert of(StartSession, d.feed(Attempted()))


def test_cursors_that_people_see() -> None:
    d = Driver()
    assert (d.session.handled, d.session.pending_segments) == (0, 0)
    d.feed(Attempted())
    d.tell(Started, "s1")
    assert d.session.handled == 0
    d.open()
    d.pong()
    d.stream(160, pending=3)
    assert (d.session.handled, d.session.pending_segments) == (160, 3)
    d.next_poll(pending=0)
    d.closed(1011)
    assert (d.session.handled, d.ledger.delivered) == (150, 150)


# --- the shell ---


def test_reports_of_a_stale_attempt_are_dropped() -> None:
    d = Driver()
    d.start()
    d.record(5)
    stale = d.session.attempt
    d.closed()
    d.reattach()
    before = (d.phase, d.session.handled, d.session.attempt)
    for example in EXAMPLES:
        if isinstance(example, OfAttempt):
            assert d.feed(replace(example, attempt=stale)) == []
    assert (d.phase, d.session.handled, d.session.attempt) == before


def test_a_late_close_of_the_old_socket_does_not_kill_the_recovered_session() -> None:
    d = Driver()
    d.start()
    stale = d.session.attempt
    d.alive(False)
    d.feed(Attempted())
    assert d.feed(SocketClosed(stale, 1006, "")) == []
    assert d.phase is Phase.ASKING


@pytest.mark.parametrize("phase", list(Phase))
def test_an_illegal_event_raises(phase: Phase) -> None:
    for example in EXAMPLES:
        d = Driver()
        d.session._context.phase = phase
        if type(example) not in TRANSITIONS[phase]:
            with pytest.raises(InternalError, match=f"cannot happen while {phase.name}"):
                d.feed(example)


def test_every_phase_knows_what_it_does_with_new_audio() -> None:
    assert set(TRANSITIONS) == set(Phase)
    for phase, rows in TRANSITIONS.items():
        assert Supplied in rows, phase
        assert {ClockChanged, LinkChanged, Doubted} <= set(rows), phase


def test_while_a_socket_is_open_the_server_may_say_anything() -> None:
    talk = {Hello, Pong, Ack, Pinged, Backpressure, Unknown, SocketClosed}
    phases = (Phase.GREETING, Phase.INITIALISING, Phase.STREAMING, Phase.HELD, Phase.MOVING, Phase.STOPPING)
    for phase in (*phases, Phase.TAKING_OVER):
        assert talk <= set(TRANSITIONS[phase]), phase


def test_a_step_that_leaves_the_table_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def astray(c: Context, event: Event, now: float) -> None:
        c.phase = Phase.DONE

    monkeypatch.setitem(TRANSITIONS[Phase.WAITING], Attempted, (astray, frozenset()))
    with pytest.raises(InternalError, match="Attempted must not lead from WAITING to DONE"):
        Driver().feed(Attempted())


def test_a_phase_without_a_session_cannot_ask_for_it() -> None:
    c = Driver().session._context
    with pytest.raises(InternalError, match="no session while WAITING"):
        _ = c.known
    d = Driver()
    d.feed(Attempted())
    d.tell(Started, "s1")
    with pytest.raises(InternalError, match="no hello yet while OPENING"):
        _ = d.session._context.delivery


def test_a_tick_before_its_time_does_nothing() -> None:
    d = Driver()
    assert d.session.tick(d.now) == []
    d.start()
    deadline = d.session.deadline
    assert deadline is not None
    assert d.session.tick(deadline - 0.001) == []
    assert d.session.deadline == deadline


def test_timers_that_are_due_together_act_one_by_one() -> None:
    """A poll and the stall's end, both overdue: the poll belongs to the attempt that asked, not to the next one."""
    d = Driver()
    d.start()
    d.record(3)
    d.wait(0.3)
    attempt = d.session.attempt
    late = d.now + 60.0
    seen = []
    while d.session.deadline is not None and d.session.deadline <= late:
        number = d.session.attempt
        effects = d.session.tick(late)
        seen += [(d.session.attempt, effect) for effect in effects if isinstance(effect, PollStatus)]
        assert number == attempt or not effects
    assert [number for number, _ in seen] == [attempt]
    assert d.phase in (Phase.WAITING, Phase.PAUSING)


def test_every_timer_has_its_row() -> None:
    assert {timer.name for timer in TIMERS} == {
        "CONNECT", "SETTLE", "POLL", "PAUSE", "FLUSH", "STOP", "BARRIER", "STALL", "HEARTBEAT", "PROOF", "HTTP_DEAD",
        "RETURN", "MOVE",
    }  # fmt: skip


def test_pings_are_answered_wherever_there_is_a_socket() -> None:
    d = Driver()
    d.feed(Attempted())
    d.tell(Started, "s1")
    d.tell(Opened)
    for _ in range(2):
        for alive in (None, True, False):
            assert texts(d.alive(alive)) == [{"type": "pong"}]
        if d.phase is Phase.GREETING:
            d.tell(Hello, False)
    assert d.phase is Phase.INITIALISING


def test_what_the_server_says_besides_is_passed_on() -> None:
    d = Driver()
    d.start()
    message = {"type": "warning", "event": "no_audio_detected"}
    assert d.tell(Unknown, message) == [Note("message", "", message)]


def test_nonsense_of_the_server_costs_nothing_that_was_safe() -> None:
    d = Driver()
    d.start()
    d.stream(160)
    assert d.ledger.delivered == 150
    for nonsense in (
        Hello(d.session.attempt, True, 1),
        Ack(d.session.attempt, 5),
        Ack(d.session.attempt, 4_000_000_000),
    ):
        assert d.feed(nonsense) == []
    assert d.pong(5) == []
    assert (d.session.handled, d.ledger.delivered, d.phase) == (160, 150, Phase.STREAMING)
    for phase_nonsense in (Ack, Hello, Backpressure):
        e = Driver()
        e.feed(Attempted())
        e.tell(Started, "s1")
        e.open()
        assert e.tell(phase_nonsense, *{Ack: (5,), Hello: (True, 9), Backpressure: ()}[phase_nonsense]) == []
        assert e.phase is Phase.INITIALISING


def test_a_poll_without_its_memory_concludes_nothing() -> None:
    d = Driver()
    d.start()
    d.stream(160, pending=1)
    d.until_poll()
    d.tell(Polled, None, answered=True, exists=True, connected=True, pending=0)
    assert d.ledger.delivered == 0
    assert d.session.pending_segments == 0


def test_connecting_has_one_time_out_over_all_its_steps() -> None:
    d = Driver()
    d.feed(Attempted())
    assert d.session.deadline is None  # the request brings its own
    d.tell(Started, "s1")
    began = d.now
    d.wait(4.0)
    d.tell(Opened)
    d.wait(4.0)
    d.tell(Hello, False)
    assert d.session.deadline == began + 10.0
    effects = d.wait(2.0)
    assert of(CloseSocket, effects) == [CloseSocket(abort=True)]
    assert "10 s" in str(over(effects))


def test_a_request_that_hangs_in_asking_is_the_shells_to_end() -> None:
    d = Driver()
    d.start()
    d.record(1)
    d.closed()
    d.feed(Attempted())
    d.wait(30.0)
    assert d.phase is Phase.ASKING
    assert isinstance(over(d.polled(answered=False)), Unreachable)
    assert d.phase is Phase.WAITING


def test_why_nobody_could_be_asked_is_told_by_its_name() -> None:
    d = Driver()
    d.start()
    d.record(1)
    assert of(Note, d.closed()) == [Note("lost", "the connection was lost (1006)")]
    d.feed(Attempted())
    effects = d.polled(answered=False, failure=NameFailure("the name cannot be resolved"))
    assert isinstance(over(effects), NameFailure)
    assert of(Note, effects) == [Note("lost", "dns: the name cannot be resolved", {"trouble": "dns"})]


def test_the_heartbeat_keeps_an_idle_session() -> None:
    d = Driver()
    d.start()
    d.pongs, d.status = True, {}
    sent = []
    for _ in range(20):
        sent += texts(d.wait(10.0))
        d.alive()
    assert [text for text in sent if text == {"type": "ping"}] == [{"type": "ping"}] * 6


def test_a_retry_while_failed_goes_on_where_it_was() -> None:
    d = Driver()
    d.start()
    d.stream(5)
    d.closed()
    d.feed(GaveUp("no"))
    d.feed(Attempted())
    assert of(OpenSocket, d.polled(connected=False)) == [OpenSocket("s1")]


# --- numbers ---


def test_the_policys_numbers() -> None:
    p = policy()
    assert (p.window, p.packet_s, p.sure_grace) == (20, 0.1, pytest.approx(108.0))
    assert (p.cuts.packet_ms, p.cuts.target_ms) == (100, 15000)
    assert policy(max_unconfirmed=0.01).window == 1
    assert (p.stall_timeout(0.1), p.stall_timeout(0.75), p.stall_timeout(9.0)) == (2.0, 6.0, 10.0)
    assert p.stall_timeout(math.nan) == 10.0  # nobody knows yet how long an answer takes


def test_cuts_are_counted_by_the_duration_that_the_header_states() -> None:
    """220 frames at 11025 Hz are 19.95 ms; the header says 20, and the server adds that up."""
    p = policy(audio=AudioFormat(11025, 1), packet_frames=220)
    assert p.cuts.packet_ms == 20


def test_a_session_is_made_of_a_ledger_and_a_policy() -> None:
    d: Any = Driver()
    assert isinstance(d.session, Session)
    assert d.session.attempt == 0
    assert d.session.failure is None
    assert SendText({"type": "ping"}) == SendText({"type": "ping"})
