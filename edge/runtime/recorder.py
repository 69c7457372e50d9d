"""From press to stop: capture into the ring, and the recording's account."""

from __future__ import annotations

import array
import asyncio
import math
import sys
import time
import uuid
from collections.abc import Callable

from edge.core.ledger import Ledger
from edge.core.packet import AudioFormat
from edge.core.ring import Ring
from edge.core.timebase import Timebase
from edge.errors import EdgeError
from edge.runtime.capture import MICROPHONE, Capture
from edge.runtime.ports import JsonObject, Source, SourceInfo
from edge.runtime.recording import Recording, packets_in_ring

OVERFLOW = "overflow"
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
    ) -> None:
        ledger = Ledger(packet_frames, ring.head)
        self._timebase = Timebase(audio.rate_hz)
        recording_id = str(uuid.uuid4())
        self.recording = Recording(
            recording_id,
            audio,
            ledger,
            {**settings, "recording": recording_id},
            packets_in_ring(ring, ledger, self._timebase, audio),
            self._release,
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
        utc_minus_boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._timebase.set_utc(utc_minus_boot, trusted=False)
        self._capture.start()
        return await self._capture.opened

    @property
    def is_missing(self) -> bool:
        """True while the microphone is gone."""
        return self._capture.is_missing

    def stop(self) -> None:
        """End after the read that is under way; a source that does not come back from it is given up."""
        self._capture.stop()

    async def ended(self) -> EdgeError | None:
        """Wait for the end of capture: None where it was wanted, else what took the microphone away."""
        await asyncio.wait([self._capture.ended])
        return self._capture.ended.result()

    def _end(self) -> None:
        self._account()
        self.recording.ledger.end()
        self._on_supply()
        self._on_end()

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

    def _release(self, offset: int) -> None:
        self._ring.release(offset)
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
                self._timebase.anchor(ledger.expected, finding.boot_s)
                ledger.capture(finding.stored)
            if finding.refused:
                ledger.gap(finding.refused, OVERFLOW)
                refused += finding.refused
        self._say_overflow(refused)
        if ledger.last > last:
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
