"""How long the card lasts, and when that is worth saying."""

from __future__ import annotations

from edge.core.packet import AudioFormat
from edge.core.segment import record_bytes

HOUR_S = 3600.0
LAST_S = 600.0
_AGAIN = 1.2  # so much above a threshold arms its announcement again


def bytes_per_s(audio: AudioFormat, packet_frames: int) -> float:
    """What recording writes to the card each second."""
    return record_bytes(audio, packet_frames) * audio.rate_hz / packet_frames


class Announcer:
    """Says once when an hour is left, and once when ten minutes are; again only after there was clearly more."""

    def __init__(self) -> None:
        self._said: set[float] = set()

    def due(self, left_s: float) -> float | None:
        """The threshold to announce now that `left_s` seconds are left; the lowest where several are due."""
        self._said = {threshold for threshold in self._said if left_s <= threshold * _AGAIN}
        due = [threshold for threshold in (LAST_S, HOUR_S) if left_s <= threshold and threshold not in self._said]
        self._said.update(due)
        return due[0] if due else None
