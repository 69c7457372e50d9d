"""How many frames a microphone should have given by the clock, and how many of those are missing."""

from __future__ import annotations


class FrameClock:
    """Positions of one stream against the boot clock: where frames are missing. Pure: the caller brings the time.

    The earliest arrival says best when the recording began, since frames come late but never early; it may move by
    1000 ppm, which is more than crystals drift and NTP slews. So jitter is never counted as loss, and a gap that the
    driver hides is, once the stream has lagged by more than `slack` frames for 2 s without a break.
    """

    _DRIFT = 1e-3
    _PERSIST_S = 2.0

    def __init__(self, rate_hz: int, slack: int) -> None:
        self.position = 0
        self._rate_hz = rate_hz
        self._slack_s = slack / rate_hz
        self._start_s: float | None = None
        self._last_s = 0.0
        self._late_since_s: float | None = None
        self._least_late_s = 0.0

    def begin(self, boot_s: float) -> None:
        """Position 0 is at `boot_s`, although no frame came; without effect once it is known."""
        if self._start_s is None:
            self._start_s = self._last_s = boot_s

    def lost_before(self, boot_s: float, *, restarted: bool, has_caught_up: bool) -> int:
        """Frames lost before a block whose first frame was captured at `boot_s` seconds by its own stamp; adds them.

        restarted      an overrun stopped the stream since the last block, or the microphone was gone: the clock alone
                       tells what is missing
        has_caught_up  nothing more is waiting behind this block, so a lag is no backlog
        """
        if self._start_s is None:
            self.begin(boot_s)
            return 0
        late_s = boot_s - self.position / self._rate_hz - self._start_s
        passed_s, self._last_s = max(0.0, boot_s - self._last_s), boot_s
        if restarted:
            return self._lose(late_s)
        if late_s < 0:
            self._start_s += late_s
            late_s = 0.0
        if late_s <= self._slack_s:
            self._start_s += min(late_s, passed_s * self._DRIFT)
            self._late_since_s = None
        elif has_caught_up:
            if self._late_since_s is None:
                self._late_since_s, self._least_late_s = boot_s, late_s
            self._least_late_s = min(self._least_late_s, late_s)
            if boot_s - self._late_since_s >= self._PERSIST_S:
                return self._lose(self._least_late_s)
        return 0

    def _lose(self, seconds: float) -> int:
        frames = max(0, round(seconds * self._rate_hz))
        self.position += frames
        self._late_since_s = None
        return frames

    def stamp(self, frames: int) -> float:
        """Boot-clock seconds of the first of the next `frames` frames; the position moves behind them."""
        boot_s = (self._start_s or 0.0) + self.position / self._rate_hz
        self.position += frames
        return boot_s
