"""What a receiver left in its folder, read without any of its code."""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaign.audit import Packet, UnreadableError, parse_packets


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording as a server with acknowledgements stored it."""

    pcm: bytes
    rate: int
    channels: int
    account: dict[str, Any]


def _only_recording(out: Path) -> Path:
    folders = sorted(path for path in out.iterdir() if path.is_dir()) if out.is_dir() else []
    if len(folders) != 1:
        raise UnreadableError(f"{out} has {len(folders)} recordings, not 1")
    return folders[0]


def kept_packets(out: Path) -> list[tuple[str, list[Packet]]]:
    """Of the one recording in `out`: its sessions in order, each with the packets whose transcript was written."""
    folder = _only_recording(out)
    listed = json.loads((folder / "sessions.json").read_text())
    order = [entry["session_id"] if isinstance(entry, dict) else str(entry) for entry in listed]
    on_disk = {path.name.removesuffix(".kept.pcm1") for path in folder.glob("*.kept.pcm1")}
    if not on_disk <= set(order):
        raise UnreadableError(f"sessions.json does not know {sorted(on_disk - set(order))}")
    return [
        (name, list(parse_packets((folder / f"{name}.kept.pcm1").read_bytes()) if name in on_disk else ()))
        for name in order
    ]


def stored_recording(out: Path) -> Recording:
    """The one recording in `out`: its WAV and its account."""
    return recording_in(_only_recording(out))


def recording_in(folder: Path) -> Recording:
    """The recording in `folder`. Raises UnreadableError, OSError, ValueError."""
    wavs = sorted(folder.glob("*.wav"))
    if len(wavs) != 1:
        raise UnreadableError(f"{folder} has {len(wavs)} WAV files, not 1")
    account = json.loads((folder / "account.json").read_text())
    try:
        with wave.open(str(wavs[0]), "rb") as file:
            if file.getsampwidth() != 2:
                raise UnreadableError(f"{wavs[0].name} has {8 * file.getsampwidth()} bits")
            pcm = file.readframes(file.getnframes())
            return Recording(pcm, file.getframerate(), file.getnchannels(), account)
    except (wave.Error, EOFError) as error:
        raise UnreadableError(f"{wavs[0].name} is no WAV file: {error}") from None
