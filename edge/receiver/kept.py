"""What a strict receiver kept: only audio whose transcript the real server would have written.

    OUT/RECORDING/sessions.json        the sessions in the order of their start
    OUT/RECORDING/SESSION.kept.pcm1    wire packets, one behind the other, each arrival once
    OUT/RECORDING/kept.wav             all of them, made when a session ends

Everything here blocks and belongs into a thread.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edge.core.packet import HEADER_BYTES, AudioFormat
from edge.receiver import wav
from edge.receiver.segments import Arrival, parse
from edge.receiver.store import replace_durably, sync_directory

log = logging.getLogger("edge.receiver")
SESSIONS = "sessions.json"
SUFFIX = ".kept.pcm1"
WAV = "kept.wav"


class KeptRecording:
    """The folder of one recording. Names inside are made of UUIDs of our own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[dict[str, Any]] = []

    def open(self) -> None:
        """Make the folder, or read what an earlier receiver left; a torn last packet is cut off."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_directory(self.folder.parent)
        try:
            listed = json.loads((self.folder / SESSIONS).read_bytes())
        except FileNotFoundError:
            listed = []
        self.entries = [dict(entry) for entry in listed]
        for entry in self.entries:
            entry["ended_by"] = entry.get("ended_by") or "receiver ended"
            path = self._path(entry["session_id"])
            if path.exists():
                whole = sum(len(arrival.wire) for arrival in _arrivals(path))
                if whole != path.stat().st_size:
                    os.truncate(path, whole)

    def list_sessions(self) -> None:
        """Write `entries`."""
        replace_durably(self.folder / SESSIONS, (json.dumps(self.entries, indent=1) + "\n").encode())

    def append(self, session_id: str, arrivals: Sequence[Arrival]) -> None:
        """Write the packets of one transcribed segment, durably."""
        path = self._path(session_id)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            rest = memoryview(b"".join(arrival.wire for arrival in arrivals))
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if is_new:
            sync_directory(self.folder)

    def write_wav(self) -> None:
        """Join what all sessions kept. The first packet's rate and channels are the file's."""
        fresh = self.folder / f".{WAV}.new"
        audio: AudioFormat | None = None
        data_bytes = 0
        fresh.touch(0o600)
        with fresh.open("wb") as file:
            file.write(bytes(wav.HEADER_BYTES))
            for entry in self.entries:
                for arrival in _arrivals(self._path(entry["session_id"])):
                    audio = audio or AudioFormat(arrival.rate_hz, arrival.channels)
                    data_bytes += file.write(memoryview(arrival.wire)[HEADER_BYTES:])
            if audio is None or not wav.fits(audio):
                fresh.unlink()
                return
            file.seek(0)
            file.write(wav.header(audio, data_bytes))
        fresh.replace(self.folder / WAV)

    def _path(self, session_id: str) -> Path:
        return self.folder / f"{session_id}{SUFFIX}"


def recover_kept(out: Path) -> None:
    """Cut off what an earlier receiver was just writing when it died."""
    for path in sorted(out.glob(f"*/{SESSIONS}")):
        try:
            KeptRecording(path.parent).open()
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s cannot be read (%s); it is left as it is", path, type(error).__name__)


def _arrivals(path: Path) -> Iterator[Arrival]:
    """The whole packets at the beginning of a kept file."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        while len(head := file.read(HEADER_BYTES)) == HEADER_BYTES:
            arrival = parse(head + file.read(int.from_bytes(head[28:32], "little")))
            if not isinstance(arrival, Arrival):
                return
            yield arrival
