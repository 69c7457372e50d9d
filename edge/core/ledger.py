"""The account of one recording, in frames, and the packets and gaps that it is made of.

Packets are numbered from 1 without a hole. Between two gaps all packets are full, so the whole table is one `_Run` for
each uninterrupted stretch. A packet that was captured and can never be sent any more keeps its number, its position
and its place in ring and card; it stands in a `_Hole`. Memory grows with interruptions and holes, not with time.

    expected = delivered + on card + in RAM + the sum of lost[cause]            (DESIGN.md, "The promise")
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from edge.errors import InternalError


@dataclass(frozen=True, slots=True)
class Packet:
    """Where one packet stands: `position` in the recording, `offset` in the ring, both in frames."""

    seq: int
    position: int
    offset: int
    frames: int


@dataclass(frozen=True, slots=True)
class Gap:
    """`frames` without audio, for one `cause`, just before packet `before_seq`.

    `lost_from`: they are the frames of the packets from that one to the one before `before_seq`, which were captured
    and will never be sent. None: no packet was ever made of them.
    """

    before_seq: int
    frames: int
    cause: str
    lost_from: int | None = None


@dataclass(slots=True)
class _Run:
    """A stretch without a gap: packet `first_seq` starts at `position` and `offset`; `lost` came just before it."""

    first_seq: int
    position: int
    offset: int
    stored_frames: int = 0
    lost: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Hole:
    """Packets `first` to `last`, all of one run, are lost. `is_passed`: a session left them out."""

    first: int
    last: int
    cause: str
    is_passed: bool = False


class Ledger:
    """What was captured, what was lost and why, what is delivered. Every number is in frames unless its name says
    packets."""

    def __init__(self, packet_frames: int, offset: int = 0) -> None:
        if packet_frames < 1:
            raise InternalError("a packet holds at least one frame")
        self.packet_frames = packet_frames
        self.ended = False
        self.delivered = 0
        self.synced = 0
        self.resent_frames = 0
        self.lost: dict[str, int] = {}
        self._sent_ever = 0
        self._start_offset = offset
        self._gone_frames = 0  # of lost packets at or before `delivered`
        self._delivered_offset = self._synced_offset = offset  # behind those packets
        self._runs = [_Run(1, 0, offset)]
        self._holes: list[_Hole] = []  # beyond `delivered`, in order; neighbours differ in cause, run or `is_passed`

    @classmethod
    def resumed(
        cls,
        packet_frames: int,
        first_seq: int,
        delivered_frames: int,
        lost: dict[str, int],
        offset: int | None = None,
    ) -> Ledger:
        """The account of a recording of which the packets before `first_seq` are delivered or lost, and `lost` (those
        packets included) came before them.

        `capture`, `gap` and `lose` then rebuild what follows. `offset` is where packet `first_seq` begins in the ring,
        by default `delivered_frames`. `stored` leaves out what was lost before.
        """
        start = delivered_frames if offset is None else offset
        ledger = cls(packet_frames, start)
        ledger.delivered = ledger._sent_ever = first_seq - 1
        ledger.lost = dict(lost)
        ledger._start_offset = start - delivered_frames
        ledger._runs = [_Run(first_seq, delivered_frames + sum(lost.values()), start)]
        return ledger

    # --- what came in ----------------------------------------------------------------------------------------------

    def capture(self, frames: int) -> None:
        """`frames` more were stored in the ring, right behind those before."""
        self._refuse_if_ended()
        if frames < 0:
            raise InternalError(f"cannot capture {frames} frames")
        self._runs[-1].stored_frames += frames

    def gap(self, frames: int, cause: str) -> None:
        """`frames` are missing from here on; the packet before is closed short. Causes between the same packets add
        up."""
        self._refuse_if_ended()
        if frames < 0 or not cause:
            raise InternalError(f"a gap of {frames} frames for {cause!r} is no gap")
        if not frames:
            return
        run = self._runs[-1]
        if run.stored_frames:
            stored, first = run.stored_frames, run.first_seq + self._packets_in(run, closed=True)
            run = _Run(first, run.position + stored, run.offset + stored)
            self._runs.append(run)
        run.lost[cause] = run.lost.get(cause, 0) + frames
        run.position += frames
        self._count_lost(cause, frames)

    def lose(self, first: int, last: int, cause: str) -> int:
        """Packets `first` to `last` will never be sent: complete, not delivered, not lost before; the recording may
        have ended.

        Their frames move to `lost[cause]`; all other packets stay where they are. A packet that was sent before and
        turns out to have arrived counts as delivered after all. Returns the ring offset before which nothing is needed
        any more.
        """
        if not (cause and self.delivered < first <= last <= self.last) or self._holes_in(first, last):
            raise InternalError(
                f"packets {first} to {last} of {self.delivered + 1} to {self.last} cannot be lost (again)"
            )
        self._count_lost(cause, self._frames(first, last))
        while first <= last:
            run = self._runs[self._run_index(first)]
            end = min(last, run.first_seq + self._packets_in(run, closed=True) - 1)
            self._holes.append(_Hole(first, end, cause))
            first = end + 1
        self._tidy()
        return self.needed_from

    def end(self) -> None:
        """The recording is over; the last packet may be short."""
        self.ended = True

    def _count_lost(self, cause: str, frames: int) -> None:
        self.lost[cause] = self.lost.get(cause, 0) + frames
        if not self.lost[cause]:
            del self.lost[cause]

    def _refuse_if_ended(self) -> None:
        if self.ended:
            raise InternalError("the recording has ended")

    # --- what there is ---------------------------------------------------------------------------------------------

    @property
    def expected(self) -> int:
        """The position now: frames since the start, gaps included."""
        return self._runs[-1].position + self._runs[-1].stored_frames

    @property
    def stored(self) -> int:
        """Frames that ever went into the ring."""
        return self._end_offset - self._start_offset

    @property
    def last(self) -> int:
        """Number of the last complete packet; 0 before the first."""
        run = self._runs[-1]
        return run.first_seq + self._packets_in(run, closed=self.ended) - 1

    @property
    def delivered_frames(self) -> int:
        """Frames of the packets up to `delivered`, without those that are lost."""
        return self._delivered_offset - self._start_offset - self._gone_frames

    @property
    def kept_frames(self) -> int:
        """Frames that are stored, neither delivered nor lost: on the card or in RAM."""
        return self._end_offset - self._delivered_offset - self._lost_frames_after(self.delivered)

    @property
    def card_frames(self) -> int:
        """Those of `kept_frames` that are durable on the card."""
        return self.kept_frames - self.ram_frames

    @property
    def ram_frames(self) -> int:
        """Those of `kept_frames` that a power cut would take."""
        return self._end_offset - self._safe_offset - self._lost_frames_after(max(self.delivered, self.synced))

    @property
    def needed_from(self) -> int:
        """The ring offset before which nothing is needed: delivered, on the card, or lost behind that."""
        safe = max(self.delivered, self.synced)
        behind = self.skip_lost(safe + 1)
        return self._offset_behind(behind - 1) if behind > safe + 1 else self._safe_offset

    def packet(self, seq: int) -> Packet:
        """The packet numbered `seq`, which must be complete, not lost and not delivered long ago."""
        if self.is_lost(seq):
            raise InternalError(f"packet {seq} is lost")
        return self._packet(seq)

    def is_lost(self, seq: int) -> bool:
        """Whether packet `seq`, which is not delivered, will never be sent."""
        return bool(self._holes_in(seq, seq))

    def skip_lost(self, seq: int) -> int:
        """The first packet number from `seq` on that is not lost; it may not be captured yet."""
        for hole in self._holes[self._hole_index(seq) :]:
            if hole.first > seq:
                break
            seq = hole.last + 1
        return seq

    def hole_from(self, seq: int) -> Gap | None:
        """The loss that packet `seq` begins or goes on: from `seq` to the end of one hole of one cause without a gap
        inside; None where `seq` is not lost."""
        index = self._hole_index(seq)
        if not self.is_lost(seq):
            return None
        while self._is_one(index):
            index += 1
        hole = self._holes[index]
        return Gap(hole.last + 1, self._frames(seq, hole.last), hole.cause, seq)

    def gaps_before(self, seq: int) -> tuple[Gap, ...]:
        """The gaps that stand just before packet `seq`, or after the last one where `seq` is `last` + 1: first the
        packets before it that are lost, then what was never captured."""
        gaps = []
        index = self._hole_index(seq) - 1
        if index >= 0 and self._holes[index].last == seq - 1 and not self._is_one(index):
            while index > 0 and self._is_one(index - 1):
                index -= 1
            hole = self._holes[index]
            gaps.append(Gap(seq, self._frames(hole.first, seq - 1), hole.cause, hole.first))
        index = self._run_index(seq)
        if index >= 0 and self._runs[index].first_seq == seq:
            gaps += [Gap(seq, frames, cause) for cause, frames in self._runs[index].lost.items()]
        return tuple(gaps)

    def kept_between(self, first: int, last: int) -> int:
        """Frames of the packets `first` to `last`, none of them delivered, without those that are lost."""
        if first > last:
            return 0
        lost = sum(self._frames(max(first, hole.first), min(last, hole.last)) for hole in self._holes_in(first, last))
        return self._frames(first, last) - lost

    def break_after(self, seq: int, gap_frames: int) -> int | None:
        """The first packet number >= `seq` behind which more than `gap_frames` are missing until the next packet that
        can be sent; None where there is none. What is lost at or before `seq` does not count."""
        packet = until = missing = 0
        for first, behind, frames in sorted(self._missing_after(seq)):
            if first != until:
                packet, missing = first - 1, 0
            until, missing = behind, missing + frames
            if missing > gap_frames:
                return packet
        return None

    def _missing_after(self, seq: int) -> Iterator[tuple[int, int, int]]:
        """What is missing behind packet `seq`: the first number concerned, the number behind it, frames."""
        for run in self._runs:
            if run.first_seq > seq:
                yield run.first_seq, run.first_seq, sum(run.lost.values())
        for hole in self._holes[self._hole_index(seq + 1) :]:
            first = max(hole.first, seq + 1)
            yield first, hole.last + 1, self._frames(first, hole.last)

    def _packets_in(self, run: _Run, *, closed: bool) -> int:
        full, rest = divmod(run.stored_frames, self.packet_frames)
        return full + (1 if rest and closed else 0)

    def _run_index(self, seq: int) -> int:
        return bisect_right(self._runs, seq, key=lambda run: run.first_seq) - 1

    def _packet(self, seq: int) -> Packet:
        index = self._run_index(seq)
        if index < 0 or seq > self.last:
            raise InternalError(f"there is no packet {seq} among {self._runs[0].first_seq} to {self.last}")
        run = self._runs[index]
        done = (seq - run.first_seq) * self.packet_frames
        frames = min(self.packet_frames, run.stored_frames - done)
        return Packet(seq, run.position + done, run.offset + done, frames)

    def _offset_behind(self, seq: int) -> int:
        packet = self._packet(seq)
        return packet.offset + packet.frames

    def _frames(self, first: int, last: int) -> int:
        return self._offset_behind(last) - self._packet(first).offset

    @property
    def _end_offset(self) -> int:
        return self._runs[-1].offset + self._runs[-1].stored_frames

    @property
    def _safe_offset(self) -> int:
        return max(self._delivered_offset, self._synced_offset)

    def _hole_index(self, seq: int) -> int:
        """Of the first hole that ends at `seq` or later."""
        return bisect_left(self._holes, seq, key=lambda hole: hole.last)

    def _holes_in(self, first: int, last: int) -> list[_Hole]:
        holes = self._holes[self._hole_index(first) : self._hole_index(last) + 1]
        return [hole for hole in holes if hole.first <= last]

    def _is_one(self, index: int) -> bool:
        """Whether hole `index` and the next are one to everybody but us."""
        if index + 1 == len(self._holes):
            return False
        hole, other = self._holes[index : index + 2]
        is_next = hole.last + 1 == other.first and hole.cause == other.cause
        return is_next and self._runs[self._run_index(other.first)].first_seq != other.first

    def _tidy(self) -> None:
        """Holes in order, and as few as will do."""
        self._holes.sort(key=lambda hole: hole.first)
        for index in range(len(self._holes) - 2, -1, -1):
            hole, other = self._holes[index : index + 2]
            if hole.is_passed == other.is_passed and self._is_one(index):
                hole.last = other.last
                del self._holes[index + 1]

    def _lost_frames_after(self, seq: int) -> int:
        return sum(
            self._frames(max(hole.first, seq + 1), hole.last) for hole in self._holes[self._hole_index(seq + 1) :]
        )

    # --- what went out ---------------------------------------------------------------------------------------------

    def sending(self, packet: Packet) -> None:
        """`packet` goes out on a socket; what goes out again is counted."""
        if packet.seq <= self._sent_ever:
            self.resent_frames += packet.frames
        self._sent_ever = max(self._sent_ever, packet.seq)

    def pass_over(self, first: int, last: int) -> None:
        """A session leaves out those of the packets `first` to `last` that are lost: whatever becomes of it, they never
        arrive."""
        for hole in self._holes_in(first, last):
            parts = (hole.first, first - 1), (max(hole.first, first), min(hole.last, last)), (last + 1, hole.last)
            self._holes.remove(hole)
            self._holes += [
                _Hole(start, end, hole.cause, hole.is_passed or first <= start <= end <= last)
                for start, end in parts
                if start <= end
            ]
        self._tidy()

    def is_lost_under_way(self, first: int, last: int) -> bool:
        """Whether one of the packets `first` to `last`, which went out, was lost after that."""
        return any(not hole.is_passed for hole in self._holes_in(first, last))

    def sync(self, seq: int) -> int:
        """All packets up to `seq` are durable on the card; returns the ring offset before which nothing is needed any
        more."""
        if seq > self.last:
            raise InternalError(f"packet {seq} cannot be on the card: {self.last} is the last")
        if seq > max(self.synced, self.delivered):
            self._synced_offset = self._offset_behind(seq)
        self.synced = max(self.synced, seq)
        return self.needed_from

    def deliver(self, seq: int) -> int:
        """All packets up to `seq` are delivered, but those that are lost and were passed over; returns the ring offset
        before which nothing is needed any more."""
        if seq > self.last:
            raise InternalError(f"packet {seq} cannot be delivered: {self.last} is the last")
        if seq > self.delivered:
            self._free_holes(seq)
            self.delivered = seq
            self._delivered_offset = self._offset_behind(seq)
            while len(self._runs) > 1 and self._runs[1].first_seq <= seq:
                del self._runs[0]
        return self.needed_from

    def _free_holes(self, seq: int) -> None:
        for hole in self._holes_in(self.delivered + 1, seq):
            frames = self._frames(hole.first, min(hole.last, seq))
            if hole.is_passed:
                self._gone_frames += frames
            else:  # it had gone out before it was lost, and has arrived
                self._count_lost(hole.cause, -frames)
            hole.first = seq + 1
        self._holes = [hole for hole in self._holes if hole.first <= hole.last]
