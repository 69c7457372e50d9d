"""A segment of the spool as bytes: one header block, then records of one size, each with a wire packet.

A record is found by arithmetic: packets of a segment are numbered without a hole, so record i is packet
`first_seq` + i. Files are used again; so that what an earlier life left in one never passes for a record, the checksum
of each record begins with the header's own, and each header carries a nonce.

    header   4096 bytes: the fields of SegmentHeader, a checksum, zeros
    record   36 bytes (the fields of CardPacket, a length, a checksum), the PCM1 packet, zeros up to the record size

All numbers are little-endian; checksums are CRC-32 (zlib).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from edge.core.packet import HEADER_BYTES, MAGIC, AudioFormat, decode_header
from edge.errors import PacketError

BLOCK_BYTES = 4096
FORMAT_VERSION = 1
_OURS = b"EDGESEG1"
_HEADER = struct.Struct("<8sHHI16sIIIIQQ")
_HEAD = struct.Struct("<IIBBHQQII")  # the checksum comes first and covers all behind it, padding excluded
_CRC = struct.Struct("<I")
_MEANT = struct.Struct("<II")  # how a PCM1 packet begins
_PACKET = 1  # the one kind of record so far
HEAD_BYTES = _HEAD.size


class Torn(Exception):
    """Bytes that are no whole header or record: never written, half written, or damaged."""


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says of itself. `position` and `offset` are those of its first packet, in frames: in the
    recording, and in its stored audio."""

    recording_id: str
    index: int
    first_seq: int
    position: int
    offset: int
    audio: AudioFormat
    packet_frames: int
    nonce: int

    @property
    def record_bytes(self) -> int:
        """Size of each record."""
        return record_bytes(self.audio, self.packet_frames)

    def place(self, seq: int) -> int:
        """Byte offset of packet `seq` in the file."""
        return BLOCK_BYTES + (seq - self.first_seq) * self.record_bytes


@dataclass(frozen=True, slots=True)
class CardPacket:
    """One record: a packet with what the recorder knew when it wrote it.

    wire        the PCM1 packet
    position    of its first frame in the recording, in frames
    boot_us     capture time of that frame, microseconds of the boot clock
    boot        which of the recording's boots that clock belongs to, from 0
    delivered   the last packet known to be delivered, and `handled` to be handled, by then
    """

    wire: bytes
    position: int
    boot_us: int
    boot: int = 0
    delivered: int = 0
    handled: int = 0
    key_id: int = 0

    @property
    def seq(self) -> int:
        """The packet's number."""
        return int.from_bytes(self.wire[4:8], "little")

    @property
    def frames(self) -> int:
        """The packet's frames."""
        return int.from_bytes(self.wire[16:18], "little")


def record_bytes(audio: AudioFormat, packet_frames: int) -> int:
    """Bytes of one record."""
    return HEAD_BYTES + HEADER_BYTES + packet_frames * audio.frame_bytes


def encode_segment(header: SegmentHeader) -> bytes:
    """The header block."""
    fields = _HEADER.pack(
        _OURS,
        FORMAT_VERSION,
        header.audio.channels,
        header.audio.rate_hz,
        UUID(header.recording_id).bytes,
        header.index,
        header.first_seq,
        header.packet_frames,
        header.nonce,
        header.position,
        header.offset,
    )
    return (fields + _CRC.pack(zlib.crc32(fields))).ljust(BLOCK_BYTES, b"\0")


def decode_segment(block: bytes) -> SegmentHeader:
    """The header of a file whose first 4096 bytes are `block`. Raises Torn."""
    if len(block) < BLOCK_BYTES:
        raise Torn("no whole header")
    fields = block[: _HEADER.size]
    magic, version, channels, rate_hz, recording, index, first_seq, packet_frames, nonce, position, offset = (
        _HEADER.unpack(fields)
    )
    if magic != _OURS or _CRC.unpack_from(block, _HEADER.size) != (zlib.crc32(fields),):
        raise Torn("no header of ours")
    if version != FORMAT_VERSION:
        raise Torn(f"segments of version {version} are not known here")
    audio = AudioFormat(rate_hz, channels)
    return SegmentHeader(str(UUID(bytes=recording)), index, first_seq, position, offset, audio, packet_frames, nonce)


class RecordCodec:
    """Turns the packets of one segment into records and back."""

    def __init__(self, header: SegmentHeader) -> None:
        self.header = header
        self._seed = zlib.crc32(encode_segment(header)[: _HEADER.size])

    def encode(self, packets: Sequence[CardPacket]) -> bytes:
        """The records of `packets`, which follow each other, as one piece of `record_bytes` each."""
        size = self.header.record_bytes
        parts = []
        for packet in packets:
            rest = _HEAD.pack(
                0,
                len(packet.wire),
                _PACKET,
                packet.key_id,
                packet.boot,
                packet.position,
                packet.boot_us,
                packet.delivered,
                packet.handled,
            )[4:]
            crc = zlib.crc32(packet.wire, zlib.crc32(rest, self._seed))
            padding = size - HEAD_BYTES - len(packet.wire)
            if padding < 0:
                raise PacketError(f"packet {packet.seq} is longer than a record")
            parts += [_CRC.pack(crc), rest, packet.wire]
            if padding:
                parts.append(bytes(padding))
        return b"".join(parts)

    @staticmethod
    def is_begun(record: bytes, seq: int) -> bool:
        """Whether `record`, which is not whole, was meant to be that of packet `seq`: neither unwritten space nor, but
        by chance, left by an earlier life of the file."""
        return record[HEAD_BYTES : HEAD_BYTES + 8] == _MEANT.pack(MAGIC, seq)

    def decode(self, record: bytes | memoryview, seq: int) -> CardPacket:
        """The packet `seq` that `record` holds. Raises Torn."""
        if len(record) < self.header.record_bytes:
            raise Torn("no whole record")
        crc, length, kind, key_id, boot, position, boot_us, delivered, handled = _HEAD.unpack_from(record)
        wire = bytes(record[HEAD_BYTES : HEAD_BYTES + length])
        if kind != _PACKET or len(wire) != length:
            raise Torn("no record of ours")
        if crc != zlib.crc32(wire, zlib.crc32(record[4:HEAD_BYTES], self._seed)):
            raise Torn("the checksum does not fit")
        try:
            head = decode_header(wire)
        except PacketError as error:
            raise Torn(str(error)) from None
        if head.seq != seq or (head.rate_hz, head.channels) != (self.header.audio.rate_hz, self.header.audio.channels):
            raise Torn(f"packet {head.seq} stands where {seq} belongs")
        return CardPacket(wire, position, boot_us, boot, delivered, handled, key_id)


def records_in(segment_bytes: int, audio: AudioFormat, packet_frames: int) -> int:
    """How many records a file of `segment_bytes` holds, at least 1."""
    return max(1, (segment_bytes - BLOCK_BYTES) // record_bytes(audio, packet_frames))
