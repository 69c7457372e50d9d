"""The keeper: packets from the ring as long as they are there, else from the card, stamped by what is known today."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.journal import BootEntry, EndEntry, GapEntry, LostEntry
from edge.core.packet import HEADER_BYTES, decode_header
from tests.core.cards import packet
from tests.runtime.cardrig import CardRig, Live, P
from tests.runtime.fakes import pattern


def stamp_s(wire: bytes | None) -> float:
    assert wire is not None
    return decode_header(wire).captured_unix_ms / 1000


def spoil(rig: CardRig, seq: int) -> None:
    card, _ = rig.load()
    [segment] = [each for each in card.segments if each.header.first_seq <= seq <= each.last_seq]
    with segment.path.open("r+b") as file:
        file.seek(segment.header.place(seq) + 100)
        file.write(b"?!")


def on_disk(path: Path) -> list[Path]:
    return list(path.rglob("*.seg"))


async def test_packets_come_from_the_ring_then_from_the_card_and_are_the_same(tmp_path: Path) -> None:
    rig = CardRig(tmp_path, ring_packets=20)
    live = rig.begin()
    live.talk(12)
    before = [live.keeper.wire(seq) for seq in range(1, 13)]
    assert before[2] is not None
    assert before[2][HEADER_BYTES:] == pattern(2 * P, P)
    await rig.round()
    live.talk(15)  # over what is safe on the card
    assert live.keeper.wire(1) is None
    await live.keeper.load(1, 7)
    assert [live.keeper.wire(seq) for seq in range(1, 8)] == before[:7]
    await live.keeper.load(5, 7)  # what is before is not kept for ever
    assert live.keeper.wire(4) is None
    assert live.keeper.wire(27) is not None
    assert await rig.close()


async def test_what_is_loaded_is_stamped_by_what_is_known_by_then(tmp_path: Path) -> None:
    rig = CardRig(tmp_path, ring_packets=20)
    rig.clock.set(5000.0, trusted=False)
    rig.watch.look()
    live = rig.begin()
    live.talk(12)
    await rig.round()
    live.talk(15)
    rig.clock.set(1.7e9, trusted=True)
    rig.watch.look()
    rig.store.clock_changed()
    rig.store.clock_changed()
    await rig.round()
    await live.keeper.load(1, 1)
    assert stamp_s(live.keeper.wire(1)) == pytest.approx(1.7e9 + 100.0)
    boots = [entry for entry in rig.load()[0].entries() if isinstance(entry, BootEntry)]
    assert [boot.trusted for boot in boots].count(True) == 1
    assert await rig.close()


async def test_a_damaged_packet_is_lost_said_once_and_the_delivery_goes_on(tmp_path: Path) -> None:
    rig = CardRig(tmp_path, ring_packets=20)
    live = rig.begin()
    live.talk(12)
    await rig.round()
    live.talk(15)
    await rig.round()
    spoil(rig, 4)
    await live.keeper.load(1, 7)
    assert live.ledger.lost == {"card": P}
    assert live.keeper.wire(3) is not None
    assert live.keeper.wire(5) is not None
    await live.keeper.load(2, 7)
    assert live.ledger.lost == {"card": P}
    await rig.round()
    assert [entry for entry in rig.load()[0].entries() if isinstance(entry, LostEntry)] == [LostEntry(4, 4, P, "card")]
    assert rig.load()[1].ledger.lost == {"card": P}
    assert await rig.close()


async def test_without_a_card_nothing_is_loaded_and_nothing_lost(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    live = rig.begin()
    live.talk(3)
    await live.keeper.load(1, 3)  # before the writer's first round
    assert live.ledger.lost == {}
    assert live.keeper.wire(2) is not None
    assert await rig.close()


async def test_gaps_go_to_the_card_each_once_with_its_place(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    live = rig.begin()
    live.lose(50, "microphone")
    live.talk(2, 30)
    live.lose(7, "xrun")
    live.lose(9, "overflow")
    live.talk(1)
    live.lose(11, "xrun")
    live.end()
    await rig.round(2)
    entries = rig.load()[0].entries()
    start = 50 + 2 * P + 30
    assert [entry for entry in entries if isinstance(entry, GapEntry)] == [
        GapEntry(1, 0, 50, "microphone"),
        GapEntry(4, start, 7, "xrun"),
        GapEntry(4, start + 7, 9, "overflow"),
        GapEntry(5, start + 16 + P, 11, "xrun"),
    ]
    assert entries[-1] == EndEntry(start + 27 + P, "stop")
    assert rig.load()[1].ledger.lost == live.ledger.lost
    assert await rig.close()


async def test_with_no_audio_on_the_card_only_the_account_is_there(tmp_path: Path) -> None:
    rig = CardRig(tmp_path, has_audio=False)
    live = rig.begin()
    live.talk(12)
    live.end()
    await rig.round(2)
    assert live.safe == []
    card, _ = rig.load()
    assert card.segments == []
    assert on_disk(tmp_path) == []
    assert live.keeper.wire(3) is not None
    assert await rig.close()


async def test_a_second_recording_begins_in_the_middle_of_the_ring(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    first = rig.begin()
    first.talk(5)
    first.end()
    second = Live(rig, "1f0c2c1e-8c0e-4d0a-9a53-0123456789ab")
    second.talk(5)
    await rig.round(2)
    assert rig.on_card(second.recording.recording_id)[2] == (P, pattern(P, P))
    card, _ = rig.load(second.recording.recording_id)
    assert card.segments[0].header.offset == 0
    assert packet(1).seq == 1
    assert await rig.close()
