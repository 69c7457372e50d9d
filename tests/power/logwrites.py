"""The log of a block device (dm-log-writes format, as QEMU's blklogwrites writes it) and what a power cut leaves of it.

The log is a superblock and then entries, each one sector of header followed by its data. The model of a cut after n
entries: all before the last completed flush is on the disk; of the writes after it an arbitrary, seeded subset is
there, in the order of the log, each of them possibly torn at sectors of 512 bytes.
"""

from __future__ import annotations

import os
import struct
import subprocess
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD = 1, 2, 4
SECTOR = 512
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


class LogError(Exception):
    """The file is no whole log of the expected kind."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. `sector` and `sectors` tell the place on the disk in units of 512 bytes, `data` the offset of its
    data in the log in bytes, `end` the log's length in bytes once it is in."""

    sector: int
    sectors: int
    flags: int
    data: int
    end: int

    @property
    def size(self) -> int:
        """Bytes written to the disk."""
        return 0 if self.flags & DISCARD else self.sectors * SECTOR


class Log:
    """A finished log, open for reading; a context manager. Raises LogError when it is none or ends inside an entry."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        try:
            self.entries = list(self._read_entries())
        except BaseException:
            self._file.close()
            raise
        self._ends = [entry.end for entry in self.entries]
        self._flushes = [index for index, entry in enumerate(self.entries) if entry.flags & FLUSH]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _read_entries(self) -> Iterator[Entry]:
        length = os.fstat(self._file.fileno()).st_size
        head = os.pread(self._file.fileno(), _SUPER.size, 0)
        if len(head) < _SUPER.size or _SUPER.unpack(head)[:2] != (MAGIC, VERSION):
            raise LogError(f"{self._file.name} is no write log of version {VERSION}")
        _, _, promised, sector_size = _SUPER.unpack(head)
        if sector_size != SECTOR:
            raise LogError(f"{self._file.name}: sectors of {sector_size} bytes, wanted {SECTOR}")
        # The superblock's count lags behind: it is rewritten on flushes and now and then. The length is the truth.
        offset, count = SECTOR, 0
        while offset < length:
            header = os.pread(self._file.fileno(), _ENTRY.size, offset)
            if len(header) < _ENTRY.size:
                raise LogError(f"{self._file.name} ends inside the header of entry {count}")
            sector, sectors, flags, _ = _ENTRY.unpack(header)
            data = offset + SECTOR
            offset = data if flags & DISCARD else data + sectors * SECTOR
            if offset > length:
                raise LogError(f"{self._file.name} ends inside entry {count}")
            yield Entry(sector, sectors, flags, data, offset)
            count += 1
        if count < promised:
            raise LogError(f"{self._file.name} holds {count} of {promised} entries")

    def count_at(self, length: int) -> int:
        """How many entries were whole when the log was `length` bytes long."""
        return bisect_right(self._ends, length)

    def end_at(self, count: int) -> int:
        """The log's length in bytes after `count` entries."""
        return self._ends[count - 1] if count else SECTOR

    def flushes(self, first: int, last: int) -> list[int]:
        """Indexes of the flushes among the entries first to last - 1."""
        return [index for index in self._flushes if first <= index < last]

    def flushed(self, count: int) -> int:
        """How many of the first `count` entries the last completed flush among them has made durable."""
        before = bisect_right(self._flushes, count - 1)
        return self._flushes[before - 1] if before else 0

    def bytes_written(self, first: int, last: int) -> int:
        """Bytes that the entries first to last - 1 wrote to the disk."""
        return sum(entry.size for entry in self.entries[first:last])

    def apply(self, entry: Entry, image: int, sectors: list[int] | None = None) -> None:
        """Do an entry's write on an open image (a file descriptor); only those of its sectors, where given."""
        if entry.flags & DISCARD:
            # What a discarded block reads as is undefined; zeros are what most devices give.
            data = bytes(entry.sectors * SECTOR)
        else:
            data = os.pread(self._file.fileno(), entry.size, entry.data)
        if sectors is None:
            os.pwrite(image, data, entry.sector * SECTOR)
            return
        for sector in sectors:
            os.pwrite(image, data[sector * SECTOR : (sector + 1) * SECTOR], (entry.sector + sector) * SECTOR)


@dataclass(frozen=True, slots=True)
class Damage:
    """What a cut did to the writes after the last flush."""

    kept: int = 0
    torn: int = 0
    lost: int = 0

    def __add__(self, other: Damage) -> Damage:
        return Damage(self.kept + other.kept, self.torn + other.torn, self.lost + other.lost)


class Replay:
    """A disk image that moves forward through a log. Cuts must be asked for in rising order."""

    def __init__(self, log: Log, base: Path, image: Path) -> None:
        copy_sparse(base, image)
        self._log, self._image, self._done = log, image, 0

    def forward(self, count: int) -> None:
        """Bring the image to the state after `count` entries, all of them done."""
        if count < self._done:
            raise ValueError(f"a replay moves forward only: it has done {self._done} entries, asked for {count}")
        with open_image(self._image) as image:
            for entry in self._log.entries[self._done : count]:
                self._log.apply(entry, image)
        self._done = count

    def cut(self, count: int, chance: Random, copy: Path) -> Damage:
        """Write to `copy` what a power cut after `count` entries leaves of the disk."""
        flushed = self._log.flushed(count)
        self.forward(flushed)
        copy_sparse(self._image, copy)
        share = chance.choice((0.0, 0.25, 0.5, 0.75, 1.0))
        kept = torn = lost = 0
        with open_image(copy) as image:
            for entry in self._log.entries[flushed:count]:
                if not entry.sectors:
                    continue
                if entry.flags & FUA:
                    self._log.apply(entry, image)
                    kept += 1
                elif entry.sectors > 1 and chance.random() < 0.25:
                    self._log.apply(entry, image, torn_sectors(entry.sectors, chance))
                    torn += 1
                elif chance.random() < share:
                    self._log.apply(entry, image)
                    kept += 1
                else:
                    lost += 1
        return Damage(kept, torn, lost)


def torn_sectors(sectors: int, chance: Random) -> list[int]:
    """Those sectors of a torn write that arrived: neither none nor all; half the time its beginning, else any."""
    number = chance.randrange(1, sectors)
    return list(range(number)) if chance.random() < 0.5 else sorted(chance.sample(range(sectors), number))


@contextmanager
def open_image(path: Path) -> Iterator[int]:
    """An image's file descriptor for writing."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file without its holes, sharing blocks where the file system can."""
    subprocess.run(["cp", "--sparse=auto", "--reflink=auto", source, target], check=True)
