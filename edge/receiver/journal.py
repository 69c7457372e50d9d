"""The journal beside a WAV file: what each stretch of it is.

Little-endian records, one behind the other:

    u32 crc32 of all that follows | u16 bytes of body | u8 kind | u8 0 | body

    kind 1 OPENED      JSON: version, recording, started (Unix seconds)
    kind 2 PACKET      u64 position in frames, the packet's 32 header bytes as they came, u32 crc32 of its payload
    every other kind   JSON, see `edge.receiver.account`

A packet's payload stands in the WAV file at 80 + position * frame bytes, and is synced before its record is written.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple
from zlib import crc32

VERSION = 1
MAX_BODY = 0xFFFF
_HEAD = struct.Struct("<IHBB")
_TAIL = struct.Struct("<HBB")
_PACKET = struct.Struct("<Q32sI")
_PACKET_TAIL = _TAIL.pack(_PACKET.size, 2, 0)


class Kind(IntEnum):
    """What a record tells."""

    OPENED = 1
    PACKET = 2
    FORMAT = 3
    GAP = 4
    BASE = 5
    SESSION_BEGUN = 6
    SESSION_ENDED = 7
    DUPLICATES = 8
    REFUSED = 9
    CLOCK = 10
    LOST = 11


class Record(NamedTuple):
    """One record, and the offset at which the next one starts."""

    kind: int
    body: bytes
    end: int


class PacketRecord(NamedTuple):
    """The body of a PACKET record; `position` in frames."""

    position: int
    header: bytes
    payload_crc: int


def packet(position: int, header: bytes, payload_crc: int) -> bytes:
    """The record of one packet."""
    covered = _PACKET_TAIL + _PACKET.pack(position, header, payload_crc)
    return crc32(covered).to_bytes(4, "little") + covered


def parse_packet(body: bytes) -> PacketRecord:
    """The body of a PACKET record."""
    return PacketRecord(*_PACKET.unpack(body))


def fact(kind: Kind, value: dict[str, Any]) -> bytes:
    """The record of anything else; `value` must be short (checked where it comes in)."""
    body = json.dumps(value, separators=(",", ":")).encode()
    covered = _TAIL.pack(len(body), kind, 0) + body
    return crc32(covered).to_bytes(4, "little") + covered


def scan(data: bytes) -> Iterator[Record]:
    """The whole records at the beginning of `data`; ends at the first that is torn or damaged."""
    offset = 0
    view = memoryview(data)
    while offset + _HEAD.size <= len(data):
        checksum, size, kind, _ = _HEAD.unpack_from(data, offset)
        end = offset + _HEAD.size + size
        if end > len(data) or crc32(view[offset + 4 : end]) != checksum:
            return
        yield Record(kind, bytes(view[offset + _HEAD.size : end]), end)
        offset = end
