"""The outside of the runtime, in memory: time that jumps, a server with acknowledgements, sources that a test feeds.

They refuse misuse: a second socket, a message after the end, two readers of one socket.
"""

from __future__ import annotations

import asyncio
import json
import queue
import selectors
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from edge.core.ledger import Ledger
from edge.core.packet import HEADER_BYTES, AudioFormat, decode_header
from edge.core.policy import Policy
from edge.core.ring import Ring
from edge.core.timebase import Anchor, Timebase
from edge.errors import EdgeError, ServerRefused, StartRefused, Unreachable
from edge.runtime.attempts import RetryPolicy
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.happening import Happening
from edge.runtime.ports import Block, Closed, JsonObject, SessionStatus, Socket, SourceInfo
from edge.runtime.recording import Recording, packets_in_ring
from edge.runtime.uplink import Uplink

MONO = AudioFormat(16000, 1)
PACKET = 1600
_T = TypeVar("_T")


class Misuse(AssertionError):
    """The runtime did what no server and no socket allows."""


# --- time ------------------------------------------------------------------------------------------------------------


class _JumpingSelector(selectors.SelectSelector):
    """Nothing is waited for: where nothing is ready, time moves to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Misuse("everybody waits, and nothing will ever happen")
            self.now += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is simulated. No threads."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def simulate(main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` in simulated time; nothing may be left over, and no exception unseen."""
    unseen: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: unseen.append(context))
        result = runner.run(main)
    assert unseen == []
    return result


def now() -> float:
    """Simulated seconds."""
    return asyncio.get_running_loop().time()


class FakeClock:
    """The wall clock against the boot clock, set by a test. 2023, and trusted, until it is."""

    def __init__(self, utc_minus_boot_s: float = 1.7e9, *, trusted: bool = True) -> None:
        self.anchor = Anchor("boot", utc_minus_boot_s, trusted)
        self.reads = 0
        self.slept = 0.0

    def read(self) -> Anchor:
        self.reads += 1
        return self.anchor

    def slept_s(self) -> float:
        return self.slept

    def set(self, utc_minus_boot_s: float, *, trusted: bool) -> Anchor:
        self.anchor = Anchor(self.anchor.boot_id, utc_minus_boot_s, trusted)
        return self.anchor


def watch() -> ClockWatch:
    """Of a clock that is right and stays so."""
    return ClockWatch(FakeClock(), lambda happening: None)


# --- a server with acknowledgements ----------------------------------------------------------------------------------


class FakeSocket:
    """Client's end of one WebSocket; `server` hears what it sends."""

    def __init__(self, server: FakeServer, session_id: str) -> None:
        self.server = server
        self.session_id = session_id
        self.number = len(server.sockets) + 1
        self.sent: list[JsonObject | bytes] = []
        self.is_open = True
        self.was_aborted = False
        self._inbox: deque[JsonObject | Closed] = deque()
        self._has_mail = asyncio.Event()
        self._is_reading = False
        self.closed: Closed | None = None
        self.local_address = server.local_address

    # the client's side

    async def send(self, message: str | bytes) -> None:
        self._refuse_if_ended()
        await self.server.admit(self)
        self._refuse_if_ended()
        heard = message if isinstance(message, bytes) else json.loads(message)
        self.sent.append(heard)
        self.server.hear(self, heard)

    def _refuse_if_ended(self) -> None:
        if self.closed is not None or not self.is_open:
            raise ConnectionError("the socket has ended")

    async def receive(self) -> JsonObject | Closed:
        if self._is_reading:
            raise Misuse("two readers of one socket")
        self._is_reading = True
        try:
            while not self._inbox:
                self._has_mail.clear()
                await self._has_mail.wait()
            message = self._inbox[0]
            if not isinstance(message, Closed):
                self._inbox.popleft()
            return message
        finally:
            self._is_reading = False

    async def close(self) -> None:
        if self.is_open:
            await asyncio.sleep(self.server.close_takes)
            self._gone()

    def abort(self) -> None:
        if self.is_open:
            self.was_aborted = True
            self._gone()

    def _gone(self) -> None:
        self.is_open = False
        self.server.in_use.discard(self)
        self.end(1006, "gone")

    # the server's side

    def tell(self, message: JsonObject) -> None:
        """The server says something."""
        if self.closed is None and self.is_open:
            self._inbox.append(message)
            self._has_mail.set()

    def end(self, code: int, reason: str = "") -> None:
        """The server, or the network, ends it: the client's half stays until it lets go."""
        if self.closed is None:
            self.closed = Closed(code, reason)
            self._inbox.append(self.closed)
            self._has_mail.set()


class FakeServer:
    """ServerApi and Dialer in one. Stores packets by recording; each knob is one way to misbehave.

    agents                      those it knows
    refuse_start, refuse_dial   what the next calls raise, first to last; None lets one pass
    is_down                     every call raises `outage`
    close_takes                 seconds until an orderly close is through
    on_packet(socket, seq)      called after a packet was stored, before its ack; may end the socket
    acks                        False: stores, but acknowledges nothing
    most_sockets                so many may be open at once
    local_address               the client's, for the sockets that are dialled from now on
    forgotten                   how often the client gave up its kept connections
    """

    def __init__(self) -> None:
        self.stored: dict[str, list[tuple[int, bytes]]] = {}
        self.gaps: dict[str, list[tuple[int, int, str]]] = {}
        self.sessions: dict[str, str] = {}
        self.sockets: list[FakeSocket] = []
        self.in_use: set[object] = set()
        self.most_in_use = 0
        self.most_sockets = 1
        self.duplicates = 0
        self.stopped: list[str] = []
        self.settings: list[JsonObject] = []
        self.times: list[float] = []
        self.refuse_start: deque[EdgeError | None] = deque()
        self.refuse_dial: deque[EdgeError | None] = deque()
        self.refuse_recordings: set[str] = set()
        self.agents = {"a"}
        self.is_down = False
        self.outage: EdgeError = Unreachable("connection refused")
        self.is_silent = False  # takes everything, answers nothing
        self.close_takes = 0.0
        self.dial_takes = 0.0
        self.acks = True
        self.on_packet: Callable[[FakeSocket, int], None] = lambda socket, seq: None
        self.on_dial: Callable[[], None] = lambda: None
        self.on_text: Callable[[FakeSocket, JsonObject], bool] = lambda socket, message: False
        self.room: asyncio.Event | None = None  # writes wait for it
        self.local_address = "192.0.2.1"
        self.forgotten = 0

    # ServerApi

    async def start(self, settings: JsonObject) -> str:
        self.times.append(now())
        await asyncio.sleep(0)
        self._raise_next(self.refuse_start)
        if settings["recording"] in self.refuse_recordings:
            raise ServerRefused("another session is active")
        if settings.get("agent") not in {None, *self.agents}:  # a missing one is taken, as by the real server
            raise StartRefused("unknown agent")
        self.settings.append(settings)
        session_id = f"session-{len(self.sessions) + 1}"
        self.sessions[session_id] = settings["recording"]
        self.stored.setdefault(settings["recording"], [])
        self.gaps.setdefault(settings["recording"], [])
        return session_id

    async def stop(self, session_id: str) -> None:
        await asyncio.sleep(0)
        self._raise_next(deque())

    async def status(self, session_id: str) -> SessionStatus:
        await asyncio.sleep(0)
        self._raise_next(deque())
        return SessionStatus(session_id in self.sessions, bool(self.in_use))

    def forget_connections(self) -> None:
        self.forgotten += 1

    async def close(self) -> None:
        """Nothing is held."""

    # Dialer

    async def __call__(self, session_id: str) -> Socket:
        if not self.times or self.times[-1] != now():
            self.times.append(now())
        token = object()
        self._use(token)
        try:
            self.on_dial()
            await asyncio.sleep(self.dial_takes)
            self._raise_next(self.refuse_dial)
        except BaseException:
            self.in_use.discard(token)
            raise
        self.in_use.discard(token)
        socket = FakeSocket(self, session_id)
        self._use(socket)
        self.sockets.append(socket)
        if session_id not in self.sessions:
            socket.end(1011, "Session not found")
        elif not self.is_silent:
            self.greet(socket)
        return socket

    def greet(self, socket: FakeSocket) -> None:
        """The first message."""
        next_seq = len(self.stored[self.sessions[socket.session_id]]) + 1
        socket.tell({"type": "hello", "session_id": socket.session_id, "acks": True, "next_seq": next_seq})

    def _use(self, user: object) -> None:
        if len(self.in_use) >= self.most_sockets:
            raise Misuse("a socket too many")
        self.in_use.add(user)
        self.most_in_use = max(self.most_in_use, len(self.in_use))

    def _raise_next(self, script: deque[EdgeError | None]) -> None:
        if self.is_down:
            raise self.outage
        error = script.popleft() if script else None
        if error is not None:
            raise error

    # what comes in

    async def admit(self, socket: FakeSocket) -> None:
        """The socket's buffer."""
        if self.room is not None:
            await self.room.wait()

    def hear(self, socket: FakeSocket, message: JsonObject | bytes) -> None:
        """One message, in order."""
        if isinstance(message, bytes):
            self._packet(socket, message)
            return
        if self.on_text(socket, message):
            return
        recording = self.sessions[socket.session_id]
        if message.get("type") == "ping" and not self.is_silent:
            socket.tell({"type": "pong"})
        elif message.get("type") == "gap" and "lost_from" in message:
            stored = self.stored[recording]
            if message["lost_from"] != len(stored) + 1:
                raise Misuse(f"{message} where packet {len(stored) + 1} is due")
            stored += [(seq, b"") for seq in range(message["lost_from"], message["before_seq"])]
            socket.tell({"type": "ack", "seq": len(stored)})
        elif message.get("type") == "gap":
            gap = (message["before_seq"], message["frames"], message["cause"])
            if gap not in self.gaps[recording]:
                self.gaps[recording].append(gap)
        elif message.get("action") == "stop_stream" and not self.is_silent:
            self.stopped.append(socket.session_id)
            socket.end(1000, "Session stopped by server (finalize)")

    def _packet(self, socket: FakeSocket, wire: bytes) -> None:
        header = decode_header(wire)
        stored = self.stored[self.sessions[socket.session_id]]
        if header.seq > len(stored) + 1:
            raise Misuse(f"packet {header.seq} leaves a hole behind {len(stored)}")
        if header.seq <= len(stored):
            self.duplicates += 1
        else:
            stored.append((header.seq, wire[HEADER_BYTES:]))
        self.on_packet(socket, header.seq)
        if self.acks and not self.is_silent:
            socket.tell({"type": "ack", "seq": len(stored)})

    def audio(self, recording_id: str) -> bytes:
        """What is stored of a recording."""
        return b"".join(payload for _, payload in self.stored.get(recording_id, []))


# --- a recording that a test feeds -----------------------------------------------------------------------------------


def pattern(first: int, frames: int, frame_bytes: int = 2) -> bytes:
    """Frames that show their position."""
    positions = range(first, first + frames)
    return b"".join((position & 0x7FFF).to_bytes(2, "little") * (frame_bytes // 2) for position in positions)


class Feed:
    """A recording in a ring without any thread: `talk`, `lose`, `end`; tells the uplink each time."""

    def __init__(self, recording_id: str = "r", seconds: float = 60.0, ring: Ring | None = None) -> None:
        self.ring = ring or Ring(int(seconds * MONO.rate_hz), MONO.frame_bytes)
        self.ledger = Ledger(PACKET, self.ring.head)
        self.given = b""
        self.gaps: dict[tuple[int, str], int] = {}  # by the packet behind it and its cause
        self.uplink: Uplink | None = None
        self.timebase = Timebase(MONO.rate_hz)
        self.recording = Recording(
            recording_id,
            MONO,
            self.ledger,
            {"agent": "a", "event": "e", "recording": recording_id},
            packets_in_ring(self.ring, self.ledger, self.timebase, MONO),
            self.ring.release,
            anchor=lambda: self.timebase.current,
        )

    def talk(self, frames: int) -> None:
        data = pattern(len(self.given) // 2, frames)
        assert self.ring.write(data) == frames
        self.given += data
        self.ledger.capture(frames)
        self._supply()

    def lose(self, frames: int, cause: str) -> None:
        self.ledger.gap(frames, cause)
        place = self.ledger.last + 1, cause
        self.gaps[place] = self.gaps.get(place, 0) + frames
        self._supply()

    def end(self) -> None:
        self.ledger.end()
        self._supply()

    def _supply(self) -> None:
        if self.uplink is not None:
            self.uplink.supplied(self.recording)


class Line:
    """An uplink to a FakeServer in simulated time, with what it told."""

    def __init__(self, server: FakeServer | None = None, retry: RetryPolicy | None = None, **policy: Any) -> None:
        self.server = server or FakeServer()
        self.told: list[tuple[float, Happening]] = []
        self.uplink = Uplink(
            self.server,
            self.server,
            Policy(MONO, PACKET, **policy),
            retry or RetryPolicy(),
            lambda happening: self.told.append((now(), happening)),
            now,
        )

    def feed(self, recording_id: str = "r", seconds: float = 60.0) -> Feed:
        feed = Feed(recording_id, seconds)
        feed.uplink = self.uplink
        return feed

    def kinds(self) -> list[str]:
        return [happening.kind for _, happening in self.told]

    def delays(self) -> list[float]:
        """The waits that were announced."""
        return [h.detail["delay_s"] for _, h in self.told if h.kind == "waiting" and h.detail is not None]

    def states(self) -> list[str]:
        return [h.detail["new"] for _, h in self.told if h.kind == "state" and h.detail is not None]


# --- sources that a test feeds ---------------------------------------------------------------------------------------


class FedSource:
    """A microphone (or, `can_wait`, a file) whose blocks come from the test: `give`, `fail`, `finish`.

    With `can_return` it may be opened again after a failure, as a real microphone; `openings` says what then happens.

    Reads come back after at most `patience` seconds; `hang` makes one that does not come back until `release`.
    """

    def __init__(
        self, audio: AudioFormat = MONO, *, can_wait: bool = False, can_return: bool = False, patience: float = 0.05
    ) -> None:
        self.can_wait = can_wait
        self.can_return = can_return
        self.opens = 0
        self.openings: deque[Exception | SourceInfo | None] = deque()  # how the next ones end; None: well
        self.audio = audio
        self.fail_open: Exception | None = None
        self.fail_close: Exception | None = None
        self.reads = 0
        self.closes = 0
        self.hang_open = threading.Event()
        self.hang_open.set()
        self.released = threading.Event()
        self._patience = patience
        self._queue: queue.SimpleQueue[Block | Exception | None] = queue.SimpleQueue()
        self._position = 0

    def give(self, frames: int, lost: int = 0, cause: str = "") -> bytes:
        """The microphone gives `frames`, after having lost some."""
        self._position += lost
        data = pattern(self._position, frames, self.audio.frame_bytes)
        self._queue.put(Block(data, 1.0 + self._position / self.audio.rate_hz, lost, cause))
        self._position += frames
        return data

    def skip(self, frames: int) -> None:
        """Time passes in which nobody hears it."""
        self._position += frames

    def raw(self, block: Block) -> None:
        self._queue.put(block)

    def fail(self, error: Exception) -> None:
        """The next read raises."""
        self._queue.put(error)

    def hang(self) -> None:
        """The next read does not come back before `released` is set."""
        self._queue.put(None)

    def finish(self) -> None:
        """It has no more."""
        self._queue.put(Block(b"", 1.0, ended=True))

    def open(self) -> SourceInfo:
        self.opens += 1
        self.hang_open.wait()
        if self.fail_open is not None:
            raise self.fail_open
        outcome = self.openings.popleft() if self.openings else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or SourceInfo("fed", self.audio, PACKET)

    def read(self) -> Block:
        self.reads += 1
        try:
            item = self._queue.get(timeout=self._patience)
        except queue.Empty:
            return Block(b"", 1.0)
        if item is None:
            self.released.wait()
            return Block(pattern(0, PACKET), 1.0)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self.closes += 1
        if self.fail_close is not None:
            raise self.fail_close


def wire(recording: Recording, seq: int) -> bytes:
    """Packet `seq` of a recording that has it at hand."""
    packet = recording.wire(seq)
    assert packet is not None
    return packet


async def joined(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel and wait."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
