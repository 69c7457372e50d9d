"""Does the recorder cost less than `ffmpeg`? `python -m tests.bench.cpu`, or `make bench-cpu`.

Both read the same ALSA device (real libasound on PulseAudio's null sink, into which noise is played) in real time and
send it over loopback TCP: `edge record` to a receiver with acknowledgements, `ffmpeg -f alsa ... tcp:` to a sink that
reads and forgets. They take turns, three times each. Processor time is user + system of /proc/PID/stat over the steady
state, the first ten seconds left out; memory is VmRSS at the end and VmHWM.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.campaign.audio import Source
from tests.campaign.stage import Settings, Stage
from tests.rig.process import Child, ReservedPort, Usage
from tests.rig.pulse import PulseMicrophone, missing

RATE = 16000
SKIPPED_S = 10.0
WANTED_MB = 60.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What one program used in one steady state."""

    name: str
    seconds: float
    cpu_s: float
    resident: int
    peak: int

    @property
    def percent(self) -> float:
        """Of one processor."""
        return 100 * self.cpu_s / self.seconds


async def steady(name: str, child: Child, seconds: float) -> Cost:
    """Measure `child` for `seconds` after its start-up."""
    await asyncio.sleep(SKIPPED_S)  # the measured interval is what this benchmark is about
    before: Usage = child.usage()
    await asyncio.sleep(seconds)
    after = child.usage()
    return Cost(name, seconds, after.cpu_s - before.cpu_s, after.resident, after.peak_resident)


async def edge(folder: Path, microphone: PulseMicrophone, seconds: float) -> Cost:
    """`edge record` to a receiver with acknowledgements."""
    settings = Settings(env=microphone.environment, config={"audio": {"rate": RATE, "channels": 1}})
    stage = Stage(folder, settings, direct=True)
    async with stage:
        child = await stage.start_recorder(f"alsa:{microphone.device}", "--json")
        cost = await steady("edge record", child, seconds)
        child.signal(signal.SIGINT)
        code = await child.wait(60)
        if code != 0:
            raise SystemExit(f"cpu: edge record ended with {code}; {child.tail()}")
        return cost


async def ffmpeg(folder: Path, microphone: PulseMicrophone, seconds: float) -> Cost:
    """`ffmpeg` to a sink."""
    port = ReservedPort()
    received = 0

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        while data := await reader.read(65536):
            received += len(data)
        writer.close()

    server = await asyncio.start_server(sink, sock=port.listener())
    command = ["ffmpeg", "-hide_banner", "-nostdin", "-nostats", "-f", "alsa", "-ar", str(RATE), "-ac", "1"]
    command += ["-i", microphone.device, "-f", "s16le", f"tcp://127.0.0.1:{port.number}"]
    async with server, Child("ffmpeg", command, env=microphone.environment, cwd=folder) as child:
        cost = await steady("ffmpeg", child, seconds)
        child.signal(signal.SIGINT)
        await child.wait(30)
    port.close()
    if received < 0.9 * seconds * RATE * 2:
        raise SystemExit(f"cpu: ffmpeg sent only {received} bytes; {child.tail()}")
    return cost


def table(costs: Sequence[Cost]) -> str:
    """All runs and their means."""
    lines = [f"{'':14}{'CPU s':>8}{'% of one':>10}{'RSS MB':>8}{'peak MB':>9}"]
    for cost in costs:
        memory = f"{cost.resident / 2**20:8.1f}{cost.peak / 2**20:9.1f}"
        lines.append(f"{cost.name:14}{cost.cpu_s:8.2f}{cost.percent:10.2f}{memory}")
    for name in dict.fromkeys(cost.name for cost in costs):
        mean = statistics.mean(cost.percent for cost in costs if cost.name == name)
        lines.append(f"{name + ', mean':20}{mean:12.2f}")
    return "\n".join(lines)


async def measure(runs: int, seconds: float) -> list[Cost]:
    """Alternating runs."""
    costs = []
    with tempfile.TemporaryDirectory(prefix="cpu-") as name, PulseMicrophone(RATE, 1) as microphone:
        noise = Path(name) / "noise.raw"
        noise.write_bytes(Source("cpu", int(RATE * (runs * 2 * (seconds + 60)))).pcm)
        microphone.play(noise)
        for run in range(runs):
            costs.append(await edge(Path(name) / f"edge-{run}", microphone, seconds))
            costs.append(await ffmpeg(Path(name), microphone, seconds))
            print(table(costs[-2:]), flush=True)
    return costs


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.cpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="steady state (default 120)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="runs of each, in turns (default 3)")
    args = parser.parse_args(argv)
    why = missing()
    if why:
        raise SystemExit(f"cpu: {why}")
    costs = asyncio.run(measure(args.runs, args.seconds))
    print(f"\nsteady state of {args.seconds:.0f} s, {args.runs} alternating runs, {RATE} Hz mono\n{table(costs)}")
    ours = [cost for cost in costs if cost.name == "edge record"]
    theirs = [cost for cost in costs if cost.name == "ffmpeg"]
    cheaper = statistics.mean(cost.cpu_s for cost in ours) < statistics.mean(cost.cpu_s for cost in theirs)
    small = max(cost.peak for cost in ours) < WANTED_MB * 2**20
    print(f"wanted: less processor time than ffmpeg ({'yes' if cheaper else 'NO'}), ", end="")
    print(f"below {WANTED_MB:.0f} MB resident ({'yes' if small else 'NO'})")
    return 0 if cheaper and small else 1


if __name__ == "__main__":
    sys.exit(main())
