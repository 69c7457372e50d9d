"""The few things about files that the whole spool shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write_all(system: Any, descriptor: int, data: bytes, place: int | None = None) -> None:
    """Write all of `data`, at `place` or where the file stands; a short write goes on."""
    view = memoryview(data)
    while view:
        written = system.write(descriptor, view) if place is None else system.pwrite(descriptor, view, place)
        view = view[written:]
        place = None if place is None else place + written


def blocks(path: Path) -> int:
    """Bytes that `path` takes on its device; 0 where it is gone."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_blocks * 512
