"""What the session is told (events) and what it wants done (effects). Values only.

Each event that stems from an attempt carries that attempt's number, so that a stale one can be dropped (DESIGN.md,
rule 4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edge.core.delivery import Poll
from edge.core.link import Change
from edge.core.timebase import Anchor
from edge.errors import EdgeError, TokenRefused, Unreachable

Message = dict[str, Any]


# --- events ----------------------------------------------------------------------------------------------------------


class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class Attempted(Event):
    """The retry policy lets the session try (again)."""


@dataclass(frozen=True, slots=True)
class GaveUp(Event):
    """The retry policy has used up its attempts; it goes on with slow probes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """The server refused the token, and there is no other one to try: a person has to act."""

    error: TokenRefused


@dataclass(frozen=True, slots=True)
class Supplied(Event):
    """The ledger has something new: packets, or the end of the recording."""


@dataclass(frozen=True, slots=True)
class ClockChanged(Event):
    """From here on packets are stamped by `anchor`."""

    anchor: Anchor


@dataclass(frozen=True, slots=True)
class LinkChanged(Event):
    """What became of the way to the server, and of the current socket's source address.

    is_carried  what is sent from that address still gets out; without a socket: a connection being made still may
    is_kept     the address is still there, so the socket may come to life again
    has_path    there is a way to the server, be it another one
    """

    change: Change
    reason: str
    is_carried: bool
    is_kept: bool
    has_path: bool


@dataclass(frozen=True, slots=True)
class Doubted(Event):
    """Something happened that a connection may not have survived: it is tested at once."""

    reason: str


@dataclass(frozen=True, slots=True)
class OfAttempt(Event):
    """Base of the events that belong to one attempt."""

    attempt: int


@dataclass(frozen=True, slots=True)
class Started(OfAttempt):
    """POST start answered with a session."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Stopped(OfAttempt):
    """POST stop answered; it always says success, which proves nothing."""


@dataclass(frozen=True, slots=True)
class Failed(OfAttempt):
    """POST start, POST stop or the handshake failed."""

    error: EdgeError


@dataclass(frozen=True, slots=True)
class Polled(OfAttempt):
    """GET status answered, or `answered` False: it failed, of `failure`. `poll` is what was known when it was
    started."""

    poll: Poll | None
    answered: bool
    exists: bool = False
    connected: bool = False
    pending: int = 0
    max_pending: int = 20
    failure: Unreachable | None = None


@dataclass(frozen=True, slots=True)
class Opened(OfAttempt):
    """The WebSocket handshake completed (which proves nothing before hello)."""


@dataclass(frozen=True, slots=True)
class SocketClosed(OfAttempt):
    """The socket ended; 1006 without a close frame."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Hello(OfAttempt):
    """The server's first message. `next_seq` only with `acks`."""

    acks: bool
    next_seq: int = 1


@dataclass(frozen=True, slots=True)
class Pong(OfAttempt):
    """The answer to the oldest open barrier."""


@dataclass(frozen=True, slots=True)
class Ack(OfAttempt):
    """All packets up to `seq` are durably stored."""

    seq: int


@dataclass(frozen=True, slots=True)
class Pinged(OfAttempt):
    """A server ping. `alive` is what a `t` ping says with `is_recording`; None for the other pings."""

    alive: bool | None


@dataclass(frozen=True, slots=True)
class Backpressure(OfAttempt):
    """The server dropped a packet and its pongs lie from now on (PROTOCOL.md, trap 6)."""


@dataclass(frozen=True, slots=True)
class Unknown(OfAttempt):
    """Any other message: passed on."""

    message: Message


# --- effects ---------------------------------------------------------------------------------------------------------


class Effect:
    """Base of all effects."""


@dataclass(frozen=True, slots=True)
class StartSession(Effect):
    """POST start."""


@dataclass(frozen=True, slots=True)
class StopSession(Effect):
    """POST stop for `session_id`."""

    session_id: str


@dataclass(frozen=True, slots=True)
class PollStatus(Effect):
    """GET status of `session_id`; the answer comes back with `poll`."""

    session_id: str
    poll: Poll | None


@dataclass(frozen=True, slots=True)
class OpenSocket(Effect):
    """One WebSocket attempt to `session_id`."""

    session_id: str


@dataclass(frozen=True, slots=True)
class SendText(Effect):
    """Send one JSON message, in order with the packets; `ahead` of those that wait to be sent: they are stamped only
    then."""

    message: Message
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class SendPackets(Effect):
    """Send the packets `first` to `last`, both included, in order."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class CloseSocket(Effect):
    """End the current socket: in order, or at once (`abort`) when it no longer answers."""

    abort: bool


@dataclass(frozen=True, slots=True)
class Release(Effect):
    """Frames before ring offset `offset` are delivered: their slots may be used again."""

    offset: int


@dataclass(frozen=True, slots=True)
class Over(Effect):
    """This attempt has ended. `error` None: it had delivered something, so waits and counts start afresh. `why` says of
    what it ended, where it did not end well. `is_planned`: we ended it, to go on by a better path."""

    error: EdgeError | None
    why: str = ""
    is_planned: bool = False


@dataclass(frozen=True, slots=True)
class Note(Effect):
    """Something that people or a log should know; `kind` is stable, `text` is for reading."""

    kind: str
    text: str
    message: Message = field(default_factory=dict)
