"""A recorder that boots with a wrong clock: what it sent before it knew the time is put right at the receiver.

Microphone, sockets and files are real; the wall clock is the test's, against the machine's real boot clock.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from uuid import uuid4

import pytest

from edge import app, config
from edge.adapters.state import StateDirectory
from edge.core.packet import decode_header
from edge.core.timebase import Anchor
from edge.receiver import recovery
from edge.receiver.config import ReceiverConfig
from edge.receiver.server import Receiver
from edge.runtime.happening import Happening

TOKEN = "t0ken"
BOUND_S = 30.0
EXACT_S = 0.05
UTC_MINUS_BOOT_S = 1.7e9  # the truth of this test


class Clock:
    """1970 until somebody sets it."""

    def __init__(self) -> None:
        self._boot_id = str(uuid4())
        self.anchor = Anchor(self._boot_id, 0.0, trusted=False)

    def read(self) -> Anchor:
        return self.anchor

    def slept_s(self) -> float:
        return 0.0

    def synchronise(self) -> None:
        self.anchor = Anchor(self._boot_id, UTC_MINUS_BOOT_S, trusted=True)


def boot_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def test_a_clock_that_becomes_right_in_the_middle_puts_all_of_the_recording_right(tmp_path: Path) -> None:
    out, clock, told = tmp_path / "received", Clock(), list[Happening]()
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    async with asyncio.timeout(BOUND_S), Receiver(ReceiverConfig(out, TOKEN, port=0)) as receiver:
        file = tmp_path / "edge.toml"
        file.write_text(
            f'[server]\nurl = "http://127.0.0.1:{receiver.port}"\ntoken_file = "{tmp_path / "token"}"\nagent = "a"\n'
            'event = "e"\n[audio]\nsource = "tone:440"\n'
        )
        with StateDirectory(tmp_path / "state") as state:
            built = app.build(config.load(file), state, told.append, clock=clock)
            device = built.device
            delivering = asyncio.create_task(device.run())
            recording, _ = await device.start()
            began_s = boot_s()  # the tone's clock starts at its first read, right after it was opened
            while recording.ledger.delivered < 20:
                await asyncio.sleep(0.02)
            clock.synchronise()
            while not any(happening.kind == "clock" for happening in told):
                await asyncio.sleep(0.02)
            known = recording.ledger.last
            while recording.ledger.delivered < known + 20:
                await asyncio.sleep(0.02)
            device.stop()
            await device.ended()
            await device.delivered()
            delivering.cancel()
            await asyncio.wait([delivering])
            await built.close()

    folder = out / recording.recording_id
    account = json.loads((folder / "account.json").read_text())
    stamps = {}
    for wire in recovery.wire_packets(folder):
        header = decode_header(wire)
        stamps[header.seq] = header.captured_unix_ms / 1000
    assert len(stamps) == recording.ledger.last == recording.ledger.delivered

    true_start = began_s + UTC_MINUS_BOOT_S
    assert account["clock_trusted"] is True
    assert account["started_at"] == pytest.approx(true_start, abs=EXACT_S)
    first, second = account["stamps"]
    assert (first["first_seq"], second["first_seq"]) == (1, pytest.approx(known, abs=3))
    assert first["stamped_at"] == pytest.approx(began_s, abs=EXACT_S)  # 1970, as it came
    for stretch in (first, second):
        assert stretch["captured_at"] == pytest.approx(true_start + stretch["position"] / 16000, abs=EXACT_S)
    for seq, stamp_s in stamps.items():
        offset_s = 0.0 if seq < second["first_seq"] else UTC_MINUS_BOOT_S
        assert stamp_s == pytest.approx(began_s + offset_s + (seq - 1) * 0.1, abs=EXACT_S), seq
    assert [happening.text for happening in told if happening.kind == "clock"] == [
        "the clock is synchronised now: what is not sent yet gets the right time; it was 19675.9 days behind"
    ]
