"""When the time is kept, and what is said where it cannot be."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from edge.runtime.floorkeeper import FIRST_S, INTERVAL_S, FloorKeeper
from edge.runtime.happening import Happening

BOUND_S = 30.0


class Desk:
    """A keeper, the clock it goes by, and where it writes to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.utc: float | None = 5000.0
        self.saved: list[float] = []
        self.told: list[Happening] = []
        self.fault: OSError | None = None
        self.tries = 0
        self.keeper = FloorKeeper(lambda: self.utc, self._save, self.told.append, lambda: self.now)

    def _save(self, utc_s: float) -> None:
        self.tries += 1
        if self.fault is not None:
            raise self.fault
        self.saved.append(utc_s)

    async def look(self, tries: int) -> None:
        """Look, and wait until it has tried to save so often in all."""
        self.keeper.look()
        async with asyncio.timeout(BOUND_S):
            while self.tries < tries:
                await asyncio.sleep(0)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_after_a_minute_then_hourly_and_at_the_end(desk: Desk) -> None:
    await desk.look(0)
    assert desk.saved == []
    desk.now += FIRST_S
    await desk.look(1)
    desk.now, desk.utc = desk.now + INTERVAL_S - 1, 6000.0
    await desk.look(1)
    assert desk.saved == [5000.0]
    desk.now += 1
    await desk.look(2)
    assert desk.saved == [5000.0, 6000.0]
    desk.utc = 6001.0
    await desk.keeper.close()
    assert desk.saved == [5000.0, 6000.0, 6001.0]


async def test_nothing_to_go_by_is_nothing_to_keep_and_is_asked_for_again(desk: Desk) -> None:
    desk.now, desk.utc = desk.now + FIRST_S, None
    await desk.look(0)
    await desk.keeper.close()
    assert desk.tries == 0
    desk.now, desk.utc = desk.now + 1, 7000.0
    await desk.look(1)
    assert desk.saved == [7000.0]


async def test_the_end_waits_for_what_is_being_written(desk: Desk) -> None:
    desk.now += FIRST_S
    desk.keeper.look()
    desk.utc = 5001.0
    await desk.keeper.close()
    assert desk.saved == [5000.0, 5001.0]


async def test_a_card_that_takes_nothing_is_said_once(desk: Desk) -> None:
    desk.fault = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for tries in (1, 2):
        desk.now += INTERVAL_S
        await desk.look(tries)
    await desk.keeper.close()
    [said] = desk.told
    assert said.kind == "warning"
    assert said.text == (
        "the time cannot be kept for a start with a wrong clock (No space left on device); no audio is lost"
    )
    desk.fault = None
    await desk.keeper.close()
    assert desk.saved == [5000.0]
    desk.fault = OSError("?")
    await desk.keeper.close()
    assert len(desk.told) == 2, "it had worked in between"
