"""Packets come from the ring as long as they are there, else from the card; what is in neither is lost."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from edge.core.journal import LostEntry
from tests.runtime.cardrig import CardRig, Live, P
from tests.runtime.fakes import pattern, wire

Make = Callable[..., CardRig]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    rigs: list[CardRig] = []

    def rig(**options: Any) -> CardRig:
        rigs.append(CardRig(tmp_path, **options))
        return rigs[-1]

    yield rig
    for each in rigs:
        await each.close()


def audio(live: Live, seq: int) -> bytes:
    return wire(live.recording, seq)[32:]


async def test_what_is_still_in_memory_is_not_lost_though_the_card_has_it_not_yet(make: Make) -> None:
    rig = make(ring_packets=20)
    live = rig.begin()
    live.talk(20)
    await rig.round()
    live.talk(15)  # over the oldest ones
    assert live.recording.wire(10) is None
    assert live.recording.load is not None
    await live.recording.load(10, 35)
    assert live.ledger.lost == {}
    for seq in range(10, 36):
        assert audio(live, seq) == pattern((seq - 1) * P, P)
    await rig.round()
    assert rig.on_card().keys() == set(range(1, 36))


async def test_a_packet_that_cannot_be_read_is_lost_and_those_around_it_are_not(make: Make) -> None:
    rig = make(ring_packets=20)
    live = rig.begin()
    live.talk(20)
    await rig.round()
    live.talk(20)
    await rig.round()
    card, _ = rig.load()
    with card.segments[0].path.open("r+b") as file:
        file.seek(card.segments[0].header.place(3) + 90)
        file.write(b"?")
    assert live.recording.load is not None
    await live.recording.load(1, 20)
    assert live.ledger.lost == {"card": P}
    assert live.ledger.is_lost(3)
    assert [audio(live, seq) for seq in (2, 4)] == [pattern(P, P), pattern(3 * P, P)]
    await live.recording.load(2, 5)  # known by now
    assert live.ledger.lost == {"card": P}
    await rig.round()
    card, found = rig.load()
    assert [entry for entry in card.entries() if isinstance(entry, LostEntry)] == [LostEntry(3, 3, P, "card")]
    assert found.ledger.lost == {"card": P}


async def test_a_bad_sector_ends_a_read_and_costs_its_packet_only(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that meets one returns what it has got by then; only the next one fails."""
    rig = make(ring_packets=20)
    live = rig.begin()
    for _ in range(2):
        live.talk(20)
        await rig.round()
    card, _ = rig.load()
    bad = card.segments[0].header.place(4) + 100
    pread = os.pread

    def read(descriptor: int, size: int, place: int) -> bytes:
        if place <= bad < place + size:
            if place < bad - 200:
                return pread(descriptor, bad - place, place)
            raise OSError(errno.EIO, "bad sector")
        return pread(descriptor, size, place)

    monkeypatch.setattr(os, "pread", read)
    assert live.recording.load is not None
    await live.recording.load(1, 10)  # of one file
    assert live.ledger.lost == {"card": P}
    assert live.ledger.is_lost(4)
    assert audio(live, 5) == pattern(4 * P, P)


async def test_what_is_not_the_cards_fault_costs_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = make(ring_packets=20)
    live = rig.begin()
    for _ in range(2):
        live.talk(20)
        await rig.round()
    assert live.recording.load is not None

    def refuse(*args: Any, **options: Any) -> Any:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(OSError, match="too many"):
            await live.recording.load(1, 20)
    assert live.ledger.lost == {}
    await live.recording.load(1, 20)
    assert audio(live, 1) == pattern(0, P)


async def test_nothing_is_read_from_a_card_that_never_took_anything(make: Make) -> None:
    rig = make()
    live = rig.begin()
    live.talk(2)
    assert live.recording.load is not None
    await live.recording.load(1, 2)
    assert live.ledger.lost == {}
    assert audio(live, 2) == pattern(P, P)


async def test_late_stamps_go_by_what_is_known_of_the_clock_now(make: Make) -> None:
    rig = make(ring_packets=20)
    live = rig.begin()
    for _ in range(2):
        live.talk(20)
        await rig.round()
    assert live.recording.load is not None
    await live.recording.load(1, 2)
    before = wire(live.recording, 1)
    rig.clock.set(1.8e9, trusted=True)
    rig.watch.look()
    assert wire(live.recording, 1) != before
    assert wire(live.recording, 1)[16:] == before[16:]
