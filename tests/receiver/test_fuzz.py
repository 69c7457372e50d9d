"""Whatever one client sends, another one's audio arrives whole."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.receiver.config import StrictConfig
from edge.receiver.recovery import wire_packets
from tests.receiver.client import Client, Wire, packet, packets, serving

_HEADER = packet(1)[:32]


@st.composite
def mangled(draw: st.DrawFn) -> bytes:
    """A packet with some bytes changed, and perhaps cut or lengthened."""
    data = bytearray(packet(draw(st.integers(1, 5)), 8))
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=8))


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just([1])
keys = st.sampled_from(
    [
        "before_seq",
        "frames",
        "cause",
        "next_seq",
        "frame_samples",
        "sample_rate",
        "channels",
        "acks",
        "segment_target_ms",
    ]
)
messages = st.builds(
    lambda kind, rest: json.dumps({"type": kind} | rest),
    st.sampled_from(["ping", "pong", "init", "gap", "clock", "ack", "hello", "x"]),
    st.dictionaries(keys, scalars, max_size=5),
)
anything = mangled() | messages | st.binary(max_size=64) | st.text(max_size=64)


async def attack(client: Client, session: str, noise: list[str | bytes]) -> None:
    """Send it all, on new sockets as they get closed."""
    wire: Wire | None = None
    for message in noise:
        if wire is None:
            wire = await client.dial(session, greet=False)
        try:
            await wire.send_raw(message)
        except ConnectionError:
            wire = None


def survives(noise: list[str | bytes], **options: Any) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            async with serving(out, **options) as (_, client):
                recording = str(uuid4())
                good, wire = await client.open(recording)
                bad = await client.start()
                await wire.stream(range(1, 6))
                await attack(client, bad, noise)
                await wire.stream(range(6, 11))
                await wire.barrier()
                await client.stop(bad)
                await client.stop(good)
                assert (await wire.closed()).code == 1000
                if "strict" in options:
                    kept = (out / recording / f"{good}.kept.pcm1").read_bytes()
                    assert kept == b"".join(packets(range(1, 11)))
                else:
                    assert list(wire_packets(out / recording)) == packets(range(1, 11))

    asyncio.run(run())


@settings(max_examples=25)
@given(noise=st.lists(anything, max_size=40))
def test_noise_hurts_nobody_else(noise: list[str | bytes]) -> None:
    survives(noise)


@settings(max_examples=15)
@given(noise=st.lists(anything, max_size=40))
def test_noise_hurts_nobody_else_in_strict_mode(noise: list[str | bytes]) -> None:
    survives(noise, strict=StrictConfig(transcribe=(0, 0), cleanup=(0, 0.01), hold=0.01))


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"", "short header"),
        (_HEADER[:31], "short header"),
        (b"WEBM" + packet(1)[4:], "wrong magic"),
        (packet(1)[:26] + b"\2\0" + packet(1)[28:], "format is not 1"),
        (packet(1)[:-1], "lengths do not match"),
        (packet(1) + b"x", "lengths do not match"),
        (packet(1)[:4] + bytes(4) + packet(1)[8:], "lengths do not match"),
        (packet(2)[:20] + (8000).to_bytes(4, "little") + packet(2)[24:], "rate or channels changed"),
    ],
)
async def test_a_bad_packet_is_refused_with_a_counted_reason(tmp_path: Path, wire: bytes, reason: str) -> None:
    recording = str(uuid4())
    async with serving(tmp_path) as (_, client):
        session, good = await client.open(recording)
        await good.stream([1])
        for _ in range(3):
            await good.send(wire)
        warnings = [message for message in await good.barrier() if message["type"] == "warning"]
        assert warnings == [{"type": "warning", "event": "packet_refused", "reason": reason}]
        await good.stream([2])
        await good.acked(2)
        await client.stop(session)
        told = json.loads((tmp_path / recording / "account.json").read_bytes())
        assert (told["packets"], told["refused"]) == (2, {reason: 3})
