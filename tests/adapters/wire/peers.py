"""Both halves of the client on one connector, and the peers that they meet: a server, and a proxy that tunnels."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import socket
import ssl
import threading
from typing import Literal

import pytest

from edge.adapters.http import HttpServerApi
from edge.adapters.websocket import WebSocketDialer
from edge.adapters.wire import Connector
from edge.errors import EdgeError
from tests.adapters.hostile import BOUND_S, TOKEN, RawServer, TokenWatch, answers, heads, shaken_hands

Half = Literal["http", "websocket"]
BOTH: tuple[Half, Half] = ("http", "websocket")
CLIENT = "3e5e5f06-4f8c-4a0e-8f3d-2f0c65b7a0f1"


async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What an aia-v4 server says first, to either half."""
    if b"upgrade: websocket" in heads[writer].lower():
        await shaken_hands(_until_closed)(reader, writer)
    else:
        await answers("200 OK", json.dumps({"session_id": "s-1"}).encode(), "Content-Type: application/json")(
            reader, writer
        )


async def _until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def attempt(half: Half, url: str, connector: Connector, timeout_s: float = 10.0) -> None:
    """One attempt. Raises what it fails of."""
    async with asyncio.timeout(BOUND_S):
        if half == "http":
            api = HttpServerApi(url, lambda: TOKEN, timeout_s, connector)
            try:
                assert await api.start({"agent": "a", "event": "e"}) == "s-1"
            finally:
                await api.close()
        else:
            socket = await WebSocketDialer(url, lambda: TOKEN, CLIENT, timeout_s, connector)("s-1")
            socket.abort()


async def failure(half: Half, url: str, connector: Connector, watch: TokenWatch, timeout_s: float = 10.0) -> EdgeError:
    """The error of an attempt that must fail: one line, audio is kept, the token in none of it."""
    with pytest.raises(EdgeError) as caught:
        await attempt(half, url, connector, timeout_s)
    error = caught.value
    watch.show(error)
    watch.show(connector)
    watch.check()
    assert str(error).isprintable()
    if error.name:
        assert str(error).startswith(f"{error.name}: ")
        assert "; audio is kept; " in str(error)
    return error


class Alerting:
    """A TLS server that says why it refuses, as OpenSSL's own do: asyncio's closes the connection without the alert.

    One connection after the other, in a thread; one that shakes hands gets `answer` and is closed.
    """

    def __init__(self, tls: ssl.SSLContext, answer: bytes = b"") -> None:
        self._tls = tls
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="alerting")
        self.requests: list[bytes] = []
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    async def __aenter__(self) -> Alerting:
        self._thread.start()
        return self

    async def __aexit__(self, *arguments: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        await asyncio.to_thread(self._thread.join)  # the client's end is closed by the loop
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(BOUND_S)
            with self._tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False) as talk:
                with contextlib.suppress(OSError):
                    talk.do_handshake()
                    self.requests.append(talk.recv(1 << 16))
                    talk.sendall(self._answer)
                with contextlib.suppress(OSError):  # a close with something unread would overtake what was said
                    talk.shutdown(socket.SHUT_WR)
                    while talk.recv(1 << 16):  # in the clear, after the shutdown
                        pass


class Dated:
    """Answers a HEAD with `date`, all else as an aia-v4 server does. `received` is all that came, by connection."""

    def __init__(self, context: ssl.SSLContext, *date: dt.datetime | str, mute: bool = False) -> None:
        said = [d if isinstance(d, str) else f"{d:%a, %d %b %Y %H:%M:%S} GMT" for d in date]
        lines = ["HTTP/1.1 404 Not Found", "Content-Length: 9", *(f"Date: {text}" for text in said)]
        self._answer = b"" if mute else "\r\n".join(lines).encode() + b"\r\n\r\n"
        self._tls = context
        self.received: list[bytearray] = []

    async def __aenter__(self) -> Dated:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *arguments: object) -> None:
        self._server.close()
        async with asyncio.timeout(BOUND_S):
            while self._open:
                await asyncio.sleep(0.01)

    _open = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = bytearray()
        self.received.append(got)
        self._open += 1
        try:
            while b"\r\n\r\n" not in got and (data := await reader.read(1 << 16)):
                got += data
            heads[writer] = bytes(got)
            if got.startswith(b"HEAD "):
                writer.write(self._answer)
            elif got:
                await server(reader, writer)
            while data := await reader.read(1 << 16):
                got += data
        except OSError:
            pass  # the client left
        finally:
            self._open -= 1
            writer.close()

    @property
    def asked(self) -> int:
        """How often it was asked for the date. Fails for anything in that question that is not needed for it."""
        questions = [bytes(got) for got in self.received if got.startswith(b"HEAD ")]
        host = self.url.removeprefix("https://").encode()
        for question in questions:
            assert (
                question.lower()
                == b"head / http/1.1\r\nhost: " + host + b"\r\naccept: */*\r\nconnection: close\r\n\r\n"
            )
        return len(questions)

    @property
    def served(self) -> int:
        """How many got to say what they wanted."""
        return len(self.received) - self.asked


class Proxy:
    """An HTTP proxy that knows CONNECT and nothing else. `hosts` are the names that it resolves itself."""

    def __init__(
        self, *, authorization: str = "", hosts: dict[str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self._authorization = authorization
        self._hosts = hosts or {}
        self._raw = RawServer(self._talk, host=host)

    @property
    def url(self) -> str:
        return self._raw.url

    async def __aenter__(self) -> Proxy:
        await self._raw.__aenter__()
        return self

    async def __aexit__(self, *arguments: object) -> None:
        await self._raw.__aexit__(None, None, None)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, *rest = heads[writer].decode().split("\r\n")
        headers = dict(part.split(": ", 1) for part in rest if part)
        method, target, _ = line.split(" ")
        self.requests.append((line, headers))
        if self._authorization and headers.get("Proxy-Authorization") != self._authorization:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 4\r\n\r\nwho?")
            return
        if method != "CONNECT":
            writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            return
        host, _, port = target.rpartition(":")
        host = self._hosts.get(host, host).strip("[]")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(_carry(reader, far_writer), _carry(far_reader, writer))
        finally:
            far_writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()
