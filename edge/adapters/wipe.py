"""Files that are to be gone: overwritten with zeros, then removed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_ZEROS = bytes(1 << 20)


def wipe(path: Path) -> None:
    """Remove a file, or a folder with all that is in it. Raises OSError."""
    if path.is_dir():
        wipe_folder(path)
    else:
        wipe_file(path)


def wipe_folder(folder: Path) -> None:
    """Remove `folder` with all that is in it. A cut-off leaves it under a hidden name, for whoever tidies up there.

    Raises OSError.
    """
    gone = folder.with_name(f".{folder.name}.gone")
    folder.rename(gone)
    sync_folder(gone.parent)
    for path in sorted(gone.rglob("*")):
        if path.is_file() and not path.is_symlink():
            wipe_file(path)
    shutil.rmtree(gone)
    sync_folder(gone.parent)


def wipe_file(path: Path) -> None:
    """Overwrite `path` where it stands, durably, and remove it. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        left = os.fstat(descriptor).st_size
        while left:
            left -= os.write(descriptor, _ZEROS[:left])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()


def sync_folder(folder: Path) -> None:
    """Make names durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
