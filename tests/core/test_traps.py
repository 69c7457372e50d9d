"""PROTOCOL.md, "Reattach: the traps": what the session does in each, event by event."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge.core.context import Phase
from edge.core.events import (
    Attempted,
    Backpressure,
    CloseSocket,
    Hello,
    Note,
    Opened,
    OpenSocket,
    PollStatus,
    Pong,
    Release,
    SendText,
    StartSession,
    Stopped,
    StopSession,
    Unknown,
)
from edge.core.session import State
from edge.errors import Unreachable
from tests.core.driver import FINALIZED, Driver, of, over, packets, texts
from tests.core.simserver import Faults
from tests.core.simworld import World, small_policy


def streaming(count: int = 10) -> Driver:
    """The first socket of a session; `count` packets are handled."""
    d = Driver()
    d.start()
    d.stream(count)
    return d


def reattached(count: int = 10) -> Driver:
    """The second socket, not proven yet."""
    d = streaming(count)
    d.closed()
    d.reattach()
    return d


# --- 1 ---


def test_trap_1_takeover_orphans_the_new_socket() -> None:
    d = reattached()
    d.record(3)
    d.wait(0.3)
    d.pong()
    d.wait(0.8)
    effects = d.polled(connected=False)
    assert of(CloseSocket, effects) == [CloseSocket(abort=False)]
    assert [note.kind for note in of(Note, effects)] == ["orphan"]
    assert d.phase is Phase.PAUSING
    assert not d.wait(1.4)
    assert of(PollStatus, d.wait(0.2))
    assert d.phase is Phase.ASKING
    d.polled(connected=False)
    assert packets(d.open() + d.record(1)) == [14]  # what was confirmed on the orphan is kept


def test_trap_1_an_orphan_gets_no_t_ping_for_25_s() -> None:
    d = reattached()
    d.pongs, d.status = True, {"connected": True}
    d.wait(10.0)
    d.alive()
    d.alive(None)
    d.wait(24.0)
    assert d.phase is Phase.STREAMING
    effects = d.wait(1.1)
    assert of(CloseSocket, effects) == [CloseSocket(abort=False)]
    assert "orphan" in [note.kind for note in of(Note, effects)]
    assert d.phase is Phase.PAUSING


def test_trap_1_nor_was_there_ever_a_t_ping() -> None:
    for d in (reattached(), streaming()):
        d.pongs, d.status = True, {}
        d.wait(20.5)
        assert d.phase is Phase.STREAMING if d.session.reconnects else True
        d.wait(4.6)
        assert d.phase in (Phase.PAUSING, Phase.ASKING)


def test_trap_1_the_first_dial_may_have_been_a_takeover_too() -> None:
    """The first handshake got lost on its way back: the server holds that socket, and the next one replaces it."""
    d = Driver()
    d.feed(Attempted())
    d.tell_started()
    d.failed(Unreachable("time-out"))
    d.feed(Attempted())
    d.open()
    d.pong()
    d.stream(150)
    assert not of(Release, d.next_poll())  # not proven
    d.alive()
    assert of(Release, d.next_poll())


def test_trap_1_cured_in_the_simulated_world() -> None:
    world = World(small_policy(), faults=Faults(cleanup_s=1.0))
    world.run(5.0)
    world.network.cut()
    world.run(15.0)
    world.network.heal()
    world.run(25.0)
    world.check()
    assert world.session.state is State.CONNECTED
    assert "takeover" in world.notes
    world.finish()
    assert len(world.session.session_ids) == 1


# --- 2 ---


def test_trap_2_init_is_never_sent_again() -> None:
    d = streaming()
    d.closed()
    assert "init" not in [text.get("type") for text in texts(d.reattach())]


def test_trap_2_an_unconfirmed_init_is_sent_again_before_any_audio() -> None:
    d = Driver()
    d.feed(Attempted())
    d.tell_started()
    d.record(5)
    assert [text["type"] for text in texts(d.open())] == ["init", "ping"]
    d.closed()
    assert not d.sent
    effects = d.reattach()
    assert [text["type"] for text in texts(effects)] == ["init", "ping"]
    assert packets(effects) == []
    assert packets(d.pong()) == [1, 2, 3, 4, 5]


# --- 3 ---


def test_trap_3_a_dead_session_answers_pongs_but_keeps_nothing() -> None:
    d = streaming(100)
    d.alive()
    d.closed()
    d.reattach()
    d.pongs = True
    d.record(30)
    d.wait(0.5)
    assert d.session.handled == 130
    effects = d.alive(False)
    assert of(CloseSocket, effects) == [CloseSocket(abort=False)]
    assert d.phase is Phase.WAITING
    d.feed(Attempted())
    d.polled(connected=False)
    assert d.phase is Phase.STOPPING_OLD
    d.tell(Stopped)
    effects = d.polled(connected=False)
    assert of(StartSession, effects)
    assert of(Release, effects)  # the tail was flushed, no cut may be open: 100 are delivered
    assert d.ledger.delivered == 100
    d.sent.clear()
    d.start(session_id="s2")
    assert d.sent[:2] == [101, 102]


def test_trap_3_pongs_between_two_signs_of_which_the_last_is_bad_may_lie() -> None:
    d = streaming(100)
    d.alive()
    d.pongs = True
    d.record(3)
    d.wait(0.3)
    assert d.session.handled == 103
    d.alive(False)
    d.feed(Attempted())
    d.polled(connected=False)
    d.tell(Stopped)
    d.polled(connected=False)
    assert d.ledger.delivered == 100


def test_trap_3_near_the_end_of_grace_it_asks_instead_of_assuming() -> None:
    d = streaming(100)
    d.closed()
    d.wait(0.9 * 120)
    d.feed(Attempted())
    effects = d.polled(connected=False)
    assert of(StopSession, effects) == [StopSession("s1")]
    assert not of(OpenSocket, effects)


def test_trap_3_within_grace_it_reattaches() -> None:
    d = streaming(100)
    d.alive()
    d.closed()
    d.wait(0.9 * 120 - 0.5)
    d.feed(Attempted())
    assert of(OpenSocket, d.polled(connected=False)) == [OpenSocket("s1")]


def test_trap_3_resumed_is_no_proof_of_life() -> None:
    d = streaming(150)
    d.closed()
    d.feed(Attempted())
    d.polled(connected=False)
    d.tell(Opened)
    assert [note.message for note in of(Note, d.tell(Unknown, {"type": "status", "state": "RESUMED"}))] == [
        {"type": "status", "state": "RESUMED"}
    ]
    d.tell(Hello, False)
    assert not of(Release, d.next_poll())


# --- 4 ---


def test_trap_4_an_unsolicited_finalize_means_a_follow_on_session() -> None:
    d = streaming(100)
    d.alive()
    d.record(3)
    effects = d.closed(1000, FINALIZED)
    assert of(Release, effects)
    over(effects)
    assert d.ledger.delivered == 100
    assert d.session.wants_attempt
    assert of(StartSession, d.feed(Attempted()))
    d.sent.clear()
    d.start(session_id="s2")
    assert d.sent == [101, 102, 103]
    assert [text["next_seq"] for text in d.texts if text.get("type") == "init"] == [1, 101]
    assert d.session.session_ids == ("s1", "s2")


def test_trap_4_pongs_since_the_last_sign_of_life_may_have_been_a_dead_sessions() -> None:
    d = streaming(100)
    d.alive()
    d.pongs = True
    d.record(3)
    d.wait(0.3)
    assert d.session.handled == 103
    d.closed(1000, FINALIZED)
    assert d.ledger.delivered == 100


def test_trap_4_where_a_cut_may_be_open_the_follow_on_begins_behind_what_is_delivered() -> None:
    d = Driver()
    d.start()
    d.stream(200, pending=1)
    d.alive()
    d.closed(1000, FINALIZED)
    assert d.ledger.delivered == 0


# --- 5 ---


def test_trap_5_one_socket_ever_and_the_old_one_is_closed_first() -> None:
    """Every test here checks it (Driver); this one goes through each way in which a socket ends."""
    d = streaming()
    ends: tuple[Callable[[], object], ...] = (lambda: d.closed(), lambda: d.alive(False), lambda: d.tell(Backpressure))
    for end in ends:
        d.status = {"connected": False}
        d.record(3)
        end()
        assert not d.has_socket
        d.feed(Attempted())
        if d.phase is Phase.STOPPING_OLD:
            d.tell(Stopped)
            d.tell_started("s2")
        d.status = None
        d.open()
        if d.phase is Phase.INITIALISING:
            d.pong()
        assert d.phase is Phase.STREAMING


def test_trap_5_every_wait_for_an_answer_has_an_end() -> None:
    d = Driver()
    d.feed(Attempted())
    d.tell_started()
    for step in (lambda: None, lambda: d.open()):
        step()
        assert d.session.deadline is not None
        assert d.session.deadline <= d.now + 10.0
    effects = d.wait(10.0)
    assert of(CloseSocket, effects) == [CloseSocket(abort=True)]
    assert "10 s" in str(over(effects))
    assert d.phase is Phase.WAITING


# --- 6 ---


def test_trap_6_after_a_rejection_no_pong_is_believed_and_the_socket_is_closed() -> None:
    d = streaming(10)
    d.record(5)
    attempt = d.session.attempt
    effects = d.tell(Backpressure)
    assert of(CloseSocket, effects) == [CloseSocket(abort=False)]
    assert d.session.handled == 10
    assert d.feed(Pong(attempt)) == []
    assert d.session.handled == 10
    assert d.session.pending_segments == 20


def test_trap_6_catch_up_waits_until_the_backlog_is_transcribed() -> None:
    d = streaming(10)
    d.record(5)
    d.tell(Backpressure)
    d.feed(Attempted())
    d.polled(connected=False, pending=12)
    effects = d.open()
    assert packets(effects) == []
    d.wait(1.0)
    assert packets(d.polled(pending=10)) == []
    d.wait(1.0)
    assert packets(d.polled(pending=9)) == [11, 12, 13, 14, 15]


def test_trap_6_the_first_rejections_close_the_socket_without_a_word() -> None:
    d = streaming(10)
    d.record(5)
    d.closed(1000)
    assert d.phase is Phase.WAITING
    assert d.session.failure is None  # no refusal: hello had come
    d.feed(Attempted())
    d.polled(connected=False)
    d.sent.clear()
    d.open()
    assert d.sent == [11, 12, 13, 14, 15]


def test_trap_6_a_smaller_limit_of_the_server_is_respected() -> None:
    world = World(small_policy(), faults=Faults(max_pending=2, transcribe_s=1.0))
    world.run(60.0)
    world.finish()


# --- 7 ---


def test_trap_7_sigterm_http_dead_while_pongs_flow_means_stop_stream() -> None:
    d = streaming(100)
    d.pongs = True
    d.until_poll()
    d.record(5)  # in the second before sending is held
    effects = []
    while d.phase is Phase.STREAMING:
        effects += d.wait(0.5)
        if d.owes_poll:
            d.polled(answered=False)
    assert d.poll_times[-1] - d.poll_times[0] < 15
    assert {"action": "stop_stream"} in texts(effects)
    assert d.phase is Phase.STOPPING
    d.record(1)
    assert of(StartSession, d.closed(1000, FINALIZED))
    assert d.ledger.delivered == 105  # no cut may be open: flushed, all of it


def sigterm(pending: int) -> Driver:
    """Until stop_stream is sent; 200 packets, pending as told."""
    d = Driver()
    d.start()
    d.stream(200, pending=pending)
    d.pongs = True
    d.until_poll()
    while d.phase is Phase.STREAMING:
        d.wait(0.5)
    assert d.texts[-1] == {"action": "stop_stream"}
    return d


def test_trap_7_where_a_cut_may_be_open_its_stop_delivers_nothing() -> None:
    d = sigterm(pending=1)
    d.closed(1000, FINALIZED)
    assert d.ledger.delivered == 0


def test_trap_7_a_late_pong_counts() -> None:
    d = sigterm(pending=0)
    assert d.ledger.delivered == 150
    d = Driver()
    d.start()
    d.stream(100)
    d.pongs = True
    d.until_poll()
    d.wait(5.0)
    d.pongs = False
    d.polled(answered=False)
    d.wait(0.9)
    d.pong()  # nobody asked
    d.wait(0.5)
    d.pong()
    d.wait(2.0)
    assert d.phase is Phase.STOPPING
    d.closed(1000, FINALIZED)
    assert d.ledger.delivered == 100


def test_trap_7_pongs_from_before_the_silence_prove_nothing() -> None:
    d = streaming(10)
    d.pongs = True
    d.wait(3.7)
    d.record(1)
    d.wait(0.1)
    assert d.session.handled == 11
    d.until_poll()
    d.pongs = False
    d.wait(20.0)
    assert {"action": "stop_stream"} not in d.texts
    assert d.phase is Phase.WAITING


def test_trap_7_held_back_it_asks_before_it_believes_that_pongs_flow() -> None:
    d = streaming(10)
    d.pongs = True
    d.until_poll()  # nobody answers it
    before = len(d.texts)
    assert d.phase is Phase.STREAMING
    d.wait(7.5)
    assert {"type": "ping"} in d.texts[before:]
    assert {"action": "stop_stream"} in d.texts[before:]


def test_trap_7_in_a_black_hole_nothing_is_stopped() -> None:
    d = streaming(10)
    d.until_poll()
    effects = d.wait(20.0)
    assert {"action": "stop_stream"} not in d.texts
    assert of(CloseSocket, effects) == [CloseSocket(abort=True)]
    assert d.phase is Phase.WAITING


def test_trap_7_in_the_simulated_world() -> None:
    world = World(small_policy())
    world.run(20.0)
    world.server.terminate()
    world.run(29.0)
    assert "server-stopping" in world.notes
    world.finish()
    assert len(world.session.session_ids) == 2


# --- 8 ---


def test_trap_8_exists_is_no_proof_of_life() -> None:
    d = Driver()
    d.start()
    d.stream(150, pending=1)
    d.closed()
    d.reattach()
    for _ in range(3):
        d.next_poll()
    assert d.ledger.delivered == 0
    d.alive()
    d.next_poll()
    assert d.ledger.delivered == 150


def test_trap_8_after_a_stop_exists_says_that_it_was_flushed() -> None:
    for exists, delivered in ((True, 100), (False, 0)):
        d = streaming(100)
        d.alive()
        d.record(1)
        d.closed()
        d.wait(200.0)
        d.feed(Attempted())
        d.polled(connected=False)
        d.tell(Stopped)
        assert of(StartSession, d.polled(exists=exists, connected=False))
        assert d.ledger.delivered == delivered


# --- 9 ---


def test_trap_9_we_never_pause_the_server() -> None:
    """The simulated server refuses every message but ping, pong, init and stop_stream."""
    world = World(small_policy(), faults=Faults(says_resumed=True))
    for seconds in (5.0, 15.0, 80.0):
        world.run(8.0)
        world.network.cut()
        world.run(seconds)
        world.network.heal()
    world.server.terminate()
    world.finish()


# --- 10 ---


def test_trap_10_after_a_takeover_http_may_stall_for_2_s() -> None:
    d = streaming(10)
    d.closed()
    d.feed(Attempted())
    d.polled(connected=True)
    d.status = {"connected": True}
    d.wait(3.0)
    assert d.phase is Phase.TAKING_OVER
    d.status = None
    d.open()
    d.wait(2.5)
    d.polled(answered=False)
    d.wait(0.25)
    d.polled(connected=True)
    d.wait(0.25)
    assert d.phase is Phase.TAKING_OVER
    effects = d.polled(connected=False)
    assert of(CloseSocket, effects)
    assert d.phase is Phase.PAUSING


def test_trap_10_time_outs_are_at_least_5_s() -> None:
    assert Driver().policy.takeover_timeout >= 5.0
    assert Driver().policy.connection_timeout >= 5.0


@pytest.mark.parametrize("code", [1008, 1012])
def test_a_socket_that_is_thrown_out_is_a_lost_connection(code: int) -> None:
    d = streaming(10)
    effects = d.closed(code, "replaced")
    assert f"{code} replaced" in str(over(effects)) or over(effects) is None
    assert d.session.state is State.RECONNECTING
    assert not of(SendText, effects)
