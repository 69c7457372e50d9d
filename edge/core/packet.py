"""PCM1: a 32-byte little-endian header, then signed 16-bit samples (PROTOCOL.md, "PCM1 packet")."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from edge.errors import PacketError

MAGIC = 0x314D4350
HEADER_BYTES = 32
SAMPLE_BYTES = 2
FORMAT_S16LE = 1
MAX_SEQ = 0xFFFF_FFFF
_HEADER = struct.Struct("<IIdHHIHHI")


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """Signed 16-bit little-endian PCM, channels interleaved, at `rate_hz` frames per second."""

    rate_hz: int
    channels: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame: one sample of every channel."""
        return self.channels * SAMPLE_BYTES

    def seconds(self, frames: int) -> float:
        """The duration of `frames` frames in seconds."""
        return frames / self.rate_hz


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one packet. `frames` is what the wire calls samples per channel."""

    seq: int
    captured_unix_ms: float
    frames: int
    duration_ms: int
    rate_hz: int
    channels: int

    @property
    def payload_bytes(self) -> int:
        """Bytes that follow the header."""
        return self.frames * self.channels * SAMPLE_BYTES


def duration_ms(frames: int, rate_hz: int) -> int:
    """Whole milliseconds that a header states for `frames`: rounded, at least 1.

    An aia-v4 server adds these up to place its cuts, so zero would hide audio from it.
    """
    return max(1, (2000 * frames + rate_hz) // (2 * rate_hz))


def encode_header(seq: int, captured_unix_ms: float, frames: int, audio: AudioFormat) -> bytes:
    """The 32 header bytes of packet `seq` (1 to 2**32 - 1) with `frames` frames (1 to 65535).

    Raises PacketError where a field would not fit: nothing is ever cut to size in silence.
    """
    try:
        if not 1 <= seq <= MAX_SEQ or frames < 1:
            raise struct.error
        return _HEADER.pack(
            MAGIC,
            seq,
            captured_unix_ms,
            frames,
            duration_ms(frames, audio.rate_hz),
            audio.rate_hz,
            audio.channels,
            FORMAT_S16LE,
            frames * audio.frame_bytes,
        )
    except struct.error:
        raise PacketError(f"packet {seq} with {frames} frames does not fit a PCM1 header") from None


def decode_header(packet: bytes | memoryview) -> Header:
    """The header of one whole packet, `packet` being header and payload.

    Raises PacketError, naming the field, for everything that an aia-v4 server would drop, shift or crash on.
    """
    if len(packet) < HEADER_BYTES:
        raise PacketError(f"{len(packet)} bytes are shorter than a PCM1 header")
    fields = _HEADER.unpack_from(packet)
    magic, seq, captured_unix_ms, frames, stated_ms, rate_hz, channels, code, payload_bytes = fields
    if magic != MAGIC:
        raise PacketError(f"magic {magic:#010x} is not PCM1")
    if code != FORMAT_S16LE:
        raise PacketError(f"format {code} is not 1 (signed 16-bit)")
    if seq == 0 or frames == 0 or rate_hz == 0 or channels == 0:
        raise PacketError("sequence number, samples, rate and channels must not be 0")
    if payload_bytes != frames * channels * SAMPLE_BYTES:
        raise PacketError(f"{payload_bytes} payload bytes do not hold {frames} frames of {channels} channels")
    if len(packet) != HEADER_BYTES + payload_bytes:
        raise PacketError(f"{len(packet) - HEADER_BYTES} bytes follow a header that announces {payload_bytes}")
    return Header(seq, captured_unix_ms, frames, stated_ms, rate_hz, channels)
