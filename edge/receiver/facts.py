"""What a receiver in the same process can be asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """One session. `stored_seq` is the highest packet number that is safe: durable, or in strict mode transcribed.

    `packets` were taken in by this session, `duplicates` came although they were there.
    """

    session_id: str
    recording: str
    connected: bool
    ended: bool
    stored_seq: int
    packets: int
    duplicates: int
    pending_segments: int = 0
