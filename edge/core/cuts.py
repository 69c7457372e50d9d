"""Where an aia-v4 server has surely cut (PROTOCOL.md, "Segments" and "Sure cuts when something was sent twice").

What lies before a cut was handed to transcription; what lies after it is in the server's RAM only. All numbers are
packets since `init`. The server counts *appended* packets: one that arrived twice counts twice and moves later cuts to
lower numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

_OVERLAP_MS = 500
_MIN_TARGET_MS = 500


@dataclass(frozen=True, slots=True)
class CutModel:
    """The cuts of a session with packets of `packet_ms` and segments of `target_ms`, both in milliseconds."""

    packet_ms: int
    target_ms: int

    @property
    def window(self) -> int:
        """Among this many packets in a row there is a cut, whatever came before: the longest way from cut to cut."""
        return -(-max(self.target_ms, _MIN_TARGET_MS) // self.packet_ms)

    @property
    def interval(self) -> int:
        """Packets from one cut to the next, at least 1; exact where `is_exact`."""
        return max(1, (max(self.target_ms, _MIN_TARGET_MS) - _OVERLAP_MS) // self.packet_ms)

    @property
    def is_exact(self) -> bool:
        """True where cuts fall on whole packets, so that each one's number is known."""
        return (
            self.target_ms > _OVERLAP_MS and self.target_ms % self.packet_ms == 0 and _OVERLAP_MS % self.packet_ms == 0
        )

    def reached(self, appended: int) -> int:
        """How many cuts have fallen once `appended` full packets arrived (at most, where not `is_exact`)."""
        return 0 if appended < self.window else 1 + (appended - self.window) // self.interval

    def surely_cut(self, arrived: int, repeats: int, shorts: int) -> int:
        """The number of packets, of `arrived` distinct ones, that surely lie before a cut.

        `repeats` packets may have arrived a second time. `shorts` of the packets were not full: they fill a segment
        less than the model thinks, which leaves only the longest way from cut to cut as certain.
        """
        certain = max(0, arrived - self.window - shorts)
        if shorts or not self.is_exact:
            return certain
        # Beyond one whole period of extra packets the minimum repeats itself.
        extra = range(min(repeats, self.window + self.interval) + 1)
        return max(certain, min(self._last_cut(arrived + d) - d for d in extra))

    def _last_cut(self, appended: int) -> int:
        cuts = self.reached(appended)
        return self.window + (cuts - 1) * self.interval if cuts else 0
