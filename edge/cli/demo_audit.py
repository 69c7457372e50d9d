"""Was every frame received, once and at its place? Judged from the two WAV files alone; nothing here is `edge`'s.

The accounts of both sides are compared with that afterwards: a recorder that loses a packet and knows nothing of it
must not pass, nor one that received everything and counts wrong.
"""

from __future__ import annotations

import json
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int16]

_ANCHOR = 64  # frames that must agree for two places to be the same: noise shows its place within them
_MAX_DIFFERENCES = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """`frames` frames from `first` of the source on are "missing" or "altered", or extra ones stand before `first`:
    "doubled" where the source has them elsewhere, "foreign" where it does not."""

    kind: str
    first: int
    frames: int

    def text(self, rate: int) -> str:
        """In words, with the time in the recording."""
        at = f"{self.first / rate:.3f} s"
        if self.kind in ("missing", "altered"):
            last = self.first + self.frames - 1
            return f"{_count(self.frames)} {self.kind} ({self.first} to {last}, at {at})"
        return f"{_count(self.frames)} {self.kind} (before {self.first}, at {at})"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`line` says it to a person; `is_whole` only if nothing at all is wrong."""

    is_whole: bool
    line: str


class UnreadableError(Exception):
    """A WAV file is not what an audit can read; the text says why."""


def audit(
    source: Path, emitted: int, received: Path, recorder: Mapping[str, Any] | None, receiver: Mapping[str, Any] | None
) -> Verdict:
    """Judge the file `received` by the first `emitted` frames of `source`, then the two accounts by that."""
    problems: list[str] = []
    try:
        wanted, rate = read(source)
        got, got_rate = read(received)
    except UnreadableError as error:
        return Verdict(False, str(error))
    if not 0 < emitted <= len(wanted):
        problems.append(f"the source gave {emitted} of its {len(wanted)} frames, which cannot be")
    if got_rate != rate:
        problems.append(f"received at {got_rate} Hz, not {rate} Hz")
    wanted = wanted[:emitted]
    found = differences(wanted, got)
    problems += [difference.text(rate) for difference in found[:_MAX_DIFFERENCES]]
    if not found and not np.array_equal(wanted, got):
        problems.append("the samples differ")  # never, unless the comparison above is wrong
    problems += _in_accounts(emitted, recorder, receiver)
    if problems:
        return Verdict(False, "; ".join(problems))
    return Verdict(True, f"all {emitted} frames of the source were received, bit for bit, each once")


def read(path: Path) -> tuple[Samples, int]:
    """The samples of a 16-bit mono WAV file, and its rate. Raises UnreadableError."""
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getnchannels(), file.getsampwidth()) != (1, 2):
                raise UnreadableError(f"{path} is not 16-bit mono")
            data = file.readframes(file.getnframes())
            if len(data) != 2 * file.getnframes():
                raise UnreadableError(f"{path} is shorter than its header says")
            return np.frombuffer(data, "<i2").astype(np.int16), file.getframerate()
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error.strerror}") from None
    except (EOFError, wave.Error) as error:
        raise UnreadableError(f"{path} is no WAV file: {error}") from None


def differences(wanted: Samples, got: Samples) -> list[Difference]:
    """Where and how `got` is not `wanted`, in order; empty only when they are equal.

    At each break the cheapest explanation is taken after which at least `_ANCHOR` frames agree again.
    """
    found: list[Difference] = []
    at, got_at = 0, 0
    while True:
        same = _agreeing(wanted[at:], got[got_at:])
        at, got_at = at + same, got_at + same
        if at == len(wanted) and got_at == len(got):
            return found
        missing, extra, altered = _explain(wanted[at:], got[got_at:])
        if missing:
            found.append(Difference("missing", at, missing))
        if extra:
            found.append(Difference(_origin(wanted, got[got_at : got_at + extra]), at, extra))
        if altered:
            found.append(Difference("altered", at, altered))
        at, got_at = at + missing + altered, got_at + extra + altered


def _agreeing(wanted: Samples, got: Samples) -> int:
    length = min(len(wanted), len(got))
    wrong = np.flatnonzero(wanted[:length] != got[:length])
    return int(wrong[0]) if len(wrong) else length


def _explain(wanted: Samples, got: Samples) -> tuple[int, int, int]:
    """How many frames are missing, extra, altered here, until both agree again."""
    choices: list[tuple[int, int, int]] = []
    if len(got) == 0:
        return len(wanted), 0, 0
    if len(wanted) == 0:
        return 0, len(got), 0
    gone = _find(wanted, got[:_ANCHOR])
    if gone >= 0:
        choices.append((gone, 0, 0))
    inserted = _find(got, wanted[:_ANCHOR])
    if inserted >= 0:
        choices.append((0, inserted, 0))
    changed = _changed(wanted, got)
    if changed:
        choices.append((0, 0, changed))
    if choices:
        return min(choices, key=sum)
    return len(wanted), len(got), 0


def _find(there: Samples, anchor: Samples) -> int:
    """Where `anchor` begins in `there`; -1 if nowhere, or if it is too short to show a place."""
    if len(anchor) < min(_ANCHOR, len(there)):
        return -1
    data, pattern, offset = there.tobytes(), anchor.tobytes(), -1
    while (offset := data.find(pattern, offset + 1)) >= 0:
        if offset % 2 == 0:
            return offset // 2
    return -1


def _changed(wanted: Samples, got: Samples) -> int:
    """Frames until the two run on in step; 0 if they never do."""
    length = min(len(wanted), len(got))
    wrong = np.flatnonzero(wanted[:length] != got[:length])
    gaps = np.flatnonzero(np.diff(wrong) > _ANCHOR)
    end = int(wrong[gaps[0]] if len(gaps) else wrong[-1]) + 1
    return end if len(gaps) or length - end >= _ANCHOR or len(wanted) == len(got) else 0


def _origin(wanted: Samples, extra: Samples) -> str:
    return "doubled" if _find(wanted, extra[:_ANCHOR]) >= 0 else "foreign"


def _in_accounts(emitted: int, recorder: Mapping[str, Any] | None, receiver: Mapping[str, Any] | None) -> list[str]:
    problems: list[str] = []
    sides = (
        ("recorder", recorder, {"expected": emitted, "delivered": emitted, "pending": 0, "lost": {}}),
        ("receiver", receiver, {"frames": emitted, "gaps": []}),
    )
    for name, account, right in sides:
        if account is None:
            problems.append(f"no account of the {name}")
            continue
        wrong = {key: account.get(key) for key, value in right.items() if account.get(key) != value}
        if wrong:
            said = ", ".join(f"{key} {json.dumps(value)}" for key, value in wrong.items())
            problems.append(f"the {name}'s account says {said}")
    return problems


def _count(frames: int) -> str:
    return "1 frame" if frames == 1 else f"{frames} frames"
