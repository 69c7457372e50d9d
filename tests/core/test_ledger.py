"""Ledger: the account in frames, packets without a hole, gaps by cause."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.ledger import Gap, Ledger, Packet
from edge.errors import InternalError
from tests.core.simworld import Model


def ledger_of(*steps: int | tuple[int, str]) -> Ledger:
    """Packets of 10 frames: a number is captured, a tuple lost."""
    ledger = Ledger(10)
    for step in steps:
        if isinstance(step, int):
            ledger.capture(step)
        else:
            ledger.gap(*step)
    return ledger


def test_a_packet_is_there_once_it_is_full() -> None:
    ledger = ledger_of(9)
    assert (ledger.last, ledger.expected, ledger.stored, ledger.ram_frames) == (0, 9, 9, 9)
    ledger.capture(1)
    assert ledger.last == 1
    assert ledger.packet(1) == Packet(seq=1, position=0, offset=0, frames=10)
    ledger.capture(25)
    assert ledger.last == 3
    assert ledger.packet(3) == Packet(3, 20, 20, 10)


def test_a_gap_closes_the_packet_before_it_short() -> None:
    ledger = ledger_of(13, (7, "xrun"), 10)
    assert ledger.last == 3
    assert ledger.packet(2) == Packet(2, 10, 10, 3)
    assert ledger.packet(3) == Packet(3, 20, 13, 10)
    assert ledger.gaps_before(3) == (Gap(3, 7, "xrun"),)
    assert ledger.gaps_before(2) == ()
    assert (ledger.expected, ledger.lost) == (30, {"xrun": 7})


def test_a_gap_behind_a_full_packet_makes_no_short_one() -> None:
    ledger = ledger_of(10, (1, "xrun"), 10)
    assert [ledger.packet(seq).frames for seq in (1, 2)] == [10, 10]


def test_gaps_between_the_same_packets_add_up_by_cause() -> None:
    ledger = ledger_of(10, (2, "xrun"), (3, "overflow"), (4, "xrun"), 10)
    assert ledger.gaps_before(2) == (Gap(2, 6, "xrun"), Gap(2, 3, "overflow"))
    assert ledger.lost == {"xrun": 6, "overflow": 3}
    assert ledger.packet(2).position == 19


def test_a_recording_may_begin_and_end_with_a_gap() -> None:
    ledger = ledger_of((5, "microphone"), 12, (3, "xrun"))
    ledger.end()
    assert ledger.gaps_before(1) == (Gap(1, 5, "microphone"),)
    assert ledger.packet(1) == Packet(1, 5, 0, 10)
    assert ledger.last == 2
    assert ledger.gaps_before(3) == (Gap(3, 3, "xrun"),)
    assert ledger.expected == 20


def test_the_end_closes_the_last_packet() -> None:
    ledger = ledger_of(13)
    assert ledger.last == 1
    ledger.end()
    assert ledger.last == 2
    assert ledger.packet(2).frames == 3
    changes: tuple[Callable[[], None], ...] = (lambda: ledger.capture(1), lambda: ledger.gap(1, "xrun"))
    for change in changes:
        with pytest.raises(InternalError, match="ended"):
            change()


def test_a_gap_of_nothing_is_none() -> None:
    ledger = ledger_of(13, (0, "xrun"), 7)
    assert (ledger.last, ledger.lost) == (2, {})


def test_nonsense_is_refused() -> None:
    ledger = ledger_of(10)
    with pytest.raises(InternalError, match="at least one frame"):
        Ledger(0)
    assert Ledger(1).packet_frames == 1
    with pytest.raises(InternalError, match="cannot capture -1"):
        ledger.capture(-1)
    ledger.capture(0)
    with pytest.raises(InternalError, match="no gap"):
        ledger.gap(-1, "xrun")
    with pytest.raises(InternalError, match="no gap"):
        ledger.gap(1, "")
    for seq in (0, 2):
        with pytest.raises(InternalError, match=f"no packet {seq}"):
            ledger.packet(seq)
    with pytest.raises(InternalError, match="cannot be delivered"):
        ledger.deliver(2)


def test_delivery_moves_the_account_and_says_what_to_free() -> None:
    ledger = ledger_of(13, (7, "xrun"), 25)
    assert ledger.deliver(1) == 10
    assert (ledger.delivered, ledger.delivered_frames, ledger.ram_frames) == (1, 10, 28)
    assert ledger.deliver(1) == 10
    assert ledger.deliver(0) == 10
    assert ledger.deliver(3) == 23
    assert (ledger.delivered, ledger.delivered_frames, ledger.ram_frames) == (3, 23, 15)
    assert ledger.packet(3).frames == 10
    with pytest.raises(InternalError, match="among 3 to 4"):
        ledger.packet(2)


def test_the_gap_behind_what_is_delivered_stays_known() -> None:
    ledger = ledger_of(10, (5, "xrun"), 10)
    ledger.deliver(1)
    assert ledger.gaps_before(2) == (Gap(2, 5, "xrun"),)
    assert ledger.gaps_before(0) == ()


def test_offsets_may_begin_anywhere() -> None:
    ledger = Ledger(10, offset=1000)
    ledger.capture(25)
    assert ledger.packet(2).offset == 1010
    assert (ledger.stored, ledger.ram_frames) == (25, 25)
    assert ledger.deliver(2) == 1020
    assert (ledger.delivered_frames, ledger.ram_frames) == (20, 5)


def test_what_goes_out_again_is_counted() -> None:
    ledger = ledger_of(40)
    for seq in (1, 2, 3, 2, 3, 4):
        ledger.sending(ledger.packet(seq))
    assert ledger.resent_frames == 20
    ledger.sending(ledger.packet(4))
    assert ledger.resent_frames == 30


def test_a_break_is_found_behind_the_packet_before_it() -> None:
    ledger = ledger_of(20, (100, "xrun"), 10, (60, "xrun"), (50, "overflow"), 10)
    assert ledger.break_after(1, 100) == 3
    assert ledger.break_after(1, 99) == 2
    assert ledger.break_after(3, 99) == 3
    assert ledger.break_after(4, 99) is None
    assert ledger.break_after(1, 110) is None
    assert ledger_of((500, "xrun"), 10).break_after(1, 99) is None


def test_an_account_can_be_taken_up_again() -> None:
    ledger = Ledger.resumed(10, first_seq=5, delivered_frames=37, lost={"xrun": 3})
    assert (ledger.delivered, ledger.last, ledger.expected, ledger.lost) == (4, 4, 40, {"xrun": 3})
    assert (ledger.delivered_frames, ledger.ram_frames) == (37, 0)
    ledger.capture(15)
    assert ledger.packet(5) == Packet(5, 40, 37, 10)
    ledger.sending(ledger.packet(5))
    assert ledger.resent_frames == 0
    assert ledger.deliver(5) == 47
    assert ledger.expected == ledger.delivered_frames + ledger.ram_frames + 3


@settings(derandomize=True, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("capture"), st.integers(0, 35)),
            st.tuples(st.sampled_from(["xrun", "overflow"]), st.integers(0, 25)),
            st.tuples(st.just("deliver"), st.integers(0, 4)),
        ),
        max_size=40,
    )
)
def test_the_equation_holds_beside_a_plain_list(steps: list[tuple[str, int]]) -> None:
    ledger, model = Ledger(10), Model(10)
    for what, number in steps:
        if what == "capture":
            ledger.capture(number)
            model.capture(bytes(2 * number))
        elif what == "deliver":
            ledger.deliver(min(ledger.last, ledger.delivered + number))
        else:
            ledger.gap(number, what)
            model.gap(number, what)
        assert ledger.expected == ledger.delivered_frames + ledger.ram_frames + sum(ledger.lost.values())
        assert (ledger.expected, ledger.last, ledger.lost) == (model.expected, len(model.packets), model.lost)
    ledger.end()
    model.close()
    frames = [len(packet) // 2 for packet in model.packets]
    assert [ledger.packet(seq).frames for seq in range(ledger.delivered + 1, ledger.last + 1)] == frames[
        ledger.delivered :
    ]
    ledger.deliver(ledger.last)
    assert ledger.ram_frames == 0
