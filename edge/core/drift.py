"""How fast a microphone's clock runs against the boot clock, from stamps that jitter."""

from __future__ import annotations

from itertools import combinations

LEAF_S = 10.0  # the stamps of so many seconds make one point: their median
MAX_POINTS = 64  # then neighbours are joined: memory does not grow with the recording
MIN_SPAN_S = 600.0


class Drift:
    """The drift of one stream at `rate_hz` frames per second.

    A line through the points by the median of all slopes between two of them (Theil and Sen): late stamps, even whole
    late points, do not bend it. Nothing is said before 10 minutes without a restart. With stamps every 100 ms that
    jitter by +-20 ms it is then right within 6 ppm (root mean square 1.3), after an hour within 0.5 (0.09), after four
    hours within 0.1 (0.02).
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._stamps: list[float] = []
        self._leaf_begins_s = 0.0
        self._points: list[tuple[float, float]] = []
        self._joined = 1  # leaves per point
        self._leaves: list[tuple[float, float]] = []
        self._origin: tuple[float, float] | None = None
        self._longest: tuple[float, float] | None = None

    def add(self, position: int, boot_s: float) -> None:
        """The frame at `position` was captured at `boot_s`. Positions grow."""
        audio_s = position / self._rate_hz
        if self._origin is None:
            self._origin = audio_s, boot_s
        begin_s, begin_boot_s = self._origin
        audio_s -= begin_s
        if audio_s >= self._leaf_begins_s + LEAF_S:
            self._close_leaf()
            self._leaf_begins_s = audio_s
        self._stamps.append(boot_s - begin_boot_s - audio_s)

    def restart(self) -> None:
        """Frames were lost, and only the clock told how many: what follows says nothing about what was before."""
        found = self._measured()
        if found is not None and (self._longest is None or found[0] >= self._longest[0]):
            self._longest = found
        self._stamps, self._points, self._leaves = [], [], []
        self._leaf_begins_s, self._joined, self._origin = 0.0, 1, None

    def ppm(self) -> float | None:
        """How much faster than the boot clock the microphone's runs, in millionths, over the longest stretch without
        a restart; None while that is too short to tell."""
        now, before = self._measured(), self._longest
        best = now if before is None or (now is not None and now[0] >= before[0]) else before
        return None if best is None else best[1]

    def _close_leaf(self) -> None:
        self._leaves.append((self._leaf_begins_s + LEAF_S / 2, _median(self._stamps)))
        self._stamps = []
        if len(self._leaves) < self._joined:
            return
        self._points.append(_middle(self._leaves))
        self._leaves = []
        if len(self._points) == MAX_POINTS:
            self._points = [_middle(self._points[i : i + 2]) for i in range(0, MAX_POINTS, 2)]
            self._joined *= 2

    def _measured(self) -> tuple[float, float] | None:
        """Seconds that the points span, and the drift they show."""
        span_s = len(self._points) * self._joined * LEAF_S
        if span_s < MIN_SPAN_S:
            return None
        slope = _median([(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in combinations(self._points, 2)])
        return span_s, -slope / (1 + slope) * 1e6


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]  # the upper of two; `statistics` would bring `random` and more


def _middle(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
