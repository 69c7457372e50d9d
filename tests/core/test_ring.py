"""Ring: positions, refusal of the newest, wrap-around, and no way to write over what is owed."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.ring import Ring
from edge.errors import InternalError


def content(ring: Ring, offset: int, frames: int) -> bytes:
    return b"".join(ring.read(offset, frames))


def test_what_is_written_is_read_by_offset() -> None:
    ring = Ring(8, 2)
    assert ring.write(b"aabbcc") == 3
    assert (ring.head, ring.tail, ring.kept_frames, ring.free_frames) == (3, 0, 3, 5)
    assert content(ring, 1, 2) == b"bbcc"


def test_the_newest_is_refused_when_full() -> None:
    ring = Ring(3, 1)
    assert ring.write(b"abcde") == 3
    assert ring.write(b"f") == 0
    assert content(ring, 0, 3) == b"abc"
    ring.release(1)
    assert ring.write(b"fg") == 1
    assert content(ring, 1, 3) == b"bcf"


def test_a_write_and_a_read_may_wrap() -> None:
    ring = Ring(4, 2)
    ring.write(b"aabbcc")
    ring.release(3)
    assert ring.write(b"ddeeff") == 3
    assert len(ring.read(3, 3)) == 2
    assert content(ring, 3, 3) == b"ddeeff"
    assert len(ring.read(3, 1)) == 1


def test_a_write_that_ends_at_the_edge_does_not_wrap() -> None:
    ring = Ring(4, 1)
    ring.write(b"ab")
    assert ring.write(memoryview(b"cd")) == 2
    assert len(ring.read(0, 4)) == 1
    assert ring.write(b"") == 0


@pytest.mark.parametrize(("capacity", "frame_bytes"), [(0, 2), (4, 0)])
def test_a_ring_of_nothing_is_refused(capacity: int, frame_bytes: int) -> None:
    with pytest.raises(InternalError, match="holds nothing"):
        Ring(capacity, frame_bytes)


def test_a_ring_may_be_tiny() -> None:
    assert Ring(1, 1).write(b"ab") == 1


def test_half_a_frame_is_refused() -> None:
    with pytest.raises(InternalError, match="whole number"):
        Ring(4, 2).write(b"abc")


@pytest.mark.parametrize(("offset", "frames"), [(0, 1), (1, 3), (1, 0), (3, 1)])
def test_only_what_is_kept_can_be_read(offset: int, frames: int) -> None:
    ring = Ring(4, 1)
    ring.write(b"abc")
    ring.release(1)
    with pytest.raises(InternalError, match="not in the ring"):
        ring.read(offset, frames)


@pytest.mark.parametrize("offset", [0, 4])
def test_only_what_is_kept_can_be_released(offset: int) -> None:
    ring = Ring(4, 1)
    ring.write(b"abc")
    ring.release(1)
    with pytest.raises(InternalError, match="cannot release"):
        ring.release(offset)
    ring.release(1)
    ring.release(3)
    assert ring.kept_frames == 0


def test_the_newest_frames_may_be_looked_at_whether_released_or_not() -> None:
    ring = Ring(4, 2)
    assert ring.latest(3) == ()
    ring.write(b"aabb")
    assert b"".join(ring.latest(3)) == b"aabb"
    assert b"".join(ring.latest(1)) == b"bb"
    assert ring.latest(0) == ()
    ring.release(2)
    ring.write(b"ccddee")
    assert b"".join(ring.latest(3)) == b"ccddee"
    ring.release(5)
    assert b"".join(ring.latest(9)) == b"bbccddee"


def test_every_page_is_touched_at_the_start_and_nothing_is_allocated_later() -> None:
    tracemalloc.start()
    try:
        ring = Ring(100_000, 2)
        before = tracemalloc.get_traced_memory()[0]
        block = bytes(3200)
        for _ in range(500):
            ring.write(block)
            ring.read(ring.tail, ring.kept_frames)
            ring.release(ring.head)
        assert tracemalloc.get_traced_memory()[0] - before < 5_000
    finally:
        tracemalloc.stop()


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=40), st.integers(1, 9))
def test_a_ring_is_a_bounded_queue(steps: list[tuple[int, int]], capacity: int) -> None:
    ring, model, count = Ring(capacity, 1), bytearray(), 0
    for write, release in steps:
        data = bytes((count + i) % 251 for i in range(write))
        fits = min(write, capacity - len(model))
        assert ring.write(data) == fits
        model += data[:fits]
        count += fits
        gone = min(release, len(model))
        ring.release(ring.tail + gone)
        del model[:gone]
        assert ring.kept_frames == len(model)
        assert ring.free_frames == capacity - len(model)
        if model:
            assert content(ring, ring.tail, ring.kept_frames) == model


def test_latest_gives_the_newest_frames_though_they_were_released() -> None:
    ring = Ring(4, 2)
    assert ring.latest(3) == ()
    ring.write(b"aabbcc")
    ring.release(3)
    assert b"".join(ring.latest(2)) == b"bbcc"
    ring.write(b"ddee")
    assert b"".join(ring.latest(3)) == b"ccddee"
    assert b"".join(ring.latest(9)) == b"bbccddee"


def test_a_copy_is_there_until_the_writer_claims_its_place() -> None:
    ring = Ring(4, 2)
    ring.write(b"aabbcc")
    assert ring.copy(0, 3) == b"aabbcc"
    assert ring.copy(1, 1) == b"bb"
    assert ring.copy(1, 3) is None  # not captured yet
    assert ring.copy(0, 0) is None
    ring.release(3)
    assert ring.copy(0, 3) == b"aabbcc"  # released is not overwritten
    ring.write(b"ddee")
    assert ring.copy(0, 1) is None
    assert ring.copy(1, 4) == b"bbccddee"


def test_a_copy_that_was_overtaken_while_it_was_made_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(4, 1)
    ring.write(b"abcd")
    ring.release(4)
    views = Ring._views

    def overtaken(self: Ring, offset: int, frames: int) -> tuple[memoryview, ...]:
        found = views(self, offset, frames)
        monkeypatch.setattr(Ring, "_views", views)
        self.write(b"x")
        return found

    monkeypatch.setattr(Ring, "_views", overtaken)
    assert ring.copy(0, 2) is None
    assert ring.copy(1, 2) == b"bc"
