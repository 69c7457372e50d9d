"""The capture thread: read, copy into the ring, say so. It never waits for the network, the card or the LEDs.

What the thread finds reaches the loop as a `Finding`, in order, through a deque and one wake-up; the ledger belongs to
the loop alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from edge.core.ring import Ring
from edge.errors import EdgeError, InternalError, MicrophoneError
from edge.runtime.ports import Block, Source, SourceInfo

STOP_PATIENCE_S = 5.0  # a source that has not come back for so long after a stop is given up
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
    through, or was given up: then nothing that it still brings is taken."""

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
        self._rate_hz = 0
        self._is_stopping = False
        self._is_given_up = False
        self._has_signalled = False
        self._space = threading.Event()
        self._writing = threading.Lock()  # held while the ring is written: after a give-up it is not any more
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    def start(self) -> None:
        """Begin to capture; `opened` tells what the source gives, or raises why it does not."""
        self._thread.start()

    def stop(self) -> None:
        """No more frames after the read that is under way."""
        if not self._is_stopping:
            self._loop.call_later(STOP_PATIENCE_S, self._give_up)
        self._is_stopping = True
        self._space.set()

    def has_space(self) -> None:
        """The ring was released: a source that can wait may go on."""
        self._space.set()

    def _give_up(self) -> None:
        if not self.ended.done():
            with self._writing:
                self._is_given_up = True
            self._end(MicrophoneError("the source does not answer", "what it gave until then is there"))

    # --- in the thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: EdgeError | None = None
        try:
            info = self._source.open()
            self._rate_hz = info.audio.rate_hz
            self._call(lambda: self._open(info))
            while not self._is_stopping and self._left != 0:
                block = self._source.read()
                self.heartbeat = time.monotonic()
                self._take(block)
                if block.ended:
                    break
        except EdgeError as caught:
            error = caught
        except Exception as caught:  # noqa: BLE001  (a bug must not end in a silent thread)
            error = InternalError(f"capture failed: {type(caught).__name__}: {caught}")
        try:
            self._source.close()
        except Exception as caught:  # noqa: BLE001  (nor must this one)
            error = error or InternalError(f"the source cannot be closed: {type(caught).__name__}: {caught}")
        self._call(lambda: self._end(error))

    def _call(self, function: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody wants to know any more
            self._loop.call_soon_threadsafe(function)

    def _open(self, info: SourceInfo) -> None:
        if not self.opened.done():
            self.opened.set_result(info)

    def _end(self, error: EdgeError | None) -> None:
        if self.ended.done():
            return
        self._deliver()
        if not self.opened.done():
            self.opened.set_exception(error or InternalError("the source ended before it was open"))
        self.ended.set_result(error)

    def _take(self, block: Block) -> None:
        frame_bytes = self._ring.frame_bytes
        lost, data = block.lost_frames, memoryview(block.data)
        if lost < 0 or (lost and not block.cause):
            raise InternalError(f"the source lost {lost} frames for {block.cause!r}")
        if self._left is not None:
            lost = min(lost, self._left)
            data = data[: (self._left - lost) * frame_bytes]
            self._left -= lost + len(data) // frame_bytes
        if not self._source.can_wait:
            self._store(block.boot_s, data, lost, block.cause)
            return
        step = max(1, self._ring.capacity_frames // 2) * frame_bytes  # a block may be longer than the ring
        for start in range(0, max(1, len(data)), step):
            part = data[start : start + step]
            has_room = self._wait_for(len(part) // frame_bytes)
            if not has_room:
                # A stop came first. What is not taken is still where it was: the recording ends here, nothing is lost.
                part = part[: self._ring.free_frames * frame_bytes]
            boot_s = block.boot_s + start / frame_bytes / self._rate_hz
            self._store(boot_s, part, 0 if start else lost, block.cause)
            if not has_room:
                return

    def _store(self, boot_s: float, data: memoryview, lost: int, cause: str) -> None:
        frames = len(data) // self._ring.frame_bytes
        with self._writing:
            if self._is_given_up:
                return
            stored = self._ring.write(data)
        if lost or frames:
            self.findings.append(Finding(boot_s, stored, lost, cause, frames - stored))
            if not self._has_signalled:
                self._has_signalled = True
                self._call(self._deliver)

    def _wait_for(self, frames: int) -> bool:
        """Return when the ring has room for `frames`; False where a stop came first."""
        while self._ring.free_frames < frames:
            if self._is_stopping:
                return False
            self._space.wait(_SPACE_CHECK_S)
            self._space.clear()
            self.heartbeat = time.monotonic()
        return True

    def _deliver(self) -> None:
        self._has_signalled = False
        self._on_findings()
