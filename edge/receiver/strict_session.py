"""One session of the real server: audio is buffered, cut and transcribed in RAM, or lost with it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any

from edge.receiver import http
from edge.receiver.config import StrictConfig, Timing
from edge.receiver.facts import SessionFacts
from edge.receiver.kept import KeptRecording
from edge.receiver.segments import Defect, Segment, Segmenter, parse
from edge.receiver.socket import Socket

log = logging.getLogger("edge.receiver")
Thread = Callable[..., Awaitable[None]]


class Verdict(Enum):
    """What the handler does after a packet."""

    TAKEN = auto()
    DISCARDED = auto()
    CRASH = auto()  # close 1000 without a reason, and without the pongs that were due
    REJECTED = auto()  # backpressure, told
    WAIT = auto()  # backpressure as it should be: the packet has to wait


class StrictSession:
    """`in_thread` runs blocking functions; `chance` is the session's own, so that runs repeat."""

    def __init__(
        self,
        recording_id: str,
        kept: KeptRecording,
        config: StrictConfig,
        timing: Timing,
        chance: random.Random,
        in_thread: Thread,
    ) -> None:
        self.session_id = str(uuid.uuid4())
        self.recording_id = recording_id
        self.registered: Socket | None = None
        self.connections = 0
        self.is_finalised = False
        self.is_paused = False
        self.detached_at = time.monotonic()
        self._kept = kept
        self._config = config
        self._faults = config.faults
        self._timing = timing
        self._chance = chance
        self._in_thread = in_thread
        self._is_initialised = False
        self._is_closing = False
        self._segmenter = Segmenter()
        self._pending: deque[Segment] = deque()
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._file = asyncio.Lock()
        self._ending = asyncio.Lock()
        self._rejected = 0
        self._highest = 0
        self._duplicates = 0
        self._audio_ms = 0
        self._segment_at = self._audio_at = time.monotonic()
        self._stored_seq = 0
        self.entry: dict[str, Any] = {
            "session_id": self.session_id,
            "started_at": time.time(),
            "ended_at": None,
            "ended_by": None,
            "packets": 0,
            "kept_packets": 0,
            "lost_packets": 0,
            "discarded": {},
        }

    @property
    def pending_segments(self) -> int:
        """Cut, but without a transcript."""
        return len(self._pending)

    @property
    def is_over(self) -> bool:
        """True from the moment at which audio is no longer taken."""
        return self.is_finalised or self._is_closing

    def facts(self) -> SessionFacts:
        """For whoever runs the receiver in the same process."""
        return SessionFacts(
            self.session_id,
            self.recording_id,
            self.registered is not None,
            self.is_finalised,
            self._stored_seq,
            self.entry["packets"],
            self._duplicates,
            self.pending_segments,
        )

    # --- what the handler hands on ---

    def init(self, message: dict[str, Any]) -> None:
        """Settings; again, it wipes what was not cut (trap 2)."""
        if self._is_initialised and not self._faults.init_wipes:
            return
        self.entry["lost_packets"] += self._segmenter.wipe()
        target = message.get("segment_target_ms")
        if isinstance(target, int) and not isinstance(target, bool):
            self._segmenter.set_target(target)
        self._is_initialised = True

    def packet(self, data: bytes) -> Verdict:
        """One binary message."""
        arrival = parse(data)
        if arrival is Defect.DROPPED:
            return self._discard("malformed")
        if arrival is Defect.CRASH:
            return Verdict.CRASH if self._faults.crashes_on_magic else self._discard("wrong magic")
        if not self._is_initialised:
            return Verdict.CRASH if self._faults.crashes_before_init else self._discard("before init")
        if self.is_over:
            return self._discard("finalised")
        if self.is_paused:
            return self._discard("paused")
        if len(self._pending) >= self._config.max_pending:
            if not self._faults.backpressure_lies:
                return Verdict.WAIT
            self._rejected += 1
            self._discard("backpressure")
            return Verdict.CRASH if self._rejected <= self._config.silent_rejects else Verdict.REJECTED
        assert not isinstance(arrival, Defect)
        if arrival.seq <= self._highest:
            self._duplicates += 1
            if not self._faults.appends_duplicates:
                return self._discard("duplicate")
        self._highest = max(self._highest, arrival.seq)
        self._audio_ms += arrival.duration_ms
        self._audio_at = time.monotonic()
        self.entry["packets"] += 1
        segment = self._segmenter.add(arrival)
        if segment is not None:
            self._segment_at = time.monotonic()
            self._pending.append(segment)
            self._work.set()
        return Verdict.TAKEN

    def backpressure(self) -> dict[str, Any]:
        """The event that comes from the fifth rejected packet on."""
        return {
            "type": "event",
            "event": "backpressure_reject",
            "pending": len(self._pending),
            "max": self._config.max_pending,
            "retry_after_ms": 1000,
        }

    async def room(self) -> None:
        """Wait until fewer segments are pending."""
        self._room.clear()
        await self._room.wait()

    def _discard(self, reason: str) -> Verdict:
        discarded = self.entry["discarded"]
        discarded[reason] = discarded.get(reason, 0) + 1
        return Verdict.DISCARDED

    # --- transcription ---

    async def transcribe(self) -> None:
        """The session's one worker: a segment after the other, each in its time. Runs until cancelled."""
        while True:
            await self._work.wait()
            if not self._pending:
                self._work.clear()
                continue
            segment = self._pending[0]
            await asyncio.sleep(self._transcription_s())
            if self._pending and self._pending[0] is segment:
                await self._write(segment)
                if self._pending and self._pending[0] is segment:
                    self._pending.popleft()
                self._room.set()

    def _transcription_s(self) -> float:
        return self._chance.uniform(*self._config.transcribe)

    async def _write(self, segment: Segment) -> None:
        """The transcript is written: from now on the audio counts as kept."""
        async with self._file:
            try:
                await self._in_thread(self._kept.append, self.session_id, segment.arrivals)
            except OSError as error:
                log.error("session %s: a transcript cannot be written (%s)", self.session_id, error.strerror)  # noqa: TRY400
                self.entry["lost_packets"] += len(segment.arrivals)
                return
        self.entry["kept_packets"] += len(segment.arrivals)
        self._stored_seq = max(self._stored_seq, *(arrival.seq for arrival in segment.arrivals))

    # --- time ---

    async def heartbeat(self, on_finalised: Callable[[], Awaitable[None]]) -> None:
        """The `t` ping to the registered socket; the end of an expired grace. Runs until cancelled, even when dead."""
        warned_at = time.monotonic()
        while True:
            await asyncio.sleep(self._timing.heartbeat)
            now = time.monotonic()
            if self.registered is not None:
                is_recording = not self.is_over
                self.registered.send(http.ping_t(is_recording=is_recording, audio_ms=self._audio_ms, connected=True))
                last = self._segment_at if self._faults.warns_falsely else self._audio_at
                if not self.is_finalised and now - max(last, warned_at) >= self._timing.no_audio:
                    warned_at = now
                    self.registered.send(http.NO_AUDIO)
            elif (
                not self.is_finalised and now - self.detached_at >= self._timing.grace and await self.finalise("grace")
            ):
                await on_finalised()

    async def pile_pings(self) -> None:
        """What each connection ever made starts, and nothing ends."""
        while True:
            await asyncio.sleep(self._timing.piled_ping)
            if self.registered is not None:
                self.registered.send(http.ping_piled())

    def detach(self) -> None:
        """No socket is registered any more; grace begins."""
        if self.registered is not None:
            self.registered = None
            self.detached_at = time.monotonic()

    async def finalise(self, by: str) -> bool:
        """Flush the tail and wait for its transcript; False when that was done before.

        Segments that are cut but still pending lose their transcripts, as they do in the real server.
        """
        async with self._ending:
            if self.is_finalised:
                return False
            self._is_closing = True
            if self._faults.stop_loses_pending:
                self.entry["lost_packets"] += sum(len(segment.arrivals) for segment in self._pending)
                self._pending.clear()
            while self._pending:
                await self.room()
            tail = self._segmenter.tail()
            if tail is not None:
                await asyncio.sleep(self._transcription_s())
                await self._write(tail)
            self.is_finalised = True
            self.entry["ended_at"], self.entry["ended_by"] = time.time(), by
            return True
