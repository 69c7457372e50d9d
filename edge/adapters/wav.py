"""Sound without a microphone: a WAV file, a tone, seeded noise; at the pace of a microphone or as fast as it is read.

At the pace of a microphone frame n exists from `start + n / rate` on, by the boot clock and without drift; who reads
late gets everything at once, since nothing here can overflow. The clock starts at the first read. At full speed the
stamps keep counting `n / rate`, ahead of the clock. `can_wait` is true at full speed only: in real time the recorder
must treat these as the microphone that they stand for.
"""

from __future__ import annotations

import math
import os
import random
import shlex
import stat
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from edge.core.packet import SAMPLE_BYTES, AudioFormat
from edge.errors import MicrophoneError
from edge.runtime.ports import Block, SourceInfo

Pace = Literal["realtime", "fast"]

_READ_S = 1.0  # a read returns after this at the latest
_AMPLITUDE = 32767 * 10 ** (-12 / 20)  # -12 dBFS


# --- pace ------------------------------------------------------------------------------------------------------------


class _Paced:
    """What all of these share: positions, pace, the end. Implements `Source` but for what the subclasses add.

    `open` and `read` belong to one thread. `abandon` and `close` may be called from any: the read under way and all
    later ones then return empty and `ended`.
    """

    def __init__(self, pace: Pace, period_frames: int) -> None:
        """`period_frames` 0 stands for 100 ms."""
        self._pace = pace
        self._asked_period = period_frames
        self._period = 0
        self._audio: AudioFormat | None = None  # as long as it is open
        self._position = 0
        self._total: int | None = None
        self._start_s: float | None = None
        self._was_closed = False
        self._abandoned = threading.Event()
        self._lock = threading.Lock()

    @property
    def can_wait(self) -> bool:
        """True at full speed."""
        return self._pace == "fast"

    @property
    def can_return(self) -> bool:
        """What stands in a file is not gone for a while."""
        return False

    def read(self) -> Block:
        """Return the next period as soon as its last frame exists; a shorter one at the end. Raises MicrophoneError."""
        audio = self._audio
        if self._abandoned.is_set():
            return Block(b"", _boot_s(), ended=True)
        if audio is None:
            raise MicrophoneError("the source is not open")
        if self._start_s is None:
            self._start_s = _boot_s()
        first, frames = self._position, self._period
        if self._total is not None:
            frames = min(frames, self._total - first)
        boot_s = self._start_s + first / audio.rate_hz
        if not self.can_wait and not self._wait_until(boot_s + frames / audio.rate_hz):
            return Block(b"", _boot_s(), ended=self._abandoned.is_set())
        with self._lock:
            if self._audio is None:
                return Block(b"", _boot_s(), ended=True)
            data = self._frames(first, frames)
        given = len(data) // audio.frame_bytes
        self._position += given
        return Block(data, boot_s, ended=self._position == self._total or given < frames)

    def _wait_until(self, due_s: float) -> bool:
        """Return False when cut short, or when a second was not enough."""
        now_s = _boot_s()
        end_s = now_s + _READ_S
        while now_s < due_s:
            if now_s >= end_s or self._abandoned.wait(min(due_s, end_s) - now_s):
                return False
            now_s = _boot_s()
        return True

    def abandon(self) -> None:
        """End the read that is under way, and all later ones."""
        self._abandoned.set()

    def close(self) -> None:
        """Let it go; ends a read that is under way."""
        self._abandoned.set()
        with self._lock:
            self._was_closed = True
            self._audio = None
            self._let_go()

    def _begin(self, audio: AudioFormat, total: int | None) -> int:
        """Be open: from now on there is sound. Returns the period in frames."""
        if self._was_closed:
            self._abandoned.clear()
        self._audio, self._total = audio, total
        self._position, self._start_s = 0, None
        self._period = self._asked_period or max(1, audio.rate_hz // 10)
        return self._period

    def _frames(self, first: int, frames: int) -> bytes | memoryview:
        raise NotImplementedError

    def _let_go(self) -> None:
        """Release what `open` took."""


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# --- WAV -------------------------------------------------------------------------------------------------------------

_UNKNOWN = 0xFFFF_FFFF  # a size that stands in "ds64", or that a streaming writer never came back to fill in
_PCM, _EXTENSIBLE = 0x0001, 0xFFFE
_FORMAT_NAMES = {0x0003: "float", 0x0006: "A-law", 0x0007: "mu-law", 0x0011: "IMA ADPCM", 0x0055: "MP3"}
_PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")
_MAX_CHUNKS = 1000
_FMT_BYTES = 40


@dataclass(frozen=True, slots=True)
class WavLayout:
    """Where in a WAV file the sound is: `frames` frames from byte `offset` on."""

    audio: AudioFormat
    offset: int
    frames: int
    notes: tuple[str, ...] = ()


def parse_wav(file: BinaryIO, size: int) -> WavLayout:
    """Read the headers of a seekable WAV file of `size` bytes (RIFF, RF64 or BW64; 16-bit PCM).

    Raises ValueError, in words for a person, for everything else.
    """
    start = file.read(12)
    if len(start) < 12 or start[:4] not in (b"RIFF", b"RF64", b"BW64") or start[8:] != b"WAVE":
        raise ValueError("is no WAV file")
    riff_bytes = int.from_bytes(start[4:8], "little")
    audio: AudioFormat | None = None
    long_data_bytes = 0
    at = 12
    for _ in range(_MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("has no sound in it (no data chunk)")
        name, length = head[:4], int.from_bytes(head[4:], "little")
        at += 8
        if name == b"data":
            if audio is None:
                raise ValueError("does not say its format before the sound")
            if length == _UNKNOWN and start[:4] != b"RIFF":
                length = long_data_bytes
            is_empty = length == 0 and riff_bytes + 8 == size
            return _layout(audio, at, length, size - at, is_streamed=length in (0, _UNKNOWN) and not is_empty)
        if name == b"fmt ":
            audio = _parse_format(file.read(min(length, _FMT_BYTES)))
        elif name == b"ds64":
            long_data_bytes = int.from_bytes(file.read(min(length, 16))[8:16], "little")
        at += length + length % 2
    raise ValueError(f"has no sound in its first {_MAX_CHUNKS} chunks")


def _parse_format(chunk: bytes) -> AudioFormat:
    if len(chunk) < 16:
        raise ValueError("has a cut-off format chunk")
    code, channels, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", chunk)
    if code == _EXTENSIBLE and len(chunk) == _FMT_BYTES:
        guid = chunk[24:40]
        code = _PCM if guid == _PCM_GUID else int.from_bytes(guid[:2], "little")
    if (code, bits) != (_PCM, 16):
        kind = f"{bits}-bit" if code == _PCM else _FORMAT_NAMES.get(code, f"format {code:#06x}")
        raise ValueError(f"is {kind}, not 16-bit PCM")
    if not (1 <= rate_hz <= 768_000 and 1 <= channels <= 64) or frame_bytes != channels * SAMPLE_BYTES:
        raise ValueError(f"says {rate_hz} Hz, {channels} channels, {frame_bytes} bytes a frame, which cannot be")
    return AudioFormat(rate_hz, channels)


def _layout(audio: AudioFormat, offset: int, length: int, there: int, *, is_streamed: bool) -> WavLayout:
    notes = []
    if is_streamed:
        notes.append("its header does not say how long it is: read to the end of the file")
        length = there
    if length > there:
        missing = (length - there) / audio.frame_bytes / audio.rate_hz
        notes.append(f"it is cut off: {missing:.1f} s of what its header announces are not there")
        length = there
    frames, rest = divmod(length, audio.frame_bytes)
    if rest:
        notes.append(f"its last {rest} bytes are no whole frame and were left out")
    return WavLayout(audio, offset, frames, tuple(notes))


class WavSource(_Paced):
    """The frames of a WAV file, then the end; implements `Source`."""

    def __init__(
        self, path: Path | str, audio: AudioFormat | None = None, pace: Pace = "realtime", period_frames: int = 0
    ) -> None:
        """`audio` None takes what the file has; otherwise another format is refused."""
        super().__init__(pace, period_frames)
        self._path = Path(path)
        self._wanted = audio
        self._file: BinaryIO | None = None

    @property
    def audio(self) -> AudioFormat:
        """What the file has, read from its headers, open or not. Raises MicrophoneError."""
        file, layout = self._opened()
        file.close()
        return layout.audio

    def open(self) -> SourceInfo:
        """Read the headers. Raises MicrophoneError for everything that is not a WAV file of the right format."""
        file, layout = self._opened()
        asked, audio = self._wanted, layout.audio
        if asked is not None and asked != audio:
            file.close()
            raise MicrophoneError(
                f"{self._path} has {audio.rate_hz} Hz, {audio.channels} channels, not the {asked.rate_hz} Hz, "
                f"{asked.channels} channels that were asked for",
                remedy=f"set audio.rate = {audio.rate_hz} and audio.channels = {audio.channels}",
            )
        self._let_go()
        self._file = file
        period = self._begin(audio, layout.frames)
        return SourceInfo(f"wav:{self._path}", audio, period, layout.notes)

    def _opened(self) -> tuple[BinaryIO, WavLayout]:
        """Return the file, at its first frame, and what is in it."""
        file: BinaryIO | None = None
        try:
            # It stays open (SIM115); a pipe without a writer must not hang (O_NONBLOCK).
            file = os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0)
            layout = parse_wav(file, _regular_size(file))
            file.seek(layout.offset)
        except (OSError, ValueError) as error:
            if file is not None:
                file.close()
            raise self._refusal(error) from None
        return file, layout

    def _refusal(self, error: OSError | ValueError) -> MicrophoneError:
        if isinstance(error, OSError):
            why = f"{self._path} cannot be read: {error.strerror or error}"
            return MicrophoneError(why, "nothing is recorded", "check audio.source")
        remedy = f"ffmpeg -i {shlex.quote(str(self._path))} -c:a pcm_s16le converted.wav makes a file that can be used"
        return MicrophoneError(f"{self._path} {error}", "nothing is recorded", remedy)

    def _frames(self, first: int, frames: int) -> bytes:
        assert self._file is not None
        assert self._audio is not None
        wanted = frames * self._audio.frame_bytes
        try:
            data = self._file.read(wanted)
        except OSError as error:
            raise self._refusal(error) from None
        return data[: len(data) - len(data) % self._audio.frame_bytes]

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _regular_size(file: BinaryIO) -> int:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("is no regular file")
    return status.st_size


# --- tone and noise --------------------------------------------------------------------------------------------------


class ToneSource(_Paced):
    """An endless signal (or `total_frames` of it) that depends on nothing but the position; implements `Source`.

    `"440"`        a sine of 440 Hz (whole numbers below half the rate) at -12 dBFS, the same in all channels
    `"noise:SEED"` full-scale noise; second k of it is `random.Random(f"{SEED}:{k}").randbytes(...)`, so that every
                   stretch shows its position and anybody can make it again
    """

    def __init__(
        self,
        signal: str,
        audio: AudioFormat,
        pace: Pace = "realtime",
        period_frames: int = 0,
        total_frames: int | None = None,
    ) -> None:
        super().__init__(pace, period_frames)
        self._signal = signal
        self._wanted = audio
        self._frames_in_all = total_frames
        self._is_noise = signal.startswith("noise:")
        self._second = -1  # the one that `_cache` holds; a sine repeats itself every second
        self._cache = memoryview(b"")

    def open(self) -> SourceInfo:
        """Begin at position 0. Raises MicrophoneError for a signal that does not exist."""
        if not self._is_noise:
            hz = int(self._signal) if self._signal.isascii() and self._signal.isdecimal() else 0
            if not 0 < hz < self._wanted.rate_hz / 2:
                raise MicrophoneError(
                    f"tone:{self._signal} is no signal",
                    remedy=f"give whole Hz from 1 to {(self._wanted.rate_hz - 1) // 2}, or tone:noise:SEED",
                )
            self._cache = memoryview(_sine(hz, self._wanted))
        period = self._begin(self._wanted, self._frames_in_all)
        return SourceInfo(f"tone:{self._signal}", self._wanted, period)

    def _frames(self, first: int, frames: int) -> bytes | memoryview:
        rate_hz, frame_bytes = self._wanted.rate_hz, self._wanted.frame_bytes
        parts: list[memoryview] = []
        while frames:
            second, offset = divmod(first, rate_hz)
            count = min(frames, rate_hz - offset)
            if self._is_noise and second != self._second:
                seed = self._signal.removeprefix("noise:")
                generator = random.Random(f"{seed}:{second}")
                self._cache = memoryview(generator.randbytes(rate_hz * frame_bytes))
                self._second = second
            parts.append(self._cache[offset * frame_bytes : (offset + count) * frame_bytes])
            first, frames = first + count, frames - count
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _sine(hz: int, audio: AudioFormat) -> bytes:
    """One second of it, which is a whole number of waves."""
    step = math.tau / audio.rate_hz
    # The phase is reduced as an integer, so that it is as exact at the end as at the beginning.
    phases = (step * (frame * hz % audio.rate_hz) for frame in range(audio.rate_hz))
    return b"".join(struct.pack("<h", round(_AMPLITUDE * math.sin(phase))) * audio.channels for phase in phases)
