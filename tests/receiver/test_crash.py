"""SIGKILL at any moment: whatever was acknowledged is there, and the recording goes on."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import wave
from pathlib import Path
from uuid import uuid4

import pytest

from edge.receiver.recovery import wire_packets
from tests.receiver.client import Client, Closed, Wire, packets, payload
from tests.receiver.process import receiving

_AHEAD = 200  # packets that are sent before their acknowledgement


async def stream_until_death(wire: Wire, first: int) -> int:
    """Stream as fast as it goes until the connection ends; the last acknowledged packet."""
    acked, progress = first - 1, asyncio.Event()

    async def send() -> None:
        seq = first
        while True:
            while seq - acked > _AHEAD:
                progress.clear()
                await progress.wait()
            await wire.stream([seq])
            seq += 1

    sending = asyncio.create_task(send())
    try:
        while True:
            message = await wire.recv()
            if message["type"] == "ack":
                acked = message["seq"]
                progress.set()
    except Closed:
        return acked
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_acknowledged_is_lost_by_sigkill(tmp_path: Path, seed: int) -> None:
    chance = random.Random(f"kill/{seed}")
    out, recording = tmp_path / "out", str(uuid4())
    acked = stored = 0
    for _ in range(3):
        async with receiving(out) as process, Client(process.url) as client:
            session, wire = await client.open(recording)
            assert acked <= wire.hello["next_seq"] - 1 <= stored
            streaming = asyncio.create_task(stream_until_death(wire, wire.hello["next_seq"]))
            await asyncio.sleep(chance.uniform(0.0, 0.4))  # the moment of death
            await process.end(signal.SIGKILL)
            acked = await streaming
        # What a reader of the files finds before anybody has repaired them.
        stored = len(list(wire_packets(out / recording)))
        assert stored >= acked
    async with receiving(out) as process, Client(process.url) as client:
        session, wire = await client.open(recording)
        stored = wire.hello["next_seq"] - 1
        assert stored >= acked
        await client.stop(session)
        assert (await process.end(signal.SIGTERM))[0] == 0
    assert stored > 0
    assert list(wire_packets(out / recording)) == packets(range(1, stored + 1))
    with wave.open(str(out / recording / "audio.wav")) as file:
        assert file.readframes(file.getnframes()) == b"".join(payload(seq) for seq in range(1, stored + 1))


async def test_an_acknowledged_loss_survives_sigkill(tmp_path: Path) -> None:
    out, recording = tmp_path / "out", str(uuid4())
    async with receiving(out) as process, Client(process.url) as client:
        _, wire = await client.open(recording)
        await wire.stream([1])
        await wire.send({"type": "gap", "before_seq": 9, "lost_from": 2, "frames": 700, "cause": "card"})
        await wire.acked(8)
        await process.end(signal.SIGKILL)
    async with receiving(out) as process, Client(process.url) as client:
        session, wire = await client.open(recording)
        assert wire.hello["next_seq"] == 9
        await wire.stream([9])
        await wire.acked(9)
        await client.stop(session)
        assert (await process.end(signal.SIGTERM))[0] == 0
    [gap] = json.loads((out / recording / "account.json").read_bytes())["gaps"]
    assert (gap["lost_from"], gap["before_seq"], gap["frames"], gap["cause"]) == (2, 9, 700, "card")
    with wave.open(str(out / recording / "audio.wav")) as file:
        assert file.readframes(file.getnframes()) == payload(1) + bytes(1400) + payload(9)


async def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    async with receiving(tmp_path / "out") as process, Client(process.url) as client:
        _, wire = await client.open()

        async def stream(first: int, last: int) -> int:
            for start in range(first, last, _AHEAD):
                await wire.stream(range(start, start + _AHEAD))
                await wire.acked(start + _AHEAD - 1)
            status = await asyncio.to_thread(Path(f"/proc/{process.pid}/status").read_text)
            return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

        before = await stream(1, 4001)
        after = await stream(4001, 16001)
        assert after - before < 2048  # kB, for 38 MB of audio
        assert after < 60 * 1024
