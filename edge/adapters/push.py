"""Audio that a program brings itself, and a thread that feeds it from another source."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from edge.core.packet import AudioFormat
from edge.errors import EdgeError, InternalError
from edge.runtime.ports import Block, Source, SourceInfo

_READ_S = 0.5
_STOP_PATIENCE_S = 5.0


class PushSource:
    """A Source that is fed by `push`: at most as much as the ring, which starts empty, has room for is held back."""

    can_wait = False
    can_return = False

    def __init__(self, audio: AudioFormat, period_frames: int, ring_frames: int) -> None:
        self._audio = audio
        self._period_frames = period_frames
        self._ring_frames = ring_frames
        self._blocks: queue.SimpleQueue[Block] = queue.SimpleQueue()
        self._accepted_frames = 0
        self._has_ended = False
        self._lock = threading.Lock()

    def push(self, block: Block, released_frames: int) -> int:
        """Hand over a block; returns the frames accepted, 0 after the end. What does not fit stands as an overflow in
        the account. `released_frames` is what the ring was given back so far."""
        frames = len(block.data) // self._audio.frame_bytes
        with self._lock:
            if self._has_ended:
                return 0
            self._has_ended = block.ended
            taken = max(0, min(frames, self._ring_frames - (self._accepted_frames - released_frames)))
            self._accepted_frames += taken
            data = bytes(memoryview(block.data)[: taken * self._audio.frame_bytes])
            self._blocks.put(Block(data, block.boot_s, block.lost_frames, block.cause, block.ended))
            if taken < frames:
                self._blocks.put(Block(b"", block.boot_s, frames - taken, "overflow"))
        return taken

    def open(self) -> SourceInfo:
        """Nothing to open."""
        return SourceInfo("pushed audio", self._audio, self._period_frames)

    def read(self) -> Block:
        """What was pushed next, or an empty block after half a second."""
        try:
            return self._blocks.get(timeout=_READ_S)
        except queue.Empty:
            return Block(b"", time.clock_gettime(time.CLOCK_BOOTTIME))

    def close(self) -> None:
        """Nothing to close."""


class Feeder:
    """A thread that reads a source and hands over its blocks."""

    def __init__(self, source: Source, push: Callable[[Block], int], fail: Callable[[EdgeError], object]) -> None:
        self._source = source
        self._push = push
        self._fail = fail
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """False once the source has ended or failed."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Wait for the read that is under way, but not for a source that does not come back."""
        self._is_stopping = True
        self._thread.join(_STOP_PATIENCE_S)

    def _run(self) -> None:
        try:
            self._source.open()
            while not self._is_stopping:
                block = self._source.read()
                self._push(Block(block.data, block.boot_s, block.lost_frames, block.cause))
                if block.ended:
                    return
        except EdgeError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001  (a bug must not end in a silent thread)
            self._fail(InternalError(f"capture failed: {type(error).__name__}"))
        finally:
            self._source.close()
