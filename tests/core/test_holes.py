"""Packets that can never be sent any more, on their way to both kinds of server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core import events
from edge.core.context import Phase
from edge.core.cuts import CutModel
from edge.core.delivery import PlainDelivery
from tests.core.driver import FINALIZED, FRAMES, Driver, of, over, texts
from tests.core.test_cuts import BruteServer

PING = {"type": "ping"}


def gap(first: int, before: int, cause: str = "card") -> dict[str, Any]:
    return {
        "type": "gap",
        "before_seq": before,
        "lost_from": first,
        "frames": (before - first) * FRAMES,
        "cause": cause,
    }


def order(effects: list[events.Effect]) -> list[Any]:
    """What goes out, in order: packet numbers and messages, without barriers."""
    found: list[Any] = []
    for effect in effects:
        if isinstance(effect, events.SendPackets):
            found += range(effect.first, effect.last + 1)
        elif isinstance(effect, events.SendText) and effect.message != PING:
            found.append(effect.message)
    return found


# --- a server with acknowledgements ----------------------------------------------------------------------------------


def test_a_hole_is_told_in_its_place() -> None:
    d = Driver()
    d.record(9)
    d.ledger.lose(3, 4, "card")
    d.ledger.lose(5, 5, "overflow")
    told = [gap(3, 5), gap(5, 6, "overflow")]
    assert order(d.start(acks=True))[1:] == [1, 2, *told, 6, 7, 8, 9]
    d.tell(events.Ack, 9)
    assert (d.ledger.delivered, d.ledger.delivered_frames) == (9, 6 * FRAMES)
    assert d.ledger.lost == {"card": 2 * FRAMES, "overflow": FRAMES}
    assert d.ledger.resent_frames == 0


def test_a_gap_before_and_one_inside_a_hole_keep_their_places() -> None:
    d = Driver()
    d.gap(1.0)
    d.record(2)
    d.gap(2.0)
    d.record(2)
    d.ledger.lose(1, 3, "card")
    before, inside = (
        {"type": "gap", "before_seq": seq, "frames": 16000 * seq, "cause": "microphone"} for seq in (1, 3)
    )
    inside["frames"] = 32000
    assert order(d.start(acks=True))[1:] == [before, gap(1, 3), inside, gap(3, 4), 4]


def test_a_hole_is_covered_by_its_ack_and_told_again_otherwise() -> None:
    d = Driver()
    d.record(4)
    d.ledger.lose(2, 3, "card")
    d.start(acks=True)
    d.closed()
    assert order(d.reattach(acks=True, next_seq=2)) == [gap(2, 4), 4]
    d.closed()
    assert d.ledger.delivered == 1
    assert order(d.reattach(acks=True, next_seq=4)) == [4]
    assert (d.ledger.delivered, d.ledger.delivered_frames) == (3, FRAMES)


def test_a_hole_longer_than_the_window_is_one_step() -> None:
    d = Driver()
    d.record(1000)
    d.ledger.lose(1, 900, "overflow")
    assert order(d.start(acks=True))[1:] == [gap(1, 901, "overflow")]
    assert order(d.tell(events.Ack, 900)) == list(range(901, 921))


def test_a_hole_may_end_the_recording() -> None:
    d = Driver()
    d.record(4)
    d.gap(1.0)
    d.ledger.lose(3, 4, "card")
    d.end()
    natural = {"type": "gap", "before_seq": 5, "frames": 16000, "cause": "microphone"}
    assert order(d.start(acks=True))[1:] == [1, 2, gap(3, 5)]
    assert order(d.tell(events.Ack, 4)) == [natural, {"action": "stop_stream"}]
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.DONE
    assert d.ledger.kept_frames == 0


def test_a_recording_of_losses_alone_is_told_to_a_server_that_may_want_it() -> None:
    d = Driver()
    d.record(4)
    d.end()
    d.ledger.lose(1, 4, "card")
    d.feed(events.Supplied())
    assert d.phase is Phase.WAITING
    assert order(d.start(acks=True))[1:] == [gap(1, 5)]
    d.tell(events.Ack, 4)
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.DONE


def test_a_loss_on_the_way_ends_the_attempt_and_is_told_on_the_next_socket() -> None:
    d = Driver()
    d.record(8)
    d.start(acks=True)
    d.tell(events.Ack, 2)
    d.ledger.lose(4, 6, "card")
    effects = d.feed(events.Supplied())
    d.has_socket = False
    assert of(events.CloseSocket, effects) == [events.CloseSocket(abort=False)]
    assert over(effects) is None  # it had delivered something
    assert order(d.reattach(acks=True, next_seq=3)) == [3, gap(4, 7), 7, 8]
    d.tell(events.Ack, 8)
    assert (d.ledger.delivered_frames, d.ledger.lost) == (5 * FRAMES, {"card": 3 * FRAMES})


def test_of_a_loss_on_the_way_only_what_did_not_arrive_is_lost() -> None:
    d = Driver()
    d.record(8)
    d.start(acks=True)
    d.ledger.lose(4, 6, "card")
    d.feed(events.Supplied())
    d.has_socket = False
    assert order(d.reattach(acks=True, next_seq=6)) == [gap(6, 7), 7, 8]
    assert (d.ledger.delivered_frames, d.ledger.lost) == (5 * FRAMES, {"card": FRAMES})
    d.tell(events.Ack, 8)
    assert (d.ledger.delivered_frames, d.ledger.kept_frames) == (7 * FRAMES, 0)


def test_a_loss_further_back_than_what_is_on_its_way_changes_nothing_now() -> None:
    d = Driver()
    d.record(8)
    d.start(acks=True)
    d.wait(1.0)
    d.pong()  # handled, not yet stored
    d.ledger.lose(4, 6, "card")
    assert not of(events.CloseSocket, d.feed(events.Supplied()))
    d.tell(events.Ack, 8)
    assert (d.ledger.delivered_frames, d.ledger.lost) == (8 * FRAMES, {})


# --- an unmodified aia-v4 server -------------------------------------------------------------------------------------


def test_nothing_is_said_of_a_hole_to_an_aia_v4_server() -> None:
    d = Driver()
    d.record(9)
    d.ledger.lose(3, 5, "card")
    assert order(d.start())[1:] == [1, 2, 6, 7, 8, 9]
    assert d.sent == [1, 2, 6, 7, 8, 9]


def test_a_session_begins_behind_a_hole() -> None:
    d = Driver()
    d.record(9)
    d.ledger.lose(1, 5, "card")
    [init] = [text for text in texts(d.start()) if text.get("type") == "init"]
    assert init["next_seq"] == 6
    assert d.released == 5 * FRAMES
    assert (d.ledger.delivered, d.ledger.delivered_frames) == (5, 0)


def test_no_cut_is_believed_for_packets_that_were_never_sent() -> None:
    d = Driver()
    d.start()
    d.ledger.capture(260 * FRAMES)
    d.ledger.lose(100, 149, "card")
    d.stream(0)
    assert d.session.handled == 260  # 210 arrived: one cut, behind packet 150 of them, which is number 200
    assert (d.ledger.delivered, d.ledger.delivered_frames) == (200, 150 * FRAMES)
    d.stream(84)
    assert d.ledger.delivered == 200
    d.stream(1)
    assert d.ledger.delivered == 345


def test_pacing_and_window_count_what_is_sent() -> None:
    d = Driver()
    d.record(200)
    d.ledger.lose(5, 60, "card")
    d.start()
    assert d.sent == [*range(1, 5), *range(61, 77)]  # 20 may be unconfirmed


def test_a_long_hole_begins_a_follow_on_session() -> None:
    d = Driver()
    d.record(300)
    d.ledger.lose(5, 105, "overflow")
    d.pongs = True
    d.start()
    assert d.sent == [1, 2, 3, 4]
    d.next_poll()
    assert d.phase is Phase.STOPPING
    d.closed(1000, FINALIZED)
    assert d.ledger.delivered == 4
    [init] = [text for text in texts(d.start(session_id="s2")) if text.get("type") == "init"]
    assert init["next_seq"] == 106
    assert d.sent[4] == 106


def test_a_hole_just_long_enough_for_the_same_session() -> None:
    d = Driver()
    d.record(300)
    d.ledger.lose(5, 104, "overflow")
    d.start()
    assert d.sent[:5] == [1, 2, 3, 4, 105]


def test_a_long_loss_of_what_was_handled_ends_no_session() -> None:
    d = Driver()
    d.start()
    d.stream(149)
    d.ledger.lose(2, 140, "card")
    d.record(5)
    d.pong()
    d.record(5)
    assert d.sent[-5:] == [155, 156, 157, 158, 159]
    assert d.phase is Phase.STREAMING


def test_a_first_packet_that_is_lost_before_it_was_sent_is_no_end_of_the_session() -> None:
    d = Driver()
    d.feed(events.Attempted())
    d.tell_started()
    d.open()
    d.record(300)
    d.ledger.lose(1, 200, "overflow")
    d.pong()
    assert d.sent == list(range(201, 221))


def test_a_loss_on_the_way_is_left_out_and_its_pong_not_believed() -> None:
    d = Driver()
    d.start()
    d.record(8)
    d.wait(0.3)  # a barrier is on its way too
    d.ledger.lose(4, 6, "card")
    effects = d.pong()
    d.has_socket = False
    assert of(events.CloseSocket, effects) == [events.CloseSocket(abort=False)]
    assert str(over(effects)).startswith("audio that was on its way is lost")
    assert d.session.handled == 0
    assert order(d.reattach()) == [1, 2, 3, 7, 8]


@pytest.mark.parametrize("lost", [False, True])
def test_a_late_pong_is_not_believed_for_a_loss(lost: bool) -> None:
    d = Driver(min_stall=4.0)
    d.start()
    d.stream(100)
    d.until_poll()
    for _ in range(2):
        d.record(4)
        d.wait(0.4)
    d.wait(2.2)
    d.pong()  # the second barrier's answer is still on its way
    d.wait(3.1)
    assert (d.phase, d.session.handled) == (Phase.STOPPING, 104)  # HTTP is dead: the server shuts down
    if lost:
        d.ledger.lose(108, 108, "card")
    d.pong()
    d.closed(1000, FINALIZED)
    assert d.ledger.delivered == (104 if lost else 108)


def test_a_hole_at_the_end_completes_the_session() -> None:
    d = Driver()
    d.pongs = True
    d.record(9)
    d.ledger.lose(6, 9, "card")
    d.end()
    d.start()
    assert d.sent == [1, 2, 3, 4, 5]
    d.wait(0.3)
    d.next_poll()
    assert d.phase is Phase.STOPPING
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.DONE
    assert (d.ledger.delivered, d.ledger.delivered_frames, d.ledger.lost) == (9, 5 * FRAMES, {"card": 4 * FRAMES})


def test_what_is_lost_between_sessions_needs_none() -> None:
    d = Driver()
    d.start()
    d.record(9)
    d.closed()
    d.reattach_fails()
    d.ledger.lose(1, 9, "overflow")
    d.end()
    assert d.phase is Phase.DONE
    assert (d.ledger.delivered, d.ledger.kept_frames) == (9, 0)


def test_a_session_that_ended_before_a_hole_waits_for_audio_behind_it() -> None:
    d = Driver()
    d.pongs = True
    d.start()
    d.record(4)
    d.gap(11.0)
    d.record(3)
    d.wait(0.3)
    d.next_poll()
    assert d.phase is Phase.STOPPING
    d.ledger.lose(5, 7, "card")
    d.closed(1000, FINALIZED)
    assert d.phase is Phase.IDLE
    d.record(0)
    assert d.phase is Phase.IDLE
    d.record(1)
    assert d.phase is Phase.WAITING


@st.composite
def holed(draw: st.DrawFn) -> tuple[PlainDelivery, BruteServer, set[int]]:
    """Several sockets; before each one some of what is not confirmed is lost, and left out from then on."""
    packet_ms = draw(st.sampled_from([50, 100, 250, 60]))
    target_ms = draw(st.sampled_from([1000, 1500, 2500]))
    server = BruteServer(target_ms, draw(st.booleans()))
    delivery = PlainDelivery(1, CutModel(packet_ms, target_ms), 0.0)
    short_each = draw(st.sampled_from([1000, 1000, 17]))
    lost: set[int] = set()
    now = 0.0
    for _ in range(draw(st.integers(1, 6))):
        delivery.attach()
        first = delivery.resume + 1 + draw(st.integers(0, 12))
        lost |= set(range(first, first + draw(st.sampled_from([0, 0, 1, 3, 9]))))
        arrives = True
        for _ in range(draw(st.integers(0, 50))):
            seq = behind = delivery.sent + 1
            while behind in lost:
                behind += 1
            if behind > seq:
                delivery.passing(seq, behind - 1)
            else:
                arrives = arrives and draw(st.integers(0, 30)) > 0
                is_short = seq % short_each == 0
                delivery.sending(seq, now, short=is_short)
                if arrives:
                    server.append(seq, packet_ms // 3 if is_short else packet_ms)
            if arrives and draw(st.integers(0, 3)) == 0:
                delivery.barrier(now)
                delivery.pong(now)
        if draw(st.booleans()):
            return delivery, server, lost
        delivery.detach()
    return delivery, server, lost


@settings(max_examples=600, derandomize=True, deadline=None)
@given(holed())
def test_no_cut_is_believed_that_did_not_fall(case: tuple[PlainDelivery, BruteServer, set[int]]) -> None:
    delivery, server, lost = case
    cut = delivery.poll().surely_cut
    assert {seq for seq in range(1, cut + 1) if seq not in lost} <= server.cut
    assert cut <= delivery.resume or set(range(delivery.resume + 1, cut + 1)) <= lost


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(0, 200), st.lists(st.tuples(st.integers(1, 200), st.integers(1, 12)), max_size=5))
def test_a_hole_takes_nothing_from_what_is_known_of_the_cuts(count: int, holes: list[tuple[int, int]]) -> None:
    """Where nothing was repeated, all that lies before the last cut is known to."""
    server = BruteServer(2500)
    delivery = PlainDelivery(1, CutModel(100, 2500), 0.0)
    delivery.attach()
    lost = {seq for first, size in holes for seq in range(first, first + size)}
    while delivery.sent < count:
        seq = delivery.sent + 1
        if seq in lost:
            delivery.passing(seq, seq)
        else:
            delivery.sending(seq, 0.0, short=False)
            server.append(seq, 100)
    delivery.barrier(0.0)
    delivery.pong(0.0)
    sure = delivery.poll().surely_cut
    assert {seq for seq in range(1, sure + 1) if seq not in lost} == server.cut
