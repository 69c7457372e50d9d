"""Servers in simulated time: an aia-v4 server with the faults that PROTOCOL.md tells of, and one with acknowledgements.

Nothing here imports the code under test. A server never trusts its client: what could only come from a broken one (a
hole in the numbers, `init` in the middle, a fourth socket) raises Misuse.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

Json = dict[str, Any]

OVERLAP_MS = 500
HEARTBEAT_S = 10.0
IDLE_S = 180.0
FINALIZED = "Session stopped by server (finalize)"


class Misuse(AssertionError):
    """The client did what no client may do."""


@dataclass(frozen=True, slots=True)
class Audio:
    """One packet on the wire."""

    seq: int
    ms: int
    payload: bytes


class Timeline:
    """Simulated time: what is due, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, when: float, act: Callable[[], None]) -> None:
        """Call `act` at `when`, or now where that is past."""
        heapq.heappush(self._due, (max(when, self.now), next(self._order), act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` in `seconds`."""
        self.at(self.now + seconds, act)

    def step(self, until: float) -> bool:
        """Run the next thing that is due by `until`; False, and time stands at `until`, where there is none."""
        if not self._due or self._due[0][0] > until:
            self.now = max(self.now, until)
            return False
        self.now, _, act = heapq.heappop(self._due)
        act()
        return True

    def run(self, until: float) -> None:
        """Run all that is due by `until`."""
        while self.step(until):
            pass


class Network:
    """The way between the two. While `is_up` is False nothing passes; TCP keeps what was sent and resends it later."""

    def __init__(self, time: Timeline) -> None:
        self.time = time
        self.is_up = True
        self.latency = 0.01
        self.wires: list[Wire] = []

    def cut(self) -> None:
        """A black hole from now on."""
        self.is_up = False

    def heal(self) -> None:
        """What was held back is sent again."""
        self.is_up = True
        for wire in self.wires:
            wire.flush()
        self.wires = [wire for wire in self.wires if not wire.is_over]


class Lane:
    """One direction of a connection: in order, delayed, held back while the network is down."""

    def __init__(self, network: Network, deliver: Callable[[Any], None]) -> None:
        self._network = network
        self._deliver = deliver
        self._held: deque[Any] = deque()
        self._free_at = 0.0
        self.is_dead = False

    def put(self, what: Any) -> None:
        """Send one thing."""
        self._held.append(what)
        if self._network.is_up:
            self._schedule()

    def flush(self) -> None:
        """The network is back: all that was held back goes out (once; what already arrived leaves no trace here)."""
        for _ in range(len(self._held)):
            self._schedule()

    def take_back(self, is_meant: Callable[[Any], bool], *, rest: bool) -> None:
        """What is meant was never put here, `rest`: nor what came behind it."""
        kept: deque[Any] = deque()
        for what in self._held:
            if not is_meant(what):
                kept.append(what)
            elif rest:
                break
        self._held = kept

    def kill(self) -> None:
        """A reset: what is in flight is lost."""
        self.is_dead = True
        self._held.clear()

    @property
    def in_flight(self) -> int:
        """Things sent and not arrived."""
        return len(self._held)

    def _schedule(self) -> None:
        self._free_at = max(self._network.time.now + self._network.latency, self._free_at)
        self._network.time.at(self._free_at, self._arrive)

    def _arrive(self) -> None:
        if self._network.is_up and self._held and not self.is_dead:
            self._deliver(self._held.popleft())


@dataclass(frozen=True, slots=True)
class Opened:
    """The handshake completed."""


@dataclass(frozen=True, slots=True)
class Close:
    """A close frame, or 1006: the connection broke."""

    code: int
    reason: str = ""


class Wire:
    """One WebSocket. `to_client` gets Opened, dicts and one Close, Close alone where the handshake fails."""

    def __init__(self, network: Network, to_client: Callable[[Json | Opened | Close], None]) -> None:
        self.network = network
        self.handler: Handler | None = None
        self.notice_s: float | None = None
        self._up = Lane(network, self._at_server)
        self._down = Lane(network, self._at_client)
        self._to_client = to_client
        self.client_open = True
        self.server_open = True
        network.wires.append(self)

    @property
    def is_over(self) -> bool:
        """Nothing can pass any more."""
        return not self.client_open and not self.server_open

    @property
    def is_half_open(self) -> bool:
        """The client is gone, the server does not know."""
        return self.server_open and not self.client_open

    def flush(self) -> None:
        """The network is back."""
        self._up.flush()
        self._down.flush()

    # --- the client's side ---

    def send(self, what: Json | Audio) -> None:
        """Send one message; into a closed connection it goes nowhere."""
        if self.client_open:
            self._up.put(what)

    def close(self) -> None:
        """An orderly end: nothing that was sent is lost."""
        if self.client_open:
            self._up.put(Close(1000))
            self._client_gone()

    def abort(self) -> None:
        """The client lets go at once. Through a black hole its reset never arrives: half-open for ever."""
        if self.client_open:
            self._client_gone()
            self._up.kill()
            notice_s = self.network.latency if self.network.is_up else self.notice_s
            if notice_s is not None:
                self.network.time.after(notice_s, lambda: self._at_server(Close(1006)))

    def _client_gone(self) -> None:
        self.client_open = False
        self._down.kill()

    # --- between ---

    def withhold(self, from_seq: int, to_seq: int, *, rest: bool) -> None:
        """These packets never leave the client, `rest`: nor does anything that was to follow them."""
        self._up.take_back(lambda what: isinstance(what, Audio) and from_seq <= what.seq <= to_seq, rest=rest)

    def reset(self) -> None:
        """The way breaks under both: what is in flight is lost, both learn at once."""
        was_open = self.client_open
        self._up.kill()
        self._client_gone()
        self._at_server(Close(1006))
        if was_open:
            self._to_client(Close(1006))

    # --- the server's side ---

    def reply(self, what: Json | Opened | Close) -> None:
        """The server sends a message, or closes."""
        if not self.server_open:
            return
        if isinstance(what, Close):
            self.server_open = False
            self._up.kill()
        self._down.put(what)

    def mute(self) -> None:
        """What the server sends never arrives."""
        self._down.kill()

    def die(self) -> None:
        """The server's process is gone: the kernel resets the connection."""
        if self.server_open:
            self.reply(Close(1006))

    def _at_server(self, what: Any) -> None:
        if self.server_open and self.handler is not None:
            if isinstance(what, Close):
                self.server_open = False
            self.handler.received(what)

    def _at_client(self, what: Json | Opened | Close) -> None:
        if isinstance(what, Close):
            self._client_gone()
            self.server_open = False
        self._to_client(what)


@dataclass(slots=True)
class Faults:
    """How badly the server behaves."""

    transcribe_s: float = 0.2
    grace_s: float = 65.0
    cleanup_s: float = 0.5  # from the end of a handler to its detaching whatever is registered (trap 1)
    is_token_bad: bool = False
    is_http_dead: bool = False
    http_slow_in_s: float = 0.0  # a request on its way
    http_slow_out_s: float = 0.0  # an answer on its way
    notice_s: float | None = None  # after a reset that never arrived the server finds out by itself; None: never
    is_start_refused: bool = False
    says_resumed: bool = False
    loses_next_answer: bool = False  # of a handshake, or of an HTTP request
    overlap_up: bool = False  # the 500 ms overlap rounded up to whole packets
    max_pending: int = 20
    target_ms: int = 15000
    dead_stop_says_finalize: bool = True


@dataclass(slots=True)
class Segment:
    """Audio that was cut and is not transcribed yet."""

    packets: list[Audio]
    is_lost: bool = False
    done: list[Callable[[], None]] = field(default_factory=list)


class Session:
    """What the server knows of one session."""

    def __init__(self, session_id: str, recording: str) -> None:
        self.session_id = session_id
        self.recording = recording
        self.has_init = False
        self.buffer: list[Audio] = []
        self.buffered_ms = 0
        self.pending: deque[Segment] = deque()
        self.registered: Handler | None = None
        self.detached_at: float | None = None
        self.is_finalised = False
        self.is_flushing = False
        self.rejected = 0
        self.dispatched: list[list[int]] = []
        self.has_audio = False
        self.flushed: list[Callable[[], None]] = []


class Handler:
    """The server's side of one WebSocket."""

    def __init__(self, server: Server, wire: Wire, session: Session) -> None:
        self.server = server
        self.wire = wire
        self.session = session
        self.last_json = server.time.now
        self.is_blocked = False
        self._waiting: deque[Json | Audio | Close] = deque()
        wire.handler = self

    def received(self, what: Json | Audio | Close) -> None:
        """Messages are handled strictly one after the other; a stop blocks those behind it."""
        if self.is_blocked:
            self._waiting.append(what)
        else:
            self._handle(what)

    def unblock(self) -> None:
        """The stop is through."""
        self.is_blocked = False
        while self._waiting and not self.is_blocked:
            self._handle(self._waiting.popleft())

    def _handle(self, what: Json | Audio | Close) -> None:
        if not self.server.is_alive:
            return
        if isinstance(what, Close):
            self.server.ended(self)
        elif self.wire.server_open or isinstance(what, Audio):
            if isinstance(what, dict):
                self.last_json = self.server.time.now
                self.server.message(self, what)
            else:
                self.server.audio(self, what)

    def close(self, code: int, reason: str = "") -> None:
        """Close from the server's side; the handler ends."""
        if self.wire.server_open:
            self.wire.reply(Close(code, reason))
            self.server.ended(self)


HttpAnswer = Callable[[Json | None], None]


class Server:
    """What both kinds have in common: a process that can die, HTTP, sockets and their pings."""

    acks = False

    def __init__(self, network: Network, faults: Faults) -> None:
        self.network = network
        self.time = network.time
        self.faults = faults
        self.is_alive = True
        self.is_terminating = False
        self.sessions: dict[str, Session] = {}
        self.handlers: list[Handler] = []
        self.opened = 0
        self._life = 0
        self._http_stalled_until = 0.0
        self.overlaps: list[str] = []

    # --- the process -----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL: everything in RAM is gone."""
        self.is_alive = self.is_terminating = False
        self._life += 1
        for handler in self.handlers:
            handler.wire.die()
        self.handlers.clear()
        self.sessions.clear()
        self._forgot()

    def restart(self) -> None:
        """A new process."""
        if not self.is_alive:
            self.is_alive = True
            self._http_stalled_until = 0.0

    def terminate(self) -> None:
        """SIGTERM (trap 7): sockets live on for 30 s, HTTP hangs; a new process follows."""
        if self.is_alive and not self.is_terminating:
            self.is_terminating = True
            self._later(30.0, self.kill)
            self.time.after(31.0, self.restart)

    def _forgot(self) -> None:
        """The process died."""

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do it in `seconds`, if the process still lives."""
        life = self._life
        self.time.after(seconds, lambda: act() if self._life == life else None)

    # --- HTTP ------------------------------------------------------------------------------------------------------

    def http(self, request: Json, answer: HttpAnswer, timeout_s: float) -> None:
        """One request; None = no answer within `timeout_s`, or nobody there."""
        is_answered = False

        def once(what: Json | None) -> None:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                answer(what)

        def back(what: Json) -> None:
            if self.faults.loses_next_answer:
                self.faults.loses_next_answer = False
            elif self.network.is_up:
                self.time.after(self.network.latency + self.faults.http_slow_out_s, lambda: once(what))

        def arrive() -> None:
            if not self.network.is_up or self.faults.is_http_dead or self.is_terminating:
                return
            if not self.is_alive:
                self.time.after(self.network.latency, lambda: once(None))
            elif self.time.now < self._http_stalled_until:
                self._later(self._http_stalled_until - self.time.now, arrive)
            else:
                self._serve(request, back)

        self.time.after(self.network.latency + self.faults.http_slow_in_s, arrive)
        self.time.after(timeout_s, lambda: once(None))

    def _serve(self, request: Json, back: Callable[[Json], None]) -> None:
        kind = request["kind"]
        if kind == "start":
            if self.faults.is_start_refused or self.faults.is_token_bad:
                back({"refused": True})
                return
            self.opened += 1
            session = Session(f"s{self.opened}", request["recording"])
            self.sessions[session.session_id] = session
            self._later(HEARTBEAT_S, lambda: self._heartbeat(session))
            back({"session_id": session.session_id})
        elif kind == "status":
            found = self.sessions.get(request["session_id"])
            if found is None:
                back({"exists": False})
            else:
                back(
                    {
                        "exists": True,
                        "connected": found.registered is not None,
                        "pending": len(found.pending),
                        "max_pending": self.faults.max_pending,
                    }
                )
        else:
            found = self.sessions.get(request["session_id"])
            if found is None:
                back({})
            else:
                self.finalise(found, lambda: back({}))

    # --- sockets ---------------------------------------------------------------------------------------------------

    def connect(self, session_id: str, to_client: Callable[[Json | Opened | Close], None]) -> Wire:
        """One handshake; where the network is down it hangs."""
        wire = Wire(self.network, to_client)
        wire.notice_s = self.faults.notice_s

        def arrive() -> None:
            if not self.network.is_up or not wire.client_open:
                return
            if not self.is_alive:
                wire.reply(Close(1006))
                return
            if self.faults.loses_next_answer:
                self.faults.loses_next_answer = False
                wire.mute()
            wire.reply(Opened())
            self._accept(wire, session_id)

        self.time.after(self.network.latency, arrive)
        return wire

    def _accept(self, wire: Wire, session_id: str) -> None:
        if self.faults.is_token_bad:
            wire.reply(Close(1000))
            return
        session = self.sessions.get(session_id)
        if session is None:
            wire.reply(Close(1011, "Session not found"))
            return
        handler = Handler(self, wire, session)
        self.handlers.append(handler)
        if sum(other.wire.server_open for other in self.handlers) >= 4:
            raise Misuse("a fourth open socket hangs the server (trap 5)")
        self.attached(handler)
        self._ping(handler, 5.0, lambda: {"type": "ping", "ts": int(self.time.now)})
        self._ping(handler, 15.0, lambda: {"type": "ping", "ts": int(self.time.now * 1000), "is_recording": False})

    def _ping(self, handler: Handler, every_s: float, message: Callable[[], Json]) -> None:
        def ping() -> None:
            if handler.wire.server_open:
                if self.time.now - handler.last_json > IDLE_S:
                    handler.close(1000)
                    return
                handler.wire.reply(message())
                self._later(every_s, ping)

        self._later(every_s, ping)

    def attached(self, handler: Handler) -> None:
        """A socket of a known session is there."""
        raise NotImplementedError

    def ended(self, handler: Handler) -> None:
        """A handler has come to its end."""
        raise NotImplementedError

    def message(self, handler: Handler, message: Json) -> None:
        """One JSON message."""
        raise NotImplementedError

    def audio(self, handler: Handler, packet: Audio) -> None:
        """One packet."""
        raise NotImplementedError

    def finalise(self, session: Session, then: Callable[[], None]) -> None:
        """Stop the session for good; `then` when that is through."""
        raise NotImplementedError

    def _heartbeat(self, session: Session) -> None:
        raise NotImplementedError

    def kept(self, seq: int) -> bytes | None:
        """What will be found of packet `seq` after all that may still happen to the server; None: nothing."""
        raise NotImplementedError


class PlainServer(Server):
    """An unmodified aia-v4 server. Kept is what stands in a written transcript line."""

    def __init__(self, network: Network, faults: Faults) -> None:
        super().__init__(network, faults)
        self.lines: dict[int, bytes] = {}
        self._work: deque[tuple[Session, Segment]] = deque()
        self._is_working = False
        self._job = 0

    def kept(self, seq: int) -> bytes | None:
        return self.lines.get(seq)

    def _forgot(self) -> None:
        self._work.clear()
        self._is_working = False

    def attached(self, handler: Handler) -> None:
        session, old = handler.session, handler.session.registered
        session.registered = handler
        session.detached_at = None
        if old is not None:
            if old.wire.is_half_open:
                self._http_stalled_until = self.time.now + 2.0  # trap 10
            old.wire.reply({"type": "info", "reason": "replaced", "by": "?"})
            old.close(1012, "replaced")
        if self.faults.says_resumed:
            handler.wire.reply({"type": "status", "state": "RESUMED"})
        handler.wire.reply({"type": "hello", "session_id": session.session_id})

    def ended(self, handler: Handler) -> None:
        """Trap 1: the clean-up detaches whichever socket is registered by then."""
        session = handler.session

        def clean_up() -> None:
            if handler in self.handlers:
                self.handlers.remove(handler)
            if session.registered is not None:
                session.registered = None
                session.detached_at = self.time.now

        if session.registered is handler:
            # As ever seen: gone before anyone who polls could have come back (0 of 80).
            clean_up()
        else:
            self._later(self.faults.cleanup_s, clean_up)

    def message(self, handler: Handler, message: Json) -> None:
        session = handler.session
        if message.get("type") == "ping":
            handler.wire.reply({"type": "pong"})
        elif message.get("type") == "init":
            if session.buffer or session.pending or session.dispatched:
                raise Misuse("init again, over audio: it wipes what was not cut (trap 2)")
            if message["segment_target_ms"] != self.faults.target_ms:
                raise Misuse("another segment target than agreed")
            session.has_init = True
            session.buffer, session.buffered_ms = [], 0
        elif message.get("action") == "stop_stream":
            was_dead = session.is_finalised
            handler.is_blocked = True

            def stopped() -> None:
                says = not was_dead or self.faults.dead_stop_says_finalize
                handler.close(1000, FINALIZED if says else "")
                handler.unblock()

            self.finalise(session, stopped)
        elif message != {"type": "pong"}:
            raise Misuse(f"an aia-v4 server does not know {message}")

    def audio(self, handler: Handler, packet: Audio) -> None:
        session = handler.session
        if not session.has_init:
            handler.close(1000)
            raise Misuse("a packet before init crashes the handler")
        if session.is_finalised:
            return
        if len(session.pending) >= self.faults.max_pending:
            session.rejected += 1
            if session.rejected <= 4:
                handler.close(1000)
            else:
                handler.wire.reply(
                    {
                        "type": "event",
                        "event": "backpressure_reject",
                        "pending": len(session.pending),
                        "max": self.faults.max_pending,
                        "retry_after_ms": 500,
                    }
                )
            return
        session.buffer.append(packet)
        session.buffered_ms += packet.ms
        if session.buffered_ms >= max(500, self.faults.target_ms):
            self._cut(session)

    def _cut(self, session: Session) -> None:
        segment = Segment(session.buffer)
        rest: list[Audio] = []
        rest_ms = 0
        for packet in reversed(session.buffer):
            if rest_ms >= OVERLAP_MS or (rest_ms + packet.ms > OVERLAP_MS and not self.faults.overlap_up):
                break
            rest.insert(0, packet)
            rest_ms += packet.ms
        session.buffer, session.buffered_ms = rest, rest_ms
        session.dispatched.append([packet.seq for packet in segment.packets])
        self._dispatch(session, segment)

    def _dispatch(self, session: Session, segment: Segment) -> None:
        session.pending.append(segment)
        self._work.append((session, segment))
        self._transcribe()

    def _transcribe(self) -> None:
        if self._is_working or not self._work:
            return
        self._is_working = True
        self._job += 1
        job = self._job
        self._later(self.faults.transcribe_s, lambda: self._transcribed(job))

    def hurry(self) -> None:
        """Transcription has a new speed: what is under way starts over with it."""
        self._is_working = False
        self._transcribe()

    def _transcribed(self, job: int) -> None:
        if job != self._job:
            return
        session, segment = self._work.popleft()
        self._is_working = False
        if segment in session.pending:
            session.pending.remove(segment)
        if not segment.is_lost:
            for packet in segment.packets:
                self.lines[packet.seq] = packet.payload
        for done in segment.done:
            done()
        self._transcribe()

    def finalise(self, session: Session, then: Callable[[], None]) -> None:
        """Stop: what is pending loses its lines, the tail is flushed, the registered socket closed; `then` follows."""
        if session.is_flushing:
            session.flushed.append(then)
            return
        if session.is_finalised:
            then()
            return
        session.is_finalised = session.is_flushing = True
        session.flushed.append(then)
        for segment in session.pending:
            segment.is_lost = True
        session.pending.clear()

        def flushed() -> None:
            session.is_flushing = False
            callbacks, session.flushed = session.flushed, []
            for callback in callbacks:
                callback()
            if session.registered is not None:
                session.registered.close(1000, FINALIZED)

        if session.buffer:
            tail = Segment(session.buffer, done=[flushed])
            session.buffer = []
            session.dispatched.append([packet.seq for packet in tail.packets])
            self._dispatch(session, tail)
        else:
            flushed()

    def finalise_now(self) -> None:
        """Trap 4, or somebody else's stop: all that ever had a socket (rule 1 relies on that) are finalised."""
        for session in list(self.sessions.values()):
            if session.registered is not None or session.detached_at is not None:
                self.finalise(session, lambda: None)

    def _heartbeat(self, session: Session) -> None:
        self._later(HEARTBEAT_S, lambda: self._heartbeat(session))
        if session.registered is not None:
            session.registered.wire.reply(
                {
                    "type": "ping",
                    "t": int(self.time.now * 1000),
                    "is_recording": not session.is_finalised,
                    "audio_ms": session.buffered_ms,
                    "ws_connected": True,
                }
            )
        elif (
            not session.is_finalised
            and session.detached_at is not None
            and self.time.now - session.detached_at > self.faults.grace_s
        ):
            self.finalise(session, lambda: None)


@dataclass(slots=True)
class Store:
    """What a server with acks has of one recording: durable, and received but not yet synced; a lost packet is None.

    `holes` are the losses as they were told: first packet, the one behind the last, frames, cause.
    """

    durable: list[Audio | None] = field(default_factory=list)
    received: list[Audio | None] = field(default_factory=list)
    holes: list[tuple[int, int, int, str]] = field(default_factory=list)
    new_holes: list[tuple[int, int, int, str]] = field(default_factory=list)
    gaps: dict[tuple[int, str], int] = field(default_factory=dict)
    new_gaps: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def next_seq(self) -> int:
        """The packet that it wants."""
        return len(self.durable) + len(self.received) + 1

    def commit(self) -> None:
        """All is durable."""
        self.durable += self.received
        self.holes += self.new_holes
        self.gaps |= self.new_gaps
        self.forget()

    def forget(self) -> None:
        """What is not durable is gone."""
        self.received, self.new_holes, self.new_gaps = [], [], {}

    def lose(self, first: int, behind: int, frames: int, cause: str) -> None:
        """Packets `first` to the one before `behind` will never come. hello was exact, so this is too."""
        known = (self.durable + self.received)[first - 1 : behind - 1]
        if known and any(packet is not None for packet in known):
            raise Misuse(f"a packet of {first} to {behind - 1} is told as lost, and is here")
        if known and (first, behind, frames, cause) not in self.holes + self.new_holes:
            raise Misuse(f"the loss of {first} to {behind - 1} was told otherwise before")
        if not known:
            self.new_holes.append((first, behind, frames, cause))
            self.received += [None] * (behind - first)


class AckServer(Server):
    """Our receiver: stores, then acknowledges; what it has it ignores."""

    acks = True

    def __init__(self, network: Network, faults: Faults) -> None:
        super().__init__(network, faults)
        self.stores: dict[str, Store] = {}
        self.is_disk_full = False
        self.duplicates = 0

    def kept(self, seq: int) -> bytes | None:
        for store in self.stores.values():
            packet = store.durable[seq - 1] if seq <= len(store.durable) else None
            return packet.payload if packet else None
        return None

    def _forgot(self) -> None:
        for store in self.stores.values():
            store.forget()

    def _commit(self, store: Store) -> None:
        if not self.is_disk_full:
            store.commit()

    def _commit_soon(self, session: Session) -> None:
        if session.is_flushing:
            return
        session.is_flushing = True

        def commit() -> None:
            session.is_flushing = False
            store = self.stores[session.recording]
            self._commit(store)
            if self.is_disk_full:
                self._commit_soon(session)
            elif session.registered is not None and store.durable:
                session.registered.wire.reply({"type": "ack", "seq": len(store.durable)})

        self._later(0.1, commit)

    def attached(self, handler: Handler) -> None:
        session, old = handler.session, handler.session.registered
        session.registered = handler
        session.detached_at = None
        if old is not None:
            old.close(1012, "replaced")
        store = self.stores.setdefault(session.recording, Store())
        self._commit(store)
        if self.is_disk_full:
            store.forget()
        next_seq = len(store.durable) + 1
        handler.wire.reply({"type": "hello", "session_id": session.session_id, "acks": True, "next_seq": next_seq})

    def ended(self, handler: Handler) -> None:
        if handler in self.handlers:
            self.handlers.remove(handler)
        if handler.session.registered is handler:
            handler.session.registered = None
            handler.session.detached_at = self.time.now

    def message(self, handler: Handler, message: Json) -> None:
        session = handler.session
        if session.registered is not handler:
            return
        kind = message.get("type")
        store = self.stores[session.recording]
        if kind == "ping":
            handler.wire.reply({"type": "pong"})
        elif kind == "init":
            if session.has_audio or message.get("acks") is not True:
                raise Misuse("init must come before audio and confirm the acks")
            session.has_init = True
        elif kind == "gap":
            self._gap(session, store, message)
        elif message.get("action") == "stop_stream":
            self.finalise(session, lambda: handler.close(1000, FINALIZED))
        elif message != {"type": "pong"}:
            raise Misuse(f"unknown message {message}")

    def _gap(self, session: Session, store: Store, message: Json) -> None:
        if "lost_from" in message:
            first, behind = message["lost_from"], message["before_seq"]
            if not first <= store.next_seq <= behind or first == behind:
                raise Misuse(f"{message} out of order: packet {store.next_seq} is due")
            session.has_audio = True
            store.lose(first, behind, message["frames"], message["cause"])
            self._commit_soon(session)
        else:
            if message["before_seq"] > store.next_seq:
                raise Misuse(f"{message} out of order: packet {store.next_seq} is due")
            key = (message["before_seq"], message["cause"])
            known = {**store.gaps, **store.new_gaps}.setdefault(key, message["frames"])
            if known != message["frames"]:
                raise Misuse(f"{message} was {known} frames before")
            if key not in store.gaps:
                store.new_gaps[key] = message["frames"]
                self._commit_soon(session)

    def audio(self, handler: Handler, packet: Audio) -> None:
        session = handler.session
        if session.registered is not handler:
            return
        if not session.has_init:
            raise Misuse("a packet before init")
        session.has_audio = True
        store = self.stores[session.recording]
        if packet.seq > store.next_seq:
            raise Misuse(f"packet {packet.seq} where {store.next_seq} is due")
        if packet.seq < store.next_seq:
            self.duplicates += 1
        else:
            store.received.append(packet)
        self._commit_soon(session)

    def finalise(self, session: Session, then: Callable[[], None]) -> None:
        store = self.stores.get(session.recording)
        if store is not None:
            self._commit(store)
        if self.is_disk_full:
            self._later(1.0, lambda: self.finalise(session, then))
            return
        session.is_finalised = True
        if session.registered is not None:
            session.registered.close(1000, FINALIZED)
        then()

    def _heartbeat(self, session: Session) -> None:
        self._later(HEARTBEAT_S, lambda: self._heartbeat(session))
        if session.registered is not None:
            session.registered.wire.reply(
                {"type": "ping", "t": int(self.time.now * 1000), "is_recording": not session.is_finalised}
            )
        elif session.detached_at is not None and self.time.now - session.detached_at > self.faults.grace_s:
            session.is_finalised = True
