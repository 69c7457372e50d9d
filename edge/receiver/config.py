"""What a receiver is told: where it listens and stores, its times, its bounds, and the faults it imitates."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

# The server finalises later than it promises: 130 s for 120 s (PROTOCOL.md, trap 3).
GRACE_FACTOR = 130 / 120


@dataclass(frozen=True, slots=True)
class Timing:
    """The server's times in seconds (PROTOCOL.md, "Server to client" and trap 3)."""

    promised_grace: float = 120.0
    heartbeat: float = 10.0  # the `t` ping, and when expired graces are noticed
    ts_ping: float = 5.0
    piled_ping: float = 15.0  # the ping with `ts` in ms
    idle: float = 180.0
    no_audio: float = 30.0
    close: float = 2.0  # how long a peer may take to answer a close frame
    send: float = 20.0  # a peer that takes nothing for so long is dropped
    disk_retry: float = 0.5
    disk_patience: float = 20.0  # how long a socket or a stop waits for a full disk
    account: float = 5.0  # the JSON account is at most so old while audio flows
    wav_header: float = 1.0  # the WAV header is at most so old
    linger_after_term: float = 30.0  # strict only: sockets outlive SIGTERM (trap 7)

    @property
    def grace(self) -> float:
        """How long a session without a socket really lives, in seconds."""
        return self.promised_grace * GRACE_FACTOR

    @classmethod
    def for_grace(cls, promised: float) -> Timing:
        """The usual times; with a grace shorter than 30 s the heartbeat gets shorter, too, so that it stays visible."""
        return cls(promised_grace=promised, heartbeat=min(10.0, max(0.25, promised / 3)))


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client can use up at most."""

    sockets: int = 64
    sessions: int = 256  # alive ones; in strict mode, where the dead stay for ever, all
    message_bytes: int = 1 << 20
    body_bytes: int = 1 << 16
    unsynced_bytes: int = 8 << 20  # of one recording in RAM before its socket is no longer read
    outbox_messages: int = 256  # answers that a client may leave unread


@dataclass(frozen=True, slots=True)
class StrictFaults:
    """The faults of the real server, each to be switched off by itself (PROTOCOL.md; trap numbers in brackets)."""

    takeover_orphans: bool = True  # (1)
    init_wipes: bool = True  # (2)
    reattach_to_dead: bool = True  # (3)
    hangs_at_threads: bool = True  # (5)
    backpressure_lies: bool = True  # (6)
    lingers_after_term: bool = True  # (7)
    remembers_finalised: bool = True  # (8)
    takeover_stalls_http: bool = True  # (10)
    appends_duplicates: bool = True
    crashes_before_init: bool = True
    crashes_on_magic: bool = True
    drops_malformed_silently: bool = True
    refuses_second_socket: bool = True  # 1008 for resume=0
    stop_loses_pending: bool = True
    reset_loses_in_flight: bool = True
    overlaps_piled_pings: bool = True
    warns_falsely: bool = True  # no_audio_detected counts segments, not audio


@dataclass(frozen=True, slots=True)
class StrictConfig:
    """How `--strict-aia` behaves: its faults and the numbers that go with them. Seconds unless said otherwise."""

    faults: StrictFaults = field(default_factory=StrictFaults)
    transcribe: tuple[float, float] = (0.0, 7.0)
    seed: int = 0
    cleanup: tuple[float, float] = (0.05, 1.0)  # how long a handler takes to notice that its socket ended
    hold: float = 0.25  # packets that no ping has pushed through wait so long for their handler, and die with a reset
    threads: int = 4
    max_pending: int = 20
    silent_rejects: int = 4


@dataclass(frozen=True, slots=True)
class ReceiverConfig:
    """One receiver. `port` 0 takes a free one; `token` is what clients have to show; `out` is created."""

    out: Path
    token: str
    host: str = "127.0.0.1"
    port: int = 0
    cert: Path | None = None
    key: Path | None = None
    agents: frozenset[str] | None = None  # None: every agent is known
    strict: StrictConfig | None = None
    timing: Timing = field(default_factory=Timing)
    limits: Limits = field(default_factory=Limits)
