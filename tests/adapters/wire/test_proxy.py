"""A real CONNECT proxy between both halves and the server, and proxies that are none."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edge.adapters.wire import Connector, TlsFiles
from edge.adapters.wire.proxy import Proxy as Chosen
from edge.adapters.wire.proxy import chosen
from edge.errors import CaptivePortal, ConfigError, NameFailure, ProxyFailure
from tests.adapters.hostile import BOUND_S, RawServer, Talk, TokenWatch, answers
from tests.adapters.wire.peers import BOTH, Half, Proxy, attempt, failure, server
from tests.adapters.wire.pki import Authority, serves

both = pytest.mark.parametrize("half", BOTH)
PASSWORD = "hunter2:+%/"
QUOTED = "hunter2%3A%2B%25%2F"
AUTHORIZATION = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ftp_proxy", "socks_proxy")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that says nothing of proxies."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# --- through it ------------------------------------------------------------------------------------------------------


@both
async def test_http_goes_through_a_tunnel_too(half: Half) -> None:
    async with RawServer(server) as peer, Proxy(hosts={"aia.example": "127.0.0.1"}) as proxy:
        url = f"http://aia.example:{urlsplit(peer.url).port}"
        aimed: list[object] = []
        await attempt(half, url, Connector(url, proxy=proxy.url, on_resolved=aimed.append))
        [(line, headers)] = proxy.requests
        assert line == f"CONNECT aia.example:{urlsplit(peer.url).port} HTTP/1.1"
        assert set(headers) == {"Host"}
        assert f"Host: {urlsplit(url).netloc}\r\n".encode() in peer.requests[0]  # and this one is the server's
        assert aimed == [["127.0.0.1"]]  # the proxy's address, to which the path leads


@both
async def test_tls_is_with_the_server_and_not_with_the_proxy(half: Half, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    async with (
        RawServer(server, tls=serves(ours.issue("aia.example"))) as peer,
        Proxy(hosts={"aia.example": "127.0.0.1"}) as proxy,
    ):
        url = f"https://aia.example:{urlsplit(peer.url).port}"
        await attempt(half, url, Connector(url, proxy=proxy.url, files=TlsFiles(ca=str(ours.path))))
        assert len(proxy.requests) == 1


@both
async def test_addresses_of_ipv6_at_both_ends(half: Half) -> None:
    async with RawServer(server, host="::1") as peer, Proxy(host="::1") as proxy:
        await attempt(half, peer.url, Connector(peer.url, proxy=proxy.url))
        assert proxy.requests[0][0] == f"CONNECT [::1]:{urlsplit(peer.url).port} HTTP/1.1"


@both
async def test_credentials_are_said_to_the_proxy_alone(
    half: Half, watch: TokenWatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with RawServer(server) as peer, Proxy(authorization=AUTHORIZATION) as proxy:
        setting = proxy.url.replace("http://", f"http://me:{QUOTED}@")
        connector = Connector(peer.url, proxy=setting)
        await attempt(half, peer.url, connector)
        wrong = Connector(peer.url, proxy=proxy.url.replace("http://", "http://me:hunter2@"))
        error = await failure(half, peer.url, wrong, watch)
        assert isinstance(error, ProxyFailure)
        assert "it wants a user name and password, HTTP 407" in str(error)
        assert len(peer.requests) == 1
        assert b"uthorization: Basic" not in peer.requests[0]
        via = repr(chosen(setting, urlsplit(peer.url)))
    shown = "\n".join([caplog.text, str(error), repr(error), repr(connector), via])
    for secret in ("hunter2", AUTHORIZATION, AUTHORIZATION.removeprefix("Basic ")):
        assert secret not in shown


@both
async def test_a_portal_behind_a_proxy_is_still_one(half: Half, tmp_path: Path, watch: TokenWatch) -> None:
    ours = Authority(tmp_path, "ours")
    async with RawServer(server, tls=serves(ours.issue("wifi.example"))) as peer, Proxy() as proxy:
        connector = Connector(peer.url, proxy=proxy.url, files=TlsFiles(ca=str(ours.path)))
        assert isinstance(await failure(half, peer.url, connector, watch), CaptivePortal)


# --- what fails ------------------------------------------------------------------------------------------------------


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """In order, without a word."""


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def junk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 smtp.example ESMTP\r\n\r\n")
    await writer.drain()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000)
        await writer.drain()


async def eager(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n")
    await writer.drain()
    await reader.read()


@both
@pytest.mark.parametrize(
    ("talk", "text"),
    [
        (hang_up, ""),
        (leave, "it hung up"),
        (silence, "no answer in time"),
        (junk, "it does not speak HTTP"),
        (endless, "its answer is none"),
        (eager, "its answer is none"),
        (answers("403 Forbidden", b"<html>"), "HTTP 403"),
        (answers("407 Who", b""), "it wants a user name and password, HTTP 407"),
        (answers("502 Bad", b""), "it cannot reach the server, HTTP 502"),
        (answers("302 Found", b"", "Location: http://login.example/"), "HTTP 302"),
    ],
)
async def test_proxies_that_do_not_lead_there(half: Half, talk: Talk, text: str, watch: TokenWatch) -> None:
    async with asyncio.timeout(BOUND_S), RawServer(talk) as proxy:
        url = "https://aia.example"
        error = await failure(half, url, Connector(url, proxy=proxy.url), watch, 1.0 if talk is silence else 10.0)
        assert isinstance(error, ProxyFailure)
        assert text in str(error)
        assert str(error).endswith("check connection.proxy")
        while proxy.still_open:
            await asyncio.sleep(0)


@both
async def test_a_proxy_that_is_not_there(half: Half, watch: TokenWatch) -> None:
    async with RawServer(silence) as gone:
        url = gone.url
    error = await failure(half, "https://aia.example", Connector("https://aia.example", proxy=url), watch)
    assert isinstance(error, ProxyFailure)
    assert "(Connection refused)" in str(error)
    connector = Connector("https://127.0.0.1", proxy="http://no-such-proxy.invalid:3128")
    error = await failure(half, "https://127.0.0.1", connector, watch)
    assert isinstance(error, NameFailure)
    assert "no-such-proxy.invalid" in str(error)


# --- which one -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "environment", "wanted"),
    [
        ("https://aia.example", {}, None),
        ("https://aia.example", {"https_proxy": "http://p:3128"}, "p"),
        ("https://aia.example", {"HTTPS_PROXY": "http://p:3128/"}, "p"),
        ("https://aia.example", {"https_proxy": "p:3128"}, "p"),
        ("https://aia.example", {"http_proxy": "http://p:3128"}, None),
        ("http://aia.example", {"http_proxy": "http://p:3128", "https_proxy": "http://q:1"}, "p"),
        ("https://aia.example", {"all_proxy": "http://p:3128"}, "p"),
        ("https://aia.example", {"https_proxy": "http://p:3128", "no_proxy": "example"}, None),
        ("https://aia.example", {"https_proxy": "http://p:3128", "no_proxy": "x.net, aia.example"}, None),
        ("https://aia.example:8443", {"https_proxy": "http://p:3128", "no_proxy": "aia.example:8443"}, None),
        ("https://aia.example:8443", {"https_proxy": "http://p:3128", "no_proxy": "aia.example:9"}, "p"),
        ("https://aia.example", {"https_proxy": "http://p:3128", "no_proxy": "*"}, None),
        ("https://aia.example", {"https_proxy": "http://p:3128", "no_proxy": "b.example"}, "p"),
        ("http://127.0.0.1:8765", {"http_proxy": "http://p:3128"}, None),
        ("http://[::1]:8765", {"http_proxy": "http://p:3128"}, None),
        ("http://localhost", {"http_proxy": "http://p:3128"}, None),
        ("http://127.example", {"http_proxy": "http://p:3128"}, "p"),
        ("", {"all_proxy": "socks5://p:3128"}, None),
    ],
)
def test_what_the_environment_says(
    url: str, environment: dict[str, str], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = chosen("environment", urlsplit(url))
    assert (proxy and (proxy.host, proxy.port)) == (wanted and (wanted, 3128))
    assert chosen("", urlsplit(url)) is None
    assert chosen("http://[2001:db8::1]", urlsplit(url)) == Chosen("2001:db8::1", 80)


@pytest.mark.parametrize("value", ["socks5://me:hunter2@p:1080", "https://hunter2@p", "http://", "http://p:hunter2"])
def test_a_proxy_of_another_kind_is_said_without_its_address(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", value)
    with pytest.raises(ConfigError, match="names no proxy of the kind http://HOST:PORT") as caught:
        Connector("https://aia.example", proxy="environment")
    assert "hunter2" not in str(caught.value)
