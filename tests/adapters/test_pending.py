"""What the first releases kept for later is read whole or not at all, and a damaged one stops nobody."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.adapters import pending
from edge.adapters.pending import Course, Kept
from edge.core.packet import HEADER_BYTES, decode_header
from edge.errors import UnreadableError
from tests.adapters.keeping import (
    COURSE,
    OTHER,
    PACKET,
    RECORDING,
    SETTINGS,
    STEREO,
    account,
    advance,
    anything,
    example,
    keep,
)


def only(folder: Path) -> Kept:
    [found] = pending.kept(folder)
    assert isinstance(found, Kept), found
    return found


@pytest.mark.parametrize("delivered", range(6))
def test_what_is_kept_comes_back_as_it_was(delivered: int, tmp_path: Path) -> None:
    model = example(delivered)
    folder = model.keep(tmp_path / "pending")
    found = only(tmp_path / "pending")
    assert found.folder == folder
    assert (found.recording_id, found.audio, found.course) == (RECORDING, STEREO, COURSE)
    assert account(found.ledger) == account(model.ledger)
    assert found.ledger.ended
    for seq in range(delivered + 1, model.ledger.last + 1):
        assert found.wire(seq) == model.wire(seq)
        ours, theirs = found.ledger.packet(seq), model.ledger.packet(seq)
        assert (ours.position, ours.frames) == (theirs.position, theirs.frames)
    for _ in range(2):  # it may be kept again and again
        found.ledger.deliver(found.ledger.last)
        assert found.ledger.kept_frames == 0


@pytest.mark.parametrize("seed", range(30))
def test_any_recording_comes_back_as_it_was_and_goes_on(seed: int, tmp_path: Path) -> None:
    chance = random.Random(-seed)
    model = anything(seed)
    folder = model.keep(tmp_path)
    assert account(only(tmp_path).ledger) == account(model.ledger)
    model.ledger.deliver(chance.randint(model.ledger.delivered, model.ledger.last))
    advance(folder, model.ledger, COURSE)
    found = only(tmp_path)
    assert account(found.ledger) == account(model.ledger)
    for seq in range(found.ledger.delivered + 1, found.ledger.last + 1):
        assert found.wire(seq) == model.wire(seq)
    pending.drop(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_later_run_counts_on_what_was_sent_again(tmp_path: Path) -> None:
    model = example(1)
    for seq in (1, 2, 3, 2, 3):
        model.ledger.sending(model.ledger.packet(seq))
    resent = model.ledger.resent_frames
    assert resent == 100 + PACKET
    keep(tmp_path, RECORDING, STEREO, model.ledger, Course(SETTINGS, sent=3), model.wire)
    for _ in range(2):
        found = only(tmp_path)
        assert found.ledger.resent_frames == resent
        for seq in range(2, found.course.sent + 1):
            found.ledger.sending(found.ledger.packet(seq))
            resent += found.ledger.packet(seq).frames
        found.ledger.sending(found.ledger.packet(found.course.sent + 1))  # for the first time
        assert found.ledger.resent_frames == resent
        advance(found.folder, found.ledger, Course(SETTINGS, sent=found.course.sent + 1))


def test_a_folder_of_the_release_before_can_be_read(tmp_path: Path) -> None:
    """It said nothing of sessions and of what was sent."""
    folder = example(1).keep(tmp_path)
    meta = json.loads((folder / "recording.json").read_bytes())
    for key in ("sent", "resent", "sessions", "reconnects"):
        del meta[key]
    (folder / "recording.json").write_text(json.dumps(meta))
    found = only(tmp_path)
    assert found.course == Course(SETTINGS)
    assert found.ledger.resent_frames == 0


def test_nothing_kept_is_nothing_found(tmp_path: Path) -> None:
    assert list(pending.kept(tmp_path / "absent")) == []
    assert list(pending.kept(tmp_path)) == []
    (tmp_path / "file").write_text("x")
    assert list(pending.kept(tmp_path / "file")) == []


def test_oldest_first_whatever_happened_to_the_folders_later(tmp_path: Path) -> None:
    names = [f"{number}f5902ac-2370-4f1c-b3a2-0123456789ab" for number in (3, 1, 2)]
    for age, name in enumerate(names):
        folder = example().keep(tmp_path, name)
        os.utime(folder / "packets.pcm1", (1e9 + age, 1e9 + age))
    advance(tmp_path / names[0], example(2).ledger, COURSE)
    found = [kept.recording_id for kept in pending.kept(tmp_path) if isinstance(kept, Kept)]
    assert found == names


# --- power cuts ------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """Everything ends here."""


class Disk:
    """Counts what is made durable and cuts the power at the step that a test chose."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, die_at: int | None = None) -> None:
        self.steps: list[str] = []
        self._die_at = die_at
        self._watch(
            monkeypatch, os, "fsync", lambda descriptor: f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}"
        )
        self._watch(monkeypatch, Path, "rename", lambda path, to: f"{path.name} -> {to.name}")
        self._watch(monkeypatch, shutil, "rmtree", lambda path, **_: f"rmtree {path.name}")

    def _watch(self, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, describe: Callable[..., str]) -> None:
        original = getattr(where, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.steps.append(describe(*args, **kwargs))
            if len(self.steps) == self._die_at:
                raise PowerCut
            return original(*args, **kwargs)

        monkeypatch.setattr(where, name, watched)


def test_a_folder_goes_by_a_rename_before_it_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = example().keep(tmp_path)
    disk = Disk(monkeypatch)
    pending.drop(folder)
    assert disk.steps[1:3] == [f"{RECORDING} -> .{RECORDING}.gone", f"sync {tmp_path.name}"]


@pytest.mark.parametrize("step", range(1, 5))
def test_cut_off_while_it_is_dropped_it_is_there_whole_or_swept_up(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = example()
    folder = model.keep(tmp_path)
    with monkeypatch.context() as patch:
        Disk(patch, step)
        with pytest.raises(PowerCut):
            pending.drop(folder)
    found = list(pending.kept(tmp_path))
    if found:
        assert account(only(tmp_path).ledger) == account(model.ledger)
    else:
        assert list(tmp_path.iterdir()) == []


def test_a_dropped_one_makes_way_for_another_of_that_name(tmp_path: Path) -> None:
    folder = example().keep(tmp_path)
    shutil.copytree(folder, tmp_path / f".{RECORDING}.gone")
    pending.drop(folder)
    assert list(tmp_path.iterdir()) == []


# --- damage ----------------------------------------------------------------------------------------------------------


def unreadable(folder: Path) -> UnreadableError:
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}
    [found] = pending.kept(folder.parent)
    assert isinstance(found, UnreadableError), found
    assert str(folder) in str(found)
    assert str(found).isprintable()
    assert "\n" not in str(found)
    if before:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"version": None},
        {"recording": "../../etc"},
        {"recording": OTHER},
        {"recording": 7},
        {"rate": 0},
        {"rate": 44100},
        {"rate": 1e999},
        {"rate": "x"},
        {"channels": -1},
        {"channels": 1},
        {"packet_frames": 0},
        {"packet_frames": 100},
        {"first_seq": 0},
        {"first_seq": 2},
        {"first_seq": "2"},
        {"delivered": 6},
        {"delivered": []},
        {"delivered_frames": -1},
        {"lost": {"xrun": -5}},
        {"lost": {"xrun": "many"}},
        {"lost": 7},
        {"gaps": [[9, 5, "xrun"]]},
        {"gaps": [[1, -5, "xrun"]]},
        {"gaps": [[1, 5, ""]]},
        {"gaps": [[1, 5]]},
        {"gaps": [[[], 5, "xrun"]]},
        {"gaps": None},
        {"settings": 7},
        {"sent": 6},
        {"sent": -1},
        {"resent": -1},
        {"resent": "x"},
        {"sessions": 7},
        {"reconnects": -1},
    ],
)
def test_a_description_that_makes_no_sense_is_left_alone(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = example().keep(tmp_path)
    meta = json.loads((folder / "recording.json").read_bytes())
    (folder / "recording.json").write_text(json.dumps(meta | changes))
    unreadable(folder)


@pytest.mark.parametrize(
    "key", ["version", "recording", "rate", "packet_frames", "first_seq", "lost", "gaps", "settings"]
)
def test_a_description_without_a_part_is_left_alone(key: str, tmp_path: Path) -> None:
    folder = example().keep(tmp_path)
    meta = json.loads((folder / "recording.json").read_bytes())
    del meta[key]
    (folder / "recording.json").write_text(json.dumps(meta))
    unreadable(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000, b'{"version": 1}'])
def test_a_description_that_is_none_is_left_alone(content: bytes, tmp_path: Path) -> None:
    folder = example().keep(tmp_path)
    (folder / "recording.json").write_bytes(content)
    unreadable(folder)


def test_every_torn_end_and_every_flipped_header_is_noticed(tmp_path: Path) -> None:
    folder = example().keep(tmp_path)
    whole = (folder / "packets.pcm1").read_bytes()
    ends = set()
    position = 0
    for seq in range(1, 6):
        position += len(example().wire(seq))
        ends.add(position)
    for size in [*range(0, 200, 7), *(end + off for end in ends for off in (-1, 0, 1, 33) if end + off < len(whole))]:
        (folder / "packets.pcm1").write_bytes(whole[:size])
        unreadable(folder)
    for extra in (b"\0", bytes(32), whole[:500], whole):
        (folder / "packets.pcm1").write_bytes(whole + extra)
        unreadable(folder)
    for byte in (0, 4, 16, 20, 24, 26, 28):
        damaged = bytearray(whole)
        damaged[byte] ^= 0x41
        (folder / "packets.pcm1").write_bytes(damaged)
        unreadable(folder)
    (folder / "packets.pcm1").write_bytes(whole)
    only(tmp_path)


@pytest.mark.parametrize("name", ["recording.json", "packets.pcm1"])
def test_a_missing_file(name: str, tmp_path: Path) -> None:
    folder = example().keep(tmp_path)
    (folder / name).unlink()
    assert "No such file" in str(unreadable(folder))


def test_what_is_no_folder_is_reported_and_hidden_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".DS_Store").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    example().keep(tmp_path)
    found = list(pending.kept(tmp_path))
    assert sum(isinstance(kept, Kept) for kept in found) == 1
    assert sum(isinstance(kept, UnreadableError) for kept in found) == 2


def test_a_copy_is_not_delivered_a_second_time(tmp_path: Path) -> None:
    folder = example().keep(tmp_path)
    shutil.copytree(folder, tmp_path / "backup")
    found = list(pending.kept(tmp_path))
    assert [kept.recording_id for kept in found if isinstance(kept, Kept)] == [RECORDING]
    assert "it is a copy" in str(next(kept for kept in found if isinstance(kept, UnreadableError)))


def test_packets_that_vanish_later_are_unreadable_and_never_short(tmp_path: Path) -> None:
    folder = example().keep(tmp_path)
    found = only(tmp_path)
    whole = (folder / "packets.pcm1").read_bytes()
    (folder / "packets.pcm1").write_bytes(whole[:-1])
    assert decode_header(found.wire(4)).seq == 4
    with pytest.raises(UnreadableError, match="shorter"):
        found.wire(5)
    shutil.rmtree(folder)
    with pytest.raises(UnreadableError, match="No such file"):
        found.wire(1)


def test_a_payload_is_taken_as_it_is(tmp_path: Path) -> None:
    """Headers carry no checksum of the samples: what the card gives back is what is sent."""
    folder = example().keep(tmp_path)
    whole = bytearray((folder / "packets.pcm1").read_bytes())
    struct.pack_into("<h", whole, HEADER_BYTES, 1234)
    (folder / "packets.pcm1").write_bytes(whole)
    assert only(tmp_path).wire(1)[HEADER_BYTES : HEADER_BYTES + 2] == struct.pack("<h", 1234)
