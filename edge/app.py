"""The composition root: from a configuration to the one Device, and what it leaves when the process has to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge import config as configuration
from edge.adapters import pending
from edge.adapters.http import HttpServerApi
from edge.adapters.state import StateDirectory
from edge.adapters.websocket import WebSocketDialer
from edge.config import Loaded
from edge.core.packet import AudioFormat
from edge.core.policy import Policy
from edge.errors import ConfigError, EdgeError
from edge.runtime.device import Device
from edge.runtime.ports import JsonObject, Panel
from edge.runtime.recording import Recording
from edge.runtime.uplink import Happening, RetryPolicy, Uplink
from edge.settings import Config
from edge.sources import Pace, open_source, own_audio


@dataclass(frozen=True, slots=True)
class App:
    """A Device with what has to outlive it."""

    device: Device
    server: HttpServerApi
    state: StateDirectory
    tell: Callable[[Happening], None]
    shutdown_drain_s: float

    def owe_kept(self) -> int:
        """Hand over what earlier runs could not deliver; returns how many recordings that is."""
        found = list(_kept_recordings(self.state, self.tell))
        self.device.owe_stored(found)
        return len(found)

    def keep_rest(self) -> dict[str, str]:
        """Keep on disk what is not delivered. Returns why the disk did not take a recording, by the recording's id:
        what is not on it already ends with the process."""
        failed: dict[str, str] = {}
        for recording in self.device.undelivered:
            recording.ledger.end()  # also where a bug or a hung source left it open
            try:
                self._keep(recording)
            except OSError as error:
                failed[recording.recording_id] = error.strerror or type(error).__name__
            except EdgeError as error:
                failed[recording.recording_id] = str(error)
        return failed

    def _keep(self, recording: Recording) -> None:
        ledger = recording.ledger
        if recording.is_whole and not ledger.gaps_before(ledger.last + 1):
            self.forget(recording)
            return
        folder = self._folder(recording)
        if folder.exists():
            pending.advance(folder, ledger.delivered)
            return
        pending.keep(
            self.state.pending, recording.recording_id, recording.audio, ledger, recording.settings, recording.wire
        )
        seconds = recording.audio.seconds(ledger.kept_frames)
        self.tell(Happening("kept", f"{seconds:.1f} s are kept in {folder}; the next edge record delivers them"))

    def is_kept(self, recording: Recording) -> bool:
        """Whether `recording` is on disk."""
        return self._folder(recording).exists()

    def forget(self, recording: Recording) -> None:
        """`recording` is delivered: nothing of it stays on disk, as far as the disk lets go."""
        folder = self._folder(recording)
        try:
            if folder.exists():
                pending.drop(folder)
        except OSError as error:
            self.tell(Happening("warning", f"{folder} is delivered but cannot be removed ({error.strerror})"))

    def _folder(self, recording: Recording) -> Path:
        return self.state.pending / recording.recording_id


def build(
    loaded: Loaded,
    state: StateDirectory,
    tell: Callable[[Happening], None],
    pace: Pace = "realtime",
    panel: Panel | None = None,
) -> App:
    """Put everything together. Raises ConfigError; opens neither microphone nor connection."""
    config = loaded.config
    audio = source_audio(loaded)
    read_token = configuration.token

    def token() -> str:
        # Read for each use: whoever renews it just replaces the file. That it is readable by all is said once, below.
        return read_token(config, lambda warning: None)

    read_token(config, lambda warning: tell(Happening("warning", warning)))
    timeout_s = config.connection.connection_timeout
    server = HttpServerApi(config.server.url, token, timeout_s)
    dial = WebSocketDialer(config.server.url, token, state.device_id(), timeout_s)
    policy = _policy(config, audio)
    retry = RetryPolicy(
        config.connection.max_reconnect_attempts,
        config.connection.initial_reconnect_delay,
        config.connection.max_reconnect_delay,
    )
    device = Device(
        lambda: open_source(config.audio.source, audio, policy.packet_frames, pace),
        audio,
        policy,
        config.buffer.ring_seconds,
        start_settings(config),
        Uplink(server, dial, policy, retry, tell),
        tell,
        panel,
    )
    return App(device, server, state, tell, config.connection.shutdown_drain)


def open_panel(config: Config, tell: Callable[[Happening], None]) -> Panel | None:
    """Buttons and LEDs where the machine has usable pins; else None, said once where somebody could expect them."""
    if not config.panel.enabled or not any(Path("/dev").glob("gpiochip*")):
        return None
    from edge.adapters.gpio import GpioPanel, PanelPins

    pins = config.panel
    try:
        return GpioPanel(PanelPins(pins.record_button, pins.retry_button, pins.record_led, pins.safe_led))
    except EdgeError as error:
        tell(Happening("warning", str(error)))
        return None


def start_settings(config: Config) -> JsonObject:
    """What POST start says of each recording (PROTOCOL.md, "Open, stream, stop", 1)."""
    settings: JsonObject = {"agent": config.server.agent, "event": config.server.event}
    if config.server.language:
        settings["transcriptionLanguage"] = config.server.language
    if config.server.timezone:
        settings["clientTimezone"] = config.server.timezone
    return settings


def _policy(config: Config, audio: AudioFormat) -> Policy:
    packet_frames, rest = divmod(audio.rate_hz * config.audio.packet_ms, 1000)
    if rest:
        raise ConfigError(
            f"{config.audio.packet_ms} ms at {audio.rate_hz} Hz are no whole number of frames",
            remedy="set another audio.packet_ms",
        )
    return Policy(
        audio,
        packet_frames,
        config.audio.segment_target_ms,
        config.connection.grace_window,
        config.connection.heartbeat_interval,
        config.connection.connection_timeout,
        config.connection.barrier_interval,
        config.connection.proof_of_life_timeout,
    )


def source_audio(loaded: Loaded) -> AudioFormat:
    """The format to record in: the configured one; a file's own where nobody chose another."""
    config = loaded.config.audio
    is_chosen = {loaded.origins["audio.rate"], loaded.origins["audio.channels"]} != {"default"}
    return (None if is_chosen else own_audio(config.source)) or AudioFormat(config.rate, config.channels)


def _kept_recordings(state: StateDirectory, tell: Callable[[Happening], None]) -> Iterator[Recording]:
    for found in pending.kept(state.pending):
        if isinstance(found, EdgeError):
            tell(Happening("warning", str(found)))
            continue
        yield Recording(found.recording_id, found.audio, found.ledger, found.settings, found.wire, lambda offset: None)
