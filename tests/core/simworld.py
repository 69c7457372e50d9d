"""A whole recorder in simulated time: microphone, ring, ledger, session, a shell that performs effects, and a server.

The shell mirrors edge/runtime/uplink.py in what matters to the session, and refuses what a socket would refuse. Beside
the code under test it keeps the plainest model of a recording: a list of packets and gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge.core import events, messages
from edge.core.context import Phase
from edge.core.delivery import Poll
from edge.core.ledger import Ledger
from edge.core.link import Change
from edge.core.packet import AudioFormat, duration_ms
from edge.core.policy import Policy
from edge.core.resume import ACKS, Resume
from edge.core.ring import Ring
from edge.core.session import Session
from edge.errors import EdgeError, ServerRefused, Unreachable
from tests.core.simserver import (
    AckServer,
    Audio,
    Close,
    Faults,
    Json,
    Misuse,
    Network,
    Opened,
    PlainServer,
    Timeline,
    Wire,
)

BLOCK_S = 0.25
HTTP_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 60.0
PROBE_S = 60.0


@dataclass(slots=True)
class Model:
    """The recording as plain lists: packets are payloads, gaps stand before a packet number."""

    packet_frames: int
    packets: list[bytes] = field(default_factory=list)
    open: bytes = b""
    gaps: list[tuple[int, int, str]] = field(default_factory=list)
    expected: int = 0
    given_up: dict[int, str] = field(default_factory=dict)  # packets that were captured and lost later: the cause

    def capture(self, data: bytes) -> None:
        """Frames of two bytes that fitted into the ring."""
        self.expected += len(data) // 2
        self.open += data
        size = 2 * self.packet_frames
        while len(self.open) >= size:
            self.packets.append(self.open[:size])
            self.open = self.open[size:]

    def gap(self, frames: int, cause: str) -> None:
        """Frames that are missing."""
        if frames:
            self.expected += frames
            self.close()
            self.gaps.append((len(self.packets) + 1, frames, cause))

    def close(self) -> None:
        """The packet under way is closed short."""
        if self.open:
            self.packets.append(self.open)
            self.open = b""

    @property
    def lost(self) -> dict[str, int]:
        """Lost frames by cause."""
        lost: dict[str, int] = {}
        for _, frames, cause in self.gaps:
            lost[cause] = lost.get(cause, 0) + frames
        return lost


def small_policy(**changes: object) -> Policy:
    """Few, small packets: 250 ms of 80 Hz mono; cuts every 8 to 10 packets; grace 60 s."""
    numbers: dict[str, object] = {
        "audio": AudioFormat(80, 1),
        "packet_frames": 20,
        "segment_target_ms": 2500,
        "grace_window": 60.0,
        "barrier_interval": 0.5,
        "max_unconfirmed": 2.0,
    }
    return Policy(**{**numbers, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a card would hold of the session and of the audio at that moment."""

    at: float
    last: int
    delivered: int
    handled: int
    session: tuple[str, str, int, float] | None  # id, kind of server, first packet, begun at
    gaps: tuple[tuple[int, int, str], ...]


class World:
    """Drive it by `run`, `talk`, `lose`, `stop` and by turning the knobs of `network`, `server` and `faults`."""

    def __init__(
        self, policy: Policy, *, acks: bool = False, ring_frames: int = 80 * 60, faults: Faults | None = None
    ) -> None:
        self.time = Timeline()
        self.network = Network(self.time)
        self.faults = faults or Faults()
        self.faults.target_ms = policy.segment_target_ms
        self.server: PlainServer | AckServer = (AckServer if acks else PlainServer)(self.network, self.faults)
        self.policy = policy
        self.ring = Ring(ring_frames, 2)
        self.ledger = Ledger(policy.packet_frames)
        self.model = Model(policy.packet_frames)
        self.session = Session(self.ledger, policy)
        self.is_recording = True
        self.is_frozen = False
        self.max_attempts = 4
        self.notes: list[str] = []
        self._backlog: list[Callable[[], None]] = []
        self._wire: Wire | None = None
        self._is_open = False  # a channel was opened, and neither left nor reported as ended
        self._failures = 0
        self._frame = 0
        self._tick_at: float | None = None
        self._retry_number = 0
        self.heirs = 0  # processes that took over from one that died
        self._snapshots: list[Snapshot] = []
        self._begun: dict[str, tuple[int, float]] = {}
        self.time.after(BLOCK_S, self._block)
        self._remember()
        self._retry(0.0)

    # --- the microphone --------------------------------------------------------------------------------------------

    def _block(self) -> None:
        if self.is_recording:
            self.talk(int(BLOCK_S * self.policy.audio.rate_hz))
            self.time.after(BLOCK_S, self._block)

    def talk(self, frames: int) -> None:
        """The microphone gives `frames`, each with a content of its own; what the ring refuses is lost."""
        if not self.is_recording:
            return
        data = b"".join((self._frame + i & 0xFFFF).to_bytes(2, "little") for i in range(frames))
        self._frame += frames
        kept = self.ring.write(data)
        self.ledger.capture(kept)
        self.model.capture(data[: 2 * kept])
        self.ledger.gap(frames - kept, "overflow")
        self.model.gap(frames - kept, "overflow")
        self._client(self._supplied)

    def give_up(self, first: int, last: int, cause: str, *, withheld: bool = False, told: bool = True) -> None:
        """Packets `first` to `last` can never be sent (again), as far as they are owed.

        `withheld`: what of them is on its way has not left the client. `told`: the session learns of it at once.
        """
        for seq in range(max(first, self.ledger.delivered + 1), min(last, len(self.model.packets)) + 1):
            if seq not in self.model.given_up:
                self.model.given_up[seq] = cause
                self._release(self.ledger.lose(seq, seq, cause))
        if withheld and self._wire is not None:
            # Ours leaves at once; an aia-v4 server may even get what was queued behind a packet that is gone.
            told = told or isinstance(self.server, AckServer)
            self._wire.withhold(first, last, rest=told)
        if told:
            self._client(self._supplied)

    def lose(self, frames: int, cause: str) -> None:
        """The microphone loses `frames`."""
        if self.is_recording and frames:
            self.ledger.gap(frames, cause)
            self.model.gap(frames, cause)
            self._client(self._supplied)

    def stop(self) -> None:
        """The recording ends."""
        if self.is_recording:
            self.is_recording = False
            self.ledger.end()
            self.model.close()
            self._client(self._supplied)

    def _supplied(self) -> None:
        self._feed(events.Supplied())

    # --- the process -----------------------------------------------------------------------------------------------

    def _remember(self) -> None:
        """Once in a while the card knows how far all is."""
        at_server = self.session.at_server
        session = None
        if at_server is not None:
            begun = self._begun.setdefault(at_server[0], (self.ledger.delivered + 1, self.time.now))
            session = (*at_server, *begun)
        self._snapshots.append(
            Snapshot(
                self.time.now,
                self.ledger.last,
                self.ledger.delivered,
                self.session.handled,
                session,
                tuple(self.model.gaps),
            )
        )
        self.time.after(BLOCK_S, self._remember)

    def die(self, lag_s: float, *, is_same_boot: bool) -> None:
        """The process ends without a word; another takes over with what the card held `lag_s` ago. The recording ends
        there. An older boot knows no clock."""
        known = [snapshot for snapshot in self._snapshots if snapshot.at <= self.time.now - lag_s]
        found = known[-1] if known else self._snapshots[0]
        self.heirs += 1
        if self._wire is not None:
            self._wire.reset()
        self._wire, self._is_open, self.is_frozen, self._backlog = None, False, False, []
        self.is_recording, self._tick_at, self._failures = False, None, 0
        model = self.model
        del model.packets[found.last :]
        model.open = b""
        model.gaps = [gap for gap in found.gaps if gap[0] <= found.last]
        model.given_up = {seq: cause for seq, cause in model.given_up.items() if seq <= found.last}
        ledger = self.ledger = Ledger(self.policy.packet_frames)
        for seq, payload in enumerate(model.packets, 1):
            for before, frames, cause in model.gaps:
                if before == seq:
                    ledger.gap(frames, cause)
            ledger.capture(len(payload) // 2)
        ledger.end()
        ledger.is_cut = True
        model.expected = ledger.expected
        for seq, cause in model.given_up.items():
            ledger.lose(seq, seq, cause)
            ledger.pass_over(seq, seq)
        if found.delivered:
            ledger.deliver(found.delivered)
        resume = None
        if found.session is not None and (is_same_boot or found.session[1] != ACKS):
            session_id, kind, first, begun = found.session
            resume = Resume(session_id, kind, first, found.handled, begun if is_same_boot else 0.0, is_same_boot)
        self.session = Session(ledger, self.policy, None, resume)
        self._snapshots = [self._snapshots[-1]]
        self._retry(0.0)

    # --- time ------------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.time.run(self.time.now + seconds)

    def freeze(self) -> None:
        """The recorder's loop stands still (an overloaded machine): what happens meanwhile queues up."""
        self.is_frozen = True

    def thaw(self) -> None:
        """It goes on: first with what came in, then with its timers, as an event loop does."""
        self.is_frozen = False
        backlog, self._backlog = self._backlog, []
        for act in backlog:
            act()
        self._ring_bell()

    def _mine(self, act: Callable[[], None]) -> Callable[[], None]:
        """`act`, for as long as this process lives."""
        process = self.heirs

        def perhaps() -> None:
            if process == self.heirs:
                self._client(act)

        return perhaps

    def _client(self, act: Callable[[], None]) -> None:
        if self.is_frozen:
            self._backlog.append(act)
        else:
            act()

    # --- the shell -------------------------------------------------------------------------------------------------

    def _feed(self, event: events.Event | None) -> None:
        now = self.time.now
        session = self.session
        for effect in session.tick(now) if event is None else session.handle(event, now):
            self._perform(effect)
        self._arm()

    def _arm(self) -> None:
        deadline = self.session.deadline
        if deadline is None:
            self._tick_at = None
        elif self._tick_at is None or deadline != self._tick_at:
            self._tick_at = deadline
            self.time.at(deadline, self._mine(self._ring_bell))

    def _ring_bell(self) -> None:
        for _ in range(100):
            deadline = self.session.deadline
            if deadline is None or deadline > self.time.now:
                return
            self._tick_at = None
            self._feed(None)
        raise AssertionError("a deadline that stays in the past")

    def _perform(self, effect: events.Effect) -> None:
        number = self.session.attempt
        match effect:
            case events.SendPackets(first, last):
                wire = self._current_wire
                for seq in range(first, last + 1):
                    wire.send(self._packet(seq))
            case events.SendText(message):
                self._current_wire.send(dict(message))
            case events.Release(offset):
                self._release(offset)
            case events.PollStatus(session_id, poll):
                self._poll(session_id, poll, number)
            case events.OpenSocket(session_id):
                self._open(session_id, number)
            case events.CloseSocket(abort):
                wire = self._current_wire
                self._is_open = False
                (wire.abort if abort else wire.close)()
            case events.StartSession():
                self._request(
                    {"kind": "start", "recording": "r"},
                    HTTP_TIMEOUT_S,
                    lambda answer: self._started(number, answer),
                )
            case events.StopSession(session_id):
                self._request(
                    {"kind": "stop", "session_id": session_id},
                    STOP_TIMEOUT_S,
                    lambda answer: self._stopped(number, answer),
                )
            case events.Over(error):
                self._over(error)
            case events.Note(kind):
                self.notes.append(kind)
            case _:
                raise Misuse(f"nobody performs {effect}")

    def _packet(self, seq: int) -> Audio:
        packet = self.ledger.packet(seq)
        payload = self._stored(packet.offset, packet.frames, seq)
        if payload != self.model.packets[seq - 1]:
            raise Misuse(f"packet {seq} is not what was captured")
        return Audio(seq, duration_ms(packet.frames, self.policy.audio.rate_hz), payload)

    def _release(self, offset: int) -> None:
        if not self.heirs:  # an heir's audio is on the card
            self.ring.release(offset)

    def _stored(self, offset: int, frames: int, seq: int) -> bytes:
        """From the ring; an heir has it from the card."""
        if self.heirs:
            return self.model.packets[seq - 1]
        return b"".join(self.ring.read(offset, frames))

    @property
    def _current_wire(self) -> Wire:
        if self._wire is None or not self._is_open:
            raise Misuse("there is no socket")
        return self._wire

    def _open(self, session_id: str, number: int) -> None:
        if self._is_open and self._wire is not None and self._wire.client_open:
            raise Misuse("a second socket (trap 5)")

        is_opened = False

        def tell(what: Json | Opened | Close) -> None:
            nonlocal is_opened
            if isinstance(what, Opened):
                is_opened = True
                self._feed(events.Opened(number))
            elif isinstance(what, dict):
                self._feed(messages.parse(what, number))
            elif is_opened:
                self._feed(events.SocketClosed(number, what.code, what.reason))
            else:
                self._feed(events.Failed(number, Unreachable("the handshake failed")))

        self._is_open = True
        process = self.heirs

        def hear(what: Json | Opened | Close) -> None:
            if process == self.heirs:
                self._client(lambda: tell(what))

        self._wire = self.server.connect(session_id, hear)

    def _request(self, request: Json, timeout_s: float, event: Callable[[Json | None], events.Event]) -> None:
        process = self.heirs

        def answered(answer: Json | None) -> None:
            if process == self.heirs:
                self._client(lambda: self._feed(event(answer)))

        self.server.http(request, answered, timeout_s)

    def _started(self, number: int, answer: Json | None) -> events.Event:
        if answer is None:
            return events.Failed(number, Unreachable("no answer"))
        if "refused" in answer:
            return events.Failed(number, ServerRefused("409"))
        return events.Started(number, answer["session_id"])

    def _stopped(self, number: int, answer: Json | None) -> events.Event:
        return events.Stopped(number) if answer is not None else events.Failed(number, Unreachable("no answer"))

    def _poll(self, session_id: str, poll: Poll | None, number: int) -> None:
        def polled(answer: Json | None) -> events.Event:
            return events.Polled(number, poll, answer is not None, **(answer or {}))

        self._request({"kind": "status", "session_id": session_id}, HTTP_TIMEOUT_S, polled)

    # --- when to try again -----------------------------------------------------------------------------------------

    def _over(self, error: EdgeError | None) -> None:
        self._failures = 0 if error is None else self._failures + 1
        if isinstance(error, ServerRefused):
            wait = PROBE_S
        elif self._failures >= self.max_attempts:
            wait = PROBE_S
            self.time.after(0.0, self._mine(self._give_up))
        else:
            wait = min(2.0 ** max(0, self._failures - 1), 30.0)
        self._retry(wait)

    def _give_up(self) -> None:
        if self.session.phase is Phase.WAITING:
            self._feed(events.GaveUp("attempts are used up"))

    def _retry(self, wait: float) -> None:
        self._retry_number += 1
        number = self._retry_number

        def attempt() -> None:
            if number != self._retry_number:
                return
            if self.session.wants_attempt:
                self._feed(events.Attempted())
            elif self.session.phase is Phase.IDLE:
                self._retry(1.0)

        self.time.after(wait, self._mine(attempt))

    def reset(self) -> None:
        """The connection breaks under both ends."""
        if self._wire is not None:
            self._wire.reset()

    def retry_now(self) -> None:
        """RETRY was pressed, or a link came up."""
        if self.session.wants_attempt:
            self._failures = 0
            self._retry(0.0)

    # --- the link --------------------------------------------------------------------------------------------------

    def link(self, change: Change, *, is_carried: bool = False, is_kept: bool = False, has_path: bool = True) -> None:
        """The kernel says what became of the link."""
        event = events.LinkChanged(change, change.value, is_carried, is_kept, has_path)
        self._client(lambda: self._linked(event))

    def _linked(self, event: events.LinkChanged) -> None:
        self._feed(event)
        if event.has_path:
            self.retry_now()

    def doubt(self) -> None:
        """The machine slept, or RETRY was pressed."""
        self._client(lambda: self._feed(events.Doubted("it slept")))

    # --- what must hold --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The promise, after every step."""
        ledger, model, ring = self.ledger, self.model, self.ring
        assert ledger.expected == model.expected
        assert ledger.expected == ledger.delivered_frames + ledger.kept_frames + sum(ledger.lost.values())
        assert ledger.last == len(model.packets)
        assert self.heirs or ledger.stored == ring.head
        assert self.heirs or ring.tail == ledger.needed_from
        self._check_losses()
        owed = [seq for seq in range(ledger.delivered + 1, len(model.packets) + 1) if seq not in model.given_up]
        assert ledger.kept_frames == sum(len(model.packets[seq - 1]) for seq in owed) // 2 + len(model.open) // 2
        assert self.heirs or ring.kept_frames >= ledger.kept_frames
        for seq, payload in enumerate(model.packets[: ledger.delivered], 1):
            if seq not in model.given_up:
                assert self.server.kept(seq) == payload, f"packet {seq} was freed and is not kept"
        position = 0
        gaps: dict[int, dict[str, int]] = {}
        for before, frames, cause in model.gaps:
            at = gaps.setdefault(before, {})
            at[cause] = at.get(cause, 0) + frames
        for seq, payload in enumerate(model.packets, 1):
            position += sum(gaps.get(seq, {}).values())
            if seq > ledger.delivered and seq in model.given_up:
                assert ledger.is_lost(seq)
            elif seq > ledger.delivered:
                packet = ledger.packet(seq)
                assert (packet.seq, packet.position, 2 * packet.frames) == (seq, position, len(payload))
                assert self._stored(packet.offset, packet.frames, seq) == payload, f"packet {seq} is damaged"
                known = {gap.cause: gap.frames for gap in ledger.gaps_before(seq) if gap.lost_from is None}
                assert known == gaps.get(seq, {})
            position += len(payload) // 2
        if self.session.phase is Phase.DONE:
            assert ledger.ended
            assert ledger.delivered == ledger.last

    def _check_losses(self) -> None:
        """What was given up is lost, but for what had gone out before and arrived. A server with acks knows which that
        is; of an aia-v4 server's nothing is counted as delivered that it does not have. An heir believes in a loss."""
        ledger, model = self.ledger, self.model
        least, most = dict(model.lost), dict(model.lost)
        for seq, cause in model.given_up.items():
            payload = model.packets[seq - 1]
            has_arrived = seq <= ledger.delivered and self.server.kept(seq) == payload
            is_lost = not has_arrived
            least[cause] = least.get(cause, 0) + len(payload) // 2 * is_lost
            most[cause] = most.get(cause, 0) + len(payload) // 2 * (is_lost or not self.server.acks or self.heirs > 0)
        for cause in most:
            assert least[cause] <= ledger.lost.get(cause, 0) <= most[cause], f"{cause}: lost too few or too many"
        assert ledger.lost.keys() <= most.keys()

    def finish(self, limit_s: float = 900.0) -> None:
        """No more faults: everything must arrive, within bounds."""
        faults = self.faults
        faults.transcribe_s = min(faults.transcribe_s, 0.5)
        faults.max_pending = 20
        faults.http_slow_in_s = faults.http_slow_out_s = 0.0
        self.network.latency = 0.01
        if isinstance(self.server, PlainServer):
            self.server.hurry()
        faults.is_token_bad = faults.is_http_dead = faults.is_start_refused = faults.loses_next_answer = False
        if isinstance(self.server, AckServer):
            self.server.is_disk_full = False
        if self.server.is_terminating:
            self.server.kill()
        self.server.restart()
        self.network.heal()
        if self.is_frozen:
            self.thaw()
        self.stop()
        until = self.time.now + limit_s
        while self.session.phase is not Phase.DONE and self.time.now < until:
            self.run(1.0)
        self.check()
        assert self.session.phase is Phase.DONE, f"stuck in {self.session.phase.name}: {self.notes[-20:]}"
        given_up = self.model.given_up
        for seq, payload in enumerate(self.model.packets, 1):
            assert seq in given_up or self.server.kept(seq) == payload, f"packet {seq} is nowhere"
        if isinstance(self.server, AckServer) and "r" in self.server.stores:
            store = self.server.stores["r"]
            has = len(store.durable)
            # Of a recording that was cut off the server may have had more than the card.
            assert has == len(self.model.packets) or (self.heirs and has > len(self.model.packets))
            wanted: dict[tuple[int, str], int] = {}
            for before, frames, cause in self.model.gaps:
                wanted[before, cause] = wanted.get((before, cause), 0) + frames
            known = {
                gap: frames for gap, frames in store.gaps.items() if gap[0] <= len(self.model.packets) or not self.heirs
            }
            assert known == wanted, "the server does not know every gap"
            told: dict[int, str] = {}
            for first, behind, frames, cause in store.holes:
                told |= dict.fromkeys(range(first, behind), cause)
                assert frames == sum(len(payload) for payload in self.model.packets[first - 1 : behind - 1]) // 2
            nowhere = {seq: cause for seq, cause in given_up.items() if self.server.kept(seq) is None}
            assert told == nowhere, "the server does not know every loss"
