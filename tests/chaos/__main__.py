"""`python -m tests.chaos`: many runs at once, one line each, exit code 1 when one of them fails.

A run that has its result is not done again, as long as the program and the options are the same (`--again`: it is).
`--kills N`: N SIGKILLs at random moments of runs with outages, and how much each of them took.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

from tests.campaign.schedule import Kind
from tests.campaign.stage import ROOT
from tests.chaos.run import ARTIFACTS, Plan, Result, run
from tests.chaos.world import BROKEN, FULL, MICROPHONE

KINDS = {*(kind.value for kind in Kind), MICROPHONE, FULL, BROKEN, "recorder killed", "clock step"}
BOUND_S = 2.0  # sync_interval + 1 s
JOBS = 4
_KILLS_SECONDS = 300.0


def _version() -> str:
    """Of all that a result depends on."""
    digest = hashlib.sha256(sys.version.encode())
    for folder in ("edge", "tests/chaos", "tests/campaign", "tests/rig"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _result_file(plan: Plan, version: str) -> Path:
    return ARTIFACTS / "results" / f"{plan.name}-{plan.seconds:g}-{plan.pace:g}-{version}.json"


def _kept(plan: Plan, version: str) -> Result | None:
    try:
        value = json.loads(_result_file(plan, version).read_text())
    except (OSError, ValueError):
        return None
    return Result(**value)


def run_all(wanted: Iterable[Plan], jobs: int, *, keep: bool = False, again: bool = True) -> list[Result]:
    """Run them, `jobs` at a time, and print a line for each as it ends."""
    version, results, left = _version(), [], []
    for plan in wanted:
        kept = None if again else _kept(plan, version)
        if kept is None:
            left.append(plan)
        else:
            results.append(kept)
            _show(kept)
    with ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run, plan, keep): plan for plan in left}
        for future in as_completed(futures):
            result = future.result()
            results.append(result)
            path = _result_file(futures[future], version)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(result)))
            _show(result)
    return results


def _show(result: Result) -> None:
    print(result.line, flush=True)
    for problem in result.problems:
        print(f"    {problem}", flush=True)


def total(results: Iterable[Result]) -> Counter[str]:
    """The faults of all runs by kind."""
    faults: Counter[str] = Counter()
    for result in results:
        faults.update(result.faults)
    return faults


def summary(results: list[Result]) -> str:
    """The last line."""
    faults = total(results)
    failed = sorted(result.name for result in results if result.problems)
    kills = [seconds for result in results for seconds in result.lost_by_kill_s]
    excused = sum(result.excused_kills for result in results)
    with_excuse = f" ({excused} more while the card failed)" if excused else ""
    starved_s = max((result.starved_s for result in results), default=0.0)
    busy = f", beyond the time without a processor (up to {starved_s:.1f} s)" if starved_s else ""
    text = f"{len(kills)} SIGKILLs{with_excuse} took {max(kills):.2f} s at most{busy}\n" if kills else ""
    return text + (
        f"chaos: {len(results)} runs, {sum(faults.values())} faults of {len(faults)} kinds, "
        f"{sum(result.unaccounted for result in results)} frames unaccounted, "
        f"{sum(result.duplicated for result in results)} duplicated"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )


def kill(kills: int, pace: float, jobs: int, *, keep: bool, again: bool) -> list[Result]:
    """As many runs as it takes for `kills` SIGKILLs: how many fit into one hangs on how fast a recorder starts."""
    results: list[Result] = []
    while sum(len(result.lost_by_kill_s) for result in results) < kills and not any(r.problems for r in results):
        first = len(results)
        plans = [Plan(seed, _KILLS_SECONDS, pace, is_kills=True) for seed in range(first, first + jobs)]
        results += run_all(plans, jobs, keep=keep, again=again)
    return results


def mutant_plans(name: str) -> list[Plan]:
    """Runs whose faults meet what the mutant `name` does: in one of them at least they must be found.

    To miss what was freed too early, or a record of the tail, a recorder has to die in an outage; to miss what was
    acknowledged too early, a receiver has to.
    """
    if name == "receiver-early-ack":
        return [Plan(seed, 150.0, mutant=name) for seed in range(200) if _receiver_kills(seed) >= 3][:3]
    plans = (Plan(seed, 150.0, is_kills=True, mutant=name) for seed in range(200))
    return [plan for plan in plans if not plan.schedule.keep_days][:3]


def _receiver_kills(seed: int) -> int:
    return sum(fault.kind is Kind.KILL for fault in Plan(seed, 150.0).schedule.network)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seeds", default="0:20", metavar="A:B", help="seeds A to B-1, or one seed (default 0:20)")
    parser.add_argument("--seconds", type=float, help="audio of each run (default: 120 to 300, by the seed)")
    parser.add_argument("--pace", type=float, default=10.0, help="so many times as fast as life (default 10)")
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"runs at the same time (default {JOBS})")
    parser.add_argument("--kills", type=int, metavar="N", help="instead: N SIGKILLs in runs with outages")
    parser.add_argument("--mutant", default="", help="a fault to plant, by its name in tests/chaos/mutants.py")
    parser.add_argument("--keep", action="store_true", help="keep the folders of good runs, too")
    parser.add_argument("--again", action="store_true", help="do again what has its result")
    args = parser.parse_args(argv)
    first, colon, last = args.seeds.partition(":")
    seeds = range(int(first), int(last) if colon else int(first) + 1)
    if args.kills:
        results = kill(args.kills, args.pace, args.jobs, keep=args.keep, again=args.again)
    else:
        plans = [Plan(seed, args.seconds or audio_s(seed), args.pace) for seed in seeds]
        plans = mutant_plans(args.mutant) if args.mutant else plans
        results = run_all(plans, args.jobs, keep=args.keep, again=args.again)
    print(summary(results))
    is_bad = any(result.problems for result in results)
    missing = KINDS - set(total(results))
    if missing and not args.kills and len(results) >= 20:
        print(f"these kinds of fault never occurred: {', '.join(sorted(missing))}")
        is_bad = True
    return 1 if is_bad else 0


def audio_s(seed: int) -> float:
    """Two to five minutes."""
    return 120.0 + math.fmod(37.0 * seed, 181.0)


if __name__ == "__main__":
    sys.exit(main())
