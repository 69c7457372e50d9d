"""ResilientWebSocket: the recorder's runtime for people who bring their own audio."""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from edge.adapters.http import HttpServerApi
from edge.adapters.websocket import WebSocketDialer
from edge.core.packet import AudioFormat
from edge.core.policy import Policy
from edge.core.session import State
from edge.errors import ConfigError, EdgeError, ServerRefused, Unreachable
from edge.runtime.device import Device
from edge.runtime.ports import Block, JsonObject, Source, SourceInfo
from edge.runtime.recording import Recording
from edge.runtime.uplink import Happening, RetryPolicy, Uplink, boot_clock
from edge.sources import open_source

EVENTS = (
    "open",
    "close",
    "message",
    "error",
    "reconnecting",
    "reconnected",
    "connectionFailed",
    "statusChanged",
    "networkChanged",
)
_READ_S = 0.5
Handler = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What the constructor takes by name; seconds, Hz and channels as in the configuration file."""

    max_reconnect_attempts: int = 10
    initial_reconnect_delay: float = 1.0
    max_reconnect_delay: float = 30.0
    grace_window: float = 120.0
    heartbeat_interval: float = 30.0
    connection_timeout: float = 10.0
    rate: int = 16000
    channels: int = 1
    packet_ms: int = 100
    segment_target_ms: int = 15000
    ring_seconds: float = 180.0
    source: str = "alsa:default"
    drain_timeout: float = 60.0


# The web client's names, all of whose times are milliseconds.
_WEB_NAMES: dict[str, tuple[str, float]] = {
    "maxReconnectAttempts": ("max_reconnect_attempts", 1),
    "initialReconnectDelay": ("initial_reconnect_delay", 0.001),
    "maxReconnectDelay": ("max_reconnect_delay", 0.001),
    "graceWindowMs": ("grace_window", 0.001),
    "heartbeatIntervalMs": ("heartbeat_interval", 0.001),
    "connectionTimeoutMs": ("connection_timeout", 0.001),
}


def read_options(given: dict[str, Any]) -> Options:
    """Options by either naming. Raises ConfigError for an unknown name or a value that is no positive number."""
    known = {field.name for field in fields(Options)}
    values: dict[str, Any] = {}
    for name, value in given.items():
        target, scale = _WEB_NAMES.get(name, (name, 1))
        if target not in known:
            raise ConfigError(f"{name} is no option of ResilientWebSocket", remedy=f"known: {', '.join(sorted(known))}")
        if target == "source":
            values[target] = str(value)
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"{name} = {value!r} must be a number above 0")
        values[target] = value if scale == 1 else value * scale
    return Options(**values)


class _PushSource:
    """A Source that is fed by `push`: at most as much as the ring has room for is held back."""

    can_wait = False

    def __init__(self, audio: AudioFormat, period_frames: int) -> None:
        self._audio = audio
        self._period_frames = period_frames
        self._blocks: queue.SimpleQueue[Block] = queue.SimpleQueue()
        self.waiting_frames = 0
        self._lock = threading.Lock()

    def push(self, block: Block, room_frames: int) -> int:
        """Hand over a block; returns the frames accepted. What does not fit stands as an overflow in the account."""
        frames = len(block.data) // self._audio.frame_bytes
        with self._lock:
            taken = max(0, min(frames, room_frames - self.waiting_frames))
            self.waiting_frames += taken
        data = memoryview(block.data)[: taken * self._audio.frame_bytes]
        self._blocks.put(Block(bytes(data), block.boot_s, block.lost_frames, block.cause, block.ended))
        if taken < frames:
            self._blocks.put(Block(b"", block.boot_s, frames - taken, "overflow"))
        return taken

    def open(self) -> SourceInfo:
        """Nothing to open."""
        return SourceInfo("pushed audio", self._audio, self._period_frames)

    def read(self) -> Block:
        """What was pushed next, or an empty block after half a second."""
        try:
            block = self._blocks.get(timeout=_READ_S)
        except queue.Empty:
            return Block(b"", boot_clock())
        with self._lock:
            self.waiting_frames -= len(block.data) // self._audio.frame_bytes
        return block

    def close(self) -> None:
        """Nothing to close."""


class ResilientWebSocket:
    """Sends audio to an aia-v4 server and keeps it until it is delivered, whatever the network does.

    `base_url` is http(s)://host[:port]; `auth_token` is a string, or a function that returns the current one. Options
    have the configuration's names (seconds) or the web client's (milliseconds). All methods belong to the running
    event loop.

    >>> import asyncio
    >>> from edge import ResilientWebSocket
    >>> async def talk(url: str, token: str) -> None:
    ...     ws = ResilientWebSocket(url, token, maxReconnectAttempts=5, graceWindowMs=120_000)
    ...     ws.on("statusChanged", lambda new, old: print(old, "->", new))
    ...     await ws.connect("agent", "event")
    ...     ws.send_audio(bytes(32000))  # one second of silence: 16 kHz, mono, 16 bit
    ...     account = await ws.close()
    ...     print(account["expected"], account["delivered"], account["lost"])
    >>> asyncio.run(talk(url, token))
    disconnected -> connecting
    connecting -> connected
    connected -> disconnected
    16000 16000 {}

    A handler that is no longer wanted is taken off again, and an unknown event is refused:

    >>> ws = ResilientWebSocket(url, token)
    >>> ws.on("message", print)
    >>> ws.off("message", print)
    >>> ws.on("massage", print)
    Traceback (most recent call last):
    ...
    edge.errors.ConfigError: 'massage' is no event; known: open, close, message, error, reconnecting, reconnected, \
connectionFailed, statusChanged, networkChanged
    >>> ws.get_status()["state"]
    'disconnected'
    """

    def __init__(self, base_url: str, auth_token: str | Callable[[], str], **options: Any) -> None:
        self._options = chosen = read_options(options)
        self._audio = AudioFormat(int(chosen.rate), int(chosen.channels))
        packet_frames, rest = divmod(self._audio.rate_hz * int(chosen.packet_ms), 1000)
        if rest:
            raise ConfigError(f"{chosen.packet_ms} ms at {chosen.rate} Hz are no whole number of frames")
        token = auth_token if callable(auth_token) else lambda: auth_token
        self._policy = Policy(
            self._audio,
            packet_frames,
            int(chosen.segment_target_ms),
            chosen.grace_window,
            chosen.heartbeat_interval,
            chosen.connection_timeout,
        )
        self._server = HttpServerApi(base_url, token, chosen.connection_timeout)
        dial = WebSocketDialer(base_url, token, str(uuid.uuid4()), chosen.connection_timeout)
        retry = RetryPolicy(
            int(chosen.max_reconnect_attempts), chosen.initial_reconnect_delay, chosen.max_reconnect_delay
        )
        self._uplink = Uplink(self._server, dial, self._policy, retry, self._told)
        self._handlers: dict[str, list[Handler]] = {event: [] for event in EVENTS}
        self._calls: set[asyncio.Future[Any]] = set()
        self._device: Device | None = None
        self._delivering: asyncio.Task[None] | None = None
        self._recording: Recording | None = None
        self._pushed: _PushSource | None = None
        self._feeder: _Feeder | None = None
        self._outcome: asyncio.Future[None] | None = None
        self._was_connected = False

    # --- events ----------------------------------------------------------------------------------------------------

    def on(self, event: str, handler: Handler) -> None:
        """Call `handler` at each `event`; it may be a coroutine function. Raises ConfigError for an unknown event."""
        self._list(event).append(handler)

    def off(self, event: str, handler: Handler) -> None:
        """Take `handler` off again; nothing happens where it was not on."""
        if handler in self._list(event):
            self._list(event).remove(handler)

    def _list(self, event: str) -> list[Handler]:
        if event not in self._handlers:
            raise ConfigError(f"{event!r} is no event", remedy=f"known: {', '.join(EVENTS)}")
        return self._handlers[event]

    def _emit(self, event: str, *arguments: object) -> None:
        for handler in tuple(self._handlers[event]):
            try:
                result = handler(*arguments)
            except Exception as error:  # a handler's bug must not cost audio
                if event != "error":
                    self._emit("error", error)
                continue
            if inspect.isawaitable(result):
                call = asyncio.ensure_future(result)
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)

    def _told(self, happening: Happening) -> None:
        detail = happening.detail or {}
        match happening.kind:
            case "state":
                self._state_changed(detail["new"], detail["old"])
            case "waiting":
                self._emit("reconnecting", detail["attempt"])
            case "message":
                self._emit("message", detail)
            case "lost" | "overflow" | "gap" | "warning" | "refused":
                self._emit("error", EdgeError(happening.text))

    def _state_changed(self, new: str, old: str) -> None:
        self._emit("statusChanged", new, old)
        if new == State.CONNECTED.value:
            self._emit("reconnected" if self._was_connected else "open")
            self._was_connected = True
            self._settle(None)
        elif new == State.FAILED.value:
            session = self._uplink.session
            failure = session.failure if session and session.failure else Unreachable("no connection")
            self._emit("connectionFailed", failure)
            self._settle(failure)

    def _settle(self, failure: EdgeError | None) -> None:
        if self._outcome is not None and not self._outcome.done():
            if failure is None:
                self._outcome.set_result(None)
            else:
                self._outcome.set_exception(failure)

    # --- the connection --------------------------------------------------------------------------------------------

    async def connect(self, agent: str, user: str) -> None:
        """Begin a recording for `agent`, filed under `user` as its event, and wait for the first connection.

        Raises ServerRefused, or Unreachable once the attempts are used up; audio sent is kept and probing goes on in
        both cases until `close`.
        """
        if self._device is not None:
            raise ConfigError("connect was already called", remedy="close first")
        if not agent or not user:
            raise ConfigError(
                "agent and user must not be empty", remedy="an aia-v4 server would take them and go wrong"
            )
        self._pushed = _PushSource(self._audio, self._policy.packet_frames)
        pushed = self._pushed
        settings: JsonObject = {"agent": agent, "event": user}
        self._device = Device(
            lambda: pushed, self._audio, self._policy, self._options.ring_seconds, settings, self._uplink, self._told
        )
        self._outcome = asyncio.get_running_loop().create_future()
        self._recording, _ = await self._device.start()
        self._delivering = asyncio.create_task(self._device.run(), name="deliver")
        await asyncio.wait([self._outcome, self._delivering], return_when=asyncio.FIRST_COMPLETED)
        if self._delivering.done():
            self._delivering.result()
        self._outcome.result()

    def send_audio(self, pcm: bytes | bytearray | memoryview, timestamp: float | None = None) -> int:
        """Take over signed 16-bit little-endian frames, channels interleaved; returns how many frames were accepted.

        `timestamp` is the capture time of the first frame in Unix milliseconds (now, if None). What a full ring
        refuses is counted as lost to overflow. Raises ConfigError before `connect` and for half frames.
        """
        if self._device is None or self._pushed is None:
            raise ConfigError("send_audio needs a connection", remedy="call connect first")
        if len(pcm) % self._audio.frame_bytes:
            raise ConfigError(f"{len(pcm)} bytes are no whole number of {self._audio.frame_bytes}-byte frames")
        boot_s = boot_clock()
        if timestamp is not None:
            boot_s += timestamp / 1000 - time.time()
        return self._pushed.push(Block(bytes(pcm), boot_s), self._device.ring.free_frames)

    def start_audio_capture(self) -> None:
        """Record from the option `source` into this connection. Its errors come as the event "error"."""
        if self._device is None or self._pushed is None:
            raise ConfigError("capture needs a connection", remedy="call connect first")
        if self._feeder is not None:
            raise ConfigError("capture is running", remedy="call stop_audio_capture first")
        source = open_source(self._options.source, self._audio, self._policy.packet_frames, "realtime")
        device, pushed, loop = self._device, self._pushed, asyncio.get_running_loop()
        self._feeder = _Feeder(
            source,
            lambda block: pushed.push(block, device.ring.free_frames),
            lambda error: loop.call_soon_threadsafe(self._emit, "error", error),
        )

    async def stop_audio_capture(self) -> None:
        """End what `start_audio_capture` began; what was captured is still delivered."""
        feeder, self._feeder = self._feeder, None
        if feeder is not None:
            await asyncio.to_thread(feeder.stop)

    def network_changed(self) -> None:
        """Tell that the network has changed: a wait for the next attempt ends at once."""
        self._emit("networkChanged")
        self._uplink.retry_now("the network has changed")

    def get_status(self) -> dict[str, Any]:
        """State, failure, seconds kept and unconfirmed, and the account in frames once there is one."""
        if self._device is None or self._recording is None:
            return {"state": State.DISCONNECTED.value, "failure": "", "account": None}
        status = self._device.status()
        return {
            "state": status.state.value,
            "failure": status.failure,
            "kept_s": status.ring_used,
            "unconfirmed_s": status.unhandled,
            "account": self._recording.account(),
        }

    async def close(self) -> dict[str, Any]:
        """End the recording, deliver for up to `drain_timeout` seconds, disconnect; returns the account in frames.

        What the account calls pending was not delivered and is gone with this object.
        """
        device, delivering, recording = self._device, self._delivering, self._recording
        if device is None or recording is None:
            return {}
        await self.stop_audio_capture()
        if self._pushed is not None:
            self._pushed.push(Block(b"", boot_clock(), ended=True), 0)
        await device.ended()
        if delivering is not None:
            delivered = asyncio.create_task(device.delivered())
            refused = asyncio.create_task(self._uplink.refused())
            await asyncio.wait(
                [delivered, refused, delivering],
                timeout=self._options.drain_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in (delivered, refused, delivering):
                task.cancel()
            await asyncio.wait([delivered, refused, delivering])
        await self._server.close()
        self._device = self._delivering = self._pushed = None
        self._was_connected = False
        account = recording.account()
        self._emit("close", account)
        if self._calls:
            await asyncio.wait(self._calls)
        return account


class _Feeder:
    """A thread that reads a source and hands over its blocks."""

    def __init__(self, source: Source, push: Callable[[Block], int], fail: Callable[[EdgeError], object]) -> None:
        self._source = source
        self._push = push
        self._fail = fail
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Wait for the read that is under way."""
        self._is_stopping = True
        self._thread.join()

    def _run(self) -> None:
        try:
            self._source.open()
            while not self._is_stopping:
                block = self._source.read()
                self._push(Block(block.data, block.boot_s, block.lost_frames, block.cause))
                if block.ended:
                    return
        except EdgeError as error:
            self._fail(error)
        finally:
            self._source.close()


__all__ = ["EVENTS", "Options", "ResilientWebSocket", "ServerRefused"]
