"""The recorder as a workload: what it captured must be on the card, or delivered, two seconds later.

    python -m tests.power --workload tests.power.edge:offline      no server
    python -m tests.power --workload tests.power.edge:online       `edge receive`, which acknowledges
    python -m tests.power --workload tests.power.edge:dead         a dead aia-v4 session that still answers pongs
    python -m tests.power --workload tests.power.edge:sealing      short recordings: begin, seal, deliver, recycle
    python -m tests.power --workload tests.power.edge:unsynced     the negative control: must fail
    python -m tests.power --workload tests.power.edge:offline_long ten minutes as the product is, to see what reaches
                                                                   the device; online_long likewise

The source is seeded noise, made again here without the product's help; what the card holds is read by the product's own
recovery, which is on trial too.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import IO

from edge.adapters.spool import SpoolDirectory
from edge.errors import EdgeError
from tests.power.deadserver import dead_server
from tests.power.promises import Promises

RATE, FRAME_BYTES, WAV_HEADER = 16000, 2, 80
SAFE_S = 2.0  # sync_interval + 1 s
START_S = 0.5  # so late the first frame may be after "recording"
PROMISE_S = 0.1


def noise(seed: str, first: int, frames: int) -> bytes:
    """What `tone:noise:SEED` gives at frame `first`."""
    parts = []
    while frames:
        second, offset = divmod(first, RATE)
        count = min(frames, RATE - offset)
        data = random.Random(f"{seed}:{second}").randbytes(RATE * FRAME_BYTES)
        parts.append(data[offset * FRAME_BYTES : (offset + count) * FRAME_BYTES])
        first, frames = first + count, frames - count
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Edge:
    """`count` recordings of `seconds` each, one after the other, to a `server` of that kind."""

    server: str
    seconds: float = 14.0
    count: int = 1
    is_synced: bool = True
    is_small: bool = True  # small segments

    def run(self, folder: Path, promises: Promises, seed: int) -> int:
        """See `Workload`."""
        beside = promises.book.parent / "beside"
        beside.mkdir()
        frames = 0
        with self._server(beside) as url:
            for number in range(self.count):
                frames += self._record(folder, beside, promises, f"{seed}-{number}", url)
        return frames * FRAME_BYTES

    @contextmanager
    def _server(self, beside: Path) -> Iterator[str]:
        (beside / "token").write_text("token\n")
        (beside / "token").chmod(0o600)
        if self.server == "none":
            yield "http://127.0.0.1:9"
        elif self.server == "dead":
            with dead_server() as url:
                yield url
        else:
            command = [sys.executable, "-m", "edge", "receive", "--port", "0", "--out", str(beside / "out")]
            command += ["--token-file", str(beside / "token")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
                assert process.stdout is not None
                yield process.stdout.readline().split()[-1]
                process.kill()

    def _record(self, folder: Path, beside: Path, promises: Promises, name: str, url: str) -> int:
        command = [sys.executable, "-m", "tests.power.recorder", "record", "--server", url, "--state", str(folder)]
        command += ["--token-file", str(beside / "token"), "--source", f"tone:noise:{name}", "--event", name, "--json"]
        command += ["--seconds", str(self.seconds), "--drain-timeout", "1"]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if not self.is_synced:
            environment["EDGE_POWER_NO_SYNC"] = "1"
        if not self.is_small:
            command[2] = "edge"
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            lines: Queue[str] = Queue()
            threading.Thread(target=_hear, args=(process.stderr, lines), daemon=True).start()
            recording_id = self._wait_for(lines, " recording ").split(" recording ")[1].split()[0]
            begun = time.monotonic()
            due: list[tuple[float, int]] = []
            while process.poll() is None:
                now = time.monotonic()
                captured = min(int(self.seconds * RATE), max(0, int((now - begun - START_S) * RATE)))
                due.append((now + SAFE_S, captured))
                delivered = received(beside / "out" / recording_id)
                promises.promise(f"delivered {name} {delivered}")
                while due and due[0][0] <= now:
                    promises.promise(f"safe {name} {due.pop(0)[1]}")
                time.sleep(PROMISE_S)  # the rhythm in which promises are made
            account = json.loads(process.stdout.read().splitlines()[-1])
        assert account["lost"] == {}, account
        promises.promise(f"delivered {name} {received(beside / 'out' / recording_id)}")
        promises.promise(f"safe {name} {account['expected']}")
        return int(account["expected"])

    @staticmethod
    def _wait_for(lines: Queue[str], text: str) -> str:
        try:
            while text not in (line := lines.get(timeout=30)):
                pass
        except Empty:
            raise AssertionError(f"the recorder never said {text!r}") from None
        return line

    def check(self, folder: Path, promised: Sequence[str], seed: int) -> str:
        """See `Workload`."""
        safe: dict[str, int] = {}
        delivered: dict[str, int] = {}
        for text in promised:
            kind, name, count = text.split()
            which = safe if kind == "safe" else delivered
            which[name] = max(which.get(name, 0), int(count))
        try:
            on_card = found(folder)
        except (EdgeError, OSError, Wrong) as error:
            return f"{type(error).__name__}: {error}"
        for name, frames in safe.items():
            reached = delivered.get(name, 0)
            for first, last in sorted(on_card.get(name, [])):
                if first <= reached:
                    reached = max(reached, last)
            if reached < frames:
                missing, had = frames - reached, delivered.get(name, 0)
                return f"{name}: {missing} of {frames} promised frames are missing ({had} were delivered)"
        return ""


def _hear(stderr: IO[str], lines: Queue[str]) -> None:
    for line in stderr:
        lines.put(line)


class Wrong(Exception):
    """The card holds something that was never recorded, or an account that does not add up."""


def received(folder: Path) -> int:
    """Frames of a recording that the receiver has."""
    try:
        return max(0, ((folder / "audio.wav").stat().st_size - WAV_HEADER) // FRAME_BYTES)
    except OSError:
        return 0


def found(folder: Path) -> dict[str, list[tuple[int, int]]]:
    """Stretches of frames on the card by the recording's event, each compared with the source bit for bit."""
    stretches: dict[str, list[tuple[int, int]]] = {}
    spool = SpoolDirectory(folder / "spool", segment_bytes=128 << 10, ballast_bytes=0)
    spool.prepare()
    for path in spool.folders():
        card, recovered = spool.load(path)
        name = card.manifest.settings["event"]
        ledger = recovered.ledger
        if ledger.expected != ledger.delivered_frames + ledger.kept_frames + sum(ledger.lost.values()):
            raise Wrong(f"{name}: the account does not add up")
        for seq, packet in card.read(ledger.delivered + 1, ledger.last):
            if packet is None:
                raise Wrong(f"{name}: packet {seq} cannot be read")
            payload = packet.wire[32:]
            if payload != noise(name, packet.position, len(payload) // FRAME_BYTES):
                raise Wrong(f"{name}: packet {seq} is not what was recorded")
            stretches.setdefault(name, []).append((packet.position, packet.position + packet.frames))
    return stretches


offline, online, dead = Edge("none"), Edge("acks"), Edge("dead")
sealing = Edge("acks", 3.0, 4)
unsynced = Edge("none", is_synced=False)
# How much reaches the device: the product as it is.
offline_long, online_long = Edge("none", 600.0, is_small=False), Edge("acks", 600.0, is_small=False)
