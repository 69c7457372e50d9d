"""Keeps the server's token fresh: fetches the next one before the current one ends, and at once when the server refuses
it. Uplinks wait for it before an attempt; calls in between take the current one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

from edge.core.token import Token, due_after
from edge.errors import ConfigError, EdgeError, ServerRefused, TokenRefused, Unreachable
from edge.runtime.ports import TokenSource
from edge.runtime.wake import Wake

LOOK_S = 1.0  # while there is trouble, how often a file that a person may change is looked at
# Rotated, but the answer lost: a used refresh token serves for some 10 s more, so that a retry has to be soon.
FIRST_RETRY_S = 0.5
_MOST_RETRY_S = 30.0
_PERSON_S = 60.0  # where a person has to act
_FLOOR_S = 10.0  # a token that was just fetched is not followed by another one sooner, whatever it says of its life
_IDLE_S = 60.0  # asleep the machine's timers stand still, the boot clock does not: look again soon after
_JITTER = 0.1


class Refresher:
    """The one who asks `source`, and by `tell` says of trouble when it begins and when it is over. `on_new` is called
    with the reason when a token comes that waiting attempts may have hoped for. Everything here runs in the loop."""

    def __init__(
        self,
        source: TokenSource,
        tell: Callable[[str, str], None],
        clock: Callable[[], float],
        on_new: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.on_new = on_new
        self._source = source
        self._tell = tell
        self._clock = clock
        self._wake = Wake()
        self._token: Token | None = None
        self._received_at = 0.0
        self._error: EdgeError | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._refused: str | None = None
        self._told = ""
        self._fetching: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    # --- for the uplink --------------------------------------------------------------------------------------------

    def current(self) -> str:
        """The token to send now. Raises what kept it from being there."""
        if self._token is None:
            raise self._error or Unreachable("there is no token yet")
        return self._token.text

    async def ready(self) -> str:
        """Before an attempt: the token that it will send, "" where none could be had. Returns within the source's own
        bound."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="token")
        if not self._source.keeps or self._token is None or self._is_refused or self._has_ended:
            await self._fetch()
        return self._token.text if self._token is not None else ""

    async def renew(self, used: str, refusal: TokenRefused) -> EdgeError | None:
        """The server refused `used`. None: there is another one now. Else why not: `refusal`, with what a person can do
        about it, or what kept the source from giving one."""
        if self._token is None or self._token.text == used:
            was_known, self._refused = self._refused == used, used
            # Else the attempt began with a vain try to get another one.
            if not was_known or (self._fetching is not None and not self._fetching.done()):
                await self._fetch()
            self._wake.now("the token was refused")
        if self._token is not None and self._token.text != used:
            return None
        return self._error or self._explained(refusal)

    def _explained(self, refusal: TokenRefused) -> TokenRefused:
        """With what a person can do about it."""
        return TokenRefused(refusal.what, refusal.means, self._source.remedy)

    async def retried(
        self, used: str, refusal: TokenRefused, again: Callable[[], Awaitable[EdgeError | None]]
    ) -> EdgeError | None:
        """What an attempt `again` with another token came to; where there is none, why."""
        error = await self.renew(used, refusal)
        if error is not None:
            return error
        error = await again()
        return self._explained(error) if isinstance(error, TokenRefused) else error

    def accepted(self) -> None:
        """The server let somebody in with the current token: whatever was said of it before is over."""
        self._refused = None

    async def close(self) -> None:
        """Stop. What a source must not leave half done it still does."""
        tasks = [task for task in (self._watching, self._fetching) if task is not None]
        self._watching = self._fetching = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # --- fetching --------------------------------------------------------------------------------------------------

    @property
    def _is_refused(self) -> bool:
        return self._token is not None and self._token.text == self._refused

    @property
    def _has_ended(self) -> bool:
        life_s = self._token.life_s if self._token is not None else None
        return life_s is not None and self._clock() >= self._received_at + max(life_s, _FLOOR_S)

    async def _fetch(self) -> None:
        """One at a time; whoever waits may give up, the fetch goes on."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._fetch_once(), name="fetch token")
        await asyncio.shield(self._fetching)

    async def _fetch_once(self) -> None:
        was_in_trouble = self._is_in_trouble
        try:
            token = await self._source.fetch()
        except EdgeError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001  (whatever a source or its libraries raise: no reason to lose audio)
            self._failed(Unreachable(f"the token cannot be had: {type(error).__name__}"))
        else:
            self._token, self._received_at = token, self._clock()
            self._error = None
            if self._is_refused:
                self._put_off(_MOST_RETRY_S)
            else:
                self._failures = 0
                if was_in_trouble:
                    self._over()
        self._wake.now("a fetch has ended")

    def _failed(self, error: EdgeError) -> None:
        self._error = error
        if not self._source.keeps:
            self._token = None  # what it would say now is what counts
        needs_person = isinstance(error, ServerRefused | ConfigError)
        self._put_off(_PERSON_S if needs_person else min(FIRST_RETRY_S * 2.0 ** min(self._failures, 9), _MOST_RETRY_S))
        if self._source.keeps and str(error) != self._told:
            self._told = str(error)
            self._tell("warning", f"no new token: {error}")

    def _put_off(self, delay_s: float) -> None:
        self._failures += 1
        self._retry_at = self._clock() + delay_s * random.uniform(1 - _JITTER, 1)

    def _over(self) -> None:
        if self._refused is not None:
            self._tell("token", "the server refused the token; there is a new one")
        elif self._told:
            self._tell("token", "there is a new token again")
        self._told = ""
        self.on_new("there is a new token")

    @property
    def _is_in_trouble(self) -> bool:
        return self._error is not None or self._is_refused

    # --- by the clock ----------------------------------------------------------------------------------------------

    @property
    def _due_in(self) -> float:
        """Seconds until the next token should be fetched while all is well."""
        if not self._source.keeps or self._token is None or self._token.life_s is None:
            return _IDLE_S
        return self._received_at + max(_FLOOR_S, due_after(self._token.life_s)) - self._clock()

    @property
    def _rest_s(self) -> float:
        if not self._is_in_trouble:
            return min(self._due_in, _IDLE_S)
        return min(LOOK_S, self._retry_at - self._clock()) if self._source.keeps else LOOK_S

    async def _watch(self) -> None:
        while True:
            await self._wake.sleep(max(0.0, self._rest_s))
            if self._is_in_trouble:
                is_wanted = self._source.has_changed() or (self._source.keeps and self._clock() >= self._retry_at)
            else:
                is_wanted = self._source.keeps and self._due_in <= 0
            if is_wanted:
                await self._fetch()
