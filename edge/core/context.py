"""What a session knows, and the few steps that all its handlers share. The handlers are in `attach` and `stream`.

Rules and traps named in comments are those of PROTOCOL.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from edge.core.delivery import AckedDelivery, PlainDelivery
from edge.core.events import CloseSocket, Effect, Note, Over, PollStatus, Release
from edge.core.flow import Backlog
from edge.core.ledger import Ledger
from edge.core.policy import Policy
from edge.core.resume import PLAIN, UNKNOWN, Resume
from edge.core.timebase import Anchor
from edge.errors import EdgeError, InternalError, ServerRefused, TokenRefused


class Phase(Enum):
    """Where the session is; the value says it in words."""

    IDLE = "nothing is owed"
    WAITING = "until the next attempt is allowed"
    FAILED = "given up or refused; probed slowly"
    ASKING = "what has become of the old session?"
    SETTLING = "until the server lets go of the old socket"
    TAKING_OVER = "a sacrificial socket replaces a half-open one"
    PAUSING = "while the server cleans up after a takeover"
    FLUSHING = "until the old session has no pending segment"
    STOPPING_OLD = "the old session is being stopped"
    VERIFYING = "did the old session outlive its stop?"
    STARTING = "a session is being opened"
    OPENING = "the WebSocket is being opened"
    GREETING = "until the server says hello"
    INITIALISING = "until init is confirmed"
    STREAMING = "audio flows"
    HELD = "the link is lost: the socket is kept, nothing is written to it"
    MOVING = "a better way is there: until the old one has confirmed what it carries"
    STOPPING = "until the server has flushed the tail"
    DONE = "all is delivered"


class Timer(Enum):
    """What the one deadline may stand for."""

    CONNECT = "connect"
    SETTLE = "settle"
    POLL = "poll"
    PAUSE = "pause"
    FLUSH = "flush"
    STOP = "stop"
    BARRIER = "barrier"
    STALL = "stall"
    HEARTBEAT = "heartbeat"
    PROOF = "proof"
    HTTP_DEAD = "http dead"
    RETURN = "return"
    MOVE = "move"


@dataclass(slots=True)
class Server:
    """A session at the server. `delivery` is None until its first hello tells which kind of server it is."""

    session_id: str
    delivery: PlainDelivery | AckedDelivery | None = None
    dials: int = 0  # sockets that were tried: one that seemed to fail may be registered there all the same
    init_confirmed: bool = False
    is_stopped: bool = False  # it was, or may have been, finalised: never reattach, flush it
    told_clock: Anchor | None = None  # by what it knows the packets that it got to be stamped


def restore(resume: Resume, ledger: Ledger, policy: Policy) -> Server | None:
    """The session that an earlier process had at the server.

    One of an earlier boot is flushed, not trusted: how long its grace has run nobody knows. So is one of which no
    packet was surely handled: it may hold audio, and then a second `init` would wipe it (trap 2).
    """
    has_begun = resume.handled >= resume.first_seq
    if resume.server not in (PLAIN, UNKNOWN):
        # Without audio in it nobody knows whether it has heard `init`, which must not come twice: then a new one.
        return Server(resume.session_id, init_confirmed=True) if has_begun else None
    delivery = PlainDelivery.restored(
        resume.first_seq,
        policy.cuts,
        resume.alive_at,
        delivered=ledger.delivered,
        handled=resume.handled,
        shorts=resume.shorts,
        passed=resume.passed,
    )
    return Server(resume.session_id, delivery, 1, has_begun, is_stopped=not (resume.is_same_boot and has_begun))


class Context:
    """The session's memory. Times are seconds of the boot clock."""

    def __init__(
        self, ledger: Ledger, policy: Policy, clock: Anchor | None = None, resume: Resume | None = None
    ) -> None:
        self.ledger = ledger
        self.policy = policy
        self.clock = clock  # only told, never asked: no decision hangs on UTC
        self.phase = Phase.WAITING
        self.attempt = 0
        self.failure: EdgeError | None = None
        self.server: Server | None = None if resume is None else restore(resume, ledger, policy)
        self.session_ids: list[str] = []
        self.attachments = 0
        self.timers: dict[Timer, float] = {}
        self.effects: list[Effect] = []
        self.has_progress = False
        self.has_started = False  # a session, in this attempt
        self.pending_segments = 0
        self.max_pending = 20
        self.unanswered_since: float | None = None  # the first status poll that was not answered
        self.barriered = 0
        self.barrier_at = 0.0
        self.progress_at = 0.0
        self.ponged_at = 0.0
        self.attached_at = 0.0
        self.backlog = Backlog()
        self.has_acks: bool | None = None  # what the last hello said; None before the first
        self.is_tail_told = False  # a stop behind the gap at the recording's end succeeded

    def do(self, effect: Effect) -> None:
        """Hand an effect to the shell."""
        self.effects.append(effect)

    def note(self, kind: str, text: str) -> None:
        """Let people know."""
        self.do(Note(kind, text))

    @property
    def known(self) -> Server:
        """The session at the server, in phases that cannot be without one."""
        if self.server is None:
            raise InternalError(f"no session while {self.phase.name}")
        return self.server

    @property
    def delivery(self) -> PlainDelivery | AckedDelivery:
        """What the session has confirmed, in phases after its hello."""
        delivery = self.known.delivery
        if delivery is None:
            raise InternalError(f"no hello yet while {self.phase.name}")
        return delivery

    @property
    def is_complete(self) -> bool:
        """All of the recording is delivered; to a server with acks that includes a gap behind the last packet."""
        ledger = self.ledger
        if not ledger.ended or self.is_owing:
            return False
        return not self.has_acks or self.is_tail_told or not ledger.gaps_before(ledger.last + 1)

    @property
    def is_owing(self) -> bool:
        """There are packets to send, or losses to tell: an aia-v4 server is told of none."""
        ledger = self.ledger
        following = ledger.delivered + 1
        return (following if self.has_acks is not False else ledger.skip_lost(following)) <= ledger.last

    @property
    def goal(self) -> int | None:
        """The last packet of this session: the recording's last, or at an aia-v4 server the one before a long gap.

        None while more may come. Gaps close up there, so behind a long one a new session sets the clock right.
        """
        delivery = self.delivery
        if isinstance(delivery, PlainDelivery):
            gap_frames = int(self.policy.session_gap * self.policy.audio.rate_hz)
            has_begun = delivery.sent >= delivery.first
            start = delivery.sent if has_begun else self.ledger.skip_lost(delivery.first)
            before_gap = self.ledger.break_after(start, gap_frames)
            if before_gap is not None:
                return before_gap
        return self.ledger.last if self.ledger.ended else None

    def arm(self, timer: Timer, due: float) -> None:
        """(Re)set one timer."""
        self.timers[timer] = due

    def poll(self, now: float) -> None:
        """Ask for the session's status."""
        delivery = self.known.delivery
        poll = delivery.poll() if isinstance(delivery, PlainDelivery) else None
        if self.unanswered_since is None:
            self.unanswered_since = now
            self.arm(Timer.HTTP_DEAD, now + self.policy.http_dead_after)
        self.do(PollStatus(self.known.session_id, poll))

    def advance(self) -> None:
        """Carry what the session confirmed to the ledger, and free it in the ring."""
        if self.delivery.delivered > self.ledger.delivered:
            self.do(Release(self.ledger.deliver(self.delivery.delivered)))

    def forgo_lost(self) -> None:
        """Nothing is said to an aia-v4 server of lost packets, so those right behind what is delivered are over."""
        ledger = self.ledger
        last = ledger.skip_lost(ledger.delivered + 1) - 1
        if last > ledger.delivered:
            ledger.pass_over(ledger.delivered + 1, last)
            self.do(Release(ledger.deliver(last)))

    def end_attempt(self) -> None:
        """From here on, whatever the current socket or request still reports is stale."""
        if self.server is not None and self.server.delivery is not None:
            self.server.delivery.detach()
        self.attempt += 1
        self.timers.clear()
        self.unanswered_since = None

    def leave_socket(self, *, abort: bool) -> None:
        """Close the socket: one at a time, ever."""
        self.do(CloseSocket(abort))
        self.end_attempt()

    def rest(self, error: EdgeError, *, is_planned: bool = False) -> None:
        """The attempt is over, by our own will where `is_planned`; the retry policy decides when the next one comes.

        A refused token is no failure yet: the shell knows whether another one can be had, and says `Refused` if not.
        """
        self.end_attempt()
        self.do(Over(None if self.has_progress else error, str(error), is_planned))
        if isinstance(error, TokenRefused):
            pass
        elif isinstance(error, ServerRefused):
            self.failure = error
        else:
            kind = "moved" if is_planned else "lost"
            self.do(Note(kind, str(error), {"trouble": error.name} if error.name else {}))
        self.phase = Phase.FAILED if self.failure is not None else Phase.WAITING
        if self.is_complete:
            self.finish()

    def finish(self) -> None:
        """Everything is delivered."""
        self.forgo_lost()
        self.phase = Phase.DONE

    def forget_session(self) -> None:
        """The session is gone or closed for good; what it proved is in the ledger."""
        self.server = None
