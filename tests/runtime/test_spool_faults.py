"""A disk that fails at every place where something is written, one after the other.

The whole course of a recording is played again and again; each time another call fails. What a failed sync had not
made durable is wiped, as a kernel may do that drops pages which it could not write.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.core.manifest import CardState
from edge.core.recovery import CRASH
from tests.runtime.cardrig import BOUND_S, IDS, CardRig, Live, P
from tests.runtime.fakes import pattern

WRITING = {
    "open",
    "write",
    "pwrite",
    "fdatasync",
    "fsync",
    "rename",
    "replace",
    "posix_fallocate",
    "unlink",
    "ftruncate",
}


class FaultySystem:
    """`os`, but the call number `at` fails with `code`: only that one, or all from there on until `heal`."""

    def __init__(self, at: int | None, code: int = errno.EIO, *, for_good: bool = False) -> None:
        self.calls: list[str] = []
        self.failed: list[str] = []
        self._at = at
        self._code = code
        self._for_good = for_good
        self._unsynced: dict[int, list[tuple[int, int]]] = {}

    def heal(self) -> None:
        self._at = None

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        return self._watched(name, function) if name in WRITING else function

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.calls.append(name)
            number = len(self.calls) - 1
            if self._at is not None and (number == self._at or (self._for_good and number > self._at)):
                self.failed.append(name)
                self._spoil(name, args)
                raise OSError(self._code, os.strerror(self._code))
            result = function(*args)
            self._note(name, args, result)
            return result

        return call

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        if name == "open":
            self._unsynced[result] = []
        elif name == "pwrite":
            self._unsynced[args[0]].append((args[2], result))
        elif name == "write":
            end = os.fstat(args[0]).st_size
            self._unsynced[args[0]].append((end - result, result))
        elif name in ("fdatasync", "fsync"):
            self._unsynced[args[0]] = []

    def _spoil(self, name: str, args: tuple[Any, ...]) -> None:
        """A write may have got half way; a sync may have lost what it should have brought to the disk."""
        if name == "pwrite":
            os.pwrite(args[0], args[1][: len(args[1]) // 2], args[2])
        elif name == "write":
            os.write(args[0], args[1][: len(args[1]) // 2])
        elif name in ("fdatasync", "fsync"):
            path = Path(f"/proc/self/fd/{args[0]}").resolve()
            if path.is_file():
                with path.open("r+b") as file:
                    for place, size in self._unsynced[args[0]]:
                        file.seek(place)
                        file.write(bytes(size))


class Course:
    """What happens in a recording's life, step by step, and what has to be true behind each."""

    def __init__(self, path: Path, system: FaultySystem, *, retries: int) -> None:
        self.rig = CardRig(path, system=system)
        self.system = system
        self.retries = retries
        self.live: Live | None = None

    async def run(self) -> None:
        live = self.live = self.rig.begin()
        await self._step()
        live.talk(7, 30)
        await self._step()
        live.talk(25)
        live.keeper.session("s-1", "plain", 1.0)
        await self._step()
        live.lose(1000, "xrun")
        live.talk(4, 100)
        await self._step()
        live.deliver(12)
        self.rig.clock.set(1.8e9, trusted=True)
        self.rig.watch.look()
        self.rig.store.clock_changed()
        live.talk(3)
        await self._step()
        live.talk(12)
        await self._step()
        live.end()
        await self._step()
        live.deliver(20)
        self.rig.now_s += 20.0  # time for a mark
        await self._step()

    async def finish(self) -> None:
        assert self.live is not None
        self.live.deliver(self.live.ledger.last)
        self.rig.store.delivered(self.live.recording)
        await self.rig.round(1 + self.retries)

    async def _step(self) -> None:
        await self.rig.round(1 + self.retries)
        self.check()

    def check(self) -> None:
        """What was said to be durable and is still needed is there for whoever comes next."""
        live = self.live
        assert live is not None
        held = live.keeper.held
        ledger = live.ledger
        if not held.durable:
            return
        assert not ledger.ended or ledger.expected == self.expected()
        card, recovered = self.rig.load()
        found = self.rig.packets(card, recovered)
        for seq in range(ledger.delivered + 1, held.durable + 1):
            packet = ledger.packet(seq)
            assert found[seq] == (packet.position, pattern(packet.position, packet.frames)), f"packet {seq}"
        again = recovered.ledger
        assert again.expected == again.delivered_frames + again.kept_frames + sum(again.lost.values())
        assert again.delivered <= ledger.delivered
        assert again.last >= held.durable

    def expected(self) -> int:
        return (7 + 25 + 4 + 3 + 12) * P + 30 + 1000 + 100

    def told(self) -> list[bool]:
        """True for the begin of a trouble, False for its end."""
        assert {kind for kind, _ in self.rig.told} <= {"card"}
        return [not text.startswith("the card takes audio again") for _, text in self.rig.told]


async def played(path: Path, system: FaultySystem, *, retries: int, is_removed: bool) -> Course:
    course = Course(path, system, retries=retries)
    async with asyncio.timeout(BOUND_S):
        await course.run()
        if is_removed:
            await course.finish()
        system.heal()
        await course.rig.round(3)
        if not is_removed:
            course.check()
        assert await course.rig.close()
    return course


async def calls_of(path: Path, *, is_removed: bool) -> list[str]:
    system = FaultySystem(None)
    await played(path, system, retries=1, is_removed=is_removed)
    return system.calls


async def test_the_course_writes_in_every_way(tmp_path: Path) -> None:
    assert set(await calls_of(tmp_path / "spool", is_removed=True)) == WRITING


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "from then on"])
async def test_each_call_may_fail(tmp_path: Path, code: int, for_good: bool) -> None:
    calls = await calls_of(tmp_path / "clean", is_removed=False)
    wordless = []
    for at in range(len(calls)):
        system = FaultySystem(at, code, for_good=for_good)
        course = await played(tmp_path / str(at), system, retries=0 if for_good else 1, is_removed=False)
        where = f"call {at} ({calls[at]}), failed: {system.failed[:9]}"
        live, told = course.live, course.told()
        assert live is not None
        assert system.failed, where
        assert live.keeper.held.durable == live.ledger.last, where
        assert told == [True, False] * (len(told) // 2), where  # each trouble once, and its end
        assert len(told) == 2 or not for_good or not told, where
        if not told:
            wordless.append(calls[at])
        card, found = course.rig.load()
        assert card.manifest.state is CardState.SEALED, where
        assert (found.ended_by, found.ledger.expected) == ("stop", course.expected()), where
        assert found.ledger.lost == {"xrun": 1000}, where
        assert found.ledger.last == live.ledger.last, where
        assert course.rig.on_card().keys() >= set(range(21, live.ledger.last + 1)), where
        assert list(course.rig.directory.quarantine.iterdir()) == [], where
    assert len(wordless) <= (0 if for_good else 2), wordless


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "from then on"])
async def test_each_call_of_the_end_may_fail(tmp_path: Path, for_good: bool) -> None:
    """Delivered and removed: nothing of it stays, whatever failed on the way."""
    begin = len(await calls_of(tmp_path / "kept", is_removed=False))
    calls = await calls_of(tmp_path / "clean", is_removed=True)
    for at in range(begin - 3, len(calls)):
        system = FaultySystem(at, for_good=for_good)
        course = await played(tmp_path / str(at), system, retries=0 if for_good else 1, is_removed=True)
        assert system.failed
        assert course.rig.directory.folders() == [], f"call {at} ({calls[at]})"
        told = course.told()
        assert told == [True, False] * (len(told) // 2)


async def test_what_a_crash_leaves_behind_a_fault_is_whole(tmp_path: Path) -> None:
    """The process ends while the disk still fails."""
    calls = await calls_of(tmp_path / "clean", is_removed=False)
    for at in range(len(calls)):
        system = FaultySystem(at, for_good=True)
        course = Course(tmp_path / str(at), system, retries=0)
        await course.run()
        live = course.live
        assert live is not None
        assert await course.rig.spooler.close(BOUND_S) is False or at >= len(calls) - 4
        if live.keeper.held.durable:
            _, found = course.rig.load()
            assert found.ledger.last >= live.keeper.held.durable
            assert found.ended_by in ("", "stop", CRASH)
        else:
            assert course.rig.directory.folders() in ([], [course.rig.directory.recordings / IDS[0]])
