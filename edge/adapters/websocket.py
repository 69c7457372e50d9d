"""One WebSocket attempt (PROTOCOL.md, "Open, stream, stop", 2). The token is in the URL, so nothing here logs a URL."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import ssl
from collections.abc import Callable
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from edge.errors import TokenRefused, Unreachable
from edge.runtime.ports import Closed, JsonObject

_CLOSE_TIMEOUT_S = 2.0
_MAX_MESSAGE = 1 << 20
_WRITE_LIMIT = 1 << 16

# The library logs request lines, and with them the token, at DEBUG: it gets a logger that says nothing.
_silent = logging.Logger("edge.websocket.silent")  # noqa: LOG001  (outside the tree, where nothing reaches it)
_silent.addHandler(logging.NullHandler())
_silent.disabled = True


class _Attempt(connect):
    """One attempt at the one address that is configured: a redirect could carry the audio anywhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow none."""
        return exc


class WebSocketDialer:
    """Dials `base_url`'s /ws/audio_stream/SESSION with `token()` as `client_id`."""

    def __init__(self, base_url: str, token: Callable[[], str], client_id: str, timeout_s: float = 10.0) -> None:
        parts = urlsplit(base_url)
        self._base = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}"
        self._token = token
        self._client_id = client_id
        self._timeout_s = timeout_s

    async def __call__(self, session_id: str) -> WebSocket:
        """One attempt. Raises Unreachable, or ServerRefused where trying again would not help."""
        token = self._token()
        query = f"token={quote(token, safe='')}&client_id={quote(self._client_id, safe='')}&resume=1"
        url = f"{self._base}/ws/audio_stream/{quote(session_id, safe='')}?{query}"
        try:
            connection = await _Attempt(
                url,
                proxy=None,
                compression=None,
                open_timeout=self._timeout_s,
                close_timeout=_CLOSE_TIMEOUT_S,
                ping_interval=None,  # its keepalive deadlocks at audio rate; our barriers do the work
                max_size=_MAX_MESSAGE,
                write_limit=_WRITE_LIMIT,
                logger=_silent,
                happy_eyeballs_delay=0.25,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            if status in (401, 403):
                raise TokenRefused(f"the server refused the token (HTTP {status})") from None
            raise Unreachable(f"the server did not open a WebSocket (HTTP {status})") from None
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(f"the server's certificate is not trusted ({error.verify_message})") from None
        except TimeoutError:
            raise Unreachable("the server did not answer in time") from None
        except (WebSocketException, OSError) as error:
            raise Unreachable(f"the server cannot be reached ({_why(error)})") from None
        return WebSocket(connection, token)


class WebSocket:
    """One open socket; see `edge.runtime.ports.Socket`."""

    def __init__(self, connection: ClientConnection, token: str) -> None:
        self._connection = connection
        self._token = token

    async def send(self, message: str | bytes) -> None:
        """Queue one message. Raises ConnectionError once the socket has ended."""
        try:
            await self._connection.send(message)
        except ConnectionClosed:
            raise ConnectionError("the socket has ended") from None

    async def receive(self) -> JsonObject | Closed:
        """The next JSON object, or how the socket ended. Whatever is no JSON object is passed over."""
        while True:
            try:
                raw = await self._connection.recv()
            except ConnectionClosed as closed:
                frame = closed.rcvd
                return Closed(frame.code, self._quoted(frame.reason)) if frame else Closed(1006, "no close frame")
            try:
                message = json.loads(raw)
            except (ValueError, RecursionError):
                continue
            if isinstance(message, dict):
                return message

    async def close(self) -> None:
        """Close in order, within two seconds."""
        try:
            async with asyncio.timeout(2 * _CLOSE_TIMEOUT_S):
                await self._connection.close()
        except (TimeoutError, WebSocketException, OSError):
            self.abort()

    def _quoted(self, reason: str) -> str:
        """What the server says, without the token that it may have echoed."""
        text = reason.replace(self._token, "***") if self._token else reason
        return "".join(sign if sign.isprintable() else " " for sign in text)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._connection.transport.abort()


def _why(error: Exception) -> str:
    """The reason without a URL: exceptions of the library may quote it."""
    if isinstance(error, socket.gaierror):
        return f"its name cannot be resolved: {error.strerror}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or type(error).__name__}"
    if isinstance(error, OSError):
        return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return type(error).__name__
