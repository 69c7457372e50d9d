"""A disk that takes nothing: nothing is acknowledged, it is said once, and nothing is lost when it takes data again."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from edge.receiver.config import Limits, Timing
from edge.receiver.recovery import wire_packets
from tests.receiver.client import Client, Message, Wire, account, eventually, packets, serving
from tests.receiver.process import receiving

QUICK = Timing(disk_retry=0.02, disk_patience=0.3)


class Disk:
    """Lets a call of the store fail on demand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def fail(self, name: str, number: int) -> Callable[[], None]:
        """`os.NAME` fails with errno `number` until the returned function is called."""
        real = getattr(os, name)  # the store calls it by this name, too

        def broken(*args: object) -> None:
            raise OSError(number, os.strerror(number))

        self._patch.setattr(os, name, broken)
        return lambda: self._patch.setattr(os, name, real)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def until_failed(wire: Wire) -> list[Message]:
    return await wire.until("warning", lambda message: message["event"] == "storage_failed")


@pytest.mark.parametrize(("call", "number"), [("pwritev", errno.ENOSPC), ("fdatasync", errno.EIO)])
async def test_acks_stop_and_come_back(tmp_path: Path, disk: Disk, call: str, number: int) -> None:
    recording = str(uuid4())
    async with serving(tmp_path, timing=QUICK) as (_, client):
        session, wire = await client.open(recording)
        await wire.stream([1])
        await wire.acked(1)
        repair = disk.fail(call, number)
        await wire.stream(range(2, 50))
        failed = await until_failed(wire)
        assert failed[-1]["reason"] == os.strerror(number)
        assert not [message for message in failed if message["type"] == "ack"]
        # Handled, but not durable: pongs, no acknowledgement, and no second warning.
        later = await wire.barrier()
        assert [message["type"] for message in later] == ["pong"]
        assert (await client.stop(session))[0] == 503
        repair()
        seen = await wire.until("ack", lambda message: message["seq"] == 49)
        assert {"type": "warning", "event": "storage_recovered"} in seen
        assert (await client.stop(session))[0] == 200
        assert list(wire_packets(tmp_path / recording)) == packets(range(1, 50))


async def test_reattaching_meanwhile_is_told_what_is_durable(tmp_path: Path, disk: Disk) -> None:
    recording = str(uuid4())
    async with serving(tmp_path, timing=QUICK) as (_, client):
        session, wire = await client.open(recording)
        await wire.stream([1, 2])
        await wire.acked(2)
        repair = disk.fail("fdatasync", errno.ENOSPC)
        await wire.stream([3, 4])
        await until_failed(wire)
        wire.reset()
        again = await client.dial(session)
        assert again.hello["next_seq"] == 3
        await again.stream(range(3, 7))
        await again.barrier()
        repair()
        await again.acked(6)
        await client.stop(session)
        assert list(wire_packets(tmp_path / recording)) == packets(range(1, 7))


async def test_a_receiver_that_ends_meanwhile_has_promised_nothing(tmp_path: Path, disk: Disk) -> None:
    recording = str(uuid4())
    async with serving(tmp_path, timing=QUICK) as (_, client):
        _, wire = await client.open(recording)
        await wire.stream([1, 2])
        await wire.acked(2)
        repair = disk.fail("fdatasync", errno.ENOSPC)
        await wire.stream([3])
        await until_failed(wire)
    repair()
    async with serving(tmp_path) as (_, client):
        _, wire = await client.open(recording)
        assert wire.hello["next_seq"] in (3, 4)  # 4: its record got as far as the page cache


async def test_a_full_disk_bounds_what_is_held_in_ram(tmp_path: Path, disk: Disk) -> None:
    limits = Limits(unsynced_bytes=100_000)
    async with serving(tmp_path, timing=QUICK, limits=limits) as (receiver, client):
        session, wire = await client.open()
        await wire.stream([1])
        await wire.acked(1)
        repair = disk.fail("fdatasync", errno.ENOSPC)
        sending = asyncio.create_task(wire.stream(range(2, 2002)))
        await until_failed(wire)
        await eventually(lambda: receiver.sessions()[0].packets > 100_000 // 3200)
        assert receiver.sessions()[0].packets <= 2 + 100_000 // 3200
        repair()
        await wire.acked(2001)
        await sending
        assert (await client.stop(session))[0] == 200


async def test_a_foreign_client_gets_no_pong_for_what_is_not_durable(tmp_path: Path, disk: Disk) -> None:
    async with serving(tmp_path, timing=QUICK) as (_, client):
        wire = await client.dial(await client.start())
        await wire.init()
        repair = disk.fail("fdatasync", errno.ENOSPC)
        await wire.stream([1])
        await wire.send({"type": "ping"})
        closed = await wire.closed()
        assert (closed.code, closed.reason) == (1013, "the disk takes nothing")
        repair()


async def test_a_file_size_limit_of_a_real_process(tmp_path: Path) -> None:
    """Every write beyond the limit fails (EFBIG) until the limit goes."""
    out, recording = tmp_path / "out", str(uuid4())
    async with receiving(out) as process, Client(process.url) as client:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        session, wire = await client.open(recording)
        await wire.stream(range(1, 101))
        seen = await until_failed(wire)
        acked = max((message["seq"] for message in seen if message["type"] == "ack"), default=0)
        assert acked * 3200 < 100_000
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        await wire.acked(100)
        await client.stop(session)
        code, stderr = await process.end(signal.SIGTERM)
        assert code == 0
        assert stderr.count("the disk takes nothing (File too large)") == 1
        assert stderr.count("the disk takes data again") == 1
    assert list(wire_packets(out / recording)) == packets(range(1, 101))
    assert account(out, recording)["packets"] == 100


@pytest.mark.root
async def test_a_file_system_that_is_really_full(tmp_path: Path) -> None:
    out, recording = tmp_path / "out", str(uuid4())
    await asyncio.to_thread(out.mkdir)
    script = f'mount -t tmpfs -o size=1m tmpfs "{out}" && head -c 700000 /dev/zero >"{out}/filler" && exec "$@"'
    before = ["unshare", "-m", "sh", "-c", script, "sh"]
    async with receiving(out, before=before) as process, Client(process.url) as client:
        inside = Path(f"/proc/{process.pid}/root{out}")
        session, wire = await client.open(recording)
        await wire.stream(range(1, 201))
        seen = await until_failed(wire)
        assert max((message["seq"] for message in seen if message["type"] == "ack"), default=0) < 150
        await asyncio.to_thread((inside / "filler").unlink)
        await wire.acked(200)
        assert (await client.stop(session))[0] == 200
        assert list(wire_packets(inside / recording)) == packets(range(1, 201))
