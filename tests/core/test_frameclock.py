"""FrameClock: jitter and drift are no loss, gaps are, to the frame."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.frameclock import FrameClock

RATE = 16000
PERIOD = 1600
SLACK = PERIOD + RATE // 4


class Stream:
    """A device whose frames are `1 / rate` apart by its own clock, read period by period."""

    def __init__(self, ppm: float = 0.0, seed: int = 0, jitter_s: float = 0.0) -> None:
        self.clock = FrameClock(RATE, SLACK)
        self.frame_s = (1 + ppm * 1e-6) / RATE
        self.emitted = 0  # by the device, gaps included
        self.given = 0
        self.lost = 0
        self.stamps: list[float] = []
        self.random = random.Random(seed)
        self.jitter_s = jitter_s

    def read(self, periods: int = 1, *, late_s: float = 0.0, restarted: bool = False, caught_up: bool = True) -> None:
        for _ in range(periods):
            boot_s = 1000.0 + self.emitted * self.frame_s + late_s + self.random.random() * self.jitter_s
            self.lost += self.clock.lost_before(boot_s, restarted=restarted, has_caught_up=caught_up)
            self.stamps.append(self.clock.stamp(PERIOD))
            self.emitted += PERIOD
            self.given += PERIOD
            assert self.clock.position == self.given + self.lost

    def skip(self, frames: int) -> None:
        self.emitted += frames


def test_a_steady_stream_loses_nothing_and_is_stamped_by_position() -> None:
    stream = Stream()
    stream.read(50)
    assert stream.lost == 0
    assert stream.stamps == pytest.approx([1000.0 + n * 0.1 for n in range(50)])


@given(ppm=st.floats(-400, 400), jitter_s=st.floats(0, 0.25), seed=st.integers(0, 999))
def test_jitter_and_drift_are_never_loss(ppm: float, jitter_s: float, seed: int) -> None:
    stream = Stream(ppm, seed, jitter_s)
    stream.read(500)
    assert stream.lost == 0


def test_drift_is_followed_for_hours() -> None:
    for ppm in (-100.0, 100.0):
        stream = Stream(ppm, jitter_s=0.01)
        stream.read(86_400)
        assert stream.lost == 0
        assert stream.stamps[-1] == pytest.approx(1000.0 + (stream.emitted - PERIOD) * stream.frame_s, abs=0.02)


@pytest.mark.parametrize("gap", [0, 1, 777, 16000, 123_456])
def test_an_overrun_loses_what_the_clock_says(gap: int) -> None:
    stream = Stream()
    stream.read(20)
    stream.skip(gap)
    stream.read(restarted=True)
    stream.read(20)
    assert stream.lost == gap
    assert stream.clock.position == stream.emitted


def test_an_overrun_never_takes_frames_back() -> None:
    stream = Stream()
    stream.read(20)
    stream.read(late_s=-0.05, restarted=True)
    assert stream.lost == 0


@pytest.mark.parametrize("gap", [SLACK + 100, 16000, 80_000])
def test_a_hidden_gap_is_found_once_it_has_lasted(gap: int) -> None:
    stream = Stream()
    stream.read(50)
    stream.skip(gap)
    stream.read(20)
    assert stream.lost == 0  # it may still be a delay
    stream.read(50)
    assert stream.lost == pytest.approx(gap, abs=40)
    assert stream.clock.position == pytest.approx(stream.emitted, abs=40)


def test_of_a_hidden_gap_the_jitter_is_not_counted() -> None:
    stream = Stream(jitter_s=0.05)
    stream.read(50)
    stream.skip(16000)
    stream.read(50)
    assert stream.lost == pytest.approx(16000, abs=500)


def test_a_delay_that_is_made_up_for_is_no_loss() -> None:
    stream = Stream()
    stream.read(50)
    stream.read(10, late_s=1.5)
    stream.read(50)
    stream.read(19, late_s=1.5)
    stream.read(50)
    assert stream.lost == 0


def test_a_backlog_is_no_loss_however_long_it_takes() -> None:
    stream = Stream()
    stream.read(50)
    stream.read(100, late_s=3.0, caught_up=False)
    stream.read(50)
    assert stream.lost == 0


def test_a_stamp_that_goes_back_does_not_move_the_start_forward() -> None:
    clock = FrameClock(RATE, SLACK)
    assert clock.lost_before(10.0, restarted=False, has_caught_up=True) == 0
    assert clock.stamp(PERIOD) == 10.0
    assert clock.lost_before(9.5, restarted=False, has_caught_up=True) == 0
    assert clock.stamp(PERIOD) == pytest.approx(9.5)


def test_before_the_first_block_there_is_only_the_boot() -> None:
    assert FrameClock(RATE, SLACK).stamp(0) == 0.0


def test_a_stream_may_begin_before_its_first_frame_and_begins_once() -> None:
    clock = FrameClock(RATE, SLACK)
    clock.begin(10.0)
    clock.begin(12.0)
    assert clock.lost_before(11.0, restarted=True, has_caught_up=True) == RATE
    assert clock.stamp(PERIOD) == pytest.approx(11.0)
    clock.begin(99.0)
    assert clock.lost_before(11.1, restarted=True, has_caught_up=True) == 0


def test_a_gap_that_is_counted_in_steps_is_as_long_as_one() -> None:
    clock = FrameClock(RATE, SLACK)
    clock.begin(0.0)
    steps = [clock.lost_before(n * 0.123456789, restarted=True, has_caught_up=True) for n in range(1, 100)]
    assert sum(steps) == clock.position == round(99 * 0.123456789 * RATE)
    assert clock.lost_before(1.0, restarted=True, has_caught_up=True) == 0  # what is counted stays so
