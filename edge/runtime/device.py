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
from edge.errors import EdgeError, InternalError, UnreadableError
from edge.runtime.ports import JsonObject, Panel, Source, SourceInfo
from edge.runtime.recorder import SILENCE_DBFS, Recorder
from edge.runtime.recording import Recording
from edge.runtime.uplink import PROBE_S, Happening, Uplink
from edge.runtime.wake import Wake

BLINK_S = 1.0
AFTER_BUG_S = 5.0  # a bug that repeats itself must not keep the machine busy


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
        self._latest: Recorder | None = None
        self._owed: deque[Recording] = deque()
        self._stored: deque[Recording] = deque()
        self._set_aside: list[Recording] = []
        self._refused: set[str] = set()
        self._has_work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._has_live = asyncio.Event()
        self._is_stored_turn = False
        self._has_turned = asyncio.Event()
        self._wake = Wake()
        self._under_delivery: Recording | None = None
        self.bug: EdgeError | None = None

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
            self._supplied,
            self._ended,
            lambda kind, text: self._tell(Happening(kind, text)),
            limit_frames,
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
        self._wake.now(reason)
        self.uplink.retry_now(reason)

    # --- delivery --------------------------------------------------------------------------------------------------

    def owe(self, recording: Recording) -> None:
        """Deliver `recording`, which lives in the ring, after those before it."""
        self._owed.append(recording)
        self._has_live.set()
        self._work()

    def owe_stored(self, recordings: Iterable[Recording]) -> None:
        """Deliver what an earlier run left, whenever nothing in the ring is owed: that would run over, this keeps."""
        self._stored.extend(recordings)
        if self._stored:
            self._work()

    def _work(self) -> None:
        self._is_idle.clear()
        self._has_work.set()

    async def delivered(self) -> None:
        """Wait until nothing is owed but what cannot be read."""
        await self._is_idle.wait()

    async def refused(self) -> None:
        """Wait until the server has refused all that could be delivered next: a person has to do something."""
        while True:
            await self.uplink.refused()
            if not self._may_turn:
                return
            self._has_turned.clear()
            await self._has_turned.wait()

    @property
    def undelivered(self) -> tuple[Recording, ...]:
        """What is owed, the one under delivery first."""
        current = (self._under_delivery,) if self._under_delivery else ()
        return (*current, *self._owed, *self._stored, *self._set_aside)

    async def run(self, on_delivered: Callable[[Recording], None] = lambda recording: None) -> None:
        """Deliver until cancelled: what is in the ring, oldest first; then what is stored.

        A bug ends one way to deliver, not the delivery: `bug` remembers it, and a new session goes on from what is
        delivered for certain.
        """
        while True:
            if not (self._owed or self._stored):
                self._is_idle.set()
                self._has_work.clear()
                await self._has_work.wait()
            is_stored = self._is_stored_turn = not self._owed
            queue = self._stored if is_stored else self._owed
            recording = self._under_delivery = queue.popleft()
            self._has_turned.set()
            try:
                is_delivered = await (self._deliver_stored(recording) if is_stored else self._deliver_live(recording))
            except UnreadableError as error:
                self._tell(Happening("warning", str(error)))
                self._set_aside.append(recording)
                is_delivered = False
            except Exception as error:  # noqa: BLE001  (a bug must not end the delivery of all that follows)
                await self._stumbled(error)
                queue.appendleft(recording)
                is_delivered = False
            self._under_delivery = None
            if is_delivered:
                self._refused.clear()
                on_delivered(recording)
                self._tell(Happening("delivered", f"recording {recording.recording_id} is delivered"))

    async def _deliver_live(self, recording: Recording) -> bool:
        if not self._owed:
            self._has_live.clear()
        await self.uplink.deliver(recording)
        return True

    async def _deliver_stored(self, recording: Recording) -> bool:
        """False where it made way: for a live recording, or, refused, for another that may fare better."""
        self._has_live.clear()
        delivering = asyncio.create_task(self.uplink.deliver(recording), name="deliver stored")
        is_wanted = asyncio.create_task(self._has_live.wait())
        turn = asyncio.create_task(self._turn(recording))
        try:
            await asyncio.wait([delivering, is_wanted, turn], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (delivering, is_wanted, turn):
                task.cancel()
            await asyncio.wait([delivering, is_wanted, turn])
        if not delivering.cancelled():
            delivering.result()
            return True
        self._under_delivery = None
        if turn.cancelled():
            self._stored.appendleft(recording)
        else:
            self._stored.append(recording)
        return False

    async def _turn(self, recording: Recording) -> None:
        """Return when a refused recording should let another one try: at once those that were not refused yet."""
        await self.uplink.refused()
        self._refused.add(recording.recording_id)
        while not self._may_turn:
            await self._wake.sleep(PROBE_S)
            if self._stored:
                return

    @property
    def _may_turn(self) -> bool:
        return self._is_stored_turn and any(other.recording_id not in self._refused for other in self._stored)

    async def _stumbled(self, error: Exception) -> None:
        self.bug = error if isinstance(error, EdgeError) else InternalError(f"{type(error).__name__}")
        self._tell(Happening("bug", f"{self.bug}; this is our bug; delivery begins anew in {AFTER_BUG_S:g} s"))
        await self._wake.sleep(AFTER_BUG_S)

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
        undelivered = sum(recording.ledger.kept_frames for recording in recordings)
        unhandled = undelivered
        if session is not None and self._under_delivery is not None:
            ledger = self._under_delivery.ledger
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
