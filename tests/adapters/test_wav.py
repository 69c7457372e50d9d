"""WAV files of all kinds, tones, noise, and the pace of a microphone."""

from __future__ import annotations

import io
import math
import os
import random
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.adapters.wav import ToneSource, WavSource, parse_wav
from edge.core.packet import AudioFormat
from edge.errors import MicrophoneError

MONO = AudioFormat(16000, 1)
STEREO = AudioFormat(48000, 2)
SPEECH = Path(__file__).parents[1] / "data" / "speech.wav"
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def chunk(name: bytes, body: bytes, length: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if length is None else length) + body + bytes(len(body) % 2)


def fmt(audio: AudioFormat = MONO, code: int = 1, bits: int = 16, extension: bytes = b"") -> bytes:
    frame = audio.channels * bits // 8
    head = struct.pack("<HHIIHH", code, audio.channels, audio.rate_hz, audio.rate_hz * frame, frame, bits)
    return chunk(b"fmt ", head + extension)


def extensible(code: int) -> bytes:
    return fmt(STEREO, 0xFFFE, 16, struct.pack("<HHI", 22, 16, 3) + struct.pack("<H", code) + GUID_TAIL)


def wav(*chunks: bytes, magic: bytes = b"RIFF", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return magic + struct.pack("<I", len(body) if size is None else size) + body


def frames_of(audio: AudioFormat, count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count * audio.frame_bytes)


def everything(source: WavSource | ToneSource) -> bytes:
    """Read to the end; what came, which is whole frames in order of time."""
    data = bytearray()
    while True:
        block = source.read()
        data += block.data
        if block.ended:
            return bytes(data)


def read_file(path: Path, content: bytes, audio: AudioFormat | None = None) -> tuple[bytes, tuple[str, ...]]:
    path.write_bytes(content)
    source = WavSource(path, audio, "fast")
    info = source.open()
    try:
        return everything(source), info.notes
    finally:
        source.close()


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 1599, 1600, 1601, 16000])
def test_a_plain_file_is_read_to_the_frame(tmp_path: Path, count: int) -> None:
    sound = frames_of(MONO, count)
    assert read_file(tmp_path / "a.wav", wav(fmt(), chunk(b"data", sound)), MONO) == (sound, ())


def test_other_chunks_and_their_padding_are_skipped(tmp_path: Path) -> None:
    sound = frames_of(STEREO, 777)
    content = wav(
        chunk(b"LIST", b"odd"), extensible(1), chunk(b"fact", b"1234"), chunk(b"data", sound), chunk(b"id3 ", b"x")
    )
    assert read_file(tmp_path / "a.wav", content) == (sound, ())


@pytest.mark.parametrize("magic", [b"RF64", b"BW64"])
def test_beyond_four_gibibytes_the_size_stands_in_ds64(tmp_path: Path, magic: bytes) -> None:
    sound = frames_of(MONO, 500)
    ds64 = chunk(b"ds64", struct.pack("<QQQI", 2000, len(sound), 500, 0))
    tail = chunk(b"LIST", b"more")
    content = wav(ds64, fmt(), chunk(b"data", sound, 0xFFFFFFFF), tail, magic=magic, size=0xFFFFFFFF)
    assert read_file(tmp_path / "a.wav", content) == (sound, ())


def test_a_sparse_file_beyond_four_gibibytes_has_all_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    data_bytes = 5 << 30
    head = wav(chunk(b"ds64", struct.pack("<QQQI", 0, data_bytes, 0, 0)), fmt(), magic=b"RF64", size=0xFFFFFFFF)
    path.write_bytes(head + b"data\xff\xff\xff\xff")
    os.truncate(path, path.stat().st_size + data_bytes)
    with path.open("rb") as file:
        layout = parse_wav(file, path.stat().st_size)
    assert (layout.frames, layout.notes) == (data_bytes // 2, ())


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("magic", [b"RIFF", b"RF64"])
def test_a_streamed_file_is_read_to_its_end(tmp_path: Path, size: int, magic: bytes) -> None:
    sound = frames_of(MONO, 2000)
    content = wav(fmt(), chunk(b"data", sound, size), magic=magic, size=size)
    data, notes = read_file(tmp_path / "a.wav", content)
    assert data == sound
    assert notes == ("its header does not say how long it is: read to the end of the file",)


def test_what_ffmpeg_writes_into_a_pipe_is_read(tmp_path: Path) -> None:
    command = ["ffmpeg", "-loglevel", "error", "-i", str(SPEECH), "-f", "wav", "-c:a", "pcm_s16le", "-"]
    try:
        piped = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=True).stdout
    except FileNotFoundError:
        pytest.skip("ffmpeg is not installed")
    data, _ = read_file(tmp_path / "a.wav", piped)
    assert data == everything_of(SPEECH)


def everything_of(path: Path) -> bytes:
    source = WavSource(path, None, "fast")
    source.open()
    data = everything(source)
    source.close()
    return data


def test_a_cut_off_file_gives_what_is_there_and_says_what_is_not(tmp_path: Path) -> None:
    sound = frames_of(STEREO, 100)
    content = wav(fmt(STEREO), chunk(b"data", sound, len(sound) + 4 * 48000) + b"abc")
    data, notes = read_file(tmp_path / "a.wav", content)
    assert data == sound
    assert notes == (
        "it is cut off: 1.0 s of what its header announces are not there",
        "its last 3 bytes are no whole frame and were left out",
    )


def test_a_file_that_shrinks_while_it_is_read_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    content = wav(fmt(), chunk(b"data", frames_of(MONO, 4000)))
    path.write_bytes(content)
    source = WavSource(path, None, "fast")
    source.open()
    assert len(source.read().data) == 3200
    os.truncate(path, len(content) - 2001)
    assert len(everything(source)) == 8000 - 3200 - 2001 - 1
    source.close()


def test_the_speech_for_the_demo_is_there_and_small() -> None:
    assert WavSource(SPEECH, None, "fast").audio == MONO
    assert SPEECH.stat().st_size < 700_000


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is no WAV file"),
        (b"RIFF\0\0\0\0AVI ", "is no WAV file"),
        (wav(), "no data chunk"),
        (wav(fmt()), "no data chunk"),
        (wav(chunk(b"data", b"12")), "does not say its format before the sound"),
        (wav(chunk(b"fmt ", b"123"), chunk(b"data", b"12")), "cut-off format"),
        (wav(fmt(bits=24), chunk(b"data", b"123")), "is 24-bit, not 16-bit PCM"),
        (wav(fmt(bits=8), chunk(b"data", b"123")), "is 8-bit, not 16-bit PCM"),
        (wav(fmt(code=3, bits=32), chunk(b"data", b"1234")), "is float, not"),
        (wav(extensible(3), chunk(b"data", b"1234")), "is float, not"),
        (wav(extensible(0x1234), chunk(b"data", b"1234")), "is format 0x1234, not"),
        (wav(fmt(AudioFormat(0, 1)), chunk(b"data", b"12")), "0 Hz, 1 channels, 2 bytes a frame, which cannot be"),
        (wav(fmt(AudioFormat(16000, 0)), chunk(b"data", b"12")), "which cannot be"),
        (wav(*[chunk(b"junk", b"")] * 1001, fmt()), "in its first 1000 chunks"),
    ],
)
def test_everything_else_is_refused_in_one_line_that_names_the_conversion(
    tmp_path: Path, content: bytes, text: str
) -> None:
    path = tmp_path / "a file.wav"
    path.write_bytes(content)
    with pytest.raises(MicrophoneError) as caught:
        WavSource(path).open()
    assert text in str(caught.value)
    assert f"ffmpeg -i '{path}' -c:a pcm_s16le converted.wav" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_format_than_asked_for_is_refused_with_what_to_set(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav(fmt(STEREO), chunk(b"data", b"")))
    with pytest.raises(MicrophoneError, match=r"48000 Hz, 2 channels, not the 16000 Hz, 1.*set audio.rate = 48000 and"):
        WavSource(path, MONO).open()
    assert WavSource(path, MONO).audio == STEREO


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, text in (("absent", "No such file"), ("pipe", "is no regular file"), (".", "directory|regular")):
        with pytest.raises(MicrophoneError, match=text):
            WavSource(tmp_path / name).open()


NAMES = st.sampled_from([b"fmt ", b"data", b"ds64", b"LIST", b"\0\0\0\0"])
BODIES = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda *fields: struct.pack("<HHIIHH", *fields),
        st.sampled_from([1, 3, 0xFFFE]),
        st.integers(0, 0xFFFF),
        st.sampled_from([0, 1, 16000, 0xFFFFFFFF]),
        st.just(0),
        st.sampled_from([0, 1, 2, 4]),
        st.sampled_from([0, 8, 16, 24]),
    ),
)
LENGTHS = st.one_of(st.none(), st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]), st.integers(0, 200))
CHUNKS = st.lists(st.builds(chunk, NAMES, BODIES, LENGTHS), max_size=6)
FILES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda chunks, magic, size, cut: wav(*chunks, magic=magic, size=size)[:cut],
        CHUNKS,
        st.sampled_from([b"RIFF", b"RF64", b"BW64"]),
        st.one_of(st.none(), st.integers(0, 0xFFFFFFFF)),
        st.one_of(st.none(), st.integers(0, 300)),
    ),
    st.builds(lambda chunks, sound: wav(fmt(), *chunks, chunk(b"data", sound)), CHUNKS, st.binary(max_size=50)),
)


@settings(max_examples=1000, deadline=None)
@given(FILES)
def test_nonsense_is_either_refused_in_words_or_read_within_the_file(content: bytes) -> None:
    try:
        layout = parse_wav(io.BytesIO(content), len(content))
    except ValueError as error:
        assert type(error) is ValueError
        assert str(error)
        return
    assert layout.frames >= 0
    assert layout.offset + layout.frames * layout.audio.frame_bytes <= len(content)


# --- tone and noise --------------------------------------------------------------------------------------------------


def tone(signal: str, audio: AudioFormat, total: int, period: int = 0) -> bytes:
    source = ToneSource(signal, audio, "fast", period, total)
    source.open()
    data = everything(source)
    source.close()
    return data


def test_sample_n_of_a_tone_is_a_function_of_n_alone() -> None:
    data = tone("441", STEREO, 3 * 48000, 1234)
    samples = struct.unpack(f"<{len(data) // 2}h", data)
    amplitude = 32767 * 10 ** (-12 / 20)
    for frame in (0, 1, 100, 47999, 48000, 3 * 48000 - 1):
        exact = amplitude * math.sin(2 * math.pi * 441 * frame / 48000)
        assert abs(samples[2 * frame] - exact) <= 0.51
        assert samples[2 * frame] == samples[2 * frame + 1]
    assert max(samples) == round(amplitude)


def test_noise_can_be_made_again_by_anybody() -> None:
    expected = b"".join(random.Random(f"7:{second}").randbytes(64000) for second in range(3))
    audio = AudioFormat(16000, 2)
    assert tone("noise:7", audio, 40000, 1111) == expected[: 40000 * 4]
    assert tone("noise:8", audio, 40000, 1111) != expected[: 40000 * 4]


@pytest.mark.parametrize("signal", ["", "0", "8000", "-1", "1e3", "440.5", "²", "noise"])
def test_a_signal_that_does_not_exist_is_refused(signal: str) -> None:
    with pytest.raises(MicrophoneError, match="is no signal; give whole Hz from 1 to 7999, or tone:noise:SEED"):
        ToneSource(signal, MONO).open()


# --- pace ------------------------------------------------------------------------------------------------------------


def test_in_real_time_frames_come_when_they_exist_and_late_reads_get_everything() -> None:
    source = ToneSource("440", MONO, "realtime", 800)
    source.open()
    assert not source.can_wait
    begin = time.clock_gettime(time.CLOCK_BOOTTIME)
    blocks = [source.read() for _ in range(10)]
    took = time.clock_gettime(time.CLOCK_BOOTTIME) - begin
    assert 0.5 <= took < 0.75
    threading.Event().wait(0.5)  # who reads late
    before = time.monotonic()
    blocks += [source.read() for _ in range(10)]
    assert time.monotonic() - before < 0.2
    for number, block in enumerate(blocks):
        assert len(block.data) == 1600
        assert block.boot_s == pytest.approx(blocks[0].boot_s + number * 0.05)
        assert begin <= blocks[0].boot_s
    source.close()


def test_at_full_speed_nothing_waits() -> None:
    source = ToneSource("440", MONO, "fast", total_frames=600 * 16000)
    source.open()
    assert source.can_wait
    before = time.monotonic()
    assert len(everything(source)) == 600 * 32000
    assert time.monotonic() - before < 10.0
    source.close()


@pytest.mark.parametrize("end", ["abandon", "close"])
def test_a_waiting_read_is_ended_from_another_thread(end: str) -> None:
    source = ToneSource("440", MONO, "realtime", 16000)
    source.open()
    threading.Timer(0.1, getattr(source, end)).start()
    before = time.monotonic()
    block = source.read()
    assert time.monotonic() - before < 0.6
    assert (block.data, block.ended) == (b"", True)
    assert source.read().ended
    source.close()


def test_a_period_above_a_second_still_returns_in_time() -> None:
    source = ToneSource("440", MONO, "realtime", 48000)
    source.open()
    before = time.monotonic()
    block = source.read()
    assert 0.9 < time.monotonic() - before < 1.3
    assert (block.data, block.ended) == (b"", False)
    source.close()
