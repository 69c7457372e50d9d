"""How fast and how cheap is the link watch? `python -m tests.bench.link`, as root; or `make bench-link`.

In a laboratory of network namespaces (tests/network/lab.py) the watch runs in a process of its own. Measured are the
time from the return of the system call that changes something to the snapshot that shows it (for a pulled cable, the
kernel's own way from the peer's card to this one included); the processor time of an idle watch; and that of 10,000
route changes in 10 s.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Self

from edge.adapters.netlink import NetlinkWatch
from tests.network import netns
from tests.network.lab import SERVER4, Lab
from tests.network.rtnetlink import Moment, Netlink, route

WANTED_IDLE_PERCENT = 0.1
WANTED_FLOOD_S = 1.0
CHANGES = 10_000
FLOOD_S = 10.0
BOUND_S = 60.0


async def watch(polling: bool) -> None:
    """The child: a line for each state, with its time and where the path leads out."""
    if polling:
        from tests.network.observer import refuse_netlink

        refuse_netlink()
    watching = NetlinkWatch(lambda kind, text: None)
    watching.aim([SERVER4])
    async for state in watching.snapshots():
        where = f"{state.path.interface}/{state.path.source}" if state.path else "-"
        print(time.monotonic(), where, watching.reads, watching.overruns, flush=True)


class Watcher:
    """The child, and what it says."""

    def __init__(self, namespace: str, *, polling: bool = False) -> None:
        command = [sys.executable, "-m", "tests.bench.link", "--watch", *(["--polling"] if polling else [])]
        self._child = subprocess.Popen(netns.command_in(namespace, command), stdout=subprocess.PIPE, text=True)
        assert self._child.stdout is not None
        self._lines: IO[str] = self._child.stdout
        self.reads = self.overruns = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        self._lines.close()

    def until(self, wanted: Callable[[str], bool]) -> float:
        """CLOCK_MONOTONIC of the first state from now on whose path is as wanted."""
        for line in self._lines:
            at, where, reads, overruns = line.split()
            self.reads, self.overruns = int(reads), int(overruns)
            if wanted(where):
                return float(at)
        raise SystemExit("link: the watch ended")

    def cpu_s(self) -> float:
        """Processor time of its process so far."""
        return time.clock_gettime((~self._child.pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens, is told, and is undone."""

    name: str
    do: Callable[[], Moment]
    shows: Callable[[str], bool]
    undo: Callable[[], Moment]
    shows_undone: Callable[[str], bool]


def events(lab: Lab) -> list[Event]:
    """Those of the scenarios."""

    def on(name: str) -> Callable[[str], bool]:
        return lambda where: where.startswith(name)

    def readdress() -> Moment:
        return lab.readdress("eth0")

    def host(number: int) -> Callable[[str], bool]:
        return lambda where: where == f"eth0/10.7.1.{number}"

    return [
        Event("carrier of the path", lambda: lab.pull("eth0"), on("wlan0"), lambda: lab.plug("eth0"), on("eth0")),
        Event(
            "default route", lambda: lab.withdraw_default("eth0"), on("wlan0"),
            lambda: lab.restore_default("eth0"), on("eth0"),
        ),
        Event("address", readdress, host(3), readdress, host(2)),
        Event("airplane mode", lab.airplane, on("-"), lab.land, on("eth0")),
    ]  # fmt: skip


def latencies(lab: Lab, watcher: Watcher, runs: int) -> list[str]:
    """A line for each event: there and back, `runs` times in all."""
    lines = []
    for event in events(lab):
        taken_s: list[float] = []
        for _ in range(runs // 2):
            for act, shows in ((event.do, event.shows), (event.undo, event.shows_undone)):
                time.sleep(0.6)  # a real pause: the budget of reads is full again, and the watch sleeps
                moment = act()
                taken_s.append(watcher.until(shows) - moment.done_at)
        lines.append(_row(event.name, taken_s))
    return lines


def _row(name: str, taken_s: Sequence[float]) -> str:
    taken_ms = sorted(1e3 * one for one in taken_s)
    p95 = taken_ms[min(len(taken_ms) - 1, round(0.95 * len(taken_ms)))]
    return f"{name:24}{len(taken_ms):5}{statistics.median(taken_ms):10.2f}{p95:10.2f}{taken_ms[-1]:10.2f}"


def idle(watcher: Watcher, seconds: float) -> float:
    """Percent of one processor."""
    time.sleep(2.0)
    before_s = watcher.cpu_s()
    time.sleep(seconds)
    return 100 * (watcher.cpu_s() - before_s) / seconds


def flood(lab: Lab, watcher: Watcher, seconds: float) -> tuple[float, int, float]:
    """Processor time, reads and the seconds it took: routes come and go, ten in a call; in the end one that shows."""
    index = lab.uplinks["eth0"].index
    with Netlink(lab.device) as device:
        lab.withdraw_default("eth0")
        watcher.until(lambda where: where.startswith("wlan0"))
        time.sleep(2.5)
        cpu_s, reads, began_s = watcher.cpu_s(), watcher.reads, time.monotonic()
        for call in range(CHANGES // 10):
            add = call % 2 == 0
            first = call // 2 % 20 * 10
            device.do(*(route(index, "10.7.1.1", 0, f"10.200.{first + n}.0/24", add=add) for n in range(10)))
            time.sleep(max(0.0, began_s + (call + 1) * seconds * 10 / CHANGES - time.monotonic()))
        took_s = time.monotonic() - began_s
        cpu_s = watcher.cpu_s() - cpu_s
        lab.restore_default("eth0")
        watcher.until(lambda where: where.startswith("eth0"))
        return cpu_s, watcher.reads - reads, took_s


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.link", description=__doc__)
    parser.add_argument("--runs", type=int, default=30, metavar="N", help="events of each kind (default 30)")
    parser.add_argument("--idle", type=float, default=60.0, metavar="S", help="seconds of idling (default 60)")
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--polling", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.watch:
        asyncio.run(watch(args.polling))
        return 0
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        watcher = stack.enter_context(Watcher(lab.device))
        watcher.until(lambda where: where.startswith("eth0"))
        print(f"{'event to snapshot, ms':24}{'runs':>5}{'median':>10}{'p95':>10}{'worst':>10}", flush=True)
        for line in latencies(lab, watcher, args.runs):
            print(line, flush=True)
        percent = idle(watcher, args.idle)
        print(f"idle for {args.idle:.0f} s: {percent:.4f} % of one processor", flush=True)
        fast_s, fast_reads, took_s = flood(lab, watcher, 0.0)
        print(f"{CHANGES} route changes in {took_s:.1f} s: {fast_s:.3f} s of it, {fast_reads} reads", flush=True)
        cpu_s, reads, took_s = flood(lab, watcher, FLOOD_S)
        print(f"{CHANGES} route changes in {took_s:.1f} s: {cpu_s:.3f} s of it, {reads} reads", flush=True)
        polled = idle(stack.enter_context(Watcher(lab.device, polling=True)), args.idle)
        print(f"polling every 2 s, where netlink is refused: {polled:.4f} % of one processor")
    is_idle, is_calm = percent < WANTED_IDLE_PERCENT, cpu_s < WANTED_FLOOD_S
    print(f"wanted: idle below {WANTED_IDLE_PERCENT} % ({'yes' if is_idle else 'NO'}), ", end="")
    print(f"{CHANGES} changes in {FLOOD_S:.0f} s below {WANTED_FLOOD_S:.0f} s ({'yes' if is_calm else 'NO'})")
    return 0 if is_idle and is_calm else 1


if __name__ == "__main__":
    sys.exit(main())
