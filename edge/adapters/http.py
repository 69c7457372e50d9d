"""The HTTP side of an aia-v4 server: start, stop, status (PROTOCOL.md, "Open, stream, stop"). Every call ends in time,
and what a server says is quoted shortly and without the token that it may have echoed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Any
from urllib.parse import quote, urlsplit

import httpcore

from edge.adapters.wire import Connector, stranger
from edge.errors import EdgeError, ServerRefused, StartRefused, TokenRefused, Unreachable
from edge.runtime.ports import JsonObject, SessionStatus

_STOP_TIMEOUT_S = 30.0  # a stop blocks until the tail is transcribed, seconds; it may be repeated
_CONNECT_SHARE = 0.9  # of a call's time: so that it is the connection that says why it failed
_KEPT_S = 5.0  # an idle connection
_NOT_THESE_SETTINGS = (400, 422, 500)  # an agent that it does not know is 500 (PROTOCOL.md)
_FAILURES = (httpcore.ProtocolError, httpcore.NetworkError, httpcore.UnsupportedProtocol)
_MAX_BODY = 1 << 20
_MAX_SESSION_ID = 256
_MAX_QUOTE = 200


class HttpServerApi:
    """`base_url` is http(s)://host[:port]; `token()` is read anew for each call and never logged."""

    def __init__(
        self, base_url: str, token: Callable[[], str], timeout_s: float = 10.0, connector: Connector | None = None
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._host = urlsplit(self._base_url).netloc
        self._token = token
        self._timeout_s = timeout_s
        self._connector = connector or Connector(base_url)
        self._is_plain = urlsplit(self._base_url).scheme != "https"
        self._pool: httpcore.AsyncConnectionPool | None = None
        self._calls: Counter[httpcore.AsyncConnectionPool] = Counter()  # under way
        self._closing: set[asyncio.Task[None]] = set()
        self._last_token = ""

    async def start(self, settings: JsonObject) -> str:
        """Open a session; returns its id. Raises Unreachable, ServerRefused, or StartRefused for these `settings`."""
        code, body = await self._call("POST", "/api/recording/start", settings, self._timeout_s)
        if code == 409:
            raise ServerRefused(
                "another session is active at the server (409)", "audio is kept", "end the other session"
            )
        self._refuse_token(code, body)
        if code in (429, 502, 503, 504):
            raise Unreachable(f"the server is not ready (HTTP {code})")
        if code != 200:
            what = f"the server would not start a recording ({self._quoted(body) or f'HTTP {code}'})"
            if code in _NOT_THESE_SETTINGS:
                raise StartRefused(what, "audio is kept", "check server.agent and server.event")
            raise ServerRefused(what, "audio is kept", "check that server.url is an aia-v4 server")
        session_id = body.get("session_id") if isinstance(body, dict) else None
        if not isinstance(session_id, str) or not _is_session_id(session_id):
            raise ServerRefused(
                "the answer names no session", "audio is kept", "check that server.url is an aia-v4 server"
            )
        return session_id

    async def stop(self, session_id: str) -> None:
        """Stop `session_id`; the answer proves nothing, since it is success for unknown sessions as well.

        Raises Unreachable for every answer that is not that of such a server: then nobody was told to stop.
        """
        code, body = await self._call("POST", "/api/recording/stop", {"session_id": session_id}, _STOP_TIMEOUT_S)
        self._refuse_token(code, body)
        if code != 404 and (code != 200 or not isinstance(body, dict)):
            raise Unreachable(f"the server did not stop a session (HTTP {code})")

    async def status(self, session_id: str) -> SessionStatus:
        """What the server knows of `session_id`."""
        path = f"/session/{quote(session_id, safe='')}/status"
        code, body = await self._call("GET", path, None, self._timeout_s)
        self._refuse_token(code, body)
        if not isinstance(body, dict) or not isinstance(body.get("exists"), bool):
            raise Unreachable(f"the server's status is not understood (HTTP {code})")
        backlog = body.get("backlog")
        backlog = backlog if isinstance(backlog, dict) else {}
        return SessionStatus(
            body["exists"],
            body.get("connected") is True,
            _count(backlog.get("pending_segments"), 1),
            max(1, _count(backlog.get("max_pending"), 20)),
        )

    def forget_connections(self) -> None:
        """Close those that are kept; calls under way stay as they are, and what they used is closed behind them."""
        pool, self._pool = self._pool, None
        if pool is not None and not self._calls[pool]:
            closing = asyncio.create_task(pool.aclose(), name="http-close")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Give back the connections."""
        self.forget_connections()
        if self._closing:
            await asyncio.wait(self._closing)

    async def _call(self, method: str, path: str, body: JsonObject | None, timeout_s: float) -> tuple[int, Any]:
        pool = self._pool = self._pool or self._new_pool()
        self._calls[pool] += 1
        try:
            async with asyncio.timeout(timeout_s):
                content = None if body is None else json.dumps(body).encode()
                async with pool.stream(
                    method, self._base_url + path, headers=self._headers(content), content=content
                ) as answer:
                    said = await _body(answer.aiter_stream())
            other = self._stranger(answer, said)
            if other is not None:
                raise other
            return answer.status, _json(said)
        except EdgeError:
            raise
        except (*_FAILURES, OSError, ValueError) as error:
            # A kept connection may be the reason: the next call makes a new one.
            if self._pool is pool:
                self._pool = None
            raise self._named(error) from None
        finally:
            self._calls[pool] -= 1
            if self._pool is not pool and not self._calls[pool]:
                del self._calls[pool]
                await pool.aclose()

    def _new_pool(self) -> httpcore.AsyncConnectionPool:
        backend = _Backend(self._connector, _CONNECT_SHARE * self._timeout_s)
        return httpcore.AsyncConnectionPool(max_connections=None, keepalive_expiry=_KEPT_S, network_backend=backend)

    def _headers(self, content: bytes | None) -> list[tuple[bytes | str, bytes | str]]:
        token = self._last_token = self._token()
        # Identity: nobody needs to unpack what a small body may blow up to.
        headers = {"Host": self._host, "Accept": "*/*", "Accept-Encoding": "identity"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]

    def _stranger(self, answer: httpcore.Response, said: bytes) -> Unreachable | None:
        headers = {name.lower(): value.decode("latin-1") for name, value in answer.headers}
        kind, location = (headers.get(name, "") for name in (b"content-type", b"location"))
        return stranger(answer.status, kind, location, said, is_plain=self._is_plain)

    def _named(self, error: Exception) -> EdgeError:
        if isinstance(error, httpcore.RemoteProtocolError):
            has_hung_up = "disconnected" in str(error)
            why = "it hung up" if has_hung_up else "it does not speak HTTP: is it https://, or another port?"
            return Unreachable(f"the server cannot be reached ({why})")
        return self._connector.named(error)

    def _refuse_token(self, code: int, body: Any) -> None:
        """Raise TokenRefused for 401 and for `[{"error": ...}, 401]`, which a wrong token gets with HTTP 200."""
        is_list = isinstance(body, list) and len(body) == 2 and body[1] in (401, 403)
        if is_list or code in (401, 403):
            what = self._quoted(body[0] if is_list else body) or f"HTTP {code}"
            raise TokenRefused(f"the server refused the token ({what})")

    def _quoted(self, body: Any) -> str:
        """What the server says of an error, for a person."""
        text = body.get("error") or body.get("message") if isinstance(body, dict) else None
        if not isinstance(text, str):
            return ""
        if self._last_token:
            text = text.replace(self._last_token, "***")
        return "".join(sign if sign.isprintable() else " " for sign in text[:_MAX_QUOTE])


async def _body(chunks: AsyncIterable[bytes]) -> bytes:
    """At most a megabyte, as it came: more, or packed, is not an answer that this client could want."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > _MAX_BODY:
            return b""
    return bytes(body)


class _Backend(httpcore.AsyncNetworkBackend):
    """httpcore's network: whatever host it asks for, there is only the way of one connector."""

    def __init__(self, connector: Connector, timeout_s: float) -> None:
        self._connector = connector
        self._timeout_s = timeout_s

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (the library's)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection with TLS and all. Raises Unreachable."""
        reader = _Reader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = await self._connector.stream(self._timeout_s, lambda: protocol)
        return _Stream(reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop()))


class _Reader(asyncio.StreamReader):
    """Knows how much has come that nobody has read."""

    unread = 0

    def feed_data(self, data: Any) -> None:
        """More has come."""
        self.unread += len(data)
        super().feed_data(data)


class _Stream(httpcore.AsyncNetworkStream):
    """One connection. Its time is bounded by the whole call's, so time-outs of single steps are not needed."""

    def __init__(self, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  (the library's)
        """Some bytes; none: the server has hung up."""
        data = await self._reader.read(max_bytes)
        self._reader.unread -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  (the library's)
        """Returns when the buffer is below its limit."""
        try:
            self._writer.write(buffer)
            await self._writer.drain()
        except OSError as error:
            raise httpcore.WriteError(type(error).__name__) from error  # the library then reads why

    async def aclose(self) -> None:
        """At once: what was to be said has been answered, and a path that is gone would answer no goodbye."""
        self._writer.transport.abort()

    async def start_tls(
        self,
        ssl_context: object,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  (the library's)
    ) -> httpcore.AsyncNetworkStream:
        """The connector has done that."""
        return self

    def get_extra_info(self, info: str) -> Any:
        """`is_readable` of an idle connection means that it has ended, or that it said what nobody asked for."""
        if info == "is_readable":
            return bool(self._reader.unread) or self._reader.at_eof() or self._writer.is_closing()
        return None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _is_session_id(text: str) -> bool:
    return 0 < len(text) <= _MAX_SESSION_ID and text.isprintable()


def _count(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise
