"""Supabase's token endpoint as far as a recorder meets it: it rotates, and it does not forgive a late reuse.

How old a use is only `pass_time` decides, so that a slow machine changes nothing. Stricter than the real one, which
also forgives the parent of the latest token.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web

KEY = "anon-key-of-these-tests"
REUSE_S = 10.0
JsonObject = dict[str, Any]


@dataclass
class Refresh:
    """One refresh token of a family. `used_at` None: it was not used yet."""

    family: int
    used_at: float | None = None
    child: str = ""


def jwt(claims: JsonObject) -> str:
    """As the real one makes it, but for the signature."""
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*texts, secrets.token_urlsafe(16)])


class Supabase:
    """An async context manager. `granted` and `refresh_tokens` are what it has given out, oldest first.

    life_s       of an access token
    answering    called when it has rotated and before it answers; what that raises is a lost answer
    on_grant     called with each new access token, before it is given out
    """

    def __init__(self, life_s: float = 3600.0) -> None:
        self.life_s = life_s
        self.granted: list[str] = []
        self.refresh_tokens: list[str] = []
        self.refusals: list[str] = []
        self.requests = 0
        self.is_down = False
        self.answering: Callable[[], Awaitable[None]] = _at_once
        self.on_grant: Callable[[str], None] = lambda token: None
        self._known: dict[str, Refresh] = {}
        self._revoked: set[int] = set()
        self._later_s = 0.0
        self._families = 0
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sign_in(self) -> str:
        """A first refresh token, as a person gets one who signs in."""
        self._families += 1
        return self._new_refresh(self._families)

    def pass_time(self, seconds: float) -> None:
        self._later_s += seconds

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def _now(self) -> float:
        return self._later_s

    def _new_refresh(self, family: int) -> str:
        text = f"refresh-{secrets.token_urlsafe(12)}"
        self._known[text] = Refresh(family)
        self.refresh_tokens.append(text)
        return text

    async def _handle(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.is_down:
            return web.json_response({"message": "upstream"}, status=503)
        where = (request.method, request.path, request.query_string)
        if where != ("POST", "/auth/v1/token", "grant_type=refresh_token"):
            return self._refuse(404, {"msg": f"nobody asked for {where}"})
        if request.headers.get("apikey") != KEY:
            return self._refuse(401, {"message": "Invalid API key"})
        body = await request.json()
        if set(body) != {"refresh_token"} or request.content_type != "application/json":
            return self._refuse(400, {"msg": "not this"})
        answer = self._exchange(body["refresh_token"])
        if isinstance(answer, web.Response):
            return answer
        try:
            await self.answering()
        except ConnectionError:
            assert request.transport is not None
            request.transport.abort()
            raise
        return web.json_response(answer)

    def _exchange(self, text: str) -> JsonObject | web.Response:
        known = self._known.get(text)
        if known is None or known.family in self._revoked:
            code = "refresh_token_not_found" if known is None else "refresh_token_already_used"
            what = "Refresh Token Not Found" if known is None else "Already Used"
            return self._refuse(400, {"code": 400, "error_code": code, "msg": f"Invalid Refresh Token: {what}"})
        if known.used_at is None:
            known.used_at = self._now()
            known.child = self._new_refresh(known.family)
        elif self._now() - known.used_at > REUSE_S:
            self._revoked.add(known.family)
            return self._exchange(text)
        now = int(time.time())
        token = jwt({"iat": now, "exp": now + int(self.life_s), "sub": "recorder"})
        self.granted.append(token)
        self.on_grant(token)
        return {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": self.life_s,
            "expires_at": now + self.life_s,
            "refresh_token": known.child,
            "user": {"id": "recorder"},
        }

    def _refuse(self, status: int, body: JsonObject) -> web.Response:
        self.refusals.append(str(body))
        return web.json_response(body, status=status)


async def _at_once() -> None:
    await asyncio.sleep(0)
