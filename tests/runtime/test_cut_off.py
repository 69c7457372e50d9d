"""A recording that was cut off ends where it was found to end, at each later start; and its session."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edge.adapters.spool import CardRecording
from edge.core.manifest import CardState
from edge.core.recovery import CRASH, POWER
from edge.core.resume import ACKS, PLAIN, UNKNOWN
from edge.runtime.recording import Recording
from tests.runtime.cardrig import IDS, CardRig, P
from tests.runtime.fakes import FakeClock, wire

Make = Callable[..., CardRig]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    rigs: list[CardRig] = []

    def rig(clock: FakeClock | None = None) -> CardRig:
        rigs.append(CardRig(tmp_path, clock=clock))
        rigs[-1].directory.prepare()
        return rigs[-1]

    yield rig
    for each in rigs:
        await each.close()


def other_boot() -> FakeClock:
    clock = FakeClock(2.0e9)
    clock.anchor = type(clock.anchor)("another", 2.0e9, True)
    return clock


def spoil(rig: CardRig, seq: int) -> None:
    card, _ = rig.load()
    segment = next(segment for segment in card.segments if segment.header.first_seq <= seq <= segment.last_seq)
    with segment.path.open("r+b") as file:
        file.seek(segment.header.place(seq) + 80)
        file.write(b"?")


def adopt(rig: CardRig) -> tuple[CardRecording, Recording]:
    card, found = rig.directory.load(rig.directory.recordings / IDS[0])
    return card, rig.store.adopt(card, found)


@pytest.mark.parametrize("spoilt", [14, 11])
async def test_what_lies_behind_a_torn_record_never_comes_back(make: Make, spoilt: int) -> None:
    """Blocks reach a card in any order: whole records may stand behind the torn one."""
    rig = make()
    live = rig.begin()
    live.talk(18)
    await rig.round()
    spoil(rig, spoilt)
    account = None
    for _ in range(3):
        rig = make()
        card, found = rig.directory.load(rig.directory.recordings / IDS[0])
        recording = rig.store.adopt(card, found)
        account = account or recording.account()
        assert recording.account() == account
        assert account["expected"] == (spoilt - 1) * P
        assert found.ledger.is_cut  # a server may have more of it, at each start
        await rig.round()
        assert card.manifest.state is CardState.SEALED
        assert card.manifest.ended_by == CRASH
        quick, look = rig.directory.load(rig.directory.recordings / IDS[0], is_quick=True)
        assert (quick.manifest.state, look.ledger.expected) == (CardState.SEALED, (spoilt - 1) * P)


async def test_after_another_boot_it_was_the_power(make: Make) -> None:
    rig = make()
    live = rig.begin()
    live.talk(3)
    live.keeper.session("s-1", PLAIN, 200.0)
    await rig.round()
    rig = make(other_boot())
    card, recording = adopt(rig)
    await rig.round()
    assert card.manifest.ended_by == POWER
    assert recording.resume is not None
    assert (recording.resume.is_same_boot, recording.resume.alive_at) == (False, 0.0)
    await asyncio.sleep(0)
    await recording.load(1, 3)  # type: ignore[misc]
    assert recording.anchor() is not None
    stamp = 1000 * (100.0 + 1.7e9)  # by the clock of the boot that recorded it
    assert wire(recording, 1)[8:16] == struct.pack("<d", stamp)


@pytest.mark.parametrize("server", [PLAIN, UNKNOWN, ACKS])
async def test_the_session_is_handed_on(make: Make, server: str) -> None:
    rig = make()
    live = rig.begin()
    live.talk(5)
    live.keeper.session("s-1", server, 200.0)
    live.recording.handled = 4
    await rig.round()
    live.deliver(3)
    live.keeper.session("s-1", server, 300.0)  # told again: it began where it began
    live.talk(1)
    await rig.round()
    _, recording = adopt(make())
    resume = recording.resume
    assert resume is not None
    assert (resume.session_id, resume.server, resume.first_seq) == ("s-1", server, 1)
    assert (resume.is_same_boot, resume.alive_at, resume.handled) == (True, 300.0, 4)
    assert recording.session_ids == ["s-1"]
    if server == ACKS:
        assert adopt(make(other_boot()))[1].resume is None


async def test_a_recording_without_a_session_has_none_to_resume(make: Make) -> None:
    rig = make()
    rig.begin().talk(5)
    await rig.round()
    assert adopt(make())[1].resume is None


async def test_a_sign_of_life_is_dated_before_the_silence_that_came_after_it(make: Make) -> None:
    rig = make()
    live = rig.begin()
    live.talk(2)
    live.keeper.session("s-1", PLAIN, 100.0)
    await rig.round()
    live.recording.handled = 2  # and then the microphone was away for a minute
    live.lose(60 * 16000, "microphone")
    live.talk(1)
    await rig.round()
    resume = adopt(make())[1].resume
    assert resume is not None
    assert 100.0 <= resume.alive_at < 100.1


async def test_how_far_an_earlier_recordings_delivery_came_is_noted_at_the_end(make: Make) -> None:
    rig = make()
    live = rig.begin()
    live.talk(25)
    live.end()
    await rig.round()
    rig = make()
    _, recording = adopt(rig)
    await rig.round()
    recording.ledger.deliver(17)
    assert await rig.close()
    card, found = rig.load()
    assert found.ledger.delivered == 17
    assert found.ended_by == "stop"
    assert [segment.header.first_seq for segment in card.segments] == [11, 21]
