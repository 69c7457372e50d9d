"""The file with the time that a trusted clock showed last."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.adapters.floor import FloorFile


def test_what_was_saved_last_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "clock-floor"
    file = FloorFile(path)
    assert file.load() is None
    for utc_s in (1795824000.9, 1795820000.0):  # down as well as up
        file.save(utc_s)
        assert FloorFile(path).load() == int(utc_s)
    assert json.loads(path.read_text()) == {"version": 1, "trusted_utc": "2026-11-27T22:53:20Z"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["clock-floor"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 60,
        b"\xff",
        b"[" * 3000,
        b"12",
        b"{}",
        b'{"version": 2, "trusted_utc": "2026-11-27T22:53:20Z"}',
        b'{"version": 1}',
        b'{"version": 1, "trusted_utc": 1795824000}',
        b'{"version": 1, "trusted_utc": "2026-11-27"}',
        b'{"version": 1, "trusted_utc": "2026-13-27T22:53:20Z"}',
        b'{"version": 1, "trusted_utc": "2026-11-27T22:53:20"}',
        b'{"version": 1, "trusted_utc": "2026-11-27T22:5',
    ],
)
def test_a_damaged_one_is_none_and_is_written_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clock-floor"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        FloorFile(path).load()
    FloorFile(path).save(1795824000)
    assert FloorFile(path).load() == 1795824000


def test_one_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Is a directory"):
        FloorFile(tmp_path).load()


def test_what_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "clock-floor"
    FloorFile(path).save(1795824000)
    (tmp_path / "clock-floor.new").mkdir()
    with pytest.raises(OSError):
        FloorFile(path).save(1795829999)
    assert FloorFile(path).load() == 1795824000
