"""Timebase: positions to clocks; jitter is smoothed, drift followed."""

from __future__ import annotations

import random

import pytest

from edge.core.timebase import Timebase


def test_before_the_first_anchor_a_recording_begins_with_the_boot() -> None:
    base = Timebase(100)
    assert base.boot_s(250) == 2.5
    assert base.trusted is False


def test_the_first_anchor_is_taken_whole() -> None:
    base = Timebase(100)
    base.anchor(200, 50.0)
    assert base.boot_s(0) == 48.0
    assert base.boot_s(300) == 51.0


def test_utc_is_added_in_milliseconds() -> None:
    base = Timebase(100)
    base.anchor(0, 10.0)
    base.set_utc(1_700_000_000.0, trusted=True)
    assert base.unix_ms(50) == 1_700_000_010_500.0
    assert base.trusted is True


def test_a_step_is_followed_slowly() -> None:
    base = Timebase(100)
    base.anchor(0, 0.0)
    base.anchor(0, 0.64)
    assert base.boot_s(0) == pytest.approx(0.01)
    for _ in range(44):
        base.anchor(0, 0.64)
    assert 0.31 < base.boot_s(0) < 0.35


def test_jitter_stays_small_and_drift_is_followed() -> None:
    base, chance = Timebase(16000), random.Random(1)
    worst = 0.0
    for block in range(6000):
        true = 5.0 + block * 0.1 * (1 + 50e-6)
        base.anchor(block * 1600, true + chance.uniform(0, 0.02))
        if block > 300:
            worst = max(worst, abs(base.boot_s(block * 1600) - true - 0.01))
    assert worst < 0.004
