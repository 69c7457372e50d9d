"""A Device without a server: the same Device, with a way that leads nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.core.policy import Policy
from edge.core.session import State
from edge.runtime import device
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.device import Device
from edge.runtime.happening import Happening
from edge.runtime.noserver import NoServer
from tests.runtime.fakes import MONO, PACKET, FakeClock, FedSource, joined, simulate


class Panel:
    def __init__(self) -> None:
        self.shown: list[tuple[bool, bool]] = []

    def show(self, record_lit: bool, safe_lit: bool) -> None:
        self.shown.append((record_lit, safe_lit))

    def on_press(self, record: Callable[[], None], retry: Callable[[], None]) -> None:
        pass

    def close(self) -> None:
        pass


def test_nothing_is_tried_nothing_is_lost_and_safe_is_what_the_card_has() -> None:
    async def main() -> None:
        told: list[Happening] = []
        panel, source = Panel(), FedSource()
        policy = Policy(MONO, PACKET)
        rig = Device(
            lambda: source, MONO, policy, 20.0, {}, NoServer(), told.append, panel,
            clock=ClockWatch(FakeClock(), told.append),
        )  # fmt: skip
        running = [asyncio.create_task(rig.run()), asyncio.create_task(rig.show())]
        recording, _ = await rig.start()
        source.give(10 * MONO.rate_hz)
        source.finish()
        assert await rig.ended() is None
        rig.retry_now("asked for")
        panel.shown.clear()
        await asyncio.sleep(4 * device.BLINK_S)
        assert {safe for _, safe in panel.shown} == {True, False}
        recording.ledger.sync(recording.ledger.last)
        panel.shown.clear()
        await asyncio.sleep(4 * device.BLINK_S)
        assert {safe for _, safe in panel.shown} == {True}
        status = rig.status()
        assert (status.is_local, status.state, status.failure) == (True, State.DISCONNECTED, "")
        assert (status.undelivered, status.unsafe) == (10.0, 0.0)
        assert rig.undelivered == (recording,)
        assert {happening.kind for happening in told} == {"recording", "stopped"}
        await joined(running)

    simulate(main())
