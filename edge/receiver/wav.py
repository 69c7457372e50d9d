"""The 80 bytes before the samples of a WAV file: RIFF, and RF64 (EBU Tech 3306) where the sizes need 64 bits.

The room for RF64's `ds64` chunk is a JUNK chunk while the file is small, so growing beyond 4 GiB moves no sample.
"""

from __future__ import annotations

import struct

from edge.core.packet import SAMPLE_BYTES, AudioFormat

HEADER_BYTES = 80
_PCM = 1
_MAX32 = 0xFFFF_FFFF
_RIFF = struct.Struct("<4sI4s")
_DS64 = struct.Struct("<4sIQQQI")
_FMT = struct.Struct("<4sIHHIIHH")
_DATA = struct.Struct("<4sI")


def header(audio: AudioFormat, data_bytes: int, behind_bytes: int = 0) -> bytes:
    """The header of a file with `data_bytes` bytes of signed 16-bit samples behind it, and `behind_bytes` of other
    chunks behind those."""
    riff_bytes = HEADER_BYTES - 8 + data_bytes + behind_bytes
    fmt = _FMT.pack(
        b"fmt ",
        16,
        _PCM,
        audio.channels,
        audio.rate_hz,
        audio.rate_hz * audio.frame_bytes,
        audio.frame_bytes,
        8 * SAMPLE_BYTES,
    )
    if riff_bytes <= _MAX32:
        room = _DS64.pack(b"JUNK", 28, 0, 0, 0, 0)
        return _RIFF.pack(b"RIFF", riff_bytes, b"WAVE") + room + fmt + _DATA.pack(b"data", data_bytes)
    sizes = _DS64.pack(b"ds64", 28, riff_bytes, data_bytes, data_bytes // audio.frame_bytes, 0)
    return _RIFF.pack(b"RF64", _MAX32, b"WAVE") + sizes + fmt + _DATA.pack(b"data", _MAX32)


def fits(audio: AudioFormat) -> bool:
    """False where rate or channels do not fit a WAV header."""
    return audio.frame_bytes <= 0xFFFF and audio.rate_hz * audio.frame_bytes <= _MAX32
