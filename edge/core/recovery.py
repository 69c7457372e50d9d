"""From what the card still has to an account that is true, and to what is to be done about it.

The account of a recording that was cut off closes at its last whole record: nothing is invented behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from edge.core.journal import BootEntry, EndEntry, Entry, GapEntry, LostEntry, MarkEntry, SessionEntry
from edge.core.ledger import Ledger
from edge.core.manifest import CardState, Manifest
from edge.core.timebase import Anchor

UNEXPLAINED = "power"  # a gap whose journal line is gone: what took the line explains it
CRASH, POWER, DAMAGED = "crash", "power", "card"


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as recovery sees it: its first packet, and that one's place in time and in the stored audio."""

    first_seq: int
    position: int
    offset: int


@dataclass(frozen=True, slots=True)
class Tail:
    """The last whole record; packet 0 where there is none.

    end_position  where it ends, in frames
    alive_us      when the server surely was alive, microseconds of the boot clock: `handled` had just moved. 0: unknown
    """

    last_seq: int = 0
    end_position: int = 0
    delivered: int = 0
    handled: int = 0
    boot: int = 0
    boot_us: int = 0
    alive_us: int = 0


@dataclass(slots=True)
class Recovered:
    """A recording found on the card.

    ledger    its account; ended
    ended_by  "" where nothing says how it ended: it was cut off
    boots     what is known of the clock of each boot that it was recorded in
    torn      records that were begun and not whole; `damaged_lines` of the journal likewise
    breaks    the packets that have a gap before them, in order; `holes` what was given up, or could not be read
    missing   those of the holes that the journal does not know of yet
    """

    ledger: Ledger
    ended_by: str
    handled: int
    boots: dict[int, BootEntry]
    sessions: list[SessionEntry]
    tail: Tail
    torn: int
    damaged_lines: int
    breaks: list[int] = field(default_factory=list)
    holes: list[LostEntry] = field(default_factory=list)
    missing: list[LostEntry] = field(default_factory=list)

    def shorts(self, first: int, last: int) -> int:
        """How many of the packets `first` to `last` may be short: those before a gap, and the recording's last."""
        return sum(first < before <= last + 1 for before in self.breaks) + (last == self.ledger.last)

    def lost(self, first: int, last: int) -> tuple[tuple[int, int], ...]:
        """Those of the packets `first` to `last` that are lost, as ranges."""
        found = [(max(first, hole.first), min(last, hole.last)) for hole in self.holes]
        return tuple(sorted((start, stop) for start, stop in found if start <= stop))


def rebuild(
    meta: Manifest,
    entries: Iterable[Entry],
    segments: Sequence[Segment],
    tail: Tail,
    torn: int = 0,
    damaged_lines: int = 0,
) -> Recovered:
    """The account that manifest, journal and segments tell together. Raises ValueError where they contradict each
    other."""
    told = _Told(tail.delivered, tail.handled, meta.ended_by)
    for entry in entries:
        told.hear(entry)
    delivered = tail.last_seq if meta.state is CardState.DELIVERED else told.delivered
    base = segments[0] if segments else Segment(tail.last_seq + 1, tail.end_position, tail.end_position)
    ordered = sorted(told.gaps.values(), key=lambda gap: (gap.before_seq, gap.position))
    lost = list(told.lost.values())
    first = base.first_seq if segments else 0
    # Delivered with the packet behind them, so maybe not yet.
    here = [gap for gap in ordered if gap.before_seq == first]
    start = Segment(base.first_seq, base.position - sum(gap.frames for gap in here), base.offset)
    gone = [gap for gap in ordered if gap.before_seq < first]
    missing = _missing(meta.packet_frames, start, delivered, gone, lost)
    ledger = _base(meta.packet_frames, start, gone, [*lost, *missing])
    for gap in here:
        ledger.gap(gap.frames, gap.cause)
    _fill(ledger, [gap for gap in ordered if gap.before_seq > first], tail)
    if meta.has_audio and meta.state is not CardState.RECORDING:  # it was whole when it was sealed
        ledger.gap(max(0, (told.ended_at or 0) - ledger.expected), DAMAGED)
    ledger.end()
    ledger.is_cut = meta.state is CardState.RECORDING or told.ended_by in (CRASH, POWER)  # sealed by its heir
    if segments and ledger.last != tail.last_seq:
        raise ValueError("its packets and its gaps do not fit together")
    for segment in segments:
        if not base.first_seq <= segment.first_seq <= ledger.last:
            raise ValueError("its segments are not in order")
        packet = ledger.packet(segment.first_seq)
        if (packet.position, packet.offset) != (segment.position, segment.offset):
            raise ValueError("a segment does not begin where the journal says")
    for hole in lost:
        if ledger.delivered < hole.first and hole.last <= ledger.last:
            lose(ledger, hole.first, hole.last, hole.cause)
            ledger.pass_over(hole.first, hole.last)  # whether one had gone out before, and arrived, nobody wrote down
    delivered = min(max(delivered, base.first_seq - 1), ledger.last)
    if delivered > ledger.delivered:
        ledger.deliver(delivered)
    ledger.sync(ledger.last)
    ended_by = told.ended_by if told.ended_at in (None, ledger.expected) else ""
    sessions = list(told.sessions.values())
    # A server may have handled more than was durable here; what is not here cannot be sent again.
    handled = min(max(told.handled, delivered), ledger.last)
    breaks = sorted({gap.before_seq for gap in ordered})
    holes = [*lost, *missing]
    return Recovered(ledger, ended_by, handled, told.boots, sessions, tail, torn, damaged_lines, breaks, holes, missing)


def lose(ledger: Ledger, first: int, last: int, cause: str) -> list[LostEntry]:
    """Those of the packets `first` to `last` that are not lost yet can never be sent any more; what is to be noted."""
    noted = []
    for start, stop in still_there(ledger, first, last):
        before = ledger.lost.get(cause, 0)
        ledger.lose(start, stop, cause)
        noted.append(LostEntry(start, stop, ledger.lost[cause] - before, cause))
    return noted


def still_there(ledger: Ledger, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Those of the packets `first` to `last` that are not lost, as ranges; each may be lost before the next is asked
    for."""
    while (first := ledger.skip_lost(first)) <= last:
        stop = first
        while stop < last and not ledger.is_lost(stop + 1):
            stop += 1
        yield first, stop
        first = stop + 1


@dataclass(slots=True)
class _Told:
    """What the journal tells. An entry that was written again after a failure says the same once more."""

    delivered: int
    handled: int
    ended_by: str
    ended_at: int | None = None
    boots: dict[int, BootEntry] = field(default_factory=dict)
    sessions: dict[str, SessionEntry] = field(default_factory=dict)
    gaps: dict[tuple[int, str], GapEntry] = field(default_factory=dict)
    lost: dict[int, LostEntry] = field(default_factory=dict)

    def hear(self, entry: Entry) -> None:
        match entry:
            case BootEntry():
                self.boots[entry.boot] = entry
            case SessionEntry():
                known = self.sessions.get(entry.session_id, entry)  # told again, delivery may have come further
                self.sessions[entry.session_id] = replace(entry, first_seq=min(known.first_seq, entry.first_seq))
                self.delivered = max(self.delivered, entry.first_seq - 1)  # where it began, all before was delivered
            case GapEntry():
                self.gaps[entry.before_seq, entry.cause] = entry
            case LostEntry():
                self.lost[entry.first] = entry
            case MarkEntry():
                self.delivered = max(self.delivered, entry.delivered)
                self.handled = max(self.handled, entry.handled)
            case EndEntry():
                self.ended_by, self.ended_at = self.ended_by or entry.by, entry.position


def _missing(
    packet_frames: int, base: Segment, delivered: int, gaps: Sequence[GapEntry], lost: Iterable[LostEntry]
) -> list[LostEntry]:
    """What stood before the first segment that is there, and is neither marked as delivered, as all is before it is
    freed, nor known to be lost."""
    last = base.first_seq - 1
    if delivered >= last:
        return []
    before = Ledger(packet_frames)
    try:
        _fill(before, gaps, Tail(last, base.position))
        before.end()
    except ValueError:
        pass
    if before.last != last:  # the journal lacks a gap: then nobody knows which packets were short
        before = Ledger(packet_frames)
        before.capture(min(base.offset, last * packet_frames))
        before.end()
    for entry in lost:
        if entry.last <= before.last:
            lose(before, entry.first, entry.last, entry.cause)
    return lose(before, delivered + 1, before.last, DAMAGED)


def _base(packet_frames: int, base: Segment, gaps: Iterable[GapEntry], lost: Iterable[LostEntry]) -> Ledger:
    """The account up to the first segment that is still there; what was before it is delivered or lost."""
    before: dict[str, int] = {}
    for gap in gaps:
        before[gap.cause] = before.get(gap.cause, 0) + gap.frames
    unexplained = base.position - base.offset - sum(before.values())
    if unexplained < 0:
        raise ValueError("it has more gaps than time")
    if unexplained:
        before[UNEXPLAINED] = before.get(UNEXPLAINED, 0) + unexplained
    delivered_frames = base.offset
    for entry in lost:
        if entry.last < base.first_seq:
            before[entry.cause] = before.get(entry.cause, 0) + entry.frames
            delivered_frames -= entry.frames
    return Ledger.resumed(packet_frames, base.first_seq, delivered_frames, before, base.offset)


def _fill(ledger: Ledger, gaps: Sequence[GapEntry], tail: Tail) -> None:
    """Audio and gaps from the first segment to the last whole record."""
    for gap in gaps:
        if gap.before_seq > tail.last_seq + 1 or gap.position > max(tail.end_position, ledger.expected):
            continue  # what stood between was not durable: the account closes before it
        stored = gap.position - ledger.expected
        if stored < 0:
            raise ValueError("a gap lies in the middle of audio")
        ledger.capture(stored)
        ledger.gap(gap.frames, gap.cause)
    rest = tail.end_position - ledger.expected
    if rest > 0:
        ledger.capture(rest)


def with_found_gaps(
    entries: Sequence[Entry], records: Iterable[tuple[int, int, int]], packet_frames: int
) -> list[Entry]:
    """`entries`, but with the gaps that the audio itself shows: `records` are number, position and frames of each whole
    record, from any one on. Where the journal explains a gap it keeps its causes."""
    others = [entry for entry in entries if not isinstance(entry, GapEntry)]
    told: dict[int, list[GapEntry]] = {}
    for gap in {(gap.before_seq, gap.cause): gap for gap in entries if isinstance(gap, GapEntry)}.values():
        told.setdefault(gap.before_seq, []).append(gap)
    gaps: list[Entry] = []
    last: tuple[int, int] | None = None
    for seq, position, frames in records:
        if last is None:
            gaps += [gap for before, known in told.items() if before <= seq for gap in known]
        else:
            start = last[1] + (seq - last[0] - 1) * packet_frames
            known = told.get(seq, [])
            if known and sum(gap.frames for gap in known) == position - start:
                gaps += known
            elif position > start:
                gaps.append(GapEntry(seq, start, position - start, UNEXPLAINED))
        last = seq, position + frames
    gaps += [gap for before, known in told.items() if last is None or before > last[0] for gap in known]
    return others + gaps


# --- going on after a restart ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether recording goes on by itself, and why; `gap_s` is the time between, where it is known."""

    goes_on: bool
    cause: str
    why: str
    gap_s: float | None = None


def verdict(found: Recovered, now: Anchor, boot_s: float, *, resume_within_s: float, after_power_loss: bool) -> Verdict:
    """What to do about a recording that was cut off: nobody is recorded unaware, and nobody loses a recording that
    only its process lost."""
    last_boot = found.boots.get(found.tail.boot)
    last_s = found.tail.boot_us / 1e6
    if last_boot is not None and last_boot.boot_id == now.boot_id:
        if not found.tail.last_seq:  # nothing of it tells when that was
            return Verdict(True, CRASH, "the recorder ended without a stop")
        gap_s = max(0.0, boot_s - last_s)
        return Verdict(True, CRASH, f"the recorder ended {gap_s:.0f} s ago without a stop", gap_s)
    if not after_power_loss:
        return Verdict(False, POWER, "spool.resume_after_power_loss is off")
    if last_boot is None or not (last_boot.trusted and now.trusted) or not found.tail.last_seq:
        return Verdict(False, POWER, "no trusted clock tells how long the power was away")
    gap_s = boot_s + now.utc_minus_boot_s - last_s - last_boot.utc_minus_boot_s
    if not 0 <= gap_s <= resume_within_s:
        return Verdict(False, POWER, f"the power was away for {gap_s:.0f} s, more than {resume_within_s:g} s", gap_s)
    return Verdict(True, POWER, f"the power was away for {gap_s:.0f} s", gap_s)
