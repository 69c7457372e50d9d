"""The token that a person or another program writes into a file, read anew for each attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from edge.core.token import Token

Signature = tuple[int, int, int] | None


def signature(path: Path | None) -> Signature:
    """What tells a changed file from an unchanged one; None where there is none."""
    if path is None:
        return None
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


class TokenFile:
    """`read` returns the token, from the file at `path`; raises ConfigError. See `edge.runtime.ports.TokenSource`."""

    keeps = False
    remedy = "check server.token_file"

    def __init__(self, read: Callable[[], str], path: Path | None) -> None:
        self._read = read
        self._path = path
        self._seen: Signature = None

    async def fetch(self) -> Token:
        """What stands in the file now."""
        self._seen = signature(self._path)  # first: what changes while it is read is seen once more
        return Token(self._read())

    def has_changed(self) -> bool:
        """Whether the file is another one than at the latest `fetch`."""
        return signature(self._path) != self._seen
