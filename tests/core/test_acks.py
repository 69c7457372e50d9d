"""PROTOCOL.md, "Our extension": each packet exactly once, gaps in stream order, and nothing is safe before its ack."""

from __future__ import annotations

import pytest

from edge.core.context import Phase
from edge.core.events import Ack, Attempted, Backpressure, CloseSocket, OpenSocket, Polled, Release, StartSession
from edge.errors import ServerRefused, Unreachable
from tests.core.driver import FINALIZED, FRAMES, Driver, of, over, packets, texts
from tests.core.simserver import AckServer
from tests.core.simworld import World, small_policy

STOP = {"action": "stop_stream"}
PING = {"type": "ping"}


def streaming(next_seq: int = 1, count: int = 0) -> Driver:
    d = Driver()
    d.record(count)
    d.start(acks=True, next_seq=next_seq)
    return d


def gap(before_seq: int, seconds: float, cause: str = "microphone") -> dict[str, object]:
    return {"type": "gap", "before_seq": before_seq, "frames": int(16000 * seconds), "cause": cause}


def test_acks_init_confirms_the_extension() -> None:
    d = streaming()
    assert [text.get("acks") for text in d.texts if text.get("type") == "init"] == [True]


def test_acks_free_memory_at_the_ack_and_not_before() -> None:
    d = streaming()
    assert packets(d.record(5)) == [1, 2, 3, 4, 5]
    d.wait(1.1)
    assert not of(Release, d.pong())
    assert d.session.handled == 5
    assert of(Release, d.tell(Ack, 3)) == [Release(3 * FRAMES)]
    assert of(Release, d.tell(Ack, 3)) == []
    assert of(Release, d.tell(Ack, 2)) == []
    assert d.ledger.delivered == 3


def test_acks_of_what_was_never_sent_are_not_believed() -> None:
    d = streaming()
    d.record(5)
    assert d.tell(Ack, 6) == []
    assert d.ledger.delivered == 0


def test_acks_a_reattach_sends_what_the_server_has_not_and_nothing_else() -> None:
    d = streaming()
    d.record(10)
    d.tell(Ack, 4)
    d.closed()
    d.feed(Attempted())
    d.sent.clear()
    assert d.phase is Phase.OPENING  # nothing needs to be asked
    effects = d.open(acks=True, next_seq=8)
    assert of(Release, effects) == [Release(7 * FRAMES)]
    assert d.sent == [8, 9, 10]
    assert "init" not in [text.get("type") for text in texts(effects)]


def test_acks_a_follow_on_session_begins_where_the_server_wants_it() -> None:
    d = streaming()
    d.record(10)
    d.closed(1011, "Session not found")
    d.sent.clear()
    assert of(StartSession, d.feed(Attempted()))
    d.start(acks=True, next_seq=7, session_id="s2")
    assert d.sent == [7, 8, 9, 10]
    assert d.ledger.delivered == 6
    assert [text["next_seq"] for text in d.texts if text.get("type") == "init"] == [1, 7]


def test_acks_a_server_that_forgot_what_it_acknowledged_gets_a_session_of_its_own() -> None:
    d = streaming()
    d.record(10)
    d.tell(Ack, 8)
    d.closed()
    d.feed(Attempted())
    effects = d.open(acks=True, next_seq=8)
    assert of(CloseSocket, effects) == [CloseSocket(abort=False)]
    assert "forgot" in str(over(effects))
    assert d.ledger.delivered == 8
    d.sent.clear()
    d.start(acks=True, next_seq=8, session_id="s2")
    assert d.sent == [9, 10]  # what was freed cannot be sent again


def test_acks_a_server_that_stored_nothing_new_is_no_liar() -> None:
    d = streaming()
    d.record(10)
    d.tell(Ack, 8)
    d.closed()
    d.feed(Attempted())
    d.open(acks=True, next_seq=9)
    assert d.phase is Phase.STREAMING


@pytest.mark.parametrize("acks", [True, False])
def test_acks_a_session_does_not_change_its_kind(acks: bool) -> None:
    d = Driver()
    d.start(acks=acks)
    d.record(1)
    d.closed()
    d.feed(Attempted())
    if not acks:
        d.polled(connected=False)
    effects = d.open(acks=not acks)
    assert of(CloseSocket, effects)
    assert over(effects) is not None
    assert of(StartSession, d.feed(Attempted()))


def test_acks_a_claim_of_more_than_was_recorded_is_refused() -> None:
    d = Driver()
    d.record(5)
    d.feed(Attempted())
    d.tell_started()
    d.tell_opened()
    effects = d.open_hello(acks=True, next_seq=7)
    assert of(CloseSocket, effects) == [CloseSocket(abort=False)]
    assert isinstance(over(effects), ServerRefused)
    assert "packet 6 of this recording, which has 5" in str(d.session.failure)
    assert d.ledger.delivered == 0
    d = Driver()
    d.record(5)
    d.start(acks=True, next_seq=6)
    assert d.ledger.delivered == 5


def test_acks_gaps_go_out_in_stream_order() -> None:
    d = streaming()
    d.ledger.gap(8000, "microphone")
    d.ledger.capture(FRAMES + 10)
    d.ledger.gap(16000, "xrun")
    d.ledger.gap(1600, "overflow")
    effects = d.record(2)
    order = [
        effect.message if hasattr(effect, "message") else (getattr(effect, "first", 0), getattr(effect, "last", 0))
        for effect in effects
        if hasattr(effect, "message") or hasattr(effect, "first")
    ]
    assert order == [gap(1, 0.5), (1, 2), gap(3, 1.0, "xrun"), gap(3, 0.1, "overflow"), (3, 4)]


def test_acks_a_long_gap_needs_no_other_session() -> None:
    d = streaming()
    d.record(1)
    d.gap(60.0)
    d.record(1)
    assert d.sent == [1, 2]
    assert gap(2, 60.0) in d.texts
    assert d.phase is Phase.STREAMING


def test_acks_a_gap_goes_out_again_with_its_packet() -> None:
    d = streaming()
    d.record(1)
    d.gap(1.0)
    d.record(1)
    d.tell(Ack, 1)
    d.closed()
    d.texts.clear()
    d.reattach(acks=True, next_seq=2)
    assert gap(2, 1.0) in d.texts


def test_acks_the_gap_at_the_end_goes_out_before_the_stop() -> None:
    d = streaming()
    d.record(2)
    d.gap(1.0)
    d.end()
    assert STOP not in d.texts
    effects = d.tell(Ack, 2)
    assert texts(effects) == [gap(3, 1.0), STOP]
    assert d.phase is Phase.STOPPING
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.DONE


@pytest.mark.parametrize("code", [1006, 1011])
def test_acks_the_gap_at_the_end_is_told_until_a_stop_succeeds(code: int) -> None:
    d = streaming()
    d.record(2)
    d.gap(1.0)
    d.end()
    d.tell(Ack, 2)
    d.closed(code)
    assert d.phase is Phase.WAITING
    d.texts.clear()
    effects = d.feed(Attempted())
    if of(OpenSocket, effects):
        d.tell_opened()
        d.closed(1011, "Session not found")
        assert d.phase is Phase.STARTING  # it has just answered: at once
    d.start(acks=True, next_seq=3, session_id="s2")
    assert d.texts[-2:] == [gap(3, 1.0), STOP]
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.DONE


def test_acks_a_session_that_was_closed_before_the_end_is_followed_for_the_last_gap() -> None:
    d = streaming()
    d.record(2)
    d.tell(Ack, 2)
    d.closed(1000, FINALIZED)
    d.feed(Attempted())
    assert d.phase is Phase.IDLE
    d.ledger.gap(100, "xrun")
    d.end()
    assert d.session.wants_attempt
    d.start(acks=True, next_seq=3, session_id="s2")
    assert {"type": "gap", "before_seq": 3, "frames": 100, "cause": "xrun"} in d.texts
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.DONE


def test_acks_without_a_gap_at_the_end_all_is_done_when_all_is_acknowledged() -> None:
    d = streaming()
    d.record(2)
    d.end()
    assert STOP in texts(d.tell(Ack, 2))
    d.closed()
    assert d.phase is Phase.DONE


def test_acks_missing_acks_are_asked_about_and_pongs_keep_the_socket() -> None:
    """The server's disk is full: it says so by silence, but lives."""
    d = streaming()
    d.record(3)
    assert PING not in texts(d.wait(0.9))
    assert PING in texts(d.wait(0.2))
    for _ in range(30):
        d.pong()
        d.wait(1.1)
    assert d.phase is Phase.STREAMING
    d.wait(4.0)
    assert d.phase is Phase.WAITING


def test_acks_that_come_need_no_barriers() -> None:
    d = streaming()
    d.texts.clear()
    for seq in range(1, 40):
        d.record(1)
        d.wait(0.1)
        d.tell(Ack, seq)
    d.wait(20.0)
    assert PING not in d.texts
    assert over(d.closed()) is None


def test_acks_that_come_slowly_are_no_stall() -> None:
    d = streaming()
    d.record(10)
    for seq in range(1, 8):
        d.wait(1.9)
        d.tell(Ack, seq)
    assert d.phase is Phase.STREAMING


def test_acks_patience_begins_with_the_first_packet_after_a_pause() -> None:
    d = streaming()
    d.wait(20.0)
    assert PING not in texts(d.record(1))
    assert PING not in texts(d.wait(0.9))
    assert PING in texts(d.wait(0.2))
    assert d.phase is Phase.STREAMING
    d.wait(3.1)
    assert d.phase is Phase.WAITING


def test_acks_a_heartbeat_that_nobody_answers_is_a_stall() -> None:
    d = streaming()
    assert PING in texts(d.wait(30.0))
    d.wait(4.1)
    assert d.phase is Phase.WAITING


def test_acks_need_no_status_polls_and_no_proof() -> None:
    d = streaming()
    d.pongs = True
    d.wait(100.0)
    assert d.polls == []
    d.alive(False)
    assert d.phase is Phase.STREAMING
    assert d.texts.count(PING) == 4  # behind init, and heartbeats


def test_acks_what_means_nothing_costs_nothing() -> None:
    d = streaming()
    d.record(3)
    d.tell(Ack, 2)
    assert d.tell(Polled, None, answered=True, exists=True, connected=True, pending=20) == []
    assert packets(d.record(1)) == [4]
    d.tell(Backpressure)
    assert d.ledger.delivered == 2
    assert d.session.wants_attempt
    d.reattach(acks=True, next_seq=3)
    assert d.sent == [1, 2, 3, 4, 3, 4]


def test_acks_the_way_in_flight_is_bounded_by_the_window() -> None:
    d = streaming()
    d.record(100)
    assert d.sent == list(range(1, 21))
    d.tell(Ack, 5)
    assert d.sent == list(range(1, 26))


def test_acks_a_lost_handshake_is_dialled_again() -> None:
    d = Driver()
    d.feed(Attempted())
    d.tell_started()
    d.failed(Unreachable("time-out"))
    d.feed(Attempted())
    assert d.phase is Phase.OPENING
    d.open(acks=True)
    d.pong()
    assert d.phase is Phase.STREAMING


def test_acks_exactly_once_whatever_happens() -> None:
    world = World(small_policy(), acks=True)
    server = world.server
    assert isinstance(server, AckServer)
    for seconds in (0.3, 3.0, 20.0, 80.0):
        world.run(5.0)
        world.network.cut()
        world.run(seconds)
        world.network.heal()
        world.run(5.0)
        world.reset()
        world.run(5.0)
        server.kill()
        server.restart()
        world.lose(100, "xrun")
        world.check()
    world.lose(50, "xrun")
    world.finish()
    assert world.ledger.delivered == world.ledger.last
