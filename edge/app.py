"""The composition root: from a configuration to the one Device, and what it leaves when the process has to end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.adapters.clock import SystemClock
from edge.adapters.floor import FloorFile
from edge.adapters.http import HttpServerApi
from edge.adapters.spool import CardRecording, SpoolDirectory
from edge.adapters.state import StateDirectory
from edge.adapters.websocket import WebSocketDialer
from edge.adapters.wire import ClockRescue, Connector, TlsFiles
from edge.config import Loaded
from edge.core.built import BUILT_UTC_S
from edge.core.checktime import WINDOW_S
from edge.core.manifest import CardState
from edge.core.packet import AudioFormat
from edge.core.policy import Policy
from edge.core.recovery import Recovered
from edge.core.ring import Ring
from edge.errors import ConfigError, EdgeError, UnreadableError
from edge.legacy import import_pending
from edge.links import clock_rescue, link_watch, steer
from edge.runtime.attempts import RetryPolicy
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.device import Device
from edge.runtime.floorkeeper import FloorKeeper
from edge.runtime.fresh import FreshServer
from edge.runtime.happening import Happening
from edge.runtime.noserver import NoServer
from edge.runtime.ports import Clock, JsonObject, Panel
from edge.runtime.refresher import Refresher
from edge.runtime.spooler import Spooler
from edge.runtime.store import Store, StorePolicy
from edge.runtime.uplink import Uplink, boot_clock
from edge.settings import Config
from edge.sources import Pace, open_source, own_audio
from edge.tokens import token_source

SEAL_S = 10.0  # at the end the card gets so long to take the rest
FROM_MEMORY, FROM_CARD = "power", "card"


@dataclass(frozen=True, slots=True)
class App:
    """A Device with what has to outlive it. `found` are the recordings that earlier runs left to be delivered."""

    device: Device
    store: Store
    server: HttpServerApi
    tokens: Refresher
    floor: FloorKeeper
    tell: Callable[[Happening], None]
    shutdown_drain_s: float
    found: tuple[Found, ...]

    def owe_kept(self) -> int:
        """Hand over what earlier runs could not deliver; returns how many recordings that is."""
        kept = [self.store.adopt(found.card, found.recovered) for found in self.found]
        self.device.owe_stored(kept)
        return len(kept)

    def go_on(self) -> None:
        """Where a recording was cut off and may go on by itself, let the next one name it; and say so, or why not."""
        cut = [found for found in self.found if not found.recovered.ended_by]
        for found in cut:
            verdict = self.store.verdict(found.recovered)
            name = found.card.manifest.recording_id
            kept = found.card.manifest.audio.seconds(found.recovered.ledger.expected)
            text = f"recording {name} was cut off ({verdict.cause}); {kept:.1f} s of it are on the card"
            if verdict.goes_on and found is cut[-1]:
                self.store.predecessor = name
                text += f"; a new recording goes on with it: {verdict.why}"
            else:
                text += "" if verdict.goes_on else f"; it is not gone on with: {verdict.why}"
            self.tell(Happening("cut-off", text))

    async def close(self) -> None:
        """Give back what is open at the end."""
        await self.tokens.close()
        await self.server.close()
        await self.floor.close()

    async def keep_rest(self) -> dict[str, tuple[int, str]]:
        """Bring onto the card what is not delivered. Returns the frames that end with the process, and why, by the
        recording's id."""
        self.device.abandon()
        for recording in self.device.undelivered:
            if recording.is_whole and not recording.ledger.gaps_before(recording.ledger.last + 1):
                self.store.delivered(recording)  # only the stop was still on its way
        spooler = self.store.spooler
        await spooler.close(SEAL_S)
        unkept: dict[str, tuple[int, str]] = {}
        for recording in self.device.undelivered:
            frames, kept = recording.ledger.ram_frames, recording.audio.seconds(recording.ledger.card_frames)
            if frames:
                why = spooler.trouble or "it does not answer"
                unkept[recording.recording_id] = frames, why if self.store.policy.has_audio else "spool.mode is ram"
            if kept and not recording.is_whole:
                name = recording.recording_id
                when = (
                    "they are delivered once a server is configured"
                    if self.device.is_local
                    else "the next start delivers them"
                )
                self.tell(Happening("kept", f"{kept:.1f} s of {name} are on the card; {when}"))
        return unkept


def build(
    loaded: Loaded,
    state: StateDirectory,
    tell: Callable[[Happening], None],
    pace: Pace = "realtime",
    panel: Panel | None = None,
    clock: Clock | None = None,
) -> App:
    """Put everything together. Raises ConfigError; opens neither microphone nor connection."""
    config = loaded.config
    audio = source_audio(loaded)
    clock = SystemClock() if clock is None else clock
    watch = ClockWatch(clock, tell)

    def utc() -> float | None:
        return boot_clock() + watch.anchor.utc_minus_boot_s if watch.anchor.trusted else None

    kept = FloorFile(state.clock_floor)
    rescue = clock_rescue(tell, lambda: watch.anchor.or_later(clock.read()), _floor_s(kept, tell))
    floor = FloorKeeper(rescue.to_keep, kept.save, tell, boot_clock)
    watch.on_look = floor.look
    source = token_source(loaded, state.refresh_token, utc, lambda line: tell(Happening("warning", line)), rescue)
    tokens = Refresher(source, lambda kind, text: tell(Happening(kind, text)), boot_clock)
    has_server = bool(config.server.url)
    timeout_s = config.connection.connection_timeout
    connector = way_to_server(config, rescue)
    server = HttpServerApi(config.server.url, tokens.current, timeout_s, connector)
    dial = WebSocketDialer(config.server.url, tokens.current, state.device_id(), timeout_s, connector)
    fresh = FreshServer(server, tokens)
    policy = _policy(config, audio)
    retry = RetryPolicy(
        config.connection.max_reconnect_attempts,
        config.connection.initial_reconnect_delay,
        config.connection.max_reconnect_delay,
        config.connection.fleet_spread,
    )
    spool = SpoolDirectory(state.spool, config.spool.max_bytes)
    found = _open_spool(spool, state, tell)
    store_policy = StorePolicy(
        state.device_id(),
        config.spool.mode == "always",
        config.spool.when_full,
        config.spool.keep_days,
        config.spool.resume_within,
        config.spool.resume_after_power_loss,
    )

    def make_store(ring: Ring) -> Store:
        spooler = Spooler(
            spool,
            ring,
            config.spool.sync_interval,
            lambda kind, text: tell(Happening(kind, text)),
            boot_clock,
            config.spool.keep_days,
            utc,
        )
        return Store(spooler, ring, watch, store_policy, spool.next_number())

    device = Device(
        lambda: open_source(config.audio.source, audio, policy.packet_frames, pace, config.audio.fallback),
        audio,
        policy,
        config.buffer.ring_seconds,
        start_settings(config),
        Uplink(fresh, dial, policy, retry, tell, tokens=tokens) if has_server else NoServer(),
        tell,
        panel,
        clock=watch,
        aside=Uplink(fresh, dial, policy, retry, lambda happening: None, tokens=tokens) if has_server else None,
        watch=link_watch(tell) if has_server and config.connection.link_watch else None,
        fleet_spread=config.connection.fleet_spread,
        make_store=make_store,
        max_seconds=config.spool.max_recording_hours * 3600,
    )
    tokens.on_new = device.courier.try_again
    steer(connector, device)
    assert device.store is not None
    return App(device, device.store, server, tokens, floor, tell, config.connection.shutdown_drain, tuple(found))


def way_to_server(config: Config, rescue: ClockRescue | None = None) -> Connector:
    """As configured. Raises ConfigError for a proxy or TLS files that cannot be used."""
    files = TlsFiles(config.server.ca_file, config.server.client_cert, config.server.client_key)
    return Connector(config.server.url, proxy=config.connection.proxy, files=files, rescue=rescue)


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
        step_ms = 1000 // math.gcd(audio.rate_hz, 1000)
        raise ConfigError(
            f"{config.audio.packet_ms} ms at {audio.rate_hz} Hz are no whole number of frames",
            "nothing is recorded",
            f"set audio.packet_ms to a multiple of {step_ms}" if step_ms <= 250 else "record at another rate",
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


def _floor_s(kept: FloorFile, tell: Callable[[Happening], None]) -> float:
    """A moment that has passed for sure."""
    try:
        kept_s = kept.load()
        if kept_s is not None and kept_s >= BUILT_UTC_S + WINDOW_S:
            raise ValueError("it is of a time that cannot be")
    except ValueError as error:
        tell(Happening("warning", f"clock-floor in the state directory is not used ({error}); no audio is lost"))
        kept_s = None
    return max(BUILT_UTC_S, kept_s or 0.0)


@dataclass(frozen=True, slots=True)
class Found:
    """A recording that an earlier run left."""

    card: CardRecording
    recovered: Recovered


def _open_spool(spool: SpoolDirectory, state: StateDirectory, tell: Callable[[Happening], None]) -> list[Found]:
    """What is on the card. One damaged recording is set aside and hurts no other; a card that takes nothing is said,
    and tried again while recording."""
    try:
        spool.prepare()
    except OSError as error:
        why = error.strerror or type(error).__name__
        tell(Happening("card", f"the card takes nothing ({why}); recording goes on in memory, the card is tried again"))
        return []
    import_pending(state.pending, spool, state.device_id(), tell)
    found = []
    for folder in spool.folders():
        try:
            card, recovered = spool.load(folder)
        except UnreadableError as error:
            with contextlib.suppress(OSError):
                spool.set_aside(folder, str(error))
            tell(Happening("warning", str(error)))
            continue
        if card.manifest.state is not CardState.DELIVERED:
            found.append(Found(card, recovered))
    return found
