"""The recorder: from findings to the recording's account, and what people are told of losses."""

from __future__ import annotations

import array
import asyncio
import math
from typing import Any

import pytest

from edge.core.packet import HEADER_BYTES, AudioFormat, decode_header
from edge.core.ring import Ring
from edge.core.timebase import Timebase
from edge.errors import MicrophoneError
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.lease import RingShare
from edge.runtime.ports import Block
from edge.runtime.recorder import SILENCE_DBFS, Recorder
from tests.runtime.fakes import MONO, PACKET, FakeClock, FedSource, pattern, wire

BOUND_S = 10.0


class Rig:
    """A recorder from a FedSource."""

    def __init__(
        self,
        source: FedSource,
        ring: Ring | None = None,
        limit: int | None = None,
        share: RingShare | None = None,
    ) -> None:
        self.source = source
        self.ring = ring or Ring(100 * PACKET, source.audio.frame_bytes)
        self.told: list[tuple[str, str]] = []
        self.has_supply = asyncio.Event()
        self.ends = 0
        settings = {"agent": "a", "event": "e"}
        self.clock = FakeClock()
        self.watch = ClockWatch(self.clock, lambda happening: self._tell(happening.kind, happening.text))
        self.recorder = Recorder(
            source,
            self.ring,
            source.audio,
            PACKET,
            settings,
            self.has_supply.set,
            self._end,
            self._tell,
            limit,
            clock=self.watch,
            share=share or RingShare(self.ring),
        )
        self.ledger = self.recorder.recording.ledger

    def _end(self) -> None:
        assert self.ledger.ended
        self.ends += 1

    def _tell(self, kind: str, text: str) -> None:
        self.told.append((kind, text))

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]

    async def until(self, packets: int) -> None:
        """Wait for supply until there are so many packets."""
        async with asyncio.timeout(BOUND_S):
            while self.ledger.last < packets:
                self.has_supply.clear()
                await self.has_supply.wait()

    async def end(self) -> Any:
        async with asyncio.timeout(BOUND_S):
            return await self.recorder.ended()


async def test_stamps_follow_the_clock_from_the_first_frame_to_the_last_that_is_unsent() -> None:
    source = FedSource()
    rig = Rig(source)
    rig.clock.set(5000.0, trusted=True)  # set since the last look: the start looks again
    await rig.recorder.start()
    source.give(2 * PACKET)
    await rig.until(2)
    recording = rig.recorder.recording

    def stamp_s(seq: int) -> float:
        return decode_header(wire(recording, seq)).captured_unix_ms / 1000

    assert stamp_s(1) == pytest.approx(5001.0)
    assert recording.anchor() == rig.clock.anchor
    right = rig.clock.set(1.7e9, trusted=True)
    rig.watch.look()
    assert [stamp_s(1), stamp_s(2)] == pytest.approx([1.7e9 + 1.0, 1.7e9 + 1.1], abs=1e-3)
    assert recording.anchor() == right
    assert rig.recorder.drift_ppm() is None
    source.finish()
    await rig.end()


async def test_drift_is_not_measured_across_what_only_the_clock_told(monkeypatch: pytest.MonkeyPatch) -> None:
    anchored: list[tuple[int, bool]] = []

    def anchor(self: Timebase, position: int, boot_s: float, *, restarted: bool = False) -> None:
        anchored.append((position, restarted))

    monkeypatch.setattr(Timebase, "anchor", anchor)
    source = FedSource()
    rig = Rig(source)
    await rig.recorder.start()
    source.give(PACKET)
    source.give(PACKET, lost=500, cause="xrun")
    source.give(PACKET)
    source.finish()
    await rig.end()
    assert anchored == [(0, False), (PACKET + 500, True), (2 * PACKET + 500, False)]


async def test_packets_carry_what_was_captured() -> None:
    source = FedSource()
    rig = Rig(source)
    given = b"".join(source.give(frames) for frames in (1000, 1000, 1500))
    source.finish()
    await rig.recorder.start()
    assert await rig.end() is None
    recording = rig.recorder.recording
    packets = [wire(recording, seq) for seq in range(1, rig.ledger.last + 1)]
    assert b"".join(packet[HEADER_BYTES:] for packet in packets) == given
    assert [decode_header(packet).frames for packet in packets] == [1600, 1600, 300]
    assert rig.ledger.expected == 3500
    assert rig.ends == 1
    assert recording.settings == {"agent": "a", "event": "e", "recording": recording.recording_id}


async def test_each_loss_stands_at_its_place_in_frames() -> None:
    source = FedSource()
    rig = Rig(source)
    source.give(1000, lost=5, cause="microphone")
    source.give(600, lost=70, cause="xrun")
    source.raw(Block(b"", 9.0, 30, "xrun"))
    source.finish()
    await rig.recorder.start()
    assert await rig.end() is None
    ledger = rig.ledger
    assert ledger.lost == {"microphone": 5, "xrun": 100}
    assert ledger.expected == 1705
    gaps = [gap for seq in (1, 2, 3) for gap in ledger.gaps_before(seq)]
    assert [(gap.before_seq, gap.frames) for gap in gaps] == [(1, 5), (2, 70), (3, 30)]
    assert rig.kinds() == ["gap", "gap"]  # of a microphone that is gone the capture tells the edges


async def test_an_overflow_is_counted_to_the_frame_and_told_at_its_edges() -> None:
    source = FedSource()
    rig = Rig(source, Ring(2 * PACKET, 2))
    await rig.recorder.start()
    first = source.give(3000)
    second = source.give(400)
    await rig.until(2)
    assert rig.ledger.lost == {"overflow": 200}
    assert rig.kinds() == ["overflow"]
    # Given back piece by piece it refuses again and again: one overflow, told once.
    recording = rig.recorder.recording
    recording.release(rig.ledger.deliver(0) + 100)
    source.give(300)
    await rig.until(3)  # closed short by the gap
    assert rig.ledger.lost == {"overflow": 400}
    assert rig.kinds() == ["overflow"]
    recording.release(3000)
    source.give(2000)
    source.finish()
    assert await rig.end() is None
    assert rig.ledger.lost == {"overflow": 400}
    assert rig.kinds() == ["overflow", "overflow"]
    assert rig.ledger.expected == 3000 + 400 + 300 + 2000
    assert len(first) + len(second) == 2 * 3400


async def test_an_overflow_between_two_looks_is_told_all_the_same() -> None:
    source = FedSource()
    rig = Rig(source, Ring(10, 2))
    source.give(15)
    source.give(0, lost=3, cause="xrun")
    source.finish()
    rig.recorder._capture.start()
    rig.recorder._capture._thread.join(BOUND_S)  # the loop sees all of it at once
    assert await rig.end() is None
    assert sorted(rig.kinds()) == ["gap", "overflow"]
    assert rig.ledger.lost == {"overflow": 5, "xrun": 3}


async def test_a_microphone_that_goes_away_ends_the_recording_with_all_it_gave() -> None:
    source = FedSource()
    rig = Rig(source)
    source.give(1700)
    source.fail(MicrophoneError("unplugged"))
    await rig.recorder.start()
    assert isinstance(await rig.end(), MicrophoneError)
    assert rig.ledger.ended
    assert rig.ledger.stored == 1700
    assert rig.ledger.last == 2


async def test_it_ends_without_anybody_waiting_and_several_may_wait() -> None:
    source = FedSource()
    rig = Rig(source)
    source.give(10)
    source.finish()
    await rig.recorder.start()
    waiting = [asyncio.create_task(rig.recorder.ended()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # its wait, and nothing else
    assert await rig.end() is None
    assert await asyncio.gather(*waiting[1:]) == [None, None]
    assert rig.ends == 1


async def test_the_limit_holds() -> None:
    source = FedSource()
    rig = Rig(source, limit=2000)
    source.give(1500)
    source.give(1500)
    await rig.recorder.start()
    assert await rig.end() is None
    assert rig.ledger.expected == 2000


async def test_stamps_follow_the_gaps() -> None:
    source = FedSource()
    rig = Rig(source)
    source.give(1600)
    source.give(1600, lost=16000, cause="xrun")
    source.finish()
    await rig.recorder.start()
    assert await rig.end() is None
    first, second = (decode_header(wire(rig.recorder.recording, seq)) for seq in (1, 2))
    assert second.captured_unix_ms - first.captured_unix_ms == pytest.approx(1100, abs=1)


@pytest.mark.parametrize("audio", [MONO, AudioFormat(48000, 2)])
async def test_the_level_is_that_of_the_last_tenth_of_a_second(audio: AudioFormat) -> None:
    source = FedSource(audio)
    rig = Rig(source, Ring(audio.rate_hz, audio.frame_bytes))
    assert rig.recorder.level_dbfs() == SILENCE_DBFS
    tenth = audio.rate_hz // 10
    quiet = bytes(tenth * audio.frame_bytes)
    sine = array.array("h")
    for frame in range(tenth):
        sine.extend([round(16384 * math.sin(math.tau * frame / 100))] * audio.channels)
    source.raw(Block(quiet, 1.0))
    source.finish()
    await rig.recorder.start()
    assert await rig.end() is None
    assert rig.recorder.level_dbfs() == SILENCE_DBFS
    rig.ring.write(sine.tobytes())
    assert rig.recorder.level_dbfs() == pytest.approx(-9.03, abs=0.05)


async def test_two_recordings_share_a_ring_one_behind_the_other() -> None:
    ring = Ring(10 * PACKET, 2)
    share = RingShare(ring)
    first, second = FedSource(), FedSource()
    one = Rig(first, ring, share=share)
    first.give(1000)
    first.finish()
    await one.recorder.start()
    await one.end()
    two = Rig(second, ring, share=share)
    second.give(2000)
    second.finish()
    await two.recorder.start()
    await two.end()
    assert wire(one.recorder.recording, 1)[HEADER_BYTES:] == pattern(0, 1000)
    assert wire(two.recorder.recording, 1)[HEADER_BYTES:] == pattern(0, 1600)
    one.recorder.recording.release(one.ledger.deliver(1))
    assert ring.kept_frames == 2000
    two.recorder.recording.release(two.ledger.deliver(2))
    assert ring.kept_frames == 0
