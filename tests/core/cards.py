"""Packets, segments and journals for the tests of what is on the card."""

from __future__ import annotations

from edge.core.manifest import Manifest
from edge.core.packet import AudioFormat, encode_header
from edge.core.segment import CardPacket, SegmentHeader

AUDIO = AudioFormat(16000, 1)
RECORDING = "5f0c2c1e-8c0e-4d0a-9a53-0123456789ab"


def header(
    first_seq: int = 1, position: int = 0, offset: int = 0, *, index: int = 0, packet_frames: int = 8, nonce: int = 7
) -> SegmentHeader:
    return SegmentHeader(RECORDING, index, first_seq, position, offset, AUDIO, packet_frames, nonce)


def packet(seq: int, frames: int = 8, position: int | None = None, **fields: int) -> CardPacket:
    """Packet `seq` with a content of its own."""
    payload = b"".join(((seq * 31 + i) % 65536).to_bytes(2, "little") for i in range(frames))
    at = (seq - 1) * frames if position is None else position
    wire = encode_header(seq, 1.0e12 + at / 16, frames, AUDIO) + payload
    return CardPacket(wire, at, **{"boot_us": at * 1000 // 16, **fields})


def meta(packet_frames: int = 8, recording_id: str = RECORDING, **fields: object) -> Manifest:
    values: dict[str, object] = {
        "recording_id": recording_id,
        "device_id": "device",
        "microphone": "USB microphone",
        "identity": "usb-1",
        "audio": AUDIO,
        "packet_frames": packet_frames,
        "settings": {"agent": "a", "event": "e"},
        **fields,
    }
    return Manifest(**values)  # type: ignore[arg-type]
