"""A recording that a test feeds, kept by the real spool writer on a real folder, in rounds that the test asks for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from edge.adapters.spool import CardRecording, SpoolDirectory
from edge.core.ledger import Ledger
from edge.core.packet import AudioFormat
from edge.core.recovery import Recovered
from edge.core.ring import Ring
from edge.core.segment import BLOCK_BYTES
from edge.core.timebase import Timebase
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.keeper import Keeper
from edge.runtime.lease import RingShare
from edge.runtime.ports import SourceInfo, Spool
from edge.runtime.recording import Recording
from edge.runtime.spooler import Spooler
from edge.runtime.store import Store, StorePolicy
from tests.runtime.fakes import FakeClock, pattern

AUDIO_RATE = 16000
P = 170  # frames of a packet: ten of them fill a segment of two blocks
SEGMENT = 2 * BLOCK_BYTES
BOUND_S = 20.0
LONG_S = 1000.0  # between rounds that nobody asked for
IDS = [f"{number}f0c2c1e-8c0e-4d0a-9a53-0123456789ab" for number in range(9)]


def spool_at(path: Path, max_bytes: int = 1 << 30, **options: Any) -> SpoolDirectory:
    return SpoolDirectory(path, max_bytes, **{"segment_bytes": SEGMENT, "ballast_bytes": 0, **options})


class Live:
    """One recording."""

    def __init__(self, rig: CardRig, recording_id: str) -> None:
        self.rig = rig
        self.ledger = Ledger(P, rig.ring.head)
        self.timebase = Timebase(AUDIO_RATE)
        rig.watch.follow(self.timebase)
        self.timebase.anchor(0, 100.0)
        self.lease = rig.share.lease()
        self.safe: list[int] = []
        self.recording = Recording(
            recording_id,
            rig.audio,
            self.ledger,
            {"agent": "a", "event": "e", "recording": recording_id},
            lambda seq: None,
            self.lease.move,
            anchor=lambda: self.timebase.current,
        )
        self.keeper: Keeper = rig.store.begin(
            self.recording, self.timebase, SourceInfo("mic", rig.audio, P, (), "usb-1"), self._safe
        )

    def _safe(self, offset: int) -> None:
        self.safe.append(offset)
        self.lease.move(offset)

    def talk(self, packets: int, frames: int = 0) -> None:
        count = packets * P + frames
        assert self.rig.ring.write(pattern(self.ledger.expected, count)) == count
        self.ledger.capture(count)
        self.keeper.supply()

    def lose(self, frames: int, cause: str) -> None:
        self.ledger.gap(frames, cause)
        self.keeper.supply()

    def deliver(self, seq: int) -> None:
        self.lease.move(self.ledger.deliver(seq))

    def end(self, by: str = "stop") -> None:
        self.ledger.end()
        self.keeper.end(by)


class CardRig:
    """A Store with its Spooler on `path`; told is what people were told. Call `start` in a running loop."""

    def __init__(
        self,
        path: Path,
        *,
        system: Any = os,
        spool: Spool | None = None,
        ring_packets: int = 2000,
        interval_s: float = LONG_S,
        keep_days: float = 0.0,
        clock: FakeClock | None = None,
        options: dict[str, Any] | None = None,
        **policy: Any,
    ) -> None:
        self.audio = AudioFormat(AUDIO_RATE, 1)
        self.path = path
        self.clock = clock or FakeClock()
        self.watch = ClockWatch(self.clock, lambda happening: None)
        self.ring = Ring(ring_packets * P, 2)
        self.share = RingShare(self.ring)
        self.told: list[tuple[str, str]] = []
        self.directory = spool_at(path, system=system, **(options or {}))
        self.now_s = 0.0
        self.spooler = Spooler(
            spool or self.directory,
            self.ring,
            interval_s,
            lambda kind, text: self.told.append((kind, text)),
            lambda: self.now_s,
            keep_days,
        )
        self.store = Store(
            self.spooler, self.ring, self.watch, StorePolicy("device", keep_days=keep_days, **policy), number=1
        )

    def begin(self, recording_id: str = IDS[0]) -> Live:
        return Live(self, recording_id)

    async def round(self, times: int = 1) -> None:
        """Let the writer make whole rounds, and the loop hear of them."""
        async with asyncio.timeout(BOUND_S):
            for _ in range(times):
                await self.spooler.flush()
            await asyncio.sleep(0)

    async def close(self) -> bool:
        return await self.spooler.close(BOUND_S)

    def load(self, recording_id: str = IDS[0]) -> tuple[CardRecording, Recovered]:
        """What a later process finds."""
        spool = spool_at(self.path)
        return spool.load(spool.recordings / recording_id)

    def on_card(self, recording_id: str = IDS[0]) -> dict[int, tuple[int, bytes]]:
        """Position and audio of each packet on the card, by number."""
        return self.packets(*self.load(recording_id))

    @staticmethod
    def packets(card: CardRecording, found: Recovered) -> dict[int, tuple[int, bytes]]:
        """See `on_card`."""
        first = card.segments[0].header.first_seq if card.segments else 1
        return {
            seq: (packet.position, packet.wire[32:])
            for seq, packet in card.read(first, found.ledger.last)
            if packet is not None
        }
