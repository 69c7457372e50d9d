"""Ctrl-C, SIGTERM and SIGHUP end a demo alike, whenever they come, and never cut its clean-up short."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """A context manager, for the main thread: inside, each of the signals raises KeyboardInterrupt on the spot, or,
    where something is to be given back first (`held`), afterwards.

    asyncio's own handlers would not do: they exist only as long as the loop, and a signal between the birth of the
    temporary folder and theirs, or between their end and the folder's, would leave it behind.
    """

    def __init__(self) -> None:
        self.has_come = False
        self._is_held = False
        self._cancel: Callable[[], None] = lambda: None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # nohup, or a shell's `&`: whoever ignores one has said so
                self._before[number] = before
                signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        # Once interrupted, the process is on its way out, and one more Ctrl-C would only add a traceback to that.
        for number, before in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.has_come else before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, a signal only ends the task of `ends`; KeyboardInterrupt is raised behind it.

        All further signals change nothing: what is inside takes bounded time to end.
        """
        self._is_held = True
        try:
            yield
        except OSError:
            if not self.has_come:
                raise
            # A hang-up takes the terminal away, and writing to it fails: that is the interruption, not a bug.
        finally:
            self._is_held = False
        if self.has_come:
            raise KeyboardInterrupt

    def ends(self, task: asyncio.Task[Any]) -> None:
        """Cancel `task`, which runs in the current loop, when a signal comes; now, if one came."""
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            # A handler runs between any two instructions, the loop's own among them: it only leaves word, and wakes.
            if not task.done():
                loop.call_soon_threadsafe(task.cancel)

        self._cancel = cancel
        if self.has_come:
            task.cancel()

    def _came(self, number: int, frame: FrameType | None) -> None:
        is_first, self.has_come = not self.has_come, True
        if not self._is_held:
            raise KeyboardInterrupt
        if is_first:
            self._cancel()
