"""A tunnel through an HTTP proxy (CONNECT, RFC 9110 9.3.6), for http:// and https:// alike: it only moves bytes."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from edge.adapters.wire.names import is_literal
from edge.errors import ConfigError, ProxyFailure

ENVIRONMENT = "environment"
_MAX_HEAD = 16 << 10
_NO_WAY = "it cannot reach the server"
_MEANING = {407: "it wants a user name and password", 502: _NO_WAY, 503: _NO_WAY, 504: _NO_WAY}


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where it is, and what it wants to hear; its credentials are in no repr."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


def chosen(setting: str, server: SplitResult) -> Proxy | None:
    """The proxy on the way to `server`, by the setting `connection.proxy`. Raises ConfigError.

    "" is none; "environment" is what https_proxy, http_proxy, all_proxy and no_proxy say, and never one to this very
    machine; all else is the address itself.
    """
    if setting != ENVIRONMENT:
        return _proxy(setting, "connection.proxy") if setting else None
    host = server.hostname or ""
    proxies = getproxies_environment()
    url = proxies.get(server.scheme) or proxies.get("all")
    if not url or not host or host == "localhost" or (is_literal(host) and ipaddress.ip_address(host).is_loopback):
        return None
    if proxy_bypass_environment(f"{host}:{server.port}" if server.port else host, proxies):
        return None
    return _proxy(url if "://" in url else f"http://{url}", f"the environment's {server.scheme}_proxy or all_proxy")


def _proxy(url: str, where: str) -> Proxy:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if parts.scheme.lower() != "http" or not host:
        raise ConfigError(f"{where} names no proxy of the kind http://HOST:PORT", remedy="other kinds are not spoken")
    if parts.username is None:
        return Proxy(host, port)
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(host, port, "Basic " + base64.b64encode(pair.encode()).decode())


async def tunnel(sock: socket.socket, proxy: Proxy, host: str, port: int) -> None:
    """Make the proxy at the other end of `sock` lead to `host`. Raises ProxyFailure or OSError."""
    loop = asyncio.get_running_loop()
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(sock, "\r\n".join([*lines, "", ""]).encode("ascii"))
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD:
        piece = await loop.sock_recv(sock, 4096)
        if not piece:
            break
        head += piece
    match = re.match(rb"HTTP/1\.[01] ([0-9]{3})[ \r]", head)
    if match is None:
        raise failure("it does not speak HTTP" if head else "it hung up")
    code = int(match[1])
    if not 200 <= code < 300:
        meaning = f"{_MEANING[code]}, " if code in _MEANING else ""
        raise failure(f"{meaning}HTTP {code}")
    if not head.endswith(b"\r\n\r\n") or head.count(b"\r\n\r\n") > 1:  # the server itself speaks only when spoken to
        raise failure("its answer is none")


def failure(why: str) -> ProxyFailure:
    """What a person reads of it; neither its address nor its credentials, which may stand beside each other."""
    return ProxyFailure(f"the proxy does not lead to the server ({why})", "audio is kept", "check connection.proxy")
