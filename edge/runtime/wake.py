"""A wait that can be cut short, with the reason for it (DESIGN.md, rule 5)."""

from __future__ import annotations

import asyncio


class Wake:
    """`sleep` for one waiter; `now` ends it from inside the loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._reason = ""

    def now(self, reason: str) -> None:
        """End the current wait, or the next one where none is under way."""
        self._reason = reason
        self._event.set()

    async def sleep(self, seconds: float) -> str:
        """Wait for `seconds`; returns the reason of an early end, "" where the time passed."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return ""
        self._event.clear()
        return self._reason

    @property
    def is_due(self) -> bool:
        """Whether the next wait will end before it has begun."""
        return self._event.is_set()

    def take(self) -> str:
        """The reason of a wake-up that came while nobody waited, "" where none did. It counts no more."""
        reason = self._reason if self._event.is_set() else ""
        self._event.clear()
        return reason

    def forget(self) -> None:
        """Drop a wake-up that came while nobody waited."""
        self._event.clear()
