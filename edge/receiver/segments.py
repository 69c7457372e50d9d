"""How the real server cuts audio into segments (PROTOCOL.md, "Segments"). No I/O, no clock."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, auto

from edge.core.packet import FORMAT_S16LE, HEADER_BYTES, MAGIC

DEFAULT_TARGET_MS = 15_000
MIN_TARGET_MS = 500
OVERLAP_MS = 500
_HEADER = struct.Struct("<IIdHHIHHI")


class Defect(Enum):
    """What the real server does with bytes that are no good packet."""

    DROPPED = auto()  # in silence
    CRASH = auto()  # of the handler


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet as it came: `wire` is the header and as many payload bytes as the header announces."""

    seq: int
    duration_ms: int
    rate_hz: int
    channels: int
    wire: bytes


def parse(data: bytes) -> Arrival | Defect:
    """Read a packet the way the real server does: whatever it can use is used, an odd payload included."""
    if len(data) < HEADER_BYTES:
        return Defect.DROPPED
    magic, seq, _, _, duration_ms, rate_hz, channels, code, payload_bytes = _HEADER.unpack_from(data)
    if magic != MAGIC:
        return Defect.CRASH
    if code != FORMAT_S16LE or not payload_bytes or len(data) < HEADER_BYTES + payload_bytes:
        return Defect.DROPPED
    return Arrival(seq, duration_ms, rate_hz, channels, data[: HEADER_BYTES + payload_bytes])


@dataclass(frozen=True, slots=True)
class Segment:
    """What is handed to transcription. `arrivals` are new in it: the overlap from the segment before is left out."""

    arrivals: tuple[Arrival, ...]


class Segmenter:
    """Collects arrivals until their stated durations reach the target."""

    def __init__(self) -> None:
        self.target_ms = DEFAULT_TARGET_MS
        self._packets: list[Arrival] = []
        self._overlapping = 0
        self._ms = 0

    def set_target(self, target_ms: int) -> None:
        """The target of later cuts, in ms; at least 500."""
        self.target_ms = max(MIN_TARGET_MS, target_ms)

    def wipe(self) -> int:
        """Forget what was not cut; returns how many packets that were."""
        lost = len(self._packets) - self._overlapping
        self._packets, self._overlapping, self._ms = [], 0, 0
        return lost

    def add(self, arrival: Arrival) -> Segment | None:
        """Append `arrival`, whatever its number; returns the segment that this completes."""
        self._packets.append(arrival)
        self._ms += arrival.duration_ms
        if self._ms < self.target_ms:
            return None
        segment = Segment(tuple(self._packets[self._overlapping :]))
        self._keep_overlap()
        return segment

    def tail(self) -> Segment | None:
        """What was not cut, as the last segment; None when there is nothing new."""
        arrivals = tuple(self._packets[self._overlapping :])
        self.wipe()
        return Segment(arrivals) if arrivals else None

    def _keep_overlap(self) -> None:
        """The last 500 ms, in whole packets, begin the next segment as well."""
        kept_ms, first = 0, len(self._packets)
        while first and kept_ms + self._packets[first - 1].duration_ms <= OVERLAP_MS:
            first -= 1
            kept_ms += self._packets[first].duration_ms
        self._packets = self._packets[first:]
        self._overlapping, self._ms = len(self._packets), kept_ms
