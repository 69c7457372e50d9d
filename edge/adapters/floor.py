"""The time that a trusted clock showed last, on the card: durable when saved, and whole whenever the power goes."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import json
import os
from pathlib import Path

_VERSION = 1
_MOST_BYTES = 4096


class FloorFile:
    """One small file that a person can read, and may remove."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> float | None:
        """What was saved last, in Unix seconds; None where nothing was. Raises ValueError for a file that is none."""
        try:
            with self._path.open("rb") as file:
                content = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(error.strerror or type(error).__name__) from None
        try:
            said = json.loads(content)
            if said["version"] != _VERSION:
                raise ValueError("it is of another version")
            return dt.datetime.strptime(said["trusted_utc"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            raise ValueError("it is damaged") from None

    def save(self, utc_s: float) -> None:
        """Make `utc_s` what `load` returns. Raises OSError; then the old one still is."""
        when = dt.datetime.fromtimestamp(int(utc_s), dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        content = json.dumps({"version": _VERSION, "trusted_utc": when}).encode() + b"\n"
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if os.write(file, content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file)
            finally:
                os.close(file)
            fresh.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
