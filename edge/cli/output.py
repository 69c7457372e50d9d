"""What all commands share in talking to a person: plain lines, whatever characters are in them."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence


def prepare() -> None:
    """Let no odd character in a file name or a device name end a command: it is written as an escape instead."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """One line to stderr: `edge: TEXT`."""
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


def abandon_stdout_if_broken() -> None:
    """Where stdout takes no more (a closed pipe, a full disk), keep the interpreter's last flush from complaining."""
    try:
        flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
