"""Fixed-size ring of captured frames in memory that is allocated once.

One thread writes (capture), one reads and releases (the loop). Offsets count the frames ever stored; they only grow,
and the ledger maps them to the recording's positions. `head` moves in `write` alone and `tail` in `release` alone,
each as the last step, so the two sides need no lock.
"""

from __future__ import annotations

from edge.errors import InternalError

_PAGE_BYTES = 4096


class Ring:
    """Frames in [tail, head) are kept; a frame that does not fit is refused, never written over another."""

    def __init__(self, capacity_frames: int, frame_bytes: int) -> None:
        if capacity_frames < 1 or frame_bytes < 1:
            raise InternalError(f"a ring of {capacity_frames} frames of {frame_bytes} bytes holds nothing")
        self.capacity_frames = capacity_frames
        self.frame_bytes = frame_bytes
        self.head = 0
        self.tail = 0
        self._claimed = 0  # frames before this minus the capacity are being overwritten, or have been
        self._memory = memoryview(bytearray(capacity_frames * frame_bytes))
        for byte in range(0, len(self._memory), _PAGE_BYTES):
            self._memory[byte] = (
                0  # the kernel hands out a page at its first write: now, not in the middle of an outage
            )

    @property
    def kept_frames(self) -> int:
        """Frames stored and not yet released."""
        return self.head - self.tail

    @property
    def free_frames(self) -> int:
        """Frames that a write would accept."""
        return self.capacity_frames - self.kept_frames

    def write(self, data: bytes | memoryview) -> int:
        """Store the oldest frames of `data` that fit; returns their number. The rest is refused and is the caller's to
        count."""
        frames, rest = divmod(len(data), self.frame_bytes)
        if rest:
            raise InternalError(f"{len(data)} bytes are no whole number of {self.frame_bytes}-byte frames")
        frames = min(frames, self.free_frames)
        self._claimed = self.head + frames
        start = self.head % self.capacity_frames * self.frame_bytes
        stop = start + frames * self.frame_bytes
        source = memoryview(data)
        if stop <= len(self._memory):
            self._memory[start:stop] = source[: frames * self.frame_bytes]
        else:
            first = len(self._memory) - start
            self._memory[start:] = source[:first]
            self._memory[: stop - len(self._memory)] = source[first : frames * self.frame_bytes]
        self.head += frames
        return frames

    def read(self, offset: int, frames: int) -> tuple[memoryview, ...]:
        """The frames at [offset, offset + frames) as one view, or two where the ring wraps. Valid until released."""
        if frames < 1 or offset < self.tail or offset + frames > self.head:
            raise InternalError(f"frames {offset} to {offset + frames} are not in the ring [{self.tail}, {self.head})")
        return self._views(offset, frames)

    def copy(self, offset: int, frames: int) -> bytes | None:
        """A copy of the frames at [offset, offset + frames), released or not; None where they are overwritten by now.

        For any thread: what the writer claims before it copies is looked at again after the copy.
        """
        if frames < 1 or offset + frames > self.head or not self._holds(offset):
            return None
        data = b"".join(self._views(offset, frames))
        return data if self._holds(offset) else None

    def _holds(self, offset: int) -> bool:
        return offset >= self._claimed - self.capacity_frames

    def latest(self, frames: int) -> tuple[memoryview, ...]:
        """The newest frames, at most `frames`, released or not: for a level meter. Empty where there are none."""
        frames = min(frames, self.head, self.capacity_frames)
        return self._views(self.head - frames, frames) if frames > 0 else ()

    def _views(self, offset: int, frames: int) -> tuple[memoryview, ...]:
        start = offset % self.capacity_frames * self.frame_bytes
        stop = start + frames * self.frame_bytes
        if stop <= len(self._memory):
            return (self._memory[start:stop],)
        return self._memory[start:], self._memory[: stop - len(self._memory)]

    def release(self, offset: int) -> None:
        """Give back all frames before `offset`. Only what is delivered or safe on the card may be given back."""
        if not self.tail <= offset <= self.head:
            raise InternalError(f"cannot release up to {offset}: the ring holds [{self.tail}, {self.head})")
        self.tail = offset
