"""A microphone that goes away and comes back: the recording goes on as a gap that is right to the frame.

Frames are stamped with the time at which the fake captured them; the clock stands but for the waits of the capture,
each of which moves it on by what it was asked to wait. A thread that would not wait could not get anywhere.
"""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from edge.adapters.push import PushSource
from edge.adapters.wav import ToneSource, WavSource
from edge.core.ring import Ring
from edge.errors import EdgeError, InternalError, MicrophoneError
from edge.runtime import capture, device
from edge.runtime.capture import ARRIVES_WITHIN_S, RETRY_S, Capture, Finding
from edge.runtime.ports import Block, SourceInfo
from tests.runtime.fakes import MONO, PACKET, FedSource, joined
from tests.runtime.test_device import FakePanel, rigged
from tests.runtime.test_device import Rig as DeviceRig

BOUND_S = 10.0
RATE = MONO.rate_hz
GONE = MicrophoneError("it is gone: No such device", remedy="plug it in again")
ABSENT = MicrophoneError("it cannot be opened", remedy="plug it in again")
OTHER = MicrophoneError("it is another one", means="it is not recorded", remedy="plug the right one in again")


class Clock:
    """The boot clock, in the test's hands."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Stopping(threading.Event):
    """In place of the capture's own: a wait takes no time but on the clock; once `parked` is wanted, it is real."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.waits: list[float] = []
        self.park_at: int | None = None
        self.parked = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        if self.park_at == len(self.waits):
            self.parked.set()
            return super().wait(BOUND_S)
        self._clock.now_s += timeout
        return self.is_set()


class Rig:
    """A capture from a microphone that may return."""

    def __init__(
        self, source: FedSource, limit: int | None = None, *, now_s: float = 1.0, wait_for_source: bool = False
    ) -> None:
        self.source = source
        self.clock = Clock(now_s)
        self.ring = Ring(1000 * PACKET, source.audio.frame_bytes)
        self.found: list[Finding] = []
        self.told: list[tuple[str, str]] = []
        self.capture = Capture(
            source,
            self.ring,
            self._take,
            limit,
            audio=source.audio,
            tell=lambda kind, text: self.told.append((kind, text)),
            wait_for_source=wait_for_source,
            clock=self.clock,
        )
        self.stopping = self.capture._stopping = Stopping(self.clock)

    def _take(self) -> None:
        findings = self.capture.findings
        while findings:
            self.found.append(findings.popleft())

    async def end(self) -> EdgeError | None:
        async with asyncio.timeout(BOUND_S):
            await asyncio.wait([self.capture.ended])
        return self.capture.ended.result()

    async def run(self) -> EdgeError | None:
        """From the start to the source's own end."""
        self.capture.start()
        return await self.end()

    async def parked(self, wait: int) -> None:
        """Start, and return when the capture is in its `wait`-th wait."""
        self.stopping.park_at = wait
        self.capture.start()
        assert await asyncio.to_thread(self.stopping.parked.wait, BOUND_S)
        await asyncio.sleep(0)

    def lost(self, cause: str) -> int:
        return sum(finding.lost for finding in self.found if finding.cause == cause)

    @property
    def stored(self) -> int:
        return sum(finding.stored for finding in self.found)

    def audio(self) -> bytes:
        return b"".join(bytes(part) for part in self.ring.read(self.ring.tail, self.ring.kept_frames))

    def texts(self) -> list[str]:
        assert {kind for kind, _ in self.told} <= {"microphone"}
        return [text for _, text in self.told]


def microphone() -> FedSource:
    return FedSource(can_return=True)


@pytest.mark.parametrize(("gap", "attempts"), [(8000, 1), (8001, 1), (16_777, 2), (112_123, 14)])
async def test_the_gap_is_exact_by_the_first_frame_that_comes_back(gap: int, attempts: int) -> None:
    source = microphone()
    before = source.give(1600)
    source.fail(GONE)
    source.openings.extend([None] + [ABSENT] * (attempts - 1))
    source.skip(gap)
    after = source.give(1600) + source.give(700)
    source.finish()
    rig = Rig(source, now_s=1.1)
    assert await rig.run() is None
    assert rig.audio() == before + after
    assert rig.lost("microphone") == gap
    assert rig.stopping.waits == [RETRY_S] * attempts
    assert source.opens == attempts + 1
    assert source.closes == 2
    assert not rig.capture.is_missing
    seconds = gap / RATE
    assert rig.texts() == [
        "the microphone is gone: the recording goes on as a gap; plug it in again (it is gone: No such device)",
        f"the microphone is back after {seconds:.1f} s",
    ]


async def test_what_is_missing_is_counted_while_it_is_and_never_too_much() -> None:
    source = microphone()
    source.give(1600)
    source.fail(GONE)
    source.openings.extend([None] + [ABSENT] * 30)
    rig = Rig(source, now_s=3.1)  # it was noticed 2 s late
    await rig.parked(wait=20)
    now_s = 3.1 + 19 * RETRY_S
    assert rig.clock.now_s == pytest.approx(now_s)
    assert rig.capture.is_missing
    assert rig.lost("microphone") == round((now_s - ARRIVES_WITHIN_S - 1.1) * RATE)
    steps = [finding.lost for finding in rig.found if finding.cause == "microphone"]
    assert max(steps[1:]) <= RATE  # the first has what passed until it was noticed
    rig.capture.stop()
    assert await rig.end() is None


async def test_a_stop_while_it_is_missing_ends_at_once_and_the_gap_reaches_up_to_it() -> None:
    source = microphone()
    source.give(1600)
    source.fail(GONE)
    source.openings.extend([None] + [ABSENT] * 30)
    rig = Rig(source, now_s=1.1)
    await rig.parked(wait=3)
    rig.clock.now_s = 2.345
    rig.capture.stop()
    rig.clock.now_s = 3.0  # the thread gets to it later
    assert await rig.end() is None
    assert rig.lost("microphone") == round((2.345 - 1.1) * RATE)
    assert source.opens == 3
    assert len(rig.stopping.waits) == 3


async def test_a_stop_while_the_one_that_came_back_gives_nothing_yet() -> None:
    source = microphone()
    source.give(1600)
    source.fail(GONE)
    rig = Rig(source, now_s=1.1)
    rig.stopping.park_at = 2
    rig.capture.start()
    async with asyncio.timeout(BOUND_S):
        while source.reads < 4:
            await asyncio.sleep(0)
    rig.clock.now_s = 5.0
    rig.capture.stop()
    assert await rig.end() is None
    assert rig.lost("microphone") == round((5.0 - 1.1) * RATE)
    assert len(rig.texts()) == 1


async def test_one_that_gives_nothing_yet_is_still_missing_and_counted() -> None:
    source = microphone()
    source.give(1600)
    source.fail(GONE)
    for boot_s in (1.7, 2.7, 3.7):
        source.raw(Block(b"", boot_s))
    source.fail(GONE)  # it never gave anything: no news
    rig = Rig(source, now_s=1.1)
    await rig.parked(wait=2)
    assert rig.lost("microphone") == round((3.7 - ARRIVES_WITHIN_S - 1.1) * RATE)
    assert len(rig.texts()) == 1
    rig.capture.stop()
    assert await rig.end() is None


async def test_a_failure_during_the_stop_is_a_gap_up_to_the_stop_and_nobody_is_told() -> None:
    source = FedSource(can_return=True, patience=BOUND_S)
    source.give(1600)
    rig = Rig(source, now_s=1.1)
    rig.capture.start()
    async with asyncio.timeout(BOUND_S):
        while source.reads < 2:
            await asyncio.sleep(0)
    rig.clock.now_s = 1.5
    source.fail(GONE)
    rig.capture.stop()
    assert await rig.end() is None
    assert rig.lost("microphone") == round(0.4 * RATE)
    assert rig.texts() == []


@pytest.mark.parametrize("limit", [1601, 10_000, 48_000])
async def test_missing_frames_count_into_the_limit(limit: int) -> None:
    source = microphone()
    source.give(1600)
    source.fail(GONE)
    source.openings.extend([None] + [ABSENT] * 100)
    rig = Rig(source, limit, now_s=1.1)
    assert await rig.run() is None
    assert (rig.stored, rig.lost("microphone")) == (1600, limit - 1600)
    waited_s = RETRY_S * len(rig.stopping.waits)
    assert waited_s <= (limit - 1600) / RATE + ARRIVES_WITHIN_S + RETRY_S


@pytest.mark.parametrize(("limit", "wanted"), [(9599, (1600, 7999)), (9600, (1600, 8000)), (9700, (1700, 8000))])
async def test_the_limit_may_lie_behind_the_return(limit: int, wanted: tuple[int, int]) -> None:
    source = microphone()
    source.give(1600)
    source.fail(GONE)
    source.skip(8000)
    source.give(1600)
    rig = Rig(source, limit, now_s=1.1)
    assert await rig.run() is None
    assert (rig.stored, rig.lost("microphone")) == wanted


@pytest.mark.parametrize("seed", range(20))
async def test_after_many_absences_and_overruns_the_position_is_that_of_the_clock(seed: int) -> None:
    chance = random.Random(seed)
    source = microphone()
    rig = Rig(source)
    wanted = {"microphone": 0, "xrun": 0}
    given = bytearray()

    def one_block() -> None:
        lost = chance.choice((0, 0, 0, 1, 777, 40_000))
        wanted["xrun"] += lost
        given.extend(source.give(chance.randint(1, 3000), lost, "xrun" if lost else ""))

    source.openings.append(None)
    one_block()
    for _ in range(chance.randint(1, 8)):
        for _ in range(chance.randint(0, 5)):
            one_block()
        attempts, gap = chance.randint(1, 6), chance.randint(0, 7999)
        gap += round(attempts * RETRY_S * RATE)
        source.fail(GONE)
        source.openings.extend([ABSENT] * (attempts - 1) + [None])
        source.skip(gap)
        wanted["microphone"] += gap
        one_block()
    source.finish()
    # The clock of the test stands while the source gives, so it is always behind the stamps: nothing counts too early.
    assert await rig.run() is None
    assert {cause: rig.lost(cause) for cause in wanted} == wanted
    assert rig.audio() == bytes(given)
    assert rig.stored + sum(wanted.values()) == source._position
    position = 0
    first = next(finding for finding in rig.found if finding.stored)
    for finding in rig.found:
        position += finding.lost
        if finding.stored:
            at_s = first.boot_s + (position - first.lost) / RATE
            assert finding.boot_s == pytest.approx(at_s, abs=1.5 / RATE)
        position += finding.stored


async def test_drift_of_the_microphone_is_not_lost_at_the_next_absence() -> None:
    """A slow crystal: after 20 minutes at 100 ppm it is 0.12 s behind, which a clock that stands would call lost."""
    source = microphone()
    slow = 1 + 100e-6
    for second in range(1200):
        source.raw(Block(bytes(2 * RATE), 1.0 + second * slow))
    end_s = 1.0 + 1200 * slow
    source.fail(GONE)
    source.raw(Block(bytes(3200), end_s + 5.0))
    source.finish()
    rig = Rig(source, now_s=end_s)
    assert await rig.run() is None
    assert rig.lost("microphone") == pytest.approx(5 * RATE, abs=2)


async def test_another_microphone_is_said_once_and_so_is_each_thing_to_do() -> None:
    source = microphone()
    source.give(1600)
    source.fail(GONE)
    source.openings.extend([None, ABSENT, ABSENT, OTHER, OTHER, ABSENT, OTHER])
    source.skip(4 * RATE)
    source.give(1)
    source.finish()
    rig = Rig(source, now_s=1.1)
    assert await rig.run() is None
    assert rig.texts()[1:] == [
        "the microphone is still missing; plug the right one in again (it is another one; it is not recorded)",
        "the microphone is back after 4.0 s",
    ]


async def test_each_absence_is_told() -> None:
    source = microphone()
    for _ in range(3):
        source.give(1600)
        source.fail(GONE)
        source.skip(RATE)
    source.give(1)
    source.finish()
    rig = Rig(source)
    assert await rig.run() is None
    assert [text.partition(":")[0] for text in rig.texts()] == [
        "the microphone is gone",
        "the microphone is back after 1.0 s",
    ] * 3


async def test_one_that_fails_at_every_read_keeps_nobody_busy() -> None:
    source = microphone()
    source.give(1600)
    for _ in range(50):
        source.fail(GONE)
    source.skip(100 * RATE)
    source.give(1)
    source.finish()
    rig = Rig(source, now_s=1.1)
    assert await rig.run() is None
    assert rig.stopping.waits == [RETRY_S] * 50
    assert source.opens == 51
    assert source.closes == 51
    assert len(rig.texts()) == 2


async def test_one_that_dies_before_its_first_frame_is_missing_since_it_was_opened() -> None:
    source = microphone()
    source.fail(GONE)
    source.raw(Block(b"ab" * 10, 4.0))
    source.finish()
    rig = Rig(source, now_s=1.0)
    assert await rig.run() is None
    assert rig.lost("microphone") == 3 * RATE


async def test_the_heartbeat_goes_on_while_it_is_missing() -> None:
    source = microphone()
    source.fail(GONE)
    source.openings.extend([None] + [ABSENT] * 9)
    rig = Rig(source)
    rig.capture.heartbeat = 0.0
    await rig.parked(wait=5)
    assert rig.capture.heartbeat > 0.0
    rig.capture.stop()
    assert await rig.end() is None


@pytest.mark.parametrize("where", ["open", "close", "read"])
async def test_a_bug_while_it_is_missing_ends_the_recording_and_the_gap_reaches_up_to_it(where: str) -> None:
    source = microphone()
    source.give(1600)
    source.fail(GONE)
    bug = ZeroDivisionError("oops")
    if where == "close":
        source.fail_close = bug
    elif where == "open":
        source.openings.extend([None, ABSENT, bug])
    else:
        source.fail(bug)
    rig = Rig(source, now_s=1.1)
    error = await rig.run()
    assert isinstance(error, InternalError)
    assert "oops" in str(error)
    waited_s = RETRY_S * len(rig.stopping.waits)
    assert rig.lost("microphone") == round((0 if where == "close" else waited_s) * RATE)


async def test_one_that_hangs_when_it_is_opened_again_is_given_up_with_the_gap_up_to_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capture, "STOP_PATIENCE_S", 0.0)
    source = microphone()
    source.give(1600)
    rig = Rig(source, now_s=1.1)
    rig.capture.start()
    await rig.capture.opened
    source.hang_open.clear()
    source.fail(GONE)
    async with asyncio.timeout(BOUND_S):
        while source.opens < 2:
            await asyncio.sleep(0)
    rig.clock.now_s = 7.0
    rig.capture.stop()
    assert isinstance(await rig.end(), MicrophoneError)
    assert rig.lost("microphone") == round((7.0 - 1.1) * RATE)
    source.hang_open.set()
    rig.capture._thread.join(BOUND_S)
    await asyncio.sleep(0)
    assert rig.lost("microphone") == round((7.0 - 1.1) * RATE)


# --- absent at the start ---------------------------------------------------------------------------------------------


async def test_absent_at_the_start_it_is_waited_for_where_that_is_wanted() -> None:
    source = microphone()
    source.openings.extend([MicrophoneError("no such card", remedy="look"), ABSENT, ABSENT])
    source.skip(3 * RATE)  # its stamps begin at 1.0
    given = source.give(1600)
    source.finish()
    rig = Rig(source, wait_for_source=True)
    rig.capture.start()
    assert await rig.capture.opened == SourceInfo("no microphone yet", MONO, 0)
    assert await rig.end() is None
    assert rig.lost("microphone") == 3 * RATE
    assert rig.audio() == given
    assert rig.capture.info == SourceInfo("fed", MONO, PACKET)
    assert rig.texts() == [
        "the microphone is absent: the recording begins as a gap; look (no such card)",
        "the microphone is still missing; plug it in again (it cannot be opened)",
        "the recording goes on from fed after 3.0 s",
    ]


async def test_stopped_before_it_ever_came() -> None:
    source = microphone()
    source.fail_open = ABSENT
    rig = Rig(source, wait_for_source=True)
    await rig.parked(wait=4)
    rig.clock.now_s = 3.5
    rig.capture.stop()
    assert await rig.end() is None
    assert (rig.stored, rig.lost("microphone")) == (0, round(2.5 * RATE))


async def test_what_is_there_is_not_waited_for() -> None:
    source = microphone()
    source.give(10)
    source.finish()
    rig = Rig(source, wait_for_source=True)
    rig.capture.start()
    assert (await rig.capture.opened).name == "fed"
    assert await rig.end() is None
    assert rig.lost("microphone") == 0


@pytest.mark.parametrize(("can_return", "waits"), [(True, False), (False, True)])
async def test_otherwise_one_that_is_absent_at_the_start_is_an_error(can_return: bool, waits: bool) -> None:
    source = FedSource(can_return=can_return)
    source.fail_open = ABSENT
    rig = Rig(source, wait_for_source=waits)
    rig.capture.start()
    with pytest.raises(MicrophoneError, match="cannot be opened"):
        await rig.capture.opened
    assert await rig.end() is ABSENT
    assert (source.opens, rig.found) == (1, [])


# --- another one -----------------------------------------------------------------------------------------------------


async def test_a_fallback_is_said_with_its_notes_and_only_new_ones() -> None:
    source = microphone()
    source.openings.append(SourceInfo("alsa:a", MONO, PACKET, ("old",), "usb 1"))
    source.give(1600)
    source.fail(GONE)
    source.openings.append(SourceInfo("alsa:b", MONO, PACKET, ("a is gone", "old"), "usb 2"))
    source.skip(2 * RATE)
    source.give(1)
    source.finish()
    rig = Rig(source, now_s=1.1)
    assert await rig.run() is None
    assert rig.told[1:] == [("source", "a is gone"), ("microphone", "the recording goes on from alsa:b after 2.0 s")]
    assert rig.capture.info is not None
    assert rig.capture.info.identity == "usb 2"


# --- what never comes back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("can_wait", [False, True])
async def test_a_file_is_never_opened_again(can_wait: bool) -> None:
    source = FedSource(can_wait=can_wait)
    source.give(1600)
    source.fail(GONE)
    rig = Rig(source, now_s=1.1)
    assert await rig.run() is GONE
    assert (source.opens, rig.lost("microphone"), rig.texts()) == (1, 0, [])


def test_files_tones_and_pushed_audio_do_not_return() -> None:
    assert not WavSource("x.wav").can_return
    assert not ToneSource("440", MONO).can_return
    assert not PushSource(MONO, PACKET, PACKET).can_return


# --- the Device ------------------------------------------------------------------------------------------------------


async def test_a_device_may_start_without_its_microphone_and_the_status_shows_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capture, "RETRY_S", 0.01)
    async with rigged(DeviceRig()) as rig:

        def absent() -> FedSource:
            source = microphone()
            source.fail_open = ABSENT
            return source

        rig.next_source = absent
        with pytest.raises(MicrophoneError):
            await rig.device.start()
        assert not rig.device.is_recording
        recording, info = await rig.device.start(wait_for_source=True)
        assert info.name == "no microphone yet"
        while rig.device.status().lost == 0.0:  # it grows while it is missing
            await asyncio.sleep(0.01)
        status = rig.device.status()
        assert status.recorded == status.lost
        source = rig.sources[-1]
        boot_s = capture._boot_s()
        source.raw(Block(b"ab" * 2000, boot_s))
        source.fail_open = None
        while recording.ledger.stored < 2000:
            await asyncio.sleep(0)
        rig.device.stop()
        assert await rig.device.ended() is None
        await rig.device.delivered()
        assert rig.server.audio(recording.recording_id) == b"ab" * 2000
        assert recording.ledger.lost.keys() == {"microphone"}
        assert recording.ledger.expected == recording.ledger.lost["microphone"] + 2000
        kinds = [kind for kind in rig.kinds() if kind in ("recording", "microphone", "gap")]
        assert sorted(kinds) == ["microphone", "microphone", "recording"]


async def test_the_recording_led_is_off_while_the_microphone_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "RETRY_S", 0.01)
    monkeypatch.setattr(device, "BLINK_S", 0.001)
    panel = FakePanel()
    async with rigged(DeviceRig(panel=panel)) as rig:
        rig.next_source = microphone

        async def shows(lit: bool) -> None:
            panel.shown.clear()
            while not panel.shown or panel.shown[-1][0] != lit:
                await asyncio.sleep(0.001)

        showing = asyncio.create_task(rig.device.show())
        await rig.device.start()
        source = rig.sources[-1]
        source.give(1600)
        await shows(True)
        source.fail_open = ABSENT
        source.fail(GONE)
        await shows(False)
        source.fail_open = None
        source.give(1600)
        await shows(True)
        rig.device.stop()
        await rig.device.ended()
        await joined([showing])
