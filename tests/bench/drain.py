"""How fast is a ten-minute outage made good? `python -m tests.bench.drain`, or `make bench-drain`.

The recorder (`ring_seconds = 700`) has 600 s of audio when its server comes back. Timed at a proxy between them, from
the first packet that the server handled (its first acknowledgement) to the last; wanted on loopback is 100 x real time.

    quick form   nobody listens from the start; the file is read as fast as the ring takes it, then the proxy opens
    --real       audio in real time; after 5 s the connection is reset and refused for 600 s, then the proxy opens

Beside it the floor: a bare `websockets` client that sends as many packets to the same receiver and waits for their
acknowledgements, in the same run, through the same proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.asyncio.client import connect

from tests.campaign.audio import Source
from tests.campaign.audit import Packet, audit_samples
from tests.campaign.evidence import stored_recording
from tests.campaign.stage import Settings, Stage, last_json
from tests.campaign.wire import Connection
from tests.rig.process import bytes_read

WANTED = 100.0
RING_S = 700.0
_ROOM_S = 120.0
_BEFORE_OUTAGE_S = 5.0
_FLOOR_WINDOW = 600  # packets in flight


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain as the wire saw it: `audio_s` seconds of audio in `took_s`."""

    audio_s: float
    took_s: float
    since_sent_s: float

    @property
    def speed(self) -> float:
        """Times real time, from the first packet handled."""
        return self.audio_s / self.took_s

    def __str__(self) -> str:
        return (
            f"{self.audio_s:.0f} s of audio in {self.took_s:.2f} s from the first acknowledgement "
            f"({self.since_sent_s:.2f} s from the first packet sent): {self.speed:.0f} x real time"
        )


def measured(source: Source, connections: list[Connection], after: float, live_until: float = 0.0) -> Drain:
    """The drain over the connections that were opened `after`, as far as it was backlog (sent by `live_until`)."""
    acks = sorted(entry for connection in connections if connection.opened_at >= after for entry in connection.acked)
    sent = [packet for connection in connections if connection.opened_at >= after for packet in connection.sent]
    if not acks or not sent:
        raise SystemExit("drain: nothing was acknowledged after the outage")
    last_owed = sent[-1].seq
    if live_until:
        last_owed = min(last_owed, int((live_until - sent[0].at) * 1000 / source.packet_ms) + sent[0].seq)
    first_at, first_seq = acks[0]
    last_at, last_seq = next((entry for entry in acks if entry[1] >= last_owed), acks[-1])
    frames = min(last_seq * source.packet_frames, source.frames) - first_seq * source.packet_frames
    return Drain(source.seconds(frames), max(last_at - first_at, 1e-3), last_at - sent[0].at)


async def recorder(folder: Path, source: Source, real: bool, outage_s: float) -> tuple[Drain, int]:
    """The recorder through its outage; what it drained, and its peak memory in bytes."""
    config: dict[str, dict[str, object]] = {
        "audio": {"rate": source.rate, "channels": source.channels},
        "buffer": {"ring_seconds": RING_S},
    }
    stage = Stage(folder, Settings(config=config))
    wav = folder / "source.wav"
    source.write(wav)
    async with stage:
        if not real:
            stage.proxy.refuse()
        pace = "realtime" if real else "fast"
        child = await stage.start_recorder(f"wav:{wav}", "--pace", pace, "--json")
        if real:
            await asyncio.sleep(_BEFORE_OUTAGE_S)  # the part of the recording before the outage
            stage.proxy.refuse()
            stage.proxy.reset()
            await asyncio.sleep(outage_s)  # the outage itself
        else:
            await _read_whole(child.pid, wav.stat().st_size)
        opened_at = time.monotonic()
        await stage.proxy.admit()
        child.signal(signal.SIGUSR1)  # as a person at the RETRY button: backoff is not what is measured
        ending = asyncio.create_task(child.wait(_ROOM_S + (source.seconds(source.frames) if real else 0)))
        peak = 0
        while not ending.done():
            with contextlib.suppress(OSError, KeyError):
                peak = child.usage().peak_resident
            await asyncio.wait([ending], timeout=0.2)
        code = ending.result()
        await stage.terminate_receiver()
        stored = stored_recording(stage.out)
        problems = audit_samples(source, stored.pcm, stored.rate, stored.channels).problems
        account = last_json(child)
        if code != 0 or problems or account.get("delivered") != source.frames:
            raise SystemExit(f"drain: exit code {code}, {problems}, account {account}; {child.tail()}")
        return measured(source, stage.wire.connections, opened_at), peak


async def _read_whole(pid: int, size: int) -> None:
    """Return when the process has read its source to the end: the figure in /proc is all that tells from outside."""
    deadline = time.monotonic() + _ROOM_S
    while bytes_read(pid) < size:
        if time.monotonic() > deadline:
            raise SystemExit("drain: the recorder did not read its source")
        await asyncio.sleep(0.05)


def packets(source: Source) -> Iterator[bytes]:
    """The packets of `source` on the wire."""
    for seq in range(1, source.packets + 1):
        start = (seq - 1) * source.packet_frames
        frames = min(source.packet_frames, source.frames - start)
        milliseconds = max(1, round(1000 * frames / source.rate))
        payload = source.at(start, frames)
        yield Packet(seq, 1e12 + start, frames, milliseconds, source.rate, source.channels, payload).encode()


def start_session(url: str, token: str) -> str:
    """POST /api/recording/start for a new recording; the session id."""
    body = json.dumps({"agent": "bench", "event": "floor", "recording": str(uuid.uuid4())}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/api/recording/start", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        session: str = json.load(answer)["session_id"]
    return session


async def floor(folder: Path, source: Source) -> Drain:
    """A bare client against the same receiver: the packets are ready, nothing is done but sending and waiting."""
    ready = list(packets(source))
    stage = Stage(folder, Settings())
    async with stage:
        session = await asyncio.to_thread(start_session, stage.proxy.url, stage.token)
        url = (
            f"ws://127.0.0.1:{stage.proxy.port}/ws/audio_stream/{session}?token={stage.token}&client_id=floor&resume=0"
        )
        async with connect(url, proxy=None, compression=None, max_size=None) as socket:
            await _message(socket.recv, "hello")
            init = {"type": "init", "supports_pcm": True, "format": "pcm16", "sample_rate": source.rate}
            init |= {"channels": source.channels, "frame_duration_ms": source.packet_ms, "next_seq": 1, "acks": True}
            init |= {"frame_samples": source.packet_frames, "segment_target_ms": 15000}
            await socket.send(json.dumps(init))
            await socket.send('{"type":"ping"}')
            await _message(socket.recv, "pong")
            acked = asyncio.Condition()
            highest = 0

            async def listen() -> None:
                nonlocal highest
                async with aclosing(aiter_messages(socket.recv)) as messages:
                    async for message in messages:
                        if message.get("type") == "ack":
                            async with acked:
                                highest = int(message["seq"])
                                acked.notify_all()
                            if highest >= len(ready):
                                return

            listening = asyncio.create_task(listen())
            for number, packet in enumerate(ready, 1):
                if number - highest > _FLOOR_WINDOW:
                    async with acked:
                        await acked.wait_for(lambda due=number - _FLOOR_WINDOW: highest >= due)  # type: ignore[misc]
                await socket.send(packet)
            async with asyncio.timeout(_ROOM_S):
                await listening
        return measured(source, stage.wire.connections, 0.0)


async def aiter_messages(receive: Any) -> Any:
    """JSON messages until the connection ends."""
    while True:
        yield json.loads(await receive())


async def _message(receive: Any, kind: str) -> None:
    async with asyncio.timeout(_ROOM_S), aclosing(aiter_messages(receive)) as messages:
        async for message in messages:
            if message.get("type") == kind:
                return


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.drain", description=__doc__)
    parser.add_argument("--real", action="store_true", help="the outage in real time (10 min)")
    parser.add_argument("--outage", type=float, default=600.0, metavar="S", help="length of the outage (default 600)")
    args = parser.parse_args(argv)
    seconds = args.outage + (_BEFORE_OUTAGE_S + 3.0 if args.real else 0.0)
    source = Source("drain", int(seconds * 16000))
    with tempfile.TemporaryDirectory(prefix="drain-") as name:
        bare = asyncio.run(floor(Path(name) / "floor", source))
        drain, peak = asyncio.run(recorder(Path(name) / "recorder", source, args.real, args.outage))
    print(f"floor, bare client: {bare}")
    print(f"recorder:           {drain}; peak memory {peak / 2**20:.0f} MB (ring {RING_S:.0f} s)")
    print(f"wanted: at least {WANTED:.0f} x; the recorder reaches {100 * drain.speed / bare.speed:.0f} % of the floor")
    return 0 if drain.speed >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
