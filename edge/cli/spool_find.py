"""The card as the commands of `edge spool` find it: a state directory, a recording by the beginning of its id, facts.

Everything here only reads, and takes no lock: a recorder may be at work.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.adapters.clock import SystemClock
from edge.adapters.spool import CardRecording, SpoolDirectory
from edge.adapters.state import StateDirectory, default_state_path
from edge.core.journal import BootEntry, EndEntry
from edge.core.manifest import CardState
from edge.core.packet import decode_header
from edge.core.recovery import Recovered
from edge.core.segment import CardPacket
from edge.core.timebase import Anchor
from edge.errors import ConfigError, UnreadableError

CUT_OFF = "cut off"
_REASON = ".reason.txt"
_SHORT = 8
_LOCKS = Path("/proc/locks")


def state_path(chosen: Path | None) -> Path:
    """The state directory, which must be there. Raises ConfigError."""
    path = chosen or default_state_path()
    try:
        path.stat()
        if not os.access(path, os.R_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ConfigError(
            f"the state directory {path} cannot be read ({error.strerror})", remedy="give another with --state"
        ) from None
    return path


def spool_of(path: Path, max_bytes: int = 0) -> SpoolDirectory:
    """The spool of the state directory `path`."""
    return SpoolDirectory(StateDirectory(path).spool, max_bytes)


def folders(spool: SpoolDirectory) -> list[Path]:
    """The recordings' folders, oldest first. Raises ConfigError."""
    try:
        return spool.folders()
    except FileNotFoundError:
        return []  # nothing was ever recorded
    except OSError as error:
        raise ConfigError(f"{spool.recordings} cannot be read ({error.strerror})") from None


def quarantined(spool: SpoolDirectory) -> list[tuple[Path, str]]:
    """What was set aside, and why."""
    try:
        names = sorted(path for path in spool.quarantine.iterdir() if not path.name.endswith(_REASON))
    except OSError:
        return []
    return [(path, _reason(path)) for path in names]


def reason_file(path: Path) -> Path:
    """Where it stands why `path` was set aside."""
    return path.with_name(path.name + _REASON)


def _reason(path: Path) -> str:
    try:
        text = reason_file(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = "its reason is gone"
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def find(text: str, among: list[Path]) -> Path:
    """The one of `among` whose name begins with `text`. Raises ConfigError."""
    wanted = text.strip().lower()
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[:40])
    matches = [path for path in among if path.name == wanted] or [
        path for path in among if wanted and path.name.startswith(wanted)
    ]
    if not matches:
        raise ConfigError(f"there is no recording {shown!r} on the card", remedy="edge spool ls shows what there is")
    if len(matches) > 1:
        names = ", ".join(path.name for path in matches[:3]) + (", ..." if len(matches) > 3 else "")
        raise ConfigError(f"{shown!r} may be any of {len(matches)} recordings ({names})", remedy="give more of the id")
    return matches[0]


def short_ids(paths: list[Path]) -> dict[str, str]:
    """For each name a beginning that no other has, of one length for all."""
    names = {path.name for path in paths}
    length = _SHORT
    while len({name[:length] for name in names}) < len(names):
        length += 1
    return {name: name[:length] for name in names}


def is_in_use(path: Path) -> bool:
    """Whether a process owns the state directory `path`: asked of the kernel, for a try at the lock might be in the way
    of a recorder that starts just now."""
    try:
        inode = (path / "lock").stat().st_ino
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return False
    fields = [line.split() for line in lines]
    return any("FLOCK" in line and any(word.endswith(f":{inode}") for word in line) for line in fields)


def size_bytes(folder: Path) -> int:
    """What `folder`, or a single file, takes of the card."""
    total = 0
    for path in (folder, *folder.rglob("*")):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue  # given back just now
    return total


# --- facts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """One recording. Times in seconds, `began_unix_s` None where nothing tells it; `lost` by cause."""

    recording: str
    began_unix_s: float | None
    is_clock_trusted: bool
    state: str
    seconds: float
    owed_seconds: float
    lost_seconds: dict[str, float]
    ended_by: str
    predecessor: str
    has_audio: bool
    card_bytes: int


def load(spool: SpoolDirectory, folder: Path, *, is_quick: bool = False) -> tuple[CardRecording, Recovered]:
    """Raises UnreadableError, here as one that changes nothing."""
    try:
        return spool.load(folder, is_quick=is_quick)
    except UnreadableError as error:
        raise UnreadableError(error.what) from None


def listed(spool: SpoolDirectory, *, is_in_use: bool) -> Iterator[Facts | tuple[Path, str]]:
    """Each recording, oldest first; where one cannot be read, its folder and why."""
    everything = folders(spool)
    for folder in everything:
        try:
            card, found = load(spool, folder, is_quick=True)
            yield facts(card, found, is_live=is_in_use and folder is everything[-1])
        except UnreadableError as error:
            if folder.exists():  # else it was delivered and given back just now
                yield folder, error.what
        except FileNotFoundError:
            continue  # likewise


def facts(card: CardRecording, found: Recovered, *, is_live: bool) -> Facts:
    """What the card says of one recording. May raise OSError."""
    meta, ledger = card.manifest, found.ledger
    seconds = meta.audio.seconds
    state = meta.state.value
    if meta.state is CardState.RECORDING and not is_live:
        state = CUT_OFF
    began, is_trusted = began_unix_s(card, found)
    expected = ledger.expected
    if not meta.has_audio:
        expected = max((entry.position for entry in card.entries() if isinstance(entry, EndEntry)), default=0)
    return Facts(
        meta.recording_id,
        began,
        is_trusted,
        state,
        seconds(expected),
        0.0 if meta.state is CardState.DELIVERED else seconds(ledger.kept_frames),
        {cause: seconds(frames) for cause, frames in ledger.lost.items()},
        meta.ended_by or found.ended_by,
        meta.predecessor,
        meta.has_audio,
        size_bytes(card.folder),
    )


def began_unix_s(card: CardRecording, found: Recovered) -> tuple[float | None, bool]:
    """When it began, and whether the clock by which that is known was trusted. May raise OSError."""
    first = _first(card)
    if first is None:
        boot = found.boots.get(0)
        return None, bool(boot and boot.trusted)
    seconds = first.position / card.manifest.audio.rate_hz
    entry = found.boots.get(first.boot)
    if entry is None:  # by the stamp with which it would have been sent
        return decode_header(first.wire).captured_unix_ms / 1000 - seconds, False
    anchor = _best(entry)
    return anchor.unix_ms(first.boot_us / 1e6) / 1000 - seconds, anchor.trusted


def _first(card: CardRecording) -> CardPacket | None:
    for segment in card.segments:
        for _, packet in card.read(segment.header.first_seq, segment.header.first_seq):
            if packet is not None:
                return packet
    return None


def _best(entry: BootEntry) -> Anchor:
    """The clock may have been set since: what is known today counts for what this boot recorded."""
    return Anchor(entry.boot_id, entry.utc_minus_boot_s, entry.trusted).or_better(SystemClock().read())
