"""One run of the chaos: the faults of a seed, a phase without faults, and the verdict of the audit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.campaign.bounds import Incident
from tests.campaign.run import carry_out
from tests.campaign.stage import ROOT, Settings, Stage, last_json
from tests.chaos import schedule
from tests.chaos.schedule import GRACE_S, Kill, Schedule
from tests.chaos.world import Log, World
from tests.rig.process import Child, ChildError

ARTIFACTS = ROOT / "out" / "chaos"
DRAIN_ROOM_S = 90.0  # ours: for all that is owed when the faults are over
MUTANT_DRAIN_ROOM_S = 20.0
_AGAIN_S = 0.2  # ours: before a recorder that ended by itself is started again
_LOOK_S = 0.02  # ours
_STARVED_S = 1.0
_SLOWER = 2  # times
LATE = "nowhere, and nothing explains it"
_FIGURES = "unaccounted", "duplicated", "recordings", "microphone_s", "lost_by_kill_s", "starved_s", "excused_kills"
_LEAD_S = 2.0  # world time runs before the first recorder does
_MODULE = {"receiver": "tests.chaos.receiver", "recorder": "tests.chaos.recorder"}


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. `is_kills`: outages and SIGKILLs only, for their bound."""

    seed: int
    seconds: float
    pace: float = 10.0
    is_kills: bool = False
    mutant: str = ""

    @property
    def name(self) -> str:
        """How it is called in reports and folders."""
        return f"{'kills' if self.is_kills else 'chaos'}-{self.seed}" + (f"-{self.mutant}" if self.mutant else "")

    @property
    def schedule(self) -> Schedule:
        """What goes wrong."""
        draw = schedule.outages_and_kills if self.is_kills else schedule.draw
        return draw(str(self.seed), self.seconds)


@dataclass(slots=True)
class Result:
    """What came of a run."""

    name: str
    seconds: float
    problems: list[str] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)
    unaccounted: int = 0
    duplicated: int = 0
    recordings: int = 0
    microphone_s: float = 0.0
    lost_by_kill_s: list[float] = field(default_factory=list)
    starved_s: float = 0.0
    excused_kills: int = 0
    took_s: float = 0.0
    pace: float = 0.0

    @property
    def line(self) -> str:
        """The one line of a run."""
        verdict = "ok" if not self.problems else f"FAILED ({len(self.problems)} problems)"
        kills = self.lost_by_kill_s
        bound = f"a SIGKILL took at most {max(kills):.2f} s, " if kills else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        took = f"{self.seconds:.0f} s at {self.pace:g} x in {self.took_s:.0f} s"
        return (
            f"{self.name}: {took}, {sum(self.faults.values())} faults ({kinds}); "
            f"{self.recordings} recordings, {bound}microphone gaps {self.microphone_s:.1f} s; "
            f"{self.unaccounted} frames unaccounted, {self.duplicated} duplicated: {verdict}"
        )


def _settings(plan: Plan, ring_s: float, keep_days: int, folder: Path) -> Settings:
    for_receiver = plan.mutant if plan.mutant.startswith("receiver-") else ""
    for_recorder = plan.mutant if not for_receiver else ""

    def command(who: str, mutant: str) -> tuple[str, ...]:
        return ("env", f"EDGE_CHAOS_MUTANT={mutant}", sys.executable, "-m", _MODULE[who])

    return Settings(
        grace_s=GRACE_S,
        env={**os.environ, "EDGE_CHAOS": str(folder)},
        edge_record=command("recorder", for_recorder),
        edge_receive=command("receiver", for_receiver),
        config={
            "server": {"agent": "chaos", "event": plan.name},
            "connection": {
                "max_reconnect_attempts": 100000,
                "initial_reconnect_delay": 0.5,
                "max_reconnect_delay": 4.0,
                "grace_window": GRACE_S,
            },
            "audio": {"segment_target_ms": 5000},
            "buffer": {"ring_seconds": ring_s},
            "spool": {"sync_interval": 1.0, "keep_days": keep_days, "max_bytes": 256 << 20},
        },
    )


class Waiting:
    """How long the threads of a process were ready to run and had no processor (schedstat), over time."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, float]]] = deque(maxlen=4000)

    async def watch(self, recorder: Child) -> None:
        """Look again and again, until cancelled or it is gone."""
        while recorder.returncode is None:
            self.look(recorder.pid)
            await asyncio.sleep(_LOOK_S)  # a rhythm

    def look(self, pid: int) -> None:
        """Look now."""
        waited: dict[str, float] = {}
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError, IndexError):  # a thread that has ended
                waited[path.parent.name] = int(path.read_text().split()[1]) / 1e9
        self._seen.append((time.monotonic(), waited))

    def starved_s(self, bound_s: float, pace: float) -> float:
        """How late the thread that waited most is with what it should have done within `bound_s`: as long as it waited
        since `bound_s` and the result ago. All in the recorder's seconds."""
        result, (now, waited) = 0.0, self._seen[-1]
        for _ in range(50):
            since = now - (bound_s + result) / pace
            before = next((entry for at, entry in reversed(self._seen) if at <= since), self._seen[0][1])
            later = pace * max((total - before.get(thread, 0.0) for thread, total in waited.items()), default=0.0)
            if later <= result + 0.01:
                break
            result = later
        return result


class Run:
    """Drives one. All waits here are in our own seconds, all events in the world's."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.log = Log(folder)
        self.problems: list[str] = []
        self._drawn = plan.schedule
        self._kills = list(self._drawn.kills)
        self._cards = 0
        self._over = asyncio.Event()
        folder.mkdir(parents=True)
        self.stage = Stage(
            folder, _settings(plan, self._drawn.ring_s, self._drawn.keep_days, folder), token=f"{plan.seed:040d}"
        )
        clock = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.world = self._world(clock)
        self.world.save(folder)  # the receiver has to know its pace

    def _world(self, clock: float) -> World:
        drawn, plan = self._drawn, self.plan
        zero_s = plan.pace * clock
        return World(
            plan.name,
            plan.seconds,
            plan.pace,
            zero_s,
            time.time() - zero_s,
            ring_s=drawn.ring_s,
            windows=drawn.windows,
            steps=drawn.steps,
        )

    async def go(self) -> None:
        """From the first start to the last delivery."""
        async with self.stage:
            # Time begins when the receiver listens; it has read the world for its pace alone.
            self.world = self._world(time.clock_gettime(time.CLOCK_BOOTTIME) + _LEAD_S / self.plan.pace)
            self.world.save(self.folder)
            zero = time.monotonic() + _LEAD_S / self.plan.pace
            recording = asyncio.create_task(self._record())
            faults = asyncio.create_task(self._faults(zero))
            try:
                await asyncio.wait([recording, faults], return_when=asyncio.FIRST_COMPLETED)
                if recording.done():
                    recording.result()  # it only ends when it is told to
                await faults
                await self._until(self.plan.seconds)
                self._over.set()
                await recording
            finally:
                for task in (recording, faults):
                    task.cancel()
                await asyncio.wait([recording, faults])
                with contextlib.suppress(ChildError):
                    await self.stage.terminate_receiver()

    async def _until(self, at_s: float) -> None:
        await asyncio.sleep(max(0.0, (at_s - self.world.now_s()) / self.plan.pace))

    async def _until_kill(self, kill: Kill, recorder: Child) -> None:
        await self._until(kill.at)
        if kill.lead_s is not None:
            while not _is_recording(recorder):
                await asyncio.sleep(0.02)  # no event tells it, and nothing hangs on the moment
            await asyncio.sleep(kill.lead_s / self.plan.pace)

    async def _faults(self, zero: float) -> None:
        incidents: list[Incident] = []
        pace = self.plan.pace
        try:
            await carry_out(
                self.stage, [schedule.scaled(fault, pace) for fault in self._drawn.network], zero, incidents
            )
        finally:
            for incident in incidents:
                self.log.tell("network", (incident.begun_at - zero) * pace, fault=incident.kind, detail=incident.detail)

    async def _record(self) -> None:
        """Keep a recorder running, and kill it when it is time to; in the end stop it and see that all is delivered."""
        recorder = await self._start()
        while not self._over.is_set():
            kill = self._kills[0] if self._kills else None
            due = None if kill is None else asyncio.create_task(self._until_kill(kill, recorder))
            ended = asyncio.create_task(recorder.wait(1e6))
            over = asyncio.create_task(self._over.wait())
            waits = [task for task in (due, ended, over) if task is not None]
            waiting = Waiting()
            watching = asyncio.create_task(waiting.watch(recorder))
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            is_due, has_ended = due is not None and due.done(), ended.done()
            for task in (*waits, watching):
                task.cancel()
            await asyncio.wait([*waits, watching])
            if has_ended:
                code = recorder.returncode
                self.log.tell("exited", self.world.now_s(), code=code)
                if code != 6:  # without a microphone nothing begins; somebody tries again
                    self.problems.append(f"the recorder ended by itself with {code}; {recorder.tail()}")
                    if len(self.problems) > 20:
                        return
                await asyncio.sleep(_AGAIN_S)
                recorder = await self._start()
            elif is_due and kill is not None:
                del self._kills[0]
                at_s = self.world.now_s()
                waiting.look(recorder.pid)
                starved_s = waiting.starved_s(self.world.sync_interval_s + 1.0, self.plan.pace)
                await recorder.kill()
                self.log.tell("kill", at_s, starved=round(starved_s, 2))
                self._keep_card()
                await asyncio.sleep(kill.after_s / self.plan.pace)
                recorder = await self._start()
        self.log.tell("stop", self.world.now_s())
        await self._finish(recorder)

    async def _start(self) -> Child:
        return await self.stage.start_recorder("tone:440", "--json")

    def _keep_card(self) -> None:
        """The card as the dead recorder left it."""
        spool = self.stage.state / "spool"
        if spool.is_dir():
            shutil.copytree(
                spool, self.folder / "cards" / f"{self._cards:03d}", ignore=shutil.ignore_patterns("ballast")
            )
            self._cards += 1

    async def _finish(self, recorder: Child) -> None:
        room_s = MUTANT_DRAIN_ROOM_S if self.plan.mutant else DRAIN_ROOM_S
        while recorder.returncode is None and not _is_recording(recorder):
            await asyncio.sleep(0.05)  # it has just been started again
        recorder.signal(signal.SIGINT)
        code = await recorder.wait(room_s)
        if code == 3:
            self.problems.append(f"the recorder left something owed; {recorder.tail()}")
        elif code not in (0, 4):
            self.problems.append(f"the recorder ended with {code}; {recorder.tail()}")
        self._judge_account(last_json(recorder))
        stage = self.stage
        command = [*stage._settings.edge_record, "spool", "deliver", "--state", str(stage.state)]
        command += ["--config", str(self.folder / "edge.toml"), "--server", stage.proxy.url]
        env = stage._settings.env
        command += ["--token-file", str(stage.token_file)]
        async with Child("deliver", command, env=env, logs=self.folder, cwd=ROOT) as delivery:
            code = await delivery.wait(room_s)
            if code != 0 or not any("nothing is owed" in line for line in delivery.stderr):
                self.problems.append(f"edge spool deliver ended with {code}; {delivery.tail()}")

    def _judge_account(self, account: dict[str, Any]) -> None:
        """The last recorder's own account: balanced, nothing pending, lost to the microphone alone."""
        lost = account.get("lost", {})
        if not account or account["expected"] != account["delivered"] + account["pending"] + sum(lost.values()):
            self.problems.append(f"the recorder's account is not balanced: {account}")
        elif account["pending"] or set(lost) - {"microphone"}:
            self.problems.append(f"the recorder's account: {account}")


def _is_recording(recorder: Child) -> bool:
    return any(" recording " in line and line.endswith("from world") for line in recorder.stderr)


async def perform(plan: Plan, folder: Path) -> Result:
    """Run it, judge it. `folder` holds everything afterwards."""
    result = Result(plan.name, plan.seconds, pace=plan.pace)
    begun_at = time.monotonic()
    run = Run(plan, folder)
    try:
        await run.go()
    except (ChildError, OSError) as error:
        result.problems.append(f"{type(error).__name__}: {error}")
    result.problems += run.problems
    # In a process of its own: what judges has nothing of the product in it.
    command = [sys.executable, "-m", "tests.chaos.audit", str(folder)]
    async with Child("audit", command, logs=folder, cwd=ROOT) as audit:
        await audit.wait(120.0)
    verdict = last_json(audit)
    if not verdict:
        result.problems.append(f"the audit failed; {audit.tail()}")
    result.problems += verdict.get("problems", [])
    result.faults = verdict.get("faults", {})
    for name in _FIGURES:
        if name in verdict:
            setattr(result, name, verdict[name])
    result.took_s = time.monotonic() - begun_at
    return result


def run(plan: Plan, keep: bool = False) -> Result:
    """A run in a fresh folder; that of a failed run goes to out/chaos/, with `keep` any.

    Where the machine was too busy for the pace, and nothing but that may be wrong, it is done again more slowly.
    """
    result = _run(plan, keep)
    for _ in range(_SLOWER):
        is_late = result.starved_s > _STARVED_S and all(LATE in problem for problem in result.problems)
        if not (result.problems and is_late) or plan.mutant:
            break
        plan = replace(plan, pace=plan.pace / 2)
        result = _run(plan, keep)
    return result


def _run(plan: Plan, keep: bool) -> Result:
    # In memory: a disk is not ten times as fast, and its cache, which survives a SIGKILL, is not on trial here.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix=f"{plan.name}-", dir=memory if memory.is_dir() else None) as name:
        folder = Path(name) / "run"
        result = asyncio.run(perform(plan, folder))
        if (result.problems and not plan.mutant) or keep:
            kept = ARTIFACTS / plan.name
            shutil.rmtree(kept, ignore_errors=True)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(folder, kept)
            (kept / "problems.txt").write_text("\n".join([result.line, *result.problems]) + "\n")
    return result
