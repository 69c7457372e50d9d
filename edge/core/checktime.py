"""By what time certificates are checked on a device whose clock cannot be trusted.

Nothing here touches a stamp: those go by the clock, and say that it is not trusted.

Two things are better than such a clock. The *floor* is a moment that has passed for sure: this version was made, and a
trusted clock was once so late. The *rescued* time is the `Date` of an answer from a server whose chain of certificates
is whole (names, signatures, a root that is trusted) and valid at that very date, not before the floor and at most
`WINDOW_S` behind it. Who could forge that has the key of a certificate that the server really had since the floor, and
would pass with a right clock as well until it ended: the floor bounds how old a stolen one may be.

A clock that was once wrong and all the same trusted must not leave a floor behind that locks the device out:
- what is kept is the latest word of a trusted clock, not the highest: the next one puts it right, also downwards;
- nothing is kept while the server's certificates contradict the clock, which with a clock years off they do;
- a floor `WINDOW_S` and more behind the version's date is not believed.
What is left is a wrong clock that no server could contradict, and then never a right one again: the refusal names the
file, and a person removes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge.core.timebase import Anchor

_YEAR_S = 365.25 * 86400
# Longer than any version is in use: what it trusts has ended by then (roots are replaced within some ten years), and so
# the bound keeps nobody out who could get in.
WINDOW_S = 10 * _YEAR_S
SLACK_S = 3600.0  # so much a server's clock may be behind the one that the floor is from
_TELLING_S = 86400.0  # a clock that is off by less is not worth a line


@dataclass(frozen=True, slots=True)
class Validity:
    """When a certificate, or each of a chain, is valid, in Unix seconds."""

    begins_s: float
    ends_s: float

    def has(self, utc_s: float) -> bool:
        """Whether it is valid then."""
        return self.begins_s <= utc_s <= self.ends_s


def common(chain: Iterable[Validity]) -> Validity:
    """When all of a chain are valid; never, where there is none."""
    parts = list(chain)
    return Validity(
        max((part.begins_s for part in parts), default=float("inf")),
        min((part.ends_s for part in parts), default=float("-inf")),
    )


class CheckTime:
    """One for all connections of a process. `floor_s` held at `boot_s`, a moment of the boot clock like all `boot_s`
    here; all else is in Unix seconds."""

    def __init__(self, floor_s: float, boot_s: float) -> None:
        self._floor_minus_boot_s = floor_s - boot_s
        self._rescued_minus_boot_s: float | None = None
        self._latest: Validity | None = None
        self._is_contradicted = False
        self._is_told = False

    def floor_s(self, boot_s: float) -> float:
        """The floor now: it runs on with the boot clock."""
        return boot_s + self._floor_minus_boot_s

    def at(self, anchor: Anchor, boot_s: float) -> float | None:
        """By what time to check now; None: by the system's clock."""
        if anchor.trusted:
            return None
        if self._rescued_minus_boot_s is not None:
            return boot_s + self._rescued_minus_boot_s
        floor_s = self.floor_s(boot_s)
        return floor_s if boot_s + anchor.utc_minus_boot_s < floor_s else None

    def fault(self, date_s: float, chain: Validity, anchor: Anchor, boot_s: float) -> str:
        """Why `date_s`, said by a server with `chain`, cannot be what time it is; "": it is from now on."""
        floor_s = self.floor_s(boot_s)
        if anchor.trusted:
            return "this device's clock is trusted"
        if date_s < floor_s - SLACK_S:
            return "it lies before what this device has seen (clock-floor in its state directory)"
        if date_s > floor_s + WINDOW_S:
            return "it lies too far in the future"
        if not chain.has(date_s):
            return "the certificates are not valid then, either"
        self._rescued_minus_boot_s = date_s - boot_s
        return ""

    # --- what people are told --------------------------------------------------------------------------------------

    def news(self, anchor: Anchor, boot_s: float) -> str:
        """A line for people at the first connection by another time than the system's; "" where nothing is new."""
        used_s = self.at(anchor, boot_s)
        if used_s is None or self._is_told:
            return ""
        self._is_told = True
        off_s = used_s - boot_s - anchor.utc_minus_boot_s
        if abs(off_s) < _TELLING_S:
            return ""
        is_known = self._rescued_minus_boot_s is not None
        least = "" if is_known else "at least "
        source = "the server's own date" if is_known else "the last date that this device knew"
        return (
            f"the clock is {least}{_span(off_s)} {'behind' if off_s > 0 else 'ahead'} and no time server answers: "
            f"certificates are checked by {source}; audio is delivered, its time stamps are marked as not trusted; "
            "set the clock, or let it reach a time server (NTP)"
        )

    # --- what is kept as the next floor ----------------------------------------------------------------------------

    def agreed(self, chain: Validity) -> None:
        """A server's `chain` was valid by the system's clock."""
        self._latest = chain if chain.begins_s <= chain.ends_s else None  # a Python that cannot tell says never
        self._is_contradicted = False

    def contradicted(self) -> None:
        """A server's chain was not, by its times."""
        self._is_contradicted = True

    def to_keep(self, anchor: Anchor, boot_s: float) -> float | None:
        """What the next floor is; None while there is nothing to go by."""
        utc_s = boot_s + anchor.utc_minus_boot_s
        is_bad = self._is_contradicted or (self._latest is not None and not self._latest.has(utc_s))
        return None if is_bad or not anchor.trusted else utc_s


def _span(seconds: float) -> str:
    days = abs(seconds) / 86400
    return f"{days / 365.25:.1f} years" if days >= 365.25 else f"{days:.0f} days"
