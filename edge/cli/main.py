"""The dispatcher: finds the command, imports that one only, and turns each way to fail into one line and an exit code.

A command is a module `edge.cli.NAME` with `add_arguments(parser)` and `run(args) -> int`, and `HELP`, its description.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from edge.cli import output
from edge.errors import ConfigError, EdgeError, ExitCode

# What `edge --help` says of each. The modules themselves stay unimported: a recorder must not pay for a receiver.
COMMANDS = {
    "record": "record to a server, frame for frame",
    "receive": "be the server",
    "devices": "list microphones",
    "spool": "what is kept on the card",
    "demo": "prove it on this machine, with cut connections",
    "check-config": "show the configuration and its errors",
}
# Which extra brings a library that may be missing.
EXTRAS = {
    "aiohttp": "receive",
    "rich": "demo",
    "matplotlib": "demo",
    "numpy": "demo",
    "alsaaudio": "pi",
    "gpiozero": "pi",
    "lgpio": "pi",
    "RPi": "pi",
}
INTERRUPTED = 130  # 128 + SIGINT, what a shell expects
BROKEN_PIPE = 141  # 128 + SIGPIPE


class UsageError(ConfigError):
    """The command line makes no sense."""


class Parser(argparse.ArgumentParser):
    """argparse, but an error is raised (one line, exit code 2), and options are never guessed from a beginning."""

    def __init__(self, prog: str, description: str, **more: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise UsageError(f"{self.prog.removeprefix('edge ')}: {message}", remedy=f"see {self.prog} --help")

    def parse_all(self, argv: Sequence[str]) -> argparse.Namespace:
        """All of `argv`. What is not understood is named without its value: that might be a secret."""
        args, unknown = self.parse_known_args(argv)
        if unknown:
            options = [word.partition("=")[0] for word in unknown if word.startswith("-")]
            self.error(f"no such option: {' '.join(options)}" if options else "too many arguments")
        return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Ends without a traceback whatever happens."""
    output.prepare()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        output.flush()
        return int(code)
    except BaseException as error:  # noqa: BLE001  (nothing may end in a traceback)
        if os.environ.get("EDGE_DEBUG") == "1":
            traceback.print_exc()
        return _failed(error)
    finally:
        output.is_broken(sys.stderr)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return ExitCode.WHOLE if words else ExitCode.USAGE
    if words[0] == "--version":
        print(f"edge {version()}")
        return ExitCode.WHOLE
    command = words[0]
    if command not in COMMANDS:
        what = "option" if command.startswith("-") else "command"
        raise UsageError(f"no such {what}: {command.partition('=')[0]}", remedy="see edge --help")
    module = _module(command)
    parser = Parser(f"edge {command}", getattr(module, "HELP", COMMANDS[command]))
    module.add_arguments(parser)
    try:
        args = parser.parse_all(words[1:])
    except SystemExit:  # argparse, after --help
        return ExitCode.WHOLE
    code: int = module.run(args)
    return code


def _module(command: str) -> ModuleType:
    name = f"edge.cli.{command.replace('-', '_')}"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise UsageError(f"this build has no command {command}") from None
        raise


def usage() -> str:
    """The short help."""
    lines = output.table([(f"  {name}", text) for name, text in COMMANDS.items()])
    return "\n".join(["usage: edge COMMAND [OPTIONS]", "", *lines, "", "edge COMMAND --help says more."])


def version() -> str:
    """The installed version, or "unknown" when run from a bare source tree."""
    try:
        return metadata.version("edge-recorder")
    except metadata.PackageNotFoundError:
        return "unknown"


def _failed(error: BaseException) -> int:
    """Say what happened in one line; returns the exit code."""
    is_suspect = isinstance(error, OSError) and error.filename is None
    is_stdout_broken = output.is_broken(sys.stdout, "\n" if is_suspect else "")
    leaves = list(_leaves(error))
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    if is_stdout_broken and isinstance(error, OSError):
        output.complain(f"stdout cannot be written ({error.strerror}); send it somewhere else")
        return ExitCode.USAGE
    for leaf in leaves:
        if not isinstance(leaf, EdgeError):
            missing = leaf.name.partition(".")[0] if isinstance(leaf, ModuleNotFoundError) and leaf.name else ""
            if missing in EXTRAS:
                extra = EXTRAS[missing]
                output.complain(f"this needs {missing}, which is not installed; pip install 'edge-recorder[{extra}]'")
                return ExitCode.USAGE
            output.complain(f"internal error: {_place(leaf)}; this is our bug; EDGE_DEBUG=1 shows its details")
            return ExitCode.INTERNAL
    for leaf in leaves:
        output.complain(str(leaf))
    return max(leaf.exit_code for leaf in leaves if isinstance(leaf, EdgeError))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """What is inside the groups that asyncio's TaskGroup makes."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _place(error: BaseException) -> str:
    """The kind of error and the way to it, innermost first. Not its text: that may quote a URL with the token."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    way = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    kind = type(error).__name__ + (f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else "")
    return f"{kind} at {' < '.join(way[:8]) or 'an unknown place'}"
