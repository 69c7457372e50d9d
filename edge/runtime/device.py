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
from edge.runtime.courier import Courier
from edge.runtime.ports import JsonObject, Panel, Source, SourceInfo
from edge.runtime.recorder import SILENCE_DBFS, Recorder
from edge.runtime.recording import Recording
from edge.runtime.uplink import Happening, Uplink

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


class Device:
    """Owns ring, recorder, uplink and panel. Everything here runs in the loop; `run` delivers until it is cancelled."""

    def __init__(
        self,
        open_source: Callable[[], Source],
        audio: AudioFormat,
        policy: Policy,
        ring_seconds: float,
        settings: JsonObject,
        uplink: Uplink,
        tell: Callable[[Happening], None],
        panel: Panel | None = None,
        *,
        clock: ClockWatch,
        aside: Uplink | None = None,
    ) -> None:
        self.audio = audio
        self.ring = Ring(int(ring_seconds * audio.rate_hz), audio.frame_bytes)
        self.courier = Courier(uplink, settings, tell, aside)
        self.clock = clock
        clock.on_change = self.courier.clock_changed
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

    async def start(self, limit_frames: int | None = None) -> tuple[Recording, SourceInfo]:
        """Begin a recording of at most `limit_frames`. Raises MicrophoneError; the caller has looked at
        `is_recording`."""
        if self._recorder is not None:
            raise InternalError("a recording is under way")
        recorder = self._recorder = self._latest = Recorder(
            self._open_source(),
            self.ring,
            self.audio,
            self._policy.packet_frames,
            self._settings,
            self.courier.supplied,
            self._ended,
            lambda kind, text: self._tell(Happening(kind, text)),
            limit_frames,
            clock=self.clock,
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

    async def ended(self) -> EdgeError | None:
        """Wait until the latest recording has ended: None where that was wanted."""
        return await self._latest.ended() if self._latest is not None else None

    def _ended(self) -> None:
        if self._recorder is not None:
            self._recorder = None
            self._tell(Happening("stopped", "the recording has ended"))

    def retry_now(self, reason: str) -> None:
        """Try the connection at once."""
        self.courier.retry_now(reason)

    # --- delivery --------------------------------------------------------------------------------------------------

    @property
    def uplink(self) -> Uplink:
        """The live recordings' way to the server."""
        return self.courier.uplink

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

    async def run(self, on_delivered: Callable[[Recording], None] = lambda recording: None) -> None:
        """Watch the clock, and deliver until cancelled."""
        watching = asyncio.create_task(self.clock.run(), name="clock")
        try:
            await self.courier.run(on_delivered)
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    # --- people ----------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """What is true now."""
        seconds = self.audio.seconds
        recordings = self.undelivered
        session = self.uplink.session
        failure = session.failure if session else None
        recorder = self._recorder
        current = recorder.recording if recorder else (recordings[0] if recordings else None)
        undelivered = sum(recording.ledger.ram_frames for recording in recordings)
        unhandled = undelivered
        if session is not None and self.courier.under_delivery is not None:
            ledger = self.courier.under_delivery.ledger
            if session.handled > ledger.delivered:
                packet = ledger.packet(session.handled)
                done = packet.offset + packet.frames - ledger.packet(ledger.delivered + 1).offset
                unhandled -= done
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
        )

    async def show(self) -> None:
        """Drive the panel until cancelled: REC lit while frames arrive, SAFE lit while nothing is unhandled for
        long."""
        if self._panel is None:
            return
        blink = True
        while True:
            status = self.status()
            is_safe = status.unhandled <= self._policy.max_unconfirmed
            try:
                self._panel.show(status.is_recording and status.recorded > 0, is_safe or blink)
            except Exception as error:  # noqa: BLE001  (a pin library's; recording does not need its LEDs)
                self._tell(Happening("warning", f"the LEDs cannot be set any more: {type(error).__name__}"))
                return
            blink = not blink
            await asyncio.sleep(BLINK_S)  # a rhythm, not a wait for anything
