"""The store: what an earlier process left is taken over, and what a full card means."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edge.core.journal import LostEntry
from edge.core.manifest import CardState
from edge.core.packet import HEADER_BYTES, decode_header
from edge.core.recovery import CRASH, POWER
from edge.core.resume import ACKS, PLAIN, UNKNOWN, Resume
from edge.core.timebase import Anchor
from edge.runtime import store as store_module
from edge.runtime.recording import Recording
from tests.runtime.cardrig import IDS, CardRig, Live, P
from tests.runtime.fakes import FakeClock, pattern


async def left(path: Path, server: str = "", *, delivered: int = 0, **options: Any) -> Live:
    """A recording whose process ended without a stop."""
    rig = CardRig(path, **options)
    live = rig.begin()
    await rig.round()
    live.talk(10)
    if server:
        live.keeper.session("s-1", UNKNOWN, 100.0)
        live.keeper.session("s-1", server, 100.5)
    await rig.round()
    live.recording.handled = 8
    if delivered:
        live.deliver(delivered)
    live.talk(10)
    await rig.round()
    assert await rig.close()
    return live


def adopted(rig: CardRig, recording_id: str = IDS[0]) -> Recording:
    card, found = rig.directory.load(rig.directory.recordings / recording_id)
    return rig.store.adopt(card, found)


async def wire(recording: Recording, seq: int) -> bytes:
    assert recording.load is not None
    if recording.wire(seq) is None:
        await recording.load(seq, seq + 5)
    data = recording.wire(seq)
    assert data is not None
    return data


async def test_what_a_crash_left_is_owed_and_sealed(tmp_path: Path) -> None:
    await left(tmp_path, delivered=5)
    rig = CardRig(tmp_path)
    recording = adopted(rig)
    assert (recording.ledger.delivered, recording.ledger.last, recording.ledger.ended) == (5, 20, True)
    assert recording.settings["agent"] == "a"
    assert (await wire(recording, 6))[HEADER_BYTES:] == pattern(5 * P, P)
    await rig.round()
    card = rig.load()[0]
    assert (card.manifest.state, card.manifest.ended_by) == (CardState.SEALED, CRASH)
    recording.ledger.deliver(20)
    rig.store.delivered(recording)
    await rig.round()
    assert rig.directory.folders() == []
    assert await rig.close()


@pytest.mark.parametrize("server", [ACKS, PLAIN])
async def test_in_the_same_boot_the_same_session_goes_on(tmp_path: Path, server: str) -> None:
    await left(tmp_path, server, delivered=5)
    rig = CardRig(tmp_path)
    recording = adopted(rig)
    resume = recording.resume
    assert resume is not None
    assert (resume.session_id, resume.server, resume.first_seq, resume.is_same_boot) == ("s-1", server, 1, True)
    assert resume.handled == recording.handled == 8
    assert resume.alive_at >= 100.5
    assert recording.session_ids == ["s-1"]
    assert await rig.close()


@pytest.mark.parametrize(("server", "is_resumed"), [(ACKS, False), (PLAIN, True), (UNKNOWN, True)])
async def test_after_a_reboot_only_a_plain_session_is_gone_back_to_and_flushed(
    tmp_path: Path, server: str, is_resumed: bool
) -> None:
    await left(tmp_path, server)
    clock = FakeClock()
    clock.anchor = Anchor("another boot", 1.7e9 + 500.0, True)
    rig = CardRig(tmp_path, clock=clock)
    resume = adopted(rig).resume
    if is_resumed:
        assert isinstance(resume, Resume)
        assert (resume.is_same_boot, resume.alive_at) == (False, 0.0)
    else:
        assert resume is None
    await rig.round()
    assert rig.load()[0].manifest.ended_by == POWER
    assert await rig.close()


async def test_without_a_session_there_is_none_to_go_on_with(tmp_path: Path) -> None:
    await left(tmp_path)
    rig = CardRig(tmp_path)
    recording = adopted(rig)
    assert recording.resume is None
    recording.on_session("s-2", PLAIN, 7.0)
    await rig.round()
    assert [session.session_id for session in rig.load()[1].sessions] == ["s-2"]
    assert await rig.close()


async def test_stamps_are_made_by_the_anchor_of_the_boot_in_which_it_was_captured(tmp_path: Path) -> None:
    clock = FakeClock(1.0, trusted=False)
    await left(tmp_path, clock=clock)
    same = FakeClock(1.7e9, trusted=True)
    rig = CardRig(tmp_path, clock=same)  # of the same boot, and knows better
    recording = adopted(rig)
    stamp_ms = decode_header(await wire(recording, 1)).captured_unix_ms
    assert stamp_ms == pytest.approx((1.7e9 + 100.0) * 1000)
    assert recording.anchor() == same.anchor
    assert await rig.close()


async def test_another_boot_does_not_know_better(tmp_path: Path) -> None:
    await left(tmp_path, clock=FakeClock(1.6e9, trusted=True))
    clock = FakeClock()
    clock.anchor = Anchor("another boot", 1.9e9, True)
    rig = CardRig(tmp_path, clock=clock)
    recording = adopted(rig)
    assert decode_header(await wire(recording, 1)).captured_unix_ms == pytest.approx((1.6e9 + 100.0) * 1000)
    assert recording.anchor() == Anchor("boot", 1.6e9, True)
    assert await rig.close()


async def test_without_a_journal_the_stamps_are_those_of_old(tmp_path: Path) -> None:
    live = await left(tmp_path, clock=FakeClock(1.6e9, trusted=True))
    folder = live.rig.directory.recordings / IDS[0]
    (folder / "journal").write_bytes(b"")
    rig = CardRig(tmp_path)
    recording = adopted(rig)
    assert decode_header(await wire(recording, 2)).captured_unix_ms == pytest.approx(1.6e12 + 1e5 + P / 16)
    assert recording.anchor() is None
    assert await rig.close()


async def test_damaged_packets_are_lost_and_the_delivery_goes_on(tmp_path: Path) -> None:
    await left(tmp_path)
    rig = CardRig(tmp_path)
    card, _ = rig.load()
    for seq in (3, 4):
        with card.segments[0].path.open("r+b") as file:
            file.seek(card.segments[0].header.place(seq) + 99)
            file.write(b"?!")
    recording = adopted(rig)
    assert recording.wire(3) is None
    assert (await wire(recording, 1))[HEADER_BYTES:] == pattern(0, P)
    assert recording.ledger.lost == {"card": 2 * P}
    assert recording.ledger.skip_lost(3) == 5
    await rig.round()
    recording.ledger.pass_over(1, 5)
    recording.ledger.deliver(10)
    rig.now_s += 100.0
    await rig.round()
    assert [path.suffix for path in sorted(rig.directory.quarantine.iterdir())] == [".seg", ".txt"]
    assert rig.load()[1].ledger.lost == {"card": 2 * P}
    assert await rig.close()


async def test_a_segment_without_its_header_is_noted_as_lost(tmp_path: Path) -> None:
    live = await left(tmp_path)
    first = live.rig.directory.recordings / IDS[0] / "000000.seg"
    with first.open("r+b") as file:
        file.write(b"?")
    rig = CardRig(tmp_path)
    recording = adopted(rig)
    assert recording.ledger.lost == {"card": 10 * P}
    await rig.round()
    assert [entry for entry in rig.load()[0].entries() if isinstance(entry, LostEntry)] == [
        LostEntry(1, 10, 10 * P, "card")
    ]
    assert await rig.close()


async def test_what_is_delivered_stays_for_its_days(tmp_path: Path) -> None:
    await left(tmp_path)
    rig = CardRig(tmp_path, keep_days=2.0)
    recording = adopted(rig)
    recording.ledger.deliver(20)
    rig.store.delivered(recording)
    rig.store.delivered(recording)  # nobody's any more
    await rig.round()
    card, _ = rig.load()
    assert card.manifest.state is CardState.DELIVERED
    assert card.manifest.delivered_utc_s > 1.7e9
    assert sorted(rig.on_card()) == list(range(1, 21))
    assert await rig.close()


async def test_the_moment_of_delivery_is_not_known_by_an_untrusted_clock(tmp_path: Path) -> None:
    rig = CardRig(tmp_path, keep_days=2.0, clock=FakeClock(trusted=False))
    live = rig.begin()
    live.talk(1)
    live.end()
    await rig.round(2)
    live.deliver(1)
    rig.store.delivered(live.recording)
    await rig.round()
    assert rig.load()[0].manifest.delivered_utc_s == 0.0
    assert await rig.close()


# --- a full card ------------------------------------------------------------------------------------------------------


async def test_the_oldest_is_dropped_segment_by_segment_and_stands_in_the_account(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    live = rig.begin()
    live.talk(35)
    await rig.round()
    live.deliver(4)
    assert rig.store.drop_oldest() == pytest.approx(6 * P / 16000)
    assert rig.store.drop_oldest() == 0.0  # one at a time
    await rig.round()
    assert min(rig.on_card()) == 11
    assert rig.load()[1].ledger.lost == live.ledger.lost == {"overflow": 6 * P}
    assert rig.store.drop_oldest() == pytest.approx(10 * P / 16000)
    await rig.round()
    assert min(rig.on_card()) == 21
    assert await rig.close()


async def test_what_is_delivered_meanwhile_does_not_make_the_next_segment_go(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    live = rig.begin()
    live.talk(35)
    await rig.round()
    live.deliver(9)
    assert rig.store.drop_oldest() == pytest.approx(P / 16000)
    live.ledger.pass_over(10, 10)
    live.deliver(10)  # what was lost is behind us: the writer may free the segment by itself now
    await rig.round()
    assert min(rig.on_card()) == 11
    assert live.ledger.lost == {"overflow": P}
    assert await rig.close()


async def test_a_damaged_packet_in_what_is_dropped_counts_once(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    live = rig.begin()
    live.talk(15)
    await rig.round()
    card, _ = rig.load()
    with card.segments[0].path.open("r+b") as file:
        file.seek(card.segments[0].header.place(5) + 99)
        file.write(b"?!")
    await live.keeper.load(1, 10)
    assert rig.store.drop_oldest() == pytest.approx(9 * P / 16000)
    await rig.round()
    assert live.ledger.lost == {"card": P, "overflow": 9 * P}
    assert rig.load()[1].ledger.lost == live.ledger.lost
    assert await rig.close()


async def test_where_nothing_can_be_dropped_nothing_is(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    assert rig.store.drop_oldest() == 0.0
    live = rig.begin()
    assert rig.store.drop_oldest() == 0.0
    live.talk(3)
    await rig.round()
    assert rig.store.drop_oldest() == 0.0  # the current segment stays
    assert await rig.close()


async def test_it_is_at_its_end_when_neither_card_nor_ring_takes_more(tmp_path: Path) -> None:
    rig = CardRig(tmp_path, ring_packets=40, options={"max_bytes": 1})
    live = rig.begin()
    live.talk(5)
    await rig.round(2)
    assert rig.spooler.is_full
    assert not rig.store.is_at_its_end()
    live.talk(32)
    assert rig.store.is_at_its_end()
    await asyncio.sleep(0)
    live.end("full")
    await rig.round(2)
    assert rig.load()[1].ledger.last == 37
    assert await rig.close()
    assert store_module.FULL == "full"
