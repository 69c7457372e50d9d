"""What every `Source` keeps, whichever it is: the contract in edge/runtime/ports.py."""

from __future__ import annotations

import time
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.adapters.alsa import AlsaSource
from edge.adapters.wav import ToneSource, WavSource
from edge.core.packet import AudioFormat
from edge.errors import MicrophoneError
from edge.runtime.ports import Source

MONO = AudioFormat(16000, 1)
STEREO = AudioFormat(48000, 2)
Make = Callable[[AudioFormat], Source]
CASES = ["wav-realtime", "wav-fast", "tone", "noise", pytest.param("alsa", marks=pytest.mark.pulse)]


@pytest.fixture(params=CASES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a source, not yet open, of three seconds where it has an end."""

    def wav(audio: AudioFormat) -> Path:
        path = tmp_path / "three.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(audio.channels)
            file.setsampwidth(2)
            file.setframerate(audio.rate_hz)
            file.writeframes(bytes(3 * audio.rate_hz * audio.frame_bytes - 10 * audio.frame_bytes))
        return path

    def alsa(audio: AudioFormat) -> Source:
        microphone = request.getfixturevalue("pulse")(audio.rate_hz, audio.channels)
        return AlsaSource(microphone.device, audio)

    makers: dict[str, Make] = {
        "wav-realtime": lambda audio: WavSource(wav(audio), audio, "realtime"),
        "wav-fast": lambda audio: WavSource(wav(audio), None, "fast"),
        "tone": lambda audio: ToneSource("440", audio, "realtime"),
        "noise": lambda audio: ToneSource("noise:1", audio, "fast"),
        "alsa": alsa,
    }
    return makers[request.param]


@pytest.mark.parametrize("audio", [MONO, STEREO], ids=["mono", "stereo"])
def test_three_seconds_keep_the_contract(make: Make, audio: AudioFormat) -> None:
    source = make(audio)
    info = source.open()
    assert info.audio == audio
    assert 0 < info.period_frames <= audio.rate_hz // 10
    assert info.name.split(":")[0] in ("alsa", "wav", "tone")
    frames, stamps, ends = 0, [], 0
    until = time.monotonic() + 6.0
    while frames < 3 * audio.rate_hz and time.monotonic() < until and not ends:
        before = time.monotonic()
        block = source.read()
        assert time.monotonic() - before < 1.3
        assert len(block.data) % audio.frame_bytes == 0
        assert (block.lost_frames, block.cause) == (0, "")
        if block.data:
            assert len(block.data) <= info.period_frames * audio.frame_bytes
            frames += len(block.data) // audio.frame_bytes
            stamps.append(block.boot_s)
        ends += block.ended
    assert frames >= 3 * audio.rate_hz - 10
    assert stamps == sorted(stamps)
    assert stamps[-1] - stamps[0] == pytest.approx(3.0, abs=0.3)
    if ends:
        after = source.read()
        assert (bytes(after.data), after.ended) == (b"", True)
    source.close()


def test_it_is_closed_twice_and_without_open_and_opened_again(make: Make) -> None:
    source = make(MONO)
    with pytest.raises(MicrophoneError):
        source.read()
    source.close()
    source.open()
    source.close()
    source.close()
    ended = source.read()
    assert (bytes(ended.data), ended.ended) == (b"", True)
    source.open()
    until = time.monotonic() + 4.0
    while not source.read().data:
        assert time.monotonic() < until
    source.close()


def test_abandoned_before_it_was_opened_it_ends_at_once(make: Make) -> None:
    source = make(MONO)
    source.abandon()  # type: ignore[attr-defined]
    source.open()
    assert source.read().ended
    source.close()
