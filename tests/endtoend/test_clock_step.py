"""A wall clock that steps by years in mid-recording: libfaketime fakes it, the boot clock is the real one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cli.recorder import Recorder
from tests.client.receiver import ThreadedReceiver

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime")
async def test_steps_of_years_cost_no_frame_and_no_time(tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    env = os.environ | {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",  # else each look at a clock reads the file: where that is slow, all is
        "DONT_FAKE_MONOTONIC": "1",  # nor the boot clock
    }
    offset.write_text("+0d\n")
    with ThreadedReceiver(tmp_path / "received") as receiver:
        async with Recorder(tmp_path, receiver.url, "--source", "tone:noise:7", env=env) as child:
            await child.said("-> connected")
            for days, side in ((-3650, "ahead"), (+400, "behind")):
                offset.write_text(f"{days:+d}d\n")
                await child.said(f"days {side}")
            child.signal(signal.SIGINT)
            account = await child.account(0)
    assert account["expected"] == account["delivered"] > 0
    assert account["lost"] == {}
    assert len(account["sessions"]) == 1, "a step of the wall clock is no reason to open another"
