"""While audio flows: what to send, when to ask, whom to believe, when to stop.

Rules and traps named in comments are those of PROTOCOL.md.
"""

from __future__ import annotations

from edge.core import messages, steps
from edge.core.context import Context, Phase, Timer
from edge.core.delivery import AckedDelivery, PlainDelivery
from edge.core.events import (
    Ack,
    Backpressure,
    ClockChanged,
    Note,
    Pinged,
    Polled,
    Pong,
    SendPackets,
    SendText,
    SocketClosed,
    Supplied,
    Unknown,
)
from edge.errors import NameFailure, Unreachable

FINALIZE = "finalize"


def begin(c: Context, now: float) -> None:
    """Audio may flow on this socket."""
    c.phase = Phase.STREAMING
    c.attachments += 1
    c.failure = None
    c.timers.pop(Timer.CONNECT, None)
    c.note("connected", "connected")
    c.backlog.begin()
    if c.delivery.acks:
        _tell_clock(c, now)
    else:
        c.arm(Timer.PROOF, now + c.policy.proof_of_life_timeout)
        c.arm(Timer.POLL, now + c.policy.poll_soon)
    pump(c, now)


def supplied(c: Context, event: Supplied, now: float) -> None:
    """There are more packets, or fewer, or the recording has ended."""
    if not _gave_up_what_was_lost(c):
        pump(c, now)


def _gave_up_what_was_lost(c: Context) -> bool:
    """Leave the socket where a packet was lost that is on its way: whether its bytes still went out nobody knows, so
    what is to follow it on this socket proves nothing. The next one leaves it out."""
    delivery = c.delivery
    if not c.ledger.is_lost_under_way(delivery.resume + 1, delivery.sent):
        return False
    c.leave_socket(abort=False)
    c.rest(Unreachable("audio that was on its way is lost: reconnecting to send what follows it"))
    return True


def clock_changed(c: Context, event: ClockChanged, now: float) -> None:
    """Later packets are stamped by another clock; a server with acks corrects by it what it has."""
    c.clock = event.anchor
    if c.phase is Phase.STREAMING and c.delivery.acks and c.clock != c.known.told_clock:
        _tell_clock(c, now)


def _tell_clock(c: Context, now: float) -> None:
    """Ahead of all that waits: packets are stamped as they are written."""
    if c.clock is not None:
        c.do(SendText(messages.clock(c.clock, now, c.known.told_clock), ahead=True))
        c.known.told_clock = c.clock


def pump(c: Context, now: float) -> None:
    """Send what may be sent, ask for what is to be confirmed, and re-arm what watches over the answers."""
    delivery, goal = c.delivery, c.goal
    if not delivery.is_waiting():
        c.progress_at = now
    if _is_held(c, now):
        c.backlog.begin()  # the server's doing, not the link's
    else:
        _send(c, c.ledger.last if goal is None else goal, now)
        _judge_link(c)
    _confirm(c, now)
    _watch(c, now)
    if goal is not None and delivery.sent >= goal:
        _stop_if_kept(c, goal, now)


def _send(c: Context, end: int, now: float) -> None:
    """Send on, at most up to packet `end`. What is lost is passed over, at a server with acks as a gap in its place."""
    delivery, ledger, policy = c.delivery, c.ledger, c.policy
    first = seq = delivery.sent + 1
    last = min(end, delivery.limit(policy.window, c.max_pending))
    while seq <= last:
        hole = ledger.hole_from(seq)
        gaps = [gap for gap in ledger.gaps_before(seq) if gap.lost_from is None] if delivery.acks else []
        if gaps or hole is not None:
            _send_packets(c, first, seq - 1)
            first = seq
        for gap in gaps:
            c.do(SendText(messages.gap(gap)))
        if hole is None:
            packet = ledger.packet(seq)
            ledger.sending(packet)
            delivery.sending(seq, now, short=packet.frames < ledger.packet_frames)
            seq += 1
            continue
        if delivery.acks:
            c.do(SendText(messages.gap(hole)))
        ledger.pass_over(seq, hole.before_seq - 1)
        delivery.passing(seq, hole.before_seq - 1)
        first = seq = hole.before_seq
        last = min(end, delivery.limit(policy.window, c.max_pending))
    _send_packets(c, first, seq - 1)


def _send_packets(c: Context, first: int, last: int) -> None:
    if first <= last:
        c.do(SendPackets(first, last))


def _judge_link(c: Context) -> None:
    """A link that is slower than the audio is no reason to reconnect, but one to say so."""
    behind_s = (c.ledger.last - c.delivery.resume) * c.policy.packet_s
    if not c.backlog.look(behind_s):
        return
    if c.backlog.is_growing:
        c.note("slow-link", f"the link is slower than the audio: {behind_s:.0f} s wait for it by now; they are kept")
    else:
        c.note("caught-up", "the link has caught up with the audio")


def _is_held(c: Context, now: float) -> bool:
    """Rule 8: nothing more goes to an aia-v4 server that does not answer polls, or has too much to transcribe."""
    if c.delivery.acks:
        return False
    is_deaf = c.unanswered_since is not None and now - c.unanswered_since > c.policy.hold_after
    return is_deaf or (c.pending_segments > 0 and 2 * c.pending_segments >= c.max_pending)


def send_barrier(c: Context, now: float) -> None:
    """A JSON ping behind all that was sent: its pong is the confirmation."""
    if not c.delivery.is_waiting():
        c.progress_at = now  # patience begins with the question
    c.delivery.barrier(now)
    c.barriered = c.delivery.sent
    c.barrier_at = now
    c.do(SendText(messages.PING))


def _confirm(c: Context, now: float) -> None:
    """Barriers every `barrier_interval`, sooner where half the window waits for one. Acks need none unless they
    fail."""
    delivery, policy = c.delivery, c.policy
    due: float | None = None
    if isinstance(delivery, AckedDelivery):
        if delivery.sent > delivery.delivered:
            due = max(c.progress_at, c.barrier_at) + policy.ack_doubt
    elif delivery.sent > c.barriered:
        is_much = 2 * (delivery.sent - c.barriered) >= delivery.window(policy.window)
        due = now if is_much else c.barrier_at + policy.barrier_interval
    if due is None:
        c.timers.pop(Timer.BARRIER, None)
    elif due <= now:
        send_barrier(c, now)
        c.timers.pop(Timer.BARRIER, None)
    else:
        c.arm(Timer.BARRIER, due)


def _watch(c: Context, now: float) -> None:
    if c.delivery.is_waiting():
        c.arm(Timer.STALL, c.progress_at + c.policy.stall_timeout(c.delivery.rtt_s))
        c.timers.pop(Timer.HEARTBEAT, None)
    else:
        c.timers.pop(Timer.STALL, None)
        c.arm(Timer.HEARTBEAT, c.barrier_at + c.policy.heartbeat_interval)


def _stop_if_kept(c: Context, goal: int, now: float) -> None:
    """Rule 9: stop only when all is handled and proved and nothing is pending."""
    delivery = c.delivery
    if isinstance(delivery, PlainDelivery):
        if not (delivery.resume == delivery.proved == goal):
            return
        if delivery.clear < goal:
            due = now + c.policy.settle_poll
            if Timer.POLL in c.timers and c.timers[Timer.POLL] > due:
                c.arm(Timer.POLL, due)
            return
        delivery.complete()
    elif delivery.delivered < goal:
        return
    if delivery.acks:
        for gap in c.ledger.gaps_before(goal + 1):
            c.do(SendText(messages.gap(gap)))
    _stop(c, now)


def _stop(c: Context, now: float) -> None:
    c.phase = Phase.STOPPING
    c.timers.clear()
    c.arm(Timer.STOP, now + c.policy.stop_timeout)
    c.do(SendText(messages.STOP))


def barrier_due(c: Context, now: float) -> None:
    """The barrier interval, or the patience with acknowledgements, has passed."""
    pump(c, now)


def ponged(c: Context, event: Pong, now: float) -> None:
    """A barrier was answered."""
    if _gave_up_what_was_lost(c):
        return
    if c.delivery.pong(now):
        c.has_progress = True
    c.progress_at = c.ponged_at = now
    c.timers.pop(Timer.RETURN, None)
    pump(c, now)


def acked(c: Context, event: Ack, now: float) -> None:
    """Packets are durably stored."""
    if c.delivery.ack(event.seq, now):
        c.has_progress = True
        c.progress_at = now
        c.advance()
        pump(c, now)


def pinged(c: Context, event: Pinged, now: float) -> None:
    """Answer every server ping; a `t` ping tells whether the session is alive (rule 1)."""
    c.do(SendText(messages.PONG))
    delivery = c.server.delivery if c.server else None
    if event.alive is None or not isinstance(delivery, PlainDelivery) or c.phase is Phase.TAKING_OVER:
        return
    if event.alive:
        delivery.prove(now)
        c.advance()
        if c.phase is Phase.STREAMING:
            c.arm(Timer.PROOF, now + c.policy.proof_of_life_timeout)
            pump(c, now)
    elif c.phase in (Phase.STREAMING, Phase.HELD, Phase.MOVING):
        # Trap 3: a dead session answers pongs, but keeps nothing.
        c.known.is_stopped = True
        c.leave_socket(abort=False)
        c.rest(Unreachable("the server had already closed the session: a new one follows"))


def polled(c: Context, event: Polled, now: float) -> None:
    """Status while audio flows: pending segments, and whether we are an orphan (rules 2, 6 and 8)."""
    delivery, policy = c.delivery, c.policy
    if not event.answered:
        if isinstance(event.failure, NameFailure):  # it was not asked: that says nothing of it
            c.unanswered_since = None
            c.timers.pop(Timer.HTTP_DEAD, None)
        c.arm(Timer.POLL, now + policy.poll_soon)
        return
    c.unanswered_since = None
    c.timers.pop(Timer.HTTP_DEAD, None)
    c.pending_segments, c.max_pending = event.pending, event.max_pending
    if not event.exists:
        c.leave_socket(abort=False)
        c.forget_session()
        c.rest(Unreachable(steps.GONE))
        return
    if not event.connected:
        c.leave_socket(abort=False)
        c.note("orphan", "the server dropped this connection without a word: reconnecting")
        steps.pause(c, now)
        return
    if isinstance(delivery, PlainDelivery) and event.poll is not None:
        if not event.pending:
            delivery.pending_zero(event.poll, now, policy.sure_grace)
            c.advance()
        is_young = delivery.sockets > 1 and now - c.attached_at < policy.watch_after_reattach
        is_open = delivery.poll().surely_cut > delivery.delivered or bool(event.pending)
        is_paced = delivery.sent < c.ledger.last
        c.arm(Timer.POLL, now + (policy.poll_soon if is_young or is_open or is_paced else policy.poll_later))
    pump(c, now)


def http_dead(c: Context, now: float) -> None:
    """Rule 8: HTTP is dead while pongs flow: the server got SIGTERM, and `stop_stream` still flushes."""
    if c.phase is not Phase.STREAMING or c.unanswered_since is None:
        return
    if c.ponged_at > c.unanswered_since + c.policy.hold_after:
        c.note("server-stopping", "the server is shutting down: asking it to keep what it has")
        _stop(c, now)
    else:
        # Held back, nothing may be under way: ask. No answer is a stall, and not for this timer.
        send_barrier(c, now)
        c.arm(Timer.HTTP_DEAD, now + c.policy.hold_after)
        pump(c, now)


def pushed_back(c: Context, event: Backpressure, now: float) -> None:
    """Trap 6: a packet was dropped and the pongs lie; leave this socket and wait until the backlog is transcribed."""
    delivery = c.delivery
    if isinstance(delivery, PlainDelivery):
        c.pending_segments = c.max_pending
    c.leave_socket(abort=False)  # its pongs are stale from here on
    c.rest(Unreachable("the server has too much to transcribe: waiting for it"))


def told(c: Context, event: Unknown, now: float) -> None:
    """Pass on what is not for us."""
    c.do(Note("message", "", event.message))


def late_pong(c: Context, event: Pong, now: float) -> None:
    """A late answer."""
    delivery = c.delivery
    if not c.ledger.is_lost_under_way(delivery.resume + 1, delivery.sent):
        delivery.pong(now)


def stalled(c: Context, now: float) -> None:
    """No handled progress: the way is dead, whatever TCP believes."""
    c.delivery.stalled()
    c.leave_socket(abort=True)
    c.rest(Unreachable("the server stopped answering"))


def heartbeat_due(c: Context, now: float) -> None:
    """Nothing is unconfirmed: keep the session from idling out, and the way tested."""
    send_barrier(c, now)
    pump(c, now)


def proof_missing(c: Context, now: float) -> None:
    """The slow sign of an orphan (trap 1)."""
    c.leave_socket(abort=False)
    c.note("orphan", "no sign of life of the session: reconnecting")
    steps.pause(c, now)


def closed(c: Context, event: SocketClosed, now: float) -> None:
    """The socket ended while audio flowed."""
    if event.code == 1000 and FINALIZE in event.reason:
        # Trap 4: finished, and the tail was flushed.
        steps.conclude(c, at_our_word=False)
        c.rest(Unreachable("the server closed the session: a new one follows"))
        return
    if event.code == 1011:
        c.forget_session()
        c.rest(Unreachable(steps.GONE))
        return
    c.rest(Unreachable(f"the connection was lost ({event.code} {event.reason})".replace(" )", ")")))


def stop_timed_out(c: Context, now: float) -> None:
    """The stop was never answered: the session is asked about it on the next attempt."""
    c.known.is_stopped = True
    c.leave_socket(abort=True)
    c.rest(Unreachable("the server did not answer the stop"))


def stop_ended(c: Context, event: SocketClosed, now: float) -> None:
    """The socket ended after our stop; it counts only with 1000 and the reason "finalize"."""
    if event.code != 1000 or FINALIZE not in event.reason:
        c.known.is_stopped = True
        c.rest(Unreachable("the connection was lost during the stop"))
        return
    c.is_tail_told = c.delivery.acks
    c.has_progress = True
    steps.conclude(c, at_our_word=True)
    c.end_attempt()
    steps.start(c)
