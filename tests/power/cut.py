"""Run a workload on a logged disk, then cut the power at many points of what it did."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Protocol

from tests.power.disk import DiskError, call, logged_disk, mounted
from tests.power.logwrites import Damage, Log, Replay, copy_sparse
from tests.power.promises import Promises


class Workload(Protocol):
    """What is put to the test."""

    def run(self, folder: Path, promises: Promises, seed: int) -> int:
        """Work in the folder and promise. Nothing of it runs on afterwards. Returns the payload in bytes."""

    def check(self, folder: Path, promised: Sequence[str], seed: int) -> str:
        """What is wrong in the folder after a cut, in one line, or nothing. `promised`: the promises that must hold, in
        the book's order. May write: it is the recovery that is tested."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a finished run left in `folder`. `first` and `last`: the log's entries when the workload began and ended;
    `payload`: bytes that it meant to store."""

    folder: Path
    seed: int
    first: int
    last: int
    payload: int

    @property
    def base(self) -> Path:
        """The image before the log."""
        return self.folder / "base.img"

    @property
    def log(self) -> Path:
        """All requests, mounting to unmounting."""
        return self.folder / "log"

    @property
    def promises(self) -> Promises:
        """What was promised."""
        return Promises(self.log, self.folder / "promises")

    def keep(self, target: Path) -> None:
        """Copy it to `target`, from where `load` takes it."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for path in (self.base, self.log, self.promises.book):
            if path.exists():
                copy_sparse(path, target / path.name)
        facts = {"seed": self.seed, "first": self.first, "last": self.last, "payload": self.payload}
        (target / "run.json").write_text(json.dumps(facts))


def load(folder: Path) -> Run:
    """A run that was kept."""
    return Run(folder, **json.loads((folder / "run.json").read_text()))


def perform(workload: Workload, scratch: Path, seed: int, size: int) -> Run:
    """Run the workload on a new disk of `size` bytes. Raises DiskError, also when log and disk do not agree."""
    promises = Promises(scratch / "log", scratch / "promises")
    with logged_disk(scratch, size) as disk:
        begin = promises.now()
        payload = workload.run(disk.folder, promises, seed)
        end = promises.now()
    with Log(disk.log) as log:
        # A rig that logs other things than it does would judge something else.
        Replay(log, disk.base, scratch / "replayed.img").forward(len(log.entries))
        call("cmp", scratch / "replayed.img", disk.live)
        (scratch / "replayed.img").unlink()
        return Run(scratch, seed, log.count_at(begin), log.count_at(end), payload)


@dataclass(frozen=True, slots=True)
class Cut:
    """One power cut: after `count` entries; `seed` decides what becomes of the writes that no flush covers."""

    seed: str
    count: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check found; `problem` is empty when all is well."""

    cut: Cut
    promised: int
    damage: Damage
    problem: str


def plan(log: Log, run: Run, seeds: Sequence[str]) -> list[Cut]:
    """Where to cut, in the order of the log: anywhere, just before and just after a flush, a third each."""
    cuts = []
    flushes = log.flushes(run.first, run.last)
    for seed in seeds:
        chance = Random(f"place {seed}")
        place = chance.choice(("anywhere", "before", "after")) if flushes else "anywhere"
        if place == "anywhere":
            count = chance.randint(run.first, run.last)
        else:
            count = chance.choice(flushes) + (place == "after")
        cuts.append(Cut(seed, count))
    return sorted(cuts, key=lambda cut: cut.count)


def cut_all(workload: Workload, run: Run, seeds: Sequence[str], scratch: Path) -> Iterator[Verdict]:
    """Cut, mount, check, unmount, e2fsck; one verdict after the other, in the order of the log."""
    promises = run.promises.read()
    image = scratch / "cut.img"
    with Log(run.log) as log:
        replay = Replay(log, run.base, scratch / "flushed.img")
        for cut in plan(log, run, seeds):
            damage = replay.cut(cut.count, Random(f"damage {cut.seed}"), image)
            length = log.end_at(cut.count)
            promised = [promise.text for promise in promises if promise.since <= length]
            try:
                with mounted(image, scratch / "after"):
                    problem = workload.check(scratch / "after", promised, run.seed)
                # The model may take away nothing that a journalling file system can rely on.
                call("e2fsck", "-fn", image)
            except DiskError as error:
                problem = f"file system: {error}"
            yield Verdict(cut, len(promised), damage, problem)


def bytes_at_the_device(run: Run) -> int:
    """All that was written from the workload's beginning to the unmounting, which brings what the kernel still held."""
    with Log(run.log) as log:
        return log.bytes_written(run.first, len(log.entries))
