"""One WebSocket attempt (PROTOCOL.md, "Open, stream, stop", 2). The token is in the URL, so nothing here logs a URL."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from edge.adapters.wire import Connector, stranger
from edge.errors import EdgeError, TokenRefused, Unreachable
from edge.runtime.ports import Closed, JsonObject

_CLOSE_TIMEOUT_S = 2.0
_MAX_MESSAGE = 1 << 20
_WRITE_LIMIT = 1 << 16

# The library logs request lines, and with them the token, at DEBUG: it gets a logger that says nothing.
_silent = logging.Logger("edge.websocket.silent")  # noqa: LOG001  (outside the tree, where nothing reaches it)
_silent.addHandler(logging.NullHandler())
_silent.disabled = True


_CONNECT_SHARE = 0.9  # of an attempt's time: so that it is the connection that says why it failed


class _Attempt(connect):
    """One attempt at the one address that is configured: a redirect could carry the audio anywhere."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow none."""
        return exc


class _Connection(ClientConnection):
    """Tells why the connection went in mid-handshake: TLS 1.3 refuses a client's certificate only then."""

    _lost: Exception | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """As its parent."""
        self._lost = exc
        super().connection_lost(exc)

    async def handshake(self, *arguments: Any, **named: Any) -> None:
        """As its parent. Raises what the connection was lost of, where there is such a thing."""
        try:
            await super().handshake(*arguments, **named)
        except WebSocketException:
            if isinstance(self._lost, OSError):
                raise self._lost from None
            raise


class WebSocketDialer:
    """Dials `base_url`'s /ws/audio_stream/SESSION with `token()` as `client_id`."""

    def __init__(
        self,
        base_url: str,
        token: Callable[[], str],
        client_id: str,
        timeout_s: float = 10.0,
        connector: Connector | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        self._base = f"{'wss' if parts.scheme == 'https' else 'ws'}://{parts.netloc}"
        self._token = token
        self._client_id = client_id
        self._timeout_s = timeout_s
        self._connector = connector or Connector(base_url)

    async def __call__(self, session_id: str) -> WebSocket:
        """One attempt. Raises Unreachable, or ServerRefused where trying again would not help."""
        token = self._token()
        query = f"token={quote(token, safe='')}&client_id={quote(self._client_id, safe='')}&resume=1"
        url = f"{self._base}/ws/audio_stream/{quote(session_id, safe='')}?{query}"
        deadline = asyncio.get_running_loop().time() + self._timeout_s

        async def dial(sock: socket.socket, tls: dict[str, Any]) -> ClientConnection:
            return await _Attempt(
                url,
                sock=sock,
                **tls,
                proxy=None,
                compression=None,
                open_timeout=deadline - asyncio.get_running_loop().time(),
                close_timeout=_CLOSE_TIMEOUT_S,
                ping_interval=None,  # its keepalive deadlocks at audio rate; our barriers do the work
                max_size=_MAX_MESSAGE,
                write_limit=_WRITE_LIMIT,
                logger=_silent,
                create_connection=_Connection,
            )

        try:
            connection = await self._connector.open(_CONNECT_SHARE * self._timeout_s, dial)
        except InvalidStatus as error:
            raise self._refused(error) from None
        except (WebSocketException, OSError) as error:
            raise self._connector.named(error) from None
        return WebSocket(connection, token)

    def _refused(self, error: InvalidStatus) -> EdgeError:
        """What an answer means that is no handshake."""
        answer = error.response
        if answer.status_code in (401, 403):
            return TokenRefused(f"the server refused the token (HTTP {answer.status_code})")
        location, content_type = (next(iter(answer.headers.get_all(name)), "") for name in ("Location", "Content-Type"))
        other = stranger(
            answer.status_code,
            content_type,
            location,
            bytes(answer.body or b""),
            is_plain=self._base.startswith("ws:"),
        )
        return other or Unreachable(f"the server did not open a WebSocket (HTTP {answer.status_code})")


class WebSocket:
    """One open socket; see `edge.runtime.ports.Socket`."""

    def __init__(self, connection: ClientConnection, token: str) -> None:
        self._connection = connection
        self._token = token
        name = connection.transport.get_extra_info("sockname")
        self._local_address = str(name[0]) if isinstance(name, tuple) else ""

    @property
    def local_address(self) -> str:
        """Its source address, also once it has ended."""
        return self._local_address

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
