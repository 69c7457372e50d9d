"""Timebase: positions to clocks; jitter is smoothed, drift followed."""

from __future__ import annotations

import random

import pytest

from edge.core.timebase import Anchor, Timebase

WRONG, RIGHT = Anchor("b", 3600.0, trusted=False), Anchor("b", 1_700_000_000.0, trusted=True)


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
    assert base.unix_ms(50) == 10_500.0  # without an anchor the clock begins with the boot
    assert base.current is None
    base.set_anchor(RIGHT)
    assert base.unix_ms(50) == 1_700_000_010_500.0
    assert base.trusted is True
    assert base.current is RIGHT


def test_a_clock_that_becomes_trusted_moves_all_stamps_and_no_position() -> None:
    base = Timebase(100)
    base.anchor(0, 10.0)
    base.set_anchor(WRONG)
    assert base.unix_ms(0) == 3_610_000.0
    assert base.trusted is False
    base.set_anchor(RIGHT)
    assert base.unix_ms(0) == 1_700_000_010_000.0
    assert base.boot_s(0) == 10.0


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        (RIGHT, WRONG, RIGHT),
        (WRONG, RIGHT, RIGHT),
        (WRONG, Anchor("b", 1.0, trusted=False), Anchor("b", 1.0, trusted=False)),
        (RIGHT, Anchor("b", 1.0, trusted=True), Anchor("b", 1.0, trusted=True)),
        (RIGHT, Anchor("another boot", 1.0, trusted=False), Anchor("another boot", 1.0, trusted=False)),
    ],
)
def test_a_trusted_anchor_never_gives_way_to_an_untrusted_one_of_its_boot(
    old: Anchor, new: Anchor, kept: Anchor
) -> None:
    base = Timebase(100)
    base.set_anchor(old)
    base.set_anchor(new)
    assert base.current == old.or_later(new) == kept


def test_what_a_boot_captured_is_stamped_by_anchors_of_that_boot_only() -> None:
    assert WRONG.or_better(RIGHT) == RIGHT
    assert RIGHT.or_better(WRONG) == RIGHT
    assert WRONG.or_better(Anchor("another boot", 9.0, trusted=True)) == WRONG
    assert RIGHT.unix_ms(2.5) == 1_700_000_002_500.0


def test_drift_is_told_of_what_was_anchored() -> None:
    base = Timebase(1000)
    assert base.drift_ppm() is None
    for second in range(700):
        base.anchor(second * 1000, 5.0 + second * (1 - 50e-6))
    assert base.drift_ppm() == pytest.approx(50.0, abs=0.1)
    for second in range(100):
        base.anchor((800 + second) * 1000, 820.0 + second, restarted=second == 0)
    assert base.drift_ppm() == pytest.approx(50.0, abs=0.1)  # a restart hides nothing of what was measured
    base.anchor(1_000_000, 2000.0, restarted=True)
    for second in range(1, 700):
        base.anchor(1_000_000 + second * 1000, 2000.0 + second * (1 - 50e-6))
    assert base.drift_ppm() == pytest.approx(50.0, abs=0.1)  # nor does what only the clock told bend it


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
