"""The whole outside world of the runtime, on one page. Adapters implement these; tests fake them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge.core.journal import Entry
from edge.core.link import LinkSnapshot
from edge.core.manifest import Manifest
from edge.core.packet import AudioFormat
from edge.core.segment import CardPacket
from edge.core.timebase import Anchor
from edge.core.token import Token
from edge.errors import EdgeError, TokenRefused

JsonObject = dict[str, Any]


# --- sound -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What a source really gives, after it was opened.

    `notes` are lines that a person should see. `identity` tells this very device from others of its kind, also at
    another boot: equal text, same device. Empty where nothing is plugged in and out.
    """

    name: str
    audio: AudioFormat
    period_frames: int
    notes: tuple[str, ...] = ()
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """One bounded read.

    data         whole frames, s16le interleaved; empty = nothing yet
    boot_s       CLOCK_BOOTTIME in seconds at which the first frame of `data` was captured (of the read, when empty)
    lost_frames  frames lost just before `data`, with their `cause` ("xrun" or "microphone")
    ended        the source has no more
    """

    data: bytes | memoryview
    boot_s: float
    lost_frames: int = 0
    cause: str = ""
    ended: bool = False


class Source(Protocol):
    """Where sound comes from. Used by one thread (capture); `abandon` alone may be called from another."""

    @property
    def can_wait(self) -> bool:
        """True: unread audio stays where it is (a file at full speed). False: what is not read in time is lost."""

    @property
    def can_return(self) -> bool:
        """True: gone, it may come back (a microphone): closed and opened again it goes on. False: its error is its
        end."""

    def open(self) -> SourceInfo:
        """Open it and say what it really gives. Raises MicrophoneError."""

    def read(self) -> Block:
        """The next block; returns within about a second whatever happens. Raises MicrophoneError when it is gone.

        A frame reaches the read that waits for it within half a second of being captured.
        """

    def close(self) -> None:
        """Let it go; may be called twice, and without `open`."""


# --- time ------------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """The wall clock against the boot clock."""

    def read(self) -> Anchor:
        """How they stand now. Never raises."""

    def slept_s(self) -> float:
        """How long the machine has been suspended since it booted."""


# --- network ---------------------------------------------------------------------------------------------------------


class LinkWatch(Protocol):
    """What the kernel says of the network."""

    def aim(self, addresses: Sequence[str]) -> None:
        """The server's addresses, as literals: what the path leads to."""

    def snapshots(self) -> AsyncIterator[LinkSnapshot]:
        """First what is now, then each new state, until cancelled or closed."""

    async def close(self) -> None:
        """Let go of everything; may be called twice."""


# --- server ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """GET /session/ID/status. `exists` False means the server does not know the session (404)."""

    exists: bool
    connected: bool = False
    pending_segments: int = 0
    max_pending: int = 20


class ServerApi(Protocol):
    """The HTTP side of a server. Every call is bounded in time; raises Unreachable or ServerRefused."""

    async def start(self, settings: JsonObject) -> str:
        """POST /api/recording/start; returns the session id. Raises StartRefused where it is the `settings`' fault."""

    async def stop(self, session_id: str) -> None:
        """POST /api/recording/stop: flushes the tail, blocks until it is transcribed."""

    async def status(self, session_id: str) -> SessionStatus:
        """GET /session/ID/status."""

    def forget_connections(self) -> None:
        """The path that its kept connections belong to is gone: the next call makes a new one. Calls under way stay as
        they are."""

    async def close(self) -> None:
        """Give back its connections."""


@dataclass(frozen=True, slots=True)
class Closed:
    """How a socket ended. `code` 1006 stands for a reset or a loss without a close frame."""

    code: int
    reason: str


class Socket(Protocol):
    """One WebSocket, for one attempt."""

    @property
    def local_address(self) -> str:
        """The source address of its TCP connection, also once that has ended; "" where it is not known."""

    async def send(self, message: str | bytes) -> None:
        """Queue one message; returns when the buffer is below its limit, which is not delivery."""

    async def receive(self) -> JsonObject | Closed:
        """The next JSON message, or how the socket ended (then for ever)."""

    async def close(self) -> None:
        """Close in order, bounded in time."""

    def abort(self) -> None:
        """Drop the connection at once."""


class Dialer(Protocol):
    """Makes one attempt at one WebSocket. Raises Unreachable or ServerRefused."""

    async def __call__(self, session_id: str) -> Socket:
        """Dial the socket of `session_id`; bounded in time."""


class TokenSource(Protocol):
    """Where the server's token comes from."""

    @property
    def keeps(self) -> bool:
        """True: a token serves until shortly before its end, or until it is refused. False: it is fetched for each
        attempt."""

    @property
    def remedy(self) -> str:
        """What a person can do when the server refuses the token."""

    async def fetch(self) -> Token:
        """A token, bounded in time. Raises Unreachable where a later try may do, ConfigError or TokenRefused where a
        person has to act."""

    def has_changed(self) -> bool:
        """Whether somebody has changed a file that it reads since the latest `fetch`. Cheap."""


class Tokens(Protocol):
    """What an uplink wants of the one who keeps the token fresh (runtime/refresher.py)."""

    async def ready(self) -> str:
        """Before an attempt: the token that it will send, "" where none could be had. Bounded in time."""

    async def retried(
        self, used: str, refusal: TokenRefused, again: Callable[[], Awaitable[EdgeError | None]]
    ) -> EdgeError | None:
        """The server refused `used`: what an attempt `again` with another token came to; where there is none, why."""

    def accepted(self) -> None:
        """The server let somebody in."""


# --- card ------------------------------------------------------------------------------------------------------------


class Card(Protocol):
    """One recording on the card. `read` may be called from any thread, all else from the writer's only. Every call
    may raise OSError; after one, `retreat` comes before the next `append`."""

    @property
    def manifest(self) -> Manifest:
        """What the recording is, as last written."""

    def append(self, packets: Sequence[CardPacket], offsets: Sequence[int], *, beyond_limit: bool = False) -> None:
        """Write packets in order; `offsets` are their places in the recording's stored audio, in frames."""

    def note(self, entries: Sequence[Entry]) -> None:
        """Write to the journal."""

    def sync(self) -> None:
        """All that was written is durable when this returns."""

    def retreat(self, durable: int) -> None:
        """After an OSError: what lies behind packet `durable` will be appended again."""

    def seal(self, ended_by: str) -> None:
        """The recording is over."""

    def correct(self, settings: JsonObject) -> None:
        """It goes to the server with these settings from now on."""

    def deliver(self, utc_s: float) -> None:
        """The recording is delivered."""

    def free(self, last: int) -> None:
        """Packets up to `last` are not needed any more: delivered, or their loss is in the journal and durable."""

    def oldest(self) -> tuple[int, int] | None:
        """First and last packet of the oldest segment that may be given up."""

    def remove(self) -> None:
        """Nothing of it is needed any more."""

    def close(self) -> None:
        """Give back what is open."""

    def read(self, first: int, last: int) -> Iterator[tuple[int, CardPacket | None]]:
        """Packets by number; None where one cannot be read or is damaged."""


class Spool(Protocol):
    """All recordings on the card. For the writer's thread."""

    def create(self, meta: Manifest, entries: Sequence[Entry]) -> Card:
        """A new recording, durable when this returns."""

    def room_bytes(self) -> int:
        """How much more audio fits."""

    def expire(self, keep_days: float, utc_s: float | None) -> int:
        """Let go of what was delivered more than `keep_days` ago, by a trusted clock."""

    def make_room(self) -> bool:
        """Let go of audio that is kept though it is delivered; False where there is none."""

    def give_up_ballast(self) -> bool:
        """Free what was held back for sealing; False where nothing was."""

    def restore_ballast(self) -> None:
        """Hold it back again."""


# --- people ----------------------------------------------------------------------------------------------------------


class Panel(Protocol):
    """Two LEDs and two buttons."""

    def show(self, record_lit: bool, safe_lit: bool) -> None:
        """Set the LEDs (recording, safe)."""

    def on_press(self, record: Callable[[], None], retry: Callable[[], None]) -> None:
        """Call back on a press, from a thread of the panel's own."""

    def close(self) -> None:
        """LEDs off, pins released."""
