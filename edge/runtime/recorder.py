"""From press to stop: capture into the ring, and the recording's account."""

from __future__ import annotations

import array
import asyncio
import math
import sys
import uuid
from collections.abc import Callable

from edge.core.ledger import Ledger
from edge.core.packet import AudioFormat
from edge.core.ring import Ring
from edge.core.timebase import Timebase
from edge.errors import EdgeError
from edge.runtime.capture import MICROPHONE, Capture
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.keeper import Keeper
from edge.runtime.lease import RingShare
from edge.runtime.ports import JsonObject, Source, SourceInfo
from edge.runtime.recording import Recording, packets_in_ring
from edge.runtime.store import Store

OVERFLOW = "overflow"
STOP = "stop"
SILENCE_DBFS = -120.0
_FULL_SCALE = 32768
_LEVEL_S = 0.1
_ROOM = 0.1  # so much of a full ring is free again before the overflow counts as over


class Recorder:
    """Owns the capture of one recording and keeps its account, in the loop.

    `on_supply` is called when packets were completed and when the recording has ended, then `on_end`;
    `tell(kind, text)` says the edges of loss. `limit_frames` ends the recording by itself. With `wait_for_source` it
    begins as a gap where the microphone is absent.
    """

    def __init__(
        self,
        source: Source,
        ring: Ring,
        audio: AudioFormat,
        packet_frames: int,
        settings: JsonObject,
        on_supply: Callable[[], None],
        on_end: Callable[[], None],
        tell: Callable[[str, str], None],
        limit_frames: int | None = None,
        wait_for_source: bool = False,
        *,
        clock: ClockWatch,
        share: RingShare,
        store: Store | None = None,
    ) -> None:
        ledger = Ledger(packet_frames, ring.head)
        self._lease = share.lease()
        self._store = store
        self._keeper: Keeper | None = None
        self._ended_by = ""
        self._limit_frames = limit_frames
        self._timebase = timebase = Timebase(audio.rate_hz)
        self._clock = clock
        clock.follow(timebase)
        recording_id = str(uuid.uuid4())
        self.recording = Recording(
            recording_id,
            audio,
            ledger,
            {**settings, "recording": recording_id, **_predecessor(store)},
            packets_in_ring(ring, ledger, self._timebase, audio),
            self._release,
            anchor=lambda: timebase.current,
        )
        self._ring = ring
        self._on_supply = on_supply
        self._on_end = on_end
        self._tell = tell
        self._is_overflowing = False
        self._capture = Capture(
            source, ring, self._account, limit_frames, audio=audio, tell=tell, wait_for_source=wait_for_source
        )
        self._capture.ended.add_done_callback(lambda _: self._end())

    async def start(self) -> SourceInfo:
        """Open the source and begin. Raises MicrophoneError; then nothing was recorded."""
        self._clock.look()
        self._capture.start()
        try:
            info = await self._capture.opened
        except EdgeError:
            self._lease.end()
            raise
        if self._store is not None:
            self._keeper = self._store.begin(self.recording, self._timebase, info, self._release)
            self._keeper.supply()
        return info

    @property
    def is_missing(self) -> bool:
        """True while the microphone is gone."""
        return self._capture.is_missing

    def stop(self, by: str = STOP) -> None:
        """End after the read that is under way; a source that does not come back from it is given up. `by` says what
        for."""
        self._ended_by = self._ended_by or by
        self._capture.stop()

    async def ended(self) -> EdgeError | None:
        """Wait for the end of capture: None where it was wanted, else what took the microphone away."""
        await asyncio.wait([self._capture.ended])
        return self._capture.ended.result()

    def abandon(self) -> None:
        """The process ends; what the source still holds, or a bug left open, is not waited for."""
        if not self.recording.ledger.ended:
            self._close(self._ended_by or STOP)

    def _close(self, by: str) -> None:
        self._account()
        self.recording.ledger.end()
        if self._keeper is not None:
            self._keeper.end(by)

    def _end(self) -> None:
        ledger = self.recording.ledger
        if not ledger.ended:
            self._close(self._ended_by or self._end_by_itself())
        self._release(ledger.needed_from)
        self._on_supply()
        self._on_end()

    def _end_by_itself(self) -> str:
        if self._capture.ended.result() is not None:
            return "microphone"
        return "limit" if self._limit_frames == self.recording.ledger.expected else "source"

    def level_dbfs(self) -> float:
        """RMS of the last 100 ms, all channels together; -120 stands for silence and for nothing."""
        audio = self.recording.audio
        total = count = 0
        for part in self._ring.latest(int(_LEVEL_S * audio.rate_hz)):
            samples = array.array("h", bytes(part))
            if sys.byteorder == "big":
                samples.byteswap()
            total += sum(sample * sample for sample in samples)
            count += len(samples)
        return max(SILENCE_DBFS, 10 * math.log10(total / count / _FULL_SCALE**2)) if total else SILENCE_DBFS

    def drift_ppm(self) -> float | None:
        """See `Timebase.drift_ppm`."""
        return self._timebase.drift_ppm()

    def _release(self, offset: int) -> None:
        ledger = self.recording.ledger
        if ledger.ended and not ledger.ram_frames:
            self._lease.end()
        else:
            self._lease.move(offset)
        self._capture.has_space()

    def _account(self) -> None:
        ledger, findings = self.recording.ledger, self._capture.findings
        last, refused = ledger.last, 0
        while findings and not ledger.ended:
            finding = findings.popleft()
            if finding.lost:
                ledger.gap(finding.lost, finding.cause)
                if finding.cause != MICROPHONE:  # of which the edges are told, by the capture
                    seconds = self.recording.audio.seconds(finding.lost)
                    self._tell("gap", f"{seconds:.3f} s of audio were lost ({finding.cause})")
            if finding.stored:
                self._timebase.anchor(ledger.expected, finding.boot_s, restarted=bool(finding.lost))
                ledger.capture(finding.stored)
            if finding.refused:
                ledger.gap(finding.refused, OVERFLOW)
                refused += finding.refused
        self._say_overflow(refused)
        if ledger.last > last:
            if self._keeper is not None:
                self._keeper.supply()
            self._on_supply()

    def _say_overflow(self, refused: int) -> None:
        """The edges only: a ring that is given back packet by packet may refuse every other block."""
        if refused and not self._is_overflowing:
            self._is_overflowing = True
            self._tell(OVERFLOW, "the memory is full: new audio is being lost until the server takes what is kept")
        elif self._is_overflowing and self._ring.free_frames >= _ROOM * self._ring.capacity_frames:
            self._is_overflowing = False
            lost = self.recording.audio.seconds(self.recording.ledger.lost[OVERFLOW])
            self._tell(OVERFLOW, f"the memory has room again; {lost:.1f} s were lost in all")


def _predecessor(store: Store | None) -> JsonObject:
    return {"predecessor": store.predecessor} if store is not None and store.predecessor else {}
