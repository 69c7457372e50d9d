"""ResilientWebSocket: the recorder's runtime for people who bring their own audio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import math
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge.adapters.clock import SystemClock
from edge.adapters.http import HttpServerApi
from edge.adapters.push import Feeder, PushSource
from edge.adapters.token import Given, TokenFunction
from edge.adapters.websocket import WebSocketDialer
from edge.adapters.wire import Connector, TlsFiles
from edge.core.packet import AudioFormat
from edge.core.policy import Policy
from edge.core.session import State
from edge.errors import ConfigError, EdgeError, ServerRefused, Unreachable
from edge.links import clock_rescue, link_watch, steer
from edge.runtime.attempts import RetryPolicy
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.device import Device
from edge.runtime.fresh import FreshServer
from edge.runtime.happening import Happening
from edge.runtime.ports import Block, JsonObject
from edge.runtime.recording import Recording
from edge.runtime.refresher import Refresher
from edge.runtime.uplink import Uplink, boot_clock
from edge.settings import KEYS, clashes
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
_log = logging.getLogger("edge.client")
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
    allow_insecure: bool = False
    link_watch: bool = True
    proxy: str = ""
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    drain_timeout: float = 60.0


# Where each option stands in the configuration, whose rule it has to keep.
_KEYS = {
    "max_reconnect_attempts": "connection.max_reconnect_attempts",
    "initial_reconnect_delay": "connection.initial_reconnect_delay",
    "max_reconnect_delay": "connection.max_reconnect_delay",
    "grace_window": "connection.grace_window",
    "heartbeat_interval": "connection.heartbeat_interval",
    "connection_timeout": "connection.connection_timeout",
    "rate": "audio.rate",
    "channels": "audio.channels",
    "packet_ms": "audio.packet_ms",
    "segment_target_ms": "audio.segment_target_ms",
    "ring_seconds": "buffer.ring_seconds",
    "source": "audio.source",
    "allow_insecure": "server.allow_insecure",
    "link_watch": "connection.link_watch",
    "proxy": "connection.proxy",
    "ca_file": "server.ca_file",
    "client_cert": "server.client_cert",
    "client_key": "server.client_key",
    "drain_timeout": "",
}
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
    """Options by either naming. Raises ConfigError for an unknown name and for a value that the configuration would
    refuse."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        target, scale = _WEB_NAMES.get(name, (name, 1))
        if target not in _KEYS:
            raise ConfigError(f"{name} is no option of ResilientWebSocket", remedy=f"known: {', '.join(sorted(_KEYS))}")
        if target in values:
            raise ConfigError(f"{name} is given twice, by both of its names")
        values[target] = _checked(name, target, value, scale)
    return Options(**values)


def _checked(name: str, target: str, value: Any, scale: float) -> Any:
    known = KEYS.get(_KEYS[target])
    kind = known.type if known else float
    if kind in (str, bool):
        is_right = isinstance(value, kind)
    else:
        is_right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        is_right = is_right and (kind is float or value == int(value))
    rule = known.setting.rule.text if known else "above 0"
    if is_right:
        value = value if kind in (str, bool) else kind(value * scale if scale != 1 else value)
        is_right = known.setting.rule.fault(value) is None if known else value > 0
    if not is_right:
        raise ConfigError(f"{name} must be {rule}" + (" (here in milliseconds: x 1000)" if scale != 1 else ""))
    return value


class ResilientWebSocket:
    """Sends audio to an aia-v4 server and keeps it until it is delivered, whatever the network does.

    `base_url` is http(s)://host[:port]; `auth_token` is a string, or a function (an async one, too) that returns the
    current one: it is asked before each attempt, and at once when the server refuses what it said. Options have the
    configuration's names (seconds) or the web client's (milliseconds). All methods belong to the running event loop.

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

    def __init__(self, base_url: str, auth_token: Given, **options: Any) -> None:
        self._options = chosen = read_options(options)
        _check(base_url, chosen)
        self._audio = AudioFormat(chosen.rate, chosen.channels)
        self._policy = Policy(
            self._audio,
            chosen.rate * chosen.packet_ms // 1000,
            chosen.segment_target_ms,
            chosen.grace_window,
            chosen.heartbeat_interval,
            chosen.connection_timeout,
        )
        files = TlsFiles(chosen.ca_file, chosen.client_cert, chosen.client_key)
        rescue = clock_rescue(self._told)
        self._connector = connector = Connector(base_url, proxy=chosen.proxy, files=files, rescue=rescue)
        source = TokenFunction(auth_token, chosen.connection_timeout)
        self._tokens = tokens = Refresher(source, lambda kind, text: self._told(Happening(kind, text)), boot_clock)
        self._server = HttpServerApi(base_url, tokens.current, chosen.connection_timeout, connector)
        dial = WebSocketDialer(base_url, tokens.current, str(uuid.uuid4()), chosen.connection_timeout, connector)
        retry = RetryPolicy(chosen.max_reconnect_attempts, chosen.initial_reconnect_delay, chosen.max_reconnect_delay)
        fresh = FreshServer(self._server, tokens)
        self._uplink = Uplink(fresh, dial, self._policy, retry, self._told, tokens=tokens)
        tokens.on_new = self._uplink.try_again
        self._handlers: dict[str, list[Handler]] = {event: [] for event in EVENTS}
        self._calls: set[asyncio.Future[Any]] = set()
        self._closers: set[asyncio.Future[Any]] = set()
        self._device: Device | None = None
        self._delivering: asyncio.Task[None] | None = None
        self._recording: Recording | None = None
        self._pushed: PushSource | None = None
        self._feeder: Feeder | None = None
        self._outcome: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[dict[str, Any]] | None = None
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
            except Exception as error:  # noqa: BLE001  (a handler's bug must not cost audio)
                self._handler_failed(event, error)
                continue
            if inspect.isawaitable(result):
                call = asyncio.ensure_future(result)
                self._calls.add(call)
                call.add_done_callback(functools.partial(self._handled, event))

    def _handled(self, event: str, call: asyncio.Future[Any]) -> None:
        self._calls.discard(call)
        error = None if call.cancelled() else call.exception()
        if error is not None:
            self._handler_failed(event, error)

    def _handler_failed(self, event: str, error: BaseException) -> None:
        if event == "error":  # nobody is left who could be told
            _log.error("a handler of error failed: %s", type(error).__name__)
        else:
            self._emit("error", error)

    def _told(self, happening: Happening) -> None:
        detail = happening.detail or {}
        match happening.kind:
            case "state":
                self._state_changed(detail["new"], detail["old"])
            case "waiting":
                self._emit("reconnecting", detail["attempt"])
            case "link":
                self._emit("networkChanged")
            case "message":
                self._emit("message", detail)
            case "lost" | "overflow" | "gap" | "warning" | "refused" | "bug":
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
                self._outcome.exception()  # `connect` may have been cancelled

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
        ring_seconds = self._options.ring_seconds
        pushed = PushSource(self._audio, self._policy.packet_frames, int(ring_seconds * self._audio.rate_hz))
        settings: JsonObject = {"agent": agent, "event": user}
        self._device = device = Device(
            lambda: pushed,
            self._audio,
            self._policy,
            ring_seconds,
            settings,
            self._uplink,
            self._told,
            clock=ClockWatch(SystemClock(), self._told),
            watch=link_watch(self._told) if self._options.link_watch else None,
        )
        steer(self._connector, device)
        self._pushed, self._closing = pushed, None
        self._outcome = outcome = asyncio.get_running_loop().create_future()
        self._recording, _ = await device.start()
        self._delivering = delivering = asyncio.create_task(device.run(), name="deliver")
        await asyncio.wait([outcome, delivering], return_when=asyncio.FIRST_COMPLETED)
        if not outcome.done():
            raise Unreachable("closed before there was a connection")
        outcome.result()

    def send_audio(self, pcm: bytes | bytearray | memoryview, timestamp: float | None = None) -> int:
        """Take over signed 16-bit little-endian frames, channels interleaved; returns how many frames were accepted.

        `timestamp` is the capture time of the first frame in Unix milliseconds (now, if None). What a full ring
        refuses is counted as lost to overflow. Raises ConfigError before `connect` and for half frames.
        """
        if self._device is None or self._pushed is None:
            raise ConfigError("send_audio needs a connection", remedy="call connect first")
        data = bytes(pcm)
        if len(data) % self._audio.frame_bytes:
            raise ConfigError(f"{len(data)} bytes are no whole number of {self._audio.frame_bytes}-byte frames")
        boot_s = boot_clock()
        if timestamp is not None:
            if not math.isfinite(timestamp):
                raise ConfigError(f"{timestamp} is no time")
            boot_s += timestamp / 1000 - time.time()
        return self._pushed.push(Block(data, boot_s), self._device.ring.tail)

    def start_audio_capture(self) -> None:
        """Record from the option `source` into this connection. Its errors come as the event "error"."""
        if self._device is None or self._pushed is None:
            raise ConfigError("capture needs a connection", remedy="call connect first")
        if self._feeder is not None and self._feeder.is_running:
            raise ConfigError("capture is running", remedy="call stop_audio_capture first")
        source = open_source(self._options.source, self._audio, self._policy.packet_frames, "realtime")
        device, pushed, loop = self._device, self._pushed, asyncio.get_running_loop()

        def fail(error: EdgeError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._emit, "error", error)

        self._feeder = Feeder(source, lambda block: pushed.push(block, device.ring.tail), fail)

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

        What the account calls pending was not delivered and is gone with this object. A second call returns the same.
        """
        if self._closing is None:
            if self._device is None:
                return {}
            self._closing = asyncio.create_task(self._close(self._device), name="close")
        caller = asyncio.current_task()
        if caller is not None:
            self._closers.add(caller)
        try:
            return await asyncio.shield(self._closing)
        finally:
            self._closers.discard(caller)

    async def _close(self, device: Device) -> dict[str, Any]:
        await self.stop_audio_capture()
        pushed, self._pushed = self._pushed, None
        if pushed is not None:
            pushed.push(Block(b"", boot_clock(), ended=True), device.ring.tail)
        await device.ended()
        if self._delivering is not None:
            await self._drain(device, self._delivering)
        await self._tokens.close()
        await self._server.close()
        self._device = self._delivering = None
        self._was_connected = False
        account = self._recording.account() if self._recording is not None else {}
        self._emit("close", account)
        # A handler that waits for this very end is not waited for.
        calls = self._calls - self._closers
        if calls:
            await asyncio.wait(calls, timeout=self._options.connection_timeout)
        return account

    async def _drain(self, device: Device, delivering: asyncio.Task[None]) -> None:
        waits = [delivering, asyncio.create_task(device.delivered()), asyncio.create_task(device.refused())]
        try:
            await asyncio.wait(waits, timeout=self._options.drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.wait(waits)


def _check(url: str, chosen: Options) -> None:
    """Raises ConfigError for an address that is none, and for options that do not fit together."""
    rule = KEYS["server.url"].setting.rule
    fault = rule.fault(url) if url else ""
    if fault is not None:
        allowed = rule.text.replace(", or empty", "")
        raise ConfigError(f"base_url must be {allowed}" + (f": {fault}" if fault else ""))
    values = {known.key: known.default for known in KEYS.values()} | {"server.url": url}
    values |= {key: getattr(chosen, name) for name, key in _KEYS.items()}
    for clash in clashes(values):
        name = next((name for name, key in _KEYS.items() if key == clash.key), "base_url")
        raise ConfigError(f"{name}: {clash.rule}")


__all__ = ["EVENTS", "Options", "ResilientWebSocket", "ServerRefused"]
