"""edge.config.token: the token's file, or the systemd credential."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import Config, load, token
from edge.errors import ConfigError, ExitCode


@pytest.fixture(autouse=True)
def _no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)


def config(path: Path | str) -> Config:
    return load(overrides={"server.token_file": str(path)}).config


def written(tmp_path: Path, content: bytes, mode: int = 0o600) -> Config:
    path = tmp_path / "token"
    path.write_bytes(content)
    path.chmod(mode)
    return config(path)


@pytest.mark.parametrize("content", [b"abc", b"abc\n", b"  abc \r\n\n", b"\tabc"])
def test_the_token_is_stripped(tmp_path: Path, content: bytes) -> None:
    warnings: list[str] = []
    assert token(written(tmp_path, content), warn=warnings.append) == "abc"
    assert warnings == []


def test_no_file_is_no_token() -> None:
    assert token(load().config) == ""


def test_a_systemd_credential_serves_where_no_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert token(load().config) == ""
    (tmp_path / "token").write_text("from systemd")
    with pytest.raises(ConfigError, match="one line of visible ASCII"):
        token(load().config)
    (tmp_path / "token").write_text("from-systemd\n")
    (tmp_path / "token").chmod(0o400)
    assert token(load().config) == "from-systemd"
    other = tmp_path / "other"
    other.write_text("from-file")
    other.chmod(0o600)
    assert token(config(other)) == "from-file"


@pytest.mark.parametrize(
    "content", [b"", b" \n", b"two\nhunter2", b"two hunter2", b"hunter2\x00", b"hunter2\xff", "hunter2é".encode()]
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigError, match="one line of visible ASCII characters") as caught:
        token(written(tmp_path, content))
    assert "hunter2" not in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    assert len(token(written(tmp_path, b"x" * (16 << 10)))) == 16 << 10
    with pytest.raises(ConfigError, match="larger than 16 KiB"):
        token(written(tmp_path, b"x" * ((16 << 10) + 1)))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: No such file or directory; see server.token_file"):
        token(config(tmp_path / "none"))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        token(config(tmp_path))


def test_a_file_that_all_can_read_is_warned_about(tmp_path: Path) -> None:
    warnings: list[str] = []
    assert token(written(tmp_path, b"abc", 0o644), warn=warnings.append) == "abc"
    (line,) = warnings
    assert "chmod 600" in line
    assert "abc" not in line
