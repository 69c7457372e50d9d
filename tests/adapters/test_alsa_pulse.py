"""AlsaSource through the real libasound, against a private PulseAudio."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from edge.adapters.alsa import AlsaSource
from edge.core.packet import AudioFormat
from edge.errors import MicrophoneError
from tests.rig.pulse import DEVICE, PulseMicrophone

pytestmark = pytest.mark.pulse

MakePulse = Callable[[int, int], PulseMicrophone]


def boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Heard:
    """All that a source gave, in order."""

    audio: AudioFormat
    data: bytearray = field(default_factory=bytearray)
    stamps: list[float] = field(default_factory=list)
    lost: int = 0
    longest_read_s: float = 0.0

    @property
    def frames(self) -> int:
        return len(self.data) // self.audio.frame_bytes

    @property
    def position(self) -> int:
        return self.frames + self.lost

    def take(self, source: AlsaSource) -> None:
        before = time.monotonic()
        block = source.read()
        self.longest_read_s = max(self.longest_read_s, time.monotonic() - before)
        assert len(block.data) % self.audio.frame_bytes == 0
        assert not block.ended
        self.lost += block.lost_frames
        assert block.cause == ("xrun" if block.lost_frames else "")
        if block.data:
            self.data += block.data
            self.stamps.append(block.boot_s)

    def go_on(self, source: AlsaSource) -> NoReturn:
        while True:
            self.take(source)


def exact_frames(heard: Heard, played: bytes) -> int:
    """The longest stretch of whole frames that came through bit-exact, up to the last frame played."""
    frame_bytes = heard.audio.frame_bytes
    probe = played[-64 * frame_bytes :]
    end = bytes(heard.data).find(probe)
    assert end >= 0, "the end of what was played never arrived"
    assert end % frame_bytes == 0, "frames are torn"
    end += len(probe)
    there, asked = memoryview(heard.data)[:end], memoryview(played)
    count = min(len(there), len(asked)) // frame_bytes
    low, high = 0, count
    while low < high:  # the longest equal suffix
        middle = (low + high + 1) // 2
        if there[end - middle * frame_bytes :] == asked[len(asked) - middle * frame_bytes :]:
            low = middle
        else:
            high = middle - 1
    return low


def check_exactness(pulse: MakePulse, rate: int, channels: int, seconds: int, tmp_path: Path) -> None:
    microphone = pulse(rate, channels)
    audio = AudioFormat(rate, channels)
    noise = random.Random(rate).randbytes(seconds * rate * audio.frame_bytes)
    raw = tmp_path / "noise.raw"
    raw.write_bytes(noise)
    source = AlsaSource(microphone.device, audio)
    info = source.open()
    assert info.audio == audio
    assert info.period_frames == rate // 10
    assert info.notes == ()
    heard = Heard(audio)
    try:
        while not heard.frames:
            heard.take(source)
        player = microphone.play(raw)
        while player.poll() is None:
            heard.take(source)
        tail = heard.frames + rate
        while heard.frames < tail:
            heard.take(source)
        age_s = boot_s() - heard.stamps[-1]
    finally:
        source.close()
    assert heard.lost == 0
    exact = exact_frames(heard, noise)
    print(f"{rate} Hz x {channels}: {exact / rate:.4f} s of {seconds} s exact, {heard.longest_read_s:.3f} s a read")
    assert exact == seconds * rate
    assert heard.longest_read_s < 1.3
    assert heard.stamps == sorted(heard.stamps)
    assert age_s == pytest.approx(0.1, abs=0.2)  # a period, and what PulseAudio takes


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (48000, 2)])
def test_noise_arrives_bit_exact(pulse: MakePulse, rate: int, channels: int, tmp_path: Path) -> None:
    check_exactness(pulse, rate, channels, 4, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (48000, 2)])
def test_a_minute_of_noise_arrives_bit_exact(pulse: MakePulse, rate: int, channels: int, tmp_path: Path) -> None:
    check_exactness(pulse, rate, channels, 60, tmp_path)


def test_a_pause_within_the_buffer_loses_nothing(pulse: MakePulse) -> None:
    source = AlsaSource(pulse(16000, 1).device, AudioFormat(16000, 1))
    source.open()
    heard = Heard(source.audio)
    try:
        while heard.frames < 8000:
            heard.take(source)
        threading.Event().wait(1.5)  # the pause itself is what is tested
        after = heard.frames + 4 * 16000
        while heard.frames < after:
            heard.take(source)
    finally:
        source.close()
    assert heard.lost == 0
    clock_s = boot_s() - heard.stamps[0]
    assert abs(heard.position / 16000 - clock_s) < 0.1


def test_an_overrun_is_counted_and_the_position_stays_true_to_the_clock(pulse: MakePulse) -> None:
    # libpulse keeps 4 MB for us before it drops in silence: 1.4 s of this format.
    audio = AudioFormat(192000, 8)
    source = AlsaSource(pulse(audio.rate_hz, audio.channels).device, audio)
    period = source.open().period_frames
    heard = Heard(audio)
    try:
        while heard.frames < audio.rate_hz:
            heard.take(source)
        begin_s = heard.stamps[0]
        threading.Event().wait(5.0)  # nobody reads: this provokes the overrun
        until_s = boot_s() + 3.5
        while boot_s() < until_s:
            heard.take(source)
        end_s = boot_s()
    finally:
        source.close()
    print(
        f"lost {heard.lost / audio.rate_hz:.3f} s; clock - position = {end_s - begin_s - heard.position / 192000:.4f} s"
    )
    assert heard.lost > audio.rate_hz
    assert (
        abs((end_s - begin_s) * audio.rate_hz - heard.position) <= 2 * period
    )  # one that is not yet due, one of error


def test_a_killed_server_is_a_microphone_that_is_gone(pulse: MakePulse) -> None:
    microphone = pulse(16000, 1)
    source = AlsaSource(microphone.device, AudioFormat(16000, 1))
    source.open()
    heard = Heard(source.audio)
    while not heard.frames:
        heard.take(source)
    microphone.kill()
    before = time.monotonic()
    with pytest.raises(MicrophoneError, match=r"usbmic is gone"):
        heard.go_on(source)
    assert time.monotonic() - before < 3.0
    source.close()
    with pytest.raises(
        MicrophoneError, match=r"usbmic cannot be opened: Connection refused; nothing is recorded; plug it in again"
    ):
        source.open()
    microphone.start()
    assert source.open().identity == "alsa:usbmic"
    after = heard.frames + 1600
    while heard.frames < after:
        heard.take(source)
    source.close()


FROZEN = """
import sys
from edge.adapters.alsa import AlsaSource
from edge.core.packet import AudioFormat
from edge.errors import MicrophoneError
import time
source = AlsaSource(sys.argv[1], AudioFormat(16000, 1))
source.open()
while not source.read().data:
    pass
print("listening", flush=True)
sys.stdin.readline()
begin, longest = time.monotonic(), 0.0
try:
    while True:
        before = time.monotonic()
        source.read()
        longest = max(longest, time.monotonic() - before)
except MicrophoneError as error:
    print(f"{time.monotonic() - begin:.2f} {longest:.2f} {error}", flush=True)
source.close()
source.close()
"""


def test_a_frozen_server_is_noticed_and_hangs_neither_read_nor_close_nor_exit(pulse: MakePulse) -> None:
    microphone = pulse(16000, 1)
    child = subprocess.Popen(
        [sys.executable, "-c", FROZEN, microphone.device],
        env=microphone.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "listening\n"
        microphone.suspend()
        output, complaints = child.communicate("go\n", timeout=10)
    finally:
        child.kill()
        child.wait()
        microphone.resume()
    gone_after, longest_read, text = output.split(" ", 2)
    assert "usbmic is gone: no frame for" in text
    assert float(gone_after) < 3.5
    assert float(longest_read) < 1.3
    assert complaints == ""
    assert child.returncode == 0


REOPENED = """
import sys, threading, time
from edge.adapters.alsa import AlsaSource
from edge.core.packet import AudioFormat
from edge.errors import MicrophoneError
source = AlsaSource(sys.argv[1], AudioFormat(16000, 1))
source.open()
while not source.read().data:
    pass
print("listening", flush=True)
try:
    while True:
        source.read()
except MicrophoneError:
    source.close()
opening = threading.Thread(target=source.open, daemon=True)
opening.start()
begin = longest = before = time.monotonic()
longest = 0.0
while time.monotonic() - begin < 1.5:  # the rest of the program has to go on
    time.sleep(0.01)
    now = time.monotonic()
    longest, before = max(longest, now - before), now
print(opening.is_alive(), longest, flush=True)
opening.join(10)
while not (block := source.read()).data:
    pass
print("back", flush=True)
source.close()
"""


def test_a_frozen_server_that_is_opened_again_holds_up_one_thread_and_is_heard_again_once_it_thaws(
    pulse: MakePulse,
) -> None:
    microphone = pulse(16000, 1)
    child = subprocess.Popen(
        [sys.executable, "-c", REOPENED, microphone.device],
        env=microphone.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "listening\n"
        microphone.suspend()
        is_opening, longest = child.stdout.readline().split()
        microphone.resume()
        output, complaints = child.communicate(timeout=20)
    finally:
        child.kill()
        child.wait()
        microphone.resume()
    assert is_opening == "True"
    assert float(longest) < 0.5
    assert (output, complaints, child.returncode) == ("back\n", "", 0)


def test_abandon_ends_a_read_that_waits_for_sound(pulse: MakePulse) -> None:
    microphone = pulse(16000, 1)
    source = AlsaSource(microphone.device, AudioFormat(16000, 1))
    source.open()
    threading.Timer(0.1, source.abandon).start()  # PulseAudio takes longer for its first frames
    before = time.monotonic()
    block = source.read()
    assert time.monotonic() - before < 0.8
    assert (bytes(block.data), block.ended) == (b"", True)
    assert source.read().ended
    source.close()


def test_an_unknown_device_is_one_line_and_stderr_stays_clean(
    pulse: MakePulse, capfd: pytest.CaptureFixture[str]
) -> None:
    pulse(16000, 1)
    with pytest.raises(MicrophoneError) as caught:
        AlsaSource("no-such-microphone", AudioFormat(16000, 1)).open()
    assert str(caught.value) == (
        "microphone no-such-microphone cannot be opened: No such file or directory; nothing is recorded; "
        "`edge devices` lists what is there"
    )
    assert capfd.readouterr().err == ""


def test_rate_that_the_device_cannot_give_is_refused_with_what_to_set(pulse: MakePulse) -> None:
    microphone = pulse(16000, 1)
    with pytest.raises(MicrophoneError, match=r"gives .* not the 16000 Hz, 40 channels.*set audio.rate = 16000"):
        AlsaSource(DEVICE, AudioFormat(16000, 40)).open()
    again = AlsaSource(microphone.device, AudioFormat(16000, 1))  # and the refused one was let go
    again.open()
    again.close()
