"""Leases: the ring gives back what no recording needs any more, and nothing else."""

from __future__ import annotations

from edge.core.ring import Ring
from edge.runtime.lease import RingShare


def test_the_ring_gives_back_what_nobody_needs() -> None:
    ring = Ring(100, 1)
    share = RingShare(ring)
    first = share.lease()
    ring.write(bytes(40))
    second = share.lease()
    ring.write(bytes(40))
    second.move(60)
    assert ring.tail == 0  # the first one still needs all
    first.move(30)
    assert ring.tail == 30
    first.move(20)  # late news
    assert (first.needs, ring.tail) == (30, 30)
    first.move(80)
    assert ring.tail == 60
    second.end()
    assert ring.tail == 80
    first.end()
    first.end()
    assert ring.tail == 80
    third = share.lease()
    assert third.needs == 80


def test_what_was_captured_for_nobody_is_given_back_at_the_next_turn() -> None:
    ring = Ring(10, 1)
    share = RingShare(ring)
    lease = share.lease()
    ring.write(bytes(6))
    lease.end()
    assert ring.tail == 6
    share.settle()
    assert ring.tail == 6
