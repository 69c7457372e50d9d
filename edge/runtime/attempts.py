"""When a session is tried (again): tenacity's one loop, whose waits a wake-up cuts short."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from edge.core import events
from edge.core.context import Phase
from edge.core.session import Session
from edge.errors import EdgeError, NameFailure, ServerRefused, TokenRefused
from edge.runtime.happening import Happening
from edge.runtime.ports import JsonObject, Tokens
from edge.runtime.wake import Wake

PROBE_S = 60.0  # after a refusal, or when the attempts are used up
NAME_DELAY_S = 0.5  # while a name cannot be resolved: back within a second after it can
_JITTER = 0.1
_STALE_S = 15.0  # longer than any test of a connection: what was asked for before is no news when it ends


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to try again; seconds. `fleet_spread`: over how much of them many devices spread themselves when all lose
    their connection, or have their link back, in one moment."""

    max_attempts: int = 10
    initial_delay: float = 1.0
    max_delay: float = 30.0
    fleet_spread: float = 0.0


class Attempts:
    """Tries one session after another: `run` them one at a time.

    `feed` takes what the session has to learn of it. Each wake and each attempt is told with its reason.
    """

    def __init__(
        self,
        retry: RetryPolicy,
        feed: Callable[[events.Event], None],
        tell: Callable[[Happening], None],
        clock: Callable[[], float],
        tokens: Tokens | None = None,
    ) -> None:
        self.trouble: JsonObject = {}  # the name of what the last attempt failed of, where it has one
        self._retry = retry
        self._feed = feed
        self._tell = tell
        self._clock = clock
        self._tokens = tokens
        self._token = ""  # of the attempt under way
        self._wake = Wake()
        self._session: Session | None = None
        self._over: asyncio.Future[EdgeError | None] | None = None
        self._base = 0
        self._number = 0
        self._woken_by = ""  # what cut the wait short before the attempt that comes
        self._is_woken = False
        self._may_be_many = False  # others have lost, or found, their connection in this moment, too
        self._is_spreading = False
        self._was_planned = False
        self._attempted_at = self._woken_at = self._asked_at = -math.inf
        self._why = ""

    def wake(self, reason: str) -> None:
        """Somebody wants it now: attempts count from 1 again. During an attempt: as soon as that fails."""
        self._asked_at = self._woken_at = self._clock()
        self._wake.now(reason)

    def wake_with_others(self, reason: str) -> None:
        """It may work now, maybe for many devices in this moment: the link is back, say."""
        if not self._is_spreading:
            self._may_be_many = True
            self._woken_at = self._clock()
            self._wake.now(reason)

    def done(self) -> None:
        """Nothing is left to try: whatever wait is under way ends, without a word."""
        self._wake.now("")

    def ended(self, error: EdgeError | None, why: str = "", *, is_planned: bool = False) -> None:
        """The attempt under way is over, `why` says of what; `error` None: it had delivered something. `is_planned`: by
        our own will, and the next one is not spread, as the move to a better path was (runtime/roaming.py)."""
        self._was_planned = is_planned
        self._why = why or self._why
        if self._over is not None and not self._over.done():
            self._over.set_result(error)

    async def run(self, session: Session, moved: asyncio.Event) -> None:
        """Until the session is done. `moved` is set whenever anything has happened to it."""
        self._session = session
        self._may_be_many = self._is_spreading = self._is_woken = False
        self._woken_by = ""
        self._wake.forget()
        self._asked_at = -math.inf
        self._why = "there is audio to deliver"
        while session.phase is not Phase.DONE:
            moved.clear()
            if not session.wants_attempt:
                await moved.wait()
                continue
            self._base, self._number = 0, 1
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(EdgeError),
                wait=self._wait,
                sleep=self._sleep,
                before_sleep=self._before_sleep,
                reraise=True,
            )
            async for attempt in retrying:
                with attempt:
                    await self._attempt(session)
            self._may_be_many = self._may_be_many or not self._was_planned
        self._attempted_at = -math.inf  # the next recording need not wait for anything

    async def _attempt(self, session: Session) -> None:
        """One attempt, from the retry policy's leave to the connection's end; raises where it delivered nothing."""
        await self._space()
        if self._tokens is not None:
            self._token = await self._tokens.ready()
        error = await self._try(session)
        if isinstance(error, TokenRefused) and self._tokens is not None:
            error = await self._tokens.retried(self._token, error, lambda: self._try(session, "with another token"))
        if isinstance(error, TokenRefused) and session.wants_attempt:
            self._feed(events.Refused(error))
        if error is not None:
            raise error

    async def _space(self) -> None:
        """Neither dial a server that takes a packet and hangs up in a tight loop, nor with all the others at once."""
        while (pause_s := self._pause_s()) > 0:
            self._woken_by = await self._wake.sleep(pause_s)
            self._is_spreading = False
            if not self._woken_by:
                return

    def _pause_s(self) -> float:
        """How long to wait before the attempt that the retry policy allows; says what cut the wait before it short."""
        now = self._clock()
        came_before = self._wake.take()
        if now - self._woken_at >= _STALE_S:
            came_before = ""
        is_asked, is_many = now - self._asked_at < _STALE_S, self._may_be_many
        self._is_spreading = is_many and not is_asked and self._retry.fleet_spread > 0
        self._may_be_many = False
        pause_s = self._attempted_at + self._retry.initial_delay - now
        woken_by = came_before if came_before and (pause_s > 0 or self._is_spreading) else self._woken_by
        if woken_by:
            pause_s = 0.0
        if self._is_spreading:
            pause_s = max(pause_s, random.uniform(0.0, self._retry.fleet_spread))
        self._woken_by = ""
        if woken_by and self._session is not None and self._session.wants_attempt:
            when = f"trying in {pause_s:.0f} s (fleet_spread)" if self._is_spreading else "trying now"
            self._tell(Happening("woken", f"{when}: {woken_by}"))
            self._is_woken = True
            self._number, self._why = 1, woken_by
        elif self._is_spreading:
            text = f"attempt {self._number} in {pause_s:.1f} s (fleet_spread)"
            self._tell(Happening("waiting", text, {"attempt": self._number, "delay_s": pause_s}))
        return pause_s

    async def _try(self, session: Session, why: str = "") -> EdgeError | None:
        if not session.wants_attempt:  # the recording ended meanwhile, and nothing of it was left
            return None
        self._why = why or self._why
        self._wake.forget()
        self._attempted_at, self._asked_at = self._clock(), -math.inf
        over = self._over = asyncio.get_running_loop().create_future()
        self._tell(Happening("attempt", f"attempt {self._number}: {self._why}", {"attempt": self._number}))
        self._feed(events.Attempted())
        error: EdgeError | None = await over
        return error

    def _wait(self, state: RetryCallState) -> float:
        if self._is_woken:
            self._is_woken, self._base = False, state.attempt_number - 1
        number: int = state.attempt_number - self._base
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, NameFailure):  # nobody was dialled, and how long that lasts is not the server's doing
            self._attempted_at = -math.inf
            self._base += not error.is_answer
            return NAME_DELAY_S
        if isinstance(error, ServerRefused) or number >= self._retry.max_attempts:
            return PROBE_S
        delay = min(self._retry.initial_delay * 2.0 ** (number - 1), self._retry.max_delay)
        return delay * random.uniform(1 - _JITTER, 1 + _JITTER)

    def _before_sleep(self, state: RetryCallState) -> None:
        number = state.attempt_number - self._base
        session, error = self._session, state.outcome.exception() if state.outcome else None
        self.trouble = {"trouble": error.name} if isinstance(error, EdgeError) and error.name else {}
        if self._wake.is_due:
            return  # that wait ends before it has begun
        if session is not None and session.phase is Phase.WAITING and number >= self._retry.max_attempts:
            self._feed(events.GaveUp(f"{error} ({number} attempts)"))
        delay = state.next_action.sleep if state.next_action else 0.0
        self._number, self._why = number + 1, f"{delay:.1f} s after the last"
        text = f"attempt {number + 1} in {delay:.1f} s"
        self._tell(Happening("waiting", text, {"attempt": number + 1, "delay_s": delay} | self.trouble))

    async def _sleep(self, seconds: float) -> None:
        self._woken_by = await self._wake.sleep(seconds)
