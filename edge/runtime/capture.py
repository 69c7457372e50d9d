"""The capture thread: read, copy into the ring, say so. It never waits for the network, the card or the LEDs.

What the thread finds reaches the loop as a `Finding`, in order, through a deque and one wake-up; the ledger belongs to
the loop alone.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge.core.ring import Ring
from edge.errors import EdgeError, InternalError
from edge.runtime.ports import Block, Source, SourceInfo

_SPACE_CHECK_S = 0.5


@dataclass(frozen=True, slots=True)
class Finding:
    """`lost` frames of `cause`, then `stored` frames whose first was captured at `boot_s`, then `refused` by a full
    ring."""

    boot_s: float
    stored: int
    lost: int = 0
    cause: str = ""
    refused: int = 0


class Capture:
    """Owns the thread and the source. `on_findings` is called in the loop; `ended` is set when the thread is
    through."""

    def __init__(
        self, source: Source, ring: Ring, on_findings: Callable[[], None], limit_frames: int | None = None
    ) -> None:
        self.findings: deque[Finding] = deque()
        self.opened: asyncio.Future[SourceInfo] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[EdgeError | None] = asyncio.get_running_loop().create_future()
        self.heartbeat = time.monotonic()
        self._source = source
        self._ring = ring
        self._on_findings = on_findings
        self._loop = asyncio.get_running_loop()
        self._left = limit_frames
        self._is_stopping = False
        self._has_signalled = False
        self._space = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to capture; `opened` tells what the source gives, or raises why it does not."""
        self._thread.start()

    def stop(self) -> None:
        """No more frames after the read that is under way."""
        self._is_stopping = True
        self._space.set()

    def has_space(self) -> None:
        """The ring was released: a source that can wait may go on."""
        self._space.set()

    # --- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: EdgeError | None = None
        try:
            info = self._source.open()
            self._call(lambda: self.opened.set_result(info))
            while not self._is_stopping and self._left != 0:
                block = self._source.read()
                self.heartbeat = time.monotonic()
                self._take(block)
                if block.ended:
                    break
        except EdgeError as caught:
            error = caught
        except Exception as caught:  # a bug must not end in a silent thread
            error = InternalError(f"capture failed: {type(caught).__name__}: {caught}")
        finally:
            self._source.close()
            self._call(lambda: self._end(error))

    def _call(self, function: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def _end(self, error: EdgeError | None) -> None:
        self._deliver()
        if not self.opened.done():
            self.opened.set_exception(error or InternalError("the source ended before it was open"))
        self.ended.set_result(error)

    def _take(self, block: Block) -> None:
        frame_bytes = self._ring.frame_bytes
        lost, data = block.lost_frames, memoryview(block.data)
        if self._left is not None:
            lost = min(lost, self._left)
            data = data[: (self._left - lost) * frame_bytes]
        frames = len(data) // frame_bytes
        if self._source.can_wait:
            self._wait_for(frames)
        stored = self._ring.write(data)
        if self._left is not None:
            self._left -= lost + frames
        if lost or frames:
            self.findings.append(Finding(block.boot_s, stored, lost, block.cause, frames - stored))
            if not self._has_signalled:
                self._has_signalled = True
                self._call(self._deliver)

    def _wait_for(self, frames: int) -> None:
        while self._ring.free_frames < min(frames, self._ring.capacity_frames) and not self._is_stopping:
            self._space.wait(_SPACE_CHECK_S)
            self._space.clear()
            self.heartbeat = time.monotonic()

    def _deliver(self) -> None:
        self._has_signalled = False
        self._on_findings()
