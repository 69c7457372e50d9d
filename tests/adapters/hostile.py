"""Servers that misbehave byte by byte, and a watch over everything that could let the token out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import socket
import ssl
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import quote
from weakref import WeakKeyDictionary

import pytest

TOKEN = "s3cret/t0ken+with=signs"
BOUND_S = 20.0

# Self-signed, for 127.0.0.1, ::1 and localhost; made for these tests, and trusted by nobody.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg4nc1SvGoRjnrQYf0
RQ1wCSfe6hydhBXzqG85hItsAy+hRANCAARKquyi7JBljCbM7PkPg8BI63GNIKVQ
mtH9SvUFTG76vku9Jb6ShkWM+FwfEYvEMiA2OosDOwBXfcuQypiheiyr
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBejCCASGgAwIBAgIBATAKBggqhkjOPQQDAjAVMRMwEQYDVQQDDAplZGdlIHRl
c3RzMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAwMTAxMDAwMDAwWjAVMRMwEQYDVQQD
DAplZGdlIHRlc3RzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAESqrsouyQZYwm
zOz5D4PASOtxjSClUJrR/Ur1BUxu+r5LvSW+koZFjPhcHxGLxDIgNjqLAzsAV33L
kMqYoXosq6NgMF4wDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUL+pyrYta+PdU
k5aARWrsGM0P2Z0wLAYDVR0RBCUwI4cEfwAAAYcQAAAAAAAAAAAAAAAAAAAAAYIJ
bG9jYWxob3N0MAoGCCqGSM49BAMCA0cAMEQCIDvQj0277xOiRL62InDY9ZY/+jN8
frwrpPLqhSX5e2jbAiAlyhasmIf2gNImbD2EhXxt2g2Z2YoQawYRnkbOY61ptQ==
-----END CERTIFICATE-----
"""

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def server_tls(folder: Path) -> ssl.SSLContext:
    """What a TLS server with that certificate uses."""
    path = folder / "certificate.pem"
    path.write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


# The request line and headers of each connection that a RawServer has open.
heads: WeakKeyDictionary[asyncio.StreamWriter, bytes] = WeakKeyDictionary()


class RawServer:
    """Hands each connection to `talk` and remembers the request lines and headers that came, as bytes."""

    def __init__(
        self,
        talk: Talk,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        listener: socket.socket | None = None,
    ) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._talk = talk
        self._host = host
        self._tls = tls
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        assert self._server is not None
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self._server.sockets[0].getsockname()[1]}"

    @property
    def still_open(self) -> int:
        """Connections that nobody has ended yet."""
        return len(self._writers)

    async def __aenter__(self) -> RawServer:
        if self._listener is not None:
            self._server = await asyncio.start_server(self._serve, sock=self._listener, ssl=self._tls)
        else:
            self._server = await asyncio.start_server(self._serve, self._host, 0, ssl=self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.requests.append(head)
            heads[writer] = head
            await self._talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            self._writers.discard(writer)
            writer.close()


def answers(status: str, body: bytes = b"", *headers: str) -> Talk:
    """A talk that answers one request with that."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return talk


def accept_key(head: bytes) -> str:
    """What a server answers to the key in a handshake (RFC 6455)."""
    [line] = [line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")]
    key = line.partition(b":")[2].strip()
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


def shaken_hands(talk: Talk) -> Talk:
    """A talk behind a good handshake, by hand."""

    async def shaken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines.append(f"Sec-WebSocket-Accept: {accept_key(heads[writer])}")
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        await writer.drain()
        await talk(reader, writer)

    return shaken


class TokenWatch:
    """All that is logged, by every logger at DEBUG, and all errors that are shown to it: none may name the token."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._errors: list[BaseException] = []
        caplog.set_level(logging.DEBUG)
        for name in ("asyncio", "httpcore", "websockets", "websockets.client", "edge"):
            caplog.set_level(logging.DEBUG, logger=name)

    def show(self, thing: object) -> None:
        """An exception, or an object whose repr may be logged somewhere."""
        if isinstance(thing, BaseException):
            self._errors.append(thing)
        else:
            refuse_token(repr(thing))

    def check(self) -> None:
        """Raise if it stands anywhere."""
        for record in self._caplog.records:
            refuse_token(record.getMessage())
            refuse_token(repr(record.args))
            refuse_token(self._caplog.handler.format(record))
        for error in self._errors:
            refuse_token(str(error))
            refuse_token(repr(error))
            refuse_token("".join(traceback.format_exception(error)))


def refuse_token(text: str) -> None:
    assert TOKEN not in text
    assert quote(TOKEN, safe="") not in text
    assert quote(TOKEN) not in text
