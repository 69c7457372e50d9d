"""What the first release could not deliver before its process had to end: STATE/pending/RECORDING/, read only.

    recording.json   what is needed to go on: format, gaps, cursors, and the course of the delivery so far
    packets.pcm1     the wire packets from `first_seq` on, one behind the other

A folder goes by a rename before it is emptied: there is no half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from edge.core.ledger import Ledger
from edge.core.packet import HEADER_BYTES, AudioFormat, decode_header
from edge.errors import EdgeError, PacketError, UnreadableError

_VERSION = 1
_META = "recording.json"
_PACKETS = "packets.pcm1"
_GONE = ".gone"


@dataclass(frozen=True, slots=True)
class Course:
    """What the delivery has been so far: `settings` for the server, `session_ids` that it gave, `sent`, the last packet
    that ever went out (with the ledger's resent frames it makes a later account go on where that one ended)."""

    settings: dict[str, Any]
    session_ids: tuple[str, ...] = ()
    reconnects: int = 0
    sent: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """One kept recording: as the uplink needs it, and the way to let it go."""

    recording_id: str
    audio: AudioFormat
    ledger: Ledger
    course: Course
    wire: Callable[[int], bytes]
    folder: Path


def drop(folder: Path) -> None:
    """Nothing of it is needed here any more. Raises OSError."""
    gone = folder.with_name(f".{folder.name}{_GONE}")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    _sync(folder.parent)
    shutil.rmtree(gone, ignore_errors=True)


def kept(pending: Path) -> Iterator[Kept | UnreadableError]:
    """What was kept, oldest first; a folder that cannot be read is reported and left as it is."""
    try:
        found = sorted(pending.iterdir(), key=_age)
    except OSError:
        return
    for folder in found:
        if folder.name.startswith("."):
            if folder.name.endswith(_GONE):  # delivered; the process ended before it was emptied
                shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            yield _load(folder)
        except Exception as error:  # noqa: BLE001  (whatever stands in a damaged file, it stops nobody from recording)
            why = str(error) if isinstance(error, EdgeError | ValueError) else type(error).__name__
            why = error.strerror or why if isinstance(error, OSError) else why
            yield _unreadable(folder, why)


def _unreadable(folder: Path, why: str) -> UnreadableError:
    return UnreadableError(
        f"the kept recording {folder} cannot be read ({why})", "it is left as it is", "copy it away and look"
    )


def _age(folder: Path) -> tuple[float, str]:
    """The packets are written once, whatever happens to the folder later."""
    try:
        return (folder / _PACKETS).stat().st_mtime, folder.name
    except OSError:
        return 0.0, folder.name


def _load(folder: Path) -> Kept:
    meta = _meta(folder)
    recording_id = folder.name
    audio = AudioFormat(int(meta["rate"]), int(meta["channels"]))
    first, base_frames = int(meta["first_seq"]), int(meta["delivered_frames"])
    lost_before = {str(cause): int(frames) for cause, frames in meta["lost"].items()}
    if min(audio.rate_hz, audio.channels, first, base_frames + 1, *(frames + 1 for frames in lost_before.values())) < 1:
        raise ValueError("a number in it makes no sense")
    ledger = Ledger.resumed(int(meta["packet_frames"]), first, base_frames, lost_before)
    gaps: dict[int, list[tuple[int, str]]] = {}
    for before_seq, frames, cause in meta["gaps"]:
        gaps.setdefault(before_seq, []).append((frames, cause))
    path = folder / _PACKETS
    seq = first
    for packet_frames in _packets(path, audio, first):
        for lost, cause in gaps.pop(seq, ()):
            ledger.gap(lost, cause)
        ledger.capture(packet_frames)
        seq += 1
    for lost, cause in gaps.pop(seq, ()):
        ledger.gap(lost, cause)
    ledger.end()
    if ledger.last != seq - 1 or gaps:
        raise ValueError("packets and gaps do not fit together")
    if int(meta["delivered"]) >= first:
        ledger.deliver(int(meta["delivered"]))
    course = _course(meta)
    if course.sent > ledger.delivered:
        ledger.sending(ledger.packet(course.sent))  # so that all up to there counts as resent from now on
    ledger.resent_frames = _amount(meta, "resent")

    def wire(seq: int) -> bytes:
        packet = ledger.packet(seq)
        start = (seq - first) * HEADER_BYTES + (packet.offset - base_frames) * audio.frame_bytes
        size = HEADER_BYTES + packet.frames * audio.frame_bytes
        try:
            with path.open("rb") as packets:
                packets.seek(start)
                data = packets.read(size)
        except OSError as error:
            raise _unreadable(folder, error.strerror or type(error).__name__) from None
        if len(data) < size:
            raise _unreadable(folder, "it has become shorter")
        return data

    return Kept(recording_id, audio, ledger, course, wire, folder)


def _course(meta: dict[str, Any]) -> Course:
    session_ids = tuple(str(session_id) for session_id in meta.get("sessions", ()))
    return Course(dict(meta["settings"]), session_ids, _amount(meta, "reconnects"), _amount(meta, "sent"))


def _amount(meta: dict[str, Any], key: str) -> int:
    """A number that earlier releases did not write."""
    amount = int(meta.get(key, 0))
    if amount < 0:
        raise ValueError(f"{key} makes no sense")
    return amount


def _meta(folder: Path) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads((folder / _META).read_bytes())
    if meta["version"] != _VERSION:
        raise ValueError(f"version {meta['version']} is not {_VERSION}")
    recording_id = str(UUID(meta["recording"]))
    if recording_id != folder.name:
        raise ValueError(f"it is a copy of {recording_id}")
    return meta


def _packets(path: Path, audio: AudioFormat, first_seq: int) -> Iterator[int]:
    """The frames of each packet. Raises PacketError where one is not whole or not in its place."""
    seq = first_seq
    with path.open("rb") as packets:
        size = os.fstat(packets.fileno()).st_size
        while packets.tell() < size:
            start = packets.tell()
            frames = int.from_bytes(packets.read(HEADER_BYTES)[16:18], "little")
            packets.seek(start)
            header = decode_header(packets.read(HEADER_BYTES + frames * audio.frame_bytes))
            if header.seq != seq or (header.rate_hz, header.channels) != (audio.rate_hz, audio.channels):
                raise PacketError(f"packet {header.seq} stands where {seq} belongs")
            yield header.frames
            seq += 1


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
