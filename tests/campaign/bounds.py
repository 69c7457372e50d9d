"""How much audio may be repeated after each incident, and how much was.

The allowances, per incident (issue 2), in frames, all read off the wire:

    reset, refusal   what was in flight at that moment, and one barrier interval
    stall            the bound on unconfirmed audio
    kill, term       uncut audio and segments pending when the process dies: what was sent and not yet provably
                     delivered (`open_audio`); after SIGTERM it lives on and takes audio for a while (trap 7)
    outage           the larger of the first and the last: the session may have been finalised meanwhile
    slow             nothing

A server with acknowledgements has nothing uncut or pending: there all but a stall are allowed what a reset is.

Each repeat is laid at the door of the incidents between the last confirmation before the connection that carried it
and that connection's opening. Where several lie there, they share one allowance: the sum. What an earlier session kept
and a later one keeps again is a matter of the change of session, whichever connection carried it. And where a session
follows another after nothing had been confirmed for the grace window (less its margin), however short each single fault
was, the recovery is an outage and may repeat as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.campaign.audio import Source
from tests.campaign.audit import Repeat
from tests.campaign.schedule import Kind
from tests.campaign.wire import Connection, Wire

BARRIER_INTERVAL_S = 0.25
UNCONFIRMED_BOUND_S = 2.0
OVERLAP_MS = 500
TRUSTED_GRACE = 0.9
FRESH_S = 1.0


@dataclass(slots=True)
class Incident:
    """A fault that happened. Times are CLOCK_MONOTONIC; `allowed` and `repeated` are frames."""

    kind: Kind
    begun_at: float
    ended_at: float
    died_at: float | None = None  # when the server's process ended, where that was not at once
    allowed: int = 0
    in_flight: int = 0
    repeated: int = 0
    forgotten: int = 0  # what the server had, uncut or pending, and never transcribed
    detail: str = ""


@dataclass(slots=True)
class Group:
    """Incidents that share a recovery, with what they may and did repeat together."""

    incidents: list[Incident]
    repeated: int = 0
    finalised: int = 0  # allowed when the recovery took so long that the session may have been finalised

    @property
    def allowed(self) -> int:
        """Frames that may be repeated."""
        return max(self.finalised, sum(incident.allowed for incident in self.incidents))

    @property
    def cause(self) -> Incident:
        """The incident that allows the most."""
        return max(self.incidents, key=lambda incident: incident.allowed)

    @property
    def label(self) -> str:
        """The kinds in it."""
        return "+".join(incident.kind for incident in self.incidents)


@dataclass(slots=True)
class Judgement:
    """Result of `judge`."""

    incidents: list[Incident]
    groups: list[Group] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def whole_packets(source: Source, seconds: float) -> int:
    """`seconds` of audio, rounded up to whole packets, in frames."""
    return -(-round(seconds * 1000) // source.packet_ms) * source.packet_frames


def sure_cut(distinct: int, repeated: int, first: int, every: int) -> int:
    """How many of `distinct` packets lie before a cut for certain when up to `repeated` of them may have come twice.

    Cuts fall after `first` appended packets and every `every` after it (PROTOCOL.md, sure cuts).
    """

    def cut(appended: int) -> int:
        return 0 if appended < first else first + every * ((appended - first) // every)

    return max(0, min(cut(distinct + d) - d for d in range(repeated + 1)))


@dataclass(frozen=True, slots=True)
class Server:
    """What the rules depend on: the server's segments and its grace. `segment_ms` None: it acknowledges."""

    segment_ms: int | None
    grace_s: float

    @property
    def trusted_s(self) -> float:
        """How long after a sign of life a client may take it for granted that the session was not finalised."""
        return TRUSTED_GRACE * self.grace_s


def open_audio(source: Source, wire: Wire, at: float, server: Server) -> int:
    """Frames that were sent by `at` in the session of that moment and not provably delivered.

    Delivered means here what PROTOCOL.md allows a client to believe: proved, behind a sure cut, with a poll that was
    asked after the confirmation beyond that cut and said "nothing pending", and the session was alive just before or at
    any time after it (a finalised session loses what is pending, and then says the same; trap 4 finalises without the
    grace having passed).
    """
    carrying = [c for c in wire.connections if c.opened_at <= at and c.sent_by(at)]
    if not carrying or server.segment_ms is None:
        return 0
    session = carrying[-1].session
    connections = [c for c in wire.of_session(session) if c.opened_at <= at]
    begin = min(c.sent[0].seq for c in carrying if c.session == session)
    highest = max(c.sent[c.sent_by(at) - 1].seq for c in carrying if c.session == session)
    first = server.segment_ms // source.packet_ms
    every = (server.segment_ms - OVERLAP_MS) // source.packet_ms
    polls = [poll for poll in wire.polls if poll.session == session and poll.told_at <= at and poll.exists]
    delivered = 0
    for poll in polls:
        if poll.pending == 0 and _last_sign(connections, at) >= poll.told_at - FRESH_S:
            proved = _proved_seq(connections, poll.asked_at) - begin + 1
            ended = [c for c in connections if c.closed_at is not None and c.closed_at < poll.asked_at]
            repeated = sum(_unconfirmed_packets(c, poll.asked_at) for c in ended)
            delivered = max(delivered, sure_cut(max(0, proved), repeated, first, every))
    return (highest - begin + 1 - delivered) * source.packet_frames


def _signs_of_life(connections: Sequence[Connection], index: int, at: float) -> list[float]:
    """When connection `index` of a session was seen to belong to a live one, up to `at`; empty: it was not."""
    connection = connections[index]
    pings = [t for t, message in connection.messages if t <= at and "t" in message and message.get("is_recording")]
    if index == 0 or pings:
        return [connection.opened_at, *pings, *(t for t, _ in connection.confirmed if t <= at)]
    return []


def _proved_seq(connections: Sequence[Connection], at: float) -> int:
    """The highest packet number proved at `at`: rule 1 of PROTOCOL.md."""
    proving = [index for index in range(len(connections)) if _signs_of_life(connections, index, at)]
    known = connections[: proving[-1] + 1] if proving else []
    return max((c.sent[c.covered_at(at) - 1].seq for c in known if c.covered_at(at)), default=0)


def _last_sign(connections: Sequence[Connection], at: float) -> float:
    """When the session was last seen alive, up to `at`."""
    return max(sign for index in range(len(connections)) for sign in _signs_of_life(connections, index, at))


def forgotten(source: Source, wire: Wire, at: float, kept: Mapping[str, int]) -> int:
    """Frames of the session of that moment, sent by `at` and never kept; `kept` has each session's last packet."""
    carrying = [connection for connection in wire.connections if connection.sent_by(at)]
    if not carrying:
        return 0
    session = carrying[-1].session
    highest = max(c.sent[c.sent_by(at) - 1].seq for c in carrying if c.session == session)
    first = min(c.sent[0].seq for c in carrying if c.session == session)
    return max(0, highest - kept.get(session, first - 1)) * source.packet_frames


def _unconfirmed_packets(connection: Connection, at: float) -> int:
    return connection.sent_by(at) - connection.covered_at(at)


def in_flight(wire: Wire, at: float) -> int:
    """Frames sent and unconfirmed at `at` on the connection that was open then."""
    before = [connection for connection in wire.connections if connection.opened_at <= at]
    return before[-1].in_flight(at) if before else 0


def allow(source: Source, wire: Wire, incident: Incident, server: Server) -> None:
    """Fill in what an incident may repeat."""
    incident.in_flight = in_flight(wire, incident.begun_at)
    reset = incident.in_flight + whole_packets(source, BARRIER_INTERVAL_S)
    lost_at = incident.begun_at if incident.died_at is None else incident.died_at
    undelivered = open_audio(source, wire, lost_at, server)
    match incident.kind:
        case Kind.RESET | Kind.REFUSAL:
            incident.allowed = reset
        case Kind.STALL:
            incident.allowed = whole_packets(source, UNCONFIRMED_BOUND_S)
        case Kind.KILL | Kind.TERM | Kind.OUTAGE if server.segment_ms is None:
            incident.allowed = reset
        case Kind.KILL | Kind.TERM:
            incident.allowed = undelivered
        case Kind.OUTAGE:
            incident.allowed = max(reset, undelivered)
        case Kind.SLOW:
            incident.allowed = 0


@dataclass(frozen=True, slots=True)
class Carried:
    """A repeat and the connection that carried it."""

    frames: int
    connection: int


def carried_kept(wire: Wire, repeats: Sequence[Repeat]) -> tuple[list[Carried], list[str]]:
    """Find for each repeat that a server kept the connection over which it came.

    Arrivals of one number in one session are matched with what was handed to the server from the last one backwards:
    what got lost on the way was among the earlier ones. The first arrival in a session is laid on the connection that
    began to send in that session.
    """
    passes: dict[tuple[str, int], list[int]] = {}
    first: dict[str, int] = {}
    for index, connection in enumerate(wire.connections):
        if connection.sent:
            first.setdefault(connection.session, index)
        for packet in connection.handed:
            passes.setdefault((connection.session, packet.seq), []).append(index)
    carried = []
    problems = []
    for repeat in repeats:
        seen = passes.get((repeat.session, repeat.seq), [])
        if repeat.copies > len(seen):
            problems.append(f"session {repeat.session} kept packet {repeat.seq} more often than it was sent")
        elif repeat.from_end == repeat.copies - 1:
            carried.append(Carried(repeat.frames, first[repeat.session]))
        else:
            carried.append(Carried(repeat.frames, seen[-1 - repeat.from_end]))
    return carried, problems


def carried_twice(wire: Wire) -> list[Carried]:
    """The packets that were handed to a server with acknowledgements although it had said that it has them."""
    carried = []
    for index, connection in enumerate(wire.connections):
        stored = (connection.next_seq or 1) - 1
        for packet in connection.handed:
            if packet.seq <= stored:
                carried.append(Carried(packet.frames, index))
            stored = max(stored, packet.seq)
    return carried


def judge(
    source: Source, wire: Wire, incidents: list[Incident], carried: Sequence[Carried], server: Server
) -> Judgement:
    """Lay repeats at the doors of incidents and compare with what each may repeat. `allow` was called before."""
    judgement = Judgement(incidents)
    parent = list(range(len(incidents)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    blamed: list[tuple[int, int, int]] = []  # frames, one incident of the group, allowed for a finalised session
    guilty_of = {index: _guilty(wire, incidents, index) for index in {repeat.connection for repeat in carried}}
    for repeat in carried:
        guilty = guilty_of[repeat.connection]
        if not guilty:
            text = f"{source.seconds(repeat.frames):.1f} s repeated on connection {repeat.connection} before any fault"
            judgement.problems.append(text)
            continue
        for other in guilty[1:]:
            parent[root(other)] = root(guilty[0])
        incidents[guilty[-1]].repeated += repeat.frames
        allowed = 0
        if _follows_on_after_silence(wire, repeat.connection, server.trusted_s):
            allowed = open_audio(source, wire, incidents[guilty[0]].begun_at, server)
        blamed.append((repeat.frames, guilty[0], allowed))
    groups: dict[int, Group] = {}
    for index, incident in enumerate(incidents):
        groups.setdefault(root(index), Group([])).incidents.append(incident)
    for frames, index, allowed in blamed:
        group = groups[root(index)]
        group.repeated += frames
        group.finalised = max(group.finalised, allowed)
    judgement.groups = list(groups.values())
    for group in judgement.groups:
        if group.repeated > group.allowed:
            judgement.problems.append(
                f"repeated too much: {group.label} ({group.incidents[0].detail}) repeated "
                f"{source.seconds(group.repeated):.2f} s, may {source.seconds(group.allowed):.2f} s"
            )
    return judgement


def _settled_at(wire: Wire, connection: int) -> float:
    """When something was last confirmed before connection number `connection` was opened."""
    opened = wire.connections[connection].opened_at
    earlier = [entry for c in wire.connections[:connection] for entry in c.confirmed if entry[0] <= opened]
    return max((entry[0] for entry in earlier), default=0.0)


def _follows_on_after_silence(wire: Wire, connection: int, trusted_s: float) -> bool:
    """Whether a connection is the first of a session, long after the last confirmation of the one before."""
    session = wire.connections[connection].session
    is_first = all(earlier.session != session for earlier in wire.connections[:connection])
    return is_first and wire.connections[connection].opened_at - _settled_at(wire, connection) >= trusted_s


def _guilty(wire: Wire, incidents: Sequence[Incident], connection: int) -> list[int]:
    """The incidents that can have caused what connection number `connection` repeated, in order."""
    opened = wire.connections[connection].opened_at
    settled = _settled_at(wire, connection)
    harmful = [n for n, incident in enumerate(incidents) if incident.kind is not Kind.SLOW]
    between = [n for n in harmful if incidents[n].begun_at <= opened and incidents[n].ended_at >= settled]
    if between:
        return between
    before = [n for n in harmful if incidents[n].begun_at <= opened]
    return before[-1:]
