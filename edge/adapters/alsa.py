"""A microphone through ALSA (pyalsaaudio >= 0.11): opened, compared with what was asked, read without ever hanging.

The stream is non-blocking and `poll` waits for it, which is bounded on kernel devices and on plugins alike. libasound
can still hang while it opens or closes a *plugin* device whose server is frozen, and pyalsaaudio holds the GIL then:
`close` avoids the second, and `open` asks first in a way in which only its own thread hangs.

What was opened once is remembered, and another microphone in its place is refused.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import select
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edge.core.frameclock import FrameClock
from edge.core.packet import AudioFormat
from edge.errors import MicrophoneError
from edge.runtime.ports import Block, SourceInfo

_BUFFER_S = 2.0  # what ALSA holds for us: a pause of the interpreter below this loses nothing
_SHORT_BUFFER_S = 1.0  # below this a person should know
_READ_S = 1.0  # a read returns after this at the latest
_SLICE_S = 0.25  # so fast `abandon` ends a read when no sound arrives
_START_S = 5.0  # the first frames may take this long (PulseAudio: 1.6 to 2 s), after an overrun as well
_GONE_S = 2.0  # silence of the device, not of the room: then it is gone
_PLUG_IN = "plug it in again"
_STALE_STAMP_S = 60.0  # a driver's time stamp older than this is none
_INDEX = re.compile(r"(?P<plugin>\w+):(?:CARD=)?(?P<card>\d+)(?:,(?:DEV=)?(?P<device>\d+))?(?:,.*)?\Z")
_OF_CARD = re.compile(r"(?P<plugin>\w+):(?:CARD=)?(?P<card>[\w-]+)(?:,(?:DEV=)?(?P<device>\d+))?\Z")
_CAPTURE, _NONBLOCK = 1, 1  # SND_PCM_STREAM_CAPTURE, SND_PCM_NONBLOCK
_KERNEL_SLACK_S = 0.05  # how far frames of a kernel device may lag behind the clock beyond a period
_PLUGIN_SLACK_S = 0.25  # and those of a plugin, behind which a server makes bursts


def load() -> ModuleType:
    """Return the module alsaaudio. Raises MicrophoneError, naming what to install, where it is absent or too old."""
    remedy = "install pyalsaaudio 0.11 or newer: pip install 'edge-recorder[alsa]'"
    try:
        import alsaaudio
    except ImportError as error:
        raise MicrophoneError(f"no microphone can be opened without pyalsaaudio ({error})", remedy=remedy) from None
    if not hasattr(alsaaudio.PCM, "polldescriptors_revents"):
        raise MicrophoneError("this pyalsaaudio is older than 0.11, which hides overruns", remedy=remedy)
    _silence_libasound()
    module: ModuleType = alsaaudio
    return module


def _silence_libasound() -> None:
    """Keep libasound from writing its own lines to stderr: what matters comes back as an error.

    Its error handler becomes a C function that ignores all arguments (no Python callback: that would need executable
    memory, which the systemd unit forbids).
    """
    with contextlib.suppress(OSError, AttributeError):
        nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
        ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler(nothing)


def stable_name(device: str, proc: Path = Path("/proc/asound")) -> str:
    """Return the name by card id of a device that is named by card index (`hw:1,0`); empty for any other device."""
    found = _INDEX.match(device)
    if found is None:
        return ""
    try:
        card = (proc / f"card{found['card']}" / "id").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
    return f"{found['plugin']}:CARD={card},DEV={found['device'] or 0}"


# --- which microphone it is ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Usb:
    """Which plug it is; `port` is the path of sockets from the computer on, the same after each boot."""

    vendor: str
    product: str
    manufacturer: str
    model: str
    serial: str
    port: str


def usb_of(card: int, root: Path = Path("/")) -> Usb | None:
    """Return the plug of a card: its sound interface lies in sysfs inside the USB device."""
    plug = _device_of(card, root).parent
    if not (plug / "idVendor").is_file():
        return None
    names = ("idVendor", "idProduct", "manufacturer", "product", "serial")
    vendor, product, manufacturer, model, serial = (_text(plug / name) for name in names)
    return Usb(vendor, product, manufacturer, model, serial, plug.name)


def identities_of(card: int, root: Path = Path("/")) -> tuple[str, ...]:
    """Return what tells a card from others at any boot, the best first; empty where there is no such card.

    A USB device is known by its serial number and by the socket that it is in, always with vendor and product; any
    other by its place in the machine.
    """
    usb = usb_of(card, root)
    if usb is not None:
        ways = (f"serial {usb.serial}" if usb.serial else "", f"port {usb.port}")
        return tuple(f"usb {usb.vendor}:{usb.product} {way}" for way in ways if way)
    device = _device_of(card, root)
    return (f"at {device.relative_to((root / 'sys').resolve())}",) if device.exists() else ()


def identity_of(card: int, root: Path = Path("/")) -> str:
    """Return the best of them that no other card has (makers do give all of a kind one serial number); or nothing."""
    others = {one for number in _cards(root) if number != card for one in identities_of(number, root)}
    return next((one for one in identities_of(card, root) if one not in others), "")


def name_now(device: str, identity: str, root: Path = Path("/")) -> str:
    """Return `device` by the id that the card of that identity has now: a card that comes back may have got another
    one, while a program still holds what it was before."""
    named = _OF_CARD.match(device)
    there = [number for number in _cards(root) if identity in identities_of(number, root)] if named else []
    ids = [_text(root / "sys" / "class" / "sound" / f"card{number}" / "id") for number in there]
    if named is None or not any(ids) or named["card"] in (*ids, *map(str, there)):
        return device
    return f"{named['plugin']}:CARD={ids[0]},DEV={named['device'] or 0}"


def _cards(root: Path) -> list[int]:
    names = (path.name.removeprefix("card") for path in (root / "sys" / "class" / "sound").glob("card*"))
    return sorted(int(name) for name in names if name.isdecimal())


def _device_of(card: int, root: Path) -> Path:
    return (root / "sys" / "class" / "sound" / f"card{card}" / "device").resolve()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _ask(device: str) -> None:
    """Open and close a plugin device without the GIL: if its server hangs, then this thread and nothing else does.

    What it answers does not matter, only that it does.
    """
    with contextlib.suppress(OSError, AttributeError):
        library, handle = ctypes.CDLL("libasound.so.2"), ctypes.c_void_p()
        if library.snd_pcm_open(ctypes.byref(handle), device.encode(), _CAPTURE, _NONBLOCK) == 0:
            library.snd_pcm_close(handle)


# --- the source ------------------------------------------------------------------------------------------------------


class AlsaSource:
    """One ALSA capture device; implements `Source`.

    `open`, `read` and `close` belong to the capture thread. `abandon` may be called from any thread and ends a read
    within 0.25 s (that and all later ones return empty and `ended`); so does `close`, which then waits for it.
    """

    def __init__(
        self, device: str, audio: AudioFormat, period_frames: int = 0, identity: str = "", root: Path = Path("/")
    ) -> None:
        """`period_frames` 0 stands for 100 ms; 20 to 100 ms are sensible. `identity` is the only microphone that will
        do, empty: the first that is opened. `root` is where /sys is."""
        self.device = device
        self.audio = audio
        self._identity = identity
        self._root = root
        self._asked_period = period_frames or audio.rate_hz // 10
        self._period = self._asked_period
        self._pcm: Any = None
        self._is_kernel = False
        self._buffer = 0
        self._poll = select.poll()
        self._clock = FrameClock(audio.rate_hz, 0)
        self._monotone_s = 0.0
        self._heard_s = 0.0
        self._patience_s = _START_S
        self._restarted = False
        self._is_stuck = False
        self._failure: type[Exception] = MicrophoneError  # pyalsaaudio's own, once that is loaded
        self._was_closed = False
        self._abandoned = threading.Event()
        self._lock = threading.Lock()

    @property
    def can_wait(self) -> bool:
        """A microphone does not wait."""
        return False

    @property
    def can_return(self) -> bool:
        """And it can be plugged in again."""
        return True

    # --- open --------------------------------------------------------------------------------------------------------

    def open(self) -> SourceInfo:
        """Open the device, start it and compare what it gives with what was asked. Raises MicrophoneError.

        So it does, too, for any other microphone than the one that was opened before.
        """
        alsaaudio = load()
        self._failure = alsaaudio.ALSAAudioError
        if self._was_closed:
            self._abandoned.clear()
        device = name_now(self.device, self._identity, self._root)
        if not device.startswith(("hw:", "plughw:")):
            _ask(device)
        try:
            pcm = alsaaudio.PCM(
                type=alsaaudio.PCM_CAPTURE,
                mode=alsaaudio.PCM_NONBLOCK,
                device=device,
                rate=self.audio.rate_hz,
                channels=self.audio.channels,
                format=alsaaudio.PCM_FORMAT_S16_LE,
                periodsize=self._asked_period,
                periods=max(2, round(_BUFFER_S * self.audio.rate_hz / self._asked_period)),
            )
        except self._failure as error:
            raise self._absent(str(error)) from None
        self._pcm, self._is_stuck = pcm, False
        try:
            return self._start(alsaaudio, pcm.info())
        except self._failure as error:
            self.close()
            raise self._gone(str(error)) from None
        except MicrophoneError:
            self.close()
            raise

    def _start(self, alsaaudio: ModuleType, info: dict[str, Any]) -> SourceInfo:
        identity = self._same(info["card_no"])
        self._refuse_other_format(alsaaudio, info)
        self._is_kernel = info["card_no"] >= 0
        self._period, self._buffer = info["period_size"], info["buffer_size"]
        notes = tuple(self._notes(info))
        with contextlib.suppress(RuntimeError):  # a plugin without stamps: then the time of asking must do
            self._pcm.set_tstamp_mode(alsaaudio.PCM_TSTAMP_ENABLE)
            self._pcm.set_tstamp_type(alsaaudio.PCM_TSTAMP_TYPE_MONOTONIC)
        self._poll = select.poll()
        for descriptor, events in self._pcm.polldescriptors():
            self._poll.register(descriptor, events)
        slack_s = _KERNEL_SLACK_S if self._is_kernel else _PLUGIN_SLACK_S
        self._clock = FrameClock(self.audio.rate_hz, self._period + round(slack_s * self.audio.rate_hz))
        self._expect_frames(_START_S)
        self._restarted = False
        self._pcm.read()  # empty: it starts the stream
        self._identity = identity
        return SourceInfo(f"alsa:{self.device}", self.audio, self._period, notes, identity)

    def _same(self, card: int) -> str:
        """Return who is open; not even started if it is another one than before. A plugin has only its name."""
        if self._identity in identities_of(card, self._root):
            return self._identity
        identity = identity_of(card, self._root) or f"alsa:{self.device}"
        if self._identity not in ("", identity):
            _, _, port = self._identity.partition(" port ")
            back = f"plug the right one into USB port {port} again" if port else "plug the right one in again"
            raise MicrophoneError(
                f"microphone {self.device} is another one: {identity}, not {self._identity}",
                means="it is not recorded",
                remedy=f"{back}, or name this one in audio.fallback",
            )
        return identity

    def _refuse_other_format(self, alsaaudio: ModuleType, info: dict[str, Any]) -> None:
        given = (info["rate"], info["channels"], info["format"])
        if given == (
            self.audio.rate_hz,
            self.audio.channels,
            alsaaudio.PCM_FORMAT_S16_LE,
        ):
            return
        remedy = f"set audio.rate = {info['rate']} and audio.channels = {info['channels']}"
        if self.device.startswith("hw:"):
            remedy += f", or audio.source = alsa:plug{stable_name(self.device) or self.device} and ALSA converts"
        if info["format"] != alsaaudio.PCM_FORMAT_S16_LE and given[:2] == (
            self.audio.rate_hz,
            self.audio.channels,
        ):
            remedy = f"use the plughw: name of it (edge devices), then ALSA converts {info['format_name']}"
        raise MicrophoneError(
            f"microphone {self.device} gives {info['rate']} Hz, {info['channels']} channels, {info['format_name']}, "
            f"not the {self.audio.rate_hz} Hz, {self.audio.channels} channels, S16_LE that were asked for",
            remedy=remedy,
        )

    def _notes(self, info: dict[str, Any]) -> Iterator[str]:
        stable = stable_name(self.device)
        if stable:
            yield f"{self.device} may be another card after the next boot; its stable name is alsa:{stable}"
        if self.device == "default":
            yield "what `default` is can change; `edge devices` shows the names of the microphones themselves"
        if info["period_size"] != self._asked_period:
            yield f"the period is {info['period_size']} frames, not the {self._asked_period} that were asked for"
        if info["buffer_size"] < _SHORT_BUFFER_S * self.audio.rate_hz:
            held = 1000 * info["buffer_size"] / self.audio.rate_hz
            yield f"ALSA buffers only {held:.0f} ms: a longer pause of this program loses frames"
        if self._is_kernel and not self.device.startswith("hw:"):
            native = native_parameters(info["card_no"], info["device_no"], info["subdevice_no"])
            if native[0] and native != ("S16_LE", self.audio.rate_hz, self.audio.channels):
                yield f"ALSA converts from what the microphone gives: {native[0]}, {native[1]} Hz, {native[2]} channels"

    # --- read --------------------------------------------------------------------------------------------------------

    def read(self) -> Block:
        """Return the frames that are there, at most one period, as soon as one is; empty after 1 s without any.

        Raises MicrophoneError when the device is unplugged, fails, or gives no frame for 2 s (at the start 5 s).
        """
        with self._lock:
            if self._pcm is None and not self._abandoned.is_set():
                raise MicrophoneError(f"microphone {self.device} is not open")
            end_s = time.monotonic() + _READ_S
            while not self._abandoned.is_set():
                now_s = time.monotonic()
                if now_s >= end_s:
                    if now_s - self._heard_s >= self._patience_s:
                        self._is_stuck = not self._is_kernel
                        raise self._gone(f"no frame for {now_s - self._heard_s:.1f} s")
                    return Block(b"", _boot_s())
                try:
                    block = self._attempt(min(_SLICE_S, end_s - now_s))
                except self._failure as error:
                    raise self._gone(str(error)) from None
                if block is not None:
                    return block
            return Block(b"", _boot_s(), ended=True)

    def _attempt(self, wait_s: float) -> Block | None:
        """Wait for frames, at most `wait_s` seconds, and take them if there are any."""
        pcm = self._pcm
        ready = self._poll.poll(1000 * wait_s)
        if not ready:
            return None
        if not self._is_kernel:
            pcm.polldescriptors_revents(ready)  # a plugin clears its descriptors here
        boot_s, waiting = self._first_frame()
        frames, data = pcm.read()
        if frames < 0:  # overrun: what ALSA held is gone, the stream is prepared again, the next read starts it
            self._restarted = True
            self._expect_frames(_START_S)
            pcm.read()
            return None
        if frames == 0:  # a plugin that wakes us in vain must not spin
            self._abandoned.wait(self._period / self.audio.rate_hz / 4)
            return None
        caught_up = waiting - frames < self._period
        lost = self._clock.lost_before(boot_s, restarted=self._restarted, has_caught_up=caught_up)
        self._restarted = False
        self._expect_frames(_GONE_S)
        self._monotone_s = max(self._monotone_s, self._clock.stamp(frames))
        return Block(data, self._monotone_s, lost, "xrun" if lost else "")

    def _first_frame(self) -> tuple[float, int]:
        """When the oldest frame that waits was captured, by the boot clock in seconds, and how many wait.

        By the driver's own stamp where it has one (a plugin may answer with garbage), else by the time of asking.
        """
        seconds, nanoseconds, waiting = self._pcm.htimestamp()
        now_s = time.monotonic()
        stamp_s = seconds + nanoseconds / 1e9
        if not (0.0 <= now_s - stamp_s < _STALE_STAMP_S and 0 < waiting <= self._buffer):
            stamp_s, waiting = now_s, max(0, self._pcm.avail())
        return stamp_s + (_boot_s() - now_s) - waiting / self.audio.rate_hz, waiting

    def _expect_frames(self, within_s: float) -> None:
        self._heard_s, self._patience_s = time.monotonic(), within_s

    # --- close -------------------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """End the read that is under way and all later ones, from any thread."""
        self._abandoned.set()

    def close(self) -> None:
        """Let the device go. A plugin that no longer answers is leaked instead: closing it would never return."""
        self._abandoned.set()
        with self._lock:
            self._was_closed = True
            pcm, self._pcm = self._pcm, None
            if pcm is None:
                return
            if self._is_stuck:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(pcm))
            else:
                with contextlib.suppress(self._failure):  # a device that is gone cannot even be stopped
                    pcm.close()

    # --- errors ------------------------------------------------------------------------------------------------------

    def _absent(self, text: str) -> MicrophoneError:
        remedy = _PLUG_IN if self._identity else "`edge devices` lists what is there"
        if "busy" in text.lower():
            remedy = "another program records from it: stop that"
        if "permission" in text.lower():
            remedy = "add the user to the group audio"
        return MicrophoneError(
            f"microphone {self.device} cannot be opened: {_bare(text)}", "nothing is recorded", remedy
        )

    def _gone(self, text: str) -> MicrophoneError:
        return MicrophoneError(
            f"microphone {self.device} is gone: {_bare(text)}", "what it gave until then is there", _PLUG_IN
        )


def native_parameters(
    card: int, device: int, subdevice: int, proc: Path = Path("/proc/asound")
) -> tuple[str, int, int]:
    """Return the format name, Hz and channels that an opened kernel device really runs at; ("", 0, 0) if unknown."""
    try:
        text = (proc / f"card{card}/pcm{device}c/sub{subdevice}/hw_params").read_text(encoding="ascii")
        values = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        return values["format"], int(values["rate"].split()[0]), int(values["channels"])
    except (OSError, KeyError, ValueError, IndexError):
        return "", 0, 0


def _bare(text: str) -> str:
    """Return libasound's text without the device name that pyalsaaudio puts behind it."""
    return re.sub(r" \[[^\]]*\]\Z", "", text)


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
