"""A microphone that goes away in the middle of a recording and comes back, from real libasound to the received WAV.

Noise plays through the whole absence, so it tells to the frame how long that was. The check knows the noise; it asks
neither the recorder nor the receiver where it should stand.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import wave
from pathlib import Path

import pytest

from tests.rig.process import Child
from tests.rig.pulse import DEVICE, PulseMicrophone

RATE = 16000
SECONDS = 14
OUTAGE_S = 2.0
PROBE = 64  # bytes that occur once
# Below this FrameClock takes what a plugin hides for jitter: 0.1 or 22 ms were seen, as PulseAudio mixed the player in.
SLACK_S = 0.25
BOUND_S = 30.0


async def said(child: Child, text: str) -> None:
    """Wait until it said so on stderr."""
    async with asyncio.timeout(BOUND_S):
        while not any(text in line for line in child.stderr):
            await asyncio.sleep(0.02)


def stretches(heard: bytes, noise: bytes) -> list[tuple[int, int, int]]:
    """Where in `heard`, from where in `noise`, and how long, in bytes: all that stands there to the last bit."""
    found = []
    at = 0
    while at + PROBE <= len(heard):
        source = noise.find(heard[at : at + PROBE])
        if source < 0:
            at += PROBE
            continue
        while at and source and heard[at - 1] == noise[source - 1]:
            at, source = at - 1, source - 1
        length = PROBE
        while heard[at + length : at + length + 1] == noise[source + length : source + length + 1] != b"":
            length += 1
        found.append((at, source, length))
        at += length
    return found


@pytest.mark.pulse
async def test_a_recording_goes_on_as_a_gap_and_what_follows_stands_in_its_place(tmp_path: Path) -> None:
    noise = random.Random(7).randbytes(2 * RATE * (SECONDS + 30))
    file = tmp_path / "noise.raw"
    file.write_bytes(noise)
    out = tmp_path / "received"
    edge = [sys.executable, "-m", "edge"]
    receiver = Child("receive", [*edge, "receive", "--port", "0", "--out", str(out)])
    with PulseMicrophone(RATE, 1) as microphone:
        async with receiver:
            line = await receiver.wait_line(lambda line: line.startswith("listening on "), BOUND_S)
            recorder = Child(
                "record",
                [
                    *edge, "record", "--source", f"alsa:{DEVICE}", "--server", line.split()[-1],
                    "--token-file", str(out / "token"), "--state", str(tmp_path / "state"),
                    "--seconds", str(SECONDS), "--json",
                ],
                env=microphone.environment,
            )  # fmt: skip
            async with recorder:
                await said(recorder, f"from alsa:{DEVICE}")
                microphone.play(file)
                await asyncio.sleep(5.0)  # of noise, before
                microphone.unplug()
                await said(recorder, "the microphone is gone: the recording goes on as a gap; plug it in again (")
                await asyncio.sleep(OUTAGE_S)  # the outage itself
                microphone.plug_in()
                await said(recorder, "the microphone is back after ")
                assert await recorder.wait(SECONDS + BOUND_S) == 4, recorder.tail()
                account = json.loads(recorder.stdout[-1])
    frames, lost = SECONDS * RATE, account["lost"]["microphone"]
    assert account["lost"] == {"microphone": lost}
    assert (account["expected"], account["delivered"]) == (frames, frames - lost)
    assert OUTAGE_S < lost / RATE < OUTAGE_S + 6.0
    with wave.open(str(out / account["recording"] / "audio.wav")) as received:
        assert received.getnframes() == frames
        heard = received.readframes(frames)
    before, after = (piece for piece in stretches(heard, noise) if piece[2] > RATE)
    assert before[0] % 2 == before[1] % 2 == after[0] % 2 == after[1] % 2 == 0
    assert after[2] == len(heard) - after[0]  # to the end
    gap = heard[before[0] + before[2] : after[0]]
    off_s = ((after[0] - after[1]) - (before[0] - before[1])) / 2 / RATE
    print(f"gap of {lost / RATE:.4f} s; what follows it stands {1000 * off_s:+.2f} ms off")
    assert len(gap) // 2 == pytest.approx(lost, abs=RATE // 10)  # PulseAudio begins with a moment of silence
    assert not any(gap)
    assert abs(off_s) < SLACK_S


@pytest.mark.pulse
async def test_a_fallback_records_where_the_microphone_is_absent_and_that_is_said(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(f'[audio]\nsource = "alsa:absent"\nfallback = "alsa:{DEVICE}"\n')
    command = [sys.executable, "-m", "edge", "record", "--config", str(config), "--state", str(tmp_path / "state")]
    with PulseMicrophone(RATE, 1) as microphone:
        recorder = Child(
            "record",
            [*command, "--server", "http://127.0.0.1:9", "--seconds", "1", "--drain-timeout", "0.1", "--json"],
            env=microphone.environment,
        )
        async with recorder:
            assert await recorder.wait(BOUND_S) == 3, recorder.tail()
    account = json.loads(recorder.stdout[-1])
    assert (account["expected"], account["lost"]) == (RATE, {})
    text = "\n".join(recorder.stderr)
    assert "microphone absent cannot be opened: No such file or directory; alsa:usbmic records until the next" in text
    assert f"from alsa:{DEVICE}" in text
