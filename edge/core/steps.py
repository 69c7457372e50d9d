"""Steps that attaching and streaming share."""

from __future__ import annotations

from edge.core.context import Context, Phase, Timer
from edge.core.delivery import PlainDelivery
from edge.core.events import OpenSocket, Over, StartSession

GONE = "the server no longer knows the session (restarted, or its grace is over)"


def start(c: Context) -> None:
    """Open a session if anything is owed."""
    if c.is_complete:
        c.do(Over(None))
        c.finish()
    elif c.session_ids and not c.is_owing and not c.ledger.ended:
        c.do(Over(None))
        c.phase = Phase.IDLE
    else:
        c.phase = Phase.STARTING
        c.do(StartSession())


def open_socket(c: Context, now: float) -> None:
    """One WebSocket attempt; resume=1 always (rule 5)."""
    c.phase = Phase.OPENING
    c.timers.clear()
    c.arm(Timer.CONNECT, now + c.policy.connection_timeout)
    c.known.dials += 1
    c.do(OpenSocket(c.known.session_id))


def pause(c: Context, now: float) -> None:
    """Trap 1: give the old handler's clean-up its time before the next socket."""
    c.phase = Phase.PAUSING
    c.arm(Timer.PAUSE, now + c.policy.orphan_pause)


def conclude(c: Context, *, at_our_word: bool) -> None:
    """The session was finalised: what that delivered goes to the ledger, and a follow-on session takes over.

    `at_our_word`: by our own stop on a live socket, behind everything; otherwise at a moment that nobody knows.
    """
    delivery = c.delivery
    if isinstance(delivery, PlainDelivery):
        if not at_our_word:
            delivery.died()
        delivery.flushed()
    c.advance()
    c.forget_session()
