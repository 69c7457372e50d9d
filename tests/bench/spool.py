"""A day on the card: how fast it opens, what memory it takes, how fast it drains, and what it does to a live recording.

    .venv/bin/python -m tests.bench.spool [--hours 24] [--drain-hours 2] [--folder DIR]

The spool is written here by the product's own adapter, as fast as it goes; then `edge record` finds it. Figures are
printed with the floor of the same run: reading the same bytes from the card, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from edge.adapters.spool import SpoolDirectory
from edge.core.journal import EndEntry
from edge.core.manifest import Manifest
from edge.core.packet import AudioFormat, encode_header
from edge.core.segment import CardPacket

AUDIO, PACKET_FRAMES = AudioFormat(16000, 1), 1600
BATCH = 600


def fill(folder: Path, hours: float) -> int:
    """One sealed recording of `hours`; returns its frames."""
    spool = SpoolDirectory(folder, 1 << 40, ballast_bytes=0)
    spool.prepare()
    settings = {"agent": "bench", "event": "day"}
    recording_id = str(uuid.uuid4())
    meta = Manifest(recording_id, "bench", "", "", AUDIO, PACKET_FRAMES, {**settings, "recording": recording_id}, 1)
    card = spool.create(meta, [])
    packets = int(hours * 36000)
    payload = os.urandom(PACKET_FRAMES * AUDIO.frame_bytes)
    for start in range(1, packets + 1, BATCH):
        numbers = range(start, min(start + BATCH, packets + 1))
        card.append(
            [
                CardPacket(
                    encode_header(seq, 1e12 + seq * 100, PACKET_FRAMES, AUDIO) + payload,
                    (seq - 1) * PACKET_FRAMES,
                    seq * 100000,
                )
                for seq in numbers
            ],
            [(seq - 1) * PACKET_FRAMES for seq in numbers],
        )
    card.note([EndEntry(packets * PACKET_FRAMES, "stop")])
    card.seal("stop")
    card.close()
    return packets * PACKET_FRAMES


def opened(folder: Path) -> tuple[float, float]:
    """Seconds to open, and MB of memory that it took, in a process of its own."""
    program = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from edge.adapters.spool import SpoolDirectory\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "began = time.perf_counter()\n"
        "spool = SpoolDirectory(Path(sys.argv[1]), 1 << 40, ballast_bytes=0)\n"
        "spool.prepare()\n"
        "found = [spool.load(path) for path in spool.folders()]\n"
        "took = time.perf_counter() - began\n"
        "print(took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    took, grown = done.stdout.split()
    return float(took), float(grown)


def read_floor(folder: Path) -> float:
    """Seconds to read all segment files, in the order of the recording."""
    began = time.perf_counter()
    for path in sorted(folder.glob("recordings/*/*.seg")):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    return time.perf_counter() - began


def drained(state: Path, scratch: Path, live_s: float) -> tuple[float, float, float, float]:
    """Seconds until the stored recording was delivered, the longest live delay meanwhile, CPU seconds, peak MB."""
    token = scratch / "token"
    token.write_text("token\n")
    token.chmod(0o600)
    out = scratch / "out"
    receive = [sys.executable, "-m", "edge", "receive", "--port", "0", "--out", str(out), "--token-file", str(token)]
    with subprocess.Popen(receive, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as receiver:
        assert receiver.stdout is not None
        url = receiver.stdout.readline().split()[-1]
        stored = {path.name for path in (state / "spool" / "recordings").iterdir()}
        command = [sys.executable, "-m", "edge", "record", "--server", url, "--token-file", str(token)]
        command += ["--state", str(state), "--source", "tone:440", "--seconds", str(live_s), "--json"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        said = scratch / "said"
        with (
            said.open("wb") as stderr,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr) as recorder,
        ):
            done_at, delay_s, live = 0.0, 0.0, None
            first_s: float | None = None
            while recorder.poll() is None:
                text = said.read_text()
                if live is None and " recording " in text:
                    live = text.split(" recording ")[1].split()[0]
                if not done_at and any(f"{name} is delivered" in text for name in stored):
                    done_at = time.monotonic()
                size = _size(out, live)
                if size and not done_at:
                    had_s = size / AUDIO.frame_bytes / AUDIO.rate_hz
                    first_s = time.monotonic() - had_s if first_s is None else min(first_s, time.monotonic() - had_s)
                    delay_s = max(delay_s, time.monotonic() - first_s - had_s)
                time.sleep(0.02)  # how often it is looked
            done_at = done_at or time.monotonic()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        receiver.kill()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done_at - began, delay_s, cpu, after.ru_maxrss / 1024


def _size(out: Path, live: str | None) -> int:
    try:
        return max(0, (out / str(live) / "audio.wav").stat().st_size - 80)
    except OSError:
        return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.spool", description=__doc__)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--drain-hours", type=float, default=2.0)
    parser.add_argument("--live", type=float, default=60.0, help="seconds of the live recording beside the drain")
    parser.add_argument("--folder", type=Path, default=None, help="where to work (a temporary folder)")
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="edge-spool-", dir=args.folder))
    try:
        for hours in (args.hours / 24, args.hours):
            folder = scratch / f"{hours:g}" / "spool"
            began = time.monotonic()
            fill(folder, hours)
            wrote_s = time.monotonic() - began
            opening_s, grown_mb = opened(folder)
            print(
                f"{hours:g} h on the card: opens in {opening_s:.2f} s, {grown_mb:.1f} MB of memory "
                f"(written in {wrote_s:.0f} s)",
                flush=True,
            )
            shutil.rmtree(folder)
        state = scratch / "state"
        frames = fill(state / "spool", args.drain_hours)
        floor_s = read_floor(state / "spool")
        took_s, delay_s, cpu_s, peak_mb = drained(state, scratch, args.live)
        audio_s = frames / AUDIO.rate_hz
        print(
            json.dumps(
                {
                    "drained_hours": args.drain_hours,
                    "seconds": round(took_s, 1),
                    "times_real_time": round(audio_s / took_s),
                    "reading_alone_times": round(audio_s / floor_s),
                    "longest_live_delay_s": round(delay_s, 2),
                    "recorder_cpu_s": round(cpu_s, 1),
                    "recorder_peak_mb": round(peak_mb, 1),
                }
            )
        )
    finally:
        shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
