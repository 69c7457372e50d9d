"""`edge check-config`: what the recorder would really use, where each value comes from, and all that is wrong."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from edge import app, tokens
from edge.cli import output
from edge.config import DEFAULT_PATH, ConfigErrors, Loaded, default_path, load, shown
from edge.errors import ConfigError, ExitCode
from edge.settings import SECTIONS

HELP = "show the effective configuration and everything that is wrong with it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One optional file."""
    parser.add_argument("file", nargs="?", metavar="FILE", help=f"default: {DEFAULT_PATH}, where it exists")


def run(args: argparse.Namespace) -> int:
    """Print the configuration (as TOML again, with the origin of each value), or one line for each error."""
    path = default_path() if args.file is None else Path(args.file)
    try:
        loaded = load(path)
    except ConfigErrors as errors:
        for problem in errors.problems:
            output.complain(str(problem))
        return ExitCode.USAGE
    for line in effective(loaded):
        print(line)
    if path is None:
        output.note(f"there is no {DEFAULT_PATH}: these are the defaults")
    for text in loaded.notes:
        output.note(text)
    for look in (lambda: tokens.check(loaded, output.note), lambda: app.way_to_server(loaded.config)):
        try:
            look()
        except ConfigError as error:
            # Who may edit the configuration need not be allowed to read the secrets: that is a remark, not an error.
            if not isinstance(error.__context__, PermissionError):
                raise
            output.note(str(error))
    return ExitCode.WHOLE


def effective(loaded: Loaded) -> Iterator[str]:
    """The lines of the effective configuration."""
    for section, holder in SECTIONS.items():
        yield f"[{section}]"
        part = getattr(loaded.config, section)
        keys = [f"{section}.{item.name}" for item in fields(holder)]
        values = [shown(key, getattr(part, key.partition(".")[2])) for key in keys]
        yield from output.table(
            [
                (f"{key.partition('.')[2]} = {value}", f"# {loaded.origins[key]}")
                for key, value in zip(keys, values, strict=True)
            ]
        )
        yield ""
