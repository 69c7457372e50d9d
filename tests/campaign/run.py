"""One run of the campaign: a seed's audio and faults, the recorder between them, and the verdict."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.campaign import bounds
from tests.campaign.audio import Source
from tests.campaign.audit import Kept, UnreadableError, audit_account, audit_packets, audit_samples
from tests.campaign.bounds import Incident
from tests.campaign.evidence import kept_packets, stored_recording
from tests.campaign.schedule import SLOW_BEFORE_S, Fault, Kind, draw
from tests.campaign.stage import EDGE, ROOT, Settings, Stage, last_json, until
from tests.rig.process import Child, ChildError

GRACE_S = 30.0  # long enough that a stall and its recovery (10 s each, at most) are not an expiry: those are drawn
ARTIFACTS = ROOT / "out" / "campaign"
_DRAIN_ROOM_S = 240.0  # the slowest transcription of all that may be pending, and stops
_MUTANT_DRAIN_ROOM_S = 45.0  # a mutant that cannot finish need not be waited for


@dataclass(frozen=True, slots=True)
class Plan:
    """One run, made from its seed."""

    seed: int
    strict: bool
    seconds: float
    mutant: str | None = None

    @property
    def name(self) -> str:
        """How it is called in reports and folders."""
        return f"{'strict' if self.strict else 'acks'}-{self.seed}" + (f"-{self.mutant}" if self.mutant else "")

    @property
    def segment_ms(self) -> int:
        """The server's segments."""
        return random.Random(f"segment/{self.seed}").choice([5000, 8000, 15000])

    @property
    def source(self) -> Source:
        """The audio: mostly 16 kHz mono; an odd number of frames, so that the last packet is short."""
        dice = random.Random(f"audio/{self.seed}")
        rate, channels = dice.choice([(16000, 1), (16000, 1), (16000, 1), (48000, 2), (8000, 1)])
        return Source(f"audio/{self.seed}", int(self.seconds * rate) + dice.randrange(1, rate // 10), rate, channels)

    @property
    def faults(self) -> list[Fault]:
        """The schedule."""
        return draw(self.seed, self.seconds, GRACE_S)


@dataclass(slots=True)
class Result:
    """What came of a run."""

    name: str
    seconds: float
    problems: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    missing_frames: int = 0
    sessions: int = 0
    connections: int = 0
    peak_unconfirmed_s: float = 0.0
    repeated_s: dict[str, float] = field(default_factory=dict)  # by kind: that which allows its recovery the most
    recoveries: list[str] = field(default_factory=list)  # what each repeated, and may
    longest_in_flight_s: float = 0.0
    drained_after_s: float = 0.0
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The one line of a run."""
        verdict = "ok" if not self.problems else f"FAILED ({len(self.problems)} problems)"
        return (
            f"{self.name}: {self.seconds:.0f} s of audio, {sum(self.faults.values())} faults; "
            f"repeated/allowed: {', '.join(self.recoveries)}; "
            f"{self.sessions} sessions, {self.connections} sockets, in flight at a reset at most "
            f"{self.longest_in_flight_s:.1f} s, unconfirmed at most {self.peak_unconfirmed_s:.1f} s,"
            f" drained {self.drained_after_s:.0f} s after the end; {self.missing_frames} frames missing: {verdict}"
        )


def settings(plan: Plan) -> Settings:
    """How receiver and recorder are started for `plan`."""
    mutated = (sys.executable, "-m", "tests.campaign.mutants", plan.mutant or "")
    receiver_mutant = (plan.mutant or "").startswith("receiver-")
    return Settings(
        strict=plan.strict,
        grace_s=GRACE_S,
        transcribe="0:7",
        seed=plan.seed,
        edge_record=mutated if plan.mutant and not receiver_mutant else EDGE,
        edge_receive=mutated if receiver_mutant else EDGE,
        config={
            "server": {"agent": "campaign", "event": f"seed {plan.seed}"},
            "audio": {
                "rate": plan.source.rate,
                "channels": plan.source.channels,
                "packet_ms": plan.source.packet_ms,
                "segment_target_ms": plan.segment_ms,
            },
            "connection": {
                "max_reconnect_attempts": 1000,
                "initial_reconnect_delay": 0.3,
                "max_reconnect_delay": 2.0,
                "grace_window": GRACE_S,
                "connection_timeout": 5.0,
            },
            "buffer": {"ring_seconds": 300.0},
        },
    )


async def carry_out(stage: Stage, faults: Sequence[Fault], begun_at: float, incidents: list[Incident]) -> None:
    """Do what the schedule says; `incidents` gets what really happened, in order."""
    proxy = stage.proxy
    for fault in faults:
        await until(begun_at + fault.at)
        if fault.latency_s:
            proxy.latency_s = fault.latency_s
            await until(time.monotonic() + SLOW_BEFORE_S)
        incident = Incident(fault.kind, time.monotonic(), 0.0, detail=str(fault))
        incidents.append(incident)
        match fault.kind:
            case Kind.RESET:
                proxy.reset()
            case Kind.REFUSAL | Kind.OUTAGE if not fault.half_open:
                proxy.refuse()
                proxy.reset()
                await until(incident.begun_at + fault.seconds)
                await proxy.admit()
            case Kind.STALL | Kind.OUTAGE:
                proxy.stall(fault.everything)
                await until(incident.begun_at + fault.seconds)
                if fault.blackhole:
                    proxy.blackhole()
                else:
                    proxy.resume()
            case Kind.KILL:
                await stage.kill_receiver()
                await until(incident.begun_at + fault.seconds)
                await stage.start_receiver()
            case Kind.TERM:
                await stage.terminate_receiver()
                incident.died_at = time.monotonic()
                await until(incident.died_at + fault.seconds)
                await stage.start_receiver()
            case Kind.SLOW:
                proxy.latency_s = 0.02 * fault.seconds
                await until(incident.begun_at + fault.seconds)
        proxy.latency_s = 0.0
        incident.ended_at = time.monotonic()


async def perform(plan: Plan, folder: Path) -> Result:
    """Run it, judge it. `folder` holds everything afterwards."""
    result = Result(plan.name, plan.seconds)
    result.faults = Counter(fault.kind.value for fault in plan.faults)
    source = plan.source
    stage = Stage(folder, settings(plan))
    source.write(folder / "source.wav")
    incidents: list[Incident] = []
    recorder: Child | None = None
    begun_at = time.monotonic()
    try:
        async with stage:
            begun_at = time.monotonic()
            recorder = await stage.start_recorder(f"wav:{folder / 'source.wav'}", "--pace", "realtime", "--json")
            try:
                await _until_its_end(stage, recorder, plan, begun_at, incidents, result)
            finally:
                if not plan.strict:
                    await stage.terminate_receiver()
        _judge_account(plan, stage, recorder, result)
    except (ChildError, OSError) as error:
        result.problems.append(f"{type(error).__name__}: {error}")
    _judge_evidence(plan, stage, incidents, result)
    result.report = _report(plan, stage, recorder, incidents, result, begun_at)
    (folder / "report.json").write_text(json.dumps(result.report, indent=1, default=str))
    return result


async def _until_its_end(
    stage: Stage, recorder: Child, plan: Plan, begun_at: float, incidents: list[Incident], result: Result
) -> None:
    """Faults, then the drain; a recorder that ends before its time needs no more faults."""
    faults = asyncio.create_task(carry_out(stage, plan.faults, begun_at, incidents))
    room = _MUTANT_DRAIN_ROOM_S if plan.mutant else _DRAIN_ROOM_S
    ending = asyncio.create_task(recorder.wait(plan.seconds + room))
    try:
        await asyncio.wait([faults, ending], return_when=asyncio.FIRST_COMPLETED)
        if faults.done():
            faults.result()
        code = await ending
    finally:
        faults.cancel()
        ending.cancel()
        await asyncio.wait([faults, ending])
    result.drained_after_s = max(0.0, time.monotonic() - begun_at - plan.seconds)
    if code != 0:
        result.problems.append(f"exit code {code}; {recorder.tail()}")


def _judge_account(plan: Plan, stage: Stage, recorder: Child, result: Result) -> None:
    final = last_json(recorder)
    lost = final.get("lost")
    whole = {"unit": "frames", "rate": plan.source.rate, "channels": plan.source.channels, "pending": 0}
    whole |= {"expected": plan.source.frames, "delivered": plan.source.frames}
    for key, wanted in whole.items():
        if final.get(key) != wanted:
            result.problems.append(f"the recorder's account says {key} = {final.get(key)!r}, not {wanted!r}")
    if not isinstance(lost, dict) or any(lost.values()):
        result.problems.append(f"the recorder's account says lost = {lost!r}")
    for stream in (recorder.stdout, recorder.stderr, stage.receiver.stdout, stage.receiver.stderr):
        if any(stage.token in line for line in stream):
            result.problems.append("the token was printed")


def _judge_evidence(plan: Plan, stage: Stage, incidents: list[Incident], result: Result) -> None:
    source, wire = plan.source, stage.wire
    try:
        kept, carried, sessions = _evidence(plan, stage, incidents)
    except (UnreadableError, OSError, ValueError, KeyError) as error:
        result.problems.append(f"no evidence: {type(error).__name__}: {error}")
        result.missing_frames = source.frames
        return
    result.problems += kept.problems
    result.missing_frames = kept.missing_frames
    result.sessions = sessions
    server = bounds.Server(plan.segment_ms if plan.strict else None, GRACE_S)
    for incident in incidents:
        bounds.allow(source, wire, incident, server)
    judgement = bounds.judge(source, wire, incidents, carried, server)
    result.problems += judgement.problems
    for group in judgement.groups:
        kind = group.cause.kind.value
        result.repeated_s[kind] = result.repeated_s.get(kind, 0.0) + source.seconds(group.repeated)
        if group.allowed:
            repeated, allowed = source.seconds(group.repeated), source.seconds(group.allowed)
            result.recoveries.append(f"{group.label} {repeated:.1f}/{allowed:.1f} s")
    for incident in incidents:
        if incident.kind in (Kind.RESET, Kind.REFUSAL):
            result.longest_in_flight_s = max(result.longest_in_flight_s, source.seconds(incident.in_flight))
    counters = stage.proxy.counters
    result.connections = counters.websockets
    if counters.websockets_at_once > 1:
        times = ", ".join(f"{at:.2f}" for at in counters.too_many[:5])
        result.problems.append(f"{counters.websockets_at_once} WebSockets open at once (at {times})")
    result.peak_unconfirmed_s = source.seconds(wire.peak_unconfirmed)
    if plan.strict and wire.peak_unconfirmed > bounds.whole_packets(source, bounds.UNCONFIRMED_BOUND_S):
        result.problems.append(f"{result.peak_unconfirmed_s:.1f} s of audio unconfirmed at once")


def _evidence(plan: Plan, stage: Stage, incidents: list[Incident]) -> tuple[Kept, list[bounds.Carried], int]:
    if plan.strict:
        sessions = kept_packets(stage.out)
        kept = audit_packets(plan.source, sessions)
        carried, problems = bounds.carried_kept(stage.wire, kept.repeats)
        kept.problems += problems
        last_kept = {session: max(packet.seq for packet in packets) for session, packets in sessions if packets}
        for incident in incidents:
            if incident.kind in (Kind.KILL, Kind.TERM):
                lost_at = incident.died_at or incident.begun_at
                incident.forgotten = bounds.forgotten(plan.source, stage.wire, lost_at, last_kept)
        return kept, carried, len(sessions)
    stored = stored_recording(stage.out)
    kept = audit_samples(plan.source, stored.pcm, stored.rate, stored.channels)
    carried = bounds.carried_twice(stage.wire)
    kept.problems += audit_account(plan.source, stored.account, len(carried))
    return kept, carried, len({connection.session for connection in stage.wire.connections})


def _report(
    plan: Plan, stage: Stage, recorder: Child | None, incidents: list[Incident], result: Result, begun_at: float
) -> dict[str, Any]:
    """Everything that helps to understand a failed run; times in seconds since the recorder's start."""

    def since(at: float | None) -> float | None:
        return None if at is None else round(at - begun_at, 3)

    return {
        "plan": asdict(plan),
        "segment_ms": plan.segment_ms,
        "audio": {"frames": plan.source.frames, "rate": plan.source.rate, "channels": plan.source.channels},
        "schedule": [str(fault) for fault in plan.faults],
        "problems": result.problems,
        "recorder": last_json(recorder) if recorder is not None else {},
        "proxy": [(since(event.at), event.kind, event.detail) for event in stage.proxy.timeline],
        "incidents": [
            asdict(incident) | {name: since(getattr(incident, name)) for name in ("begun_at", "ended_at", "died_at")}
            for incident in incidents
        ],
        "connections": [
            {
                "link": c.link,
                "opened_at": since(c.opened_at),
                "closed_at": since(c.closed_at),
                "session": c.session,
                "resume": c.resume,
                "next_seq": c.next_seq,
                "init": c.init,
                "sent": [c.sent[0].seq, c.sent[-1].seq, len(c.sent)] if c.sent else [],
                "sent_at": [since(c.sent[0].at), since(c.sent[-1].at)] if c.sent else [],
                "handed": [c.handed[0].seq, c.handed[-1].seq, len(c.handed)] if c.handed else [],
                "confirmed": [(since(at), c.sent[count - 1].seq) for at, count in c.confirmed],
                "messages": [(since(at), message) for at, message in c.messages if message.get("type") != "pong"],
            }
            for c in stage.wire.connections
        ],
        "polls": [
            (since(poll.asked_at), since(poll.told_at), poll.session, poll.exists, poll.pending, poll.connected)
            for poll in stage.wire.polls
        ],
    }


def run(plan: Plan, keep: bool = False) -> Result:
    """A run in a fresh folder; that of a failed run goes to out/campaign/, with `keep` any."""
    with tempfile.TemporaryDirectory(prefix=f"campaign-{plan.name}-") as name:
        folder = Path(name) / "run"
        result = asyncio.run(perform(plan, folder))
        if result.problems or keep:
            kept = ARTIFACTS / plan.name
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, kept)
    return result
