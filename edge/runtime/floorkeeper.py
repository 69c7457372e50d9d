"""Keeps the time that a trusted clock showed last, for the next start, whose clock may be wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.runtime.happening import Happening

FIRST_S = 60.0  # until a server's certificates have had their say
INTERVAL_S = 3600.0


class FloorKeeper:
    """`to_keep` says what to keep, in Unix seconds, None while there is nothing to go by; `save` blocks, and may raise
    OSError. Everything here runs in the loop, `save` in a thread of its pool."""

    def __init__(
        self,
        to_keep: Callable[[], float | None],
        save: Callable[[float], None],
        tell: Callable[[Happening], None],
        clock: Callable[[], float],
    ) -> None:
        self._to_keep = to_keep
        self._save = save
        self._tell = tell
        self._clock = clock
        self._due_at = clock() + FIRST_S
        self._saving: asyncio.Task[None] | None = None
        self._has_failed = False

    def look(self) -> None:
        """Save where it is time to: a minute after the start, then hourly. To be called every now and then."""
        if self._clock() >= self._due_at and (self._saving is None or self._saving.done()):
            utc_s = self._to_keep()
            if utc_s is not None:
                self._due_at = self._clock() + INTERVAL_S
                self._saving = asyncio.create_task(self._keep(utc_s), name="keep the time")

    async def close(self) -> None:
        """Save for the last time."""
        if self._saving is not None:
            await asyncio.wait([self._saving])
        utc_s = self._to_keep()
        if utc_s is not None:
            await self._keep(utc_s)

    async def _keep(self, utc_s: float) -> None:
        try:
            await asyncio.to_thread(self._save, utc_s)
        except OSError as error:
            if not self._has_failed:
                why = error.strerror or type(error).__name__
                text = f"the time cannot be kept for a start with a wrong clock ({why}); no audio is lost"
                self._tell(Happening("warning", text))
            self._has_failed = True
        else:
            self._has_failed = False
