"""Position <-> boot clock <-> UTC. Positions are the truth about time; clocks are only anchored to them.

Stamps of single reads jitter by the scheduler's whim, the microphone's clock drifts by tens of ppm: the anchor follows
the stamps slowly enough to hide the first and fast enough to keep up with the second.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.core.drift import Drift

_FOLLOW = 1 / 64  # of a stamp's deviation is believed: with 100 ms blocks half of a step is followed within 4.4 s


@dataclass(frozen=True, slots=True)
class Anchor:
    """What to add to the boot clock of the boot `boot_id` for UTC, in seconds; `trusted`: that clock was
    synchronised."""

    boot_id: str
    utc_minus_boot_s: float
    trusted: bool

    def unix_ms(self, boot_s: float) -> float:
        """A moment of the boot clock in Unix milliseconds."""
        return (boot_s + self.utc_minus_boot_s) * 1000.0

    def or_later(self, later: Anchor) -> Anchor:
        """The one to go by once `later` was read: never one that is not trusted for a trusted one of the same boot."""
        return self if later.boot_id == self.boot_id and self.trusted and not later.trusted else later

    def or_better(self, other: Anchor) -> Anchor:
        """The one to go by for what was captured in this anchor's boot: `other` tells only of its own."""
        return self.or_later(other) if other.boot_id == self.boot_id else self


class Timebase:
    """The clock of one recording at `rate_hz` frames per second; all times in seconds unless the name says ms."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._start_boot_s: float | None = None
        self._anchor: Anchor | None = None
        self._drift = Drift(rate_hz)

    @property
    def current(self) -> Anchor | None:
        """The anchor by which stamps are made now; None before the first `set_anchor`."""
        return self._anchor

    @property
    def trusted(self) -> bool:
        """True once stamps stem from a synchronised clock."""
        return self._anchor is not None and self._anchor.trusted

    def anchor(self, position: int, boot_s: float, *, restarted: bool = False) -> None:
        """The frame at `position` was captured at boot-clock time `boot_s`; `restarted`: frames were lost before it,
        and how many only the clock could tell."""
        start = boot_s - position / self._rate_hz
        if self._start_boot_s is None:
            self._start_boot_s = start
        else:
            self._start_boot_s += (start - self._start_boot_s) * _FOLLOW
        if restarted:
            self._drift.restart()
        self._drift.add(position, boot_s)

    def set_anchor(self, anchor: Anchor) -> None:
        """Later stamps use it, unless the one that is there is of the same boot and trusted, and this one is not."""
        self._anchor = anchor if self._anchor is None else self._anchor.or_later(anchor)

    def boot_s(self, position: int) -> float:
        """Boot-clock time of the frame at `position`; before the first anchor the boot itself."""
        return (self._start_boot_s or 0.0) + position / self._rate_hz

    def unix_ms(self, position: int) -> float:
        """Capture time of the frame at `position` in Unix milliseconds, as the PCM1 header wants it. Without an
        anchor the clock begins with the boot."""
        boot_s = self.boot_s(position)
        return boot_s * 1000.0 if self._anchor is None else self._anchor.unix_ms(boot_s)

    def drift_ppm(self) -> float | None:
        """How much faster than the boot clock the microphone's clock runs, in millionths; None until that can be told
        (see `Drift`)."""
        return self._drift.ppm()
