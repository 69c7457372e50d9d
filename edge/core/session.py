"""One recording's way to the server: a table of transitions, effects, exactly one deadline.

The session is fed events (`handle`) and the time (`tick`); it returns effects for the shell to perform. It knows no
clock and no socket. `context` holds its memory, `attach` and `stream` its steps, `delivery` what confirmations are
worth, and the ledger where the recording stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from edge.core import attach, roam, stream
from edge.core.context import Context, Phase, Timer
from edge.core.events import (
    Ack,
    Attempted,
    Backpressure,
    ClockChanged,
    Doubted,
    Effect,
    Event,
    Failed,
    GaveUp,
    Hello,
    LinkChanged,
    OfAttempt,
    Opened,
    Pinged,
    Polled,
    Pong,
    Refused,
    SocketClosed,
    Started,
    Stopped,
    Supplied,
    Unknown,
)
from edge.core.ledger import Ledger
from edge.core.policy import Policy
from edge.core.resume import ACKS, PLAIN, UNKNOWN, Resume
from edge.core.timebase import Anchor
from edge.errors import EdgeError, InternalError


class State(Enum):
    """What people see."""

    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    FAILED = "failed"


P = Phase
Row = tuple[Callable[[Context, Any, float], None], frozenset[Phase]]


def _to(handler: Callable[[Context, Any, float], None], *targets: Phase) -> Row:
    return handler, frozenset(targets)


def _stay(c: Context, event: Event, now: float) -> None:
    """Nothing follows from this event in this phase."""


# An attempt that ends rests in one of these; where all turns out to be delivered, the session is done.
_REST = (P.WAITING, P.FAILED, P.DONE)
_START = (P.STARTING, P.IDLE, P.DONE)
# A server may say anything at any time: what has no meaning in a phase is passed over, and never our error.
_TALK: Mapping[type[Event], Row] = {
    Supplied: _to(_stay),
    Hello: _to(_stay),
    Pong: _to(_stay),
    Ack: _to(_stay),
    Backpressure: _to(_stay),
    Pinged: _to(stream.pinged),
    Unknown: _to(stream.told),
}

_ROWS: Mapping[Phase, Mapping[type[Event], Row]] = {
    P.IDLE: {Supplied: _to(attach.supplied, P.WAITING, P.DONE)},
    P.WAITING: {
        Attempted: _to(attach.attempted, P.ASKING, P.OPENING, *_START),
        GaveUp: _to(attach.gave_up, P.FAILED),
        Refused: _to(attach.refused, P.FAILED),
        Supplied: _to(attach.supplied, P.DONE),
    },
    P.FAILED: {
        Attempted: _to(attach.attempted, P.ASKING, P.OPENING, *_START),
        Refused: _to(attach.refused),
        Supplied: _to(attach.supplied, P.DONE),
    },
    P.STARTING: {
        Started: _to(attach.started, P.OPENING),
        Failed: _to(attach.failed, *_REST),
        Supplied: _to(_stay),
    },
    P.OPENING: {
        Opened: _to(attach.opened, P.GREETING),
        Failed: _to(attach.failed, *_REST),
        Supplied: _to(_stay),
    },
    P.GREETING: {
        **_TALK,
        Hello: _to(attach.greeted, P.INITIALISING, P.STREAMING, P.STOPPING, *_REST),
        SocketClosed: _to(attach.closed_early, *_START, *_REST),
    },
    P.INITIALISING: {
        **_TALK,
        Pong: _to(attach.initialised, P.STREAMING, P.STOPPING),
        SocketClosed: _to(attach.closed_early, *_START, *_REST),
    },
    P.STREAMING: {
        **_TALK,
        Supplied: _to(stream.supplied, P.STOPPING, *_REST),
        Pong: _to(stream.ponged, P.STOPPING, *_REST),
        Ack: _to(stream.acked, P.STOPPING),
        Pinged: _to(stream.pinged, P.STOPPING, *_REST),
        Polled: _to(stream.polled, P.PAUSING, P.STOPPING, *_REST),
        Backpressure: _to(stream.pushed_back, *_REST),
        SocketClosed: _to(stream.closed, *_REST),
        LinkChanged: _to(roam.changed, P.HELD, P.MOVING, *_REST),
        Doubted: _to(roam.doubted),
    },
    P.HELD: {
        **_TALK,
        Pong: _to(roam.returned, P.STREAMING, P.STOPPING, *_REST),
        Pinged: _to(roam.pinged, *_REST),
        Polled: _to(_stay),
        Backpressure: _to(stream.pushed_back, *_REST),
        SocketClosed: _to(stream.closed, *_REST),
        LinkChanged: _to(roam.changed_while_held, *_REST),
        Doubted: _to(roam.doubted),
    },
    P.MOVING: {
        **_TALK,
        Pong: _to(roam.confirmed, *_REST),
        Ack: _to(roam.acked, *_REST),
        Pinged: _to(stream.pinged, *_REST),
        Polled: _to(_stay),
        Backpressure: _to(stream.pushed_back, *_REST),
        SocketClosed: _to(stream.closed, *_REST),
        LinkChanged: _to(roam.changed_while_moving, P.HELD, *_REST),
    },
    P.STOPPING: {
        **_TALK,
        LinkChanged: _to(roam.changed_while_stopping, *_REST),
        SocketClosed: _to(stream.stop_ended, *_START, *_REST),
        Pong: _to(stream.late_pong),
        Polled: _to(_stay),
    },
    P.ASKING: {
        Polled: _to(attach.asked, P.SETTLING, P.FLUSHING, P.STOPPING_OLD, P.OPENING, *_START, *_REST),
        Supplied: _to(_stay),
    },
    P.SETTLING: {
        Polled: _to(attach.settling, P.OPENING, *_START, *_REST),
        Supplied: _to(_stay),
    },
    P.TAKING_OVER: {
        **_TALK,
        Opened: _to(_stay),
        Failed: _to(attach.failed, *_REST),
        Hello: _to(attach.took_over),
        Polled: _to(attach.taking_over, P.PAUSING, *_START),
        SocketClosed: _to(attach.takeover_ended, P.PAUSING),
    },
    P.PAUSING: {Supplied: _to(_stay)},
    P.FLUSHING: {
        Polled: _to(attach.flushing, P.STOPPING_OLD, *_START, *_REST),
        Supplied: _to(_stay),
    },
    P.STOPPING_OLD: {
        Stopped: _to(attach.old_stopped, P.VERIFYING),
        Failed: _to(attach.failed, *_REST),
        Polled: _to(_stay),
        Supplied: _to(_stay),
    },
    P.VERIFYING: {
        Polled: _to(attach.verified, *_START, *_REST),
        Supplied: _to(_stay),
    },
    P.DONE: {Supplied: _to(_stay)},
}
# The wall clock may be set at any time, and so may the link change; what is under way on the old one begins again.
_AT_ANY_TIME: Mapping[type[Event], Row] = {
    ClockChanged: _to(stream.clock_changed),
    LinkChanged: _to(_stay),
    Doubted: _to(_stay),
}
_UNDER_WAY: Mapping[type[Event], Row] = {LinkChanged: _to(roam.changed_under_way, *_REST)}
TRANSITIONS: Mapping[Phase, Mapping[type[Event], Row]] = {
    phase: {**_AT_ANY_TIME, **(_UNDER_WAY if phase in roam.UNDER_WAY else {}), **rows} for phase, rows in _ROWS.items()
}

TIMERS: Mapping[Timer, tuple[Callable[[Context, float], None], frozenset[Phase]]] = {
    Timer.CONNECT: (attach.timed_out, frozenset(_REST)),
    Timer.SETTLE: (attach.take_over, frozenset({P.TAKING_OVER})),
    Timer.POLL: (attach.poll_again, frozenset()),
    Timer.PAUSE: (attach.ask_again, frozenset({P.ASKING})),
    Timer.FLUSH: (attach.stop_old, frozenset({P.STOPPING_OLD})),
    Timer.STOP: (stream.stop_timed_out, frozenset(_REST)),
    Timer.BARRIER: (stream.barrier_due, frozenset({P.STOPPING})),
    Timer.STALL: (stream.stalled, frozenset(_REST)),
    Timer.HEARTBEAT: (stream.heartbeat_due, frozenset({P.STOPPING})),
    Timer.PROOF: (stream.proof_missing, frozenset({P.PAUSING})),
    Timer.HTTP_DEAD: (stream.http_dead, frozenset({P.STOPPING})),
    Timer.RETURN: (roam.did_not_return, frozenset(_REST)),
    Timer.MOVE: (roam.part, frozenset(_REST)),
}


class Session:
    """Delivers `ledger`'s packets by `policy`; `clock` is the anchor by which they are stamped, `resume` the session
    that an earlier process had opened for them.

    `handle` and `tick` return the effects to perform, in order; after each call `deadline` says when `tick` is due
    (at once, where more than one timer was).
    An event that cannot happen in the current phase raises InternalError; what a stale attempt reports is dropped.
    """

    def __init__(
        self, ledger: Ledger, policy: Policy, clock: Anchor | None = None, resume: Resume | None = None
    ) -> None:
        self._context = Context(ledger, policy, clock, resume)

    @property
    def phase(self) -> Phase:
        """Where the session is."""
        return self._context.phase

    @property
    def state(self) -> State:
        """What people see; a probe does not hide that the session has failed."""
        if self.phase in (P.STREAMING, P.MOVING, P.STOPPING):
            return State.CONNECTED
        if self.phase in (P.IDLE, P.DONE):
            return State.DISCONNECTED
        if self._context.failure is not None:
            return State.FAILED
        return State.RECONNECTING if self._context.attachments else State.CONNECTING

    @property
    def failure(self) -> EdgeError | None:
        """Why the session has failed; None unless `state` is FAILED."""
        return self._context.failure if self.state is State.FAILED else None

    @property
    def attempt(self) -> int:
        """The number of the current attempt: what is done for it reports with this number."""
        return self._context.attempt

    @property
    def wants_attempt(self) -> bool:
        """True while the retry policy has to say when to try next."""
        return self.phase in (P.WAITING, P.FAILED)

    @property
    def session_ids(self) -> tuple[str, ...]:
        """The sessions that the server opened for this recording, oldest first."""
        return tuple(self._context.session_ids)

    @property
    def at_server(self) -> tuple[str, str] | None:
        """The session that the server has now, and of which kind that server is (core/resume.py)."""
        server = self._context.server
        if server is None:
            return None
        kind = UNKNOWN if server.delivery is None else ACKS if server.delivery.acks else PLAIN
        return server.session_id, kind

    @property
    def reconnects(self) -> int:
        """How often audio could flow again after it could not."""
        return max(0, self._context.attachments - 1)

    @property
    def pending_segments(self) -> int:
        """What the server has still to transcribe, as last polled."""
        return self._context.pending_segments

    @property
    def handled(self) -> int:
        """The last packet that the server is known to have handled."""
        server = self._context.server
        return max(self._context.ledger.delivered, server.delivery.resume if server and server.delivery else 0)

    @property
    def deadline(self) -> float | None:
        """When `tick` is due, in seconds of the boot clock; None: never."""
        return min(self._context.timers.values(), default=None)

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event at time `now` (seconds of the boot clock)."""
        context = self._context
        if isinstance(event, OfAttempt) and event.attempt != context.attempt:
            return []
        row = TRANSITIONS[context.phase].get(type(event))
        if row is None:
            raise InternalError(f"{type(event).__name__} cannot happen while {context.phase.name}")
        handler, targets = row
        self._step(type(event).__name__, targets, lambda: handler(context, event, now))
        return self._take_effects()

    def tick(self, now: float) -> list[Effect]:
        """Let the earliest timer act if it is due by `now`.

        One at a time: the effects belong to the attempt that is current when this returns, and the next timer may end
        it.
        """
        timers = self._context.timers
        timer = min(timers, key=timers.__getitem__, default=None)
        if timer is not None and timers[timer] <= now:
            del timers[timer]
            handler, targets = TIMERS[timer]
            self._step(timer.name, targets, lambda: handler(self._context, now))
        return self._take_effects()

    def _step(self, name: str, targets: frozenset[Phase], handle: Callable[[], None]) -> None:
        before = self.phase
        handle()
        if self.phase is not before and self.phase not in targets:
            raise InternalError(f"{name} must not lead from {before.name} to {self.phase.name}")

    def _take_effects(self) -> list[Effect]:
        effects, self._context.effects = self._context.effects, []
        return effects
