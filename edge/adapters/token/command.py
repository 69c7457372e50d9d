"""The token that a program prints. It is run without a shell, bounded in time and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable

from edge.core.token import Token, life_of
from edge.errors import ConfigError, Unreachable

_TIMEOUT_S = 30.0
_MOST_BYTES = 16 << 10
_KEPT = "audio is kept"
_BY_HAND = "run it by hand to see what it says: here that is not shown, as it may hold a token"


class TokenCommand:
    """`command` is a path and arguments, quoted as for a shell. `utc` is the wall clock in Unix seconds, None while it
    cannot be trusted. See `edge.runtime.ports.TokenSource`."""

    keeps = True
    remedy = "check what server.token_command prints"

    def __init__(self, command: str, utc: Callable[[], float | None], timeout_s: float = _TIMEOUT_S) -> None:
        self._arguments = shlex.split(command)
        self._utc = utc
        self._timeout_s = timeout_s

    async def fetch(self) -> Token:
        """Run it. Raises ConfigError where that cannot be, Unreachable where it prints no token in time."""
        try:
            # Its stderr goes nowhere. A group of its own, so that with it ends whatever it has started.
            process = await asyncio.create_subprocess_exec(
                *self._arguments, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, cwd="/", start_new_session=True
            )
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a possible command"
            raise ConfigError(f"server.token_command cannot be run: {why}", _KEPT, "check its path") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                output = await _output(process)
                code = await process.wait()
        except TimeoutError:
            raise Unreachable(
                f"server.token_command was not through within {self._timeout_s:g} s", _KEPT, _BY_HAND
            ) from None
        finally:
            await _end(process)
        is_too_much = len(output) > _MOST_BYTES
        if code and not is_too_much:
            how = f"with {code}" if code > 0 else f"by signal {-code}"
            raise Unreachable(f"server.token_command ended {how}", _KEPT, _BY_HAND)
        text = output.strip()
        if is_too_much or not re.fullmatch(rb"[\x21-\x7e]+", text):
            what = "server.token_command must print one line of visible ASCII characters, and at most 16 KiB"
            raise Unreachable(what, _KEPT, "let it print the token alone")
        token = text.decode("ascii")
        return Token(token, life_of(token, self._utc()))

    def has_changed(self) -> bool:
        """What a program will say nobody knows before."""
        return False


async def _output(process: Process) -> bytes:
    """What it prints, up to a little more than is allowed."""
    assert process.stdout is not None
    output = bytearray()
    while len(output) <= _MOST_BYTES:
        chunk = await process.stdout.read(_MOST_BYTES + 1 - len(output))
        if not chunk:
            return bytes(output)
        output += chunk
    _kill(process)
    return bytes(output)


async def _end(process: Process) -> None:
    """Nothing of it stays behind."""
    assert process.stdout is not None
    if process.returncode is None or not process.stdout.at_eof():  # else the number may be another's by now
        _kill(process)
    await process.wait()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):  # one that fled its group may hold the pipe
            while await process.stdout.read(1 << 16):
                pass


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
