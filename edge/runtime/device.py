"""The one long-lived Device: ready or recording, and delivering what it recorded, oldest first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edge.core.packet import AudioFormat
from edge.core.policy import Policy
from edge.core.ring import Ring
from edge.core.session import State
from edge.errors import EdgeError, InternalError
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
    ) -> None:
        self.audio = audio
        self.ring = Ring(int(ring_seconds * audio.rate_hz), audio.frame_bytes)
        self.uplink = uplink
        self._open_source = open_source
        self._policy = policy
        self._settings = settings
        self._tell = tell
        self._panel = panel
        self._recorder: Recorder | None = None
        self._owed: deque[Recording] = deque()
        self._stored: deque[Recording] = deque()
        self._has_work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._under_delivery: Recording | None = None

    # --- control ---------------------------------------------------------------------------------------------------

    @property
    def is_recording(self) -> bool:
        """True from a successful start to the end of capture."""
        return self._recorder is not None

    async def start(self, limit_frames: int | None = None) -> tuple[Recording, SourceInfo]:
        """Begin a recording of at most `limit_frames`. Raises MicrophoneError, or ConfigError while one is under
        way."""
        if self._recorder is not None:
            raise InternalError("a recording is under way")
        recorder = self._recorder = Recorder(
            self._open_source(),
            self.ring,
            self.audio,
            self._policy.packet_frames,
            self._settings,
            self._supplied,
            lambda kind, text: self._tell(Happening(kind, text)),
            limit_frames,
        )
        try:
            info = await recorder.start()
        except EdgeError:
            self._recorder = None
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
        """Wait until the recording under way has ended: None where that was wanted."""
        recorder = self._recorder
        if recorder is None:
            return None
        error = await recorder.ended()
        self._recorder = None
        self._tell(Happening("stopped", "the recording has ended"))
        return error

    def retry_now(self, reason: str) -> None:
        """Try the connection at once."""
        self.uplink.retry_now(reason)

    # --- delivery --------------------------------------------------------------------------------------------------

    def owe(self, recording: Recording) -> None:
        """Deliver `recording`, which lives in the ring, after those before it."""
        self._owed.append(recording)
        self._work()

    def owe_stored(self, recordings: Iterable[Recording]) -> None:
        """Deliver what an earlier run left, whenever nothing in the ring is owed: that would grow stale, this keeps."""
        self._stored.extend(recordings)
        if self._stored:
            self._work()

    def _work(self) -> None:
        self._is_idle.clear()
        self._has_work.set()

    async def delivered(self) -> None:
        """Wait until nothing is owed."""
        await self._is_idle.wait()

    @property
    def undelivered(self) -> tuple[Recording, ...]:
        """What is owed, the one under delivery first."""
        current = (self._under_delivery,) if self._under_delivery else ()
        return (*current, *self._owed, *self._stored)

    async def run(self, on_delivered: Callable[[Recording], None] = lambda recording: None) -> None:
        """Deliver, oldest first, until cancelled. Raises only for a bug: then what is owed is still in
        `undelivered`."""
        while True:
            if not (self._owed or self._stored):
                self._is_idle.set()
                self._has_work.clear()
                await self._has_work.wait()
            self._under_delivery = (self._owed or self._stored).popleft()
            await self.uplink.deliver(self._under_delivery)
            recording, self._under_delivery = self._under_delivery, None
            on_delivered(recording)
            self._tell(Happening("delivered", f"recording {recording.recording_id} is delivered"))

    def _supplied(self) -> None:
        if self._under_delivery is not None:
            self.uplink.supplied(self._under_delivery)

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
        if session is not None and self._under_delivery is not None:
            ledger = self._under_delivery.ledger
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
            self._panel.show(status.is_recording and status.recorded > 0, is_safe or blink)
            blink = not blink
            await asyncio.sleep(BLINK_S)  # a rhythm, not a wait for anything
