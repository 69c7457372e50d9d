"""The HTTP side of an aia-v4 server: start, stop, status (PROTOCOL.md, "Open, stream, stop"). Every call ends in time,
and what a server says is quoted shortly and without the token that it may have echoed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from edge.errors import EdgeError, ServerRefused, StartRefused, TokenRefused, Unreachable
from edge.runtime.ports import JsonObject, SessionStatus

_STOP_TIMEOUT_S = 30.0  # a stop blocks until the tail is transcribed, seconds; it may be repeated
# For TCP and again for TLS, so that both end before the whole call does: a handshake that is cut short from outside
# leaves its socket open (httpcore 1.0), and a server that hangs would be given one more with each call.
_CONNECT_SHARE = 0.45
_NOT_THESE_SETTINGS = (400, 422, 500)  # an agent that it does not know is 500 (PROTOCOL.md)
_TRUST = "update-ca-certificates, or SSL_CERT_FILE, makes this machine trust it"
_MAX_BODY = 1 << 20
_MAX_SESSION_ID = 256
_MAX_QUOTE = 200


class HttpServerApi:
    """`base_url` is http(s)://host[:port]; `token()` is read anew for each call and never logged."""

    def __init__(self, base_url: str, token: Callable[[], str], timeout_s: float = 10.0) -> None:
        self._base_url = base_url.rstrip("/")
        self._token = token
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None
        self._calls: Counter[httpx.AsyncClient] = Counter()  # under way
        self._tls: ssl.SSLContext | None = None
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

    async def close(self) -> None:
        """Give back the connections."""
        client, self._client = self._client, None
        if client is not None and not self._calls[client]:
            await client.aclose()

    async def _call(self, method: str, path: str, body: JsonObject | None, timeout_s: float) -> tuple[int, Any]:
        client = self._client = self._client or self._new_client()
        self._calls[client] += 1
        try:
            async with asyncio.timeout(timeout_s):
                request = client.build_request(
                    method,
                    self._base_url + path,
                    json=body,
                    headers=self._headers(),
                    timeout=httpx.Timeout(timeout_s, connect=_CONNECT_SHARE * self._timeout_s),
                )
                answer = await client.send(request, stream=True)
                try:
                    return answer.status_code, _json(await _body(answer))
                finally:
                    await answer.aclose()
        except EdgeError:
            raise
        except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError, OSError, ValueError) as error:
            # A kept connection may be the reason: the next call makes a new one.
            if self._client is client:
                self._client = None
            raise Unreachable(f"the server cannot be reached ({_why(error)})") from None
        finally:
            self._calls[client] -= 1
            if self._client is not client and not self._calls[client]:
                del self._calls[client]
                await client.aclose()

    def _new_client(self) -> httpx.AsyncClient:
        if self._tls is None and urlsplit(self._base_url).scheme == "https":
            self._tls = ssl.create_default_context()
        # No environment: a proxy or a netrc that somebody set for a shell must not redirect audio or token.
        return httpx.AsyncClient(trust_env=False, follow_redirects=False, verify=self._tls or False)

    def _headers(self) -> dict[str, str]:
        token = self._last_token = self._token()
        # Identity: nobody needs to unpack what a small body may blow up to.
        headers = {"Accept-Encoding": "identity"}
        return headers | {"Authorization": f"Bearer {token}"} if token else headers

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


async def _body(answer: httpx.Response) -> bytes:
    """At most a megabyte, as it came: more, or packed, is not an answer that this client could want."""
    body = bytearray()
    async for chunk in answer.aiter_raw():
        body += chunk
        if len(body) > _MAX_BODY:
            return b""
    return bytes(body)


def _why(error: Exception) -> str:
    """The reason. Only what the system says is quoted: a library's text may hold a header, and with it the token."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "no answer in time"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}; {_TRUST}"
        if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
            return "it does not speak TLS: is it http://?"
        if isinstance(cause, httpx.RemoteProtocolError):
            has_hung_up = "disconnected" in str(cause)
            return "it hung up" if has_hung_up else "it does not speak HTTP: is it https://, or another port?"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {cause.reason or type(cause).__name__}"
        if isinstance(cause, socket.gaierror):
            return f"its name cannot be resolved: {cause.strerror}"
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _is_session_id(text: str) -> bool:
    return 0 < len(text) <= _MAX_SESSION_ID and text.isprintable()


def _count(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise
