"""`spool.mode = "ram"`: no audio ever touches the card. The raw disk is searched for what was recorded.

Everything is real: `edge record`, ext4 on a block device, a receiver whose files are elsewhere, an outage and a
SIGKILL with audio in memory only. The control, the same with "always", finds what was planted.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from edge.receiver.config import ReceiverConfig
from edge.receiver.server import Receiver
from tests.cli.recorder import Recorder
from tests.client.receiver import TOKEN
from tests.power.disk import BLOCK, call, mounted
from tests.power.edge import RATE, noise, received
from tests.rig.process import ReservedPort

pytestmark = [pytest.mark.root, pytest.mark.long]
DISK_BYTES = 48 << 20
WORD = 8  # a piece of sound this long tells it apart: by chance one is on a disk once in millions of disks
SECONDS = 20  # more than each recording is long
OUTAGE_S = 1.5


def pieces_found(image: bytes, sound: bytes) -> int:
    """How many of the 8-byte pieces of `sound` stand in `image`, at whatever place of it: any 15 bytes in a row of it
    contain a whole one."""
    pieces = np.unique(np.frombuffer(sound, "<u8"))
    found = np.zeros(len(pieces), bool)
    for shift in range(WORD):
        words = np.frombuffer(image, "<u8", (len(image) - shift) // WORD, shift)
        words = words[words != 0]
        at = np.searchsorted(pieces, words).clip(max=len(pieces) - 1)
        found[at[pieces[at] == words]] = True
    return int(found.sum())


@pytest.mark.parametrize("shift", range(9))
def test_the_search_finds_64_bytes_wherever_they_are(shift: int) -> None:
    sound = noise("planted", 0, RATE)
    disk = bytearray(1 << 20)
    assert pieces_found(bytes(disk), sound) == 0
    disk[70000 + shift : 70064 + shift] = sound[1000 + 3 * shift : 1064 + 3 * shift]
    assert pieces_found(bytes(disk), sound) >= 7


async def recorded(folder: Path, disk: Path, mode: str) -> str:
    """Two recordings into a state directory on `disk`; returns the id of the one that was killed in an outage."""
    port = ReservedPort()
    out = folder / "received"

    def recorder(name: str, *options: str) -> Recorder:
        url, more = f"http://127.0.0.1:{port.number}", f'[spool]\nmode = "{mode}"\n'
        source = ("--source", f"tone:noise:{name}", "--event", name)
        return Recorder(folder, url, *source, *options, state=disk / "state", more=more)

    async def receives(name: str, seconds: float) -> None:
        async with asyncio.timeout(30):
            while received(out / name) < seconds * RATE:
                await asyncio.sleep(0.05)

    try:
        config = ReceiverConfig(out, TOKEN, port=port.number)
        async with recorder("killed") as first:
            async with Receiver(config):
                await first.said("-> connected")
                name = next(line.split(" recording ")[1].split()[0] for line in first.stderr if " recording " in line)
                await receives(name, 1.0)
            await first.said("connected -> ")
            await asyncio.sleep(OUTAGE_S)  # so much is in memory only
            async with Receiver(config):
                first.signal(signal.SIGUSR1)  # ten attempts may have been in vain: then it waits for a minute
                await receives(name, 2 + OUTAGE_S)
            await asyncio.sleep(OUTAGE_S)
            first.signal(signal.SIGKILL)
            await first.wait(10)
        async with Receiver(config), recorder("stopped", "--seconds", "2") as second:
            await second.account(0)
    finally:
        port.close()
    return name


@pytest.mark.parametrize("mode", ["ram", "always"])
async def test_what_was_recorded_is_not_on_the_raw_disk(mode: str, tmp_path: Path) -> None:
    image, disk = tmp_path / "image", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    call("mkfs.ext4", "-q", "-b", BLOCK, image)
    with mounted(image, disk):
        name = await recorded(tmp_path, disk, mode)
    raw = image.read_bytes()
    assert UUID(name).hex in raw.hex() or name.encode() in raw  # it is the right disk: the manifest is there
    killed, stopped = (pieces_found(raw, noise(event, 0, SECONDS * RATE)) for event in ("killed", "stopped"))
    if mode == "ram":
        assert (killed, stopped) == (0, 0)
    else:
        second = RATE * 2 // WORD
        # The second may stand in the place of the first, once that is delivered: its segments are used again.
        assert killed + stopped > (2.5 + OUTAGE_S) * second
        assert stopped == 2 * second
