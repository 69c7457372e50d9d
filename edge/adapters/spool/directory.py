"""All recordings on the card, and the space that they share."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge.adapters.spool.card import JOURNAL, MANIFEST, CardRecording
from edge.adapters.spool.files import blocks, write_all
from edge.adapters.spool.segments import SUFFIX, scan, segments_in, tail_of
from edge.core import journal, manifest
from edge.core.manifest import CardState, Manifest
from edge.core.recovery import Recovered, rebuild, with_found_gaps
from edge.errors import UnreadableError

SEGMENT_BYTES = 4 << 20
BALLAST_BYTES = 64 << 20
_POOL_SHARE = 4  # of the space: writing over recycled blocks costs a card a third less than filling new ones
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
        self._used = sum(blocks(path) for path in self.path.rglob("*") if path != self._ballast)
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
        pool = sum(blocks(path) for path in self._pool.iterdir())
        return max(0, min(self.max_bytes - self._used, self.free_bytes())) + pool

    def restore_ballast(self) -> None:
        """Hold space back, if there is any to spare."""
        with contextlib.suppress(OSError):
            if not self._ballast.exists() and self.free_bytes() > 2 * self._ballast_bytes > 0:
                descriptor = self.system.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
                try:
                    self.system.posix_fallocate(descriptor, 0, self._ballast_bytes)
                except OSError:
                    self.system.unlink(self._ballast)  # half of it must not pass for all of it
                    raise
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
            self._used += self.segment_bytes
            try:
                self.system.posix_fallocate(descriptor, 0, self.segment_bytes)
            except OSError:
                self.system.close(descriptor)
                self.system.unlink(target)
                self._used -= self.segment_bytes
                raise
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
        try:
            size = segment.stat().st_size
        except FileNotFoundError:
            return  # somebody else removed it: no reason to take no more audio
        pooled = self.segment_bytes * sum(1 for _ in self._pool.iterdir())
        if size == self.segment_bytes and pooled < self.max_bytes // _POOL_SHARE:
            self.system.rename(segment, self._pool / f"{secrets.token_hex(8)}{SUFFIX}")
        else:
            freed = blocks(segment)
            self.system.unlink(segment)
            self._used -= freed

    def shorten(self, descriptor: int, size: int) -> None:
        """Give back what a segment, open as `descriptor`, has beyond `size` bytes, durably."""
        before = os.fstat(descriptor).st_blocks
        self.system.ftruncate(descriptor, size)
        self._used -= (before - os.fstat(descriptor).st_blocks) * 512
        self.system.fsync(descriptor)

    def clear(self, folder: Path) -> None:
        """Let go of a folder that is no recording any more. What the disk does not let go of now goes at the next
        start."""
        for segment in sorted(folder.glob(f"*{SUFFIX}")):
            with contextlib.suppress(OSError):
                self.give_back(segment)
        shutil.rmtree(folder, ignore_errors=True)

    def expire(self, keep_days: float, utc_s: float | None) -> int:
        """Remove what was delivered more than `keep_days` ago; returns how many recordings that were.

        Without a trusted clock (`utc_s` None), then or now, nobody knows: such a recording stays until its room is
        needed. With `keep_days` 0 it goes in any case.
        """
        removed = 0
        for folder in self.folders():
            try:
                meta = manifest.decode((folder / MANIFEST).read_bytes())
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
                meta = manifest.decode((folder / MANIFEST).read_bytes())
            except (OSError, ValueError):
                continue
            if meta.state is CardState.DELIVERED:
                CardRecording(self, folder, meta, []).remove()
                return True
        return False

    # --- recordings ------------------------------------------------------------------------------------------------

    def create(self, meta: Manifest, entries: Sequence[journal.Entry]) -> CardRecording:
        """A folder for a new recording, durable before this returns."""
        card = self.draft(meta, entries)
        self.publish(card)
        return card

    def draft(self, meta: Manifest, entries: Sequence[journal.Entry]) -> CardRecording:
        """A recording that nobody sees before `publish`; where that never comes, the next `prepare` removes it."""
        if not self._is_prepared:
            self.prepare()
        fresh = self.recordings / f".{meta.recording_id}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        try:
            self._write(fresh / MANIFEST, manifest.encode(meta))
            self._write(fresh / JOURNAL, journal.encode(entries))
            self.sync_folder(fresh)
        except OSError:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return CardRecording(self, fresh, meta, [])

    def publish(self, card: CardRecording) -> None:
        """Let a draft be a recording, durably. Its files are closed, or have not been opened yet."""
        target = self.recordings / card.manifest.recording_id
        try:
            if self._is_empty(target, card.manifest):  # an earlier try got so far
                self._discard(target)
            self.system.rename(card.folder, target)
        except OSError:
            shutil.rmtree(card.folder, ignore_errors=True)
            raise
        card.folder = target
        for segment in card.segments:
            segment.path = target / segment.path.name
        self.sync_folder(self.recordings)

    @staticmethod
    def _is_empty(folder: Path, meta: Manifest) -> bool:
        """Whether `folder` is the recording `meta` without any audio."""
        try:
            return (folder / MANIFEST).read_bytes() == manifest.encode(meta) and not [*folder.glob(f"*{SUFFIX}")]
        except OSError:
            return False

    def _discard(self, folder: Path) -> None:
        gone = folder.with_name(f".{folder.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        self.system.rename(folder, gone)
        self.clear(gone)

    def next_number(self) -> int:
        """A number above that of each recording that is there."""
        try:
            return 1 + max((_number(folder / MANIFEST) for folder in self.folders()), default=0)
        except OSError:
            return 1

    def folders(self) -> list[Path]:
        """The recordings' folders, oldest first."""
        found = [path for path in self.recordings.iterdir() if path.is_dir() and not path.name.startswith(".")]
        return sorted(found, key=lambda path: (_number(path / MANIFEST), path.name))

    def load(self, folder: Path, *, is_quick: bool = False) -> tuple[CardRecording, Recovered]:
        """What `folder` holds, its tail verified record by record, what is torn cut off. Raises UnreadableError.

        `is_quick` is for a look at many: of one that was sealed only the last record is verified.
        """
        try:
            meta = manifest.decode((folder / MANIFEST).read_bytes())
            if meta.recording_id != folder.name:
                raise ValueError(f"it is a copy of {meta.recording_id}")
            entries, damaged = _journal(folder)
            segments, headless = segments_in(folder, meta)
            is_sealed = meta.state is not CardState.RECORDING
            names = [segment.path for segment in segments]
            tail, torn = tail_of(segments, is_sealed=is_sealed, is_quick=is_quick, until=_end(entries))
            if is_sealed:
                headless += names[len(segments) :]
            summaries = [segment.summary for segment in segments]
            if damaged:  # behind the last header nothing else contradicts a journal that lacks a gap
                entries = with_found_gaps(entries, scan(segments[-1:], tail), meta.packet_frames)
            try:
                recovered = rebuild(meta, entries, summaries, tail, torn, damaged)
            except ValueError:
                # The journal does not explain the audio: then the audio itself has to tell where it has gaps.
                entries = with_found_gaps(entries, scan(segments, tail), meta.packet_frames)
                recovered = rebuild(meta, entries, summaries, tail, torn, damaged)
        except (OSError, ValueError) as error:
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise UnreadableError(
                f"the recording {folder} cannot be read ({why})", "it is set aside, not deleted"
            ) from None
        if segments:
            segments[-1] = replace(segments[-1], count=tail.last_seq - segments[-1].header.first_seq + 1)
            for before, after in itertools.pairwise(segments):
                before.count = after.header.first_seq - before.header.first_seq
        return CardRecording(self, folder, meta, segments, headless), recovered

    def set_aside(self, folder: Path, reason: str) -> Path:
        """Move what cannot be read into quarantine, with the reason beside it."""
        target = self.quarantine / folder.name
        number = 1
        while target.exists():
            number += 1
            target = self.quarantine / f"{folder.name}-{number}"
        self._write(target.with_name(f"{target.name}.reason.txt"), f"{reason}\n".encode())
        self.system.rename(folder, target)  # last: where it fails, all of it is tried again
        self.sync_folder(self.quarantine)
        self.sync_folder(folder.parent)
        return target

    # --- writing ---------------------------------------------------------------------------------------------------

    def set_segment_aside(self, segment: Path, recording_id: str) -> None:
        """Move a segment with damaged records into quarantine instead of using it again."""
        target = self.quarantine / f"{recording_id}-{segment.name}"
        reason = "some of it does not have the checksum that it was written with; the rest was delivered"
        self._write(target.with_name(f"{target.name}.reason.txt"), f"{reason}\n".encode())
        self.system.rename(segment, target)  # last: where it fails, all of it is tried again

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


def _journal(folder: Path) -> tuple[list[journal.Entry], int]:
    try:
        return journal.decode((folder / JOURNAL).read_bytes())
    except FileNotFoundError:
        return [], 1


def _end(entries: Sequence[journal.Entry]) -> int | None:
    return next((entry.position for entry in reversed(entries) if isinstance(entry, journal.EndEntry)), None)


def _number(path: Path) -> int:
    try:
        return manifest.decode(path.read_bytes()).number
    except (OSError, ValueError):
        return 0
