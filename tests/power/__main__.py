"""`python -m tests.power`: cut the power of a real ext4 disk many times; one line a run of the workload, and a summary.

Exit code 0: every promise held after every cut; 1: some did not; 2: the rig itself failed. As root.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path
from subprocess import CalledProcessError

from tests.power.cut import Run, Verdict, Workload, bytes_at_the_device, cut_all, load, perform
from tests.power.disk import DiskError, enter_namespaces, scratch_folder
from tests.power.logwrites import Damage, LogError

ARTIFACTS = Path(__file__).parents[2] / "out" / "power"
SHOWN = 5


def find(name: str) -> Workload:
    """A workload by `MODULE:NAME`, or by its name in tests.power.workloads. Raises ImportError, AttributeError."""
    module, _, attribute = name.rpartition(":")
    workload: Workload = getattr(importlib.import_module(module or "tests.power.workloads"), attribute)
    return workload


def one_run(workload: Workload, run: Run, seeds: list[str], scratch: Path) -> list[Verdict]:
    """Cut one run at all seeds. Prints its line, and the first problems."""
    began = time.monotonic()
    verdicts = list(cut_all(workload, run, seeds, scratch))
    took = time.monotonic() - began
    bad = [verdict for verdict in verdicts if verdict.problem]
    damage = sum((verdict.damage for verdict in verdicts), Damage())
    print(
        f"run {run.seed}: {run.last - run.first} requests, {len(run.promises.read())} promises; "
        f"{len(verdicts)} cuts in {took:.1f} s, {len(bad)} failed; unflushed writes: "
        f"{damage.kept} kept, {damage.torn} torn, {damage.lost} lost; {_ratio(run.payload, bytes_at_the_device(run))}",
        flush=True,
    )
    for verdict in bad[:SHOWN]:
        print(f"    cut {verdict.cut.seed} after request {verdict.cut.count}: {verdict.problem}")
    if len(bad) > SHOWN:
        print(f"    and {len(bad) - SHOWN} more")
    return verdicts


def _ratio(payload: int, written: int) -> str:
    times = f" = {written / payload:.2f} x" if payload else ""
    return f"{written / 1e6:.2f} MB at the device for {payload / 1e6:.2f} MB{times}"


def main(argv: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.power", description=__doc__)
    parser.add_argument("--workload", default="append", metavar="[MODULE:]NAME", help="what to run (default append)")
    parser.add_argument("--cuts", type=int, default=200, help="over all runs (default 200)")
    parser.add_argument("--runs", type=int, default=4, help="how often the workload runs (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the first run; the next has the next (default 0)")
    parser.add_argument("--size", type=int, default=128, metavar="MIB", help="of the disk (default 128)")
    parser.add_argument("--replay", type=Path, metavar="FOLDER", help="cut a kept run again instead of running")
    parser.add_argument("--cut", metavar="SEED", help="with --replay: only this cut, such as 0/17")
    args = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("power: needs root, for mounts and loop devices: sudo make test-power", file=sys.stderr)
        return 2
    enter_namespaces("tests.power", argv)
    try:
        workload = find(args.workload)
    except (ImportError, AttributeError) as error:
        parser.error(f"--workload {args.workload}: {error}")
    began = time.monotonic()
    verdicts: list[Verdict] = []
    payload = written = 0
    try:
        for number in range(1 if args.replay else args.runs):
            cuts = range(number, args.cuts, 1 if args.replay else args.runs)
            with scratch_folder() as scratch:
                run = (
                    load(args.replay)
                    if args.replay
                    else perform(workload, scratch, args.seed + number, args.size << 20)
                )
                seeds = [args.cut] if args.cut else [f"{run.seed}/{cut}" for cut in cuts]
                found = one_run(workload, run, seeds, scratch)
                verdicts += found
                payload, written = payload + run.payload, written + bytes_at_the_device(run)
                if not args.replay and any(verdict.problem for verdict in found):
                    kept = ARTIFACTS / f"{args.workload.rpartition(':')[2]}-{run.seed}"
                    run.keep(kept)
                    print(f"    kept; again: python -m tests.power --workload {args.workload} --replay {kept}")
    except (DiskError, LogError, CalledProcessError) as error:
        print(f"power: rig or workload failed before any verdict: {error}", file=sys.stderr)
        return 2
    failed = sum(bool(verdict.problem) for verdict in verdicts)
    print(
        f"power: {len(verdicts)} cuts of {args.workload}, {failed} failed; {_ratio(payload, written)}; "
        f"{time.monotonic() - began:.1f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
