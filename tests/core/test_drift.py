"""Drift: what stamps that jitter tell of a microphone's clock, after how long, and how exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from edge.core.drift import MAX_POINTS, MIN_SPAN_S, Drift

RATE = 16000
BLOCK_S = 0.1
# By Drift's docstring: after so many seconds the figure is right within so many ppm.
TEN_MINUTES, HOUR, FOUR_HOURS = (620.0, 6.0), (3600.0, 0.5), (14400.0, 0.1)


def stamps(
    seconds: float, ppm: float, jitter_s: float, seed: int = 1, block_s: float = BLOCK_S
) -> Iterator[tuple[int, float]]:
    """Positions, and when they were captured by a boot clock that says 5 s at the first, jitter included."""
    chance = random.Random(seed)
    for block in range(round(seconds / block_s)):
        position = round(block * block_s * RATE)
        yield position, 5.0 + position / RATE / (1 + ppm * 1e-6) + chance.uniform(-jitter_s, jitter_s)


@pytest.mark.parametrize("ppm", [-80.0, -20.0, 0.0, 35.0, 80.0])
def test_drift_is_found_through_jitter_the_more_exactly_the_longer(ppm: float) -> None:
    drift = Drift(RATE)
    limits = [TEN_MINUTES, HOUR, FOUR_HOURS]
    for block, (position, boot_s) in enumerate(stamps(FOUR_HOURS[0] + 700, ppm, 0.02)):
        drift.add(position, boot_s)
        if limits and block * BLOCK_S > limits[0][0]:
            assert drift.ppm() == pytest.approx(ppm, abs=limits.pop(0)[1])
    assert not limits
    assert len(drift._points) < MAX_POINTS
    assert drift._joined > 1


def test_nothing_is_told_before_there_is_evidence() -> None:
    drift = Drift(RATE)
    assert drift.ppm() is None
    for position, boot_s in stamps(MIN_SPAN_S, 80.0, 0.0):
        drift.add(position, boot_s)
    assert drift.ppm() is None
    drift.add(round(MIN_SPAN_S * RATE), 5.0 + MIN_SPAN_S)
    assert drift.ppm() == pytest.approx(80.0, abs=0.1)


def test_stamps_that_are_late_do_not_bend_the_line() -> None:
    """A third of all stamps late by up to 3 s, and for two minutes all of them."""
    drift, chance = Drift(RATE), random.Random(2)
    for position, boot_s in stamps(3600.0, -30.0, 0.02):
        is_late = chance.random() < 0.33 or 1000 < position / RATE < 1120
        drift.add(position, boot_s + (chance.uniform(0.0, 3.0) if is_late else 0.0))
    assert drift.ppm() == pytest.approx(-30.0, abs=3.0)


def test_blocks_longer_than_a_point_do_as_well() -> None:
    drift = Drift(RATE)
    for position, boot_s in stamps(3600.0, 40.0, 0.0, block_s=25.0):
        drift.add(position, boot_s)
    assert drift.ppm() == pytest.approx(40.0, abs=0.1)


def test_a_restart_begins_anew_and_the_longest_stretch_counts() -> None:
    drift = Drift(RATE)

    def go_on(seconds: float, ppm: float) -> None:
        """As a gap does it: the positions jump by what the clock says, wrong by up to 50 ms."""
        drift.restart()
        for position, boot_s in stamps(seconds, ppm, 0.0):
            drift.add(position + 777, boot_s + 1e6)

    go_on(700.0, 10.0)
    assert drift.ppm() == pytest.approx(10.0, abs=0.1)
    go_on(100.0, 500.0)
    assert drift.ppm() == pytest.approx(10.0, abs=0.1)
    go_on(1400.0, 20.0)
    assert drift.ppm() == pytest.approx(20.0, abs=0.1)
    go_on(700.0, 30.0)
    assert drift.ppm() == pytest.approx(20.0, abs=0.1)
    drift.restart()
    assert drift.ppm() == pytest.approx(20.0, abs=0.1)
