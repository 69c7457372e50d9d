"""A session driven by hand: feed events, let time pass, look at the effects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from edge.core import events
from edge.core.context import Phase
from edge.core.events import Effect, Event
from edge.core.ledger import Ledger
from edge.core.packet import AudioFormat
from edge.core.policy import Policy
from edge.core.session import Session
from edge.core.timebase import Anchor

FRAMES = 1600  # 100 ms: the first cut behind packet 150, later ones every 145; 20 packets may be unconfirmed
E = TypeVar("E", bound=Effect)
FINALIZED = "Session stopped by server (finalize)"


def policy(**changes: Any) -> Policy:
    """The default policy, 16 kHz mono in packets of 100 ms."""
    return Policy(**{"audio": AudioFormat(16000, 1), "packet_frames": FRAMES, **changes})


class Driver:
    """`feed`, `wait` and their kin return the effects of that step; answers to barriers and polls can be automatic."""

    def __init__(self, **changes: Any) -> None:
        clock: Anchor | None = changes.pop("clock", None)
        self.policy = policy(**changes)
        self.ledger = Ledger(self.policy.packet_frames)
        self.session = Session(self.ledger, self.policy, clock)
        self.now = 1000.0
        self.pongs = False  # answer every JSON ping at once
        self.status: dict[str, Any] | None = None  # answer every poll at once with this; None: not at all
        self.polls: list[events.PollStatus] = []
        self.owes_poll = False
        self.poll_times: list[float] = []
        self.sent: list[int] = []
        self.texts: list[dict[str, Any]] = []
        self.has_socket = False
        self.released = 0
        self.last: list[Effect] = []  # of the last event or timer

    @property
    def phase(self) -> Phase:
        return self.session.phase

    # --- steps ---

    def feed(self, event: Event) -> list[Effect]:
        return self._perform(self.session.handle(event, self.now))

    def tell(self, kind: type[events.OfAttempt], *args: Any, **fields: Any) -> list[Effect]:
        """An event of the current attempt."""
        return self.feed(kind(self.session.attempt, *args, **fields))

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass; timers act when they are due."""
        effects: list[Effect] = []
        until = self.now + seconds
        for _ in range(10_000):
            due = self.session.deadline
            if due is None or due > until:
                self.now = until
                return effects
            self.now = max(self.now, due)
            effects += self._perform(self.session.tick(self.now))
        raise AssertionError("time stands still")

    def _perform(self, effects: list[Effect]) -> list[Effect]:
        self.last = effects
        everything = list(effects)
        for effect in effects:
            everything += self._answer(effect)
        return everything

    def _answer(self, effect: Effect) -> list[Effect]:
        match effect:
            case events.OpenSocket():
                assert not self.has_socket, "a second socket (trap 5)"
                self.has_socket = True
            case events.CloseSocket():
                assert self.has_socket
                self.has_socket = False
            case events.SendPackets(first, last):
                assert self.has_socket
                assert first <= last
                self.sent += range(first, last + 1)
            case events.SendText(message):
                assert self.has_socket
                self.texts.append(message)
                if message == {"type": "ping"} and self.pongs:
                    return self.tell(events.Pong)
            case events.PollStatus():
                self.polls.append(effect)
                self.owes_poll = True
                self.poll_times.append(self.now)
                if self.status is not None:
                    return self.polled(**self.status)
            case events.Release(offset):
                assert offset >= self.released
                self.released = offset
        return []

    # --- shorthand ---

    def record(self, packets: int, frames: int | None = None) -> list[Effect]:
        """`packets` full packets more were captured (or so many `frames`)."""
        self.ledger.capture(packets * self.policy.packet_frames if frames is None else frames)
        return self.feed(events.Supplied())

    def gap(self, seconds: float, cause: str = "microphone") -> list[Effect]:
        self.ledger.gap(int(seconds * self.policy.audio.rate_hz), cause)
        return self.feed(events.Supplied())

    def end(self) -> list[Effect]:
        self.ledger.end()
        return self.feed(events.Supplied())

    def pong(self, times: int = 1) -> list[Effect]:
        return [effect for _ in range(times) for effect in self.tell(events.Pong)]

    def polled(self, *, answered: bool = True, **status: Any) -> list[Effect]:
        """The open poll is answered: by default the session exists and is connected, and nothing is pending."""
        assert self.owes_poll, "no poll is open"
        self.owes_poll = False
        if not answered:
            return self.tell(events.Polled, self.polls[-1].poll, answered=False, **status)
        fields = {"exists": True, "connected": True, "pending": 0, **status}
        return self.tell(events.Polled, self.polls[-1].poll, answered=True, **fields)

    def next_poll(self, **status: Any) -> list[Effect]:
        """Wait for the next poll, and answer it."""
        self.until_poll()
        return self.polled(**status)

    def until_poll(self) -> list[Effect]:
        """Wait for the next poll."""
        effects: list[Effect] = []
        count = len(self.polls)
        for _ in range(200):
            if len(self.polls) > count:
                return effects
            effects += self.wait(0.05)
        raise AssertionError("there is no next poll")

    def alive(self, alive: bool | None = True) -> list[Effect]:
        return self.tell(events.Pinged, alive)

    def closed(self, code: int = 1006, reason: str = "") -> list[Effect]:
        self.has_socket = False
        return self.tell(events.SocketClosed, code, reason)

    def failed(self, error: Any) -> list[Effect]:
        self.has_socket = False
        return self.tell(events.Failed, error)

    def tell_started(self, session_id: str = "s1") -> list[Effect]:
        return self.tell(events.Started, session_id)

    def tell_stopped(self) -> list[Effect]:
        return self.tell(events.Stopped)

    def tell_opened(self) -> list[Effect]:
        return self.tell(events.Opened)

    def polled_event(self, attempt: int) -> Event:
        """An answer to the last poll, reported by `attempt`."""
        return events.Polled(attempt, self.polls[-1].poll, answered=True, exists=True)

    def open_hello(self, *, acks: bool = False, next_seq: int = 1) -> list[Effect]:
        return self.tell(events.Hello, acks, next_seq)

    def open(self, *, acks: bool = False, next_seq: int = 1) -> list[Effect]:
        """From OPENING to hello."""
        self.tell(events.Opened)
        return self.open_hello(acks=acks, next_seq=next_seq)

    def start(self, *, acks: bool = False, next_seq: int = 1, session_id: str = "s1") -> list[Effect]:
        """From an attempt without a session to flowing audio."""
        if self.session.wants_attempt:
            self.feed(events.Attempted())
        self.tell(events.Started, session_id)
        effects = self.open(acks=acks, next_seq=next_seq)
        if self.phase is Phase.INITIALISING:
            effects += self.pong()
        assert self.phase in (Phase.STREAMING, Phase.STOPPING)
        return effects

    def reattach(self, **hello: Any) -> list[Effect]:
        """From rest back to flowing audio in the same session, which the server has let go of."""
        self.feed(events.Attempted())
        if self.phase is Phase.ASKING:
            self.polled(connected=False)
        assert self.phase is Phase.OPENING
        return self.open(**hello)

    def reattach_fails(self) -> list[Effect]:
        """An attempt that comes back to nothing."""
        self.feed(events.Attempted())
        return self.polled(answered=False)

    def stream(self, packets: int, *, pending: int = 0) -> None:
        """`packets` more are recorded, sent, handled and polled."""
        pongs, status, self.pongs = self.pongs, self.status, True
        self.status = {"pending": pending}
        self.record(packets)
        for _ in range(10_000):
            if self.ledger.last == self.session.handled:
                break
            self.wait(0.25)
        count = len(self.polls)
        while len(self.polls) == count:
            self.wait(0.25)
        self.pongs, self.status = pongs, status
        assert self.ledger.last == self.session.handled


def of(kind: type[E], effects: Iterable[Effect]) -> list[E]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def texts(effects: Iterable[Effect]) -> list[dict[str, Any]]:
    """The JSON messages among the effects."""
    return [effect.message for effect in of(events.SendText, effects)]


def packets(effects: Iterable[Effect]) -> list[int]:
    """The packet numbers that went out."""
    return [seq for effect in of(events.SendPackets, effects) for seq in range(effect.first, effect.last + 1)]


def over(effects: Iterable[Effect]) -> Any:
    """The one end of an attempt among the effects: its error."""
    [effect] = of(events.Over, effects)
    return effect.error
