"""The library on a device whose clock is years off: there is no state directory, so that its version's date is the
floor."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import pytest

from edge import ResilientWebSocket, links
from edge.adapters.clock import SystemClock
from edge.errors import Unreachable
from tests.adapters.hostile import BOUND_S
from tests.adapters.wire.peers import Dated
from tests.adapters.wire.pki import DAY, LOCAL, NOW, Authority, serves


@pytest.fixture(autouse=True)
def nobody_keeps_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    untrusted = functools.partial(SystemClock, timesyncd=Path("/nowhere"), kernel_says=lambda: False)
    monkeypatch.setattr(links, "SystemClock", untrusted)


def client(peer: Dated, authority: Authority) -> ResilientWebSocket:
    return ResilientWebSocket(
        peer.url, "t0ken", ca_file=str(authority.path), max_reconnect_attempts=1, link_watch=False, drain_timeout=0.01
    )


async def test_a_server_of_next_year_is_reached(tmp_path: Path) -> None:
    ours, day = Authority(tmp_path, "ours"), NOW + 400 * DAY
    async with Dated(serves(ours.issue(*LOCAL, begins=day - DAY, ends=day + DAY)), day) as peer:
        ws = client(peer, ours)
        connecting = asyncio.create_task(ws.connect("agent", "event"))
        async with asyncio.timeout(BOUND_S):
            while not peer.served:
                await asyncio.sleep(0.01)
        assert peer.asked == 1
        await ws.close()
        await asyncio.wait([connecting])
        assert connecting.exception() is not None, "it says no hello"


async def test_one_of_last_year_is_not(tmp_path: Path) -> None:
    ours, day = Authority(tmp_path, "ours"), NOW - 400 * DAY
    async with Dated(serves(ours.issue(*LOCAL, begins=day - DAY, ends=day + DAY)), day) as peer:
        ws = client(peer, ours)
        with pytest.raises(Unreachable, match="before what this device has seen"):
            await ws.connect("agent", "event")
        await ws.close()
        assert peer.asked >= 1
        assert peer.served == 0
