"""Group commit: what one recording took in goes to the disk in one write, and the next as soon as that has ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor

from edge.receiver.config import Timing
from edge.receiver.store import Batch, RecordingStore

log = logging.getLogger("edge.receiver")


class Committer:
    """Owns the I/O of `store`. `on_durable` is called on the loop after each commit; `on_trouble` with a reason when
    the disk takes nothing, and with None when it does again."""

    def __init__(
        self,
        store: RecordingStore,
        executor: Executor,
        timing: Timing,
        on_durable: Callable[[], None],
        on_trouble: Callable[[str | None], None],
    ) -> None:
        self._store = store
        self._executor = executor
        self._timing = timing
        self._on_durable = on_durable
        self._on_trouble = on_trouble
        self._wake = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._closing = False
        self._trouble_since: float | None = None
        self._settling: list[asyncio.Future[None]] = []
        self._account_at = 0.0
        self._account_ticket = -1
        self._is_untidy = False
        self._task = asyncio.create_task(self._run(), name=f"commit {store.account.recording}")
        self._task.add_done_callback(self._ended)

    @property
    def is_in_trouble(self) -> bool:
        """True while the disk takes nothing."""
        return self._trouble_since is not None

    def wake(self) -> None:
        """There is something to commit."""
        self._wake.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until all that was accepted is durable; False when it is not in time."""
        store = self._store
        if store.durable >= store.accepted:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (store.accepted, future)
        self._waiting.append(entry)
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
        return True

    async def room(self, bytes_: int) -> None:
        """Wait until less than `bytes_` of payload is not yet durable."""
        while self._store.unsynced_bytes >= bytes_:
            await self.flush(self._timing.disk_patience)

    async def settle(self, timeout_s: float) -> bool:
        """Everything durable, header and account up to date. False when the disk does not let us in time."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settling.append(future)
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(future)
        except TimeoutError:
            return False
        finally:
            if future in self._settling:
                self._settling.remove(future)
        return True

    async def close(self, timeout_s: float) -> bool:
        """Settle, and end. What the disk does not take in time was never acknowledged."""
        settled = await self.settle(timeout_s)
        await self.abort()
        return settled

    async def abort(self) -> None:
        """End at once; what is not durable is forgotten."""
        self._closing = True
        self._wake.set()
        await asyncio.wait([self._task])
        await self._in_thread(self._store.close)

    # --- the task ---

    async def _run(self) -> None:
        while not self._closing:
            await self._wait()
            self._wake.clear()
            batch = self._store.take()
            if batch is not None and not await self._commit(batch):
                return
            await self._tidy(is_idle=batch is None)
            self._release()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:  # our bug: nothing of this recording is acknowledged any more
            log.error("recording %s: commits ended by %r", self._store.account.recording, error)

    async def _wait(self) -> None:
        """Until there is something, or until header or account have been out of date for long enough."""
        is_tidy = self._store.header_is_current and self._account_ticket == self._store.accepted
        try:
            async with asyncio.timeout(None if is_tidy else self._timing.wav_header):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _commit(self, batch: Batch) -> bool:
        """Write until it succeeds; False when told to end before that."""
        while True:
            try:
                await self._in_thread(self._store.write, batch, self._timing.wav_header)
            except OSError as error:
                self._failed(error)
                if not await self._pause():
                    return False
                continue
            self._store.committed(batch)
            self._recovered()
            self._on_durable()
            return True

    async def _pause(self) -> bool:
        await asyncio.sleep(self._timing.disk_retry)
        return not self._closing

    async def _tidy(self, *, is_idle: bool) -> None:
        """Bring WAV header and account up to date when they are due. A failure here costs no audio."""
        store = self._store
        is_settling = bool(self._settling)
        try:
            if not store.header_is_current and (is_idle or is_settling):
                await self._in_thread(store.write_header)
            age = time.monotonic() - self._account_at
            if self._account_ticket != store.durable and (is_settling or age >= self._timing.account):
                ticket, content = store.durable, store.render_account()
                await self._in_thread(store.write_account, content)
                self._account_ticket, self._account_at = ticket, time.monotonic()
            self._is_untidy = False
        except OSError as error:
            if not self._is_untidy:
                self._is_untidy = True
                log.warning("recording %s: its account cannot be written (%s)", store.account.recording, error.strerror)
            await asyncio.sleep(self._timing.disk_retry)

    def _release(self) -> None:
        store = self._store
        for ticket, future in self._waiting:
            if ticket <= store.durable and not future.done():
                future.set_result(None)
        self._waiting = [(ticket, future) for ticket, future in self._waiting if not future.done()]
        if self._settling:
            if store.header_is_current and self._account_ticket == store.accepted:
                for future in self._settling:
                    if not future.done():
                        future.set_result(None)
            else:
                self._wake.set()

    def _failed(self, error: OSError) -> None:
        if self._trouble_since is None:
            self._trouble_since = time.monotonic()
            reason = error.strerror or type(error).__name__
            log.error(
                "recording %s: the disk takes nothing (%s); nothing is acknowledged until it does",
                self._store.account.recording,
                reason,
            )
            self._on_trouble(reason)

    def _recovered(self) -> None:
        if self._trouble_since is not None:
            seconds = time.monotonic() - self._trouble_since
            self._trouble_since = None
            log.warning("recording %s: the disk takes data again after %.1f s", self._store.account.recording, seconds)
            self._on_trouble(None)

    async def _in_thread(self, function: Callable[..., None], *args: object) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
