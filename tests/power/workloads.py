"""Small workloads that show what the rig can see; and `Command`, for a program of its own.

Each pair differs in one sync only: what passes beside a broken twin that fails, passes for a reason.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from random import Random

from tests.power.promises import FOLDER, LOG, PROMISES, SEED, Promises


@dataclass(frozen=True, slots=True)
class Command:
    """A program that works in `$EDGE_POWER_FOLDER` and promises through `Promises.from_environment()`. Its last line of
    stdout is its payload in bytes. CalledProcessError when it ends with another code than 0."""

    arguments: Sequence[str]
    checker: Callable[[Path, Sequence[str], int], str]

    def run(self, folder: Path, promises: Promises, seed: int) -> int:
        places = {FOLDER: str(folder), LOG: str(promises.log), PROMISES: str(promises.book), SEED: str(seed)}
        done = subprocess.run(self.arguments, env={**os.environ, **places}, stdout=subprocess.PIPE, check=True)
        return int(done.stdout.splitlines()[-1])

    def check(self, folder: Path, promised: Sequence[str], seed: int) -> str:
        return self.checker(folder, promised, seed)


RECORDS, GROUP, RECORD_SIZE = 600, 5, 708


def _record(number: int, seed: int) -> bytes:
    body = number.to_bytes(4, "big") + Random(f"{seed} {number}").randbytes(700)
    return body + zlib.crc32(body).to_bytes(4, "big")


def _verdict(records: Iterable[bytes], promised: Sequence[str], seed: int) -> str:
    """Whether the records from 0 to the last one promised are all there and right."""
    wanted = int(promised[-1]) + 1 if promised else 0
    good = takewhile(lambda pair: pair[1] == _record(pair[0], seed), enumerate(records))
    found = sum(1 for _ in good)
    return f"{found} of {wanted} promised records" if found < wanted else ""


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _neighbour(folder: Path) -> Iterator[Callable[[int], None]]:
    """Another writer on the disk, who syncs his own file now and then: flushes that help nobody who trusts in them."""
    with (folder / "neighbour").open("ab", buffering=0) as file:

        def turn(number: int) -> None:
            if (number + 1) % (4 * GROUP) == 0:
                file.write(b"n")
                os.fdatasync(file.fileno())

        yield turn


@dataclass(frozen=True, slots=True)
class Append:
    """Appends records to a file and promises each group, `after` its fdatasync, `before` it, or with `none` at all."""

    sync: str = "after"

    def run(self, folder: Path, promises: Promises, seed: int) -> int:
        with (folder / "records").open("ab", buffering=0) as file, _neighbour(folder) as neighbour:
            _sync(folder)
            for number in range(RECORDS):
                file.write(_record(number, seed))
                if (number + 1) % GROUP == 0:
                    if self.sync == "before":
                        promises.promise(str(number))
                    if self.sync != "none":
                        os.fdatasync(file.fileno())
                    if self.sync != "before":
                        promises.promise(str(number))
                neighbour(number)
        return RECORDS * RECORD_SIZE

    def check(self, folder: Path, promised: Sequence[str], seed: int) -> str:
        path = folder / "records"
        content = path.read_bytes() if path.exists() else b""
        records = (content[at : at + RECORD_SIZE] for at in range(0, len(content), RECORD_SIZE))
        return _verdict(records, promised, seed)


@dataclass(frozen=True, slots=True)
class Sqlite:
    """Commits in WAL mode, each promised once it returned. `synchronous`: FULL, or NORMAL, which loses commits."""

    synchronous: str

    def run(self, folder: Path, promises: Promises, seed: int) -> int:
        with closing(sqlite3.connect(folder / "db", isolation_level=None)) as db, _neighbour(folder) as neighbour:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {self.synchronous}")
            db.execute("CREATE TABLE record (number INTEGER PRIMARY KEY, body BLOB)")
            _sync(folder)
            for number in range(RECORDS // 2):
                db.execute("INSERT INTO record VALUES (?, ?)", (number, _record(number, seed)))
                promises.promise(str(number))
                neighbour(number)
        return RECORDS // 2 * RECORD_SIZE

    def check(self, folder: Path, promised: Sequence[str], seed: int) -> str:
        try:
            with closing(sqlite3.connect(folder / "db")) as db:
                if (verdict := db.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                    return f"integrity_check: {verdict}"
                table = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                rows = db.execute("SELECT body FROM record ORDER BY number").fetchall() if table else []
        except sqlite3.DatabaseError as error:
            return f"SQLite: {error}"
        return _verdict((row[0] for row in rows), promised, seed)


append, append_unsynced, append_early = Append("after"), Append("none"), Append("before")
sqlite_full, sqlite_normal = Sqlite("FULL"), Sqlite("NORMAL")
