"""What AlsaSource does with a kernel device, which CI does not have: overruns, unplugging, other formats.

`FakePcm` keeps to pyalsaaudio 0.11 as its source has it: an overrun is (-EPIPE, b"") and leaves the stream prepared,
the first read of a prepared stream starts it and gives (0, b""), errors are ALSAAudioError("text [device]").
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from edge.adapters import alsa
from edge.adapters.alsa import AlsaSource, native_parameters, stable_name
from edge.core.packet import AudioFormat
from edge.errors import MicrophoneError

AUDIO = AudioFormat(16000, 1)
PERIOD = 1600
EPIPE = -32
S16, S24 = 2, 6


class ALSAAudioError(Exception):
    """As alsaaudio raises it."""


class Clock:
    """Both clocks of the adapter, in its hands: boot runs 500 s ahead of monotonic."""

    CLOCK_BOOTTIME = 7

    def __init__(self) -> None:
        self.now_s = 100.0

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds

    def monotonic(self) -> float:
        return self.now_s

    def clock_gettime(self, which: int) -> float:
        assert which == self.CLOCK_BOOTTIME
        return self.now_s + 500.0


class Ticking(threading.Event):
    """In place of a source's `abandoned`: its pauses take no time but what they do to the machine."""

    def __init__(self, tick: Callable[[], None]) -> None:
        super().__init__()
        self._tick = tick

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._tick()
        return self.is_set()


class FakePcm:
    """A kernel capture device on a clock that stands until the test moves it."""

    def __init__(self, machine: Machine, asked: dict[str, Any]) -> None:
        self.machine = machine
        self.asked = asked
        self.is_running = False
        self.is_closed = False
        self.waiting = 0
        self.counter = 0
        self.failure = ""
        self.is_overrun = False
        self.buffer = asked["periodsize"] * asked["periods"]

    def info(self) -> dict[str, Any]:
        names = {S16: "S16_LE", S24: "S24_3LE"}
        given = {"rate": self.asked["rate"], "channels": self.asked["channels"], "format": S16, "card_no": 1}
        given |= {"device_no": 0, "subdevice_no": 0, "period_size": self.asked["periodsize"]}
        given |= {"buffer_size": self.buffer}
        given |= self.machine.gives
        return given | {"format_name": names[given["format"]]}

    def set_tstamp_mode(self, mode: int) -> None:
        if self.machine.has_no_stamps:
            raise RuntimeError("Unable to set pcm tstamp mode!")

    def set_tstamp_type(self, kind: int) -> None:
        assert kind == 1

    def polldescriptors(self) -> list[tuple[int, int]]:
        return [(self.machine.pipe, select.POLLIN)]

    def htimestamp(self) -> tuple[int, int, int]:
        if self.machine.has_no_stamps:
            return (0x7FFF12345678, 99, 1 << 40)  # uninitialised memory
        now = self.machine.clock.now_s
        return (int(now), round((now - int(now)) * 1e9), self.waiting)

    def avail(self) -> int:
        return self.waiting

    def read(self) -> tuple[int, bytes]:
        assert not self.is_closed
        if self.failure:
            raise ALSAAudioError(f"{self.failure} [{self.asked['device']}]")
        if self.is_overrun:
            self.is_overrun, self.is_running, self.waiting = False, False, 0
            return (EPIPE, b"")
        if not self.is_running:
            self.is_running = True
            return (0, b"")
        frames = min(self.waiting, self.asked["periodsize"])
        self.waiting -= frames
        return (frames, bytes(2 * frames * self.asked["channels"]))

    def close(self) -> None:
        self.is_closed = True

    def capture(self, seconds: float) -> None:
        """Time passes; a running device hears it."""
        self.machine.clock.now_s += seconds
        if self.is_running:
            self.waiting += round(seconds * 16000)
            if self.waiting > self.buffer:
                self.is_overrun = True


class Machine:
    """alsaaudio and the clocks of a machine with one microphone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.gives: dict[str, Any] = {}
        self.has_no_stamps = False
        self.refuses = ""
        self.pcm: FakePcm | None = None
        self.asked: list[str] = []
        self.pipe, self._writer = os.pipe()
        os.write(self._writer, b"!")  # always readable
        self.module = SimpleNamespace(
            ALSAAudioError=ALSAAudioError,
            PCM=self._make,
            PCM_CAPTURE=1,
            PCM_NONBLOCK=1,
            PCM_FORMAT_S16_LE=S16,
            PCM_TSTAMP_ENABLE=1,
            PCM_TSTAMP_TYPE_MONOTONIC=1,
        )
        monkeypatch.setattr(alsa, "load", lambda: self.module)
        monkeypatch.setattr(alsa, "time", self.clock)
        monkeypatch.setattr(alsa, "_ask", self.asked.append)
        monkeypatch.setattr(alsa, "native_parameters", lambda *_: ("S16_LE", 48000, 2))

    def _make(self, **asked: Any) -> FakePcm:
        assert asked["mode"] == 1
        if self.refuses:
            raise ALSAAudioError(f"{self.refuses} [{asked['device']}]")
        self.pcm = FakePcm(self, asked)
        return self.pcm

    def close(self) -> None:
        os.close(self.pipe)
        os.close(self._writer)

    def opened(self, device: str = "hw:CARD=Mic,DEV=0") -> tuple[AlsaSource, FakePcm]:
        source = AlsaSource(device, AUDIO)
        source.open()
        assert self.pcm is not None
        return source, self.pcm


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Machine(monkeypatch)
    yield made
    made.close()


def test_two_seconds_of_buffer_and_the_stream_runs_after_open(machine: Machine) -> None:
    _, pcm = machine.opened()
    assert (pcm.asked["periodsize"], pcm.asked["periods"]) == (PERIOD, 20)
    assert pcm.is_running


@pytest.mark.parametrize("has_no_stamps", [False, True])
def test_a_block_is_stamped_with_the_time_of_its_first_frame(machine: Machine, has_no_stamps: bool) -> None:
    machine.has_no_stamps = has_no_stamps
    source, pcm = machine.opened()
    pcm.capture(0.25)
    first, second = source.read(), source.read()
    assert (first.boot_s, second.boot_s) == pytest.approx((600.0, 600.1))
    assert (len(first.data), first.lost_frames, first.cause, first.ended) == (2 * PERIOD, 0, "", False)


def test_an_overrun_is_counted_to_the_frame(machine: Machine) -> None:
    source, pcm = machine.opened()
    pcm.capture(0.1)
    frames = len(source.read().data) // 2
    pcm.capture(3.0)  # ALSA holds 2 s
    assert pcm.is_overrun

    source._abandoned = Ticking(lambda: pcm.capture(0.1))  # the stream restarts within this read
    block = source.read()
    frames += len(block.data) // 2
    assert (block.lost_frames, block.cause) == (3 * 16000, "xrun")
    assert frames + block.lost_frames == pytest.approx((machine.clock.now_s - 100.0) * 16000)
    assert block.boot_s == pytest.approx(603.1)


def test_an_unplugged_microphone_is_gone(machine: Machine) -> None:
    source, pcm = machine.opened()
    pcm.failure = "No such device"
    with pytest.raises(MicrophoneError) as caught:
        source.read()
    assert str(caught.value) == (
        "microphone hw:CARD=Mic,DEV=0 is gone: No such device; what it gave until then is there; plug it in again"
    )
    source.close()
    source.close()
    assert pcm.is_closed


def test_silence_of_the_device_is_gone_after_two_seconds_but_five_at_the_start(machine: Machine) -> None:
    source, pcm = machine.opened()
    source._abandoned = Ticking(lambda: machine.clock.pass_by(0.25))
    for _ in range(4):
        assert source.read().data == b""
    pcm.capture(0.1)
    assert source.read().data
    assert source.read().data == b""
    with pytest.raises(MicrophoneError, match=r"gone: no frame for 2\.\d s"):
        source.read()
    source.close()
    assert pcm.is_closed


@pytest.mark.parametrize(
    ("gives", "text"),
    [
        ({"rate": 48000}, "gives 48000 Hz, 1 channels, S16_LE, not the 16000 Hz.*set audio.rate = 48000"),
        ({"channels": 2}, "2 channels.*audio.channels = 2, or audio.source = alsa:plughw:CARD=Mic,DEV=0"),
        ({"format": S24}, "S24_3LE, not.*use the plughw: name of it"),
    ],
)
def test_what_was_not_asked_for_is_refused_with_what_to_set(machine: Machine, gives: dict[str, Any], text: str) -> None:
    machine.gives = gives
    with pytest.raises(MicrophoneError, match=text):
        machine.opened()
    assert machine.pcm is not None
    assert machine.pcm.is_closed


def test_notes_for_what_a_person_should_know(machine: Machine) -> None:
    machine.gives = {"period_size": 1024, "buffer_size": 8192}
    notes = AlsaSource("plughw:CARD=Mic,DEV=0", AUDIO).open().notes
    assert notes == (
        "the period is 1024 frames, not the 1600 that were asked for",
        "ALSA buffers only 512 ms: a longer pause of this program loses frames",
        "ALSA converts from what the microphone gives: S16_LE, 48000 Hz, 2 channels",
    )
    assert machine.asked == []
    assert len(AlsaSource("default", AUDIO).open().notes) == 4
    assert machine.asked == ["default"]  # a plugin may hang


@pytest.mark.parametrize(
    ("text", "remedy"),
    [("Device or resource busy", "another program"), ("Permission denied", "group audio"), ("X", "edge devices")],
)
def test_a_device_that_cannot_be_opened_says_what_to_do(machine: Machine, text: str, remedy: str) -> None:
    machine.refuses = text
    with pytest.raises(MicrophoneError, match=f"cannot be opened: {text}; nothing is recorded; .*{remedy}"):
        machine.opened()


def test_a_failure_between_open_and_the_first_read_leaves_nothing_open(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: FakePcm) -> None:
        raise ALSAAudioError("No such device [hw:CARD=Mic,DEV=0]")

    monkeypatch.setattr(FakePcm, "polldescriptors", fail)
    with pytest.raises(MicrophoneError, match="gone"):
        machine.opened()
    assert machine.pcm is not None
    assert machine.pcm.is_closed


def test_a_device_that_is_gone_may_refuse_even_to_be_closed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: FakePcm) -> None:
        raise ALSAAudioError("No such device [hw:CARD=Mic,DEV=0]")

    source, _ = machine.opened()
    monkeypatch.setattr(FakePcm, "close", fail)
    source.close()
    assert source.read().ended


def test_it_can_be_opened_again(machine: Machine) -> None:
    source, first = machine.opened()
    source.close()
    assert source.read().ended
    source.open()
    assert machine.pcm is not first
    assert machine.pcm is not None
    machine.pcm.capture(0.1)
    assert source.read().data


def test_a_source_that_was_never_opened_says_so() -> None:
    with pytest.raises(MicrophoneError, match="not open"):
        AlsaSource("hw:CARD=Mic,DEV=0", AUDIO).read()


def test_without_pyalsaaudio_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alsaaudio", None)
    with pytest.raises(MicrophoneError, match=r"pip install 'edge-recorder\[alsa\]'"):
        AlsaSource("hw:CARD=Mic,DEV=0", AUDIO).open()


def test_an_old_pyalsaaudio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "alsaaudio", SimpleNamespace(PCM=object))
    with pytest.raises(MicrophoneError, match="hides overruns"):
        alsa.load()


def test_stable_names_and_native_parameters_come_from_proc(tmp_path: Any) -> None:
    sub = tmp_path / "card1" / "pcm0c" / "sub0"
    sub.mkdir(parents=True)
    (tmp_path / "card1" / "id").write_text("Mic\n")
    (sub / "hw_params").write_text(
        "access: MMAP_INTERLEAVED\nformat: S24_3LE\nsubformat: STD\nchannels: 2\nrate: 44100 (44100/1)\n"
    )
    names = ["hw:1", "plughw:1,2", "hw:CARD=1,DEV=0", "hw:CARD=Mic,DEV=0", "hw:7", "usbmic", "default"]
    assert [stable_name(name, tmp_path) for name in names] == [
        "hw:CARD=Mic,DEV=0",
        "plughw:CARD=Mic,DEV=2",
        "hw:CARD=Mic,DEV=0",
        *[""] * 4,
    ]
    assert native_parameters(1, 0, 0, tmp_path) == ("S24_3LE", 44100, 2)
    (sub / "hw_params").write_text("closed\n")
    assert native_parameters(1, 0, 0, tmp_path) == ("", 0, 0)
    assert native_parameters(2, 0, 0, tmp_path) == ("", 0, 0)
