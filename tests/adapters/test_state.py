"""The state directory: one owner, and an id that stays."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from edge.adapters.state import StateDirectory, default_state_path
from edge.errors import ConfigError, ExitCode, StateDirectoryInUse

OWNER = """
import sys, pathlib
from edge.adapters.state import StateDirectory
with StateDirectory(pathlib.Path(sys.argv[1])) as owned:
    print(owned.device_id(), flush=True)
    sys.stdin.read()
"""


def test_a_second_owner_is_refused_with_its_own_exit_code(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "state"):
        with (
            pytest.raises(StateDirectoryInUse, match="in use by another recorder") as caught,
            StateDirectory(tmp_path / "state"),
        ):
            pass
        assert int(caught.value.exit_code) == 7
    with StateDirectory(tmp_path / "state"):
        pass


def test_the_lock_dies_with_its_owner_however_it_ends(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    device_id = child.stdout.readline().strip()
    with pytest.raises(StateDirectoryInUse), StateDirectory(tmp_path):
        pass
    child.send_signal(signal.SIGKILL)
    child.wait(20)
    child.stdout.close()
    child.stdin.close()
    with StateDirectory(tmp_path) as owned:
        assert owned.device_id() == device_id


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    with StateDirectory(tmp_path) as owned:
        assert fcntl.fcntl(owned._lock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_the_device_id_is_a_uuid_made_once(tmp_path: Path) -> None:
    ids = set()
    for _ in range(3):
        with StateDirectory(tmp_path) as owned:
            ids |= {owned.device_id(), owned.device_id()}
    assert len(ids) == 1
    assert str(uuid.UUID(ids.pop())) in (tmp_path / "device-id").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"lock", "device-id"}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"not-an-id\n", b"x" * 10_000])
def test_a_damaged_id_is_replaced(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "device-id").write_bytes(content)
    with StateDirectory(tmp_path) as owned:
        first = owned.device_id()
        assert str(uuid.UUID(first)) == first == owned.device_id()


def test_a_torn_new_id_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "device-id.new").write_text("6f59")
    with StateDirectory(tmp_path) as owned:
        assert owned.device_id() == owned.device_id()


def test_an_id_is_durable_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        steps.append("sync")
        fsync(descriptor)

    def replaced(path: Path, to: Path) -> Path:
        steps.append("replace")
        return replace(path, to)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    with StateDirectory(tmp_path) as owned:
        owned.device_id()
    assert steps == ["sync", "replace"]


def test_a_disk_that_takes_no_id_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with StateDirectory(tmp_path) as owned, pytest.raises(ConfigError, match="No space left") as caught:
        owned.device_id()
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_place_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="cannot be used") as caught, StateDirectory(path):
            pass
        assert "\n" not in str(caught.value)


def test_a_disk_that_knows_no_locks_is_said_as_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(ConfigError, match="cannot be locked") as caught, StateDirectory(tmp_path):
        pass
    assert not isinstance(caught.value, StateDirectoryInUse)


def test_it_is_private(tmp_path: Path) -> None:
    with StateDirectory(tmp_path / "a" / "state") as owned:
        assert owned.path.stat().st_mode & 0o077 == 0
        assert (owned.path / "lock").stat().st_mode & 0o077 == 0
        assert owned.pending == owned.path / "pending"


def test_where_it_is_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_state_path() == Path("/var/lib/edge")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_path() == tmp_path / "edge"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state_path() == tmp_path / ".local" / "state" / "edge"
