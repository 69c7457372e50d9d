"""Segment files as they are read: which there are, what they hold, where the last one ends."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.core.manifest import Manifest
from edge.core.recovery import Segment, Tail
from edge.core.segment import BLOCK_BYTES, CardPacket, RecordCodec, SegmentHeader, Torn, decode_segment

SUFFIX = ".seg"


@dataclass(slots=True)
class SegmentFile:
    """A segment on the card with `count` packets that are known to be whole."""

    path: Path
    header: SegmentHeader
    count: int
    is_damaged: bool = False

    @property
    def last_seq(self) -> int:
        """Its last packet."""
        return self.header.first_seq + self.count - 1

    @property
    def summary(self) -> Segment:
        """As the recovery wants it."""
        return Segment(self.header.first_seq, self.header.position, self.header.offset)


def segments_in(folder: Path, meta: Manifest) -> tuple[list[SegmentFile], list[Path]]:
    """The segments of the recording in `folder`, in order, and those files among them that have lost their header.
    Raises OSError, ValueError."""
    found: list[SegmentFile] = []
    headless: list[Path] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with path.open("rb") as file:
            block = file.read(BLOCK_BYTES)
        try:
            header = decode_segment(block)
        except Torn:
            headless.append(path)
            continue
        if header.recording_id != meta.recording_id or path.stem != f"{header.index:06d}":
            headless.append(path)  # it still has the header of an earlier life, maybe in this very recording
            continue
        if (header.audio, header.packet_frames) != (meta.audio, meta.packet_frames):
            raise ValueError(f"{path.name} is of another format")
        found.append(SegmentFile(path, header, 0))
    # What is behind the last one was taken and never used: its header was not durable, so nothing behind it was.
    return found, [path for path in headless if found and path.name < found[-1].path.name]


def tail_of(
    segments: list[SegmentFile], *, is_sealed: bool, is_quick: bool = False, until: int | None = None
) -> tuple[Tail, int]:
    """The last whole record, and how many after it were begun. `until`: the position at which the recording ended.

    What was cut off ends before its first torn record. In what was sealed whole a damaged one is no end: it counts
    as lost once it is read. `is_quick`: of what was sealed the last record is looked at alone, if it is whole.
    """
    if is_sealed and is_quick and segments and (only := _last(segments[-1], until)) is not None:
        return _tail(only, 0), 0
    torn = 0
    while segments:
        last, alive_us, behind = _end_of(segments[-1], until, is_sealed=is_sealed)
        torn += behind
        if last is not None:
            return _tail(last, alive_us), torn
        segments.pop()  # begun, and nothing of it durable
    return Tail(), torn


def _end_of(segment: SegmentFile, until: int | None, *, is_sealed: bool) -> tuple[CardPacket | None, int, int]:
    """Its last whole record, when the server surely was alive (see `Tail`), and how many behind it were begun."""
    last: CardPacket | None = None
    alive_us = behind = 0
    for packet, is_begun in records(segment):
        if packet is not None and until is not None and packet.position >= until:
            break
        if packet is None:
            behind += is_begun
            if is_sealed:
                continue
            break
        if last is not None and packet.handled > last.handled:
            alive_us = last.boot_us  # it moved after that one was written
        segment.is_damaged = segment.is_damaged or bool(behind)
        last, behind = packet, 0
    return last, alive_us, behind


def _tail(last: CardPacket, alive_us: int) -> Tail:
    end = last.position + last.frames
    return Tail(last.seq, end, last.delivered, last.handled, last.boot, last.boot_us, alive_us)


def _last(segment: SegmentFile, until: int | None) -> CardPacket | None:
    """The record at the end of a file that was shortened when it was sealed."""
    places = (segment.path.stat().st_size - BLOCK_BYTES) // segment.header.record_bytes
    if places < 1:
        return None
    seq = segment.header.first_seq + places - 1
    packet = next(read(segment, seq, seq))[1]
    segment.is_damaged = False  # it may never have been shortened
    return None if packet is not None and until is not None and packet.position >= until else packet


def scan(segments: Sequence[SegmentFile], tail: Tail) -> Iterator[tuple[int, int, int]]:
    """Number, position and frames of every whole record."""
    for segment, after in itertools.zip_longest(segments, segments[1:]):
        stop = after.header.first_seq if after is not None else tail.last_seq + 1
        for seq, (packet, _) in enumerate(records(segment), segment.header.first_seq):
            if seq >= stop:
                break
            if packet is not None:
                yield seq, packet.position, packet.frames


def records(segment: SegmentFile) -> Iterator[tuple[CardPacket | None, bool]]:
    """What each place of the file holds, None where it is no whole record; and whether one was at least begun there."""
    codec, size = RecordCodec(segment.header), segment.header.record_bytes
    with segment.path.open("rb") as file:
        file.seek(BLOCK_BYTES)
        seq = segment.header.first_seq
        while len(record := file.read(size)) == size:
            try:
                yield codec.decode(record, seq), True
            except Torn:
                yield None, codec.is_begun(record, seq)
            seq += 1


def read(segment: SegmentFile, first: int, last: int) -> Iterator[tuple[int, CardPacket | None]]:
    """The packets `first` to `last` of one segment; None where one is damaged."""
    codec, size = RecordCodec(segment.header), segment.header.record_bytes
    try:
        with segment.path.open("rb", buffering=0) as file:
            data = _pread(file.fileno(), segment.header.place(first), size, last - first + 1)
    except FileNotFoundError:
        data = [b""] * (last - first + 1)  # given up meanwhile
    for seq, record in enumerate(data, first):
        try:
            yield seq, codec.decode(record, seq)
        except Torn:
            segment.is_damaged = True
            yield seq, None


def _pread(descriptor: int, place: int, size: int, count: int) -> list[bytes]:
    """`count` records; empty where the disk does not give one: a bad sector must not cost those around it."""
    try:
        data = os.pread(descriptor, size * count, place)
    except OSError:
        data = b""
    if len(data) < size * count and count > 1:  # so it ends, too, if the first sectors can be read
        return [record for i in range(count) for record in _pread(descriptor, place + i * size, size, 1)]
    return [data[start : start + size] for start in range(0, size * count, size)]
