"""How fast a socket carries audio, by what was handled; and whether that is too slow for what is recorded."""

from __future__ import annotations

import math
from collections import deque

SPAN_S = 2.0  # throughput is measured over so much, and so much of it may be in flight
MIN_IN_FLIGHT = 2  # packets: below that nothing could be measured
_STEP_S = 0.05  # marks are so far apart: their number is bounded
AFTER_STALL = 4  # packets, on the socket after one that stalled: two seconds of audio may take this link a minute
GROWTH_S = 5.0  # a backlog that grew by so much on one socket is not just a hiccup
CAUGHT_UP_S = 2.0


class Flow:
    """Throughput of one socket. Only time with something in flight counts: an idle link is not a slow one."""

    def __init__(self, seq: int) -> None:
        self._has_stalled = False
        self.begin(seq)

    def begin(self, seq: int) -> None:
        """A new socket, on which the packets behind `seq` are to follow."""
        self._marks: deque[tuple[float, int]] = deque([(0.0, seq)])
        self._busy_s = 0.0
        self._busy_since: float | None = None

    def stalled(self) -> None:
        """The socket is given up for want of an answer: the next one begins with little."""
        self._has_stalled = True

    def sending(self, now: float) -> None:
        """A packet goes out."""
        if self._busy_since is None:
            self._busy_since = now

    def handled(self, seq: int, now: float, *, is_idle: bool) -> None:
        """All up to `seq` is handled; `is_idle`: nothing more is in flight."""
        if self._busy_since is None:
            return
        self._has_stalled = False
        self._busy_s += now - self._busy_since
        self._busy_since = None if is_idle else now
        if len(self._marks) > 2 and self._marks[-1][0] < self._marks[-2][0] + _STEP_S:
            self._marks.pop()
        self._marks.append((self._busy_s, seq))
        while self._marks[1][0] <= self._busy_s - SPAN_S:
            self._marks.popleft()

    @property
    def packets_per_s(self) -> float:
        """Over the latest two busy seconds; nan as long as nothing was handled on this socket."""
        if len(self._marks) < 2 or self._marks[-1][0] <= self._marks[0][0]:
            return math.nan
        (since_s, first), (until_s, last) = self._marks[0], self._marks[-1]
        return (last - first) / (until_s - since_s)

    def limit(self, at_first: int, at_most: int) -> int:
        """How many packets may be in flight: two seconds of throughput, or `at_first` while that is unknown."""
        rate = self.packets_per_s
        if math.isnan(rate):
            return min(AFTER_STALL, at_first) if self._has_stalled else at_first
        return min(max(MIN_IN_FLIGHT, int(SPAN_S * rate)), at_most)


class Backlog:
    """Whether audio comes faster than the link carries it away. It speaks once, and once when it is over."""

    def __init__(self) -> None:
        self.is_growing = False
        self._least_s = math.inf

    def begin(self) -> None:
        """A new socket, or a wait that is not the link's fault: what waits by now is no verdict on the link."""
        self._least_s = math.inf

    def look(self, behind_s: float) -> bool:
        """So much waits to be handled; True where that has changed `is_growing`."""
        self._least_s = min(self._least_s, behind_s)
        was_growing = self.is_growing
        if behind_s >= self._least_s + GROWTH_S:
            self.is_growing = True
        elif behind_s <= CAUGHT_UP_S:
            self.is_growing = False
        return self.is_growing is not was_growing
