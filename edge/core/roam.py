"""What a change of the link means for the connection: drop it, hold it, move it, or leave it alone.

At a server with acks a socket whose way is lost is dropped at once: the next hello says what arrived. Towards aia-v4
each takeover of a half-open socket costs an orphan (PROTOCOL.md, trap 1). So there a socket whose source address still
exists is held, and has a moment to answer when its way is back, before rule 5 takes over.
"""

from __future__ import annotations

from edge.core import stream
from edge.core.context import Context, Phase, Timer
from edge.core.events import Ack, Doubted, LinkChanged, Pinged, Pong
from edge.core.link import Change
from edge.errors import Unreachable

# An attempt is under way, on the path that there was when it began.
UNDER_WAY = frozenset(
    {
        Phase.ASKING,
        Phase.SETTLING,
        Phase.TAKING_OVER,
        Phase.FLUSHING,
        Phase.STOPPING_OLD,
        Phase.VERIFYING,
        Phase.STARTING,
        Phase.OPENING,
        Phase.GREETING,
        Phase.INITIALISING,
    }
)
_WITH_SOCKET = frozenset({Phase.TAKING_OVER, Phase.OPENING, Phase.GREETING, Phase.INITIALISING})


def changed_under_way(c: Context, event: LinkChanged, now: float) -> None:
    """The attempt can get nowhere on a path that is gone: the next one takes the path that there is."""
    if event.is_carried:
        return
    if c.phase in _WITH_SOCKET:
        c.leave_socket(abort=True)
    c.rest(Unreachable(event.reason))


def changed(c: Context, event: LinkChanged, now: float) -> None:
    """The link changed while audio flows."""
    if not event.is_carried:
        _lose(c, event, now)
    elif event.change is Change.BETTER:
        _move(c, event.reason, now)


def _lose(c: Context, event: LinkChanged, now: float) -> None:
    if c.delivery.acks or not event.is_kept:
        _drop(c, event.reason)
        return
    c.phase = Phase.HELD
    c.timers.clear()
    c.unanswered_since = None
    if event.has_path:
        _await_return(c, now)
        patience_s = c.policy.return_timeout(c.delivery.rtt_s)
        c.note(
            "held", f"the connection is held for {patience_s:.0f} s, in case its way comes back; then it is made anew"
        )
    else:
        c.note("held", "the connection is held until the link is back")


def _drop(c: Context, reason: str) -> None:
    """That is no failure of the server's, so waits and counts start afresh."""
    c.leave_socket(abort=True)
    c.has_progress = True
    c.rest(Unreachable(reason))


def _await_return(c: Context, now: float) -> None:
    c.arm(Timer.RETURN, now + c.policy.return_timeout(c.delivery.rtt_s))


def _probe(c: Context, now: float) -> None:
    stream.send_barrier(c, now)
    _await_return(c, now)


def changed_while_held(c: Context, event: LinkChanged, now: float) -> None:
    """The link changed again. Where only another path is there, the held socket gets its moment and no more."""
    if not event.is_kept:
        _drop(c, event.reason)
    elif event.is_carried:
        _probe(c, now)
    elif not event.has_path:
        c.timers.pop(Timer.RETURN, None)
    elif Timer.RETURN not in c.timers:
        _await_return(c, now)


def doubted(c: Context, event: Doubted, now: float) -> None:
    """The connection may not have survived (the machine slept, say): ask at once, and do not wait for long."""
    _probe(c, now)


def pinged(c: Context, event: Pinged, now: float) -> None:
    """The server is heard on the held socket, so the way is back before the kernel said so."""
    stream.pinged(c, event, now)
    if c.phase is Phase.HELD and Timer.RETURN not in c.timers:
        _probe(c, now)


def returned(c: Context, event: Pong, now: float) -> None:
    """The held socket has answered: nothing was lost but time."""
    c.phase = Phase.STREAMING
    c.note("returned", "the connection is back, as it was")
    c.backlog.begin()
    c.arm(Timer.PROOF, now + c.policy.proof_of_life_timeout)
    c.arm(Timer.POLL, now + c.policy.poll_soon)
    stream.ponged(c, event, now)


def did_not_return(c: Context, now: float) -> None:
    """No answer in time: the old connection is dead, whatever TCP believes."""
    _drop(c, "the connection did not survive the loss of the link")


# --- to a better way -------------------------------------------------------------------------------------------------


def _move(c: Context, reason: str, now: float) -> None:
    """A planned close does a barrier first (rule 9)."""
    c.phase = Phase.MOVING
    c.timers.clear()
    c.unanswered_since = None
    c.arm(Timer.MOVE, now + c.policy.move_timeout)
    c.note("moving", reason)
    if not _part_if_confirmed(c, now) and not c.delivery.acks:
        stream.send_barrier(c, now)


def _part_if_confirmed(c: Context, now: float) -> bool:
    delivery = c.delivery
    if delivery.sent > (delivery.delivered if delivery.acks else delivery.resume):
        return False
    part(c, now)
    return True


def part(c: Context, now: float) -> None:
    """Close in order and come back on the better path."""
    c.leave_socket(abort=False)
    c.has_progress = True
    c.rest(Unreachable("reconnecting on the better path"), is_planned=True)


def confirmed(c: Context, event: Pong, now: float) -> None:
    """A barrier was answered on the old path."""
    stream.late_pong(c, event, now)
    _part_if_confirmed(c, now)


def acked(c: Context, event: Ack, now: float) -> None:
    """Packets are stored that went out on the old path."""
    if c.delivery.ack(event.seq, now):
        c.advance()
    _part_if_confirmed(c, now)


def changed_while_moving(c: Context, event: LinkChanged, now: float) -> None:
    """The old path goes before all is confirmed."""
    if not event.is_carried:
        _lose(c, event, now)


def changed_while_stopping(c: Context, event: LinkChanged, now: float) -> None:
    """The stop may have arrived: the session is asked about it on the next attempt."""
    if event.is_carried or (event.is_kept and not c.delivery.acks):
        return
    c.known.is_stopped = True
    _drop(c, event.reason)
