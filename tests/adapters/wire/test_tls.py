"""TLS with real certificates and real handshakes: what is trusted, and what each refusal is called, on both halves."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from edge.adapters.wire import Connector, TlsFiles
from edge.adapters.wire.tls import Certificate
from edge.errors import (
    CaptivePortal,
    CertificateExpired,
    CertificateNotYetValid,
    ConfigError,
    EdgeError,
    TlsRefused,
    Unreachable,
)
from tests.adapters.hostile import BOUND_S, RawServer, TokenWatch
from tests.adapters.wire.peers import BOTH, Alerting, Half, attempt, failure, server
from tests.adapters.wire.pki import DAY, LOCAL, NOW, Authority, serves

both = pytest.mark.parametrize("half", BOTH)


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other")


def pinned(url: str, authority: Authority, cert: Path | None = None) -> Connector:
    return Connector(url, files=TlsFiles(str(authority.path), str(cert or "")))


async def refused(
    half: Half, tls: ssl.SSLContext, authority: Authority, watch: TokenWatch, cert: Path | None = None
) -> EdgeError:
    """What an attempt at a server with `tls` fails of where `authority` is trusted; no request reached the server."""
    async with RawServer(server, tls=tls) as peer:
        error = await failure(half, peer.url, pinned(peer.url, authority, cert), watch)
        assert peer.requests == []
    return error


# --- what is trusted -------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_pinned_authority(half: Half, host: str, ours: Authority) -> None:
    async with RawServer(server, host=host, tls=serves(ours.issue(host))) as peer:
        await attempt(half, peer.url, pinned(peer.url, ours))


@both
async def test_a_pinned_certificate_of_the_server_itself(half: Half, ours: Authority) -> None:
    own = ours.issue("127.0.0.1")
    async with RawServer(server, tls=serves(own)) as peer:
        await attempt(half, peer.url, Connector(peer.url, files=TlsFiles(ca=str(own))))


@both
async def test_only_what_is_pinned_is_trusted(
    half: Half, ours: Authority, other: Authority, watch: TokenWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(other.path))  # as a public authority: this machine trusts it
    async with RawServer(server, tls=serves(other.issue("127.0.0.1"))) as peer:
        await attempt(half, peer.url, Connector(peer.url))
        error = await failure(half, peer.url, pinned(peer.url, ours), watch)
    assert isinstance(error, TlsRefused)
    assert "certificate is not trusted" in str(error)
    assert str(error).endswith("server.ca_file names the only ones that are trusted")


@both
async def test_the_name_is_said_to_the_server_and_an_address_is_not(half: Half, ours: Authority) -> None:
    said: list[str | None] = []
    tls = serves(ours.issue(*LOCAL))
    tls.sni_callback = lambda connection, name, context: said.append(name)
    async with RawServer(server, tls=tls) as peer:
        port = peer.url.rpartition(":")[2]
        for url in (f"https://localhost:{port}", f"HTTPS://LOCALHOST:{port}", peer.url):
            await attempt(half, url, pinned(url, ours))
    assert said == ["localhost", "localhost", None]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://aia.example.", "aia.example"),
        ("https://[fe80::1%25eth0]:8443", "fe80::1"),
        ("https://[2001:db8::1]", "2001:db8::1"),
        ("https://10.0.0.1", "10.0.0.1"),
    ],
)
def test_what_the_certificate_has_to_be_for(url: str, name: str) -> None:
    options = Connector(url).tls_options
    assert options["server_hostname"] == name
    assert options["ssl"].verify_mode is ssl.CERT_REQUIRED
    assert options["ssl"].check_hostname is True


@both
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_certificate_that_is_demanded(
    half: Half, version: ssl.TLSVersion, ours: Authority, other: Authority, watch: TokenWatch
) -> None:
    tls = serves(ours.issue("127.0.0.1"), wants=ours)
    tls.minimum_version = tls.maximum_version = version
    async with RawServer(server, tls=tls) as peer:
        await attempt(half, peer.url, pinned(peer.url, ours, ours.issue("a recorder")))
    for cert in (None, other.issue("a recorder")):
        async with Alerting(tls) as picky:
            error = await failure(half, picky.url, pinned(picky.url, ours, cert), watch)
            assert picky.requests == []
        assert isinstance(error, TlsRefused)
        assert "the server refused TLS" in str(error)
        assert str(error).endswith("server.client_cert and server.client_key are it")


def test_files_that_are_none_are_said_before_anything_is_recorded(tmp_path: Path, ours: Authority) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n")
    locked = ours.issue("a recorder", password=b"hunter2")
    for files, key in [
        (TlsFiles(ca=str(junk)), "server.ca_file"),
        (TlsFiles(ca=str(tmp_path / "none.pem")), "server.ca_file"),
        (TlsFiles(cert=str(junk)), "server.client_cert"),
        (TlsFiles(cert=str(tmp_path / "none.pem")), "server.client_cert"),
        (TlsFiles(cert=str(locked)), "server.client_cert"),  # and no terminal is asked for the password
        (TlsFiles(cert=str(ours.path), key=str(ours.issue("x"))), "server.client_cert"),
    ]:
        with pytest.raises(ConfigError, match=f"{key} .*cannot be used: ") as caught:
            Connector("https://host", files=files)
        assert str(caught.value).isprintable()
    with pytest.raises(ConfigError, match="No such file"):
        Connector("https://host", files=TlsFiles(ca=str(tmp_path / "none.pem")))


# --- what is refused, and what it is called --------------------------------------------------------------------------


@both
async def test_an_unknown_authority(half: Half, ours: Authority, other: Authority, watch: TokenWatch) -> None:
    error = await refused(half, serves(other.issue(*LOCAL)), ours, watch)
    assert isinstance(error, TlsRefused)
    assert "certificate is not trusted (unable to get local issuer certificate)" in str(error)


@both
async def test_a_portals_certificate(half: Half, ours: Authority, other: Authority, watch: TokenWatch) -> None:
    for authority in (ours, other):  # trusted or not: it is somebody else's
        error = await refused(half, serves(authority.issue("wifi.example", "*.login.example")), ours, watch)
        assert isinstance(error, CaptivePortal)
        assert "(a certificate for wifi.example, *.login.example, not for 127.0.0.1)" in str(error)
        assert str(error).endswith("log in to this network, or check server.url")


@both
async def test_an_ipv6_address_is_not_the_ipv4_one(half: Half, ours: Authority, watch: TokenWatch) -> None:
    async with RawServer(server, host="::1", tls=serves(ours.issue("127.0.0.1"))) as peer:
        error = await failure(half, peer.url, pinned(peer.url, ours), watch)
    assert "a certificate for 127.0.0.1, not for ::1" in str(error)


@both
async def test_a_certificate_of_the_future(half: Half, ours: Authority, watch: TokenWatch) -> None:
    begins = NOW + 400 * DAY
    error = await refused(half, serves(ours.issue(*LOCAL, begins=begins, ends=begins + DAY)), ours, watch)
    assert isinstance(error, CertificateNotYetValid)
    assert f"not valid before {begins:%Y-%m-%d}, but this device's clock says {NOW:%Y-}" in str(error)
    assert "set that clock" in str(error)


@both
async def test_an_expired_certificate(half: Half, ours: Authority, watch: TokenWatch) -> None:
    ended = NOW - 40 * DAY
    error = await refused(half, serves(ours.issue(*LOCAL, begins=ended - DAY, ends=ended)), ours, watch)
    assert isinstance(error, CertificateExpired)
    assert f"expired on {ended:%Y-%m-%d}, and this device's clock says {NOW:%Y-}" in str(error)
    assert "where that clock is right the server needs a new certificate" in str(error)


@both
async def test_an_expired_authority(half: Half, tmp_path: Path, watch: TokenWatch) -> None:
    old = Authority(tmp_path, "old", ends=NOW - DAY)
    error = await refused(half, serves(old.issue(*LOCAL)), old, watch)
    assert isinstance(error, CertificateExpired)
    assert "the server's certificate or its authority's expired" in str(error)


@both
@pytest.mark.parametrize(
    ("alert", "text", "remedy"),
    [
        (40, "handshake failure", "server.client_key are it"),
        (70, "protocol version", "ask its owner"),
        (80, "internal error", "ask its owner"),
    ],
)
async def test_an_alert(half: Half, alert: int, text: str, remedy: str, watch: TokenWatch) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 14)
        writer.write(b"\x15\x03\x03\x00\x02\x02" + bytes([alert]))
        writer.close()

    async with asyncio.timeout(BOUND_S), await asyncio.start_server(talk, "127.0.0.1", 0) as peer:
        url = f"https://127.0.0.1:{peer.sockets[0].getsockname()[1]}"
        error = await failure(half, url, Connector(url), watch)
    assert isinstance(error, TlsRefused)
    assert "the server refused TLS" in str(error)
    assert text in str(error)
    assert str(error).endswith(remedy)


@both
async def test_versions_that_do_not_meet(half: Half, ours: Authority, watch: TokenWatch) -> None:
    tls = serves(ours.issue(*LOCAL))
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_ciphers("AES128-SHA")  # nothing that a client of today offers
    async with Alerting(tls) as old:
        error = await failure(half, old.url, pinned(old.url, ours), watch)
    assert isinstance(error, TlsRefused)
    assert "the server refused TLS (sslv3 alert handshake failure)" in str(error)


@both
async def test_a_server_that_asks_for_the_certificate_in_words(half: Half, ours: Authority, watch: TokenWatch) -> None:
    page = b"<html><head><title>400 No required SSL certificate was sent</title></head></html>"  # as nginx does
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: "
    async with Alerting(serves(ours.issue(*LOCAL)), head + str(len(page)).encode() + b"\r\n\r\n" + page) as nginx:
        error = await failure(half, nginx.url, pinned(nginx.url, ours), watch)
    assert isinstance(error, TlsRefused)
    assert str(error).endswith("server.client_cert and server.client_key are it")


@both
async def test_plain_http_where_tls_is_wanted(half: Half, watch: TokenWatch) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 << 14)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with asyncio.timeout(BOUND_S), await asyncio.start_server(talk, "127.0.0.1", 0) as peer:
        url = f"https://127.0.0.1:{peer.sockets[0].getsockname()[1]}"
        error = await failure(half, url, Connector(url), watch)
    assert isinstance(error, TlsRefused)
    assert "it does not speak TLS: is it http://?" in str(error)


@both
async def test_a_peer_that_hangs_up_or_says_nothing_has_no_name(half: Half, watch: TokenWatch) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    async with asyncio.timeout(BOUND_S), await asyncio.start_server(hang_up, "127.0.0.1", 0) as peer:
        url = f"https://127.0.0.1:{peer.sockets[0].getsockname()[1]}"
        error = await failure(half, url, Connector(url), watch)
    assert type(error) is Unreachable
    assert "(it hung up)" in str(error) or "(Connection reset by peer)" in str(error)
    async with RawServer(server) as silent:  # it waits for a request in the clear
        url = silent.url.replace("http", "https")
        error = await failure(half, url, Connector(url), watch, 0.3)
        assert type(error) is Unreachable
        assert "(no answer in time)" in str(error)
        while silent.still_open:
            await asyncio.sleep(0)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "host", "is_for"),
    [
        (("aia.example",), "aia.example", True),
        (("aia.example",), "AIA.Example", True),
        (("*.example",), "aia.example", True),
        (("*.example",), "a.aia.example", False),
        (("*.example",), "example", False),
        (("*",), "localhost", False),
        (("10.0.0.1",), "10.0.0.1", True),
        (("*.0.0.1",), "10.0.0.1", False),
        (("2001:db8::1",), "2001:DB8:0::1", True),
        (("2001:db8::1",), "2001:db8::2", False),
        ((), "aia.example", False),
    ],
)
def test_whose_a_certificate_is(names: tuple[str, ...], host: str, is_for: bool) -> None:
    assert Certificate(names, 0.0, 1.0).is_for(host) is is_for
