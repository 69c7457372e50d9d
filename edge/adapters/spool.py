"""The spool's files, in STATE/spool.

    recordings/ID/manifest.json   what it is (core/manifest.py); replaced whole, by a rename
    recordings/ID/journal         what happened to it (core/journal.py); appended
    recordings/ID/000000.seg ...  its audio (core/segment.py); preallocated
    pool/                         segment files that are free, to be overwritten: cheaper for a card than new ones
    quarantine/                   what was damaged, with a reason beside it; never deleted by us
    ballast                       space held back, so that a full card can still be sealed in order

The order of writes makes each prefix of them recoverable: a folder appears with its manifest, a name is durable before
the file is overwritten under it, a segment is complete before the next one begins, and what is freed is delivered.

Everything here may raise OSError. `system` is `os`; tests put a failing one in its place.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.core import journal, manifest
from edge.core.manifest import CardState, Manifest
from edge.core.recovery import Recovered, Segment, Tail, rebuild
from edge.core.segment import (
    BLOCK_BYTES,
    CardPacket,
    RecordCodec,
    SegmentHeader,
    Torn,
    decode_segment,
    encode_segment,
    records_in,
)
from edge.errors import UnreadableError

SEGMENT_BYTES = 4 << 20
BALLAST_BYTES = 64 << 20
_POOL_FILES = 16
_MANIFEST, _JOURNAL, _SUFFIX = "manifest.json", "journal", ".seg"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class CardFull(OSError):
    """The spool may not grow any more."""


class SpoolDirectory:
    """Owns the folder `path`. One thread writes (the spool writer); reading is free for all."""

    def __init__(
        self,
        path: Path,
        max_bytes: int = 0,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        ballast_bytes: int = BALLAST_BYTES,
        system: Any = os,
    ) -> None:
        """`max_bytes` 0 stands for 80 % of what is free and ours when `prepare` looks."""
        self.path = path
        self.max_bytes = max_bytes
        self.segment_bytes = segment_bytes
        self.system = system
        self._ballast_bytes = ballast_bytes
        self._used = 0
        self._is_prepared = False

    @property
    def recordings(self) -> Path:
        """Where the recordings are."""
        return self.path / "recordings"

    @property
    def quarantine(self) -> Path:
        """Where the damaged is."""
        return self.path / "quarantine"

    @property
    def _pool(self) -> Path:
        return self.path / "pool"

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def prepare(self) -> None:
        """Make the folders, end what an earlier process had begun, and look how much room there is."""
        for folder in (self.path, self.recordings, self._pool, self.quarantine):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self.recordings.glob(".*"):  # a rename decides: half made, or given up
            shutil.rmtree(leftover, ignore_errors=True)
        self._used = sum(_blocks(path) for path in self.path.rglob("*"))
        if not self.max_bytes:
            self.max_bytes = int(0.8 * (self._used + self.free_bytes()))
        self.restore_ballast()
        self._is_prepared = True

    # --- space -----------------------------------------------------------------------------------------------------

    def free_bytes(self) -> int:
        """What the file system has left for us."""
        status = self.system.statvfs(self.path)
        return int(status.f_bavail * status.f_frsize)

    def room_bytes(self) -> int:
        """How much more audio fits, free segment files included."""
        pool = sum(_blocks(path) for path in self._pool.iterdir())
        return max(0, min(self.max_bytes - self._used, self.free_bytes())) + pool

    def restore_ballast(self) -> None:
        """Hold space back, if there is any to spare."""
        with contextlib.suppress(OSError):
            if not self._ballast.exists() and self.free_bytes() > 2 * self._ballast_bytes > 0:
                descriptor = self.system.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
                try:
                    self.system.posix_fallocate(descriptor, 0, self._ballast_bytes)
                finally:
                    self.system.close(descriptor)

    def give_up_ballast(self) -> bool:
        """Free the space that was held back; False where there was none."""
        try:
            self.system.unlink(self._ballast)
        except OSError:
            return False
        return True

    def take_segment(self, target: Path, *, beyond_limit: bool = False) -> int:
        """A segment file under the name `target`, open for writing and durable under that name. Raises CardFull."""
        free = next(iter(sorted(self._pool.iterdir())), None)
        if free is not None:
            self.system.rename(free, target)
            descriptor: int = self.system.open(target, os.O_RDWR)
        else:
            if not beyond_limit and self._used + self.segment_bytes > self.max_bytes:
                raise CardFull(f"the spool holds its {self.max_bytes >> 20} MiB")
            descriptor = self.system.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                self.system.posix_fallocate(descriptor, 0, self.segment_bytes)
            except OSError:
                self.system.close(descriptor)
                self.system.unlink(target)
                raise
            self._used += self.segment_bytes
        try:
            # Both names must be durable before the first byte of an earlier life is overwritten.
            self.sync_folder(target.parent)
            self.sync_folder(self._pool)
        except OSError:
            self.system.close(descriptor)
            raise
        return descriptor

    def give_back(self, segment: Path) -> None:
        """A segment is delivered, or given up: its file is used again, or its space."""
        size = segment.stat().st_size
        if size == self.segment_bytes and sum(1 for _ in self._pool.iterdir()) < _POOL_FILES:
            self.system.rename(segment, self._pool / f"{secrets.token_hex(8)}{_SUFFIX}")
        else:
            self._used -= _blocks(segment)
            self.system.unlink(segment)

    def expire(self, keep_days: float, utc_s: float | None) -> int:
        """Remove what was delivered more than `keep_days` ago; returns how many recordings that were.

        Without a trusted clock (`utc_s` None), then or now, nobody knows: such a recording stays until its room is
        needed. With `keep_days` 0 it goes in any case.
        """
        removed = 0
        for folder in self.folders():
            try:
                meta = manifest.decode((folder / _MANIFEST).read_bytes())
            except (OSError, ValueError):
                continue
            is_old = bool(meta.delivered_utc_s and utc_s and utc_s - meta.delivered_utc_s > keep_days * 86400)
            if meta.state is CardState.DELIVERED and (is_old or not keep_days):
                CardRecording(self, folder, meta, []).remove()
                removed += 1
        return removed

    def make_room(self) -> bool:
        """Remove the oldest recording that is only kept (`keep_days`); False where there is none."""
        for folder in self.folders():
            try:
                meta = manifest.decode((folder / _MANIFEST).read_bytes())
            except (OSError, ValueError):
                continue
            if meta.state is CardState.DELIVERED:
                CardRecording(self, folder, meta, []).remove()
                return True
        return False

    # --- recordings ------------------------------------------------------------------------------------------------

    def create(self, meta: Manifest, entries: Sequence[journal.Entry]) -> CardRecording:
        """A folder for a new recording, durable before this returns."""
        if not self._is_prepared:
            self.prepare()
        fresh = self.recordings / f".{meta.recording_id}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        try:
            self._write(fresh / _MANIFEST, manifest.encode(meta))
            self._write(fresh / _JOURNAL, journal.encode(entries))
            self.sync_folder(fresh)
            self.system.rename(fresh, self.recordings / meta.recording_id)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        self.sync_folder(self.recordings)
        return CardRecording(self, self.recordings / meta.recording_id, meta, [])

    def next_number(self) -> int:
        """A number above that of each recording that is there."""
        try:
            return 1 + max((_number(folder / _MANIFEST) for folder in self.folders()), default=0)
        except OSError:
            return 1

    def folders(self) -> list[Path]:
        """The recordings' folders, oldest first."""
        found = [path for path in self.recordings.iterdir() if path.is_dir() and not path.name.startswith(".")]
        return sorted(found, key=lambda path: (_number(path / _MANIFEST), path.name))

    def load(self, folder: Path) -> tuple[CardRecording, Recovered]:
        """What `folder` holds, its tail verified record by record, what is torn cut off. Raises UnreadableError."""
        try:
            meta = manifest.decode((folder / _MANIFEST).read_bytes())
            if meta.recording_id != folder.name:
                raise ValueError(f"it is a copy of {meta.recording_id}")
            data = (folder / _JOURNAL).read_bytes()
            entries, damaged = journal.decode(data)
            segments = self._segments(folder, meta)
            tail, torn = self._tail(segments)
            recovered = rebuild(meta, entries, [segment.summary for segment in segments], tail, torn, damaged)
        except (OSError, ValueError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise UnreadableError(
                f"the recording {folder} cannot be read ({why})", "it is set aside, not deleted"
            ) from None
        if segments:
            segments[-1] = replace(segments[-1], count=tail.last_seq - segments[-1].header.first_seq + 1)
            for before, after in itertools.pairwise(segments):
                before.count = after.header.first_seq - before.header.first_seq
        return CardRecording(self, folder, meta, segments), recovered

    def _segments(self, folder: Path, meta: Manifest) -> list[SegmentFile]:
        found = []
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            with path.open("rb") as file:
                block = file.read(BLOCK_BYTES)
            try:
                header = decode_segment(block)
            except Torn:
                continue  # taken, and never used: its header was not durable, so nothing behind it was
            if header.recording_id != meta.recording_id:
                continue  # likewise: it still has the header of an earlier life
            if (header.audio, header.packet_frames) != (meta.audio, meta.packet_frames):
                raise ValueError(f"{path.name} is of another format")
            found.append(SegmentFile(path, header, 0))
        return found

    def _tail(self, segments: list[SegmentFile]) -> tuple[Tail, int]:
        """Read the last segment's records up to the first that is torn; returns how many seem to follow it."""
        while segments:
            segment = segments[-1]
            codec, last, torn, alive_us = RecordCodec(segment.header), None, 0, 0
            size = segment.header.record_bytes
            with segment.path.open("rb") as file:
                file.seek(BLOCK_BYTES)
                seq = segment.header.first_seq
                while len(record := file.read(size)) == size:
                    try:
                        packet = codec.decode(record, seq)
                    except Torn:
                        torn = int(any(record))
                        break
                    if last is not None and packet.handled > last.handled:
                        alive_us = packet.boot_us
                    last = packet
                    seq += 1
            if last is not None:
                end = last.position + last.frames
                tail = Tail(last.seq, end, last.delivered, last.handled, last.boot, last.boot_us, alive_us)
                return tail, torn
            segments.pop()  # begun, and nothing of it durable
        return Tail(), 0

    def set_aside(self, folder: Path, reason: str) -> Path:
        """Move what cannot be read into quarantine, with the reason beside it."""
        target = self.quarantine / folder.name
        number = 1
        while target.exists():
            number += 1
            target = self.quarantine / f"{folder.name}-{number}"
        self.system.rename(folder, target)
        self._write(target.with_name(f"{target.name}.reason.txt"), f"{reason}\n".encode())
        self.sync_folder(self.quarantine)
        self.sync_folder(folder.parent)
        return target

    # --- writing ---------------------------------------------------------------------------------------------------

    def _write(self, path: Path, data: bytes) -> None:
        descriptor = self.system.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(self.system, descriptor, data)
            self.system.fsync(descriptor)
        finally:
            self.system.close(descriptor)

    def replace(self, path: Path, data: bytes) -> None:
        """Put `data` in `path`'s place, whole or not at all, durably."""
        fresh = path.with_name(f"{path.name}.new")
        self._write(fresh, data)
        self.system.replace(fresh, path)
        self.sync_folder(path.parent)

    def sync_folder(self, folder: Path) -> None:
        """Make names durable."""
        descriptor = self.system.open(folder, _DIRECTORY)
        try:
            self.system.fsync(descriptor)
        finally:
            self.system.close(descriptor)


@dataclass(slots=True)
class SegmentFile:
    """A segment on the card with `count` packets that are known to be whole."""

    path: Path
    header: SegmentHeader
    count: int

    @property
    def last_seq(self) -> int:
        """Its last packet."""
        return self.header.first_seq + self.count - 1

    @property
    def summary(self) -> Segment:
        """As the recovery wants it."""
        return Segment(self.header.first_seq, self.header.position, self.header.offset)


class CardRecording:
    """One recording's folder. `append` and everything that changes belongs to the writer's thread; `read` to any."""

    def __init__(self, spool: SpoolDirectory, folder: Path, meta: Manifest, segments: list[SegmentFile]) -> None:
        self.folder = folder
        self.manifest = meta
        self.segments = segments
        self._spool = spool
        self._system = spool.system
        self._descriptor = -1
        self._codec: RecordCodec | None = None
        self._journal = -1
        self._is_journal_dirty = self._is_audio_dirty = False
        self._capacity = records_in(spool.segment_bytes, meta.audio, meta.packet_frames)

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
            write_all(self._system, self._descriptor, codec.encode(packets[start:stop]), place)
            self._is_audio_dirty = True
            segment.count += stop - start
            start = stop

    def _jumps(self, seq: int) -> bool:
        return seq != self.segments[-1].last_seq + 1

    def _next_segment(self, packet: CardPacket, offset: int, beyond_limit: bool) -> None:
        self.sync()  # only the last segment may be torn
        self._close_segment()
        index = self.segments[-1].header.index + 1 if self.segments else 0
        path = self.folder / f"{index:06d}{_SUFFIX}"
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
            self._system.unlink(path)  # begun by an earlier try
        self._descriptor = self._spool.take_segment(path, beyond_limit=beyond_limit)
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
        with contextlib.suppress(OSError):
            self._close_segment()
        if self._journal >= 0:
            with contextlib.suppress(OSError):
                self._system.close(self._journal)
            self._journal = -1
        self._is_audio_dirty = self._is_journal_dirty = False
        while self.segments and self.segments[-1].header.first_seq > durable:
            segment = self.segments.pop()
            with contextlib.suppress(OSError):
                self._spool.give_back(segment.path)
        if self.segments:
            self.segments[-1].count = min(self.segments[-1].count, durable - self.segments[-1].header.first_seq + 1)

    def note(self, entries: Sequence[journal.Entry]) -> None:
        """Append to the journal; not durable before `sync`."""
        if not entries:
            return
        if self._journal < 0:
            self._journal = self._system.open(self.folder / _JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
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
            self._system.ftruncate(self._descriptor, header.place(self.segments[-1].last_seq + 1))
            self._system.fsync(self._descriptor)
        self._close_segment()
        self._set(replace(self.manifest, state=CardState.SEALED, ended_by=ended_by))

    def correct(self, settings: dict[str, Any]) -> None:
        """It goes to the server with other settings than it was recorded with."""
        self._set(replace(self.manifest, settings=settings))

    def deliver(self, utc_s: float) -> None:
        """All of it is delivered; durable before anything is removed."""
        self._set(replace(self.manifest, state=CardState.DELIVERED, delivered_utc_s=utc_s))

    def _set(self, meta: Manifest) -> None:
        self._spool.replace(self.folder / _MANIFEST, manifest.encode(meta))
        self.manifest = meta

    def free(self, delivered: int) -> None:
        """Give back the segments whose packets are all delivered, oldest first; the current one stays."""
        while len(self.segments) > 1 and self.segments[0].last_seq <= delivered:
            self._spool.give_back(self.segments[0].path)
            del self.segments[0]

    def oldest(self) -> tuple[int, int] | None:
        """First and last packet of the oldest segment; None where only the current one is left."""
        if len(self.segments) < 2:
            return None
        return self.segments[0].header.first_seq, self.segments[0].last_seq

    def give_up_oldest(self) -> None:
        """Give back the oldest segment whatever is in it; the caller has noted and synced what is lost."""
        if len(self.segments) > 1:
            self._spool.give_back(self.segments[0].path)
            del self.segments[0]

    def remove(self) -> None:
        """Let go of all of it; the caller knows that it is delivered, or not wanted."""
        self.close()
        gone = self.folder.with_name(f".{self.folder.name}.gone")
        self._system.rename(self.folder, gone)
        self._spool.sync_folder(gone.parent)
        for path in sorted(gone.glob(f"*{_SUFFIX}")):
            self._spool.give_back(path)
        shutil.rmtree(gone, ignore_errors=True)

    def close(self) -> None:
        """Give back the descriptors."""
        self._close_segment()
        if self._journal >= 0:
            descriptor, self._journal = self._journal, -1
            self._system.close(descriptor)

    # --- reading ---------------------------------------------------------------------------------------------------

    def read(self, first: int, last: int) -> Iterator[tuple[int, CardPacket | None]]:
        """The packets `first` to `last` with their numbers; None where one cannot be read or is damaged."""
        seq = first
        for segment in list(self.segments):
            if not segment.header.first_seq <= seq <= segment.last_seq:
                continue
            yield from self._read(segment, seq, min(last, segment.last_seq))
            seq = min(last, segment.last_seq) + 1
            if seq > last:
                return
        for missing in range(seq, last + 1):
            yield missing, None

    def _read(self, segment: SegmentFile, first: int, last: int) -> Iterator[tuple[int, CardPacket | None]]:
        codec, size = RecordCodec(segment.header), segment.header.record_bytes
        try:
            with segment.path.open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), size * (last - first + 1), segment.header.place(first))
        except OSError:
            data = b""
        view = memoryview(data)
        for seq in range(first, last + 1):
            try:
                yield seq, codec.decode(view[(seq - first) * size :][:size], seq)
            except Torn:
                yield seq, None


def write_all(system: Any, descriptor: int, data: bytes, place: int | None = None) -> None:
    """Write all of `data`, at `place` or where the file stands; a short write goes on."""
    view = memoryview(data)
    while view:
        written = system.write(descriptor, view) if place is None else system.pwrite(descriptor, view, place)
        view = view[written:]
        place = None if place is None else place + written


def _blocks(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_blocks * 512


def _number(path: Path) -> int:
    try:
        return manifest.decode(path.read_bytes()).number
    except (OSError, ValueError):
        return 0
