"""Position <-> boot clock <-> UTC. Positions are the truth about time; clocks are only anchored to them.

Stamps of single reads jitter by the scheduler's whim, the microphone's clock drifts by tens of ppm: the anchor follows
the stamps slowly enough to hide the first and fast enough to keep up with the second.
"""

from __future__ import annotations

_FOLLOW = 1 / 64  # of a stamp's deviation is believed: with 100 ms blocks half of a step is followed within 4.4 s


class Timebase:
    """The clock of one recording at `rate_hz` frames per second; all times in seconds unless the name says ms."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._start_boot_s: float | None = None
        self._utc_minus_boot_s = 0.0
        self.trusted = False

    def anchor(self, position: int, boot_s: float) -> None:
        """The frame at `position` was captured at boot-clock time `boot_s`."""
        start = boot_s - position / self._rate_hz
        if self._start_boot_s is None:
            self._start_boot_s = start
        else:
            self._start_boot_s += (start - self._start_boot_s) * _FOLLOW

    def set_utc(self, utc_minus_boot_s: float, *, trusted: bool) -> None:
        """What to add to the boot clock for UTC, and whether that clock was synchronised. Later stamps use it."""
        self._utc_minus_boot_s = utc_minus_boot_s
        self.trusted = trusted

    def boot_s(self, position: int) -> float:
        """Boot-clock time of the frame at `position`; before the first anchor the boot itself."""
        return (self._start_boot_s or 0.0) + position / self._rate_hz

    def unix_ms(self, position: int) -> float:
        """Capture time of the frame at `position` in Unix milliseconds, as the PCM1 header wants it."""
        return (self.boot_s(position) + self._utc_minus_boot_s) * 1000.0
