"""One WebSocket attempt, against an aiohttp server that keeps PROTOCOL.md and against servers that keep nothing."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import WSCloseCode, WSMsgType, web

from edge.adapters.websocket import WebSocket, WebSocketDialer
from edge.errors import ConfigError, EdgeError, TokenRefused, Unreachable
from edge.runtime.ports import Closed
from tests.adapters.hostile import BOUND_S, TOKEN, RawServer, Talk, TokenWatch, answers, server_tls, shaken_hands

CLIENT = "3e5e5f06-4f8c-4a0e-8f3d-2f0c65b7a0f1"
Handler = Callable[[web.WebSocketResponse], Awaitable[None]]


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> TokenWatch:
    return TokenWatch(caplog)


class Served:
    """An aiohttp server whose sockets are handled by `handler`; `requests` as it saw them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[web.Request] = []
        self.heard: list[str | bytes] = []


@asynccontextmanager
async def serving(handler: Handler, **options: object) -> AsyncIterator[Served]:
    async def answer(request: web.Request) -> web.StreamResponse:
        served.requests.append(request)
        socket = web.WebSocketResponse(**options)  # type: ignore[arg-type]
        await socket.prepare(request)
        await handler(socket)
        return socket

    served = Served("")
    app = web.Application()
    app.router.add_get("/ws/audio_stream/{session}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with asyncio.timeout(BOUND_S):
            yield served
    finally:
        await runner.cleanup()


async def dial(url: str, timeout_s: float = 5.0, session: str = "s-1") -> WebSocket:
    return await WebSocketDialer(url, lambda: TOKEN, CLIENT, timeout_s)(session)


async def refused(url: str, watch: TokenWatch, timeout_s: float = 5.0) -> EdgeError:
    """The error of an attempt that must fail, in one line and without the token."""
    dialer = WebSocketDialer(url, lambda: TOKEN, CLIENT, timeout_s)
    watch.show(dialer)
    with pytest.raises(EdgeError) as caught:
        await dialer("s-1")
    watch.show(caught.value)
    watch.check()
    assert str(caught.value).isprintable()
    return caught.value


async def until_closed(socket: web.WebSocketResponse) -> None:
    async for _ in socket:
        pass


# --- as it should be -------------------------------------------------------------------------------------------------


async def test_the_request_is_what_the_protocol_says(watch: TokenWatch) -> None:
    async with serving(until_closed) as served:
        socket = await dial(served.url, session="a/b?c#d")
        watch.show(socket)
        await socket.close()
        [request] = served.requests
        assert request.match_info["session"] == "a/b?c#d"
        assert dict(request.query) == {"token": TOKEN, "client_id": CLIENT, "resume": "1"}
        assert "Sec-WebSocket-Extensions" not in request.headers  # no compression of audio
        assert "Authorization" not in request.headers
        watch.check()


async def test_messages_go_both_ways_in_order(watch: TokenWatch) -> None:
    async def echo(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            kind = "text" if message.type is WSMsgType.TEXT else "binary"
            await socket.send_json({"kind": kind, "size": len(message.data)})

    async with serving(echo) as served:
        socket = await dial(served.url)
        for number in range(50):
            await socket.send(b"x" * number)
            await socket.send("y" * number)
        for number in range(50):
            assert await socket.receive() == {"kind": "binary", "size": number}
            assert await socket.receive() == {"kind": "text", "size": number}
        await socket.close()
        watch.check()


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1000, "Session stopped by server (finalize)"), (1008, "Connection already exists"),
     (1011, "Session not found"), (1012, "replaced"), (4001, "own")],
)  # fmt: skip
async def test_how_it_ended_is_reported_again_and_again(code: int, reason: str) -> None:
    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=code, message=reason.encode())

    async with serving(end) as served:
        socket = await dial(served.url)
        assert await socket.receive() == Closed(code, reason)
        assert await socket.receive() == Closed(code, reason)
        with pytest.raises(ConnectionError):
            await socket.send(b"late")
        await socket.close()
        socket.abort()


async def test_a_lost_connection_has_no_close_frame() -> None:
    async def drop(socket: web.WebSocketResponse) -> None:
        transport = socket._req.transport if socket._req else None
        assert transport is not None
        transport.abort()

    async with serving(drop) as served:
        socket = await dial(served.url)
        assert await socket.receive() == Closed(1006, "no close frame")
        assert socket.local_address == "127.0.0.1"
        with pytest.raises(ConnectionError):
            await socket.send(b"late")


async def test_a_hello_that_never_comes_is_the_sessions_business() -> None:
    async with serving(until_closed) as served:
        socket = await dial(served.url)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.receive(), 0.05)
        await socket.send(b"the socket is good all the same")
        await socket.close()


async def test_junk_is_passed_over() -> None:
    junk: list[str | bytes] = [
        b"\x00\xff\xfe binary",
        b"",
        "",
        "no json",
        "[1, 2]",
        "null",
        '"text"',
        "12",
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 10_000,
        "\ufeff{}",
        '{"a": 1',
    ]

    async def talk(socket: web.WebSocketResponse) -> None:
        for piece in junk:
            await (socket.send_bytes(piece) if isinstance(piece, bytes) else socket.send_str(piece))
        await socket.send_json({"type": "hello"})
        await until_closed(socket)

    async with serving(talk) as served:
        socket = await dial(served.url)
        assert await socket.receive() == {"type": "hello"}
        await socket.close()


async def test_a_message_beyond_measure_ends_the_socket() -> None:
    async def talk(socket: web.WebSocketResponse) -> None:
        await socket.send_str('{"a": "' + "x" * (1 << 21) + '"}')
        await until_closed(socket)

    async with serving(talk) as served:
        socket = await dial(served.url)
        ended = await socket.receive()
        assert isinstance(ended, Closed)
        assert ended.code == 1006


async def test_a_flood_of_junk_leaves_time_for_others() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write((b"\x81\x7e\x10\x00" + b"junk" * 1024) * 10)
            await writer.drain()

    async with asyncio.timeout(BOUND_S), RawServer(shaken_hands(flood)) as server:
        socket = await dial(server.url)
        receiving = asyncio.create_task(socket.receive())
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not receiving.done()
        receiving.cancel()
        await asyncio.wait([receiving])
        socket.abort()


# --- ending it -------------------------------------------------------------------------------------------------------


async def test_close_says_goodbye_and_everything_before_it_arrives() -> None:
    heard: list[int] = []
    codes: list[int | None] = []

    async def listen(socket: web.WebSocketResponse) -> None:
        heard.extend([len(message.data) async for message in socket])
        codes.append(socket.close_code)

    async with serving(listen, max_msg_size=1 << 22) as served:
        socket = await dial(served.url)
        for _ in range(200):
            await socket.send(b"x" * 3232)
        await socket.close()
        while not codes:
            await asyncio.sleep(0)
        assert heard == [3232] * 200
        assert codes == [WSCloseCode.OK]


async def test_close_does_not_wait_for_a_peer_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.adapters.websocket._CLOSE_TIMEOUT_S", 0.1)
    async with asyncio.timeout(BOUND_S), RawServer(shaken_hands(silence)) as server:
        socket = await dial(server.url)
        since = time.monotonic()
        await socket.close()
        assert time.monotonic() - since < 2.0
        assert isinstance(await socket.receive(), Closed)


async def test_abort_is_at_once_even_with_a_full_buffer() -> None:
    async with asyncio.timeout(BOUND_S), RawServer(shaken_hands(deaf)) as server:
        socket = await dial(server.url)

        async def fill() -> None:
            while True:
                await socket.send(bytes(65536))

        filling = asyncio.create_task(fill())
        done, _ = await asyncio.wait([filling], timeout=0.2)
        assert not done  # the peer reads nothing: sending waits, and does not take more and more memory
        since = time.monotonic()
        socket.abort()
        with pytest.raises(ConnectionError):
            await filling
        assert isinstance(await socket.receive(), Closed)
        assert time.monotonic() - since < 1.0


# --- attempts that fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refused_token(code: int, watch: TokenWatch) -> None:
    async with RawServer(answers(f"{code} No", f"token {TOKEN}".encode())) as server:
        error = await refused(server.url, watch)
        assert isinstance(error, TokenRefused)


@pytest.mark.parametrize("code", [200, 404, 409, 500, 502, 503])
async def test_other_answers_are_worth_another_try(code: int, watch: TokenWatch) -> None:
    async with RawServer(answers(f"{code} No", b"x" * 100_000)) as server:
        error = await refused(server.url, watch)
        assert isinstance(error, Unreachable)
        assert str(code) in str(error)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(code: int, watch: TokenWatch) -> None:
    async with serving(until_closed) as thief:
        location = f"Location: {thief.url.replace('http', 'ws')}/ws/audio_stream/s-1?token={TOKEN}"
        async with RawServer(answers(f"{code} There", b"", location)) as server:
            error = await refused(server.url, watch)
        assert isinstance(error, Unreachable)
        assert thief.requests == []


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    assert isinstance(transport, asyncio.Transport)
    transport.pause_reading()
    await asyncio.sleep(BOUND_S)  # cancelled by the end of the test


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(os.urandom(500))
    await writer.drain()


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\n")
    for number in range(10_000):
        writer.write(f"X-{number}: y\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("talk", [silence, drip])
async def test_an_attempt_ends_in_time(talk: Talk, watch: TokenWatch) -> None:
    async with asyncio.timeout(BOUND_S), RawServer(talk) as server:
        since = time.monotonic()
        error = await refused(server.url, watch, 0.3)
        assert time.monotonic() - since < 2.0
        assert isinstance(error, Unreachable)
        while server.still_open and talk is silence:
            await asyncio.sleep(0)


@pytest.mark.parametrize("talk", [hang_up, rude, answers("101 Switching Protocols"), answers("999 What")])
async def test_a_peer_that_speaks_no_websocket(talk: Talk, watch: TokenWatch) -> None:
    async with RawServer(talk) as server:
        assert isinstance(await refused(server.url, watch), Unreachable)


async def test_a_wrong_accept_key(watch: TokenWatch) -> None:
    headers = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    async with RawServer(answers("101 Switching Protocols", b"", *headers)) as server:
        assert isinstance(await refused(server.url, watch), Unreachable)


async def test_frames_that_are_none_end_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\xff\xff\xff\xff")
        await writer.drain()
        await reader.read()

    await ends_with_the_next_message(talk, monkeypatch)


async def ends_with_the_next_message(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library waits for the peer to hang up; a peer that does not is left at the next send, in time."""
    monkeypatch.setattr("edge.adapters.websocket._CLOSE_TIMEOUT_S", 0.1)
    async with asyncio.timeout(BOUND_S), RawServer(shaken_hands(talk)) as server:
        socket = await dial(server.url)
        receiving = asyncio.create_task(socket.receive())
        with pytest.raises(ConnectionError):
            while True:
                await socket.send(b"x" * 1000)
        assert isinstance(await receiving, Closed)


async def test_text_that_is_none_ends_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.adapters.websocket._CLOSE_TIMEOUT_S", 0.1)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x81\x03\xff\xff\xff" + b"\x81\x02{}")
        await writer.drain()
        await reader.read()

    async with asyncio.timeout(BOUND_S), RawServer(shaken_hands(talk)) as server:
        socket = await dial(server.url)
        assert isinstance(await socket.receive(), Closed)


async def test_a_close_reason_that_echoes_the_token(watch: TokenWatch) -> None:
    async def end(socket: web.WebSocketResponse) -> None:
        await socket.close(code=1008, message=f"bad {TOKEN}\x1b[2J\n".encode())

    async with serving(end) as served:
        socket = await dial(served.url)
        closed = await socket.receive()
        assert closed == Closed(1008, "bad *** [2J ")
        watch.show(closed)
        watch.check()


async def test_a_close_code_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x88\x02" + struct.pack(">H", 7))
        await writer.drain()
        await reader.read()

    await ends_with_the_next_message(talk, monkeypatch)


async def test_nobody_listens_and_no_such_name(watch: TokenWatch) -> None:
    async with RawServer(silence) as server:
        url = server.url
    error = await refused(url, watch)
    assert isinstance(error, Unreachable)
    assert "(Connection refused)" in str(error)
    error = await refused("http://no-such-host.invalid:1", watch)
    assert isinstance(error, Unreachable)
    assert "name cannot be resolved" in str(error)


async def test_a_token_that_cannot_be_read_is_said_as_it_is() -> None:
    def token() -> str:
        raise ConfigError("the token file is gone")

    with pytest.raises(ConfigError, match="the token file is gone"):
        await WebSocketDialer("http://127.0.0.1:9", token, CLIENT, 1.0)("s")


async def test_a_cancelled_attempt_leaves_nothing_open() -> None:
    async with asyncio.timeout(BOUND_S), RawServer(silence) as server:
        dialing = asyncio.create_task(dial(server.url))
        while not server.requests:
            await asyncio.sleep(0)
        dialing.cancel()
        await asyncio.wait([dialing])
        while server.still_open:
            await asyncio.sleep(0)


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(answers("200 OK")) as proxy, serving(until_closed) as served:
        for name in ("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "all_proxy", "socks_proxy"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.upper(), proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        socket = await dial(served.url)
        await socket.close()
        assert proxy.connections == 0


async def test_an_ipv6_address_in_brackets() -> None:
    async with asyncio.timeout(BOUND_S), RawServer(shaken_hands(hang_up), host="::1") as server:
        socket = await dial(server.url)
        assert isinstance(await socket.receive(), Closed)
        assert b"Host: [::1]:" in server.requests[0]
        assert socket.local_address == "::1"


@pytest.mark.parametrize("scheme", ["https", "HTTPS"])
async def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_token_is_said(
    scheme: str, tmp_path: Path, watch: TokenWatch
) -> None:
    async with asyncio.timeout(BOUND_S), RawServer(silence, tls=server_tls(tmp_path)) as server:
        error = await refused(server.url.replace("https", scheme), watch)
        assert isinstance(error, Unreachable)
        assert "certificate is not trusted" in str(error)
        assert server.requests == []


async def test_a_certificate_of_the_machines_own_authorities_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = server_tls(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    async with asyncio.timeout(BOUND_S), RawServer(shaken_hands(hang_up), tls=tls) as server:
        socket = await dial(server.url)
        assert isinstance(await socket.receive(), Closed)


async def test_the_token_stays_out_of_asyncios_own_debugging(watch: TokenWatch) -> None:
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 0.0
    async with serving(until_closed) as served:
        socket = await dial(served.url)
        await socket.send(json.dumps({"type": "ping"}))
        await socket.close()
    watch.check()
