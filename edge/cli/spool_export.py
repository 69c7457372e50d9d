"""A recording as a file: WAV (RF64 beyond 4 GiB) with a cue point for each gap, or FLAC with a comment for each.

FLAC is made by the program `flac` (Debian's package, 0.2 MB): a library for it would bring numpy onto every recorder.
Its CUESHEET counts a CD's sectors and carries no text, so a gap is a Vorbis comment there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from edge.cli.spool_audio import Stretch, Walk
from edge.core.packet import AudioFormat
from edge.errors import ConfigError, EdgeError
from edge.receiver import wav

_MAX32 = 0xFFFF_FFFF
_SILENCE = bytes(1 << 20)
_FLAC_CHANNELS, _FLAC_RATE_HZ = 8, 655_350
_TAG_BYTES = 100
_SPARE_TAG_BYTES = 8192


@dataclass(slots=True)
class Written:
    """What went into a file, in frames. `gaps`: place in the file, length, cause; `is_damaged`: some of what should
    be on the card could not be read."""

    frames: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    gaps: list[tuple[int, int, str]] = field(default_factory=list)
    is_damaged: bool = False

    def add(self, stretch: Stretch) -> None:
        """`stretch` comes next."""
        if stretch.data is None:
            self.is_damaged = self.is_damaged or stretch.is_damage
            self.missing[stretch.cause] = self.missing.get(stretch.cause, 0) + stretch.frames
            if self.gaps and self.gaps[-1][2] == stretch.cause and sum(self.gaps[-1][:2]) == self.frames:
                start, frames, cause = self.gaps.pop()
                self.gaps.append((start, frames + stretch.frames, cause))
            else:
                self.gaps.append((self.frames, stretch.frames, stretch.cause))
        self.frames += stretch.frames


def export(walk: Walk, audio: AudioFormat, path: Path, tags: dict[str, str], *, is_flac: bool) -> Written:
    """Write `path`, which appears only when it is whole and durable. Raises ConfigError."""
    if path.name in ("", "-"):
        raise ConfigError(f"{str(path)!r} is no name for a file", remedy="its sizes are written last: no pipe will do")
    _check(audio, is_flac=is_flac)
    try:
        if os.path.lexists(path):
            raise ConfigError(f"{path} exists already", "it was left as it is", "give another name")
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _failure(path, error) from None
    part = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            written = _flac(walk, audio, part, tags) if is_flac else _wav(walk, audio, file)
            file.flush()
        with part.open("rb") as file:  # flac may have put another in its place
            os.fsync(file.fileno())
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _failure(path, error) from None
    finally:
        part.unlink(missing_ok=True)
    return written


def _check(audio: AudioFormat, *, is_flac: bool) -> None:
    what = f"{audio.channels} channels at {audio.rate_hz} Hz"
    if is_flac and not (audio.channels <= _FLAC_CHANNELS and audio.rate_hz <= _FLAC_RATE_HZ):
        raise ConfigError(f"{what} do not fit into a FLAC file", remedy="export it with --wav")
    if is_flac and shutil.which("flac") is None:
        raise ConfigError("--flac needs the program flac, which is not installed", "", "apt install flac, or use --wav")
    if not wav.fits(audio):
        raise ConfigError(f"{what} do not fit into a WAV file")


def _failure(path: Path, error: OSError) -> EdgeError:
    why = error.strerror or type(error).__name__
    return ConfigError(f"{path} cannot be written ({why})", "what is on the card is untouched")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- WAV -------------------------------------------------------------------------------------------------------------


def _wav(walk: Walk, audio: AudioFormat, file: IO[bytes]) -> Written:
    written = Written()
    file.seek(wav.HEADER_BYTES)
    for stretch in walk.stretches():
        written.add(stretch)
        if stretch.data is None:
            file.seek(stretch.frames * audio.frame_bytes, os.SEEK_CUR)  # silence is a hole: it takes no room
        else:
            file.write(stretch.data)
    data_bytes = written.frames * audio.frame_bytes
    behind = cues(written.gaps, audio)
    file.write(behind)
    file.truncate(wav.HEADER_BYTES + data_bytes + len(behind))
    file.seek(0)
    file.write(wav.header(audio, data_bytes, len(behind)))
    return written


def cues(gaps: list[tuple[int, int, str]], audio: AudioFormat) -> bytes:
    """The chunks "cue " and "LIST" of type "adtl": a point, a name and a length for each gap; nothing where there is
    none. A point that 32 bits cannot count (74 h at 16 kHz) is left out."""
    points, texts = [], []
    for number, (start, frames, cause) in enumerate(gaps, 1):
        if start > _MAX32:
            break
        points.append(struct.pack("<II4sIII", number, start, b"data", 0, 0, start))
        name = f"gap: {audio.seconds(frames):.3f} s ({cause})".encode() + b"\0"
        texts.append(_chunk(b"labl", struct.pack("<I", number) + name))
        texts.append(_chunk(b"ltxt", struct.pack("<II4sHHHH", number, min(frames, _MAX32), b"rgn ", 0, 0, 0, 0)))
    if not points:
        return b""
    return _chunk(b"cue ", struct.pack("<I", len(points)) + b"".join(points)) + _chunk(
        b"LIST", b"adtl" + b"".join(texts)
    )


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


# --- FLAC ------------------------------------------------------------------------------------------------------------


def _flac(walk: Walk, audio: AudioFormat, part: Path, tags: dict[str, str]) -> Written:
    """Raises ConfigError where the program fails."""
    written = Written()
    command = [
        "flac", "--silent", "--force", "--lax", "--force-raw-format", "--endian=little", "--sign=signed", "--bps=16",
        f"--channels={audio.channels}", f"--sample-rate={audio.rate_hz}",
        f"--padding={_SPARE_TAG_BYTES + _TAG_BYTES * walk.known_gaps}", "-o", str(part), "-",
    ]  # fmt: skip
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)  # noqa: S603
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                for stretch in walk.stretches():
                    written.add(stretch)
                    for piece in _bytes(stretch, audio):
                        pipe.write(piece)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        said.seek(0)
        text = said.read(1000).decode(errors="replace")
    if code:
        raise _refused("flac", code, text)
    _tag(part, {**tags, **_comments(written, audio)})
    return written


def _bytes(stretch: Stretch, audio: AudioFormat) -> Iterator[bytes | memoryview]:
    if stretch.data is not None:
        yield stretch.data
        return
    left = stretch.frames * audio.frame_bytes
    while left:
        piece = memoryview(_SILENCE)[: min(left, len(_SILENCE))]
        yield piece
        left -= len(piece)


def _comments(written: Written, audio: AudioFormat) -> dict[str, str]:
    return {
        f"GAP{number:04d}": f"{audio.seconds(start):.3f} s: {audio.seconds(frames):.3f} s missing ({cause})"
        for number, (start, frames, cause) in enumerate(written.gaps, 1)
    }


def _tag(part: Path, tags: dict[str, str]) -> None:
    lines = "".join(f"{name}={' '.join(text.split())}\n" for name, text in tags.items())
    run = subprocess.run(  # noqa: S603
        ["metaflac", "--no-utf8-convert", "--import-tags-from=-", str(part)],  # noqa: S607
        input=lines.encode(),
        capture_output=True,
        check=False,
    )
    if run.returncode:
        raise _refused("metaflac", run.returncode, run.stderr.decode(errors="replace"))


def _refused(program: str, code: int, text: str) -> ConfigError:
    why = " ".join(text.split())[:200] or f"exit code {code}"
    return ConfigError(f"{program} failed ({why})", "what is on the card is untouched", "use --wav")
