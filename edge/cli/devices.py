"""`edge devices`: the microphones, by names that stay, with what each can do and the line for the configuration.

The kernel's own files (/proc/asound, /sys) say most of it, for a USB microphone even the formats, also while another
program records from it. Only what they leave open is asked of the device by opening it for a moment.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edge.adapters import alsa
from edge.cli import output
from edge.errors import ExitCode, MicrophoneError

HELP = "list microphones with stable names, native formats and rates"

_GOOD_RATES = (16000, 48000, 44100, 32000, 24000, 22050)  # what a recorder of speech would rather have, best first
# PCMs that ALSA's own files define for everybody: converters and servers, no microphones.
_STANDARD = re.compile(
    r"(null|(sys)?default|pulse|pipewire|jack|oss|a52|usbstream|cards|upmix|vdownmix|speex|(lavc?|speex|sample)rate\w*)\Z"
)
_NONE_FOUND = "no microphone found; plug one in (USB class audio needs no driver), or see `arecord -l` as root"


@dataclass(frozen=True, slots=True)
class Native:
    """What a device does without conversion. `rates_hz` are single rates, or the two ends of a range."""

    formats: tuple[str, ...] = ()
    rates_hz: tuple[int, ...] = ()
    is_range: bool = False
    channels: tuple[int, ...] = ()

    def has_rate(self, rate_hz: int) -> bool:
        """Whether it can run at `rate_hz`."""
        if self.is_range:
            return self.rates_hz[0] <= rate_hz <= self.rates_hz[-1]
        return rate_hz in self.rates_hz


@dataclass(frozen=True, slots=True)
class Microphone:
    """One capture device of one card. `busy` names who records from it; `unknown` why `native` is empty."""

    card: int
    card_id: str
    device: int
    name: str
    usb: alsa.Usb | None
    native: Native
    busy: str = ""
    unknown: str = ""

    @property
    def address(self) -> str:
        """What follows `hw:` and `plughw:`."""
        return f"CARD={self.card_id},DEV={self.device}"

    @property
    def setting(self) -> str:
        """The line for the configuration: without conversion where the device gives 16 bits, at its best rate."""
        native = self.native
        kind = "hw" if "S16_LE" in native.formats else "plughw"
        rate_hz = next((rate for rate in _GOOD_RATES if native.has_rate(rate)), next(iter(native.rates_hz), 16000))
        channels = min(native.channels, default=1)
        return f'audio = {{ source = "alsa:{kind}:{self.address}", rate = {rate_hz}, channels = {channels} }}'


Probe = Callable[[str], Native]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One switch."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """List what is there; exit code 6 when that is nothing."""
    found = list(microphones())
    others, remark = _other_names()
    if args.json:
        print(json.dumps({"devices": [as_json(one) for one in found], "other": others}, ensure_ascii=False))
    else:
        for line in as_text(found, others):
            print(line)
        if remark:
            output.note(remark)
    if found or others:
        return ExitCode.WHOLE
    raise MicrophoneError(_NONE_FOUND)


# --- what the kernel says --------------------------------------------------------------------------------------------


def microphones(root: Path = Path("/"), probe: Probe | None = None) -> Iterator[Microphone]:
    """Yield all capture devices below `root` (for /proc and /sys). `probe` asks a device; by default by opening it."""
    cards = root / "proc" / "asound"
    for path in sorted(cards.glob("card[0-9]*/pcm[0-9]*c"), key=_numbers):
        card, device = _numbers(path)
        card_id = _text(path.parent / "id") or str(card)
        about = dict(line.split(": ", 1) for line in _text(path / "info").splitlines() if ": " in line)
        native, unknown = _stream_file(_text(path.parent / f"stream{device}")), ""
        busy = _owner(root, path)
        if not native.formats:
            try:
                native = (probe or by_opening)(f"hw:CARD={card_id},DEV={device}")
            except MicrophoneError as error:
                unknown = error.what
        name = _card_name(cards, card) or about.get("name", "") or card_id
        usb = alsa.usb_of(card, root)
        yield Microphone(card, card_id, device, name, usb, native, busy, unknown)


def _numbers(path: Path) -> tuple[int, int]:
    return int(path.parent.name.removeprefix("card")), int(path.name.removeprefix("pcm").removesuffix("c"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _card_name(cards: Path, card: int) -> str:
    """Return the long name, which is on the line below the one with the index in /proc/asound/cards."""
    lines = _text(cards / "cards").splitlines()
    for first, second in pairwise(lines):
        if re.match(rf"\s*{card} \[", first):
            return second.strip()
    return ""


def _owner(root: Path, pcm: Path) -> str:
    """Who records from it: "program (pid)"; empty when nobody does."""
    for status in sorted(pcm.glob("sub[0-9]*/status")):
        found = re.search(r"owner_pid\s*:\s*(\d+)", _text(status))
        if found:
            return f"{_text(root / 'proc' / found[1] / 'comm') or 'a program'} ({found[1]})"
    return ""


def _stream_file(text: str) -> Native:
    """Parse the part "Capture:" of snd-usb-audio's description of a device; empty where there is none."""
    capture = re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)
    lines = next((part for part in capture if part.startswith("Capture:")), "").splitlines()
    values: dict[str, list[str]] = {"Format": [], "Channels": [], "Rates": []}
    for line in lines:
        key, _, value = line.strip().partition(":")
        if key in values:
            values[key].append(value.strip())
    rates = [int(number) for value in values["Rates"] for number in re.findall(r"\d+", value)]
    is_range = any("continuous" in value for value in values["Rates"])
    return Native(
        tuple(dict.fromkeys(name for value in values["Format"] for name in value.split())),
        (min(rates), max(rates)) if is_range and rates else tuple(sorted(set(rates))),
        is_range,
        tuple(sorted({int(value) for value in values["Channels"] if value.isdecimal()})),
    )


# --- what the device and libasound say -------------------------------------------------------------------------------


def by_opening(device: str) -> Native:
    """Ask a device by opening it for a moment. Raises MicrophoneError, whose `what` says why that failed."""
    alsaaudio = alsa.load()
    try:
        pcm = alsaaudio.PCM(type=alsaaudio.PCM_CAPTURE, mode=alsaaudio.PCM_NONBLOCK, device=device)
    except alsaaudio.ALSAAudioError as error:
        raise MicrophoneError(str(error).partition(" [")[0]) from None
    try:
        rates: Any = pcm.getrates()  # one number, a list, or the two ends of a range as a tuple
        numbers = (rates,) if isinstance(rates, int) else tuple(rates)
        return Native(tuple(pcm.getformats()), numbers, isinstance(rates, tuple), tuple(pcm.getchannels()))
    except alsaaudio.ALSAAudioError as error:
        raise MicrophoneError(str(error)) from None
    finally:
        pcm.close()


def _other_names() -> tuple[list[str], str]:
    """Return the capture PCMs that somebody defined in ALSA's configuration, and a remark where they are not known."""
    try:
        alsaaudio = alsa.load()
    except MicrophoneError as error:
        return [], str(error)
    names: list[str] = alsaaudio.pcms(alsaaudio.PCM_CAPTURE)
    return [name for name in names if ":" not in name and not _STANDARD.match(name)], ""


# --- how it is shown -------------------------------------------------------------------------------------------------


def as_json(one: Microphone) -> dict[str, Any]:
    """Return all that is known, for programs."""
    return {
        "name": one.name,
        "hw": f"hw:{one.address}",
        "plughw": f"plughw:{one.address}",
        "card": one.card,
        "card_id": one.card_id,
        "device": one.device,
        "usb": None if one.usb is None else asdict(one.usb),
        **asdict(one.native),
        "busy": one.busy or None,
        "unknown": one.unknown or None,
        "setting": one.setting,
    }


def as_text(found: list[Microphone], others: list[str]) -> Iterator[str]:
    """Yield the lines for a person."""
    for one in found:
        yield f"{one.name}{f' (busy: {one.busy} records from it)' if one.busy else ''}"
        rows = [("names", f"hw:{one.address}  plughw:{one.address}")]
        if one.usb is not None:
            what = " ".join(part for part in (one.usb.manufacturer, one.usb.model) if part)
            serial = f"serial {one.usb.serial}" if one.usb.serial else "no serial number"
            rows.append(("usb", f"{one.usb.vendor}:{one.usb.product} {what}, {serial}, port {one.usb.port}"))
        if one.native.formats:
            rows.append(("native", _native(one.native)))
        else:
            rows.append(("native", f"not known: {one.unknown}"))
        if _has_twin(one, found):
            rows.append(("beware", "another one like it is plugged in: which has which name depends on the port order"))
        rows.append(("setting", one.setting))
        yield from output.table([(f"  {name}", text) for name, text in rows])
        yield ""
    if others:
        yield "other names in ALSA's configuration"
        yield from (f"  alsa:{name}" for name in others)


def _native(native: Native) -> str:
    rates = " to ".join(map(str, native.rates_hz)) if native.is_range else ", ".join(map(str, native.rates_hz))
    channels = ", ".join(map(str, native.channels))
    return f"{', '.join(native.formats)}; {rates} Hz; channels: {channels}"


def _has_twin(one: Microphone, found: list[Microphone]) -> bool:
    """Whether ALSA can only tell it from another by the order in which the kernel found them."""

    def kind(each: Microphone) -> tuple[str, str] | None:
        return None if each.usb is None else (each.usb.vendor, each.usb.product)

    return kind(one) is not None and any(kind(each) == kind(one) and each.card != one.card for each in found)
