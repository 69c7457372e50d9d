"""`edge` with small segments and a small ballast, so that a short run rotates, frees and recycles.

`EDGE_POWER_NO_SYNC=1` takes every sync out of the spool: the negative control.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from edge.adapters import spool
from edge.cli.main import main

SEGMENT_BYTES = 128 << 10  # 4 s of 16 kHz mono
BALLAST_BYTES = 2 << 20


class Unsynced:
    """`os`, but what should make things durable does nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @staticmethod
    def fsync(descriptor: int) -> None:
        """Nothing."""

    fdatasync = fsync


def shrink() -> None:
    """Change the defaults of the spool directory."""
    kept = spool.SpoolDirectory.__init__
    system: Any = Unsynced() if os.environ.get("EDGE_POWER_NO_SYNC") else os

    def smaller(self: spool.SpoolDirectory, path: Any, max_bytes: int = 0) -> None:
        kept(self, path, max_bytes, segment_bytes=SEGMENT_BYTES, ballast_bytes=BALLAST_BYTES, system=system)

    spool.SpoolDirectory.__init__ = smaller  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    shrink()
    sys.exit(main(sys.argv[1:]))
