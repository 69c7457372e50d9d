"""A disk that is really full: the kernel says so, because another file has taken all of a small file system.

`edge record` is a process of its own; what is on the disk afterwards is compared with the noise that was recorded.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge.adapters.spool import SpoolDirectory
from tests.chaos.card import read_card
from tests.cli.recorder import Recorder
from tests.power.disk import BLOCK, call, mounted

pytestmark = pytest.mark.root
DISK_BYTES = 32 << 20
RATE, CHANNELS, RING_S = 48000, 8, 8  # a segment of 4 MiB is full after 5.4 s
FRAME_BYTES = 2 * CHANNELS
MORE = f"""
[server]
url = ""
[audio]
rate = {RATE}
channels = {CHANNELS}
segment_target_ms = 1000
[buffer]
ring_seconds = {RING_S}
"""
BOUND_S = 30.0
FULL, AGAIN = "the card is full; recording goes on in memory", "the card takes audio again"


@contextmanager
def disk(kind: str, folder: Path) -> Iterator[Path]:
    """A small file system, empty; ext4 must be whole afterwards."""
    mount, image = folder / "disk", folder / "image"
    if kind == "tmpfs":
        mount.mkdir()
        call("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "small", mount)
        try:
            yield mount
        finally:
            call("umount", mount)
        return
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    call("mkfs.ext4", "-q", "-b", BLOCK, image)
    with mounted(image, mount):
        yield mount
    call("e2fsck", "-f", "-n", image)


def fill(folder: Path) -> Path:
    """A file that leaves not one block."""
    path = folder / "somebody-elses"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
        os.fsync(file.fileno())
    return path


def recorder(folder: Path, mount: Path, seed: str, *options: str) -> Recorder:
    """Without a server: all of it is to stay on the disk."""
    options = ("--source", f"tone:noise:{seed}", *options)
    return Recorder(folder, "", *options, state=mount / "state", more=MORE)


async def freed(child: Recorder, make_room: Callable[[], None]) -> dict[str, Any]:
    """Once the recorder has noticed, make room; its account, in which nothing is lost."""
    await child.said(FULL)
    make_room()
    await child.said(AGAIN)
    child.signal(signal.SIGINT)
    account = await child.account(0)
    assert (account["pending"], account["lost"]) == (account["expected"], {})
    return account


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():
            await asyncio.sleep(0.02)


def stored(mount: Path, name: str, seed: str) -> int:
    """How many frames of a recording are on the disk: from its beginning on, without a gap, each as it was recorded."""
    (found,) = [found for found in read_card(mount / "state" / "spool") if found.name == name]
    frames = 0
    noise: dict[int, bytes] = {}
    for record in found.records:
        assert record.position <= frames  # what was written again after the failure is there twice
        data, first = record.payload, record.position
        while data:
            second, offset = divmod(first, RATE)
            if second not in noise:
                noise[second] = random.Random(f"{seed}:{second}").randbytes(RATE * FRAME_BYTES)
            count = min(len(data) // FRAME_BYTES, RATE - offset)
            expected = noise[second][offset * FRAME_BYTES : (offset + count) * FRAME_BYTES]
            assert data[: count * FRAME_BYTES] == expected, f"packet {record.seq}"
            data, first = data[count * FRAME_BYTES :], first + count
        frames = max(frames, first)
    return frames


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
async def test_it_fills_up_in_the_middle_and_nothing_is_lost(kind: str, tmp_path: Path) -> None:
    with disk(kind, tmp_path) as mount:
        async with recorder(tmp_path, mount, "middle") as child:
            await child.said(" recording ")
            await until(lambda: [*mount.rglob("000000.seg")])
            filler = fill(mount)
            account = await freed(child, filler.unlink)
        assert stored(mount, account["recording"], "middle") == account["expected"]


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
async def test_it_is_full_when_the_recording_begins(kind: str, tmp_path: Path) -> None:
    with disk(kind, tmp_path) as mount:
        async with recorder(tmp_path, mount, "before", "--seconds", "0.5") as child:
            before = await child.account(0)
        filler = fill(mount)
        async with recorder(tmp_path, mount, "begin") as child:
            account = await freed(child, filler.unlink)
        assert stored(mount, account["recording"], "begin") == account["expected"]
        assert stored(mount, before["recording"], "before") == before["expected"] == RATE // 2


@pytest.mark.long
async def test_it_stays_full(tmp_path: Path) -> None:
    with disk("ext4", tmp_path) as mount:
        async with recorder(tmp_path, mount, "ever") as child:
            await child.said(" recording ")
            await until(lambda: [*mount.rglob("000000.seg")])
            fill(mount)
            await child.said(FULL)
            account = await child.account(4)  # it ends by itself
        assert account["pending"] + sum(account["lost"].values()) == account["expected"]
        assert account["expected"] > account["pending"] + 0.8 * RING_S * RATE  # memory was used
        spool = mount / "state" / "spool"
        # What was written just before is whole, but was not counted on.
        assert account["pending"] <= stored(mount, account["recording"], "ever") < account["pending"] + 2 * RATE
        _, found = SpoolDirectory(spool).load(spool / "recordings" / account["recording"])
        ledger = found.ledger
        assert ledger.kept_frames >= account["pending"]
        assert ledger.kept_frames + sum(ledger.lost.values()) == ledger.expected
