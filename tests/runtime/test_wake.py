"""A wait that can be cut short."""

from __future__ import annotations

import asyncio

from edge.runtime.wake import Wake
from tests.runtime.fakes import now, simulate


def test_time_passes_or_a_reason_ends_it() -> None:
    async def main() -> None:
        wake, since = Wake(), now()
        assert await wake.sleep(5.0) == ""
        assert now() == since + 5.0
        asyncio.get_running_loop().call_later(1.0, wake.now, "link")
        assert await wake.sleep(5.0) == "link"
        assert now() == since + 6.0
        assert await wake.sleep(5.0) == ""

    simulate(main())


def test_what_came_before_counts_once_unless_it_is_forgotten() -> None:
    async def main() -> None:
        wake, since = Wake(), now()
        wake.now("button")
        assert await wake.sleep(5.0) == "button"
        assert now() == since
        wake.now("button")
        wake.forget()
        assert await wake.sleep(5.0) == ""
        assert now() == since + 5.0

    simulate(main())


def test_a_cancelled_wait_loses_no_wake_up() -> None:
    async def main() -> None:
        wake = Wake()
        waiting = asyncio.create_task(wake.sleep(5.0))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        wake.now("timer")
        assert await wake.sleep(5.0) == "timer"

    simulate(main())


def test_no_time_is_no_wait() -> None:
    async def main() -> None:
        assert await Wake().sleep(0.0) == ""

    simulate(main())
