"""Recovery: whatever prefix of a recording's writes is on the card, the account that comes of it is true.

The recordings are made by a model of lists, without the ledger; only what the ledger answers afterwards is compared.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.journal import BootEntry, EndEntry, Entry, GapEntry, LostEntry, MarkEntry, SessionEntry
from edge.core.ledger import Ledger, Packet
from edge.core.manifest import CardState
from edge.core.recovery import (
    CRASH,
    DAMAGED,
    POWER,
    UNEXPLAINED,
    Recovered,
    Segment,
    Tail,
    rebuild,
    still_there,
    verdict,
    with_found_gaps,
)
from edge.core.timebase import Anchor
from tests.core.cards import meta

P = 8  # frames of a packet


@dataclass
class Write:
    """One write: a line of the journal, a record with what its head says, or the loss of the first segment."""

    what: Entry | Packet | None
    delivered: int = 0
    handled: int = 0


@dataclass
class Made:
    """A recording as it was written: `writes` in order. `capacity` packets go into one segment."""

    capacity: int
    writes: list[Write] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    gaps: list[GapEntry] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    position: int = 0
    stored: int = 0
    open_frames: int = 0
    queued: int = 0
    queued_gaps: int = 0
    delivered: int = 0
    freed: int = 0  # packets in segments that are freed

    def capture(self, frames: int) -> None:
        for _ in range(frames):
            self.position += 1
            self.stored += 1
            self.open_frames += 1
            if self.open_frames == P:
                self._close()

    def _close(self) -> None:
        frames, self.open_frames = self.open_frames, 0
        if frames:
            self.packets.append(Packet(len(self.packets) + 1, self.position - frames, self.stored - frames, frames))

    def gap(self, frames: int, cause: str) -> None:
        self._close()
        before = len(self.packets) + 1
        known = {gap.cause: gap for gap in self.gaps if gap.before_seq == before}
        if cause in known:  # causes add up, and stand in the order of their first
            later = [gap for gap in self.gaps if gap.before_seq == before]
            place = later.index(known[cause])
            later = [
                replace(gap, frames=gap.frames + frames * (i == place), position=gap.position + frames * (i > place))
                for i, gap in enumerate(later)
            ]
            self.gaps = [gap for gap in self.gaps if gap.before_seq != before] + later
        else:
            self.gaps.append(GapEntry(before, self.position, frames, cause))
        self.position += frames

    def write(self, last: int | None = None) -> None:
        """Bring complete packets and the gaps before them to the card: the journal first."""
        last = len(self.packets) if last is None else last
        lines = [gap for gap in self.gaps[self.queued_gaps :] if gap.before_seq <= last]
        self.writes += [Write(gap) for gap in lines]
        self.writes += [Write(packet, self.delivered, self.delivered) for packet in self.packets[self.queued : last]]
        self.queued, self.queued_gaps = last, self.queued_gaps + len(lines)

    def deliver(self, seq: int) -> None:
        self.delivered = max(self.delivered, min(seq, self.queued))
        self.writes.append(Write(MarkEntry(self.delivered, self.delivered)))

    def lose(self, first: int, last: int, cause: str) -> None:
        last = min(last, -(-max(first, self.delivered + 1) // self.capacity) * self.capacity)  # one segment at a time
        todo = list(range(max(first, self.delivered + 1), min(last, self.queued) + 1))
        if todo and not self.lost.intersection(todo):
            self.lost.update(todo)
            frames = sum(self.packets[seq - 1].frames for seq in todo)
            self.writes.append(Write(LostEntry(todo[0], todo[-1], frames, cause)))

    def free(self) -> None:
        done = self.freed + self.capacity
        is_over = all(seq <= self.delivered or seq in self.lost for seq in range(self.freed + 1, done + 1))
        if is_over and self.queued > done:
            self.writes += [Write(MarkEntry(self.delivered, self.delivered)), Write(None)]
            self.freed = done

    def end(self, by: str) -> None:
        self._close()
        self.write()
        self.writes += [Write(gap) for gap in self.gaps[self.queued_gaps :]]
        self.writes.append(Write(EndEntry(self.position, by)))


@dataclass
class Found:
    """What is on the card after the first `count` of the writes, without the lines `damaged`."""

    made: Made
    entries: list[Entry]
    records: list[Packet]
    segments: list[Segment]
    tail: Tail

    @classmethod
    def after(cls, made: Made, count: int, damaged: frozenset[int] = frozenset()) -> Found:
        writes = made.writes[:count]
        lines = [write.what for write in writes if isinstance(write.what, Entry)]
        written = [(write, write.what) for write in writes if isinstance(write.what, Packet)]
        freed = made.capacity * sum(write.what is None for write in writes)
        records = [packet for _, packet in written]
        firsts = records[freed :: made.capacity] if freed % made.capacity == 0 else []
        tail = Tail()
        if written:
            write, last = written[-1]
            tail = Tail(last.seq, last.position + last.frames, write.delivered, write.handled)
        return cls(
            made,
            [line for index, line in enumerate(lines) if index not in damaged],
            records[freed:],
            [Segment(packet.seq, packet.position, packet.offset) for packet in firsts],
            tail,
        )

    def rebuild(self, state: CardState = CardState.RECORDING) -> Recovered:
        return rebuild(meta(P, state=state), self.entries, self.segments, self.tail)

    def rebuild_from_audio(self) -> Recovered:
        records = [(packet.seq, packet.position, packet.frames) for packet in self.records]
        return rebuild(meta(P), with_found_gaps(self.entries, records, P), self.segments, self.tail)


def balanced(ledger: Ledger) -> bool:
    return ledger.expected == ledger.delivered_frames + ledger.kept_frames + sum(ledger.lost.values())


def same_packets(ledger: Ledger, records: list[Packet]) -> None:
    assert ledger.last == (records[-1].seq if records else 0)
    lost = {packet.seq for packet in records if packet.seq > ledger.delivered and ledger.is_lost(packet.seq)}
    for packet in records:
        if packet.seq not in lost and packet.seq > ledger.delivered:
            assert ledger.packet(packet.seq) == packet
    kept = [packet for packet in records if packet.seq > ledger.delivered and packet.seq not in lost]
    assert ledger.kept_frames == ledger.card_frames == sum(packet.frames for packet in kept)


@st.composite
def recordings(draw: st.DrawFn) -> Made:
    made = Made(draw(st.integers(1, 4)))
    for step in draw(st.lists(st.sampled_from("cccccgwwwdddlff"), max_size=30)):
        match step:
            case "c":
                made.capture(draw(st.integers(1, 3 * P)))
            case "g":
                made.gap(draw(st.integers(1, 3 * P)), draw(st.sampled_from(["xrun", "overflow"])))
            case "w":
                made.write(draw(st.integers(made.queued, len(made.packets))))
            case "d":
                made.deliver(draw(st.integers(0, made.queued)))
            case "l":
                first = draw(st.integers(1, 1 + made.queued))
                made.lose(first, first + draw(st.integers(0, 3)), draw(st.sampled_from(["card", "overflow"])))
            case "f":
                made.free()
    if draw(st.booleans()):
        made.end("stop")
    return made


@settings(deadline=None, max_examples=300)
@given(recordings(), st.data())
def test_each_prefix_of_the_writes_gives_a_true_account(made: Made, data: st.DataObject) -> None:
    for count in range(len(made.writes) + 1):
        found = Found.after(made, count)
        recovered = found.rebuild()
        ledger = recovered.ledger
        assert ledger.ended
        assert ledger.is_cut
        assert balanced(ledger)
        same_packets(ledger, found.records)
        marks = [entry.delivered for entry in found.entries if isinstance(entry, MarkEntry)]
        freed = found.records[0].seq - 1 if found.records else 0
        assert ledger.delivered == min(max([found.tail.delivered, freed, *marks]), ledger.last)
        wanted: dict[str, int] = {}
        for entry in found.entries:
            is_past = isinstance(entry, GapEntry) and entry.before_seq <= ledger.last + 1
            if is_past or isinstance(entry, LostEntry):
                assert isinstance(entry, GapEntry | LostEntry)
                wanted[entry.cause] = wanted.get(entry.cause, 0) + entry.frames
        assert ledger.lost == wanted
        assert recovered.handled <= ledger.last
        is_whole = any(isinstance(entry, EndEntry) for entry in found.entries)
        assert (recovered.ended_by == "stop") == is_whole


@settings(deadline=None, max_examples=300)
@given(recordings(), st.data())
def test_a_damaged_journal_costs_causes_and_no_audio(made: Made, data: st.DataObject) -> None:
    lines = sum(isinstance(write.what, Entry) for write in made.writes)
    damaged = data.draw(st.frozensets(st.integers(0, max(0, lines - 1))))
    count = data.draw(st.integers(0, len(made.writes)))
    found = Found.after(made, count, damaged)
    ledger = found.rebuild_from_audio().ledger
    assert balanced(ledger)
    same_packets(ledger, found.records)
    if found.records:
        assert ledger.expected >= found.tail.end_position


@settings(deadline=None, max_examples=200)
@given(recordings(), st.integers(0, 100))
def test_what_was_sealed_is_owed_whole(made: Made, torn: int) -> None:
    """Records at the end of what was sealed that cannot be read any more are lost."""
    made.end("stop")
    found = Found.after(made, len(made.writes))
    torn = min(torn, max(0, len(found.records) - 1))
    whole = found.records[: len(found.records) - torn]
    if torn:
        last = whole[-1]
        found.tail = Tail(last.seq, last.position + last.frames)
        found.segments = found.segments[: bisect.bisect_right([s.first_seq for s in found.segments], last.seq)]
        found.records = whole
    recovered = found.rebuild(CardState.SEALED)
    ledger = recovered.ledger
    assert not ledger.is_cut
    assert balanced(ledger)
    assert ledger.expected == made.position
    assert recovered.ended_by == "stop"
    same_packets(ledger, found.records)
    if not found.records or not torn:
        assert DAMAGED not in ledger.lost or made.lost


def test_what_was_delivered_is_delivered_whatever_the_marks_say() -> None:
    made = Made(2)
    made.capture(5 * P)
    made.end("stop")
    recovered = Found.after(made, len(made.writes)).rebuild(CardState.DELIVERED)
    assert recovered.ledger.delivered == recovered.handled == 5
    assert recovered.ledger.kept_frames == 0


def test_a_session_began_behind_what_was_delivered() -> None:
    made = Made(9)
    made.capture(6 * P)
    made.write()
    found = Found.after(made, 99)
    sessions = [SessionEntry("s-1", 1, "unknown", 0, 1.0), SessionEntry("s-2", 4, "plain", 0, 9.0)]
    boots = [BootEntry(0, "b", 1.0, False), BootEntry(0, "b", 2.0, True), BootEntry(1, "c", 3.0, True)]
    found.entries += [*sessions, replace(sessions[0], server="plain"), *boots]
    recovered = found.rebuild()
    assert recovered.ledger.delivered == 3
    assert [(s.session_id, s.server) for s in recovered.sessions] == [("s-1", "plain"), ("s-2", "plain")]
    assert recovered.boots == {0: boots[1], 1: boots[2]}


def test_a_server_that_handled_more_than_was_durable_is_not_believed_further() -> None:
    made = Made(9)
    made.capture(3 * P)
    made.write()
    found = Found.after(made, 99)
    found.entries += [MarkEntry(1, 7), SessionEntry("s-9", 6, "plain", 0, 1.0)]
    recovered = found.rebuild()
    assert (recovered.ledger.delivered, recovered.handled) == (3, 3)


def test_a_loss_survives_that_more_is_delivered_behind_it() -> None:
    made = Made(9)
    made.capture(6 * P)
    made.write()
    made.lose(2, 3, DAMAGED)
    made.deliver(5)
    ledger = Found.after(made, 99).rebuild().ledger
    assert ledger.lost == {DAMAGED: 2 * P}
    assert ledger.delivered_frames == 3 * P


def test_what_was_freed_is_delivered_but_for_what_was_lost_of_it() -> None:
    made = Made(2)
    made.capture(P)
    made.gap(5, "xrun")
    made.capture(4 * P)
    made.write()
    made.lose(2, 2, DAMAGED)
    made.deliver(1)
    made.free()
    assert made.freed == 2
    found = Found.after(made, 99)
    assert [segment.first_seq for segment in found.segments] == [3, 5]
    ledger = found.rebuild().ledger
    assert (ledger.delivered, ledger.delivered_frames, ledger.kept_frames) == (2, P, 3 * P)
    assert ledger.lost == {"xrun": 5, DAMAGED: P}
    # The journal is gone but for a mark: the headers still tell how much time there was without audio.
    found.entries = [MarkEntry(2, 2), Entry()]
    ledger = found.rebuild().ledger
    assert (ledger.delivered_frames, ledger.kept_frames, ledger.lost) == (2 * P, 3 * P, {UNEXPLAINED: 5})


@pytest.mark.parametrize(
    "gaps", [[GapEntry(2, P, 5, "xrun")], [GapEntry(2, P, 2, "xrun")], [GapEntry(2, 9, 2, "x"), GapEntry(3, 3, 3, "y")]]
)
def test_segments_that_vanished_are_lost_whatever_the_journal_lacks(gaps: list[Entry]) -> None:
    segments, tail = [Segment(4, 3 * P + 5, 3 * P)], Tail(6, 6 * P + 5)
    late = [LostEntry(6, 6, P, "late")]
    recovered = rebuild(meta(P), [*gaps, MarkEntry(1, 1), LostEntry(3, 3, P, "overflow"), *late], segments, tail)
    ledger = recovered.ledger
    assert recovered.missing == [LostEntry(2, 2, P, DAMAGED)]
    assert (ledger.expected, ledger.delivered_frames, ledger.kept_frames) == (6 * P + 5, P, 2 * P)
    assert (ledger.lost[DAMAGED], ledger.lost["overflow"]) == (P, P)
    assert balanced(ledger)


def test_what_moved_the_cuts_of_a_session_is_known() -> None:
    made = Made(9)
    made.capture(P)
    made.gap(1, "a")
    made.gap(1, "b")
    made.capture(P + 3)
    made.gap(1, "a")
    made.capture(3 * P)
    made.write()
    made.lose(5, 6, DAMAGED)
    made.lose(2, 2, DAMAGED)
    recovered = Found.after(made, 99).rebuild()
    assert recovered.breaks == [2, 4]
    assert [recovered.shorts(1, 5), recovered.shorts(1, 6), recovered.shorts(2, 3), recovered.shorts(2, 2)] == [
        2,
        3,
        1,
        0,
    ]
    assert [recovered.lost(1, 6), recovered.lost(3, 5), recovered.lost(3, 4)] == [((2, 2), (5, 6)), ((5, 5),), ()]


def test_what_was_in_a_segment_that_lost_its_header_is_lost_but_for_what_was_delivered() -> None:
    made = Made(3)
    made.capture(P)
    made.gap(5, "xrun")
    made.capture(6 * P)
    made.write()
    made.lose(3, 3, DAMAGED)
    made.deliver(1)
    found = Found.after(made, 99)
    assert [segment.first_seq for segment in found.segments] == [1, 4, 7]
    recovered = rebuild(meta(P), found.entries, found.segments[1:], found.tail)
    assert recovered.missing == [LostEntry(2, 2, P, DAMAGED)]
    assert recovered.ledger.lost == {"xrun": 5, DAMAGED: 2 * P}
    assert (recovered.ledger.delivered_frames, recovered.ledger.kept_frames) == (P, 4 * P)
    again = rebuild(meta(P), [*found.entries, *recovered.missing], found.segments[1:], found.tail)
    assert again.missing == []
    assert again.ledger.lost == recovered.ledger.lost
    freed = rebuild(meta(P), [*found.entries, *recovered.missing, MarkEntry(6, 6)], found.segments[2:], found.tail)
    assert freed.ledger.lost == recovered.ledger.lost


def test_losses_that_overlap_count_once() -> None:
    made = Made(9)
    made.capture(6 * P)
    made.write()
    found = Found.after(made, 99)
    found.entries += [LostEntry(3, 3, P, DAMAGED), LostEntry(2, 5, 3 * P, "overflow"), LostEntry(6, 9, 4 * P, "x")]
    ledger = found.rebuild().ledger
    assert ledger.lost == {DAMAGED: P, "overflow": 3 * P}


def test_what_is_still_there_between_holes() -> None:
    ledger = Ledger(P)
    ledger.capture(10 * P)
    ledger.lose(3, 4, "x")
    ledger.lose(7, 7, "y")
    assert list(still_there(ledger, 2, 9)) == [(2, 2), (5, 6), (8, 9)]
    assert list(still_there(ledger, 3, 4)) == []
    assert list(still_there(ledger, 3, 5)) == [(5, 5)]


def test_a_recording_without_audio_has_an_account_of_none() -> None:
    recovered = rebuild(meta(P, has_audio=False, state=CardState.SEALED), [EndEntry(800, "stop")], [], Tail())
    assert (recovered.ledger.last, recovered.ledger.expected, recovered.ledger.lost) == (0, 0, {})


@pytest.mark.parametrize(
    ("entries", "segments", "tail", "words"),
    [
        ([GapEntry(1, 0, 99, "xrun")], [Segment(3, 2 * P, 2 * P)], Tail(3, 3 * P), "more gaps than time"),
        ([GapEntry(2, 4, 4, "xrun"), GapEntry(3, 5, 1, "x")], [Segment(1, 0, 0)], Tail(4, 99), "middle of audio"),
        ([], [Segment(1, 0, 0)], Tail(3, 2 * P), "do not fit together"),
        ([], [Segment(2, P, P), Segment(1, 0, 0)], Tail(3, 3 * P), "not in order"),
        ([], [Segment(1, 0, 0), Segment(2, P + 1, P)], Tail(3, 3 * P), "does not begin where"),
    ],
)
def test_contradictions_are_errors(entries: list[Entry], segments: list[Segment], tail: Tail, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        rebuild(meta(P), entries, segments, tail)


def test_gaps_that_the_audio_shows_keep_their_cause_where_it_is_known() -> None:
    told: list[Entry] = [
        MarkEntry(1, 1),
        GapEntry(3, 2 * P, 5, "xrun"),
        GapEntry(3, 2 * P, 5, "xrun"),  # written again after a failure
        GapEntry(5, 99, 7, "overflow"),
        GapEntry(6, 6 * P, 1, "xrun"),
    ]
    records = [(2, P, P), (3, 2 * P + 5, P), (5, 4 * P + 9, P)]
    assert with_found_gaps(told, records, P) == [
        MarkEntry(1, 1),
        GapEntry(3, 2 * P, 5, "xrun"),
        GapEntry(5, 4 * P + 5, 4, UNEXPLAINED),
        GapEntry(6, 6 * P, 1, "xrun"),
    ]
    assert with_found_gaps(told[1:2], [], P) == told[1:2]


# --- going on ---------------------------------------------------------------------------------------------------------

NOW = Anchor("now", 1.7e9, True)


def cut_off(boot: BootEntry | None, last_s: float = 100.0, last_seq: int = 5) -> Recovered:
    boots = {} if boot is None else {0: boot}
    return Recovered(Ledger(P), "", 0, boots, [], Tail(last_seq, boot_us=int(last_s * 1e6)), 0, 0)


def judged(found: Recovered, now: Anchor = NOW, boot_s: float = 50.0, *, after_power_loss: bool = True) -> object:
    said = verdict(found, now, boot_s, resume_within_s=600.0, after_power_loss=after_power_loss)
    return said.goes_on, said.cause, said.gap_s


def test_what_only_lost_its_process_goes_on_always() -> None:
    found = cut_off(BootEntry(0, "now", 0.0, False))
    assert judged(found, boot_s=130.0, after_power_loss=False) == (True, CRASH, pytest.approx(30.0))
    assert judged(found, boot_s=99.0) == (True, CRASH, 0.0)
    assert judged(cut_off(BootEntry(0, "now", 0.0, False), last_seq=0)) == (True, CRASH, None)


@pytest.mark.parametrize(
    ("away_s", "goes_on"), [(-1.0, False), (0.0, True), (599.0, True), (600.0, True), (601.0, False)]
)
def test_after_a_power_cut_it_goes_on_if_the_gap_is_proven_short(away_s: float, goes_on: bool) -> None:
    """Boot clocks begin anew: the last packet was at 100 s of a boot that began 50 + `away_s` - ... ago."""
    found = cut_off(BootEntry(0, "old", NOW.utc_minus_boot_s - away_s - 50.0, True))
    assert judged(found) == (goes_on, POWER, pytest.approx(away_s))


@pytest.mark.parametrize(
    ("boot", "now", "last_seq"),
    [
        (None, NOW, 5),
        (BootEntry(0, "old", 1.7e9, False), NOW, 5),
        (BootEntry(0, "old", 1.7e9, True), replace(NOW, trusted=False), 5),
        (BootEntry(0, "old", 1.7e9, True), NOW, 0),
    ],
)
def test_without_a_trusted_clock_nobody_is_recorded(boot: BootEntry | None, now: Anchor, last_seq: int) -> None:
    assert judged(cut_off(boot, last_seq=last_seq), now) == (False, POWER, None)


def test_after_a_power_cut_it_does_not_go_on_where_that_is_switched_off() -> None:
    found = cut_off(BootEntry(0, "old", NOW.utc_minus_boot_s - 60.0, True))
    assert judged(found, after_power_loss=False) == (False, POWER, None)
