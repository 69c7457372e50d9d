"""The numbers by which a session decides. Seconds, unless the name says otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge.core.cuts import CutModel
from edge.core.packet import AudioFormat, duration_ms


@dataclass(frozen=True, slots=True)
class Policy:
    """What the configuration lets a person choose, then what PROTOCOL.md and measurement fixed."""

    audio: AudioFormat
    packet_frames: int
    segment_target_ms: int = 15000
    grace_window: float = 120.0
    heartbeat_interval: float = 30.0
    connection_timeout: float = 10.0
    barrier_interval: float = 0.25
    proof_of_life_timeout: float = 25.0

    max_unconfirmed: float = 2.0  # rule 7
    session_gap: float = 10.0  # a longer gap begins a follow-on session (DESIGN.md, decision 3)
    settle_timeout: float = 3.0  # rule 5: after that the old socket is half-open
    settle_poll: float = 0.25
    takeover_timeout: float = 6.0  # trap 10: HTTP stalls for about 2 s after a takeover
    orphan_pause: float = 1.5  # trap 1
    poll_soon: float = 1.0  # rule 6
    poll_later: float = 5.0
    watch_after_reattach: float = 30.0
    hold_after: float = 1.0  # rule 8
    http_dead_after: float = 6.0  # rule 8
    flush_timeout: float = 60.0
    stop_timeout: float = 30.0  # a stop blocks until the tail is transcribed, seconds; it may be repeated
    ack_doubt: float = 1.0  # acknowledgements missing for so long: ask by a barrier whether the server lives
    move_timeout: float = 2.0  # a better path waits so long for what the old one has still to confirm
    min_stall: float = 2.0
    max_stall: float = 10.0

    @property
    def window(self) -> int:
        """Packets that may be unconfirmed (rule 7)."""
        return max(1, int(self.max_unconfirmed * self.audio.rate_hz / self.packet_frames))

    @property
    def packet_s(self) -> float:
        """Seconds of one full packet."""
        return self.packet_frames / self.audio.rate_hz

    @property
    def cuts(self) -> CutModel:
        """The server's cuts as these packets make them."""
        return CutModel(duration_ms(self.packet_frames, self.audio.rate_hz), self.segment_target_ms)

    @property
    def sure_grace(self) -> float:
        """How long after its last sign of life a session surely is not finalised: the promise less a margin."""
        return self.grace_window * 0.9

    def stall_timeout(self, rtt_s: float) -> float:
        """How long an answer may take before the way to the server counts as dead; longest where `rtt_s` is nan."""
        return self.max_stall if math.isnan(rtt_s) else min(self.max_stall, max(self.min_stall, 8 * rtt_s))

    def return_timeout(self, rtt_s: float) -> float:
        """How long a socket that may have survived has to answer; shortest where `rtt_s` is nan."""
        return self.min_stall if math.isnan(rtt_s) else self.stall_timeout(rtt_s)
