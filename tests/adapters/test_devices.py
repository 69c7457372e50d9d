"""`edge devices` over made-up /proc and /sys trees, and over the real libasound."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.adapters.alsa import Usb
from edge.cli import devices
from edge.cli.devices import Microphone, Native, as_json, as_text, by_opening, microphones
from edge.errors import MicrophoneError
from tests.rig.pulse import PulseMicrophone

USB_STREAM = """C-Media Electronics Inc. USB PnP Sound Device at usb-0000:01:00.0-1.2, full speed : USB Audio

Playback:
  Status: Stop
  Interface 1
    Altset 1
    Format: S16_LE
    Channels: 2
    Endpoint: 0x01 (1 OUT) (ADAPTIVE)
    Rates: 96000

Capture:
  Status: Stop
  Interface 2
    Altset 1
    Format: S16_LE
    Channels: 1
    Endpoint: 0x82 (2 IN) (ASYNC)
    Rates: {rates}
    Bits: 16
    Channel map: MONO
  Interface 2
    Altset 2
    Format: S24_3LE
    Channels: 2
    Rates: 96000
"""
CARDS = """ 0 [Headphones     ]: bcm2835_headpho - bcm2835 Headphones
                      bcm2835 Headphones
 1 [Device         ]: USB-Audio - USB PnP Sound Device
                      C-Media USB PnP Sound Device at usb-0000:01:00.0-1.2, full speed
 10 [I2S            ]: simple-card - I2S
                      I2S microphone
"""


class Tree:
    """A root with /proc and /sys of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/asound/cards", CARDS)
        self.write("proc/asound/card0/pcm0p/info", "card: 0\n")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def card(self, number: int, card_id: str, stream: str = "", status: str = "closed") -> None:
        base = f"proc/asound/card{number}"
        self.write(f"{base}/id", f"{card_id}\n")
        self.write(f"{base}/pcm0c/info", f"card: {number}\ndevice: 0\nname: Name of it\n")
        self.write(f"{base}/pcm0c/sub0/status", status)
        if stream:
            self.write(f"{base}/stream0", stream)

    def plug(self, number: int, port: str, serial: str = "") -> None:
        base = f"sys/devices/usb1/{port}"
        facts = {"idVendor": "0d8c", "idProduct": "0014", "manufacturer": "C-Media", "product": "PnP", "serial": serial}
        for name, value in facts.items():
            if value:
                self.write(f"{base}/{name}", value + "\n")
        self.write(f"{base}/{port}:1.0/sound/card{number}/id", "x")
        card = self.root / "sys" / "class" / "sound" / f"card{number}"
        card.mkdir(parents=True)
        (card / "device").symlink_to(self.root / base / f"{port}:1.0")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def never(device: str) -> Native:
    raise AssertionError(f"{device} was opened without need")


def test_a_usb_microphone_is_described_without_opening_it(tree: Tree) -> None:
    tree.card(1, "Device", USB_STREAM.format(rates="44100, 48000"))
    tree.plug(1, "1-1.2", "A1B2")
    native = Native(("S16_LE", "S24_3LE"), (44100, 48000, 96000), False, (1, 2))
    usb = Usb("0d8c", "0014", "C-Media", "PnP", "A1B2", "1-1.2")
    name = "C-Media USB PnP Sound Device at usb-0000:01:00.0-1.2, full speed"
    assert list(microphones(tree.root, never)) == [Microphone(1, "Device", 0, name, usb, native)]


def test_its_setting_is_a_line_of_toml_without_conversion(tree: Tree) -> None:
    tree.card(1, "Device", USB_STREAM.format(rates="44100, 48000"))
    (one,) = microphones(tree.root, never)
    wanted = {"source": "alsa:hw:CARD=Device,DEV=0", "rate": 48000, "channels": 1}
    assert tomllib.loads(one.setting) == {"audio": wanted}


@pytest.mark.parametrize(
    ("native", "setting"),
    [
        (Native(("S16_LE",), (8000, 96000), True, (1,)), ("hw", 16000, 1)),
        (Native(("S16_LE",), (8000, 11025), False, (2, 4)), ("hw", 8000, 2)),
        (Native(("S32_LE",), (48000,), False, (2,)), ("plughw", 48000, 2)),
        (Native(), ("plughw", 16000, 1)),
    ],
)
def test_the_setting_takes_the_best_that_the_device_has(native: Native, setting: tuple[str, int, int]) -> None:
    kind, rate, channels = setting
    audio = tomllib.loads(Microphone(1, "X", 2, "name", None, native).setting)["audio"]
    assert audio == {"source": f"alsa:{kind}:CARD=X,DEV=2", "rate": rate, "channels": channels}


def test_a_range_of_rates_is_understood(tree: Tree) -> None:
    tree.card(1, "Device", USB_STREAM.format(rates="8000 - 48000 (continuous)"))
    (one,) = microphones(tree.root, never)
    assert (one.native.rates_hz, one.native.is_range) == ((8000, 96000), True)


def test_a_busy_microphone_is_still_described(tree: Tree) -> None:
    tree.card(1, "Device", USB_STREAM.format(rates="48000"), "state: RUNNING\nowner_pid   : 321\ntrigger_time: 1.2\n")
    tree.write("proc/321/comm", "arecord\n")
    (one,) = microphones(tree.root, never)
    assert one.busy == "arecord (321)"
    assert "(busy: arecord (321) records from it)" in next(as_text([one], []))


def test_other_devices_are_asked_and_one_that_does_not_answer_says_why(tree: Tree) -> None:
    tree.card(10, "I2S")
    tree.card(2, "Plain")
    asked = []

    def probe(device: str) -> Native:
        asked.append(device)
        if "Plain" in device:
            raise MicrophoneError("Device or resource busy")
        return Native(("S32_LE",), (48000,), False, (2,))

    plain, i2s = microphones(tree.root, probe)
    assert asked == ["hw:CARD=Plain,DEV=0", "hw:CARD=I2S,DEV=0"]
    assert (plain.name, plain.unknown) == ("Name of it", "Device or resource busy")
    assert (i2s.name, i2s.usb) == ("I2S microphone", None)
    text = "\n".join(as_text([plain, i2s], ["usbmic"]))
    assert "native   not known: Device or resource busy" in text
    assert "native   S32_LE; 48000 Hz; channels: 2" in text
    assert "  alsa:usbmic" in text
    assert json.loads(json.dumps(as_json(i2s)))["plughw"] == "plughw:CARD=I2S,DEV=0"


def test_two_of_a_kind_are_warned_of(tree: Tree) -> None:
    stream = USB_STREAM.format(rates="8000 - 48000 (continuous)")
    for number, card_id in ((1, "Device"), (2, "Device_1")):
        tree.card(number, card_id, stream)
        tree.plug(number, f"1-1.{number}")
    found = list(microphones(tree.root, never))
    text = list(as_text(found, []))
    assert sum("another one like it" in line for line in text) == 2
    assert any("0d8c:0014 C-Media PnP, no serial number, port 1-1.2" in line for line in text)
    assert any("8000 to 96000 Hz" in line for line in text)


def test_an_empty_machine_has_none(tmp_path: Path) -> None:
    assert list(microphones(tmp_path, never)) == []


def run_devices(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", "devices", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def test_none_is_one_line_and_exit_code_6(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "microphones", lambda: iter(()))
    monkeypatch.setattr(devices, "_other_names", lambda: ([], ""))
    with pytest.raises(MicrophoneError, match="no microphone found; plug one in") as caught:
        devices.run(Namespace(json=False))
    assert caught.value.exit_code == 6


def test_without_pyalsaaudio_the_kernel_s_part_is_listed(
    monkeypatch: pytest.MonkeyPatch, tree: Tree, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.card(1, "Device", USB_STREAM.format(rates="48000"))
    tree.card(10, "I2S")
    monkeypatch.setitem(sys.modules, "alsaaudio", None)
    monkeypatch.setattr(devices, "microphones", lambda: microphones(tree.root))
    assert devices.run(Namespace(json=False)) == 0
    printed = capsys.readouterr()
    assert "native   S16_LE, S24_3LE; 48000, 96000 Hz; channels: 1, 2" in printed.out
    assert "native   not known: no microphone can be opened without pyalsaaudio" in printed.out
    assert printed.err.count("\n") == 1
    assert "pip install" in printed.err


@pytest.mark.pulse
def test_a_microphone_of_the_configuration_is_listed(pulse: Callable[[int, int], PulseMicrophone]) -> None:
    microphone = pulse(16000, 1)
    done = run_devices(environment=microphone.environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  alsa:usbmic\n" in done.stdout
    done = run_devices("--json", environment=microphone.environment)
    assert json.loads(done.stdout)["other"] == ["usbmic"]


@pytest.mark.pulse
def test_a_device_is_asked_by_opening_it(pulse: Callable[[int, int], PulseMicrophone]) -> None:
    native = by_opening(pulse(16000, 1).device)
    assert "S16_LE" in native.formats
    assert native.is_range
    assert native.has_rate(16000)
    assert 1 in native.channels
    with pytest.raises(MicrophoneError, match=r"^No such file or directory$"):
        by_opening("absent")
