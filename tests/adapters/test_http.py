"""The HTTP side against servers that do what PROTOCOL.md says, and against servers that do anything."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edge.adapters.http import HttpServerApi
from edge.errors import CaptivePortal, ConfigError, EdgeError, ServerRefused, StartRefused, TokenRefused, Unreachable
from edge.runtime.ports import SessionStatus
from tests.adapters.hostile import BOUND_S, TOKEN, RawServer, Talk, TokenWatch, answers, server_tls

SETTINGS = {"agent": "a", "event": "e", "recording": "6f5902ac-2370-4f1c-b3a2-000000000000"}


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> TokenWatch:
    return TokenWatch(caplog)


def said(value: object, status: str = "200 OK") -> Talk:
    """A talk that answers with JSON."""
    return answers(status, json.dumps(value).encode(), "Content-Type: application/json")


async def tried(
    talk: Talk, call: Callable[[HttpServerApi], Awaitable[Any]], watch: TokenWatch, timeout_s: float = 10.0
) -> tuple[Any, bytes]:
    """What `call` returned or raised, and the request that the server saw."""
    async with asyncio.timeout(BOUND_S), RawServer(talk) as server:
        api = HttpServerApi(server.url, lambda: TOKEN, timeout_s)
        result: Any
        try:
            result = await call(api)
        except EdgeError as error:
            watch.show(error)
            assert "\n" not in str(error)
            result = error
        await api.close()
        watch.show(api)
        watch.check()
        return result, b"".join(server.requests)


def start(api: HttpServerApi) -> Awaitable[Any]:
    return api.start(SETTINGS)


def stop(api: HttpServerApi) -> Awaitable[Any]:
    return api.stop("s-1")


def status(api: HttpServerApi) -> Awaitable[Any]:
    return api.status("s-1")


# --- as it should be -------------------------------------------------------------------------------------------------


async def test_start_tells_what_it_is_about_and_returns_the_session(watch: TokenWatch) -> None:
    bodies: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append(await reader.read(1000))
        await said({"status": "success", "session_id": "s-1", "recording_status": {}})(reader, writer)

    result, request = await tried(talk, start, watch)
    assert result == "s-1"
    assert request.startswith(b"POST /api/recording/start HTTP/1.1\r\n")
    assert f"Authorization: Bearer {TOKEN}\r\n".encode() in request
    assert b"Accept-Encoding: identity\r\n" in request
    assert json.loads(bodies[0]) == SETTINGS


async def test_without_a_token_there_is_no_header() -> None:
    async with RawServer(said({"session_id": "s"})) as server:
        api = HttpServerApi(server.url, lambda: "", 5.0)
        await api.start(SETTINGS)
        await api.close()
        assert b"uthorization" not in server.requests[0]


async def test_the_token_is_read_anew_for_each_call() -> None:
    tokens = iter(["one", "two"])
    async with RawServer(said({"session_id": "s"})) as server:
        api = HttpServerApi(server.url + "/", lambda: next(tokens), 5.0)
        await api.start(SETTINGS)
        await api.start(SETTINGS)
        await api.close()
        assert b"Bearer one" in server.requests[0]
        assert b"Bearer two" in server.requests[1]


async def test_a_token_that_cannot_be_read_is_said_as_it_is(watch: TokenWatch) -> None:
    def token() -> str:
        raise ConfigError("the token file is gone")

    api = HttpServerApi("http://127.0.0.1:9", token, 5.0)
    with pytest.raises(ConfigError, match="the token file is gone"):
        await api.start(SETTINGS)
    await api.close()


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (
            {"exists": True, "connected": True, "backlog": {"pending_segments": 3, "max_pending": 7}},
            SessionStatus(True, True, 3, 7),
        ),
        ({"exists": False}, SessionStatus(False, False, 1, 20)),
        ({"exists": True}, SessionStatus(True, False, 1, 20)),  # nothing said of segments: not "pending 0"
        ({"exists": True, "connected": 1, "backlog": []}, SessionStatus(True, False, 1, 20)),
        ({"exists": True, "backlog": {"pending_segments": -1, "max_pending": 0}}, SessionStatus(True, False, 1, 1)),
        ({"exists": True, "backlog": {"pending_segments": True}}, SessionStatus(True, False, 1, 20)),
        ({"exists": True, "backlog": {"pending_segments": 0.0}}, SessionStatus(True, False, 1, 20)),
        ({"exists": True, "backlog": {"pending_segments": 0}}, SessionStatus(True, False, 0, 20)),
    ],
)
async def test_status_believes_nothing_that_is_not_said(
    body: dict[str, Any], wanted: SessionStatus, watch: TokenWatch
) -> None:
    line = "200 OK" if body["exists"] else "404 Not Found"
    result, request = await tried(said(body, line), status, watch)
    assert result == wanted
    assert request.startswith(b"GET /session/s-1/status HTTP/1.1\r\n")


async def test_a_session_id_stays_inside_its_place_in_the_path() -> None:
    async with RawServer(said({"exists": False})) as server:
        api = HttpServerApi(server.url, lambda: TOKEN, 5.0)
        await api.status("../api/recording/start?x=1#y")
        await api.close()
        assert server.requests[0].startswith(b"GET /session/..%2Fapi%2Frecording%2Fstart%3Fx%3D1%23y/status ")


async def test_stop_needs_the_answer_of_such_a_server(watch: TokenWatch) -> None:
    assert (await tried(said({"status": "success"}), stop, watch))[0] is None
    assert (await tried(said({"exists": False}, "404 Not Found"), stop, watch))[0] is None
    portal = answers("200 OK", b"<html>please log in</html>")  # nobody was told to stop
    for talk in (portal, said({}, "302 Found"), said({}, "400 Bad Request"), said({}, "503 Full"), said([])):
        error, _ = await tried(talk, stop, watch)
        assert isinstance(error, Unreachable)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [start, stop, status])
@pytest.mark.parametrize(
    "talk",
    [
        said([{"error": "Invalid or missing token"}, 401]),
        said([{"error": "Forbidden"}, 403]),
        said([None, 401]),
        said([{}, 401]),
        said({"error": "Unauthorized"}, "401 Unauthorized"),
        answers("403 Forbidden", b"<html>"),
    ],
)
async def test_a_refused_token_is_said(
    talk: Talk, call: Callable[[HttpServerApi], Awaitable[Any]], watch: TokenWatch
) -> None:
    error, _ = await tried(talk, call, watch)
    assert isinstance(error, TokenRefused)
    assert error.name == "token"
    assert "the server refused the token" in str(error)
    assert "server.token_file" in str(error)


@pytest.mark.parametrize(
    ("talk", "text"),
    [
        (said({"error": "conflict"}, "409 Conflict"), "another session is active"),
        (said({"error": "unknown agent"}, "500 Internal Server Error"), "unknown agent"),
        (said({"message": "event is required"}, "400 Bad Request"), "event is required"),
        (answers("500 Internal Server Error", b"<h1>oops</h1>"), "HTTP 500"),
        (answers("404 Not Found"), "HTTP 404"),
        (said({"status": "success"}), "names no session"),
        (said({"session_id": 7}), "names no session"),
        (said({"session_id": ""}), "names no session"),
        (said({"session_id": "x" * 257}), "names no session"),
        (said({"session_id": "a\x1b[2J"}), "names no session"),
        (said({"session_id": "\ud800"}), "names no session"),
        (said([]), "names no session"),
        (said("s-1"), "names no session"),
        (answers("200 OK", b"\xff\xfe\x00"), "names no session"),
        (answers("200 OK", b"["), "names no session"),
        (answers("200 OK", b"[" * 200_000), "names no session"),  # deeper than any parser goes
        (answers("200 OK", b"9" * 10_000), "names no session"),
        (answers("204 No Content"), "HTTP 204"),
    ],
)
async def test_other_refusals_are_said_as_what_they_are(talk: Talk, text: str, watch: TokenWatch) -> None:
    error, _ = await tried(talk, start, watch)
    assert isinstance(error, ServerRefused)
    assert text in str(error)


@pytest.mark.parametrize(
    ("talk", "is_settings", "remedy"),
    [
        (said({"error": "unknown agent"}, "500 Internal Server Error"), True, "check server.agent and server.event"),
        (said({"message": "event is required"}, "400 Bad Request"), True, "check server.agent and server.event"),
        (answers("404 Not Found"), False, "check that server.url is an aia-v4 server"),
        (said({"error": "conflict"}, "409 Conflict"), False, "end the other session"),
        (said([{"error": "Invalid or missing token"}, 401]), False, "check server.token_file"),
    ],
)
async def test_a_refusal_names_what_to_check(talk: Talk, is_settings: bool, remedy: str, watch: TokenWatch) -> None:
    error, _ = await tried(talk, start, watch)
    assert isinstance(error, StartRefused) == is_settings
    assert str(error).endswith(f"audio is kept; {remedy}")


@pytest.mark.parametrize("code", [429, 502, 503, 504])
async def test_a_server_that_is_not_ready_is_worth_another_try(code: int, watch: TokenWatch) -> None:
    error, _ = await tried(answers(f"{code} Later"), start, watch)
    assert isinstance(error, Unreachable)
    assert str(code) in str(error)


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"exists": "yes"}', b'[{"error": "x"}, 404]', b"[" * 99999]
)
async def test_a_status_that_is_none_is_no_answer(body: bytes, watch: TokenWatch) -> None:
    error, _ = await tried(answers("200 OK", body), status, watch)
    assert isinstance(error, Unreachable)


async def test_a_redirect_is_not_followed(watch: TokenWatch) -> None:
    async with RawServer(said({"session_id": "stolen"})) as thief:
        for line in ("301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
            error, _ = await tried(answers(line, b"", f"Location: {thief.url}/x"), start, watch)
            assert isinstance(error, CaptivePortal)
        assert thief.connections == 0


async def test_a_server_that_echoes_the_token_is_quoted_without_it(watch: TokenWatch) -> None:
    for body in ({"error": f"bad token {TOKEN}!"}, [{"error": f"bad token {TOKEN}!"}, 401]):
        error, _ = await tried(said(body, "500 No" if isinstance(body, dict) else "200 OK"), start, watch)
        assert "bad token ***!" in str(error)


async def test_what_a_server_says_is_quoted_shortly_and_on_one_line(watch: TokenWatch) -> None:
    error, _ = await tried(said({"error": "a\nb\x1b[31m\x07" + "x" * 5000}, "500 No"), start, watch)
    assert len(str(error)) < 400
    assert str(error).isprintable()


# --- time and size ---------------------------------------------------------------------------------------------------


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def drip_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(10_000):
        writer.write(f"X-{number}: y\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(10_000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


async def forever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    while True:
        writer.write(chunk)
        await writer.drain()


async def continues(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("talk", [silence, drip_head, drip_body, continues])
@pytest.mark.parametrize("call", [start, status])
async def test_every_call_ends_in_time_however_slowly_it_is_answered(
    talk: Talk, call: Callable[[HttpServerApi], Awaitable[Any]], watch: TokenWatch
) -> None:
    since = time.monotonic()
    error, _ = await tried(talk, call, watch, 0.3)
    assert time.monotonic() - since < 3.0
    assert isinstance(error, Unreachable)
    assert "no answer in time" in str(error)


async def test_a_body_without_end_is_left_behind(watch: TokenWatch) -> None:
    error, _ = await tried(forever, start, watch)
    assert isinstance(error, EdgeError)


async def test_a_packed_body_is_not_unpacked(watch: TokenWatch) -> None:
    packed = gzip.compress(b'{"session_id": "s"}')  # nobody asked for that, and what it blows up to is unknown
    error, _ = await tried(answers("200 OK", packed, "Content-Encoding: gzip"), start, watch)
    assert isinstance(error, ServerRefused)


async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x15\x03\x01 this is no HTTP\r\n\r\n")
    await writer.drain()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def half_a_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"session_id"')
    await writer.drain()


@pytest.mark.parametrize("talk", [rude, hang_up, half_a_body])
async def test_a_peer_that_speaks_no_http_is_unreachable(talk: Talk, watch: TokenWatch) -> None:
    error, _ = await tried(talk, start, watch)
    assert isinstance(error, Unreachable)


async def test_nobody_listens(watch: TokenWatch) -> None:
    async with RawServer(silence) as server:
        url = server.url
    api = HttpServerApi(url, lambda: TOKEN, 5.0)
    with pytest.raises(Unreachable, match=r"\(Connection refused\)") as caught:
        await api.start(SETTINGS)
    watch.show(caught.value)
    await api.close()
    watch.check()


@pytest.mark.parametrize("token", ["line\nbreak", "tab\there", "umlaut-ü", "\x00"])
async def test_an_impossible_token_is_not_quoted(token: str) -> None:
    api = HttpServerApi("http://127.0.0.1:9", lambda: token, 5.0)
    with pytest.raises(Unreachable) as caught:
        await api.start(SETTINGS)
    assert token not in str(caught.value)
    await api.close()


# --- connections -----------------------------------------------------------------------------------------------------


async def test_a_failed_call_does_not_end_the_others() -> None:
    """A stop may take its time while status polls run out of theirs."""
    may_answer = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if server.requests[-1].startswith(b"POST"):
            await may_answer.wait()
            await said({"status": "success"})(reader, writer)
        else:
            await silence(reader, writer)

    async with asyncio.timeout(BOUND_S), RawServer(talk) as server:
        api = HttpServerApi(server.url, lambda: TOKEN, 0.2)
        stopping = asyncio.create_task(api.stop("s-1"))
        while not server.requests:
            await asyncio.sleep(0)
        with pytest.raises(Unreachable):
            await api.status("s-1")
        assert not stopping.done()
        may_answer.set()
        await stopping
        await api.close()


async def test_a_dead_kept_connection_costs_one_call() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"exists": false}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await reader.read()  # a second request on this connection is never answered

    async with asyncio.timeout(BOUND_S), RawServer(talk) as server:
        api = HttpServerApi(server.url, lambda: TOKEN, 0.2)
        await api.status("s-1")
        with pytest.raises(Unreachable):
            await api.status("s-1")
        await api.status("s-1")
        assert server.connections == 2
        await api.close()
        await api.close()


async def all_left(server: RawServer) -> None:
    while server.still_open:
        await asyncio.sleep(0)


async def test_connections_of_a_path_that_is_gone_are_forgotten() -> None:
    """The kept one is closed at once; a call under way ends as it would have, and leaves nothing open."""
    may_answer = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b'{"exists": false}'
        while True:
            if server.connections == 2:
                await may_answer.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await reader.readuntil(b"\r\n\r\n")

    async with asyncio.timeout(BOUND_S), RawServer(talk) as server:
        api = HttpServerApi(server.url, lambda: TOKEN, 5.0)
        await api.status("s-1")
        await api.status("s-1")
        assert (server.connections, server.still_open) == (1, 1)
        api.forget_connections()
        api.forget_connections()
        await all_left(server)
        calling = asyncio.create_task(api.status("s-1"))
        while server.connections < 2:
            await asyncio.sleep(0)
        api.forget_connections()
        may_answer.set()
        assert await calling == SessionStatus(False, False, 1, 20)
        await all_left(server)
        await api.close()


async def test_a_cancelled_call_leaves_nothing_open() -> None:
    closed = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        closed.set()

    async with asyncio.timeout(BOUND_S), RawServer(talk) as server:
        api = HttpServerApi(server.url, lambda: TOKEN, 5.0)
        calling = asyncio.create_task(api.start(SETTINGS))
        while not server.requests:
            await asyncio.sleep(0)
        calling.cancel()
        await asyncio.wait([calling])
        await closed.wait()
        await api.close()


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch, watch: TokenWatch) -> None:
    async with RawServer(said({"session_id": "proxied"})) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv(name.upper(), proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        result, _ = await tried(said({"session_id": "direct"}), start, watch)
        assert result == "direct"
        assert proxy.connections == 0


async def test_an_ipv6_address_in_brackets() -> None:
    async with RawServer(said({"session_id": "six"}), host="::1") as server:
        assert "[::1]" in server.url
        api = HttpServerApi(server.url, lambda: TOKEN, 5.0)
        assert await api.start(SETTINGS) == "six"
        await api.close()


@pytest.mark.parametrize(
    ("scheme", "answer", "text"),
    [
        ("https", b"HTTP/1.1 400 Bad Request\r\n\r\n", "it does not speak TLS: is it http://"),
        ("http", b"\x15\x03\x03\x00\x02\x02\x46\r\n\r\n", "it does not speak HTTP: is it https://"),
        ("http", b"", "it hung up"),
    ],
)
async def test_a_port_that_speaks_something_else_is_said(
    scheme: str, answer: bytes, text: str, watch: TokenWatch
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(answer)
        writer.close()

    async with asyncio.timeout(BOUND_S), await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        api = HttpServerApi(f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}", lambda: TOKEN, 5.0)
        with pytest.raises(Unreachable, match=text) as caught:
            await api.start(SETTINGS)
        watch.show(caught.value)
        await api.close()
        watch.check()


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "Https"])
async def test_a_certificate_that_nobody_vouches_for_is_refused_before_the_token_is_said(
    scheme: str, tmp_path: Path, watch: TokenWatch
) -> None:
    async with asyncio.timeout(BOUND_S), RawServer(said({"session_id": "s"}), tls=server_tls(tmp_path)) as server:
        api = HttpServerApi(server.url.replace("https", scheme), lambda: TOKEN, 5.0)
        with pytest.raises(Unreachable, match="certificate is not trusted") as caught:
            await api.start(SETTINGS)
        assert "\n" not in str(caught.value)
        assert "SSL_CERT_FILE" in str(caught.value)
        watch.show(caught.value)
        await api.close()
        assert server.requests == []
        watch.check()


async def test_a_certificate_of_the_machines_own_authorities_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = server_tls(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    async with asyncio.timeout(BOUND_S), RawServer(said({"session_id": "s"}), tls=tls) as server:
        api = HttpServerApi(server.url, lambda: TOKEN, 5.0)
        assert await api.start(SETTINGS) == "s"
        await api.close()


async def test_handshakes_that_hang_leave_no_socket_behind() -> None:
    """A server that takes connections and does nothing must not be given more and more of them."""
    async with asyncio.timeout(BOUND_S), RawServer(silence) as server:
        api = HttpServerApi(server.url.replace("http:", "https:"), lambda: TOKEN, 0.1)
        for _ in range(5):
            with pytest.raises(Unreachable, match="no answer in time"):
                await api.start(SETTINGS)
        assert server.connections == 5
        while server.still_open:
            await asyncio.sleep(0)
        await api.close()
        assert server.requests == []
