"""Where no server is configured: a way that leads nowhere, so that a Device without one is the same Device.

What is recorded waits on the card like all that cannot be delivered just now, without an attempt ever being made.
"""

from __future__ import annotations

import asyncio

from edge.core.link import LinkDelta, LinkSnapshot
from edge.core.session import Session, State
from edge.runtime.recording import Recording

KEPT = "no server is configured: kept on the card"


class NoServer:
    """Implements `Way`. Nothing is ever sent, refused or delivered."""

    @property
    def session(self) -> Session | None:
        """There is none."""
        return None

    @property
    def state(self) -> State:
        """Always disconnected."""
        return State.DISCONNECTED

    def supplied(self, recording: Recording) -> None:
        """It waits on the card."""

    def clock_changed(self) -> None:
        """Stamps are made when something is sent."""

    def retry_now(self, reason: str) -> None:
        """There is nothing to try."""

    def try_again(self, reason: str) -> None:
        """Nothing to do."""

    def doubt(self, reason: str) -> None:
        """There is nothing to test."""

    @property
    def local_address(self) -> str:
        """There is none."""
        return ""

    def link_changed(self, delta: LinkDelta, snapshot: LinkSnapshot) -> None:
        """It leads nowhere."""

    async def refused(self) -> None:
        """Nobody ever refuses."""
        await asyncio.Event().wait()

    async def moved(self) -> None:
        """Nothing ever happens here."""
        await asyncio.Event().wait()

    async def deliver(self, recording: Recording) -> None:
        """Until it is cancelled."""
        await asyncio.Event().wait()
