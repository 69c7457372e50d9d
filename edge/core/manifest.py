"""What a recording on the card is: written before its first packet counts as safe, then only at its milestones."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import UUID

from edge.core.packet import AudioFormat

VERSION = 1
MAX_PACKET_FRAMES = 0xFFFF


class CardState(Enum):
    """How far a recording on the card has come; it only goes forward."""

    RECORDING = "recording"
    SEALED = "sealed"
    DELIVERED = "delivered"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One recording. `settings` go into POST start; `has_audio` False: only the account is on the card.

    number        counts the recordings of this device, so that the older one is known without a clock
    predecessor   the recording that this one goes on with, after a crash or a power cut; else empty
    ended_by      "" while it is recorded; "stop", "limit", "full", "source", "crash", "power"
    delivered_utc_s  when it was delivered, where a trusted clock knew; 0.0 otherwise
    """

    recording_id: str
    device_id: str
    microphone: str
    identity: str
    audio: AudioFormat
    packet_frames: int
    settings: dict[str, Any]
    number: int = 0
    predecessor: str = ""
    has_audio: bool = True
    state: CardState = CardState.RECORDING
    ended_by: str = ""
    delivered_utc_s: float = 0.0


def encode(manifest: Manifest) -> bytes:
    """A JSON file for people, with a checksum over itself."""
    value: dict[str, Any] = {
        "version": VERSION,
        "recording": manifest.recording_id,
        "device": manifest.device_id,
        "microphone": manifest.microphone,
        "identity": manifest.identity,
        "rate": manifest.audio.rate_hz,
        "channels": manifest.audio.channels,
        "packet_frames": manifest.packet_frames,
        "settings": manifest.settings,
        "number": manifest.number,
        "predecessor": manifest.predecessor,
        "has_audio": manifest.has_audio,
        "state": manifest.state.value,
        "ended_by": manifest.ended_by,
        "delivered_utc_s": manifest.delivered_utc_s,
    }
    return json.dumps({**value, "crc32": _check(value)}, indent=1).encode() + b"\n"


def decode(data: bytes) -> Manifest:
    """The manifest that `data` holds. Raises ValueError with what is wrong, in words for a person."""
    value = json.loads(data)
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise ValueError(f"version {version} is not {VERSION}")
    if value.pop("crc32", None) != _check(value):
        raise ValueError("its checksum does not fit")
    try:
        audio = AudioFormat(int(value["rate"]), int(value["channels"]))
        manifest = Manifest(
            str(UUID(value["recording"])),
            str(value["device"]),
            str(value["microphone"]),
            str(value["identity"]),
            audio,
            int(value["packet_frames"]),
            dict(value["settings"]),
            int(value["number"]),
            str(value["predecessor"]),
            bool(value["has_audio"]),
            CardState(value["state"]),
            str(value["ended_by"]),
            float(value["delivered_utc_s"]),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"a key is missing or of the wrong kind ({error})") from None
    if min(audio.rate_hz, audio.channels) < 1 or not 0 < manifest.packet_frames <= MAX_PACKET_FRAMES:
        raise ValueError("a number in it makes no sense")
    return manifest


def _check(value: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True, separators=(',', ':')).encode()):08x}"
