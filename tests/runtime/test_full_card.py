"""A card that takes no more: what goes first, what is given up, and what people are told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from edge.core.journal import LostEntry
from edge.core.manifest import CardState
from edge.runtime.store import DROP_OLDEST
from tests.runtime.cardrig import IDS, SEGMENT, CardRig, P
from tests.runtime.fakes import pattern

ROOM = 5  # segments
FULL = [("card", "the card is full; recording goes on in memory, the card is tried again")]
Make = Callable[..., CardRig]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    rigs: list[CardRig] = []

    def rig(**options: Any) -> CardRig:
        limit = {"max_bytes": ROOM * SEGMENT, **options.pop("options", {})}
        rigs.append(CardRig(tmp_path, options=limit, **options))
        rigs[-1].directory.prepare()
        rigs[-1].directory._used = 0  # folders: small change, which would count as a segment here
        return rigs[-1]

    yield rig
    for each in rigs:
        await each.close()


def cards(rig: CardRig) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in rig.told if kind == "card"]


async def test_the_oldest_of_the_only_recording_is_dropped_and_the_rest_goes_on(make: Make) -> None:
    rig = make(ring_packets=30, when_full=DROP_OLDEST)
    live = rig.begin()
    live.talk(25)
    await rig.round()
    live.talk(25)
    await rig.round()
    assert live.ledger.synced == 50
    live.talk(10)
    await rig.round()
    assert cards(rig) == FULL
    assert rig.spooler.is_full
    assert rig.store.drop_oldest() == 10 * P / 16000
    await rig.round(2)
    assert live.ledger.synced == 60
    assert cards(rig)[1:] == [("card", "the card takes audio again; what was only in memory is on it now")]
    assert live.ledger.lost == {"overflow": 10 * P}
    _, found = rig.load()
    assert (found.ledger.lost, found.ledger.expected) == ({"overflow": 10 * P}, 60 * P)
    assert rig.on_card() == {seq: ((seq - 1) * P, pattern((seq - 1) * P, P)) for seq in range(11, 61)}


async def test_what_is_given_up_goes_once_its_loss_is_durable_and_not_before(make: Make) -> None:
    rig = make(when_full=DROP_OLDEST)
    live = rig.begin()
    live.talk(30)
    await rig.round()
    card = live.keeper.held.card
    assert card is not None
    seen: list[list[int]] = []
    free = card.free

    def watched(last: int) -> None:
        noted = [entry.last for entry in rig.load()[0].entries() if isinstance(entry, LostEntry)]
        seen.append([last, *noted])
        free(last)

    card.free = watched  # type: ignore[method-assign]
    rig.store.drop_oldest()
    await rig.round()
    assert [10, 10] in seen
    assert [10] not in seen


async def test_while_one_segment_is_on_its_way_out_no_other_is_given_up(make: Make) -> None:
    rig = make(when_full=DROP_OLDEST)
    first, second = rig.begin(), rig.begin(IDS[1])
    first.talk(15)
    await rig.round()
    second.talk(15)
    await rig.round()
    assert rig.store.drop_oldest() > 0
    assert rig.store.drop_oldest() == 0  # not one of the second recording's instead
    await rig.round()
    assert rig.store.drop_oldest() > 0  # of the first one only the current segment is left
    await rig.round()
    assert (first.ledger.lost, second.ledger.lost) == ({"overflow": 10 * P}, {"overflow": 10 * P})
    assert rig.store.drop_oldest() == 0
    assert rig.on_card().keys() == rig.on_card(IDS[1]).keys() == set(range(11, 16))


async def test_what_is_dropped_may_be_lost_already_or_delivered(make: Make) -> None:
    rig = make(when_full=DROP_OLDEST, keep_days=1.0)
    live = rig.begin()
    live.talk(25)
    await rig.round()
    live.deliver(2)
    live.ledger.lose(5, 6, "card")
    assert rig.store.drop_oldest() == 6 * P / 16000
    assert live.ledger.lost == {"card": 2 * P, "overflow": 6 * P}
    await rig.round()
    live.ledger.pass_over(1, 20)
    live.deliver(20)
    assert rig.store.drop_oldest() == 0.0  # nothing is lost, and it goes all the same
    await rig.round()
    assert rig.on_card().keys() == set(range(21, 26))


async def test_delivered_audio_that_is_kept_goes_before_anything_is_given_up(make: Make) -> None:
    rig = make(keep_days=7.0)
    old, live = rig.begin(IDS[1]), rig.begin()
    old.talk(10)
    old.end()
    await rig.round()
    old.deliver(10)
    rig.store.delivered(old.recording)
    await rig.round()
    assert rig.load(IDS[1])[0].manifest.state is CardState.DELIVERED
    live.talk(40)
    await rig.round()
    live.talk(5)
    await rig.round(2)
    assert not (rig.directory.recordings / IDS[1]).exists()
    assert live.ledger.synced == 45
    live.deliver(25)
    live.talk(20)
    await rig.round(3)
    assert live.ledger.synced == 65  # its own, too
    assert rig.on_card().keys() == set(range(21, 66))
    assert (live.ledger.lost, cards(rig)) == ({}, [])
    _, found = rig.load()
    assert found.ledger.delivered_frames == 25 * P


async def test_a_recording_is_sealed_on_a_full_card(make: Make) -> None:
    rig = make()
    live = rig.begin()
    live.talk(50)
    await rig.round()
    live.talk(25)
    await rig.round()
    assert cards(rig) == FULL
    live.end("full")
    await rig.round(2)
    card, found = rig.load()
    assert (card.manifest.state, card.manifest.ended_by, found.ledger.last) == (CardState.SEALED, "full", 75)
    assert await rig.close()


async def test_one_recording_that_cannot_go_on_is_said_once_though_others_can(make: Make) -> None:
    rig = make()
    idle, live = rig.begin(IDS[1]), rig.begin()
    idle.talk(1)
    await rig.round()
    live.talk(60)
    await rig.round(5)
    assert cards(rig) == FULL
    assert idle.ledger.synced == 1


async def test_the_end_is_near_is_said_at_an_hour_and_at_ten_minutes(make: Make) -> None:
    rig = make(options={"max_bytes": 1 << 30})
    live = rig.begin()
    rate = (36 + 32 + 2 * P) * 16000 / P
    for minutes in (200.0, 59.5, 59.0, 9.9, 9.0, 100.0, 59.0):
        rig.directory.room_bytes = lambda minutes=minutes: int(minutes * 60 * rate)  # type: ignore[method-assign,misc]
        live.talk(1)
        await rig.round()
        assert rig.spooler.left_s == pytest.approx(minutes * 60, rel=1e-3)
    assert [text.split()[5] for kind, text in rig.told if kind == "space"] == ["60", "10", "59"]


async def test_a_long_trouble_is_caught_up_in_pieces(make: Make) -> None:
    rig = make(options={"max_bytes": 1 << 30})
    live = rig.begin()
    live.talk(1)
    await rig.round()
    card = live.keeper.held.card
    assert card is not None
    sizes: list[int] = []
    append = card.append

    def watched(packets: Any, offsets: Any, *, beyond_limit: bool = False) -> None:
        sizes.append(len(packets))
        if len(sizes) == 3:
            raise OSError(5, "no")
        append(packets, offsets, beyond_limit=beyond_limit)

    card.append = watched  # type: ignore[method-assign]
    live.talk(1500)
    await rig.round()
    assert live.ledger.synced == 1025  # what was durable by then is safe
    await rig.round()
    assert (live.ledger.synced, sizes) == (1501, [512, 512, 476, 476])
    assert rig.on_card().keys() == set(range(1, 1502))
