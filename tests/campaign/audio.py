"""Audio that shows its position: frame n is a function of n and a seed, and no stretch of it occurs twice."""

from __future__ import annotations

import hashlib
import wave
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SAMPLE_BYTES = 2
_BLOCK = 4096


@dataclass(frozen=True)
class Source:
    """What the microphone would have heard: `frames` frames of 16-bit noise.

    The samples are the output of a hash over (seed, block number), so any part can be made without the rest.
    """

    seed: str
    frames: int
    rate: int = 16000
    channels: int = 1
    packet_ms: int = 100

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame."""
        return self.channels * SAMPLE_BYTES

    @property
    def packet_frames(self) -> int:
        """Frames of one whole packet."""
        return self.rate * self.packet_ms // 1000

    @property
    def packets(self) -> int:
        """How many packets it makes, the last one perhaps short."""
        return -(-self.frames // self.packet_frames)

    @cached_property
    def pcm(self) -> bytes:
        """All of it, s16le, channels interleaved."""
        size = self.frames * self.frame_bytes
        blocks = (hashlib.shake_128(f"{self.seed}/{n}".encode()).digest(_BLOCK) for n in range(-(-size // _BLOCK)))
        return b"".join(blocks)[:size]

    def at(self, frame: int, frames: int) -> bytes:
        """`frames` frames from `frame` on."""
        return self.pcm[frame * self.frame_bytes : (frame + frames) * self.frame_bytes]

    def seconds(self, frames: int) -> float:
        """How long `frames` frames last."""
        return frames / self.rate

    def write(self, path: Path) -> None:
        """As a WAV file."""
        with wave.open(str(path), "wb") as file:
            file.setnchannels(self.channels)
            file.setsampwidth(SAMPLE_BYTES)
            file.setframerate(self.rate)
            file.writeframes(self.pcm)
