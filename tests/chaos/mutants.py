"""Recorders and receivers with one planted fault each, as in tests/campaign/mutants.py.

free-before-durable    the card's segments are given back as soon as the next one is begun (recorder)
receiver-early-ack     acknowledged on receipt, written and synced a second later (receiver)
tail-short             recovery believes one whole record too few (recorder)
tail-long              recovery believes one record too many (recorder)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.campaign.mutants import receiver_early_ack


def free_before_durable() -> None:
    """What was written once counts as not needed any more."""
    from edge.runtime.ports import Card
    from edge.runtime.spooler import Held, Spooler

    def free(self: Spooler, held: Held, card: Card) -> None:
        card.free(1 << 40)

    Spooler._free = free  # type: ignore[method-assign]


def _tail(change: Callable[[Any, Any], Any]) -> None:
    import edge.adapters.spool.directory

    directory: Any = edge.adapters.spool.directory
    whole = directory.tail_of

    def tail_of(segments: Any, **options: Any) -> Any:
        tail, torn = whole(segments, **options)
        return (tail if options["is_sealed"] or not tail.last_seq else change(segments, tail)), torn

    directory.tail_of = tail_of


def tail_short() -> None:
    """The last record is cut off, though whole."""

    def change(segments: Any, tail: Any) -> Any:
        if tail.last_seq <= segments[-1].header.first_seq:
            return tail
        frames = segments[-1].header.packet_frames
        return replace(tail, last_seq=tail.last_seq - 1, end_position=tail.end_position - frames)

    _tail(change)


def tail_long() -> None:
    """What follows the last whole record counts as one more."""

    def change(segments: Any, tail: Any) -> Any:
        frames = segments[-1].header.packet_frames
        return replace(tail, last_seq=tail.last_seq + 1, end_position=tail.end_position + frames)

    _tail(change)


MUTANTS: dict[str, Callable[[], None]] = {
    "free-before-durable": free_before_durable,
    "receiver-early-ack": receiver_early_ack,
    "tail-short": tail_short,
    "tail-long": tail_long,
}


def plant(name: str) -> None:
    """Plant the fault `name`, if any."""
    if name:
        MUTANTS[name]()
