"""The capture thread: read, copy into the ring, say so. It never waits for the network, the card or the LEDs.

What the thread finds reaches the loop as a `Finding`, in order, through a deque and one wake-up; the ledger belongs to
the loop alone.

A microphone that goes away does not end the recording: it is opened again until it is back. Meanwhile what the boot
clock says is missing is counted as lost, always a little less than that (a frame may have been captured that did not
arrive yet); the first frame that comes, or the stop, makes it exact.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from edge.core.frameclock import FrameClock
from edge.core.packet import AudioFormat
from edge.core.ring import Ring
from edge.errors import EdgeError, InternalError, MicrophoneError
from edge.runtime.ports import Block, Source, SourceInfo

STOP_PATIENCE_S = 5.0  # a source that has not come back for so long after a stop is given up
RETRY_S = 0.5  # before each attempt to open a microphone again
ARRIVES_WITHIN_S = 0.5  # of being captured (ports.Source.read): what is missing for longer is lost
MICROPHONE = "microphone"
_SPACE_CHECK_S = 0.5
_SLACK_S = 0.25  # stamps that lag by more say nothing about the drift of the microphone's clock
_NOBODY_YET = "no microphone yet"


@dataclass(frozen=True, slots=True)
class Finding:
    """`lost` frames of `cause`, then `stored` frames whose first was captured at `boot_s`, then `refused` by a full
    ring."""

    boot_s: float
    stored: int
    lost: int = 0
    cause: str = ""
    refused: int = 0


@dataclass(slots=True)
class _Absence:
    """The microphone `name` ("": it was never there) is missing, for `frames` so far; `said` is what to do about it."""

    name: str
    frames: int = 0
    said: set[str] = field(default_factory=set)


def _boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Capture:
    """Owns the thread and the source. `on_findings` is called in the loop; `ended` is set when the thread is
    through, or was given up: then nothing that it still brings is taken.

    `tell(kind, text)`, in the loop, says the edges of an absence. With `wait_for_source` the recording begins even
    where the microphone is absent. `clock` is the boot clock of the stamps, in seconds.
    """

    def __init__(
        self,
        source: Source,
        ring: Ring,
        on_findings: Callable[[], None],
        limit_frames: int | None = None,
        *,
        audio: AudioFormat,
        tell: Callable[[str, str], None] = lambda kind, text: None,
        wait_for_source: bool = False,
        clock: Callable[[], float] = _boot_s,
    ) -> None:
        self.info: SourceInfo | None = None  # of the latest opening
        self.findings: deque[Finding] = deque()
        self.opened: asyncio.Future[SourceInfo] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[EdgeError | None] = asyncio.get_running_loop().create_future()
        self.heartbeat = time.monotonic()
        self._source = source
        self._ring = ring
        self._on_findings = on_findings
        self._loop = asyncio.get_running_loop()
        self._left = limit_frames
        self._audio = audio
        self._tell = tell
        self._wait_for_source = wait_for_source
        self._clock = clock
        self._positions = FrameClock(audio.rate_hz, round(_SLACK_S * audio.rate_hz))
        self._absence: _Absence | None = None
        self._began_s = 0.0
        self._stop_s: float | None = None
        self._stopping = threading.Event()
        self._is_given_up = False
        self._has_signalled = False
        self._space = threading.Event()
        self._writing = threading.RLock()  # held while the ring is written: after a give-up it is not any more
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to capture; `opened` tells what the source gives, or raises why it does not."""
        self._thread.start()

    @property
    def is_missing(self) -> bool:
        """True while the microphone is gone."""
        return self._absence is not None

    def stop(self) -> None:
        """No more frames after the read that is under way; what is missing is missing up to now."""
        if self._stop_s is None:
            self._stop_s = self._clock()
            self._loop.call_later(STOP_PATIENCE_S, self._give_up)
        self._stopping.set()
        self._space.set()

    def has_space(self) -> None:
        """The ring was released: a source that can wait may go on."""
        self._space.set()

    def _give_up(self) -> None:
        if not self.ended.done():
            with self._writing:
                self._close_gap()
                self._is_given_up = True
            self._end(MicrophoneError("the source does not answer", "what it gave until then is there"))

    # --- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: EdgeError | None = None
        try:
            self._record()
        except EdgeError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001  (a bug must not end in a silent thread)
            error = InternalError(f"capture failed: {type(caught).__name__}: {caught}")
        self._close_gap()
        try:
            self._source.close()
        except Exception as caught:  # noqa: BLE001  (nor must this one)
            error = error or InternalError(f"the source cannot be closed: {type(caught).__name__}: {caught}")
        self._call(lambda: self._end(error))

    def _record(self) -> None:
        """Until a stop, the limit or the source's end."""
        is_open = self._open_first()
        while not self._stopping.is_set() and self._left != 0:
            if not is_open:
                is_open = self._open_again()
                continue
            try:
                block = self._source.read()
            except MicrophoneError as error:
                if not self._source.can_return:
                    raise
                self._source.close()
                self._miss_since(error)
                is_open = False
                continue
            self.heartbeat = time.monotonic()
            self._take(block)
            if block.ended:
                return

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody wants to know any more
            self._loop.call_soon_threadsafe(function)

    def _open(self, info: SourceInfo) -> None:
        if not self.opened.done():
            self.opened.set_result(info)

    def _end(self, error: EdgeError | None) -> None:
        if self.ended.done():
            return
        self._deliver()
        if not self.opened.done():
            self.opened.set_exception(error or InternalError("the source ended before it was open"))
        self.ended.set_result(error)

    # --- a microphone that is missing --------------------------------------------------------------------------------

    def _open_first(self) -> bool:
        """False where the recording begins without a microphone."""
        self._began_s = self._clock()
        try:
            info = self._source.open()
        except MicrophoneError as error:
            if not (self._wait_for_source and self._source.can_return):
                raise
            self._call(lambda: self._open(SourceInfo(_NOBODY_YET, self._audio, 0)))
            self._miss_since(error)
            return False
        self.info = info
        self._call(lambda: self._open(info))
        return True

    def _open_again(self) -> bool:
        """One more attempt, after a wait that a stop cuts short; False where it was in vain."""
        self._miss(self._clock() - ARRIVES_WITHIN_S)
        self.heartbeat = time.monotonic()
        if self._left == 0 or self._stopping.wait(RETRY_S):
            return False
        try:
            info = self._source.open()
        except MicrophoneError as error:
            self._miss_since(error)
            return False
        told = self.info.notes if self.info is not None else ()
        self.info = info
        for note in info.notes:
            if note not in told:
                self._say("source", note)
        return True

    def _miss_since(self, error: MicrophoneError) -> None:
        """From now on the source is missing, or still is, by `error`: said again only where something else is to do."""
        absence = self._absence
        if absence is None:
            self._positions.begin(self._began_s)
            absence = self._absence = _Absence(self.info.name if self.info is not None else "")
            edge = "the microphone is gone: the recording goes on as a gap"
            if not absence.name:
                edge = "the microphone is absent: the recording begins as a gap"
        elif error.remedy in absence.said:
            return
        else:
            edge = "the microphone is still missing"
        absence.said.add(error.remedy)
        if not self._stopping.is_set():
            what = "; ".join(part for part in (error.what, error.means) if part)
            self._say(MICROPHONE, "; ".join(part for part in (edge, error.remedy) if part) + f" ({what})")

    def _miss(self, until_s: float) -> None:
        """What is missing up to `until_s` by the boot clock is lost."""
        with self._writing:
            absence = self._absence
            if absence is None or self._is_given_up:
                return
            lost = self._positions.lost_before(until_s, restarted=True, has_caught_up=True)
            if self._left is not None:
                lost = min(lost, self._left)
                self._left -= lost
            absence.frames += lost
            self._store(until_s, memoryview(b""), lost, MICROPHONE)

    def _close_gap(self) -> None:
        """The recording ends: a gap at its end reaches up to the stop, or else up to now."""
        self._miss(self._clock() if self._stop_s is None else self._stop_s)

    def _follow(self, boot_s: float, lost: int, frames: int) -> None:
        """Keep the position by the clock; `lost` and `frames`, captured at `boot_s`, end an absence."""
        absence, positions = self._absence, self._positions
        if absence is not None and not (lost or frames):
            self._miss(boot_s - ARRIVES_WITHIN_S)
            return
        if absence is not None:
            self._miss(boot_s - lost / self._audio.rate_hz)
            self._absence = None
            name = self.info.name if self.info is not None else ""
            back = "the microphone is back" if absence.name == name else f"the recording goes on from {name}"
            self._say(MICROPHONE, f"{back} after {self._audio.seconds(absence.frames):.1f} s")
        positions.stamp(lost)
        if frames:
            positions.lost_before(boot_s, restarted=False, has_caught_up=False)
            positions.stamp(frames)

    def _say(self, kind: str, text: str) -> None:
        self._call(lambda: self._tell(kind, text))

    # --- into the ring -----------------------------------------------------------------------------------------------

    def _take(self, block: Block) -> None:
        frame_bytes = self._ring.frame_bytes
        lost, data = block.lost_frames, memoryview(block.data)
        if lost < 0 or (lost and not block.cause):
            raise InternalError(f"the source lost {lost} frames for {block.cause!r}")
        if self._source.can_return:
            self._follow(block.boot_s, lost, len(data) // frame_bytes)
        if self._left is not None:
            lost = min(lost, self._left)
            data = data[: (self._left - lost) * frame_bytes]
            self._left -= lost + len(data) // frame_bytes
        if not self._source.can_wait:
            self._store(block.boot_s, data, lost, block.cause)
            return
        step = max(1, self._ring.capacity_frames // 2) * frame_bytes  # a block may be longer than the ring
        for start in range(0, max(1, len(data)), step):
            part = data[start : start + step]
            has_room = self._wait_for(len(part) // frame_bytes)
            if not has_room:
                # A stop came first. What is not taken is still where it was: the recording ends here, nothing is lost.
                part = part[: self._ring.free_frames * frame_bytes]
            boot_s = block.boot_s + start / frame_bytes / self._audio.rate_hz
            self._store(boot_s, part, 0 if start else lost, block.cause)
            if not has_room:
                return

    def _store(self, boot_s: float, data: memoryview, lost: int, cause: str) -> None:
        frames = len(data) // self._ring.frame_bytes
        with self._writing:
            if self._is_given_up:
                return
            stored = self._ring.write(data)
        if lost or frames:
            self.findings.append(Finding(boot_s, stored, lost, cause, frames - stored))
            if not self._has_signalled:
                self._has_signalled = True
                self._call(self._deliver)

    def _wait_for(self, frames: int) -> bool:
        """Return when the ring has room for `frames`; False where a stop came first."""
        while self._ring.free_frames < frames:
            if self._stopping.is_set():
                return False
            self._space.wait(_SPACE_CHECK_S)
            self._space.clear()
            self.heartbeat = time.monotonic()
        return True

    def _deliver(self) -> None:
        self._has_signalled = False
        self._on_findings()
