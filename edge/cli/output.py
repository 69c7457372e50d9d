"""What all commands share in talking to a person: plain lines, whatever characters are in them."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import TextIO


def prepare() -> None:
    """Let no odd character in a file name or a device name end a command: it is written as an escape instead."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """One line to stderr: `edge: TEXT`. Where that takes none (closed, a full disk) the exit code still says it."""
    if sys.stderr is not None:  # print would take stdout instead
        with contextlib.suppress(OSError):
            print(f"edge: {' '.join(text.split())}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """One line to stderr that a person should see although nothing is wrong."""
    complain(f"note: {text}")


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines with columns below each other, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def flush() -> None:
    """Write out what is still held back. A process may be started without any stdout."""
    if sys.stdout is not None:
        sys.stdout.flush()


def is_broken(stream: TextIO | None, probe: str = "") -> bool:
    """Whether `stream` takes no more (a closed pipe, a full disk). If so, what it held back is given up: the
    interpreter's last flush would complain of it, and change the exit code. A stream that holds nothing back only a
    `probe` can tell, which is written."""
    if not isinstance(stream, io.TextIOWrapper):
        return False
    try:
        stream.write(probe)
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return True
    return False
