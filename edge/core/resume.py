"""What an earlier process leaves to the next one about its session at the server."""

from __future__ import annotations

from dataclasses import dataclass

UNKNOWN, PLAIN, ACKS = "unknown", "plain", "acks"  # kinds of server; it says so in its first hello


@dataclass(frozen=True, slots=True)
class Resume:
    """A session that may still be there.

    first_seq  its first packet
    handled    the last packet that it surely handled
    alive_at   when it surely was alive, in seconds of the boot clock
    shorts     how many of its packets may have been short, and `passed` the lost ones that it may have left out: both
               move the cuts of an aia-v4 server
    """

    session_id: str
    server: str
    first_seq: int
    handled: int
    alive_at: float
    is_same_boot: bool
    shorts: int = 0
    passed: tuple[tuple[int, int], ...] = ()
