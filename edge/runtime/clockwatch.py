"""Watches the wall clock for trust gained and for steps, and lets all who stamp by it know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from weakref import WeakSet

from edge.core.timebase import Anchor, Timebase
from edge.runtime.happening import Happening
from edge.runtime.ports import Clock

INTERVAL_S = 2.0
STEP_S = 0.5  # a change that people are told of
_NOISE_S = 0.005  # between two readings of the same clock
_SLEPT_S = 1.0  # less is no sleep, and nothing that a connection would notice


def _nobody(*nothing: object) -> None:
    """Nobody wants to know."""


class ClockWatch:
    """`anchor` is the one to stamp by now. Once it changes, first every timebase that `follow`s has the new one, then
    `on_change` is called, in one go: nothing is stamped by it before.

    `on_doubt` hears why a connection may be worth a test: the clock was set, the machine slept. `on_look` is called
    after each look of `run`.

    Only stamps hang on it: durations, deadlines and backoff go by the boot clock.
    """

    def __init__(self, clock: Clock, tell: Callable[[Happening], None], interval_s: float = INTERVAL_S) -> None:
        self._clock = clock
        self._tell = tell
        self._interval_s = interval_s
        self._timebases: WeakSet[Timebase] = WeakSet()
        self.anchor: Anchor = clock.read()
        self.on_change: Callable[[], None] = _nobody
        self.on_doubt: Callable[[str], None] = _nobody
        self.on_look: Callable[[], None] = _nobody
        self._slept_s = clock.slept_s()

    def follow(self, timebase: Timebase) -> None:
        """Let `timebase` have the anchor, now and whenever it changes, for as long as it lives."""
        timebase.set_anchor(self.anchor)
        self._timebases.add(timebase)

    def look(self) -> None:
        """Read the clock now."""
        asleep_s, self._slept_s = self._slept_s, self._clock.slept_s()
        asleep_s = self._slept_s - asleep_s
        if asleep_s > _SLEPT_S:
            self._tell(Happening("slept", f"the machine slept for {asleep_s:.0f} s"))
            self.on_doubt("the machine slept")
        old = self.anchor
        new = old.or_later(self._clock.read())
        stepped_s = new.utc_minus_boot_s - old.utc_minus_boot_s
        is_gained = new.trusted and not old.trusted
        if not is_gained and abs(stepped_s) <= _NOISE_S:
            return
        self.anchor = new
        for timebase in self._timebases:
            timebase.set_anchor(new)
        self.on_change()
        if abs(stepped_s) > STEP_S:
            self.on_doubt("the clock was set")
        if is_gained:
            text = "the clock is synchronised now: what is not sent yet gets the right time"
            self._tell(Happening("clock", f"{text}; it was {_off(stepped_s)}"))
        elif abs(stepped_s) > STEP_S:
            trust = "" if new.trusted else ", and is not synchronised yet"
            self._tell(Happening("clock", f"the clock was set: it was {_off(stepped_s)}{trust}; no audio is lost"))

    async def run(self) -> None:
        """Look every `interval_s` seconds until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)  # a rhythm, not a wait for anything
            self.look()
            self.on_look()


def _off(stepped_s: float) -> str:
    if abs(stepped_s) <= STEP_S:
        return "right"
    side = "behind" if stepped_s > 0 else "ahead"
    seconds = abs(stepped_s)
    return f"{seconds:.1f} s {side}" if seconds < 86400 else f"{seconds / 86400:.1f} days {side}"
