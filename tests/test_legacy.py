"""What the first releases kept comes onto the spool whole, or stays where it is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge import legacy
from edge.adapters import pending
from edge.adapters.spool import CardRecording, SpoolDirectory
from edge.core.manifest import CardState
from edge.core.packet import AudioFormat
from edge.core.recovery import Recovered
from edge.errors import UnreadableError
from tests.adapters.keeping import COURSE, OTHER, RECORDING, SETTINGS, Model, account, anything, example

DATA = Path(__file__).parent / "data" / "pending"
DEVICE = "00000000-0000-4000-8000-000000000001"


class Rig:
    """STATE/pending and STATE/spool, and one start after the other."""

    def __init__(self, folder: Path) -> None:
        self.pending = folder / "pending"
        self.spool_path = folder / "spool"
        self.told: list[str] = []

    def start(self, max_bytes: int = 0, system: Any = os) -> None:
        """A process begins, as far as this is about it."""
        spool = SpoolDirectory(self.spool_path, max_bytes, segment_bytes=1 << 14, ballast_bytes=0, system=system)
        spool.prepare()
        legacy.import_pending(self.pending, spool, DEVICE, lambda happening: self.told.append(happening.text))

    @property
    def kept(self) -> list[str]:
        return sorted(path.name for path in self.pending.iterdir())

    def found(self) -> list[tuple[CardRecording, Recovered]]:
        """What a start would find on the spool, oldest first."""
        spool = SpoolDirectory(self.spool_path)
        return [spool.load(folder) for folder in spool.folders()] if spool.recordings.exists() else []

    def only(self) -> tuple[CardRecording, Recovered]:
        [found] = self.found()
        return found

    def quarantined(self) -> list[str]:
        return sorted(path.name for path in (self.spool_path / "quarantine").iterdir())

    def holds(self, model: Model) -> None:
        """`model` is there, once, with all that was owed of it; and nowhere else."""
        card, found = self.only()
        assert account(found.ledger) == account(model.ledger)
        assert (card.manifest.state, found.ended_by, found.ledger.ended) == (CardState.SEALED, "stop", True)
        assert packets(card, found) == [
            model.wire(seq) for seq in range(model.ledger.delivered + 1, found.ledger.last + 1)
        ]
        assert self.kept == []


def packets(card: CardRecording, found: Recovered) -> list[bytes]:
    """Those that are still owed, as they went to the wire."""
    wires = []
    for _, packet in card.read(found.ledger.delivered + 1, found.ledger.last):
        assert packet is not None
        wires.append(packet.wire)
    return wires


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


# --- whole -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "number", "delivered", "delivered_frames", "sessions"),
    [("a29550f", 1, 2, 160, []), ("9079931", 2, 4, 260, ["s1", "s2"])],
)
def test_a_folder_that_a_release_wrote(
    release: str, number: int, delivered: int, delivered_frames: int, sessions: list[str], rig: Rig
) -> None:
    """180 frames of it, a gap, and 161 more; delivered up to `delivered`."""
    shutil.copytree(DATA / release, rig.pending)
    recording_id = f"{number}f5902ac-2370-4f1c-b3a2-0123456789ab"
    first_kept = (rig.pending / recording_id / "packets.pcm1").read_bytes()
    rig.start()
    card, found = rig.only()
    meta, ledger = card.manifest, found.ledger
    assert (meta.recording_id, meta.device_id, meta.state) == (recording_id, DEVICE, CardState.SEALED)
    assert (meta.audio, meta.packet_frames) == (AudioFormat(8000, 1), 80)
    assert meta.settings == {"agent": "a", "event": "ümläut", "recording": recording_id}
    assert (ledger.expected, ledger.last, ledger.delivered) == (450, 6, delivered)
    assert (ledger.delivered_frames, ledger.kept_frames) == (delivered_frames, 341 - delivered_frames)
    assert ledger.lost == {"microphone": 77, "xrun": 14, "overflow": 18}
    assert [(gap.before_seq, gap.frames, gap.cause) for gap in ledger.gaps_before(7)] == [
        (7, 9, "xrun"),
        (7, 11, "overflow"),
    ]
    assert first_kept.endswith(b"".join(packets(card, found)))
    assert [session.session_id for session in found.sessions] == sessions
    assert (rig.kept, rig.told) == ([], [])


@pytest.mark.parametrize("delivered", range(5))
def test_causes_gaps_and_what_is_delivered_are_kept(delivered: int, rig: Rig) -> None:
    model = example(delivered)
    model.keep(rig.pending)
    rig.start()
    rig.holds(model)
    card, found = rig.only()
    assert card.manifest.settings == SETTINGS
    assert tuple(session.session_id for session in found.sessions) == COURSE.session_ids
    assert found.boots == {}  # its stamps were made when it was recorded


@pytest.mark.parametrize("seed", range(40))
def test_any_recording_comes_over_as_it_was(seed: int, rig: Rig) -> None:
    model = anything(seed)
    model.keep(rig.pending)
    rig.start()
    if 0 < model.ledger.last == model.ledger.delivered:
        assert (rig.found(), rig.kept) == ([], [])  # all of its audio is delivered
    else:
        rig.holds(model)
    assert rig.told == []


def test_the_oldest_stays_the_oldest(rig: Rig) -> None:
    names = [f"{number}f5902ac-2370-4f1c-b3a2-0123456789ab" for number in (3, 1, 2)]
    for age, name in enumerate(names):
        os.utime(example().keep(rig.pending, name) / "packets.pcm1", (1e9 + age, 1e9 + age))
    rig.start()
    assert [card.manifest.recording_id for card, _ in rig.found()] == names


def test_nothing_kept_is_nothing_done(rig: Rig) -> None:
    rig.start()
    assert (rig.found(), rig.told) == ([], [])


# --- cut off ---------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """Everything ends here."""


class Failing:
    """`os`, but the call number `at` of those that change something raises."""

    NAMES = (
        "open",
        "write",
        "pwrite",
        "fsync",
        "fdatasync",
        "rename",
        "replace",
        "unlink",
        "posix_fallocate",
        "ftruncate",
    )

    def __init__(self, at: int | None, error: BaseException) -> None:
        self.calls = 0
        self._at = at
        self._error = error

    def __getattr__(self, name: str) -> Any:
        original = getattr(os, name)
        if name not in self.NAMES:
            return original

        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                raise self._error
            return original(*arguments)

        return call


def steps() -> range:
    """As many as an import of `big` takes, and a few more."""
    return range(1, 56)


def big() -> Model:
    """It needs several segments."""
    model = example(2)
    fresh = Model()
    fresh.talk(12 * 480 + 7)
    fresh.lose(100, "xrun")
    fresh.talk(3 * 480)
    fresh.ledger.end()
    fresh.ledger.deliver(model.ledger.delivered)
    return fresh


def test_the_steps_are_all_that_there_are(rig: Rig) -> None:
    big().keep(rig.pending)
    system = Failing(None, PowerCut())
    rig.start(system=system)
    assert 30 < system.calls < len(steps())
    assert len(rig.only()[0].segments) > 1


@pytest.mark.parametrize("step", steps())
def test_cut_off_anywhere_and_begun_again_it_is_there_once(step: int, rig: Rig) -> None:
    model = big()
    model.keep(rig.pending)
    try:
        rig.start(system=Failing(step, PowerCut()))
    except PowerCut:
        assert rig.kept == [RECORDING]
    for card, found in rig.found():  # never a part of it
        assert (card.manifest.state, account(found.ledger)) == (CardState.SEALED, account(model.ledger))
    rig.start()
    rig.holds(model)
    assert rig.quarantined() == []


def test_cut_off_before_its_source_is_gone_it_is_not_brought_over_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = example()
    model.keep(rig.pending)

    def drop(folder: Path) -> None:
        raise PowerCut

    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(pending, "drop", drop)
        rig.start()
    [segment] = rig.only()[0].segments
    before = segment.path.stat().st_ino
    rig.start()
    rig.holds(model)
    assert rig.only()[0].segments[0].path.stat().st_ino == before
    assert rig.quarantined() == []


def test_a_copy_that_was_damaged_since_is_set_aside_for_the_whole_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = example()
    source = model.keep(rig.pending)
    shutil.copytree(source, source.with_name("copy"))
    rig.start()
    (source.with_name("copy")).rename(source)
    (rig.spool_path / "recordings" / RECORDING / "manifest.json").write_text("{")
    rig.start()
    rig.holds(model)
    assert rig.quarantined() == [RECORDING, f"{RECORDING}.reason.txt"]


# --- what stays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", steps())
def test_a_full_disk_leaves_it_where_it_is_and_the_next_start_gets_it(step: int, rig: Rig) -> None:
    model = big()
    model.keep(rig.pending)
    system = Failing(step, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    rig.start(system=system)
    if rig.told:
        assert rig.kept == [RECORDING]
        [said] = rig.told
        assert said == (
            f"the kept recording {rig.pending / RECORDING} cannot be brought onto the spool (No space left on device); "
            "it stays where it is, and is tried again at the next start"
        )
        for card, found in rig.found():  # a part of it would pass for a recording that was cut off
            assert (card.manifest.state, account(found.ledger)) == (CardState.SEALED, account(model.ledger))
    else:
        assert system.calls < step or rig.kept == []
    rig.start()
    rig.holds(model)
    assert rig.quarantined() == []


def test_a_spool_that_may_not_grow_leaves_it_and_keeps_no_part_of_it(rig: Rig) -> None:
    model = big()
    model.keep(rig.pending)
    rig.start(max_bytes=3 << 14)
    assert rig.kept == [RECORDING]
    assert rig.found() == []
    assert "the spool holds its" in rig.told[0]
    assert [path.name for path in (rig.spool_path / "recordings").iterdir()] == []
    rig.start()
    rig.holds(model)


def spoil(folder: Path) -> None:
    (folder / "packets.pcm1").write_bytes((folder / "packets.pcm1").read_bytes()[:-1])


def of_another_version(folder: Path) -> None:
    meta = folder / "recording.json"
    meta.write_text(meta.read_text().replace('"version": 1', '"version": 2'))


@pytest.mark.parametrize("damage", [spoil, of_another_version])
def test_one_that_cannot_be_read_stays_and_stops_no_other(damage: Callable[[Path], None], rig: Rig) -> None:
    damaged = example().keep(rig.pending, OTHER)
    damage(damaged)
    before = {path.name: path.read_bytes() for path in damaged.iterdir()}
    model = example(1)
    model.keep(rig.pending)
    rig.start()
    assert rig.kept == [OTHER]
    assert {path.name: path.read_bytes() for path in damaged.iterdir()} == before
    card, found = rig.only()
    assert (card.manifest.recording_id, account(found.ledger)) == (RECORDING, account(model.ledger))
    assert len(rig.told) == 1
    assert "cannot be read" in rig.told[0]
    assert str(damaged) in rig.told[0]


def test_one_that_cannot_be_read_to_its_end_stays_and_nothing_of_it_comes_over(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = big().keep(rig.pending)
    load = pending._load

    def fading(folder: Path) -> pending.Kept:
        kept = load(folder)
        spoil(folder)
        return kept

    monkeypatch.setattr(pending, "_load", fading)
    rig.start()
    assert rig.kept == [source.name]
    assert rig.found() == []
    assert len(rig.told) == 1
    assert "it has become shorter" in rig.told[0]


def test_what_is_imported_says_what_is_wrong_in_one_line(rig: Rig) -> None:
    (example().keep(rig.pending) / "recording.json").unlink()
    rig.start()
    [said] = rig.told
    [unreadable] = pending.kept(rig.pending)
    assert isinstance(unreadable, UnreadableError)
    assert said == str(unreadable)
    assert "\n" not in said
