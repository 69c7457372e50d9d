"""Runs of a row: of the recorder, with and without its link watch, and of the bare client that is the floor."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.network.rows import Row
from tests.campaign.stage import ROOT
from tests.network.lab import SERVER4, SERVER6, SERVER_NAME, Lab
from tests.network.netns import command_in
from tests.network.rtnetlink import Moment
from tests.network.site import PORT, Plan, Site
from tests.rig.process import Child

_BOUND_S = 90.0  # the slowest that anybody was seen to be is 40 s
_STEADY_S = 1.0
_LOST = "-> reconnecting"


@dataclass(slots=True)
class Figures:
    """Of one row and one client: seconds, run by run. `proven`: until an aia-v4 server proved that it keeps audio."""

    seconds: list[float] = field(default_factory=list)
    proven: list[float] = field(default_factory=list)
    takeovers: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """The nearest rank: of 30 runs the second worst, of 5 the worst."""
        return sorted(self.seconds)[math.ceil(0.95 * len(self.seconds)) - 1]

    @property
    def worst(self) -> float:
        return max(self.seconds)

    def __str__(self) -> str:
        if not self.seconds:
            return "not measured"
        return f"{_text(self.median)} / {_text(self.p95)} / {_text(self.worst)}"


def _text(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


async def floor(row: Row, folder: Path, runs: int) -> Figures:
    """The bare client's."""
    figures = Figures()
    with Lab(row.uplinks) as lab:
        lab.withdraw_default(*row.without)
        async with Site(lab, folder) as site:
            program = str(Path(__file__).with_name("floor.py"))
            arguments = [SERVER6, str(PORT), site.token]
            if row.resolves:
                arguments += [SERVER4, SERVER_NAME]
            async with Talker("floor", command_in(lab.device, [sys.executable, "-S", program, *arguments])) as child:
                sessions = {await child.wait_line(bool, _BOUND_S)}
                await child.tell("go")
                for _ in range(runs):
                    await row.before(site, row.floor_outage_s)
                    begun_at = time.monotonic()
                    event = await row.event(site)
                    sessions.add(await child.tell(row.floor))
                    since = event.done_at
                    await site.tap.wait(lambda: site.handled_at(since, row.way, sessions) is not None, _BOUND_S)  # noqa: B023
                    figures.seconds.append(_seconds(row, site, event, begun_at, sessions))
                    await row.after(site, 0.0)
                    await asyncio.sleep(random.uniform(0.2, 0.4))
                    await child.tell("go")  # as at first
    return figures


async def recorder(row: Row, folder: Path, runs: int, *, link_watch: bool | None) -> Figures:
    """The recorder's; `link_watch` None: as it is by default.

    Without link watch it is given the server's address instead of its name, where names are not the matter: a name that
    cannot be resolved is tried every half second, and only the timers of the connection are to be seen.
    """
    figures = Figures()
    config: dict[str, dict[str, object]] = {}
    if link_watch is not None:
        config["connection"] = {"link_watch": link_watch}
    host = SERVER6 if link_watch is False and not row.resolves else SERVER_NAME
    plan = Plan(strict=row.is_strict, host=host, config=config)
    lives, each = (runs, 1) if row.is_fresh else (1, runs)
    for life in range(lives):
        await _live(row, folder / str(life), plan, each, figures)
    return figures


async def _live(row: Row, folder: Path, plan: Plan, runs: int, figures: Figures) -> None:
    """A recorder from its start to its end, with so many runs."""
    with Lab(row.uplinks) as lab:
        lab.withdraw_default(*row.without)
        async with Site(lab, folder, plan) as site:
            await site.start_recorder()
            try:
                for _ in range(runs):
                    await _one(row, site, figures)
                await _steady(row, site)
            except TimeoutError as error:  # what was measured until then counts
                figures.problems.append(f"run {len(figures.seconds) + 1}: {error}")
            figures.takeovers += site.takeovers
            figures.problems += (await site.stop()).problems


async def _one(row: Row, site: Site, figures: Figures) -> None:
    """One run of the recorder."""
    await _steady(row, site)
    await row.before(site, row.outage_s)
    said, begun_at = len(site.recorder.stderr), time.monotonic()
    event = await row.event(site)
    if row.measure == "noticed":
        figures.seconds.append(await _noticed(site, event, said))
    else:
        await site.handled(event.done_at, row.way, _BOUND_S)
        await asyncio.sleep(_STEADY_S if row.measure == "gap" else 0.0)  # the pause may lie behind the first
        figures.seconds.append(_seconds(row, site, event, begun_at))
    if row.is_strict and row.measure == "handled":
        figures.proven.append(await _proven(site, event))
    await row.after(site, 0.0)


class Talker(Child):
    """A child that answers each line with one."""

    def __init__(self, name: str, command: list[str]) -> None:
        super().__init__(name, command, cwd=ROOT, listens=True)

    async def tell(self, line: str) -> str:
        """Its answer."""
        seen = len(self.stdout)
        self.write(line + "\n")
        return await self.wait_line(bool, _BOUND_S, skip=seen)


async def _steady(row: Row, site: Site) -> None:
    """Audio is handled again by the way of every day, for a while; and no two runs lie alike in anybody's rhythm."""
    await site.handled(time.monotonic(), row.home, _BOUND_S)
    await asyncio.sleep(_STEADY_S)
    await site.handled(time.monotonic(), row.home, _BOUND_S)
    await asyncio.sleep(random.uniform(0.0, 0.5))  # else every event would come at the end of a packet


async def _noticed(site: Site, event: Moment, said: int) -> float:
    await site.recorder.wait_error(lambda line: _LOST in line, _BOUND_S, said)
    return time.monotonic() - event.at


async def _proven(site: Site, event: Moment) -> float:
    """Until a ping said `is_recording` on a socket that had audio handled after the event."""

    def at() -> float | None:
        times = [
            at
            for connection in site.connections
            if any(done >= event.done_at for done, _ in connection.confirmed)
            for at, message in connection.messages
            if at >= event.done_at and message.get("is_recording") is True
        ]
        return min(times, default=None)

    await site.tap.wait(lambda: at() is not None, _BOUND_S)
    proven = at()
    assert proven is not None
    return proven - event.at


def _seconds(row: Row, site: Site, event: Moment, begun_at: float, sessions: Collection[str] | None = None) -> float:
    handled_at = site.handled_at(event.done_at, row.way, sessions)
    assert handled_at is not None
    if row.measure != "gap":
        return handled_at - event.at
    times = sorted(
        at
        for connection in site.connections
        if sessions is None or connection.session in sessions
        for at, _ in connection.confirmed
    )
    before = max((at for at in times if at < begun_at), default=begun_at)
    inside = [at for at in times if at >= before]
    if sessions is not None:
        return handled_at - event.at  # the bare client sends one packet only: from the event on
    return max(later - earlier for earlier, later in itertools.pairwise(inside))


def save(path: Path, results: dict[str, dict[str, Figures]]) -> None:
    """As JSON, for whoever wants to draw or compare."""
    value = {
        row: {
            who: {"seconds": one.seconds, "proven": one.proven, "takeovers": one.takeovers, "problems": one.problems}
            for who, one in figures.items()
        }
        for row, figures in results.items()
    }
    path.write_text(json.dumps(value, indent=1))
