"""The token that a program which uses the library gives: a string, a function, or an async one."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from edge.core.token import Token
from edge.errors import ConfigError, Unreachable

Given = str | Callable[[], str] | Callable[[], Awaitable[str]]


class TokenFunction:
    """Asked anew for each attempt. See `edge.runtime.ports.TokenSource`."""

    keeps = False
    remedy = "check auth_token"

    def __init__(self, given: Given, timeout_s: float) -> None:
        self._given = given
        self._timeout_s = timeout_s

    async def fetch(self) -> Token:
        """What it says now. Raises what it raises; Unreachable where an async one takes too long."""
        said = self._given() if callable(self._given) else self._given
        if inspect.isawaitable(said):
            try:
                async with asyncio.timeout(self._timeout_s):
                    said = await said
            except TimeoutError:
                raise Unreachable(f"auth_token gave no token within {self._timeout_s:g} s") from None
        if not isinstance(said, str):
            raise ConfigError(f"auth_token gave no text but {type(said).__name__}", remedy="it must return a string")
        return Token(said)

    def has_changed(self) -> bool:
        """A function does not tell."""
        return False
