"""What the demo records: real speech, then seeded noise, of which every stretch shows its place."""

from __future__ import annotations

import array
import math
import os
import random
import sys
import wave
from pathlib import Path

import edge

RATE_HZ = 16000
FRAME_BYTES = 2
_SEED = "edge demo"
_NOISE_SHIFT = 5  # from full scale to -35 dBFS: somebody may listen to it
_HEADER_BYTES = 44  # what Python's wave module writes before the samples


def speech() -> bytes:
    """The samples of tests/data/speech.wav, b"" where that is not: an installed package does not bring it."""
    path = Path(edge.__file__).parents[1] / "tests" / "data" / "speech.wav"
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE_HZ, 1, FRAME_BYTES):
                return file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error):
        pass
    return b""


def tone(seconds: float) -> bytes:
    """A sine of 440 Hz, where there is no speech."""
    samples = array.array("h", (round(4000 * math.sin(math.tau * 440 * n / RATE_HZ)) for n in range(RATE_HZ)))
    return _little_endian(samples) * math.ceil(seconds)


def noise(seconds: float) -> bytes:
    """Quiet noise, the same each time."""
    samples = array.array("h", random.Random(_SEED).randbytes(int(seconds * RATE_HZ) * FRAME_BYTES))
    return _little_endian(array.array("h", [sample >> _NOISE_SHIFT for sample in samples]))


def _little_endian(samples: array.array[int]) -> bytes:
    if sys.byteorder == "big":
        samples.byteswap()
    return samples.tobytes()


def write(path: Path, spoken: bytes, noise_s: float) -> None:
    """The source as a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, FRAME_BYTES, RATE_HZ, 0, "NONE", ""))
        file.writeframes(spoken + noise(noise_s))


class ReadCounter:
    """How far a file that this process has open was read: the kernel's own count, so nothing of the recorder's.

    A duplicate of its file descriptor shares the position, and outlives the recorder's.
    """

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError unless `path` is open."""
        wanted = path.resolve()
        for entry in Path("/proc/self/fd").iterdir():
            try:
                is_it = entry.readlink() == wanted
            except OSError:
                continue  # closed meanwhile
            if is_it:
                self._descriptor = os.dup(int(entry.name))
                return
        raise FileNotFoundError(f"{path} is not open")

    def frames(self) -> int:
        """Frames read so far."""
        return max(0, os.lseek(self._descriptor, 0, os.SEEK_CUR) - _HEADER_BYTES) // FRAME_BYTES

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)
