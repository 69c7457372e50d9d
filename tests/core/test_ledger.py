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


def test_lost_packets_stand_as_a_gap_and_all_others_stay_where_they_are() -> None:
    ledger = ledger_of(50)
    assert ledger.lose(2, 3, "card") == 0
    assert (ledger.expected, ledger.stored, ledger.kept_frames, ledger.lost) == (50, 50, 30, {"card": 20})
    assert [ledger.is_lost(seq) for seq in range(1, 6)] == [False, True, True, False, False]
    assert ledger.packet(4) == Packet(4, 30, 30, 10)
    assert ledger.gaps_before(4) == (Gap(4, 20, "card", lost_from=2),)
    assert ledger.gaps_before(2) == ledger.gaps_before(3) == ledger.gaps_before(5) == ()
    assert [ledger.skip_lost(seq) for seq in (1, 2, 3, 4, 6)] == [1, 4, 4, 4, 6]
    for seq in (2, 3):
        with pytest.raises(InternalError, match=f"packet {seq} is lost"):
            ledger.packet(seq)


def test_losses_side_by_side_are_one_where_nothing_tells_them_apart() -> None:
    ledger = ledger_of(40, (7, "xrun"), 60)
    for first, last, cause in ((6, 6, "card"), (3, 3, "card"), (4, 5, "card"), (8, 8, "card"), (7, 7, "overflow")):
        ledger.lose(first, last, cause)
    assert [gap for seq in range(1, 12) for gap in ledger.gaps_before(seq)] == [
        Gap(5, 20, "card", 3),
        Gap(5, 7, "xrun"),
        Gap(7, 20, "card", 5),
        Gap(8, 10, "overflow", 7),
        Gap(9, 10, "card", 8),
    ]
    assert ledger.lost == {"xrun": 7, "card": 50, "overflow": 10}
    assert ledger.hole_from(2) is None
    assert ledger.hole_from(4) == Gap(5, 10, "card", 4)
    assert ledger.hole_from(5) == Gap(7, 20, "card", 5)
    assert ledger.skip_lost(3) == 9


def test_memory_grows_with_holes_not_with_what_is_lost() -> None:
    ledger = ledger_of(3000)
    for seq in range(1, 201):
        ledger.lose(seq, seq, "overflow")
        ledger.pass_over(seq - seq % 7, seq)
    ledger.pass_over(1, 200)
    assert len(ledger._holes) == 1


def test_a_hole_before_what_is_on_the_card_is_not_in_ram() -> None:
    ledger = ledger_of(60)
    ledger.lose(2, 2, "card")
    assert ledger.sync(3) == 30
    assert (ledger.card_frames, ledger.ram_frames) == (20, 30)
    assert ledger.kept_between(5, 5) == 10


def test_the_last_packet_may_be_lost_too() -> None:
    ledger = ledger_of(25)
    ledger.end()
    ledger.lose(2, 3, "overflow")
    assert ledger.gaps_before(4) == (Gap(4, 15, "overflow", 2),)
    assert ledger.kept_frames == 10
    assert ledger.skip_lost(2) == 4


@pytest.mark.parametrize("losses", [[(0, 1)], [(1, 1)], [(3, 2)], [(5, 6)], [(2, 3), (3, 4)], [(3, 3), (2, 4)]])
def test_nothing_is_lost_that_is_not_owed(losses: list[tuple[int, int]]) -> None:
    ledger = ledger_of(55)
    ledger.deliver(1)
    for first, last in losses[:-1]:
        ledger.lose(first, last, "card")
    before = dict(ledger.lost)
    with pytest.raises(InternalError, match="cannot be lost"):
        ledger.lose(*losses[-1], "card")
    with pytest.raises(InternalError, match="cannot be lost"):
        ledger.lose(5, 5, "")
    assert ledger.lost == before


def test_delivery_frees_a_hole_that_was_passed_over() -> None:
    ledger = ledger_of(60)
    ledger.lose(2, 4, "card")
    ledger.pass_over(2, 4)
    assert ledger.deliver(1) == 40  # of what lies in the ring, packet 5 is needed next
    assert ledger.deliver(3) == 40
    assert (ledger.delivered, ledger.delivered_frames, ledger.kept_frames) == (3, 10, 20)
    assert ledger.gaps_before(5) == (Gap(5, 10, "card", 4),)
    assert ledger.deliver(5) == 50
    assert (ledger.delivered_frames, ledger.kept_frames, ledger.lost) == (20, 10, {"card": 30})
    assert ledger.gaps_before(5) == ()


def test_what_was_lost_on_its_way_and_arrived_is_delivered() -> None:
    ledger = ledger_of(60)
    ledger.lose(2, 4, "card")
    assert ledger.is_lost_under_way(1, 2)
    assert not ledger.is_lost_under_way(5, 6)
    ledger.pass_over(4, 9)  # a session began at packet 4
    assert ledger.is_lost_under_way(3, 4)
    assert not ledger.is_lost_under_way(4, 6)
    assert ledger.gaps_before(5) == (Gap(5, 30, "card", 2),)
    assert ledger.hole_from(2) == Gap(5, 30, "card", 2)
    ledger.deliver(6)
    assert (ledger.delivered_frames, ledger.lost, ledger.kept_frames) == (50, {"card": 10}, 0)
    other = ledger_of(20)
    other.lose(1, 1, "card")
    other.deliver(1)
    assert other.lost == {}


def test_the_card_has_what_is_synced_and_still_owed() -> None:
    ledger = ledger_of(60, (5, "xrun"), 4)
    assert ledger.sync(3) == 30
    assert (ledger.synced, ledger.card_frames, ledger.ram_frames, ledger.kept_frames) == (3, 30, 34, 64)
    assert ledger.deliver(2) == 30
    assert (ledger.card_frames, ledger.ram_frames, ledger.kept_frames) == (10, 34, 44)
    ledger.lose(3, 5, "card")
    assert (ledger.card_frames, ledger.ram_frames, ledger.kept_frames) == (0, 14, 14)
    assert ledger.needed_from == 50
    ledger.pass_over(3, 5)
    assert ledger.deliver(6) == 60
    assert ledger.sync(4) == ledger.sync(2) == 60
    assert (ledger.synced, ledger.card_frames, ledger.ram_frames) == (4, 0, 4)
    with pytest.raises(InternalError, match="on the card"):
        ledger.sync(7)
    back = ledger_of(60)
    back.sync(5)
    assert back.sync(4) == 50
    assert (back.synced, back.ram_frames) == (5, 10)
    late = ledger_of(30)
    late.deliver(2)
    assert late.sync(2) == 20
    assert late.sync(3) == 30


def test_frames_that_are_kept_between_two_packets() -> None:
    ledger = ledger_of(60)
    ledger.lose(3, 4, "card")
    assert [ledger.kept_between(*pair) for pair in ((1, 0), (1, 2), (1, 3), (3, 4), (4, 5), (1, 6))] == [
        0, 20, 20, 0, 10, 40,
    ]  # fmt: skip


def test_a_hole_is_a_break_like_any_gap() -> None:
    ledger = ledger_of(60, (15, "xrun"), 60)
    ledger.lose(6, 6, "card")
    ledger.lose(9, 10, "overflow")
    assert ledger.break_after(1, 24) == 5
    assert ledger.break_after(1, 25) is None
    ledger.lose(7, 7, "card")
    assert ledger.break_after(1, 34) == 5
    assert ledger.break_after(6, 24) == 6  # what lies at or before it does not count
    assert ledger.break_after(6, 25) is None
    assert ledger.break_after(6, 19) == 6
    assert ledger.break_after(7, 19) == 8
    ledger.lose(8, 8, "card")
    assert ledger.break_after(1, 64) == 5


def test_an_account_with_holes_can_be_taken_up_again() -> None:
    ledger = Ledger.resumed(10, first_seq=8, delivered_frames=37, lost={"xrun": 3, "card": 30}, offset=1067)
    assert (ledger.expected, ledger.stored, ledger.delivered_frames, ledger.kept_frames) == (70, 37, 37, 0)
    assert ledger.needed_from == 1067
    ledger.capture(30)
    assert ledger.lose(8, 8, "card") == 1077
    assert ledger.sync(9) == 1087
    assert ledger.packet(9) == Packet(9, 80, 1077, 10)
    ledger.pass_over(8, 8)
    assert ledger.deliver(9) == 1087
    assert (ledger.delivered_frames, ledger.ram_frames, ledger.lost) == (47, 10, {"xrun": 3, "card": 40})
    assert ledger.expected == ledger.delivered_frames + ledger.kept_frames + 43


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("capture"), st.integers(0, 35)),
            st.tuples(st.sampled_from(["xrun", "overflow"]), st.integers(0, 25)),
            st.tuples(st.sampled_from(["deliver", "sync", "pass"]), st.integers(0, 4)),
            st.tuples(st.sampled_from(["lose card", "lose overflow"]), st.integers(0, 20)),
        ),
        max_size=60,
    )
)
def test_holes_beside_a_plain_list(steps: list[tuple[str, int]]) -> None:
    """Each packet is an entry of its own here: what became of it."""
    ledger, model = Ledger(10), Model(10)
    fate: dict[int, str] = {}  # lost and not (yet) found
    passed: set[int] = set()
    needed = 0
    for what, number in steps:
        if what == "capture":
            ledger.capture(number)
            model.capture(bytes(2 * number))
        elif what == "deliver":
            last = min(ledger.last, ledger.delivered + number)
            for seq in range(ledger.delivered + 1, last + 1):
                if seq not in passed:
                    fate.pop(seq, None)
            ledger.deliver(last)
        elif what == "sync":
            ledger.sync(min(ledger.last, ledger.synced + number))
        elif what == "pass":
            first = ledger.delivered + 1 + number
            ledger.pass_over(first, first + 2)
            passed |= {seq for seq in range(first, first + 3) if seq in fate}
        elif what.startswith("lose"):
            first = ledger.delivered + 1 + number
            wanted = range(first, min(first + 2, ledger.last) + 1)
            if len(wanted) and not fate.keys() & set(wanted):
                ledger.lose(wanted[0], wanted[-1], what[5:])
                fate |= dict.fromkeys(wanted, what[5:])
        else:
            ledger.gap(number, what)
            model.gap(number, what)
        lengths = {seq: len(packet) // 2 for seq, packet in enumerate(model.packets, 1)}
        lost = dict(model.lost)
        for seq, cause in fate.items():
            lost[cause] = lost.get(cause, 0) + lengths[seq]
        assert ledger.lost == lost
        open_frames = len(model.open) // 2
        owed = {seq for seq in lengths if seq > ledger.delivered and seq not in fate}
        assert ledger.kept_frames == sum(lengths[seq] for seq in owed) + open_frames
        assert ledger.ram_frames == sum(lengths[seq] for seq in owed if seq > ledger.synced) + open_frames
        assert ledger.card_frames == ledger.kept_frames - ledger.ram_frames
        assert ledger.expected == ledger.delivered_frames + ledger.kept_frames + sum(ledger.lost.values())
        assert {seq for seq in lengths if seq > ledger.delivered and ledger.is_lost(seq)} == {
            seq for seq in fate if seq > ledger.delivered
        }
        safe = max(ledger.delivered, ledger.synced)
        needed_before, needed = needed, sum(lengths[seq] for seq in range(1, ledger.skip_lost(safe + 1)))
        assert needed_before <= needed == ledger.needed_from
        told = [gap for seq in range(ledger.delivered + 1, ledger.last + 2) for gap in ledger.gaps_before(seq)]
        holes = [gap for gap in told if gap.lost_from is not None]
        assert [seq for gap in holes for seq in range(gap.lost_from or 0, gap.before_seq)] == sorted(
            seq for seq in fate if seq > ledger.delivered
        )
        for gap in holes:
            seqs = range(gap.lost_from or 0, gap.before_seq)
            assert {fate[seq] for seq in seqs} == {gap.cause}
            assert sum(lengths[seq] for seq in seqs) == gap.frames
            assert ledger.hole_from(seqs[0]) == gap
            assert ledger.hole_from(seqs[-1]) == Gap(gap.before_seq, lengths[seqs[-1]], gap.cause, seqs[-1])


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


def test_the_place_in_the_stored_audio_is_the_offset_less_the_first() -> None:
    ledger = Ledger(10, 1000)
    ledger.capture(25)
    assert ledger.start_offset == 1000
    assert ledger.packet(2).offset - ledger.start_offset == 10
