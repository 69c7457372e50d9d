"""From real libasound to the received WAV: seeded noise played into PulseAudio must come out bit-exact.

The check reads the WAV with the standard library and knows the noise; it does not ask the recorder or the receiver.
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

PROBE_FRAMES = 64
LEAD_S = 3.0  # silence before the noise, while player and recorder settle
TAIL_S = 3.0  # and behind it, so that its end is inside


def longest_exact(heard: bytes, played: bytes, frame_bytes: int, lost_at_start: int) -> int:
    """Frames of the longest stretch of `played` that stands in `heard` as it is, looked for from near its start."""
    probe_at = lost_at_start * frame_bytes
    at = heard.find(played[probe_at : probe_at + PROBE_FRAMES * frame_bytes])
    if at < 0:
        return 0
    begin = 0
    while begin < probe_at and heard[at - begin - 1] == played[probe_at - begin - 1]:
        begin += 1
    end = len(played) - probe_at
    for step in range(0, end, 4096):
        piece = played[probe_at + step : probe_at + step + 4096]
        if heard[at + step : at + step + len(piece)] != piece:
            end = step + next(i for i, byte in enumerate(piece) if heard[at + step + i] != byte)
            break
    return (begin + end) // frame_bytes


@pytest.mark.pulse
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (48000, 2)])
@pytest.mark.parametrize("seconds", [5, pytest.param(62, marks=pytest.mark.long)])
async def test_noise_through_alsa_stands_bit_exact_in_the_received_wav(
    rate: int, channels: int, seconds: int, tmp_path: Path
) -> None:
    played = random.Random(rate).randbytes(seconds * rate * channels * 2)
    noise = tmp_path / "noise.raw"
    noise.write_bytes(played)
    config = tmp_path / "edge.toml"
    config.write_text(f'[audio]\nsource = "alsa:{DEVICE}"\nrate = {rate}\nchannels = {channels}\n')
    out = tmp_path / "received"
    edge = [sys.executable, "-m", "edge"]
    receiver = Child("receive", [*edge, "receive", "--port", "0", "--out", str(out)])
    with PulseMicrophone(rate, channels) as microphone:
        async with receiver:
            line = await receiver.wait_line(lambda line: line.startswith("listening on "), 20)
            recorder = Child(
                "record",
                [
                    *edge, "record", "--config", str(config), "--server", line.split()[-1],
                    "--token-file", str(out / "token"), "--state", str(tmp_path / "state"),
                    "--seconds", str(seconds + LEAD_S + TAIL_S), "--json",
                ],
                env=microphone.environment,
            )  # fmt: skip
            async with recorder:
                async with asyncio.timeout(60), recorder._news:  # on a loaded machine it starts late
                    await recorder._news.wait_for(lambda: any(" recording " in line for line in recorder.stderr))
                player = microphone.play(noise, lead_s=LEAD_S)
                assert await recorder.wait(seconds + 60) == 0, recorder.tail()
                assert await asyncio.to_thread(player.wait, 10) == 0
                account = json.loads(recorder.stdout[-1])
            frames = round((seconds + LEAD_S + TAIL_S) * rate)
            assert account["expected"] == account["delivered"] == frames
            assert account["lost"] == {}
            with wave.open(str(out / account["recording"] / "audio.wav")) as received:
                assert (received.getframerate(), received.getnchannels()) == (rate, channels)
                assert received.getnframes() == frames
                heard = received.readframes(frames)
    exact = max(longest_exact(heard, played, channels * 2, late * rate // 5) for late in (1, 5, 10))
    print(f"{rate} Hz x {channels}: {exact / rate:.4f} s of {seconds} s stand bit-exact in the WAV")
    assert exact / rate >= (59.9 if seconds > 60 else seconds - 1.5)
