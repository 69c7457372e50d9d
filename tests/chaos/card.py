"""A card as it is found, read without any of the product's code (its formats: edge/core/segment.py, journal.py)."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK = 4096
_SEGMENT = struct.Struct("<8sHHI16sIIIIQQ")
_RECORD = struct.Struct("<IIBBHQQII")
_PCM1 = struct.Struct("<IIdHHIHHI")


class DamagedError(Exception):
    """What should be whole is not."""


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record: its packet, and where it belongs in the recording."""

    seq: int
    position: int
    payload: bytes


@dataclass(slots=True)
class OnCard:
    """A recording on the card. `records` are those up to the first that is not whole, segment by segment; what was
    written again after a failure is there twice."""

    name: str
    manifest: dict[str, Any]
    journal: list[dict[str, Any]]
    damaged_lines: int
    records: list[Record] = field(default_factory=list)

    @property
    def state(self) -> str:
        """recording, sealed or delivered."""
        return str(self.manifest["state"])

    @property
    def end(self) -> int:
        """Behind the last whole record, in frames."""
        return self.records[-1].position + len(self.records[-1].payload) // 2 if self.records else 0


def read_card(spool: Path) -> list[OnCard]:
    """All recordings in a spool, oldest first. Raises DamagedError."""
    folder = spool / "recordings"
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    return sorted((_recording(path) for path in paths), key=lambda found: int(found.manifest["number"]))


def _recording(folder: Path) -> OnCard:
    try:
        value = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedError(f"the manifest of {folder.name} cannot be read: {error}") from None
    crc = value.pop("crc32", None)
    if crc != f"{zlib.crc32(json.dumps(value, sort_keys=True, separators=(',', ':')).encode()):08x}":
        raise DamagedError(f"the manifest of {folder.name} does not have its checksum")
    journal, damaged = _journal(folder / "journal")
    found = OnCard(folder.name, value, journal, damaged)
    for path in sorted(folder.glob("*.seg")):
        found.records += _segment(path, folder.name)
    return found


def _journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    entries, damaged = [], 0
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        crc, _, text = line.strip(b"\0").partition(b" ")
        if crc and crc == b"%08x" % zlib.crc32(text):
            entries.append(json.loads(text))
        elif crc or text:
            damaged += 1
    return entries, damaged


def _segment(path: Path, name: str) -> list[Record]:
    """Its whole records from the first on; none where its header is not whole, or of an earlier life."""
    data = path.read_bytes()
    if len(data) < _BLOCK:
        return []
    fields = data[: _SEGMENT.size]
    magic, version, channels, _, recording, index, seq, packet_frames, _, _, _ = _SEGMENT.unpack(fields)
    seed = zlib.crc32(fields)
    (told,) = struct.unpack_from("<I", data, _SEGMENT.size)
    if magic != b"EDGESEG1" or told != seed or version != 1:
        return []
    if recording.hex() != name.replace("-", "") or f"{index:06d}" != path.stem:
        return []
    size = _RECORD.size + _PCM1.size + packet_frames * channels * 2
    records = []
    for at in range(_BLOCK, len(data) - size + 1, size):
        crc, length, _, _, _, position, _, _, _ = _RECORD.unpack_from(data, at)
        wire = data[at + _RECORD.size : at + _RECORD.size + length]
        if length > size or crc != zlib.crc32(wire, zlib.crc32(data[at + 4 : at + _RECORD.size], seed)):
            break
        if _PCM1.unpack_from(wire)[1] != seq:
            raise DamagedError(f"{path.name} of {name} has packet {_PCM1.unpack_from(wire)[1]} in place of {seq}")
        records.append(Record(seq, position, wire[_PCM1.size :]))
        seq += 1
    return records
