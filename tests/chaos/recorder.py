"""`edge` in the world of a run (`EDGE_CHAOS`: its folder): its microphone, its clock, its card, at its pace.

`EDGE_CHAOS_MUTANT` plants a fault (mutants.py). Microphone, clock and card fail by the run's schedule.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge import app
from edge.adapters import spool
from edge.adapters.clock import SystemClock
from edge.cli import main as command_line
from edge.core.packet import AudioFormat
from edge.core.timebase import Anchor
from edge.errors import MicrophoneError
from edge.runtime.ports import Block, SourceInfo
from tests.chaos.mutants import plant
from tests.chaos.pace import speed_up
from tests.chaos.world import BROKEN, FULL, MICROPHONE, Log, World

SEGMENT_BYTES = 64 << 10  # 2 s of 16 kHz mono
BALLAST_BYTES = 1 << 20
_READ_S = 1.0


class WorldMicrophone:
    """What there is to hear now; gone while the schedule says so. Implements `Source`."""

    can_wait = False
    can_return = True

    def __init__(self, world: World, log: Log) -> None:
        self._world = world
        self._log = log
        self._audio = AudioFormat(world.rate, 1)
        self._position: int | None = None
        self._abandoned = threading.Event()

    def _now_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self._world.zero_s

    def open(self) -> SourceInfo:
        """Listen from now on. Raises MicrophoneError while it is away."""
        now_s = self._now_s()
        if self._world.window([MICROPHONE], now_s):
            raise MicrophoneError("the microphone is away", "", "wait for the end of the schedule's window")
        self._position = math.ceil(now_s * self._world.rate)
        self._log.tell("open", now_s, frame=self._position)
        return SourceInfo("world", self._audio, self._world.period_frames, (), "world")

    def read(self) -> Block:
        """The next period. Raises MicrophoneError where the microphone is lost in it."""
        world, first = self._world, self._position
        if first is None:
            raise MicrophoneError("the source is not open")
        begin_s, end_s = first / world.rate, (first + world.period_frames) / world.rate
        give_up_s = self._now_s() + _READ_S
        while (now_s := self._now_s()) < end_s:
            if now_s >= give_up_s or self._abandoned.wait(min(end_s, give_up_s) - now_s):
                return Block(b"", now_s + world.zero_s, ended=self._abandoned.is_set())
        for window in world.windows:
            if window.kind == MICROPHONE and begin_s < window.end and window.begin < end_s:
                self._log.tell("microphone lost", now_s, frame=first)
                raise MicrophoneError("the microphone went away")
        self._position = first + world.period_frames
        return Block(world.sound(first, world.period_frames), begin_s + world.zero_s)

    def abandon(self) -> None:
        """End the read that is under way."""
        self._abandoned.set()

    def close(self) -> None:
        """Let it go."""
        self._position = None


class WorldClock:
    """The wall clock by the schedule. Implements `Clock`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._boot_id = SystemClock().boot_id

    def read(self) -> Anchor:
        """How it stands."""
        step = self._world.clock(time.clock_gettime(time.CLOCK_BOOTTIME) - self._world.zero_s)
        return Anchor(self._boot_id, self._world.utc_minus_boot_s + step.wrong_s, step.trusted)

    def slept_s(self) -> float:
        return 0.0


class WorldCard:
    """`os`, but what writes fails while the schedule says so: half of what was to be written, then an error."""

    def __init__(self, world: World, log: Log) -> None:
        self._world = world
        self._log = log

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _check(self, kinds: list[str], call: str) -> None:
        now_s = time.clock_gettime(time.CLOCK_BOOTTIME) - self._world.zero_s
        window = self._world.window(kinds, now_s)
        if window is not None:
            self._log.tell(f"card {window.kind}", now_s, call=call)
            number = errno.ENOSPC if window.kind == FULL else errno.EIO
            raise OSError(number, os.strerror(number))

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        """A full card takes no new file."""
        if flags & os.O_CREAT:
            self._check([FULL, BROKEN], "open")
        return os.open(path, flags, mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        """What fails has written half."""
        try:
            self._check([FULL, BROKEN], "write")
        except OSError:
            os.write(descriptor, data[: len(data) // 2])
            raise
        return os.write(descriptor, data)

    def pwrite(self, descriptor: int, data: memoryview, place: int) -> int:
        """Likewise."""
        try:
            self._check([FULL, BROKEN], "pwrite")
        except OSError:
            os.pwrite(descriptor, data[: len(data) // 2], place)
            raise
        return os.pwrite(descriptor, data, place)

    def _guarded(kinds: list[str], name: str) -> Callable[..., Any]:  # type: ignore[misc]  # noqa: N805
        def call(self: WorldCard, *args: Any) -> Any:
            self._check(kinds, name)
            return getattr(os, name)(*args)

        return call

    posix_fallocate = _guarded([FULL, BROKEN], "posix_fallocate")
    fsync = _guarded([BROKEN], "fsync")
    fdatasync = _guarded([BROKEN], "fdatasync")
    rename = _guarded([BROKEN], "rename")
    replace = _guarded([BROKEN], "replace")
    unlink = _guarded([BROKEN], "unlink")
    ftruncate = _guarded([BROKEN], "ftruncate")


def inhabit(folder: Path) -> None:
    """Put the product into the world."""
    world, log = World.load(folder), Log(folder)
    speed_up(world.pace, world.utc_minus_boot_s)
    card: Any = WorldCard(world, log)
    whole_spool, whole_build = spool.SpoolDirectory.__init__, app.build

    def smaller(self: spool.SpoolDirectory, path: Path, max_bytes: int = 0) -> None:
        whole_spool(self, path, max_bytes, segment_bytes=SEGMENT_BYTES, ballast_bytes=BALLAST_BYTES, system=card)

    def build(*args: Any, **options: Any) -> app.App:
        return whole_build(*args, **{**options, "clock": WorldClock(world)})

    spool.SpoolDirectory.__init__ = smaller  # type: ignore[method-assign, assignment]
    root: Any = app
    root.build, root.open_source = build, lambda *args, **options: WorldMicrophone(world, log)


def main() -> int:
    """The command line of `edge`."""
    inhabit(Path(os.environ["EDGE_CHAOS"]))
    plant(os.environ.get("EDGE_CHAOS_MUTANT", ""))
    return command_line.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
