"""What happens to the network in each row of the bench, and what is wanted of the recorder then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from tests.network.lab import Lab
from tests.network.rtnetlink import Moment
from tests.network.site import Site

PULLED_S = 4.0  # how long a short outage lasts: longer than the stall time-out
AWAY_S = 20.0  # and a long one
STALL_S = 2.0  # the stall time-out of a fast line (issue 4: max(2 s, 8 x RTT))
BACKOFF_S = 1.1  # the first step of the default backoff, and its jitter
Step = Callable[[Site, float], Awaitable[None]]
Event = Callable[[Site], Awaitable[Moment]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """At most `beyond` seconds more than the floor's p95, or at most so many seconds at all (`is_absolute`)."""

    beyond: float
    is_absolute: bool = False
    text: str = ""

    def limit(self, floor_p95: float | None) -> float:
        """Seconds."""
        return self.beyond if self.is_absolute or floor_p95 is None else floor_p95 + self.beyond

    def __str__(self) -> str:
        if self.text:
            return self.text
        return f"<= {self.beyond:g} s" if self.is_absolute else f"<= floor + {1000 * self.beyond:.0f} ms"


async def _nothing(site: Site, outage_s: float) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario: `before` makes the trouble, `event` is what counts, `after` makes everything as it was at first.

    measure   handled: from the event to audio handled again; gap: the longest pause in handled audio about the event;
              noticed: from the event until the recorder says that the connection is lost
    is_fresh  each run has a recorder of its own: one that saw the best way come and go shortly before does not trust it
    way       the uplink that has to carry it after the event ("": any); home: the one in use between two runs
    """

    key: str
    title: str
    wanted: Wanted | None
    uplinks: Sequence[str]
    event: Event
    before: Step = _nothing
    after: Step = _nothing
    outage_s: float = PULLED_S
    way: str = ""
    home: str = ""
    without: Sequence[str] = ()
    measure: str = "handled"
    runs: int = 30
    floor: str = "go"  # what the bare client is told; "": there is no floor
    floor_outage_s: float = 2.0
    is_strict: bool = False
    resolves: bool = False
    is_fresh: bool = False


def _now(change: Callable[[Lab], Moment]) -> Event:
    async def event(site: Site) -> Moment:
        return change(site.lab)

    return event


def _outage(change: Callable[[Lab], object]) -> Step:
    async def before(site: Site, outage_s: float) -> None:
        change(site.lab)
        await asyncio.sleep(outage_s)  # the outage itself

    return before


def _undo(change: Callable[[Lab], object]) -> Step:
    async def after(site: Site, outage_s: float) -> None:
        change(site.lab)

    return after


async def _server_is_back(site: Site) -> Moment:
    restarted = await site.restart_receiver()
    return Moment(restarted.done_at, restarted.done_at)


async def _only_wifi(site: Site, outage_s: float) -> None:
    """Back to the Wi-Fi: not since it is better, which would be damped soon, but since there is nothing else."""
    site.lab.plug("wlan0")
    site.lab.pull("wwan0")
    await asyncio.sleep(1.0)  # for so long there is nothing else
    site.lab.plug("wwan0")


async def _name_is_lost(site: Site, outage_s: float) -> None:
    """Nobody resolves, and the connection is gone."""
    site.lab.names.is_dead = True
    site.lab.reset()
    await asyncio.sleep(1.0)  # every socket sent something, and was reset
    site.lab.heal()
    await asyncio.sleep(outage_s)


CABLE = Row(
    "cable", "cable pulled and back, same address", Wanted(0.05), ["eth0"],
    _now(lambda lab: lab.plug("eth0")), _outage(lambda lab: lab.pull("eth0")),
)  # fmt: skip
ROWS = [
    CABLE,
    Row(
        "wifi-lte", "Wi-Fi to LTE: carrier lost, other uplink there", Wanted(0.1), ["wlan0", "wwan0"],
        _now(lambda lab: lab.pull("wlan0")), after=_only_wifi, way="wwan0", home="wlan0",
    ),
    Row(
        "lte-wifi", "LTE to Wi-Fi: better default route appears", Wanted(0.5, True, "no gap above 500 ms"),
        ["wlan0", "wwan0"], _now(lambda lab: lab.restore_default("wlan0")),
        after=_undo(lambda lab: lab.withdraw_default("wlan0")), way="wlan0", home="wwan0", without=["wlan0"],
        measure="gap", is_fresh=True,
    ),
    Row(
        "address", "address changes under the socket", Wanted(0.1), ["eth0"],
        _now(lambda lab: lab.readdress("eth0")),
    ),
    Row(
        "airplane", "airplane mode: all links down for 20 s", Wanted(0.05), ["eth0", "wlan0"],
        _now(lambda lab: lab.land()), _outage(lambda lab: lab.airplane()), outage_s=AWAY_S, runs=5,
    ),
    Row(
        "route", "default route withdrawn and restored", Wanted(0.1), ["eth0"],
        _now(lambda lab: lab.restore_default("eth0")), _outage(lambda lab: lab.withdraw_default("eth0")),
    ),
    Row(
        "blackhole", "silent blackhole noticed", Wanted(STALL_S + 0.5, True, "<= stall_timeout + 0.5 s"), ["eth0"],
        _now(lambda lab: lab.blackhole()), after=_undo(lambda lab: lab.heal()), measure="noticed", runs=5, floor="",
    ),
    Row(
        "restart", "server restart", Wanted(BACKOFF_S, text="<= floor + 1 backoff step"), ["eth0"], _server_is_back,
        floor="fresh",
    ),
    Row(
        "dns", "DNS dead for 20 s with the link up", Wanted(1.0, True), ["eth0"],
        _now(lambda lab: lab.revive_names()), _name_is_lost, outage_s=AWAY_S, runs=5, resolves=True,
    ),
]  # fmt: skip


def _strict(row: Row, wanted: Wanted | None, runs: int = 5, outage_s: float | None = None) -> Row:
    return replace(
        row, key=f"strict-{row.key}", title=f"aia-v4: {row.title}", wanted=wanted, runs=runs, is_strict=True, floor="",
        outage_s=row.outage_s if outage_s is None else outage_s,
        measure="handled" if row.measure == "gap" else row.measure,
    )  # fmt: skip


STRICT = [
    replace(
        _strict(CABLE, Wanted(2.5, True, "<= 2.5 s, no takeover"), 10, 5.0),
        title="aia-v4: cable pulled for 5 s and back",
    ),
    *(_strict(row, None) for row in ROWS if row.key != "cable"),
]
