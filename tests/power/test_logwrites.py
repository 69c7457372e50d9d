"""The log reader and the model of a cut, on logs written here: no disk, no root."""

from __future__ import annotations

import struct
from pathlib import Path
from random import Random

import pytest

from tests.power.logwrites import DISCARD, FLUSH, FUA, SECTOR, Damage, Log, LogError, Replay, torn_sectors
from tests.power.promises import Promise, Promises

SECTORS = 64
WRITE = 0


def written(path: Path, *requests: tuple[int, int, bytes], count: int | None = None) -> Path:
    """A log of (flags, sector, data); a discard's data tells its length only."""
    content = struct.pack("<QQQI", 0x6A736677736872, 1, len(requests) if count is None else count, SECTOR)
    content = content.ljust(SECTOR, b"\0")
    for flags, sector, data in requests:
        content += struct.pack("<QQQQ", sector, len(data) // SECTOR, flags, 0).ljust(SECTOR, b"\0")
        content += b"" if flags & DISCARD else data
    path.write_bytes(content)
    return path


def fill(letter: str, sectors: int = 1) -> bytes:
    return letter.encode() * sectors * SECTOR


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.write_bytes(fill(".", SECTORS))
    return path


def letters(image: Path) -> str:
    """An image, a letter for each sector."""
    content = image.read_bytes()
    assert len(content) == SECTORS * SECTOR
    sectors = [content[at : at + SECTOR] for at in range(0, len(content), SECTOR)]
    assert all(len(set(sector)) == 1 for sector in sectors)
    return "".join(chr(sector[0]) for sector in sectors).rstrip(".")


def test_entries_and_lengths(tmp_path: Path) -> None:
    path = written(
        tmp_path / "log", (WRITE, 3, fill("a", 2)), (FLUSH, 0, b""), (DISCARD, 9, fill("x", 5)), (FUA, 1, fill("b"))
    )
    with Log(path) as log:
        assert [(entry.sector, entry.sectors, entry.end) for entry in log.entries] == [
            (3, 2, 2048), (0, 0, 2560), (9, 5, 3072), (1, 1, 4096),
        ]  # fmt: skip
        assert [log.count_at(length) for length in (0, 512, 2047, 2048, 2559, 2560, 4096)] == [0, 0, 0, 1, 1, 2, 4]
        assert [log.end_at(count) for count in range(5)] == [512, 2048, 2560, 3072, 4096]
        assert [log.flushed(count) for count in range(5)] == [0, 0, 1, 1, 1]
        assert log.flushes(0, 4) == [1] and log.flushes(2, 4) == []
        assert log.bytes_written(0, 4) == 3 * SECTOR


@pytest.mark.parametrize("missing", [1, 512, 600])
def test_a_log_that_ends_inside_an_entry_is_refused(tmp_path: Path, missing: int) -> None:
    path = written(tmp_path / "log", (FLUSH, 0, b""), (WRITE, 3, fill("a")), count=0)
    path.write_bytes(path.read_bytes()[:-missing])
    if missing == 512:
        path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(LogError, match="ends inside"):
        Log(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"")
    with pytest.raises(LogError, match="no write log"):
        Log(tmp_path / "log")
    with pytest.raises(LogError, match="1 of 2 entries"):
        Log(written(tmp_path / "log", (FLUSH, 0, b""), count=2))


def test_all_before_a_flush_survives_and_of_the_rest_any_subset(tmp_path: Path, base: Path) -> None:
    path = written(
        tmp_path / "log",
        (WRITE, 0, fill("a", 2)),
        (FLUSH, 0, b""),
        (WRITE, 1, fill("b")),
        (WRITE, 2, fill("c")),
        (FUA, 3, fill("d")),
        (WRITE, 1, fill("e")),
        (FLUSH, 0, b""),
    )
    seen = set()
    with Log(path) as log:
        for seed in range(200):
            damage = Replay(log, base, tmp_path / "image").cut(6, Random(seed), tmp_path / "cut")
            seen.add(letters(tmp_path / "cut"))
            assert damage.kept + damage.lost == 4 and damage.kept >= 1
        replay = Replay(log, base, tmp_path / "image")
        assert replay.cut(7, Random(0), tmp_path / "cut") == Damage()
        assert letters(tmp_path / "cut") == "aecd"
        with pytest.raises(ValueError, match="forward only"):
            replay.forward(0)
    # Sector 1: as flushed, or as either later write; sector 2: with or without; the FUA write always.
    assert seen == {f"a{one}{two}d" for one in "abe" for two in ".c"}


def test_torn_writes(tmp_path: Path, base: Path) -> None:
    assert {tuple(torn_sectors(3, Random(seed))) for seed in range(200)} == {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}
    path = written(tmp_path / "log", (WRITE, 0, fill("a", 3)), (DISCARD, 2, fill("x", 2)))
    torn = Damage()
    with Log(path) as log:
        for seed in range(100):
            damage = Replay(log, base, tmp_path / "image").cut(1, Random(seed), tmp_path / "cut")
            found = letters(tmp_path / "cut")
            assert (0 < found.count("a") < 3) is bool(damage.torn)
            torn += damage
        Replay(log, base, tmp_path / "image").forward(2)
        assert letters(tmp_path / "image").rstrip(".") == "aa\0\0"
    assert torn.torn > 10 and torn.kept > 10 and torn.lost > 10


def test_a_promise_carries_the_length_of_the_log(tmp_path: Path) -> None:
    promises = Promises(written(tmp_path / "log", (FLUSH, 0, b"")), tmp_path / "book")
    assert promises.read() == []
    promises.promise("record 7 is safe")
    promises.promise("8", since=512)
    assert promises.read() == [Promise(1024, "record 7 is safe"), Promise(512, "8")]
