"""A wall clock that steps by years in mid-recording: libfaketime fakes it, the boot clock is the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.recorder import Recorder
from tests.client.receiver import ThreadedReceiver

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
SECONDS, RATE = 10, 16000


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime")
async def test_steps_of_years_cost_no_frame_and_no_time(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    env = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",  # nor the boot clock
    }
    offset.write_text("+0d\n")
    with ThreadedReceiver(tmp_path / "received") as receiver:
        options = ("--source", "tone:noise:7", "--seconds", str(SECONDS))
        async with Recorder(tmp_path, receiver.url, *options, env=env) as child:
            await child.said("-> connected")
            for days, side in ((-3650, "ahead"), (+400, "behind")):
                offset.write_text(f"{days:+d}d\n")
                await child.said(f"days {side}")
            account = await child.account(0)
    assert account["expected"] == account["delivered"] == SECONDS * RATE
    assert account["lost"] == {}
    assert len(account["sessions"]) == 1, "a step of the wall clock is no reason to open another"
