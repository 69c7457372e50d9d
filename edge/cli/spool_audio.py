"""A recording on the card from its beginning to its end: audio, and what is missing between, without a hole in time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge.adapters.spool import CardRecording
from edge.adapters.spool.segments import SegmentFile
from edge.core.journal import EndEntry, Entry, GapEntry, LostEntry
from edge.core.packet import HEADER_BYTES
from edge.core.recovery import DAMAGED, UNEXPLAINED, Recovered
from edge.core.segment import BLOCK_BYTES, CardPacket, RecordCodec, Torn

FREED = "given back"  # delivered, and its room used again while we read
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Stretch:
    """`frames` frames from `position` on: `data`, or None where they are missing for `cause`. `is_damage`: they
    should be on the card, and cannot be read; `packets` are the first and the last of them, where that is known."""

    position: int
    frames: int
    data: memoryview | None
    cause: str = ""
    is_damage: bool = False
    packets: tuple[int, int] | None = None


class Walk:
    """Once over all that the card has of a recording, in frames; reads it piece by piece.

    begins_at  where what is on the card begins: what was before is delivered, and its room given back
    ends_at    where the recording ended, as far as that is known beforehand
    """

    def __init__(self, card: CardRecording, found: Recovered) -> None:
        """May raise OSError."""
        entries = card.entries()
        self._card = card
        self._segments = list(card.segments)
        self._gaps = _gaps(entries)
        self._given_up = [entry for entry in entries if isinstance(entry, LostEntry)]
        ends = [entry.position for entry in entries if isinstance(entry, EndEntry)]
        # Where no end was noted the account closes at the last whole record, whatever may stand behind it.
        self.has_end = bool(ends)
        self._last = None if ends else found.tail.last_seq
        first = self._segments[0].header if self._segments else None
        self.begins_at = first.position if first is not None and first.first_seq > 1 else 0
        self.ends_at = max(self.begins_at, ends[-1] if ends else found.ledger.expected)
        self.known_gaps = len(self._gaps)
        self.packets = 0

    def stretches(self) -> Iterator[Stretch]:
        """All of it in order; each frame from `begins_at` on stands in one of them. May raise OSError."""
        at, bad, cause = self.begins_at, [0, 0], ""
        for seq, packet, fault in self._records():
            if packet is None or packet.position < at:
                bad = [bad[0] or seq, seq]
                cause = fault or DAMAGED
                continue
            yield from self._missing(at, packet.position, bad, cause)
            bad, cause = [0, 0], ""
            self.packets += 1
            yield Stretch(packet.position, packet.frames, memoryview(packet.wire)[HEADER_BYTES:])
            at = packet.position + packet.frames
        if at < self.ends_at:
            if self.has_end and not cause:
                cause = DAMAGED  # an end was noted, and there is nothing up to it
            yield from self._missing(at, self.ends_at, bad, cause)

    def _missing(self, at: int, until: int, bad: list[int], cause: str) -> Iterator[Stretch]:
        packets, is_damage = (bad[0], bad[1]) if bad[0] else None, cause == DAMAGED
        if packets is not None and is_damage:
            cause = next((gone.cause for gone in self._given_up if gone.first <= bad[0] <= gone.last), cause)
        cause = cause or UNEXPLAINED
        while at < until:
            gap = self._gaps[0] if self._gaps else None
            if gap is None or gap.position >= until:
                yield Stretch(at, until - at, None, cause, is_damage, packets)
                return
            del self._gaps[0]
            if gap.position > at:
                yield Stretch(at, gap.position - at, None, cause, is_damage, packets)
                at = gap.position
            frames = min(gap.position + gap.frames, until) - at
            if frames > 0:
                yield Stretch(at, frames, None, gap.cause)
                at += frames

    def _records(self) -> Iterator[tuple[int, CardPacket | None, str]]:
        for segment in self._segments:
            last = segment.last_seq if segment is not self._segments[-1] else self._last
            yield from _read(segment, last)


def _read(segment: SegmentFile, last: int | None) -> Iterator[tuple[int, CardPacket | None, str]]:
    """Packets up to `last` (None: as many as the file has room for); where there is none, why."""
    header = segment.header
    codec, size = RecordCodec(header), header.record_bytes
    try:
        file = segment.path.open("rb", buffering=0)
    except OSError as error:
        fault = FREED if isinstance(error, FileNotFoundError) else DAMAGED
        for seq in range(header.first_seq, (segment.last_seq if last is None else last) + 1):
            yield seq, None, fault
        return
    with file:
        if last is None:
            room = (os.fstat(file.fileno()).st_size - BLOCK_BYTES) // size
            last = max(segment.last_seq, header.first_seq + room - 1)
        for first in range(header.first_seq, last + 1, _BATCH):
            count = min(_BATCH, last + 1 - first)
            try:
                data = memoryview(os.pread(file.fileno(), count * size, header.place(first)))
            except OSError:
                data = memoryview(b"")  # each of them may still be readable alone, but not by us
            for seq in range(first, first + count):
                try:
                    yield seq, codec.decode(data[(seq - first) * size :][:size], seq), ""
                except Torn:
                    yield seq, None, DAMAGED if segment.path.exists() else FREED


def _gaps(entries: Iterable[Entry]) -> list[GapEntry]:
    """In order of time; an entry that was written again after a failure says the same once more."""
    gaps = {(gap.before_seq, gap.cause): gap for gap in entries if isinstance(gap, GapEntry)}
    return sorted(gaps.values(), key=lambda gap: (gap.position, gap.before_seq))
