"""Which microphone it is, over made-up /sys trees; and no other one is ever recorded in its place."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.adapters.alsa import AlsaSource, identities_of, identity_of, name_now
from edge.errors import MicrophoneError
from tests.adapters.test_alsa import AUDIO, Machine

DEVICE = "hw:CARD=Mic,DEV=0"


class Sys:
    """A root with the /sys of a machine; cards are plugged in and out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cards = root / "sys" / "class" / "sound"
        self.cards.mkdir(parents=True)

    def _card(self, number: int, card_id: str, device: Path) -> None:
        device.mkdir(parents=True)
        (self.cards / f"card{number}").mkdir()
        (self.cards / f"card{number}" / "id").write_text(card_id + "\n")
        (self.cards / f"card{number}" / "device").symlink_to(device)

    def plug(self, number: int, port: str, serial: str = "", card_id: str = "Mic", product: str = "0014") -> None:
        plug = self.root / "sys" / "devices" / "usb1" / port
        self._card(number, card_id, plug / f"{port}:1.0")
        facts = {"idVendor": "0d8c", "idProduct": product, "serial": serial}
        for name, value in facts.items():
            if value:
                (plug / name).write_text(value + "\n")

    def solder(self, number: int, place: str) -> None:
        self._card(number, "Hat", self.root / "sys" / "devices" / place)

    def unplug(self, number: int) -> None:
        card = self.cards / f"card{number}"
        shutil.rmtree((card / "device").resolve().parent)
        shutil.rmtree(card)


@pytest.fixture
def tree(tmp_path: Path) -> Sys:
    return Sys(tmp_path)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(monkeypatch)
    yield made
    made.close()


def test_a_card_is_known_by_serial_number_else_port_else_place(tree: Sys) -> None:
    tree.plug(1, "1-1.2", "A1B2")
    tree.plug(2, "1-1.3")
    tree.solder(3, "platform/soc/soc:sound")
    assert identities_of(1, tree.root) == ("usb 0d8c:0014 serial A1B2", "usb 0d8c:0014 port 1-1.2")
    assert [identity_of(number, tree.root) for number in range(5)] == [
        "",
        "usb 0d8c:0014 serial A1B2",
        "usb 0d8c:0014 port 1-1.3",
        "at devices/platform/soc/soc:sound",
        "",
    ]


def test_a_serial_number_that_another_one_has_as_well_is_none(tree: Sys) -> None:
    tree.plug(1, "1-1.2", "0001")
    tree.plug(2, "1-1.3", "0001")
    assert identity_of(1, tree.root) == "usb 0d8c:0014 port 1-1.2"
    tree.unplug(2)
    assert identity_of(1, tree.root) == "usb 0d8c:0014 serial 0001"


@pytest.mark.parametrize(
    ("device", "now"),
    [
        ("hw:CARD=Mic,DEV=0", "hw:CARD=Mic_1,DEV=0"),
        ("plughw:Mic,1", "plughw:CARD=Mic_1,DEV=1"),
        ("hw:1", "hw:CARD=Mic_1,DEV=0"),
        ("hw:2,0", "hw:2,0"),
        ("hw:CARD=Mic_1", "hw:CARD=Mic_1"),
        ("usbmic", "usbmic"),
        ("plug:'hw:1,0'", "plug:'hw:1,0'"),
    ],
)
def test_its_name_follows_a_card_that_came_back_under_another(device: str, now: str, tree: Sys) -> None:
    tree.plug(2, "1-1.2", "A1B2", card_id="Mic_1")
    (tree.cards / "cards").write_text("no card")
    assert name_now(device, "usb 0d8c:0014 serial A1B2", tree.root) == now
    assert name_now(device, "usb 0d8c:0014 serial B", tree.root) == device
    assert name_now(device, "", tree.root) == device


def source(tree: Sys, device: str = DEVICE, identity: str = "") -> AlsaSource:
    return AlsaSource(device, AUDIO, identity=identity, root=tree.root)


def test_the_same_one_is_opened_again_also_in_another_socket(machine: Machine, tree: Sys) -> None:
    tree.plug(1, "1-1.2", "A1B2")
    microphone = source(tree)
    assert microphone.open().identity == "usb 0d8c:0014 serial A1B2"
    microphone.close()
    tree.unplug(1)
    tree.plug(1, "1-1.4", "A1B2")
    assert microphone.open().identity == "usb 0d8c:0014 serial A1B2"


@pytest.mark.parametrize("fault", ["serial", "product", "port", "twin"])
def test_another_one_in_its_place_is_refused_and_never_started(fault: str, machine: Machine, tree: Sys) -> None:
    serial = "" if fault == "port" else "A1B2"
    tree.plug(1, "1-1.2", serial)
    if fault == "twin":
        tree.plug(2, "1-1.3", serial, card_id="Mic_1")
    microphone = source(tree)
    before = microphone.open().identity
    microphone.close()
    tree.unplug(1)
    if fault == "twin":
        tree.unplug(2)
    others = {"serial": ("1-1.2", "C3", "0014"), "product": ("1-1.2", "A1B2", "0099"), "port": ("1-1.4", "", "0014")}
    port, serial, product = others.get(fault, ("1-1.3", "A1B2", "0014"))
    tree.plug(1, port, serial, product=product)
    with pytest.raises(MicrophoneError) as caught:
        microphone.open()
    back = "plug the right one in again"
    if fault in ("port", "twin"):
        back = "plug the right one into USB port 1-1.2 again"
    assert str(caught.value) == (
        f"microphone {DEVICE} is another one: {identity_of(1, tree.root)}, not {before}; it is not recorded; "
        f"{back}, or name this one in audio.fallback"
    )
    assert machine.pcm is not None
    assert machine.pcm.is_closed
    assert not machine.pcm.is_running
    tree.unplug(1)
    tree.plug(1, "1-1.2", "" if fault == "port" else "A1B2")
    assert microphone.open().identity == before


def test_another_one_is_refused_before_its_format_is_looked_at(machine: Machine, tree: Sys) -> None:
    tree.plug(1, "1-1.2", "A1B2")
    machine.gives = {"rate": 48000}
    with pytest.raises(MicrophoneError, match="is another one"):
        source(tree, identity="usb 0d8c:0014 serial B").open()


def test_one_that_was_refused_is_not_remembered(machine: Machine, tree: Sys) -> None:
    tree.plug(1, "1-1.2", "A1B2")
    machine.gives = {"rate": 48000}
    microphone = source(tree)
    with pytest.raises(MicrophoneError, match="48000 Hz"):
        microphone.open()
    machine.gives = {}
    tree.unplug(1)
    tree.plug(1, "1-1.2", "B")
    assert microphone.open().identity == "usb 0d8c:0014 serial B"


def test_an_identity_from_an_earlier_recording_holds_at_the_first_opening(machine: Machine, tree: Sys) -> None:
    tree.plug(1, "1-1.2", "A1B2")
    with pytest.raises(MicrophoneError, match="is another one"):
        source(tree, identity="usb 0d8c:0014 port 1-1.9").open()
    assert source(tree, identity="usb 0d8c:0014 port 1-1.2").open().identity == "usb 0d8c:0014 port 1-1.2"


def test_it_is_opened_under_the_name_that_it_has_now(machine: Machine, tree: Sys) -> None:
    tree.plug(1, "1-1.2", "A1B2")
    microphone = source(tree)
    name = microphone.open().name
    microphone.close()
    tree.unplug(1)
    tree.plug(1, "1-1.2", "A1B2", card_id="Mic_1")
    assert microphone.open().name == name == f"alsa:{DEVICE}"
    assert machine.pcm is not None
    assert machine.pcm.asked["device"] == "hw:CARD=Mic_1,DEV=0"


def test_a_plugin_is_known_by_its_name(machine: Machine, tree: Sys) -> None:
    machine.gives = {"card_no": -1}
    assert source(tree, "usbmic").open().identity == "alsa:usbmic"
    with pytest.raises(MicrophoneError, match="is another one: alsa:usbmic, not usb 1:2 serial X"):
        source(tree, "usbmic", "usb 1:2 serial X").open()


def test_one_that_was_there_before_is_to_be_plugged_in_again(machine: Machine, tree: Sys) -> None:
    microphone = source(tree)
    microphone.open()
    microphone.close()
    machine.refuses = "No such file or directory"
    with pytest.raises(MicrophoneError) as caught:
        microphone.open()
    assert (
        str(caught.value)
        == f"microphone {DEVICE} cannot be opened: No such file or directory; nothing is recorded; plug it in again"
    )
