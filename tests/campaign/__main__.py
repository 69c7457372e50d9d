"""`python -m tests.campaign`: many runs at once, one line each, exit code 1 when one of them fails."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from tests.campaign.run import ARTIFACTS, Plan, Result, run


def plans(seeds: range, mode: str, seconds: float, mutant: str | None) -> list[Plan]:
    """The runs that the options ask for."""
    modes = {"strict": [True], "acks": [False], "both": [True, False]}[mode]
    return [Plan(seed, strict, seconds, mutant) for seed in seeds for strict in modes]


def run_all(wanted: Iterable[Plan], jobs: int, *, keep: bool = False) -> list[Result]:
    """Run them, `jobs` at a time, and print a line for each as it ends."""
    wanted = list(wanted)
    for plan in wanted:
        schedule = "; ".join(str(fault) for fault in plan.faults)
        print(f"{plan.name}: segments of {plan.segment_ms} ms; faults: {schedule}", flush=True)
    results = []
    with ProcessPoolExecutor(max_workers=jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(run, plan, keep): plan for plan in wanted}
        for future in as_completed(futures):
            result = future.result()
            results.append(result)
            print(result.line, flush=True)
            for problem in result.problems:
                print(f"    {problem}", flush=True)
            if result.problems:
                print(f"    kept in {ARTIFACTS / result.name}", flush=True)
    return results


def summary(results: list[Result]) -> str:
    """The last line."""
    faults: Counter[str] = Counter()
    repeated: Counter[str] = Counter()
    for result in results:
        faults.update(result.faults)
        repeated.update({kind: round(1000 * seconds) for kind, seconds in result.repeated_s.items()})
    failed = [result.name for result in results if result.problems]
    again = ", ".join(f"{kind} {milliseconds / 1000:.1f} s" for kind, milliseconds in sorted(repeated.items()))
    return (
        f"campaign: {len(results)} runs, {sum(faults.values())} faults of {len(faults)} kinds, "
        f"{sum(result.missing_frames for result in results)} frames missing, repeated: {again or 'nothing'}; "
        + (f"failed: {', '.join(sorted(failed))}" if failed else "all passed")
    )


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--seeds", default="0:20", metavar="A:B", help="seeds A to B-1, or one seed (default 0:20)")
    parser.add_argument("--mode", choices=["strict", "acks", "both"], default="both")
    parser.add_argument("--seconds", type=float, default=100.0, help="audio of each run (default 100)")
    parser.add_argument("--jobs", type=int, default=6, help="runs at the same time (default 6)")
    parser.add_argument("--mutant", help="a fault to plant, by its name in tests/campaign/mutants.py")
    parser.add_argument("--keep", action="store_true", help="keep the folders of good runs, too")
    args = parser.parse_args(argv)
    first, colon, last = args.seeds.partition(":")
    seeds = range(int(first), int(last) if colon else int(first) + 1)
    results = run_all(plans(seeds, args.mode, args.seconds, args.mutant), args.jobs, keep=args.keep)
    print(summary(results))
    return 1 if any(result.problems for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
