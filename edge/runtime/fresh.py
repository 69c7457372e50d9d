"""Calls beside an attempt whose token may have expired meanwhile."""

from __future__ import annotations

from edge.errors import TokenRefused
from edge.runtime.ports import JsonObject, ServerApi, SessionStatus
from edge.runtime.refresher import Refresher


class FreshServer:
    """`server`, asked again at once for a session's status where the token was refused and there is another one: audio
    may be flowing meanwhile. Whatever else is refused ends an attempt, which the uplink repeats."""

    def __init__(self, server: ServerApi, tokens: Refresher) -> None:
        self._server = server
        self._tokens = tokens

    async def start(self, settings: JsonObject) -> str:
        """See ServerApi."""
        return await self._server.start(settings)

    async def stop(self, session_id: str) -> None:
        """See ServerApi."""
        await self._server.stop(session_id)

    async def status(self, session_id: str) -> SessionStatus:
        """See ServerApi."""
        used = self._tokens.current()
        try:
            return await self._server.status(session_id)
        except TokenRefused as refusal:
            if await self._tokens.renew(used, refusal) is not None:
                raise
        return await self._server.status(session_id)

    def forget_connections(self) -> None:
        """See ServerApi."""
        self._server.forget_connections()

    async def close(self) -> None:
        """See ServerApi."""
        await self._server.close()
