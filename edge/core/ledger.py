"""The account of one recording, in frames, and the packets and gaps that it is made of.

Packets are numbered from 1 without a hole. Between two gaps all packets are full, so the whole table is one `Run` for
each uninterrupted stretch: memory grows with interruptions, not with time.

    expected = delivered + in RAM + the sum of lost[cause]                      (DESIGN.md, "The promise")
"""

from __future__ import annotations

from bisect import bisect_right
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
    """`frames` without audio, for one `cause`, just before packet `before_seq`."""

    before_seq: int
    frames: int
    cause: str


@dataclass(slots=True)
class _Run:
    """A stretch without a gap: packet `first_seq` starts at `position` and `offset`; `lost` came just before it."""

    first_seq: int
    position: int
    offset: int
    stored_frames: int = 0
    lost: dict[str, int] = field(default_factory=dict)


class Ledger:
    """What was captured, what was lost and why, what is delivered. Every number is in frames unless its name says
    packets."""

    def __init__(self, packet_frames: int, offset: int = 0) -> None:
        if packet_frames < 1:
            raise InternalError("a packet holds at least one frame")
        self.packet_frames = packet_frames
        self.ended = False
        self.delivered = 0
        self.resent_frames = 0
        self.lost: dict[str, int] = {}
        self._sent_ever = 0
        self._delivered_frames = 0
        self._start_offset = offset
        self._runs = [_Run(1, 0, offset)]

    @classmethod
    def resumed(cls, packet_frames: int, first_seq: int, delivered_frames: int, lost: dict[str, int]) -> Ledger:
        """The account of a recording of which the packets before `first_seq` are delivered and `lost` came before
        them."""
        ledger = cls(packet_frames)
        ledger.delivered = ledger._sent_ever = first_seq - 1
        ledger.lost = dict(lost)
        ledger._delivered_frames = delivered_frames
        ledger._runs = [_Run(first_seq, delivered_frames + sum(lost.values()), delivered_frames)]
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
        self.lost[cause] = self.lost.get(cause, 0) + frames

    def end(self) -> None:
        """The recording is over; the last packet may be short."""
        self.ended = True

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
        return self._runs[-1].offset + self._runs[-1].stored_frames - self._start_offset

    @property
    def last(self) -> int:
        """Number of the last complete packet; 0 before the first."""
        run = self._runs[-1]
        return run.first_seq + self._packets_in(run, closed=self.ended) - 1

    @property
    def delivered_frames(self) -> int:
        """Frames of the packets up to `delivered`."""
        return self._delivered_frames

    @property
    def ram_frames(self) -> int:
        """Frames that are stored and not delivered."""
        return self.stored - self._delivered_frames

    def packet(self, seq: int) -> Packet:
        """The packet numbered `seq`, which must be complete and not delivered long ago."""
        index = bisect_right(self._runs, seq, key=lambda run: run.first_seq) - 1
        if index < 0 or seq > self.last:
            raise InternalError(f"there is no packet {seq} among {self._runs[0].first_seq} to {self.last}")
        run = self._runs[index]
        done = (seq - run.first_seq) * self.packet_frames
        frames = min(self.packet_frames, run.stored_frames - done)
        return Packet(seq, run.position + done, run.offset + done, frames)

    def gaps_before(self, seq: int) -> tuple[Gap, ...]:
        """The gaps that stand just before packet `seq`, or after the last one where `seq` is `last` + 1."""
        index = bisect_right(self._runs, seq, key=lambda run: run.first_seq) - 1
        if index < 0 or self._runs[index].first_seq != seq:
            return ()
        return tuple(Gap(seq, frames, cause) for cause, frames in self._runs[index].lost.items())

    def break_after(self, seq: int, gap_frames: int) -> int | None:
        """The first packet number >= `seq` behind which more than `gap_frames` are missing; None where there is
        none."""
        for run in self._runs:
            if run.first_seq > seq and sum(run.lost.values()) > gap_frames:
                return run.first_seq - 1
        return None

    def _packets_in(self, run: _Run, *, closed: bool) -> int:
        full, rest = divmod(run.stored_frames, self.packet_frames)
        return full + (1 if rest and closed else 0)

    # --- what went out ---------------------------------------------------------------------------------------------

    def sending(self, packet: Packet) -> None:
        """`packet` goes out on a socket; what goes out again is counted."""
        if packet.seq <= self._sent_ever:
            self.resent_frames += packet.frames
        self._sent_ever = max(self._sent_ever, packet.seq)

    def deliver(self, seq: int) -> int:
        """All packets up to `seq` are delivered; returns the ring offset before which nothing is needed any more."""
        if seq > self.last:
            raise InternalError(f"packet {seq} cannot be delivered: {self.last} is the last")
        if seq > self.delivered:
            packet = self.packet(seq)
            self.delivered = seq
            self._delivered_frames = packet.offset + packet.frames - self._start_offset
            while len(self._runs) > 1 and self._runs[1].first_seq <= seq:
                del self._runs[0]
        return self._start_offset + self._delivered_frames
