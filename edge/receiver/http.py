"""The HTTP face that both kinds of server share: token, shapes of requests and answers, bounds (PROTOCOL.md)."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from aiohttp import web

from edge.receiver.config import ReceiverConfig
from edge.receiver.facts import SessionFacts
from edge.receiver.socket import Socket

log = logging.getLogger("edge.receiver")
_SESSION_ID_CHARS = 64
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """A request that gets `status` with an error text instead of what it asked for."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Backend(Protocol):
    """What a kind of server does with well-formed requests of clients that showed the token."""

    async def start(self, settings: dict[str, Any]) -> str:
        """Open a session; returns its id. Raises Refused."""

    async def stop(self, session_id: str) -> None:
        """Flush and finalise, whatever the id. Raises Refused where the audio could not be made safe."""

    def status(self, session_id: str) -> dict[str, Any] | None:
        """The session as `/session/ID/status` shows it; None where there is none."""

    async def stream(self, socket: Socket, session_id: str, client_id: str, *, resume: bool) -> None:
        """Serve one open WebSocket until it has ended."""

    async def admit(self) -> Callable[[], None]:
        """Wait for a turn to serve a request; what it returns gives the turn back."""

    def facts(self) -> list[SessionFacts]:
        """The sessions that there are."""

    async def recover(self) -> None:
        """Bring what an earlier receiver left into order, before the first request."""

    async def linger(self) -> None:
        """After SIGTERM: returns when the process may end."""

    async def close(self) -> None:
        """End in order."""

    async def abort(self) -> None:
        """End at once, as a crash would: nothing more is made durable or said."""


class Face:
    """Turns requests into calls of `backend`."""

    def __init__(self, config: ReceiverConfig, backend: Backend) -> None:
        self._config = config
        self._backend = backend
        self._token = config.token.encode()
        self.conflict = False  # a session of the server's other type is active, for anyone: 409
        self.sockets: set[Socket] = set()
        self._strangers = 0
        self.app = web.Application(middlewares=[self._guard], client_max_size=config.limits.body_bytes)
        self.app.add_routes(
            [
                web.post("/api/recording/start", self._start),
                web.post("/api/recording/stop", self._stop),
                web.get("/api/recording/status", self._any_recording),
                web.get("/session/{session_id}/status", self._status),
                web.get("/ws/audio_stream/{session_id}", self._stream),
            ]
        )

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """One turn for each request. Of an unexpected error only the place is logged: its text may quote the URL."""
        leave = await self._backend.admit()
        try:
            return await handler(request)
        except Refused as refused:
            return _error(refused.status, str(refused))
        except web.HTTPException as error:
            return _error(error.status, error.reason)
        except ConnectionError:
            return _error(503, "the client is gone")
        except Exception as error:  # noqa: BLE001 - one request must not end the server
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log.error("a request failed: %s at %s:%s", type(error).__name__, frame.filename, frame.lineno)  # noqa: TRY400
            return _error(500, "internal error")
        finally:
            leave()

    async def _start(self, request: web.Request) -> web.StreamResponse:
        if not self._may(_bearer(request)):
            return _unauthorised()
        settings = await _json_object(request)
        if not isinstance(settings.get("event"), str) or not settings["event"]:
            raise Refused(400, "event is required")
        agent = settings.get("agent")
        if agent is not None and self._config.agents is not None and agent not in self._config.agents:
            raise Refused(500, "unknown agent")
        if self.conflict:
            raise Refused(409, "another session is active")
        session_id = await self._backend.start(settings)
        return web.json_response(
            {
                "status": "success",
                "message": "Recording session started",
                "session_id": session_id,
                "session_start_time_utc": datetime.now(UTC).isoformat(),
                "recording_status": {"is_recording": True, "session_id": session_id},
            }
        )

    async def _stop(self, request: web.Request) -> web.StreamResponse:
        if not self._may(_bearer(request)):
            return _unauthorised()
        settings = await _json_object(request)
        session_id = settings.get("session_id")
        if isinstance(session_id, str) and len(session_id) <= _SESSION_ID_CHARS:
            await self._backend.stop(session_id)
        return web.json_response(
            {"status": "success", "message": "Recording session stopped", "session_id": session_id}
        )

    async def _any_recording(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"is_recording": False})  # trap 8: it always says so

    async def _status(self, request: web.Request) -> web.StreamResponse:
        status = self._backend.status(request.match_info["session_id"][:_SESSION_ID_CHARS])
        if status is None:
            return web.json_response({"exists": False}, status=404)
        return web.json_response({"exists": True} | status)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if request.transport is None:
            raise Refused(503, "the client is gone")
        socket = Socket(self._config.limits, self._config.timing)
        if not self._may(request.query.get("token", "")):
            return await self._show_out(request, socket)
        if len(self.sockets) >= self._config.limits.sockets:
            raise Refused(503, "too many sockets")
        self.sockets.add(socket)
        try:
            await socket.open(request)
            session_id = request.match_info["session_id"][:_SESSION_ID_CHARS]
            client_id = request.query.get("client_id", "")[:_SESSION_ID_CHARS]
            resume = request.query.get("resume", "0") in ("1", "true")
            await self._backend.stream(socket, session_id, client_id, resume=resume)
        finally:
            await asyncio.shield(socket.finish())
            self.sockets.discard(socket)
        return socket.response

    async def _show_out(self, request: web.Request, socket: Socket) -> web.StreamResponse:
        """A wrong token: the handshake, then 1000 without a reason and without hello. Takes no friend's place."""
        if self._strangers >= self._config.limits.sockets:
            raise Refused(503, "too many sockets")
        self._strangers += 1
        try:
            await socket.open(request)
        finally:
            await asyncio.shield(socket.finish())
            self._strangers -= 1
        return socket.response

    def _may(self, token: str) -> bool:
        return hmac.compare_digest(token.encode("utf-8", "backslashreplace"), self._token)


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _unauthorised() -> web.Response:
    """As the real server does it: 200 with the status inside the body."""
    return web.json_response([{"error": "Invalid or missing token"}, 401])


def _error(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)


async def _json_object(request: web.Request) -> dict[str, Any]:
    try:
        value = json.loads(await request.read())
    except ValueError:
        raise Refused(400, "the body is no JSON") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is no JSON object")
    return value


def ping_t(*, is_recording: bool, audio_ms: int, connected: bool) -> dict[str, Any]:
    """The heartbeat of the registered socket: its `is_recording` is the only one that means anything."""
    return {
        "type": "ping",
        "t": int(time.time() * 1000),
        "is_recording": is_recording,
        "audio_ms": audio_ms,
        "ws_connected": connected,
    }


def ping_piled() -> dict[str, Any]:
    """The ping that each connection ever made starts."""
    return {"type": "ping", "ts": int(time.time() * 1000), "is_recording": False}


RESUMED = {"type": "status", "state": "RESUMED"}
NO_AUDIO = {"type": "warning", "event": "no_audio_detected"}


def replaced(by: str) -> dict[str, Any]:
    """Another socket took over."""
    return {"type": "info", "reason": "replaced", "by": by}
