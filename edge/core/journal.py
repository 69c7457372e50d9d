"""What happens to a recording beside its audio: one line each, appended, never changed.

A line is the CRC-32 of the rest as eight hex digits, a space and a JSON object. A power cut may tear what was not
synced: a line whose checksum does not fit is passed over, and counted.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class Entry:
    """Base of all entries."""

    kind: ClassVar[str] = ""


@dataclass(frozen=True, slots=True)
class BootEntry(Entry):
    """A boot, or what was learnt of its clock. `boot` counts the recording's boots from 0."""

    kind: ClassVar[str] = "boot"
    boot: int
    boot_id: str
    utc_minus_boot_s: float
    trusted: bool


@dataclass(frozen=True, slots=True)
class SessionEntry(Entry):
    """The server opened a session whose first packet is `first_seq`, at `boot_s` of boot `boot`. `server` is its kind
    (core/resume.py); told again once that is known."""

    kind: ClassVar[str] = "session"
    session_id: str
    first_seq: int
    server: str
    boot: int
    boot_s: float


@dataclass(frozen=True, slots=True)
class GapEntry(Entry):
    """`frames` are missing from `position` on, just before packet `before_seq`."""

    kind: ClassVar[str] = "gap"
    before_seq: int
    position: int
    frames: int
    cause: str


@dataclass(frozen=True, slots=True)
class LostEntry(Entry):
    """The packets `first` to `last`, together `frames`, were given up, or cannot be read any more."""

    kind: ClassVar[str] = "lost"
    first: int
    last: int
    frames: int
    cause: str


@dataclass(frozen=True, slots=True)
class MarkEntry(Entry):
    """How far delivery had come, where no record tells it: all up to `delivered`, and `handled`."""

    kind: ClassVar[str] = "mark"
    delivered: int
    handled: int


@dataclass(frozen=True, slots=True)
class EndEntry(Entry):
    """The recording ended at `position`."""

    kind: ClassVar[str] = "end"
    position: int
    by: str


_KINDS: dict[str, type[Entry]] = {
    entry.kind: entry for entry in (BootEntry, SessionEntry, GapEntry, LostEntry, MarkEntry, EndEntry)
}
_TYPES: dict[str, type | tuple[type, ...]] = {"int": int, "str": str, "bool": bool, "float": (int, float)}


def encode(entries: Iterable[Entry]) -> bytes:
    """The lines of `entries`."""
    lines = []
    for entry in entries:
        text = json.dumps({"kind": entry.kind, **asdict(entry)}, separators=(",", ":")).encode()
        lines.append(b"%08x %b\n" % (zlib.crc32(text), text))
    return b"".join(lines)


def decode(data: bytes) -> tuple[list[Entry], int]:
    """The entries in `data`, and how many lines were torn or damaged."""
    entries: list[Entry] = []
    damaged = 0
    for line in data.split(b"\n"):
        entry = _decode(line)
        if entry is not None:
            entries.append(entry)
        elif line.strip(b"\0"):  # zeros: space that a power cut left unwritten
            damaged += 1
    return entries, damaged


def _decode(line: bytes) -> Entry | None:
    crc, _, text = line.strip(b"\0").partition(b" ")
    if b"%08x" % zlib.crc32(text) != crc:
        return None
    try:
        value: dict[str, Any] = json.loads(text)
        kind = _KINDS[value.pop("kind")]
        known = {item.name: value[item.name] for item in fields(kind)}
        for item in fields(kind):
            if not isinstance(known[item.name], _TYPES[str(item.type)]):
                return None
        return kind(**known)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # a later version's entry, or one made by hand
