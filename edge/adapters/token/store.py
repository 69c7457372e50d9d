"""The refresh token of the day, on the card: durable when `save` returns, whole whenever the power goes."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

_VERSION = 1
_MOST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Held:
    """A refresh token, and from which seed it came: `seed` is a fingerprint."""

    text: str = field(repr=False)
    seed: str


def fingerprint(seed: str) -> str:
    """Tells one seed from another, and nothing else of it."""
    return hashlib.sha256(seed.encode()).hexdigest()


class TokenStore:
    """One file, readable by its owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Held | None:
        """What was saved last; None where nothing was, or where it cannot be read any more."""
        try:
            with self._path.open("rb") as file:
                said = json.loads(file.read(_MOST_BYTES))
            if said["version"] != _VERSION or not (isinstance(said["refresh_token"], str) and said["refresh_token"]):
                return None
            return Held(said["refresh_token"], str(said["seed"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def save(self, held: Held) -> None:
        """Make `held` what `load` returns, also after a power cut. Raises OSError; then the old one still is."""
        content = json.dumps({"version": _VERSION, "refresh_token": held.text, "seed": held.seed}).encode()
        fresh = self._path.with_name(self._path.name + ".new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(file, 0o600)  # where an older one was left there
            while content:
                content = content[os.write(file, content) :]
            os.fsync(file)
        finally:
            os.close(file)
        fresh.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
