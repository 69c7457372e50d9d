"""Packets at real time, for the clients written in Python."""

from __future__ import annotations

import json
import struct
import time

PACKET_S = 0.1
_FRAMES = 1600
INIT = json.dumps(
    {
        "type": "init",
        "supports_pcm": True,
        "format": "pcm16",
        "sample_rate": 16000,
        "channels": 1,
        "frame_duration_ms": 100,
        "frame_samples": _FRAMES,
        "next_seq": 1,
    }
)


def packet(seq: int) -> bytes:
    """One PCM1 packet."""
    fields = (0x314D4350, seq, 1e3 * time.time(), _FRAMES, 100, 16000, 1, 1, 2 * _FRAMES)
    return struct.pack("<IIdHHIHHI", *fields) + bytes(2 * _FRAMES)
