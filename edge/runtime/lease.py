"""Who still needs which part of the ring. Several recordings may have audio in it at once, the oldest first."""

from __future__ import annotations

from edge.core.ring import Ring


class Lease:
    """One recording's hold on the ring: frames from `needs` on must not be overwritten."""

    def __init__(self, share: RingShare, needs: int) -> None:
        self._share = share
        self.needs = needs

    def move(self, offset: int) -> None:
        """Frames before `offset` are delivered, or safe on the card."""
        if offset > self.needs:
            self.needs = offset
            self._share.settle()

    def end(self) -> None:
        """Nothing of it is needed any more."""
        self._share.drop(self)


class RingShare:
    """Gives back to the ring what nobody needs."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self._leases: list[Lease] = []

    def lease(self) -> Lease:
        """A hold on all that comes from now on."""
        lease = Lease(self, self.ring.head)
        self._leases.append(lease)
        return lease

    def drop(self, lease: Lease) -> None:
        """See `Lease.end`."""
        if lease in self._leases:
            self._leases.remove(lease)
            self.settle()

    def settle(self) -> None:
        """Release up to the first frame that is still needed."""
        needs = min((lease.needs for lease in self._leases), default=self.ring.head)
        if needs > self.ring.tail:
            self.ring.release(needs)
