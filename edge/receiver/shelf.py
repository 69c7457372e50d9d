"""The open recordings of a receiver: each store is opened once, by whoever needs it first, and closed by the last."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

from edge.receiver import recovery
from edge.receiver.config import ReceiverConfig
from edge.receiver.recording import Recording

log = logging.getLogger("edge.receiver")
_WRITERS = 4


class Unreadable(Exception):
    """A recording's store cannot be opened; it is left as it is."""


class Shelf:
    """`on_durable` and `on_trouble` are told which recording it is, see `Committer`."""

    def __init__(
        self,
        config: ReceiverConfig,
        on_durable: Callable[[str], None],
        on_trouble: Callable[[str, str | None], None],
    ) -> None:
        self._config = config
        self._on_durable = on_durable
        self._on_trouble = on_trouble
        self._executor = ThreadPoolExecutor(_WRITERS, thread_name_prefix="commit")
        self._open: dict[str, Recording] = {}
        self._doors: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def door(self, recording_id: str) -> asyncio.Lock:
        """To be held while a recording is opened or given back."""
        lock = self._doors.get(recording_id)
        if lock is None:
            lock = self._doors[recording_id] = asyncio.Lock()
        return lock

    async def open(self, recording_id: str) -> Recording:
        """The recording, read from the disk where it is not open. Raises Unreadable."""
        known = self._open.get(recording_id)
        if known is not None:
            return known
        try:
            store = await asyncio.get_running_loop().run_in_executor(
                self._executor, recovery.load, self._config.out / recording_id, recording_id
            )
        except (OSError, ValueError, KeyError) as error:
            log.error("recording %s cannot be opened (%s)", recording_id, error)  # noqa: TRY400
            raise Unreadable from None
        recording = self._open[recording_id] = Recording(
            store,
            self._executor,
            self._config.timing,
            self._config.limits,
            lambda: self._on_durable(recording_id),
            lambda reason: self._on_trouble(recording_id, reason),
        )
        return recording

    async def close(self, recording: Recording) -> None:
        """Nobody needs it any more; it must be settled."""
        if self._open.pop(recording.recording_id, None) is not None:
            await recording.committer.abort()

    async def abort(self) -> None:
        """Close all; what is not durable is forgotten."""
        for recording in list(self._open.values()):
            await self.close(recording)
        self._executor.shutdown(wait=True)
