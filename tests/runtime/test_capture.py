"""The capture thread: every frame that a source gives is stored or counted, and the thread always ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from edge.core.ring import Ring
from edge.errors import EdgeError, InternalError, MicrophoneError
from edge.runtime import capture
from edge.runtime.capture import Capture, Finding
from edge.runtime.ports import Block
from tests.runtime.fakes import MONO, PACKET, FedSource

BOUND_S = 10.0


class Rig:
    """A capture from a FedSource, and all that it found."""

    def __init__(self, source: FedSource, ring_frames: int = 100 * PACKET, limit: int | None = None) -> None:
        self.source = source
        self.ring = Ring(ring_frames, source.audio.frame_bytes)
        self.found: list[Finding] = []
        self.has_found = asyncio.Event()
        self.capture = Capture(source, self.ring, self._take, limit, audio=source.audio)

    def _take(self) -> None:
        findings = self.capture.findings
        while findings:
            self.found.append(findings.popleft())
        self.has_found.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until findings make `condition` true."""
        async with asyncio.timeout(BOUND_S):
            while not condition():
                self.has_found.clear()
                await self.has_found.wait()

    async def end(self) -> EdgeError | None:
        async with asyncio.timeout(BOUND_S):
            await asyncio.wait([self.capture.ended])
        return self.capture.ended.result()

    @property
    def stored(self) -> int:
        return sum(finding.stored for finding in self.found)

    @property
    def lost(self) -> int:
        return sum(finding.lost for finding in self.found)

    @property
    def refused(self) -> int:
        return sum(finding.refused for finding in self.found)

    def audio(self) -> bytes:
        """All that is kept in the ring."""
        return b"".join(bytes(part) for part in self.ring.read(self.ring.tail, self.ring.kept_frames))


async def test_all_that_a_source_gives_until_it_ends() -> None:
    source = FedSource()
    given = b"".join(source.give(frames) for frames in (1, 1600, 777))
    source.finish()
    rig = Rig(source)
    rig.capture.start()
    info = await rig.capture.opened
    assert info.name == "fed"
    assert await rig.end() is None
    assert rig.audio() == given
    assert [finding.stored for finding in rig.found] == [1, 1600, 777]
    assert source.closes == 1


async def test_frames_in_the_block_that_ends_count() -> None:
    source = FedSource()
    source.raw(Block(b"ab" * 10, 1.0, 3, "xrun", ended=True))
    rig = Rig(source)
    rig.capture.start()
    assert await rig.end() is None
    assert rig.found == [Finding(1.0, 10, 3, "xrun", 0)]


@pytest.mark.parametrize("limit", [1, 1599, 1600, 1601, 4000, 4001])
async def test_a_limit_is_kept_to_the_frame(limit: int) -> None:
    source = FedSource()
    for _ in range(5):
        source.give(800)
    rig = Rig(source, limit=limit)
    rig.capture.start()
    if limit > 4000:
        source.give(5000)
    assert await rig.end() is None
    assert rig.stored == limit == rig.ring.head


@pytest.mark.parametrize(("limit", "wanted"), [(99, (99, 0)), (100, (100, 0)), (101, (100, 1)), (130, (100, 30))])
async def test_lost_frames_count_into_the_limit(limit: int, wanted: tuple[int, int]) -> None:
    source = FedSource()
    source.give(50, lost=100, cause="xrun")
    rig = Rig(source, limit=limit)
    rig.capture.start()
    assert await rig.end() is None
    assert (rig.lost, rig.stored) == wanted


async def test_refused_frames_count_into_the_limit() -> None:
    source = FedSource()
    for _ in range(10):
        source.give(10)
    rig = Rig(source, ring_frames=25, limit=70)
    rig.capture.start()
    assert await rig.end() is None
    assert (rig.stored, rig.refused) == (25, 45)


async def test_a_source_that_does_not_open() -> None:
    source = FedSource()
    source.fail_open = MicrophoneError("no such device")
    rig = Rig(source)
    rig.capture.start()
    with pytest.raises(MicrophoneError, match="no such device"):
        await rig.capture.opened
    assert isinstance(await rig.end(), MicrophoneError)
    assert source.closes == 1


async def test_a_source_that_goes_away_leaves_what_it_gave() -> None:
    source = FedSource()
    given = source.give(500)
    source.fail(MicrophoneError("unplugged"))
    rig = Rig(source)
    rig.capture.start()
    assert str(await rig.end()) == "unplugged"
    assert rig.audio() == given


@pytest.mark.parametrize("where", ["open", "read", "close"])
async def test_a_source_with_a_bug_ends_in_an_error_and_not_in_silence(where: str) -> None:
    source = FedSource()
    source.give(10)
    if where == "open":
        source.fail_open = KeyError("oops")
    elif where == "read":
        source.fail(ZeroDivisionError("oops"))
    else:
        source.finish()
        source.fail_close = OSError("oops")
    rig = Rig(source)
    rig.capture.start()
    if where == "open":
        with pytest.raises(InternalError, match="KeyError"):
            await rig.capture.opened
    error = await rig.end()
    assert isinstance(error, InternalError)
    assert "oops" in str(error)
    assert rig.stored == (0 if where == "open" else 10)


@pytest.mark.parametrize("block", [Block(b"abc", 1.0), Block(b"", 1.0, 5, ""), Block(b"", 1.0, -1, "xrun")])
async def test_a_block_that_breaks_the_contract_is_a_bug(block: Block) -> None:
    source = FedSource()
    source.raw(block)
    rig = Rig(source)
    rig.capture.start()
    assert isinstance(await rig.end(), InternalError)
    assert rig.stored == rig.lost == 0


async def test_empty_reads_are_a_heartbeat_and_nothing_else() -> None:
    source = FedSource(patience=0.001)
    rig = Rig(source)
    before = rig.capture.heartbeat
    rig.capture.start()
    await rig.capture.opened
    async with asyncio.timeout(BOUND_S):
        while source.reads < 3:
            await asyncio.sleep(0)
    rig.capture.stop()
    assert await rig.end() is None
    assert rig.capture.heartbeat > before
    assert rig.found == []


async def test_a_microphone_at_a_full_ring_loses_what_does_not_fit_and_no_more() -> None:
    source = FedSource()
    rig = Rig(source, ring_frames=1000)
    rig.capture.start()
    first = source.give(800)
    second = source.give(800)
    await rig.until(lambda: rig.stored + rig.refused == 1600)
    assert (rig.stored, rig.refused) == (1000, 600)
    assert rig.audio() == first + second[:400]
    rig.ring.release(300)
    third = source.give(500)
    await rig.until(lambda: rig.stored + rig.refused == 2100)
    assert (rig.stored, rig.refused) == (1300, 800)
    assert rig.audio() == (first + second)[600:2000] + third[:600]
    assert [(finding.stored, finding.refused) for finding in rig.found] == [(800, 0), (200, 600), (300, 200)]
    rig.capture.stop()
    assert await rig.end() is None


async def test_a_file_at_a_full_ring_waits_and_loses_nothing() -> None:
    source = FedSource(can_wait=True)
    given = b"".join(source.give(700) for _ in range(10))
    source.finish()
    rig = Rig(source, ring_frames=1000)
    rig.capture.start()
    heard = b""
    async with asyncio.timeout(BOUND_S):
        while len(heard) < len(given):
            await rig.until(lambda: rig.ring.kept_frames > 0)
            part = rig.audio()
            heard += part
            rig.ring.release(rig.ring.tail + len(part) // 2)
            rig.capture.has_space()
    assert await rig.end() is None
    assert heard == given
    assert rig.refused == 0


async def test_a_files_block_longer_than_the_ring_comes_in_parts() -> None:
    source = FedSource(can_wait=True)
    given = source.give(3333, lost=7, cause="xrun")
    source.finish()
    rig = Rig(source, ring_frames=1000)
    rig.capture.start()
    heard = b""
    async with asyncio.timeout(BOUND_S):
        while len(heard) < len(given):
            await rig.until(lambda: rig.ring.kept_frames > 0)
            part = rig.audio()
            heard += part
            rig.ring.release(rig.ring.tail + len(part) // 2)
            rig.capture.has_space()
    assert await rig.end() is None
    assert heard == given
    assert (rig.stored, rig.lost, rig.refused) == (3333, 7, 0)
    assert rig.found[0].lost == 7
    for finding, start in zip(rig.found, range(0, 3333, 500), strict=True):
        assert finding.boot_s == pytest.approx(rig.found[0].boot_s + start / MONO.rate_hz)


async def test_stopped_while_it_waits_a_file_loses_nothing_either() -> None:
    """What was not taken is still in the file: the recording ends in front of it."""
    source = FedSource(can_wait=True)
    given = source.give(700) + source.give(700)
    rig = Rig(source, ring_frames=1000)
    rig.capture.start()
    await rig.until(lambda: rig.stored == 700)
    async with asyncio.timeout(BOUND_S):
        while source.reads < 2:
            await asyncio.sleep(0)
    rig.capture.stop()
    assert await rig.end() is None
    assert rig.audio() == given[: 2 * rig.stored]
    assert 700 <= rig.stored <= 1000
    assert rig.refused == 0


async def test_stop_takes_the_read_that_is_under_way() -> None:
    source = FedSource(patience=5.0)
    rig = Rig(source)
    rig.capture.start()
    await rig.capture.opened
    async with asyncio.timeout(BOUND_S):
        while source.reads < 1:
            await asyncio.sleep(0)
    rig.capture.stop()
    given = source.give(123)
    assert await rig.end() is None
    assert rig.audio() == given


async def test_stop_before_the_source_is_open() -> None:
    source = FedSource()
    source.hang_open.clear()
    rig = Rig(source)
    rig.capture.start()
    rig.capture.stop()
    source.hang_open.set()
    assert await rig.end() is None
    assert source.reads == 0
    assert rig.capture.opened.done()


@pytest.mark.parametrize("where", ["open", "read"])
async def test_a_source_that_hangs_is_given_up_and_its_late_frames_are_not_taken(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "STOP_PATIENCE_S", 0.0)
    source = FedSource()
    rig = Rig(source)
    given = b""
    if where == "open":
        source.hang_open.clear()
    else:
        given = source.give(100)
        source.hang()
    rig.capture.start()
    async with asyncio.timeout(BOUND_S):
        while where == "read" and source.reads < 2:
            await asyncio.sleep(0)
    rig.capture.stop()
    rig.capture.stop()
    assert isinstance(await rig.end(), MicrophoneError)
    if where == "open":
        with pytest.raises(MicrophoneError):
            await rig.capture.opened
    source.hang_open.set()
    source.released.set()
    rig.capture._thread.join(BOUND_S)
    await asyncio.sleep(0)
    assert not rig.capture._thread.is_alive()
    assert rig.audio() == given if given else rig.ring.head == 0
    assert source.closes == 1


async def test_a_cancelled_open_breaks_nothing() -> None:
    source = FedSource()
    source.hang_open.clear()
    rig = Rig(source)
    rig.capture.start()
    rig.capture.opened.cancel()
    source.hang_open.set()
    source.finish()
    assert await rig.end() is None


def test_a_loop_that_is_gone_does_not_matter_to_the_thread() -> None:
    source = FedSource()

    async def main() -> Capture:
        rig = Rig(source)
        rig.capture.start()
        await rig.capture.opened
        return rig.capture

    left = asyncio.run(main())
    source.give(10)
    source.finish()
    left._thread.join(BOUND_S)
    assert not left._thread.is_alive()
    assert source.closes == 1


async def test_findings_come_in_the_order_of_the_frames() -> None:
    source = FedSource()
    for number in range(200):
        source.give(number + 1, lost=number % 3, cause="xrun")
    source.finish()
    rig = Rig(source)
    rig.capture.start()
    assert await rig.end() is None
    assert [finding.stored for finding in rig.found] == list(range(1, 201))
    assert [finding.lost for finding in rig.found] == [number % 3 for number in range(200)]
    stamps = [finding.boot_s for finding in rig.found]
    assert stamps == sorted(stamps)
