"""The one long-lived Device: ready or recording, and delivering what it recorded, oldest first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edge.core.packet import AudioFormat
from edge.core.policy import Policy
from edge.core.ring import Ring
from edge.core.session import State
from edge.errors import EdgeError, InternalError
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.courier import Courier, Way
from edge.runtime.happening import Happening
from edge.runtime.lease import RingShare
from edge.runtime.noserver import NoServer
from edge.runtime.ports import JsonObject, LinkWatch, Panel, Source, SourceInfo
from edge.runtime.recorder import SILENCE_DBFS, Recorder
from edge.runtime.recording import Recording
from edge.runtime.roaming import Roaming
from edge.runtime.store import DROP_OLDEST, FULL, Store
from edge.runtime.uplink import Uplink, boot_clock

BLINK_S = 1.0


@dataclass(frozen=True, slots=True)
class Status:
    """The Device at one moment. Seconds, unless the name says otherwise."""

    is_recording: bool
    state: State
    failure: str
    recording_id: str
    recorded: float
    level_dbfs: float
    ring_used: float
    ring_size: float
    unhandled: float
    undelivered: float
    lost: float
    waiting_recordings: int
    drift_ppm: float | None = None
    unsafe: float = 0.0  # in memory only: a power cut would take it
    card_trouble: str = ""
    card_left: float | None = None
    is_local: bool = False  # no server is configured: everything stays on the card


class Device:
    """Owns ring, recorder, uplink and panel. Everything here runs in the loop; `run` delivers until it is cancelled."""

    def __init__(
        self,
        open_source: Callable[[], Source],
        audio: AudioFormat,
        policy: Policy,
        ring_seconds: float,
        settings: JsonObject,
        uplink: Way,
        tell: Callable[[Happening], None],
        panel: Panel | None = None,
        *,
        clock: ClockWatch,
        aside: Uplink | None = None,
        watch: LinkWatch | None = None,
        fleet_spread: float = 0.0,
        make_store: Callable[[Ring], Store] | None = None,
        max_seconds: float = 0.0,
    ) -> None:
        self.audio = audio
        self.ring = Ring(int(ring_seconds * audio.rate_hz), audio.frame_bytes)
        self.courier = Courier(uplink, settings, tell, aside)
        self.clock = clock
        clock.on_change = self._clock_changed
        clock.on_doubt = self.courier.doubt
        used = lambda: self.courier.uplink.local_address  # noqa: E731
        link_changed = self.courier.link_changed
        blind = self.courier.retry_now
        self.roaming = (
            Roaming(watch, link_changed, used, tell, boot_clock, blind, fleet_spread) if watch is not None else None
        )
        self.store = make_store(self.ring) if make_store is not None else None
        self._share = RingShare(self.ring)
        self._max_frames = int(max_seconds * audio.rate_hz) or None
        self._open_source = open_source
        self._policy = policy
        self._settings = settings
        self._tell = tell
        self._panel = panel
        self._recorder: Recorder | None = None
        self._latest: Recorder | None = None

    # --- control ---------------------------------------------------------------------------------------------------

    @property
    def is_recording(self) -> bool:
        """True from the start to the end of capture."""
        return self._recorder is not None

    async def start(
        self, limit_frames: int | None = None, *, wait_for_source: bool = False
    ) -> tuple[Recording, SourceInfo]:
        """Begin a recording of at most `limit_frames`; with `wait_for_source` as a gap where the microphone is absent.
        Raises MicrophoneError; the caller has looked at `is_recording`."""
        if self._recorder is not None:
            raise InternalError("a recording is under way")
        recorder = self._recorder = self._latest = Recorder(
            self._open_source(),
            self.ring,
            self.audio,
            self._policy.packet_frames,
            self._settings,
            self._supplied,
            lambda: self._ended(recorder),
            lambda kind, text: self._tell(Happening(kind, text)),
            min((limit for limit in (limit_frames, self._max_frames) if limit is not None), default=None),
            wait_for_source,
            clock=self.clock,
            share=self._share,
            store=self.store,
        )
        try:
            info = await recorder.start()
        except EdgeError:
            self._recorder = None
            raise
        except asyncio.CancelledError:
            recorder.stop()
            self.owe(recorder.recording)  # it may have begun all the same
            raise
        for note in info.notes:
            self._tell(Happening("source", note))
        self._tell(Happening("recording", f"recording {recorder.recording.recording_id} from {info.name}"))
        self.owe(recorder.recording)
        return recorder.recording, info

    def stop(self) -> None:
        """End the recording; `ended` tells when capture is through."""
        if self._recorder is not None:
            self._recorder.stop()

    def abandon(self) -> None:
        """The process ends: close the account of what is recorded."""
        if self._latest is not None:
            self._latest.abandon()

    async def ended(self) -> EdgeError | None:
        """Wait until the latest recording has ended: None where that was wanted."""
        return await self._latest.ended() if self._latest is not None else None

    def _ended(self, recorder: Recorder) -> None:
        if self._recorder is recorder:  # one that failed to start may end when the next has begun
            self._recorder = None
            is_forgotten = self._max_frames is not None and recorder.recording.ledger.expected >= self._max_frames
            limit = f": the limit of {self.audio.seconds(self._max_frames or 0) / 3600:g} h (max_recording_hours)"
            self._tell(Happening("stopped", "the recording has ended" + (limit if is_forgotten else "")))

    def _supplied(self) -> None:
        self.courier.supplied()
        if self.store is not None and self.store.is_at_its_end():
            self._make_do(self.store)

    def _make_do(self, store: Store) -> None:
        """Neither card nor memory takes more."""
        if store.policy.when_full == DROP_OLDEST:
            dropped_s = store.drop_oldest()
            if dropped_s:
                self._tell(Happening("dropped", f"card and memory are full: the oldest {dropped_s:.0f} s are given up"))
        elif self._recorder is not None:
            self._tell(Happening(FULL, "card and memory are full: the recording is ended, what there is of it is kept"))
            self._recorder.stop(FULL)

    def _clock_changed(self) -> None:
        self.courier.clock_changed()
        if self.store is not None:
            self.store.clock_changed()

    def retry_now(self, reason: str) -> None:
        """Try the connection at once."""
        self.courier.retry_now(reason)

    # --- delivery --------------------------------------------------------------------------------------------------

    @property
    def uplink(self) -> Way:
        """The live recordings' way to the server."""
        return self.courier.uplink

    @property
    def is_local(self) -> bool:
        """No server is configured: everything stays on the card."""
        return isinstance(self.uplink, NoServer)

    @property
    def bug(self) -> EdgeError | None:
        """The latest bug of ours that ended a way to deliver."""
        return self.courier.bug

    def owe(self, recording: Recording) -> None:
        """Deliver `recording`, which lives in the ring, after those before it."""
        self.courier.owe(recording)

    def owe_stored(self, recordings: Iterable[Recording]) -> None:
        """Deliver what an earlier run left."""
        self.courier.owe_stored(recordings)

    async def delivered(self) -> None:
        """Wait until nothing is owed but what cannot be read."""
        await self.courier.delivered()

    async def refused(self) -> None:
        """Wait until the server has refused all that could be delivered next."""
        await self.courier.refused()

    @property
    def undelivered(self) -> tuple[Recording, ...]:
        """What is owed, the one under delivery first."""
        return self.courier.undelivered

    def _delivered(self, also: Callable[[Recording], None]) -> Callable[[Recording], None]:
        def delivered(recording: Recording) -> None:
            if self.store is not None:
                self.store.delivered(recording)
            also(recording)

        return delivered

    async def run(self, on_delivered: Callable[[Recording], None] = lambda recording: None) -> None:
        """Watch the clock and the link, and deliver until cancelled."""
        watching = [asyncio.create_task(self.clock.run(), name="clock")]
        if self.roaming is not None:
            watching.append(asyncio.create_task(self.roaming.run(), name="link"))
        try:
            await self.courier.run(self._delivered(on_delivered))
        finally:
            for task in watching:
                task.cancel()
            await asyncio.wait(watching)

    # --- people ----------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """What is true now."""
        seconds = self.audio.seconds
        recordings = self.undelivered
        session = self.uplink.session
        failure = session.failure if session else None
        recorder = self._recorder
        current = recorder.recording if recorder else (recordings[0] if recordings else None)
        undelivered = sum(recording.ledger.kept_frames for recording in recordings)
        unhandled = undelivered
        if session is not None and self.courier.under_delivery is not None:
            ledger = self.courier.under_delivery.ledger
            if session.handled > ledger.delivered:
                unhandled -= ledger.kept_between(ledger.delivered + 1, session.handled)
        return Status(
            recorder is not None,
            self.uplink.state,
            str(failure) if failure else "",
            current.recording_id if current else "",
            seconds(recorder.recording.ledger.expected) if recorder else 0.0,
            recorder.level_dbfs() if recorder else SILENCE_DBFS,
            seconds(self.ring.kept_frames),
            seconds(self.ring.capacity_frames),
            seconds(unhandled),
            seconds(undelivered),
            seconds(sum(current.ledger.lost.values())) if current else 0.0,
            len(recordings),
            recorder.drift_ppm() if recorder else None,
            seconds(sum(recording.ledger.ram_frames for recording in recordings)),
            self.store.spooler.trouble if self.store else "",
            self.store.spooler.left_s if self.store else None,
            self.is_local,
        )

    async def show(self) -> None:
        """Drive the panel until cancelled: REC lit while frames arrive, SAFE lit while nothing is unhandled for
        long."""
        if self._panel is None:
            return
        blink = True
        while True:
            status = self.status()
            at_risk = status.unsafe if status.is_local else status.unhandled
            is_safe = at_risk <= self._policy.max_unconfirmed
            try:
                is_missing = self._recorder is not None and self._recorder.is_missing
                self._panel.show(status.is_recording and status.recorded > 0 and not is_missing, is_safe or blink)
            except Exception as error:  # noqa: BLE001  (a pin library's; recording does not need its LEDs)
                self._tell(Happening("warning", f"the LEDs cannot be set any more: {type(error).__name__}"))
                return
            blink = not blink
            await asyncio.sleep(BLINK_S)  # a rhythm, not a wait for anything
