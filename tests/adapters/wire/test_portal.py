"""Networks that answer in the server's place, over plain HTTP: who is on the way there may say anything."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edge.adapters.http import HttpServerApi
from edge.adapters.wire import Connector, TlsFiles
from edge.errors import CaptivePortal, EdgeError, Unreachable
from tests.adapters.hostile import TOKEN, RawServer, Talk, TokenWatch, answers
from tests.adapters.wire.peers import BOTH, Half, failure
from tests.adapters.wire.pki import Authority, serves

both = pytest.mark.parametrize("half", BOTH)
PAGES: list[tuple[Talk, str]] = [
    (answers("302 Found", b"", "Location: http://login.wifi.example/?to=x"), "a redirect to http://login.wifi.example"),
    (answers("307 Temporary Redirect", b"", "Location: /login"), "a redirect"),
    (answers("303 See Other", b"", "Location: http://[nonsense"), "a redirect"),
    (answers("301 Moved", b""), "a redirect"),
    (
        answers("302 Found", b"", "Location: http://one.example/", "Location: http://two.example/"),
        "a redirect to http://",
    ),
    (answers("200 OK", b"<html>please log in</html>", "Content-Type: text/html"), "a page instead of an answer"),
    (answers("200 OK", b"", "Content-Type: Text/HTML; charset=utf-8"), "a page instead of an answer"),
    (answers("200 OK", b"\n <!doctype html><p>please"), "a page instead of an answer"),
    (answers("511 Network Authentication Required", b"{}"), "HTTP 511, network authentication required"),
]


@both
@pytest.mark.parametrize(("talk", "text"), PAGES)
async def test_a_page_for_people_is_a_portals(half: Half, talk: Talk, text: str, watch: TokenWatch) -> None:
    async with RawServer(talk) as portal:
        error = await failure(half, portal.url, Connector(portal.url), watch)
    assert isinstance(error, CaptivePortal)
    assert f"answers in the server's place ({text}" in str(error)


@pytest.mark.parametrize("call", ["stop", "status"])
async def test_so_it_is_for_every_call(call: str, watch: TokenWatch) -> None:
    calls: dict[str, Callable[[HttpServerApi], Awaitable[object]]] = {
        "stop": lambda api: api.stop("s-1"),
        "status": lambda api: api.status("s-1"),
    }
    for talk, _ in PAGES:
        async with RawServer(talk) as portal:
            api = HttpServerApi(portal.url, lambda: TOKEN)
            with pytest.raises(CaptivePortal) as caught:
                await calls[call](api)
            watch.show(caught.value)
            await api.close()
    watch.check()


@both
@pytest.mark.parametrize(("talk", "text"), PAGES)
async def test_over_tls_the_server_itself_said_it(
    half: Half, talk: Talk, text: str, tmp_path: Path, watch: TokenWatch
) -> None:
    ours = Authority(tmp_path, "ours")
    async with RawServer(talk, tls=serves(ours.issue("127.0.0.1"))) as peer:
        error = await failure(half, peer.url, Connector(peer.url, files=TlsFiles(ca=str(ours.path))), watch)
    assert not isinstance(error, CaptivePortal)
    assert error.name == ""


@both
@pytest.mark.parametrize("line", ["500 Internal Server Error", "404 Not Found", "503 Full"])
async def test_a_servers_own_error_page_is_no_portal(half: Half, line: str, watch: TokenWatch) -> None:
    async with RawServer(answers(line, b"<h1>oops</h1>", "Content-Type: text/html")) as peer:
        error: EdgeError = await failure(half, peer.url, Connector(peer.url), watch)
    assert not isinstance(error, CaptivePortal)
    assert half == "http" or type(error) is Unreachable


@both
async def test_a_location_is_quoted_without_what_it_may_carry(half: Half, watch: TokenWatch) -> None:
    # A portal may hand on what was asked for, and what the WebSocket asks for has the token in its URL.
    carried = TOKEN if half == "websocket" else "s3cret"
    location = f"Location: http://me:s3cret@login.example/{carried}?token={carried}"
    async with RawServer(answers("302 Found", b"", location)) as portal:
        error = await failure(half, portal.url, Connector(portal.url), watch)
    assert "(a redirect to http://login.example)" in str(error)
    assert "s3cret" not in str(error)
