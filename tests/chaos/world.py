"""The world of one run: its time, its sound, and what goes wrong in it. Imports nothing of `edge`.

Receiver and recorder live `pace` times as fast as we do: their boot clock is the machine's, times `pace` (pace.py).
World time begins with the run, in their seconds. Frame n of the sound exists from world time n / rate on, whoever
listens. So a recorder that was killed, or whose microphone was away, hears on from there, and each frame has one right
place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from tests.campaign.audio import Source

FILE = "world.json"
MICROPHONE, FULL, BROKEN = "microphone", "ENOSPC", "EIO"
PERIOD_S = 0.1
_PIECE_S = 10


@dataclass(frozen=True, slots=True)
class Window:
    """From `begin` to `end`, in seconds of world time, `kind` is the case."""

    kind: str
    begin: float
    end: float

    def has(self, at_s: float) -> bool:
        """Whether it is the case at `at_s`."""
        return self.begin <= at_s < self.end


@dataclass(frozen=True, slots=True)
class ClockStep:
    """From `at` on the wall clock is `wrong_s` seconds ahead of UTC."""

    at: float
    wrong_s: float
    trusted: bool


@dataclass(frozen=True)
class World:
    """See above. `zero_s`: the boot clock of the inhabitants at world time 0."""

    seed: str
    seconds: float
    pace: float
    zero_s: float
    utc_minus_boot_s: float
    rate: int = 16000
    sync_interval_s: float = 1.0
    ring_s: float = 60.0
    windows: tuple[Window, ...] = ()
    steps: tuple[ClockStep, ...] = ()

    @property
    def period_frames(self) -> int:
        """What the microphone gives at once."""
        return int(PERIOD_S * self.rate)

    def sound(self, first: int, frames: int) -> bytes:
        """`frames` frames from `first` on; it never ends, and is made piece by piece."""
        parts, size = [], _PIECE_S * self.rate
        for piece in range(first // size, (first + frames - 1) // size + 1):
            low, high = max(first, piece * size), min(first + frames, (piece + 1) * size)
            parts.append(_piece(self.seed, piece, size).at(low - piece * size, high - low))
        return b"".join(parts)

    def boot_s(self) -> float:
        """The inhabitants' boot clock, read by one who lives outside."""
        return self.pace * time.clock_gettime(time.CLOCK_BOOTTIME)

    def now_s(self) -> float:
        """World time, read by one who lives outside."""
        return self.boot_s() - self.zero_s

    def window(self, kinds: Iterable[str], at_s: float) -> Window | None:
        """The window of one of `kinds` that is open at `at_s`."""
        return next((window for window in self.windows if window.kind in kinds and window.has(at_s)), None)

    def clock(self, at_s: float) -> ClockStep:
        """How the wall clock stands."""
        return [step for step in self.steps if step.at <= at_s][-1]

    def save(self, folder: Path) -> None:
        """Write it where `load` finds it."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> World:
        """Of the run in `folder`."""
        value = json.loads((folder / FILE).read_text())
        windows = tuple(Window(**window) for window in value.pop("windows"))
        steps = tuple(ClockStep(**step) for step in value.pop("steps"))
        return cls(**value, windows=windows, steps=steps)


@cache
def _piece(seed: str, number: int, frames: int) -> Source:
    return Source(f"chaos/{seed}/{number}", frames)


class Log:
    """What happened, one JSON object a line: told by whoever makes it happen, never by the product."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.jsonl"

    def tell(self, kind: str, at_s: float, **detail: object) -> None:
        """Append, in one write: several processes do so."""
        with self.path.open("ab", buffering=0) as file:
            file.write(json.dumps({"kind": kind, "at": round(at_s, 4), **detail}).encode() + b"\n")

    def read(self) -> list[dict[str, object]]:
        """All that was told, in order of time."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return sorted((json.loads(line) for line in lines), key=lambda event: float(event["at"]))
