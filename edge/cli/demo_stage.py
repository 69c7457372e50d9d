"""Everything that a demo needs, put together: receiver, proxy, panel on mock pins, and the Device itself."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge import app
from edge.adapters.gpio import GpioPanel, PanelPins
from edge.adapters.state import StateDirectory
from edge.cli.demo_proxy import CuttableProxy
from edge.cli.demo_receiver import ReceiverProcess
from edge.cli.demo_source import ReadCounter
from edge.cli.demo_story import Actor, Story
from edge.config import load
from edge.core.packet import HEADER_BYTES, AudioFormat, decode_header, encode_header
from edge.core.session import State
from edge.errors import EdgeError
from edge.runtime.device import Status
from edge.runtime.recording import Recording

PINS = PanelPins()
RING_S = 40.0
_PRESS_S = 0.3  # how long a finger stays on a button
_END_S = 3.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a stage is told. `withheld` is the number of the packet that a sabotage keeps back."""

    out: Path
    private: Path
    source: Path
    grace_s: float
    first_delay_s: float
    withheld: int | None = None


class Stage:
    """An async context manager: inside, the proxy passes and the Device lives; afterwards nothing runs any more."""

    def __init__(self, settings: Settings, state: StateDirectory, story: Story) -> None:
        from gpiozero.pins.mock import MockFactory

        self.story = story
        self._stack = contextlib.AsyncExitStack()
        self.recording: Recording | None = None
        self.emitted = 0  # frames that the source gave, once the recording has ended
        self.error: EdgeError | None = None
        self.pressed = ""
        self.withheld = settings.withheld
        self.is_begun = asyncio.Event()
        self.is_ended = asyncio.Event()
        self._settings = settings
        token_file = settings.private / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(secrets.token_urlsafe(24) + "\n", encoding="ascii")
        self.received = settings.out / "received"
        self.receiver = ReceiverProcess(self.received, token_file, settings.grace_s, settings.out / "receiver.log")
        self.proxy = CuttableProxy(self.receiver.port)
        loaded = load(
            None,
            {
                "server.url": self.proxy.url,
                "server.token_file": str(token_file),
                "audio.source": f"wav:{settings.source}",
                "connection.grace_window": settings.grace_s,
                "connection.initial_reconnect_delay": settings.first_delay_s,
                "buffer.ring_seconds": RING_S,
            },
        )
        self._pins = MockFactory()
        self._panel = GpioPanel(PINS, self._pins)
        self._app = app.build(loaded, state, self._tell, "realtime", self._panel)
        self.device = self._app.device
        self._is_connected = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._panel.on_press(self._in_loop(self._record_pressed), self._in_loop(self._retry_pressed))
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.receiver.close)
            stack.push_async_callback(self.proxy.close)
            stack.push_async_callback(self.receiver.end)
            stack.push_async_callback(self._app.server.close)
            stack.callback(self._pins.close)
            stack.callback(self._panel.close)
            # Before its folder goes: the thread that writes there.
            stack.push_async_callback(self._app.store.spooler.close, _END_S)
            stack.push_async_callback(self._end)
            await self.proxy.mend()
            self._task(self.device.run())
            self._task(self.device.show())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _end(self) -> None:
        """Stop what still records, then everything that runs."""
        self.device.stop()
        if self.is_begun.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await self.is_ended.wait()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- what a person does ------------------------------------------------------------------------------------------

    async def press_record(self) -> None:
        """A finger on RECORD."""
        await self._press(PINS.record_button, "RECORD")

    async def press_retry(self) -> None:
        """A finger on RETRY."""
        await self._press(PINS.retry_button, "RETRY")

    async def _press(self, number: int, name: str) -> None:
        self.story.say(Actor.BUTTON, f"{name} is pressed (GPIO {number} pulled low)")
        pin, self.pressed = self._pins.pin(number), name
        pin.drive_low()
        await asyncio.sleep(_PRESS_S)  # the finger rests
        pin.drive_high()
        self.pressed = ""

    def leds(self) -> tuple[bool, bool]:
        """What somebody before the panel sees: REC lit, SAFE lit."""
        return self._pins.pin(PINS.record_led).state, self._pins.pin(PINS.safe_led).state

    # --- what the course waits for -----------------------------------------------------------------------------------

    async def connected(self) -> None:
        """Wait until audio can flow."""
        await self._is_connected.wait()

    def status(self) -> Status:
        """The Device now; also a point of both curves."""
        recording = self.recording
        if recording is not None:
            seconds = recording.audio.seconds
            ledger, session = recording.ledger, self.sessions[-1] if self.sessions else ""
            self.story.sample(seconds(ledger.expected), seconds(ledger.delivered_frames), session)
        return self.device.status()

    @property
    def sessions(self) -> list[str]:
        """The sessions of the recording, short, oldest first."""
        return [session_id[:8] for session_id in self.recording.session_ids] if self.recording else []

    # --- inside ------------------------------------------------------------------------------------------------------

    def _tell(self, happening: Any) -> None:
        if happening.kind == "state":
            if happening.detail and happening.detail.get("new") == State.CONNECTED.value:
                self._is_connected.set()
            else:
                self._is_connected.clear()
        self.story.tell(happening)

    def _in_loop(self, function: Callable[[], None]) -> Callable[[], None]:
        """`function`, callable from a thread of the pin library."""

        def call() -> None:
            self._loop.call_soon_threadsafe(function)

        return call

    def _retry_pressed(self) -> None:
        self.device.retry_now("RETRY was pressed")

    def _record_pressed(self) -> None:
        if self.device.is_recording:
            self.device.stop()
        elif self.recording is None:
            self._task(self._record())

    async def _record(self) -> None:
        """One recording, from the press to its end."""
        try:
            recording, _ = await self.device.start()
        except EdgeError as error:
            self.error = error
            self.is_begun.set()
            self.is_ended.set()
            return
        counter = ReadCounter(self._settings.source)
        if self.withheld is not None:
            recording.wire = withholding(recording.wire, recording.audio, self.withheld)
        self.recording = recording
        self.is_begun.set()
        try:
            self.error = await self.device.ended()
        finally:
            self.emitted = counter.frames()
            counter.close()
            self.is_ended.set()

    def _task(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self.error = error if isinstance(error, EdgeError) else EdgeError(f"a task broke: {type(error).__name__}")
            self.story.say(Actor.RECORDER, str(self.error))
            self.is_begun.set()
            self.is_ended.set()


def withholding(wire: Callable[[int], bytes | None], audio: AudioFormat, seq: int) -> Callable[[int], bytes | None]:
    """`wire`, but of packet `seq` only one frame goes out: the receiver takes it, and misses the rest unawares."""

    def thinned(number: int) -> bytes | None:
        packet = wire(number)
        if number != seq or packet is None:
            return packet
        header = decode_header(packet)
        first = packet[HEADER_BYTES : HEADER_BYTES + audio.frame_bytes]
        return encode_header(number, header.captured_unix_ms, 1, audio) + first

    return thinned
