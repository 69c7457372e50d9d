"""The spool writer's thread: what it reports and in which order, and what it does about a full card."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge.adapters.spool import CardFull, CardRecording, SpoolDirectory
from edge.core.journal import EndEntry, Entry, MarkEntry
from edge.core.manifest import CardState, Manifest
from tests.core.cards import meta
from tests.runtime.cardrig import BOUND_S, IDS, SEGMENT, CardRig, P, spool_at
from tests.runtime.fakes import pattern


class Stage(SpoolDirectory):
    """A real spool whose cards stop at a sync, or fail, when the test wants it."""

    def __init__(self, path: Path, max_bytes: int = 1 << 30) -> None:
        super().__init__(path, max_bytes, segment_bytes=SEGMENT, ballast_bytes=0)
        self.errors: list[OSError] = []  # of the next syncs
        self.bugs: list[Exception] = []
        self.in_sync = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.steps: list[str] = []

    def create(self, meta: Manifest, entries: Sequence[Entry]) -> CardRecording:
        card = super().create(meta, entries)
        sync, seal = card.sync, card.seal

        def staged_sync() -> None:
            self.in_sync.set()
            assert self.may_go_on.wait(BOUND_S)
            if self.bugs:
                raise self.bugs.pop(0)
            if self.errors:
                raise self.errors.pop(0)
            sync()
            self.steps.append("sync")

        def staged_seal(ended_by: str) -> None:
            self.steps.append("seal")
            seal(ended_by)

        card.sync, card.seal = staged_sync, staged_seal  # type: ignore[method-assign]
        return card


async def until_in_sync(stage: Stage) -> None:
    assert await asyncio.to_thread(stage.in_sync.wait, BOUND_S)
    stage.in_sync.clear()


def eio() -> OSError:
    return OSError(errno.EIO, "Input/output error")


async def test_what_is_durable_is_reported_in_order_and_given_back_in_the_ring(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    live = rig.begin()
    await rig.round()
    for _ in range(4):
        live.talk(6, 20)
        await rig.round()
    assert live.safe == sorted(set(live.safe))
    assert (live.ledger.synced, rig.ring.tail) == (live.ledger.last, live.ledger.last * P)
    assert rig.on_card()[3] == (2 * P, pattern(2 * P, P))
    assert rig.spooler.left_s is not None
    assert await rig.close()
    assert rig.told == []


async def test_neither_the_loop_nor_the_ring_waits_for_the_card(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    rig = CardRig(tmp_path, spool=stage)
    live = rig.begin()
    await rig.round()
    stage.may_go_on.clear()
    stage.in_sync.clear()
    live.talk(5)
    rig.spooler.kick()
    await until_in_sync(stage)
    live.talk(20)  # while the disk sleeps
    assert live.safe == []
    stage.may_go_on.set()
    await rig.round(2)
    assert live.ledger.synced == 25
    assert await rig.close()


async def test_what_comes_while_the_card_is_written_is_never_sealed_out(tmp_path: Path) -> None:
    """The end may come during a slow sync: the seal waits for the round that writes it."""
    stage = Stage(tmp_path)
    rig = CardRig(tmp_path, spool=stage)
    live = rig.begin()
    await rig.round()
    stage.may_go_on.clear()
    stage.in_sync.clear()
    live.talk(5)
    rig.spooler.kick()
    await until_in_sync(stage)
    live.talk(2, 50)
    live.end()
    stage.steps.clear()
    stage.may_go_on.set()
    await rig.round(2)
    # Of the new segment, of this round; of the end's note, of the audio before it.
    assert stage.steps[:5] == ["sync", "sync", "sync", "sync", "seal"]
    card, found = rig.load()
    assert card.manifest.state is CardState.SEALED
    assert (found.ledger.last, found.ledger.expected, found.ended_by) == (8, 7 * P + 50, "stop")
    assert await rig.close()


async def test_slots_that_were_used_again_are_left_out(tmp_path: Path) -> None:
    """They were delivered before the card took them."""
    stage = Stage(tmp_path)
    rig = CardRig(tmp_path, spool=stage, ring_packets=20)
    live = rig.begin()
    await rig.round()
    stage.errors = [eio()]
    live.talk(15)
    await rig.round()
    assert len(rig.told) == 1
    stage.may_go_on.set()
    live.deliver(12)
    live.talk(15)
    stage.errors = []
    await rig.round()
    assert live.ledger.synced == 30
    on_card = rig.on_card()
    assert sorted(on_card) == list(range(11, 31))
    assert all(audio == pattern(at, P) for at, audio in on_card.values())
    assert await rig.close()


async def test_a_trouble_of_one_recording_is_not_ended_by_another(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    rig = CardRig(tmp_path, spool=stage)
    first, second = rig.begin(IDS[0]), rig.begin(IDS[1])
    await rig.round()
    stage.errors = [eio(), eio(), eio()]
    first.talk(3)
    await rig.round(3)
    assert [text.split(";")[0] for _, text in rig.told] == ["the card takes nothing (Input/output error)"]
    assert rig.spooler.trouble
    second.talk(2)
    await rig.round()
    assert [text.split(";")[0] for _, text in rig.told][1:] == ["the card takes audio again"]
    assert (first.ledger.synced, second.ledger.synced, rig.spooler.trouble) == (3, 2, "")
    assert await rig.close()


async def test_close_says_whether_all_is_on_the_card(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    rig = CardRig(tmp_path, spool=stage)
    live = rig.begin()
    await rig.round()
    live.talk(3)
    stage.errors = [eio() for _ in range(9)]
    assert await rig.close() is False
    await rig.spooler.flush()  # returns: there are no rounds any more
    assert await rig.close() is False


async def test_close_writes_what_is_left(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    live = rig.begin()
    live.talk(3)
    assert await rig.close() is True
    assert sorted(rig.on_card()) == [1, 2, 3]


async def test_close_does_not_wait_for_a_card_that_hangs(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    rig = CardRig(tmp_path, spool=stage)
    live = rig.begin()
    await rig.round()
    stage.may_go_on.clear()
    live.talk(3)
    assert await rig.spooler.close(0.01) is False
    stage.may_go_on.set()
    assert await rig.close() is True


async def test_without_a_recording_there_is_nothing_to_wait_for(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    await rig.spooler.flush()
    assert await rig.close() is True


async def test_a_bug_is_said_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    rig = CardRig(tmp_path, spool=stage)
    live = rig.begin()
    await rig.round()
    live.talk(3)
    stage.bugs = [ZeroDivisionError("oops")]
    await rig.round()
    assert await rig.close() is False
    assert rig.told == [("bug", "the spool failed: ZeroDivisionError: oops")]


# --- a full card ------------------------------------------------------------------------------------------------------


class Filled(SpoolDirectory):
    """A spool that is full from the third segment on, with a ballast; kept recordings may give way."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1 << 30, segment_bytes=SEGMENT, ballast_bytes=1 << 16)
        self.is_limited = False
        self.given_up: list[str] = []

    def take_segment(self, target: Path, *, beyond_limit: bool = False) -> int:
        if self.is_limited and (not beyond_limit or (self.path / "ballast").exists()):
            raise CardFull("full") if not beyond_limit else OSError(errno.ENOSPC, "No space left on device")
        return super().take_segment(target, beyond_limit=beyond_limit)

    def give_up_ballast(self) -> bool:
        self.given_up.append("ballast")
        return super().give_up_ballast()

    def make_room(self) -> bool:
        self.given_up.append("kept")
        if super().make_room():
            self.is_limited = False
            return True
        return False


async def test_what_is_only_kept_goes_first_and_nobody_hears_of_it(tmp_path: Path) -> None:
    full = Filled(tmp_path)
    rig = CardRig(tmp_path, spool=full, keep_days=9.0)
    old = rig.begin(IDS[1])
    old.talk(3)
    old.end()
    old.deliver(3)
    rig.store.delivered(old.recording)
    await rig.round(2)
    live = rig.begin()
    await rig.round()
    full.is_limited = True
    live.talk(5)
    await rig.round(2)
    assert live.ledger.synced == 5
    assert [folder.name for folder in full.folders()] == [IDS[0]]
    assert (rig.told, full.given_up) == ([], ["kept"])
    assert await rig.close()


async def test_a_full_card_is_said_once_and_the_ballast_lets_the_recording_be_sealed(tmp_path: Path) -> None:
    full = Filled(tmp_path)
    rig = CardRig(tmp_path, spool=full)
    live = rig.begin()
    live.talk(5)
    await rig.round()
    live.talk(5)
    full.is_limited = True
    await rig.round()
    assert (rig.spooler.is_full, rig.told) == (False, [])  # the segment had room
    live.talk(5)
    await rig.round(3)
    assert rig.spooler.is_full
    assert rig.told == [("card", "the card is full; recording goes on in memory, the card is tried again")]
    assert "ballast" not in full.given_up
    live.end("full")
    await rig.round(2)
    card, found = rig.load()
    assert (card.manifest.state, found.ledger.last, found.ended_by) == (CardState.SEALED, 15, "full")
    assert "ballast" in full.given_up
    assert (rig.spooler.is_full, rig.spooler.trouble) == (False, "")
    assert await rig.close()


async def test_it_is_announced_when_an_hour_is_left_and_when_ten_minutes_are(tmp_path: Path) -> None:
    class Emptying(SpoolDirectory):
        left_s = 0.0

        def room_bytes(self) -> int:
            return int(self.left_s * (36 + 32 + 2 * P) * 16000 / P)

    spool = Emptying(tmp_path, 1 << 30, segment_bytes=SEGMENT, ballast_bytes=0)
    rig = CardRig(tmp_path, spool=spool)
    live = rig.begin()
    for left_s in (4000.0, 3599.0, 3000.0, 599.0, 100.0):
        spool.left_s = left_s
        live.talk(1)
        await rig.round()
        assert rig.spooler.left_s == pytest.approx(left_s, abs=1.0)
    assert rig.told == [
        ("space", "the card has room for 60 more minutes of this recording"),
        ("space", "the card has room for 10 more minutes of this recording"),
    ]
    assert await rig.close()


# --- delivery ---------------------------------------------------------------------------------------------------------


async def test_what_is_delivered_is_freed_and_marked(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    live = rig.begin()
    live.talk(25)
    await rig.round()
    live.end()
    await rig.round()
    live.deliver(12)
    rig.now_s += 100.0
    await rig.round()
    assert min(rig.on_card()) == 11
    assert rig.load()[1].ledger.delivered == 12
    live.deliver(14)
    await rig.round()
    assert rig.load()[1].ledger.delivered == 12  # too soon for another mark
    assert await rig.close()  # but the last one is not left out
    card, found = rig.load()
    assert found.ledger.delivered == 14
    marks = [entry for entry in card.entries() if isinstance(entry, MarkEntry)]
    assert list(dict.fromkeys(marks)) == [MarkEntry(12, 12), MarkEntry(14, 14)]


async def test_a_corrected_setting_is_durable(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    live = rig.begin()
    await rig.round()
    live.recording.settings = {**live.recording.settings, "agent": "b"}
    await rig.round()
    assert rig.load()[0].manifest.settings["agent"] == "b"
    assert await rig.close()


async def test_what_is_kept_past_its_days_goes(tmp_path: Path) -> None:
    rig = CardRig(tmp_path)
    kept = spool_at(tmp_path).create(meta(P, IDS[3], state=CardState.SEALED), [EndEntry(0, "stop")])
    kept.deliver(1.0)
    rig.begin()
    await rig.round()
    assert [folder.name for folder in rig.directory.folders()] == [IDS[0]]
    assert await rig.close()
