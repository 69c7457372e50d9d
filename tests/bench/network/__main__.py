"""From the kernel's event to audio handled again: `python -m tests.bench.network`, or `make bench-network`. As root.

Each row is a scenario of issue 4, in network namespaces with real link events. Beside the recorder stand

    floor        a bare client that connects in a tight loop from the event on: nothing can be faster
    timer only   the recorder with its link watch off (connection.link_watch = false), given the server's address, since
                 a name that cannot be resolved is tried every half second

Stamped are the system call that makes the event, and the first confirmation of audio that came after it as it leaves
the server's network card. The audio itself comes in packets of 100 ms, so that up to 100 ms of every figure are the
wait for the next packet to exist; the floor's packet is always there. Limits are relative to the floor's median. In the
end of every row the outside audit has to balance.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.bench.network import measure, peers, picture
from tests.bench.network.measure import Figures
from tests.bench.network.rows import ROWS, STRICT, Row
from tests.campaign.stage import ROOT
from tests.network.netns import NetworkError
from tests.rig.process import ChildError

QUICK = ("cable", "wifi-lte", "address", "route")
OUT = ROOT / "build" / "bench-network"
FLOOR, RECORDER, TIMER = "floor", "recorder", "timer only"
Results = dict[str, dict[str, Figures]]


def has_link_watch() -> bool:
    """Whether this build has the setting that turns it off."""
    from edge.settings import KEYS

    return "connection.link_watch" in KEYS


def verdict(row: Row, figures: dict[str, Figures]) -> str:
    """`ok`, what is wrong, or empty where nothing is wanted."""
    ours = figures[RECORDER]
    if ours.problems:
        return "FAILED: the audit does not balance"
    if not ours.seconds:
        return "FAILED: not measured"
    if row.wanted is None:
        return "reported"
    if FLOOR in figures and not figures[FLOOR].seconds:
        return "FAILED: no floor"
    limit = row.wanted.limit(figures[FLOOR].median if FLOOR in figures else None)
    if row.is_strict and ours.takeovers:
        return f"FAILED: {ours.takeovers} takeovers"
    return "ok" if ours.p95 <= limit else f"FAILED: {ours.p95:.3f} s, not {limit:.3f} s"


async def _guarded(measuring: Coroutine[Any, Any, Figures]) -> Figures:
    """A failure is a result."""
    try:
        return await measuring
    except (ChildError, NetworkError, TimeoutError, OSError) as error:
        return Figures(problems=[f"{type(error).__name__}: {error}"])


async def run_row(row: Row, runs: int, timer_runs: int) -> dict[str, Figures]:
    """All clients of one row."""
    figures = {}
    # Not on a disk, whose moods are not what is measured.
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="bench-network-", dir=base) as name:
        folder = Path(name)
        if row.floor:
            figures[FLOOR] = await _guarded(measure.floor(row, folder / "floor", runs))
        figures[RECORDER] = await _guarded(measure.recorder(row, folder / "recorder", runs, link_watch=None))
        if timer_runs and has_link_watch():
            timer = measure.recorder(row, folder / "timer", min(runs, timer_runs), link_watch=False)
            figures[TIMER] = await _guarded(timer)
    return figures


def show(row: Row, figures: dict[str, Figures], tell: Callable[[str], None]) -> None:
    """One row as text: median / p95 / worst."""
    parts = [f"{who} {one}" for who, one in figures.items()]
    tell(f"{row.title}: {'; '.join(parts)}; wanted {row.wanted or 'nothing'}: {verdict(row, figures)}")
    if row.is_strict:
        ours = figures[RECORDER]
        proven = ", ".join(f"{seconds:.1f}" for seconds in sorted(ours.proven))
        tell(f"    {ours.takeovers} takeovers in {len(ours.seconds)} runs; proven alive after {proven or '-'} s")
    for who, one in figures.items():
        for problem in one.problems:
            tell(f"    {who}: {problem}")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.network", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs of the quick rows, no peers, no picture")
    parser.add_argument("--rows", metavar="A,B", help=f"only these: {', '.join(row.key for row in ROWS + STRICT)}")
    parser.add_argument("--runs", type=int, default=30, help="runs of a row; a row that waits has 5 at most")
    parser.add_argument("--timer-runs", type=int, default=5, metavar="N", help="of the recorder without link watch")
    parser.add_argument("--no-peers", action="store_true", help="without the clients that people use today")
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="for figures and picture (default: build/)"
    )
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("bench-network needs root, for network namespaces", file=sys.stderr)
        return 2
    names = args.rows.split(",") if args.rows else QUICK if args.quick else [row.key for row in ROWS + STRICT]
    unknown = set(names) - {row.key for row in ROWS + STRICT}
    if unknown:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    rows = [row for row in ROWS + STRICT if row.key in names]
    args.out.mkdir(parents=True, exist_ok=True)
    begun_at = time.monotonic()
    results: Results = {}
    print("median / p95 / worst", flush=True)
    for row in rows:
        runs = min(row.runs, 3 if args.quick else args.runs)
        # What an aia-v4 server takes its time for, it takes from both: one row is enough to see it.
        is_compared = not args.quick and (not row.is_strict or row.wanted is not None)
        results[row.key] = asyncio.run(run_row(row, runs, args.timer_runs if is_compared else 0))
        show(row, results[row.key], lambda text: print(text, flush=True))
        measure.save(args.out / "figures.json", results)
    if not (args.quick or args.no_peers or args.rows):
        peers.main(["--out", str(args.out)])
    if not args.quick:
        picture.draw(rows, results, args.out / "network.png")
        print(f"figures and picture are in {args.out}")
    failed = [row.key for row in rows if verdict(row, results[row.key]).startswith("FAILED")]
    print(f"{len(rows)} rows in {(time.monotonic() - begun_at) / 60:.0f} min; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
