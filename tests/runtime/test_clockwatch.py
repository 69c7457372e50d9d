"""The clock watch: what it notices, whom it tells, and what it leaves alone."""

from __future__ import annotations

import asyncio
import gc
import re
from pathlib import Path
from typing import Any

import pytest

import edge
from edge.core.timebase import Anchor, Timebase
from edge.runtime.clockwatch import INTERVAL_S, ClockWatch
from edge.runtime.happening import Happening
from tests.runtime.fakes import FakeClock, joined, simulate


class Rig:
    """A watch of a FakeClock with one timebase; `changes` has what that one stamped by at each change."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.told: list[Happening] = []
        self.watch = ClockWatch(clock, self.told.append)
        self.timebase = Timebase(100)
        self.watch.follow(self.timebase)
        self.changes: list[Anchor | None] = []
        self.watch.on_change = lambda: self.changes.append(self.timebase.current)
        self.doubts: list[str] = []
        self.watch.on_doubt = self.doubts.append

    def look(self, utc_minus_boot_s: float, *, trusted: bool) -> Anchor:
        found = self.clock.set(utc_minus_boot_s, trusted=trusted)
        self.watch.look()
        return found

    def texts(self) -> list[str]:
        assert {happening.kind for happening in self.told} <= {"clock"}
        return [happening.text for happening in self.told]


def test_a_timebase_has_the_anchor_from_the_beginning() -> None:
    rig = Rig(FakeClock(5.0, trusted=False))
    assert rig.timebase.current == rig.watch.anchor == Anchor("boot", 5.0, trusted=False)
    rig.watch.look()
    assert (rig.changes, rig.told) == ([], [])


def test_trust_gained_is_told_once_behind_the_timebases() -> None:
    rig = Rig(FakeClock(0.0, trusted=False))
    right = rig.look(1.7e9, trusted=True)
    assert rig.changes == [right]
    assert rig.watch.anchor == right
    assert rig.texts() == [
        "the clock is synchronised now: what is not sent yet gets the right time; it was 19675.9 days behind"
    ]
    rig.watch.look()
    assert len(rig.told) == len(rig.changes) == 1


def test_trust_gained_without_a_step_is_a_change_all_the_same() -> None:
    rig = Rig(FakeClock(10.0, trusted=False))
    right = rig.look(10.0, trusted=True)
    assert rig.changes == [right]
    assert rig.texts()[0].endswith("it was right")


@pytest.mark.parametrize("trusted", [True, False])
def test_a_step_is_told_once(trusted: bool) -> None:
    rig = Rig(FakeClock(1000.0, trusted=trusted))
    stepped = rig.look(990.0, trusted=trusted)
    rig.watch.look()
    assert rig.changes == [stepped]
    assert len(rig.told) == 1
    assert "10.0 s ahead" in rig.texts()[0]
    assert ("not synchronised" in rig.texts()[0]) is not trusted


def test_a_small_step_is_followed_and_not_told_and_noise_is_neither() -> None:
    rig = Rig(FakeClock(1000.0))
    rig.look(1000.004, trusted=True)
    assert rig.changes == []
    small = rig.look(1000.3, trusted=True)
    assert (rig.changes, rig.told) == ([small], [])


def test_small_steps_in_a_row_are_followed() -> None:
    rig = Rig(FakeClock(1000.0))
    for number in range(1, 11):
        rig.look(1000.0 + number * 0.003, trusted=True)
    assert rig.watch.anchor.utc_minus_boot_s == pytest.approx(1000.03, abs=0.005)


def test_a_trusted_clock_is_kept_when_somebody_sets_it_by_hand_until_it_is_synchronised_again() -> None:
    right = FakeClock(1000.0)
    rig = Rig(right)
    rig.look(0.0, trusted=False)
    assert (rig.changes, rig.told, rig.watch.anchor.utc_minus_boot_s) == ([], [], 1000.0)
    rig.look(1000.001, trusted=True)
    assert rig.changes == []
    again = rig.look(1002.0, trusted=True)
    assert rig.changes == [again]


# --- what a connection may not have survived -------------------------------------------------------------------------


def sleep(rig: Rig, seconds: float) -> None:
    """CLOCK_BOOTTIME runs on while the machine sleeps, so the anchor stays."""
    rig.clock.slept += seconds
    rig.watch.look()


def test_a_sleep_is_told_once_and_puts_the_connection_in_doubt() -> None:
    clock = FakeClock(1000.0)
    clock.slept = 500.0  # before this process began
    rig = Rig(clock)
    rig.watch.look()
    assert (rig.told, rig.doubts) == ([], [])
    sleep(rig, 3600.0)
    rig.watch.look()
    assert rig.told == [Happening("slept", "the machine slept for 3600 s")]
    assert rig.doubts == ["the machine slept"]
    assert rig.changes == []
    sleep(rig, 7.4)
    assert [happening.text for happening in rig.told[1:]] == ["the machine slept for 7 s"]
    assert len(rig.doubts) == 2


def test_a_moment_of_suspend_is_no_sleep() -> None:
    """The two clocks are not read in one moment."""
    rig = Rig(FakeClock(1000.0))
    for _ in range(10):
        sleep(rig, 0.5)
    assert (rig.told, rig.doubts) == ([], [])


def test_a_sleep_is_noticed_within_one_interval_of_waking() -> None:
    async def main() -> None:
        rig = Rig(FakeClock(1000.0))
        running = asyncio.create_task(rig.watch.run())
        await asyncio.sleep(10.5 * INTERVAL_S)
        rig.clock.slept += 60.0
        await asyncio.sleep(INTERVAL_S)
        assert rig.doubts == ["the machine slept"]
        await joined([running])

    simulate(main())


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("step_s", [0.6, -0.6, 1e8, -1e8])
def test_a_step_of_the_clock_puts_the_connection_in_doubt_behind_the_new_stamps(step_s: float, trusted: bool) -> None:
    """Proxies and certificates go by it."""
    rig = Rig(FakeClock(2e8, trusted=trusted))
    order: list[str] = []
    rig.watch.on_change = lambda: order.append("stamps")
    rig.watch.on_doubt = order.append
    rig.look(2e8 + step_s, trusted=trusted)
    rig.watch.look()
    assert order == ["stamps", "the clock was set"]


def test_trust_gained_with_a_step_does_and_without_one_does_not() -> None:
    rig = Rig(FakeClock(0.0, trusted=False))
    rig.look(0.0, trusted=True)
    assert rig.doubts == []
    rig = Rig(FakeClock(0.0, trusted=False))
    rig.look(1.7e9, trusted=True)
    assert rig.doubts == ["the clock was set"]


def test_a_small_step_leaves_the_connection_alone() -> None:
    rig = Rig(FakeClock(1000.0))
    rig.look(1000.3, trusted=True)
    assert (len(rig.changes), rig.doubts) == (1, [])


def test_a_sleep_after_which_the_clock_is_set_is_both() -> None:
    rig = Rig(FakeClock(1000.0))
    rig.clock.slept = 60.0
    rig.look(1010.0, trusted=True)
    assert rig.doubts == ["the machine slept", "the clock was set"]
    assert [happening.kind for happening in rig.told] == ["slept", "clock"]


def test_nobody_has_to_listen() -> None:
    clock = FakeClock(1000.0)
    watch = ClockWatch(clock, lambda happening: None)
    clock.slept = 60.0
    clock.set(2000.0, trusted=True)
    watch.look()
    assert watch.anchor.utc_minus_boot_s == 2000.0


def test_a_timebase_that_nobody_needs_is_forgotten() -> None:
    rig = Rig(FakeClock())
    rig.watch.follow(Timebase(100))
    gc.collect()
    assert len(rig.watch._timebases) == 1


def test_it_looks_in_its_rhythm_until_it_is_cancelled() -> None:
    async def main() -> None:
        rig = Rig(FakeClock(0.0, trusted=False))
        running = asyncio.create_task(rig.watch.run())
        await asyncio.sleep(INTERVAL_S / 2)
        right = rig.clock.set(1.7e9, trusted=True)
        await asyncio.sleep(0)
        assert rig.changes == []
        await asyncio.sleep(INTERVAL_S)
        assert rig.changes == [right]
        reads = rig.clock.reads
        await asyncio.sleep(10 * INTERVAL_S)
        assert rig.clock.reads == reads + 10
        await joined([running])

    simulate(main())


def test_no_part_of_core_and_runtime_reads_the_wall_clock() -> None:
    """What they decide by is the boot clock; the wall clock comes in as an Anchor only."""
    wall = re.compile(r"\btime\.(time|time_ns|localtime|gmtime|ctime|strftime)\(|CLOCK_REALTIME|\bdatetime\b")
    root = Path(edge.__file__).parent

    def found(text: str) -> list[Any]:
        return wall.findall(text)

    assert found("x = time.time()")
    for path in [*(root / "core").glob("*.py"), *(root / "runtime").glob("*.py")]:
        assert found(path.read_text()) == [], path
