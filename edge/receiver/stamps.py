"""By which clock each packet was stamped, and what the best clock says of it.

A recorder that knows our extension tells its clock before the first packet on each socket, and before the first one
that is stamped by another. So a packet was stamped by the clock that was told last. When a later clock of the same boot
is trusted, everything that was stamped in that boot can be put right, however wrong it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_STRETCHES = 1_000  # later ones are not told apart from the last of these
MAX_BOOTS = 100
MAX_ID_CHARS = 64
_SAME_S = 1e-3  # two clocks, beyond what JSON and subtraction cost


@dataclass(frozen=True, slots=True)
class ToldClock:
    """What to add to the boot clock of `boot_id` for UTC, in seconds."""

    boot_id: str
    utc_minus_boot_s: float
    trusted: bool

    def is_like(self, other: ToldClock) -> bool:
        """The same stamps come of both."""
        return self.boot_id == other.boot_id and abs(self.utc_minus_boot_s - other.utc_minus_boot_s) < _SAME_S


@dataclass(slots=True)
class Stretch:
    """Packets from `first_seq` on, stamped by one clock (None: by one that was never told). `stamped_at` is the first
    one's stamp as it came, in Unix seconds; NaN and infinity count as None."""

    first_seq: int
    position: int
    stamped_at: float | None
    clock: ToldClock | None


class Stamps:
    """The stamps of one recording."""

    def __init__(self) -> None:
        self.stretches: list[Stretch] = []
        self._current: ToldClock | None = None
        self._is_new = True
        self._trusted: dict[str, ToldClock] = {}

    def session_begun(self) -> None:
        """Until its client tells one, nothing is known of its clock."""
        self._current, self._is_new = None, True

    def told(self, value: Mapping[str, Any]) -> None:
        """A `clock` message. One that makes no sense changes nothing."""
        clock = _parse(value)
        if clock is None:
            return
        was = _number(value.get("was_utc_minus_boot_s"))
        last = self.stretches[-1] if self.stretches else None
        if was is not None and last is not None and last.clock is None and not self._is_new:
            last.clock = ToldClock(clock.boot_id, was, trusted=False)  # those packets of this session
        if clock.trusted and (clock.boot_id in self._trusted or len(self._trusted) < MAX_BOOTS):
            self._trusted[clock.boot_id] = clock
        # A clock that is told again, on the next socket, begins nothing.
        self._current, self._is_new = clock, last is None or last.clock is None or not clock.is_like(last.clock)

    def packet(self, seq: int, position: int, stamped_ms: float) -> None:
        """Packet `seq` was stored at `position`, with this stamp."""
        if not self._is_new:
            return
        self._is_new = False
        if len(self.stretches) < MAX_STRETCHES:
            stamped_at = _number(stamped_ms / 1000)
            self.stretches.append(Stretch(seq, position, stamped_at, self._current))

    def captured_at(self, stretch: Stretch) -> float | None:
        """When the first frame of a stretch was captured, in Unix seconds, by a trusted clock; None where there is
        none for it."""
        clock = stretch.clock
        best = self._trusted.get(clock.boot_id) if clock is not None else None
        if clock is None or best is None or stretch.stamped_at is None:
            return None
        return stretch.stamped_at + best.utc_minus_boot_s - clock.utc_minus_boot_s

    def started_at(self, rate_hz: int) -> float | None:
        """When the frame at position 0 was captured, by a trusted clock; None where there is none for it."""
        if not self.stretches:
            return None
        captured_at = self.captured_at(self.stretches[0])
        return None if captured_at is None else captured_at - self.stretches[0].position / rate_hz

    def to_json(self) -> list[dict[str, Any]]:
        """One entry for each stretch: raw stamp, and the right time or None."""
        return [
            {
                "first_seq": stretch.first_seq,
                "position": stretch.position,
                "stamped_at": stretch.stamped_at,
                "captured_at": self.captured_at(stretch),
                "boot_id": stretch.clock.boot_id if stretch.clock else None,
            }
            for stretch in self.stretches
        ]


def _parse(value: Mapping[str, Any]) -> ToldClock | None:
    boot_id, trusted = value.get("boot_id"), value.get("trusted")
    boot_s, utc_s = _number(value.get("boot_s")), _number(value.get("utc_s"))
    if boot_s is None or utc_s is None or not isinstance(boot_id, str) or not isinstance(trusted, bool):
        return None
    if not 0 < len(boot_id) <= MAX_ID_CHARS:
        return None
    return ToldClock(boot_id, utc_s - boot_s, trusted)


def _number(value: object) -> float | None:
    """A finite number. JSON's true is none, and its NaN and Infinity are not welcome."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
