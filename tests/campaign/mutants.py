"""Recorders and receivers with one planted fault each: `python -m tests.campaign.mutants NAME COMMAND...`.

The audit is worth what it finds. Each mutant replaces one function of the product in its own process and then is the
command `edge`; the product knows nothing of it. This is the only file of the campaign that imports `edge`.

    free-at-send           what was sent counts as delivered (recorder)
    skip-packet            one packet is never sent (recorder)
    receiver-early-ack     acknowledged on receipt, written and synced a second later (receiver)
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from edge.core.delivery import AckedDelivery, PlainDelivery

SKIPPED = 50  # the number of the packet that skip-packet withholds
UNWRITTEN_S = 1.0  # how long receiver-early-ack keeps acknowledged audio to itself


def free_at_send() -> None:
    """`delivered` follows `sent`, so the ring gives the memory back at once."""
    plain, acked = PlainDelivery.sending, AckedDelivery.sending

    def plain_sending(self: PlainDelivery, seq: int, now: float, *, short: bool) -> None:
        plain(self, seq, now, short=short)
        self.resume = self.delivered = self.clear = self._proved = seq

    def acked_sending(self: AckedDelivery, seq: int, now: float, *, short: bool) -> None:
        acked(self, seq, now, short=short)
        self.resume = self.delivered = seq

    PlainDelivery.sending = plain_sending  # type: ignore[method-assign]
    AckedDelivery.sending = acked_sending  # type: ignore[method-assign]


def skip_packet() -> None:
    """The socket's queue loses one packet."""
    from edge.runtime.channel import Channel, Item

    whole = Channel.send

    def send(self: Channel, item: Item, *, ahead: bool = False) -> None:
        if isinstance(item, tuple) and item[0] <= SKIPPED <= item[1]:
            for part in ((item[0], SKIPPED - 1), (SKIPPED + 1, item[1])):
                if part[0] <= part[1]:
                    whole(self, part)
        else:
            whole(self, item, ahead=ahead)

    Channel.send = send  # type: ignore[method-assign]


def receiver_early_ack() -> None:
    """A commit is announced before it is made; the samples wait in the process's memory meanwhile."""
    from edge.receiver.committer import Committer
    from edge.receiver.store import Batch

    whole = Committer._commit

    async def commit(self: Committer, batch: Batch) -> bool:
        durable, durable_next = self._store.durable, self._store.durable_next
        self._store.durable, self._store.durable_next = batch.ticket, batch.next_seq
        self._on_durable()
        await asyncio.sleep(UNWRITTEN_S)
        self._store.durable, self._store.durable_next = durable, durable_next
        return await whole(self, batch)

    Committer._commit = commit  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    "free-at-send": free_at_send,
    "skip-packet": skip_packet,
    "receiver-early-ack": receiver_early_ack,
}


def main() -> int:
    """Plant the fault named first, then be `edge`."""
    from edge.cli.main import main as edge

    MUTANTS[sys.argv[1]]()
    return edge(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
