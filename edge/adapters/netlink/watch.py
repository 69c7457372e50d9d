"""The link watch: a new snapshot whenever the kernel says that something changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from edge.adapters.netlink.dumps import Dumps
from edge.adapters.netlink.files import Files
from edge.adapters.netlink.rtnetlink import Hints
from edge.adapters.netlink.targets import Target, targets
from edge.core.link import LinkSnapshot

INTERVAL_S = 0.25
BURST = 8
POLL_S = 2.0
RETRY_S = 60.0
BUFFER_BYTES = 32768  # some hundred hints; more say nothing more


class NetlinkWatch:
    """Watches interfaces, addresses, routes and rules of the network namespace in which `snapshots` is started.

    The kernel's messages are hints. The first acts at once, and so do `burst` in a row (a carrier is followed by its
    addresses); then at most one every `interval_s` seconds. Their content is thrown away, also that they were too many:
    the state is read anew, in a thread of its own, because a driver may keep the kernel's lock for long. `interval_s`
    after the last hint it is read once more: the kernel flushes some routes after it spoke, without another word.

    Without netlink the state is read every `poll_s` seconds; `tell` hears ("warning", why), once. If it worked before,
    it is tried again every `retry_s` seconds, and `tell` hears ("link", text) when it is back.
    """

    def __init__(
        self,
        tell: Callable[[str, str], None],
        interval_s: float = INTERVAL_S,
        *,
        burst: int = BURST,
        poll_s: float = POLL_S,
        retry_s: float = RETRY_S,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._tell = tell
        self._budget = Budget(burst, interval_s)
        self._interval_s = interval_s
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._retry_at_s: float | None = None  # None: netlink works, or never did
        self._buffer_bytes = buffer_bytes
        self._wanted: tuple[Target, ...] = ()
        self._changed = asyncio.Event()
        self._closing = asyncio.Event()
        self._watching: _Watching | None = None
        self._ended: Future[None] | None = None
        self.reads = 0  # how often the state was read
        self.overruns = 0  # how often the kernel had to drop hints

    def aim(self, addresses: Sequence[str]) -> None:
        """The server's addresses, as literals: what the path leads to. None: anywhere. Read anew when they change."""
        wanted = targets(addresses)
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def snapshots(self) -> AsyncIterator[LinkSnapshot]:
        """First what is now, then each new state, until cancelled or closed. Raises RuntimeError where it runs
        already."""
        if self._watching is not None:
            raise RuntimeError("the link is watched already")
        if self._closing.is_set():
            return
        watching = self._watching = _Watching(self._changed, self._buffer_bytes)
        last: LinkSnapshot | None = None
        self._retry_at_s = None
        try:
            if watching.refusal is not None:
                self._say(watching.refusal)
            is_settled = False
            while not self._closing.is_set():
                snapshot = await self._read(watching)
                if snapshot is not None and snapshot != last and not self._closing.is_set():
                    last = snapshot
                    yield snapshot
                is_settled = not await self._change(watching, is_settled)
        finally:
            self._ended = watching.close()
            self._watching = None

    async def close(self) -> None:
        """End `snapshots` and let go of everything; may be called twice."""
        self._closing.set()
        self._changed.set()
        if self._watching is not None:
            self._ended = self._watching.close()
        if self._ended is not None:
            await asyncio.wrap_future(self._ended)

    async def _read(self, watching: _Watching) -> LinkSnapshot | None:
        """The state; None where it cannot be told for now."""
        self.reads += 1
        for _ in range(2):
            if self._closing.is_set():
                break
            try:
                return await watching.read(self._wanted)
            except OSError as error:  # without netlink it may be too many open files: the next time may do
                if watching.fall_back():
                    self._say(error)
                    self._retry_at_s = _now() + self._retry_s
        return None

    async def _change(self, watching: _Watching, is_settled: bool) -> bool:
        """Wait until the state is to be read again; True if by a hint, False if by time."""
        if watching.is_polling:
            limit: float | None = self._poll_s
        else:
            limit = None if is_settled else self._interval_s
        is_hinted = await _within(limit, self._changed)
        if is_hinted and (pause_s := self._budget.take(_now())):
            await _within(pause_s, self._closing)
        if self._retry_at_s is not None and _now() >= self._retry_at_s and not self._closing.is_set():
            self._retry_at_s = _now() + self._retry_s
            if await watching.reopen(self._wanted):
                self._retry_at_s = None
                self._tell("link", "netlink works again: the network is not polled any more")
        self._changed.clear()
        self.overruns += watching.rearm()
        return is_hinted

    def _say(self, error: OSError) -> None:
        why = error.strerror or str(error) or type(error).__name__
        self._tell("warning", f"no netlink here ({why}): the network is polled every {self._poll_s:g} s")


class _Watching:
    """What is open while the link is watched: the hints, and a thread that reads the state."""

    def __init__(self, changed: asyncio.Event, buffer_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = changed
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._buffer_bytes = buffer_bytes
        self._reader: Dumps | Files = Files()
        self._hints: Hints | None = None
        self._closed: Future[None] | None = None
        self.refusal: OSError | None = None
        try:
            self._open()
        except OSError as error:
            self.refusal = error
        self.rearm()

    @property
    def is_polling(self) -> bool:
        """No hints come."""
        return self._hints is None

    async def read(self, wanted: Sequence[Target]) -> LinkSnapshot:
        """The state now. Raises OSError."""
        snapshot = await self._loop.run_in_executor(self._executor, self._reader.read, wanted)
        return replace(snapshot, aim=tuple(target.address for target in wanted))

    def rearm(self) -> bool:
        """Forget the hints there are, and wait for the next; True where the kernel had to drop some."""
        if self._hints is None or self._closed is not None:
            return False
        overrun = self._hints.drain()
        self._loop.add_reader(self._hints.fileno(), self._hinted)
        return overrun

    def _hinted(self) -> None:
        assert self._hints is not None
        self._loop.remove_reader(self._hints.fileno())  # what follows may wait in the socket
        self._changed.set()

    def fall_back(self) -> bool:
        """Do without netlink from now on; False where that is so already."""
        self._drop_hints()
        if isinstance(self._reader, Files):
            return False
        self._reader.close()
        self._reader = Files()
        return True

    async def reopen(self, wanted: Sequence[Target]) -> bool:
        """Try netlink again; whether it works."""
        try:
            self._open()
            await self.read(wanted)
        except OSError:
            self.fall_back()
            return False
        return True

    def _open(self) -> None:
        hints = Hints(self._buffer_bytes)
        try:
            self._reader = Dumps()
        except OSError:
            hints.close()
            raise
        self._hints = hints

    def close(self) -> Future[None]:
        """Let go of everything; it is done when what is being read has been read."""
        if self._closed is None:
            self._drop_hints()
            self._closed = self._executor.submit(self._reader.close)
            self._executor.shutdown(wait=False)
        return self._closed

    def _drop_hints(self) -> None:
        if self._hints is not None:
            self._loop.remove_reader(self._hints.fileno())
            self._hints.close()
            self._hints = None


class Budget:
    """`burst` at once, then one each `interval_s` seconds."""

    def __init__(self, burst: int, interval_s: float) -> None:
        self._burst = burst
        self._interval_s = interval_s
        self._left = float(burst)
        self._at_s = 0.0

    def take(self, now_s: float) -> float:
        """Take one; how many seconds to wait for it."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) / self._interval_s) - 1
        self._at_s = now_s
        return max(0.0, -self._left * self._interval_s)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _within(seconds: float | None, event: asyncio.Event) -> bool:
    """Whether `event` is set within that time; None: however long it takes."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
