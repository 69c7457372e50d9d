"""One connection to the server, through whatever lies between."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from edge.adapters.wire import tcp
from edge.adapters.wire.names import Resolver
from edge.adapters.wire.proxy import chosen, failure, tunnel
from edge.adapters.wire.tls import TlsFiles, context, peer_name
from edge.adapters.wire.trouble import unreachable
from edge.errors import EdgeError

# For the name: half of an attempt's time, and no more than this. A name service that is late serves the next attempt.
_NAME_S = 5.0


class Connector:
    """Makes the connections to `base_url`, http(s)://host[:port]; whoever uses them speaks TLS by `tls_options`.

    `proxy` is the setting connection.proxy. `on_resolved` gets the addresses that an attempt leads to, the proxy's
    where there is one; `bound_to` says out of which interface a socket to such addresses has to go, "" for any.
    Raises ConfigError for a proxy or TLS files that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        proxy: str = "",
        files: TlsFiles | None = None,
        on_resolved: Callable[[Sequence[str]], None] = lambda addresses: None,
        bound_to: Callable[[Sequence[str]], str] = lambda addresses: "",
    ) -> None:
        parts = urlsplit(base_url)
        self._host = (parts.hostname or "").replace("%25", "%")  # an IPv6 zone, as RFC 6874 writes it
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._proxy = chosen(proxy, parts)
        via = self._proxy
        self._resolver = Resolver(via.host, via.port) if via else Resolver(self._host, self._port)
        self._is_pinned = bool(files and files.ca)
        self._tls = context(files or TlsFiles()) if parts.scheme == "https" else None
        self.on_resolved = on_resolved
        self.bound_to = bound_to

    @property
    def tls_options(self) -> dict[str, Any]:
        """What asyncio needs beside the socket; nothing for http://."""
        return {"ssl": self._tls, "server_hostname": peer_name(self._host)} if self._tls else {}

    async def connect(self, timeout_s: float) -> socket.socket:
        """A TCP connection that leads to the server, non-blocking; TLS comes next. Raises Unreachable."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        addresses = await self._resolver.addresses(min(timeout_s / 2, _NAME_S))
        literals = [str(address[4][0]) for address in addresses]
        self.on_resolved(literals)
        try:
            async with asyncio.timeout_at(deadline):
                sock = await tcp.connect(addresses, self.bound_to(literals))
                try:
                    if self._proxy is not None:
                        await tunnel(sock, self._proxy, self._host, self._port)
                except BaseException:
                    sock.close()
                    raise
                return sock
        except OSError as error:
            if self._proxy is not None:
                why = os.strerror(error.errno) if error.errno else "no answer in time"
                raise failure(why) from None
            raise self.named(error) from None

    async def stream(self, timeout_s: float, protocol: Callable[[], asyncio.Protocol]) -> asyncio.Transport:
        """A connection on which all that is agreed, TLS where the URL says so. Raises Unreachable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        sock = await self.connect(timeout_s)
        try:
            async with asyncio.timeout_at(deadline):
                transport, _ = await loop.create_connection(protocol, sock=sock, **self.tls_options)
        except (ssl.SSLError, OSError) as error:
            raise self.named(error) from None
        return transport

    def named(self, error: Exception) -> EdgeError:
        """What went wrong, in the words that both halves of the client use."""
        return unreachable(error, peer_name(self._host), is_pinned=self._is_pinned)
