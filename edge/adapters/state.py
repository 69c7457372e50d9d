"""The state directory: one owner, the device's id, and where recordings are (DESIGN.md, decisions 6 and 10)."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from types import TracebackType

from edge.errors import ConfigError, StateDirectoryInUse

_PRIVATE_DIR = 0o700
_PRIVATE_FILE = 0o600


def default_state_path() -> Path:
    """/var/lib/edge for root, else below $XDG_STATE_HOME or ~/.local/state."""
    if os.geteuid() == 0:
        return Path("/var/lib/edge")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "edge"


class StateDirectory:
    """Owned from `__enter__` to `__exit__` by a lock that the kernel drops with the process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def __enter__(self) -> StateDirectory:
        try:
            self.path.mkdir(mode=_PRIVATE_DIR, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE_FILE)
        except OSError as error:
            raise ConfigError(
                f"the state directory {self.path} cannot be used ({error.strerror})", "", "give another with --state"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = -1
            if not isinstance(error, BlockingIOError):
                raise ConfigError(
                    f"the state directory {self.path} cannot be locked ({error.strerror})",
                    remedy="give another with --state",
                ) from None
            raise StateDirectoryInUse(
                f"the state directory {self.path} is in use by another recorder",
                "",
                "stop it, or give another with --state",
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def pending(self) -> Path:
        """Where the first release kept undelivered packets."""
        return self.path / "pending"

    @property
    def spool(self) -> Path:
        """Where recordings are kept."""
        return self.path / "spool"

    @property
    def refresh_token(self) -> Path:
        """Where the refresh token of the day is kept."""
        return self.path / "refresh-token"

    @property
    def clock_floor(self) -> Path:
        """Where the time is kept that a trusted clock showed last."""
        return self.path / "clock-floor"

    def device_id(self) -> str:
        """A random id, made once: what servers see as `client_id`. Raises ConfigError where it cannot be kept."""
        path = self.path / "device-id"
        try:
            return str(uuid.UUID(path.read_text(encoding="ascii").strip()))
        except (OSError, ValueError):
            pass  # none yet, or damaged: the id names nothing that could be lost with it
        device_id = str(uuid.uuid4())
        fresh = path.with_suffix(".new")
        try:
            with fresh.open("w", encoding="ascii") as file:
                file.write(device_id + "\n")
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as error:
            raise ConfigError(
                f"the state directory {self.path} cannot be written ({error.strerror})",
                remedy="give another with --state",
            ) from None
        return device_id
