"""What a workload promised, and since when: `since` is the write log's length in bytes.

The daemon answers a request only when it stands in the log file. So whoever sees a fact ("record 7 is safe"), *then*
reads the log's length and writes both down, has a promise that must hold after every cut that leaves at least this
much of the log; no clock is involved. A claim about time is the same: at the moment when second 7 must be safe, read
the length and promise second 7. An excuse ("was delivered, need not be on the disk") is the other way round: read the
length *before* it happens.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# What a workload that is a process of its own finds in its environment.
LOG, PROMISES, FOLDER, SEED = "EDGE_POWER_LOG", "EDGE_POWER_PROMISES", "EDGE_POWER_FOLDER", "EDGE_POWER_SEED"


@dataclass(frozen=True, slots=True)
class Promise:
    """A text that the workload's check understands, and the log length from which on it holds."""

    since: int
    text: str


class Promises:
    """The book of promises: a file beside the disk. Several threads or processes may write it at once."""

    def __init__(self, log: Path, book: Path) -> None:
        self.log, self.book = log, book

    @classmethod
    def from_environment(cls) -> Self:
        """For a workload that runs as a command."""
        return cls(Path(os.environ[LOG]), Path(os.environ[PROMISES]))

    def now(self) -> int:
        """The log's length in bytes at this moment."""
        return self.log.stat().st_size

    def promise(self, text: str, since: int | None = None) -> None:
        """Write a promise down: one line of text; it holds from now on or, where given, from an earlier `now()` on."""
        line = f"{self.now() if since is None else since} {text}\n"
        with self.book.open("ab", buffering=0) as file:
            file.write(line.encode())

    def read(self) -> list[Promise]:
        """All promises, in the order of the book."""
        if not self.book.exists():
            return []
        pairs = (line.split(" ", 1) for line in self.book.read_text().splitlines())
        return [Promise(int(since), text) for since, text in pairs]
