"""One recording's folder: written by one thread, read by any."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from edge.adapters.spool.files import write_all
from edge.adapters.spool.segments import SUFFIX, SegmentFile, read
from edge.core import journal, manifest
from edge.core.manifest import CardState, Manifest
from edge.core.segment import CardPacket, RecordCodec, SegmentHeader, encode_segment, records_in

MANIFEST, JOURNAL = "manifest.json", "journal"


class Shelf(Protocol):
    """What a recording needs of the directory that it stands in (directory.py)."""

    system: Any
    segment_bytes: int

    def take_segment(self, target: Path, *, beyond_limit: bool = False) -> int:
        """A segment file under the name `target`, open for writing."""

    def give_back(self, segment: Path) -> None:
        """A segment that is not needed any more."""

    def set_segment_aside(self, segment: Path, recording_id: str) -> None:
        """A segment that is damaged."""

    def shorten(self, descriptor: int, size: int) -> None:
        """Give back what a segment has beyond `size` bytes, durably."""

    def clear(self, folder: Path) -> None:
        """Let go of a folder that is no recording any more."""

    def replace(self, path: Path, data: bytes) -> None:
        """Put `data` in `path`'s place, whole or not at all, durably."""

    def sync_folder(self, folder: Path) -> None:
        """Make names durable."""


class CardRecording:
    """One recording's folder. `append` and everything that changes belongs to the writer's thread; `read` to any."""

    def __init__(
        self, shelf: Shelf, folder: Path, meta: Manifest, segments: list[SegmentFile], damaged: Sequence[Path] = ()
    ) -> None:
        """`damaged`: segments of which not even the header is whole."""
        self.folder = folder
        self.manifest = meta
        self.segments = segments
        self._damaged = list(damaged)
        self._shelf = shelf
        self._system = shelf.system
        self._descriptor = -1
        self._codec: RecordCodec | None = None
        self._journal = -1
        self._is_journal_dirty = self._is_audio_dirty = False
        self._capacity = records_in(shelf.segment_bytes, meta.audio, meta.packet_frames)

    # --- audio -----------------------------------------------------------------------------------------------------

    def append(self, packets: Sequence[CardPacket], offsets: Sequence[int], *, beyond_limit: bool = False) -> None:
        """Write packets in order; `offsets` are their places in the recording's stored audio, in frames.

        Not durable before `sync`. After an OSError call `retreat`, then append again all that was not synced.
        """
        start = 0
        while start < len(packets):
            if self._codec is None or self.segments[-1].count >= self._capacity or self._jumps(packets[start].seq):
                self._next_segment(packets[start], offsets[start], beyond_limit)
            segment, codec = self.segments[-1], self._codec
            assert codec is not None
            stop = start + 1
            while (
                stop < len(packets)
                and stop - start < self._capacity - segment.count
                and packets[stop].seq == packets[stop - 1].seq + 1
            ):
                stop += 1
            place = segment.header.place(segment.header.first_seq + segment.count)
            self._is_audio_dirty = True  # from the first byte on
            write_all(self._system, self._descriptor, codec.encode(packets[start:stop]), place)
            segment.count += stop - start
            start = stop

    def _jumps(self, seq: int) -> bool:
        return seq != self.segments[-1].last_seq + 1

    def _next_segment(self, packet: CardPacket, offset: int, beyond_limit: bool) -> None:
        self.sync()  # only the last segment may be torn
        self._close_segment()
        index = self.segments[-1].header.index + 1 if self.segments else 0
        path = self.folder / f"{index:06d}{SUFFIX}"
        meta = self.manifest
        header = SegmentHeader(
            meta.recording_id,
            index,
            packet.seq,
            packet.position,
            offset,
            meta.audio,
            meta.packet_frames,
            secrets.randbits(32),
        )
        if path.exists():
            self._shelf.give_back(path)  # begun by an earlier try
        self._descriptor = self._shelf.take_segment(path, beyond_limit=beyond_limit)
        write_all(self._system, self._descriptor, encode_segment(header), 0)
        self._codec = RecordCodec(header)
        self.segments.append(SegmentFile(path, header, 0))

    def _close_segment(self) -> None:
        self._codec = None
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self._system.close(descriptor)

    def retreat(self, durable: int) -> None:
        """A write or a sync failed: what lies behind packet `durable` has to be written again, elsewhere."""
        is_behind = bool(self.segments) and self.segments[-1].last_seq > durable
        if self._codec is None or self._is_audio_dirty or is_behind:  # else it was something else that failed
            with contextlib.suppress(OSError):
                self._close_segment()
        if self._journal >= 0:
            descriptor, self._journal = self._journal, -1
            with contextlib.suppress(OSError):
                self._system.close(descriptor)
        self._is_audio_dirty = self._is_journal_dirty = False
        while self.segments and self.segments[-1].header.first_seq > durable:
            segment = self.segments.pop()
            with contextlib.suppress(OSError):
                self._shelf.give_back(segment.path)
        if self.segments:
            self.segments[-1].count = min(self.segments[-1].count, durable - self.segments[-1].header.first_seq + 1)

    def note(self, entries: Sequence[journal.Entry]) -> None:
        """Append to the journal; not durable before `sync`."""
        if not entries:
            return
        if self._journal < 0:
            self._journal = self._system.open(self.folder / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        # A line feed first: a line that was torn by an earlier try must not swallow this one.
        write_all(self._system, self._journal, b"\n" + journal.encode(entries))
        self._is_journal_dirty = True

    def sync(self) -> None:
        """Make all of it durable: the journal first, since a record's place in time is explained there."""
        if self._is_journal_dirty:
            self._system.fdatasync(self._journal)
            self._is_journal_dirty = False
        if self._is_audio_dirty:
            self._system.fdatasync(self._descriptor)
            self._is_audio_dirty = False

    # --- milestones ------------------------------------------------------------------------------------------------

    def seal(self, ended_by: str) -> None:
        """The recording is over, and all of it durable. The space of the last segment that is not needed is given
        back."""
        self.sync()
        if self.segments and self._descriptor >= 0:
            header = self.segments[-1].header
            self._shelf.shorten(self._descriptor, header.place(self.segments[-1].last_seq + 1))
        self._close_segment()
        self._set(replace(self.manifest, state=CardState.SEALED, ended_by=ended_by))

    def correct(self, settings: dict[str, Any]) -> None:
        """It goes to the server with other settings than it was recorded with."""
        self._set(replace(self.manifest, settings=settings))

    def deliver(self, utc_s: float) -> None:
        """All of it is delivered; durable before anything is removed."""
        self._set(replace(self.manifest, state=CardState.DELIVERED, delivered_utc_s=utc_s))

    def _set(self, meta: Manifest) -> None:
        self._shelf.replace(self.folder / MANIFEST, manifest.encode(meta))
        self.manifest = meta

    def free(self, last: int) -> None:
        """Give back the segments whose packets are all at or before `last`, oldest first; the current one stays. They
        are delivered, or their loss is in the journal and durable."""
        while len(self.segments) > 1 and self.segments[0].last_seq <= last:
            self._let_go(self.segments[0])
            del self.segments[0]

    def _let_go(self, segment: SegmentFile) -> None:
        if segment.is_damaged:
            self._shelf.set_segment_aside(segment.path, self.manifest.recording_id)
        else:
            self._shelf.give_back(segment.path)

    def oldest(self) -> tuple[int, int] | None:
        """First and last packet of the oldest segment; None where only the current one is left."""
        segments = self.segments[:2]  # asked for in the loop, while the writer frees
        if len(segments) < 2:
            return None
        return segments[0].header.first_seq, segments[0].last_seq

    def remove(self) -> None:
        """Let go of all of it; the caller knows that it is delivered, or not wanted."""
        self.close()
        for segment in [segment for segment in self.segments if segment.is_damaged]:
            self._let_go(segment)
            self.segments.remove(segment)
        while self._damaged:
            self._shelf.set_segment_aside(self._damaged[0], self.manifest.recording_id)
            del self._damaged[0]
        gone = self.folder.with_name(f".{self.folder.name}.gone")
        if self.folder.exists():  # else an earlier try got so far
            self._system.rename(self.folder, gone)
        self._shelf.sync_folder(gone.parent)
        self._shelf.clear(gone)

    def close(self) -> None:
        """Give back the descriptors."""
        self._close_segment()
        if self._journal >= 0:
            descriptor, self._journal = self._journal, -1
            self._system.close(descriptor)

    # --- reading ---------------------------------------------------------------------------------------------------

    def entries(self) -> list[journal.Entry]:
        """Its journal; what is damaged or gone of it is left out."""
        try:
            return journal.decode((self.folder / JOURNAL).read_bytes())[0]
        except FileNotFoundError:
            return []

    def read(self, first: int, last: int) -> Iterator[tuple[int, CardPacket | None]]:
        """The packets `first` to `last` with their numbers; None where one cannot be read or is damaged."""
        seq = first
        for segment in list(self.segments):
            if segment.last_seq < seq:
                continue
            while seq < min(segment.header.first_seq, last + 1):  # it was delivered before it could be written
                yield seq, None
                seq += 1
            yield from read(segment, seq, min(last, segment.last_seq))
            seq = min(last, segment.last_seq) + 1
            if seq > last:
                return
        for missing in range(seq, last + 1):
            yield missing, None
