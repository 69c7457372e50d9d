"""The link watch at work in a namespace, on a thread of its own, with what it yields kept; with or without netlink."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import platform
import struct
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from edge.adapters.netlink import NetlinkWatch
from edge.core.link import Change, LinkDelta, LinkSnapshot, link_delta
from tests.network.netns import inside

BOUND_S = 60.0
_SYSCALLS = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198), "armv7l": (0x40000028, 281)}  # arch, socket(2)
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


class Observer:
    """Runs a NetlinkWatch in `namespace` from `with` to its end. Thread-safe for the test's thread.

    `without_netlink`: a seccomp filter refuses its thread, and those that it starts, each netlink socket.
    """

    def __init__(
        self,
        namespace: str,
        aim: Sequence[str] = (),
        *,
        without_netlink: bool = False,
        interval_s: float = 0.25,
        poll_s: float = 0.05,
        buffer_bytes: int = 32768,
    ) -> None:
        self.told: list[tuple[str, str]] = []
        self.states: list[LinkSnapshot] = []
        self.times: list[float] = []  # CLOCK_MONOTONIC of each state
        self._namespace = namespace
        self._without_netlink = without_netlink
        self._more = threading.Condition()
        self._error: Exception | None = None
        self._stop = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self.watch = NetlinkWatch(
            lambda kind, text: self.told.append((kind, text)),
            interval_s,
            poll_s=poll_s,
            buffer_bytes=buffer_bytes,
        )
        self.watch.aim(aim)
        self._thread = threading.Thread(target=self._run, name="observer")

    def __enter__(self) -> Self:
        self._thread.start()
        self.until(lambda state: True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(RuntimeError):  # it failed, and its loop is closed
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(BOUND_S)
        assert not self._thread.is_alive()
        if error is None and self._error is not None:
            raise self._error

    def aim(self, *addresses: str) -> None:
        """As NetlinkWatch.aim."""
        self._loop.call_soon_threadsafe(self.watch.aim, addresses)

    @property
    def now(self) -> LinkSnapshot:
        """The newest state."""
        return self.states[-1]

    def until(self, wanted: Callable[[LinkSnapshot], object]) -> LinkSnapshot:
        """Wait for a newest state that is as `wanted`; the state."""
        with self._more:
            found = self._more.wait_for(
                lambda: self._error is not None or (self.states and wanted(self.states[-1])), BOUND_S
            )
            if self._error is not None:
                raise self._error
            assert found, f"not seen in {BOUND_S:.0f} s; the newest is {self.states[-1:]}"
            return self.states[-1]

    def step(
        self, action: Callable[[], object], wanted: Callable[[LinkSnapshot], object], source: str = ""
    ) -> LinkDelta:
        """Do it, and wait for a state that is as `wanted`; what the whole way there means, from the newest before."""
        before = self.now
        action()
        return link_delta(before, self.until(wanted), source)

    def change(
        self, action: Callable[[], object], wanted: Callable[[LinkSnapshot], object], source: str = ""
    ) -> Change:
        """The kind of change of a `step`."""
        return self.step(action, wanted, source).change

    def settled(self) -> int:
        """Wait until nothing is read any more; how often it was read so far."""
        ends_at, reads = time.monotonic() + BOUND_S, -1
        while reads != self.watch.reads:
            assert time.monotonic() < ends_at
            reads = self.watch.reads
            threading.Event().wait(0.6)  # two intervals without a read: it waits for a hint
        return reads

    def cpu_s(self) -> float:
        """Processor time of the watch's threads so far."""
        threads = [thread for thread in threading.enumerate() if thread.name.startswith(("observer", "netlink"))]
        clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads if thread.ident is not None]
        return sum(time.clock_gettime(clock) for clock in clocks)

    def _run(self) -> None:
        try:
            with inside(self._namespace):
                if self._without_netlink:
                    refuse_netlink()
                asyncio.set_event_loop(self._loop)
                self._loop.run_until_complete(self._watch())
        except Exception as error:  # noqa: BLE001 - the test's thread raises it
            with self._more:
                self._error = error
                self._more.notify_all()
        finally:
            self._loop.close()

    async def _watch(self) -> None:
        following = asyncio.ensure_future(self._follow())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({following, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await self.watch.close()
        await following
        stopping.cancel()

    async def _follow(self) -> None:
        async for state in self.watch.snapshots():
            with self._more:
                self.times.append(time.monotonic())
                self.states.append(state)
                self._more.notify_all()


def refuse_netlink() -> None:
    """From now on the kernel refuses this thread sockets of AF_NETLINK, with EPERM. There is no way back."""
    arch, socket_call = _SYSCALLS[platform.machine()]
    load, jump, give = 0x20, 0x15, 0x06  # the next word, equal or not, the verdict
    allow, refuse = 0x7FFF0000, 0x00050000 | 1
    program = [
        (load, 0, 0, 4), (jump, 0, 4, arch), (load, 0, 0, 0), (jump, 0, 2, socket_call), (load, 0, 0, 16),
        (jump, 1, 0, 16), (give, 0, 0, allow), (give, 0, 0, refuse),
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, header, 0, 0)):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "no seccomp filter here")
