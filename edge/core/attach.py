"""From an attempt to flowing audio: open a session, or come back to the one that was lost.

At an aia-v4 server coming back takes care: a live old socket must be let go first (trap 1, rule 5), a session near the
end of its grace is asked, flushed and followed by another (trap 3, rules 3 and 4), and `init` is never sent twice
(trap 2). A server with acks says in its hello what it has; nothing needs to be asked.
"""

from __future__ import annotations

from edge.core import messages, steps, stream
from edge.core.context import Context, Phase, Server, Timer
from edge.core.delivery import AckedDelivery, PlainDelivery
from edge.core.events import (
    Attempted,
    Failed,
    GaveUp,
    Hello,
    Opened,
    OpenSocket,
    Polled,
    Pong,
    Refused,
    SendText,
    SocketClosed,
    Started,
    Stopped,
    StopSession,
    Supplied,
)
from edge.errors import ServerRefused, TokenRefused, Unreachable


def attempted(c: Context, event: Attempted, now: float) -> None:
    """The retry policy allows an attempt."""
    c.attempt += 1
    c.has_progress = c.has_started = False
    if c.server is None:
        steps.start(c)
    elif c.server.delivery is None or isinstance(c.server.delivery, AckedDelivery):
        steps.open_socket(c, now)
    else:
        c.phase = Phase.ASKING
        c.poll(now)


def gave_up(c: Context, event: GaveUp, now: float) -> None:
    """The attempts are used up."""
    c.failure = Unreachable(event.reason)
    c.phase = Phase.FAILED


def refused(c: Context, event: Refused, now: float) -> None:
    """No token that could be had is taken."""
    c.failure = event.error
    c.phase = Phase.FAILED


def supplied(c: Context, event: Supplied, now: float) -> None:
    """There is something new while no audio flows."""
    if c.is_complete:
        c.finish()
    elif c.phase is Phase.IDLE and (c.is_owing or c.ledger.ended):
        c.phase = Phase.WAITING


def started(c: Context, event: Started, now: float) -> None:
    """A session was opened."""
    c.has_started = True
    c.server = Server(event.session_id)
    c.session_ids.append(event.session_id)
    steps.open_socket(c, now)


def failed(c: Context, event: Failed, now: float) -> None:
    """A request or the handshake failed."""
    c.rest(event.error)


def opened(c: Context, event: Opened, now: float) -> None:
    """The handshake completed; only hello counts."""
    c.phase = Phase.GREETING


def timed_out(c: Context, now: float) -> None:
    """No answer within the connection time-out."""
    c.leave_socket(abort=True)
    c.rest(Unreachable(f"no answer from the server within {c.policy.connection_timeout:g} s"))


def closed_early(c: Context, event: SocketClosed, now: float) -> None:
    """The socket ended before any audio could flow."""
    if event.code == 1011 and not c.has_started:
        # It has just answered, so a session of its own is due at once; not so where it does not even know a new one.
        c.end_attempt()
        c.note("session-gone", steps.GONE)
        c.forget_session()
        steps.start(c)
    elif event.code == 1011:
        c.forget_session()
        c.rest(Unreachable(steps.GONE))
    elif event.code == 1000 and not event.reason and c.phase is Phase.GREETING:
        c.rest(TokenRefused("the server refused the token"))
    else:
        c.rest(Unreachable(f"the connection was closed ({event.code} {event.reason})"))


def greeted(c: Context, event: Hello, now: float) -> None:
    """Hello: which kind of server it is and, with acks, what it has."""
    server = c.known
    c.has_acks = event.acks
    if event.acks and event.next_seq > c.ledger.last + 1 and not c.ledger.is_cut:
        c.leave_socket(abort=False)
        c.rest(
            ServerRefused(
                f"the server claims packet {event.next_seq - 1} of this recording, which has {c.ledger.last}",
                "audio is kept",
                "do not let two devices share a state directory",
            )
        )
        return
    if server.delivery is None:
        server.delivery = _new_delivery(c, event, now)
    elif server.delivery.acks != event.acks or (event.acks and event.next_seq <= c.ledger.delivered):
        # It has changed its kind, or lost what it acknowledged: a session of its own makes clear from where on.
        c.leave_socket(abort=False)
        c.forget_session()
        c.rest(Unreachable("the server forgot what it had acknowledged: a new session follows"))
        return
    delivery = server.delivery
    if isinstance(delivery, AckedDelivery):
        delivery.store(min(event.next_seq - 1, c.ledger.last))  # of one that was cut off it may have more than we
    delivery.attach()
    c.advance()
    c.attached_at = c.progress_at = c.barrier_at = now
    c.barriered = delivery.sent
    if server.init_confirmed:
        stream.begin(c, now)
        return
    c.phase = Phase.INITIALISING
    policy = c.policy
    first = delivery.sent + 1
    c.do(SendText(messages.init(policy.audio, policy.packet_frames, first, policy.segment_target_ms, acks=event.acks)))
    stream.send_barrier(c, now)


def _new_delivery(c: Context, event: Hello, now: float) -> PlainDelivery | AckedDelivery:
    if event.acks:
        stored = min(max(event.next_seq - 1, c.ledger.delivered), c.ledger.last)
        return AckedDelivery(stored)
    c.forgo_lost()
    delivery = PlainDelivery(c.ledger.delivered + 1, c.policy.cuts, now)
    delivery.sockets = c.known.dials - 1
    return delivery


def initialised(c: Context, event: Pong, now: float) -> None:
    """The barrier behind init was answered: audio may follow."""
    c.delivery.pong(now)
    c.known.init_confirmed = True
    stream.begin(c, now)


# --- coming back to an aia-v4 server ---------------------------------------------------------------------------------


def _lost_from_sight(c: Context, event: Polled, now: float) -> bool:
    """True where a poll brought nothing to go on with, and the attempt has ended."""
    if not event.answered:
        c.rest(event.failure or Unreachable("the server does not answer"))
        return True
    c.unanswered_since = None
    c.pending_segments, c.max_pending = event.pending, event.max_pending
    if not event.exists:
        # Rule 3, first verdict: the server died, and with it all that was not delivered.
        c.end_attempt()
        c.note("session-gone", steps.GONE)
        c.forget_session()
        steps.start(c)
        return True
    if not event.pending and event.poll is not None and isinstance(c.delivery, PlainDelivery):
        c.delivery.pending_zero_between(event.poll)
    return False


def asked(c: Context, event: Polled, now: float) -> None:
    """What has become of the session? Near the end of grace it is flushed, not trusted (rule 4)."""
    if _lost_from_sight(c, event, now):
        return
    delivery = c.delivery
    if isinstance(delivery, PlainDelivery) and now >= delivery.alive_at + c.policy.sure_grace:
        c.known.is_stopped = True
    if c.known.is_stopped:
        c.phase = Phase.FLUSHING
        c.arm(Timer.FLUSH, now + c.policy.flush_timeout)
        flushing(c, event, now)
    elif event.connected:
        c.phase = Phase.SETTLING
        c.arm(Timer.SETTLE, now + c.policy.settle_timeout)
        c.arm(Timer.POLL, now + c.policy.settle_poll)
    else:
        steps.open_socket(c, now)


def settling(c: Context, event: Polled, now: float) -> None:
    """Rule 5: reattach only once the server has let go."""
    if _lost_from_sight(c, event, now):
        return
    if event.connected:
        c.arm(Timer.POLL, now + c.policy.settle_poll)
    else:
        steps.open_socket(c, now)


def take_over(c: Context, now: float) -> None:
    """Rule 5: the old socket is half-open, and only a takeover, whose socket is orphaned, ends it."""
    c.end_attempt()
    c.phase = Phase.TAKING_OVER
    c.arm(Timer.CONNECT, now + c.policy.takeover_timeout)
    c.note("takeover", "the server still holds the old connection: replacing it")
    c.do(OpenSocket(c.known.session_id))


def took_over(c: Context, event: Hello, now: float) -> None:
    """The sacrificial socket is in; now it has to be thrown out again."""
    c.delivery.sockets += 1
    c.poll(now)


def taking_over(c: Context, event: Polled, now: float) -> None:
    """Nothing is sent on the sacrificial socket; once the server dropped it, the next one is safe."""
    if event.answered and event.exists and not event.connected:
        c.leave_socket(abort=False)
        steps.pause(c, now)
    elif event.answered and not event.exists:
        c.leave_socket(abort=False)
        c.forget_session()
        steps.start(c)
    else:
        c.arm(Timer.POLL, now + c.policy.settle_poll)


def takeover_ended(c: Context, event: SocketClosed, now: float) -> None:
    """The server closed the sacrificial socket itself: as good."""
    c.end_attempt()
    steps.pause(c, now)


def ask_again(c: Context, now: float) -> None:
    """The pause is over."""
    c.phase = Phase.ASKING
    c.poll(now)


def poll_again(c: Context, now: float) -> None:
    """The next status poll is due."""
    c.poll(now)


def flushing(c: Context, event: Polled, now: float) -> None:
    """Rule 4: stopping while segments are pending would lose their lines."""
    if _lost_from_sight(c, event, now):
        return
    if event.pending:
        c.arm(Timer.POLL, now + 2 * c.policy.settle_poll)
    else:
        # Not a "pending 0" of rule 2: if the session was finalised meanwhile, what was pending lost its lines.
        stop_old(c, now)


def stop_old(c: Context, now: float) -> None:
    """Stop the old session: flushes its tail; may be repeated."""
    c.end_attempt()  # a poll that is still on its way must not verify this stop
    c.phase = Phase.STOPPING_OLD
    c.do(StopSession(c.known.session_id))


def old_stopped(c: Context, event: Stopped, now: float) -> None:
    """Stop always says success, so only a session that still exists was flushed."""
    c.phase = Phase.VERIFYING
    c.poll(now)


def verified(c: Context, event: Polled, now: float) -> None:
    """Rule 3, second verdict: finalised, its tail flushed."""
    if _lost_from_sight(c, event, now):
        return
    steps.conclude(c, at_our_word=False)
    c.end_attempt()
    steps.start(c)
