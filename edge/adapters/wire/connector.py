"""One connection to the server, through whatever lies between."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import h11

from edge.adapters.wire import tcp
from edge.adapters.wire.names import Resolver
from edge.adapters.wire.proxy import chosen, failure, tunnel
from edge.adapters.wire.rescue import ClockRescue, date
from edge.adapters.wire.tls import TlsFiles, context, is_about_time, peer_name, untimed, validity
from edge.adapters.wire.trouble import explain, unreachable
from edge.core.checktime import Validity
from edge.errors import ConfigError, EdgeError

_T = TypeVar("_T")
Tls = dict[str, Any]

# For the name: half of an attempt's time, and no more than this. A name service that is late serves the next attempt.
_NAME_S = 5.0
_RESCUE_SHARE = 0.5  # of what is left of it: the attempt itself is still to come


class Connector:
    """Makes the connections to `base_url`, http(s)://host[:port]; whoever uses them speaks TLS by `tls_options`.

    `proxy` is the setting connection.proxy. `on_resolved` gets the addresses that an attempt leads to, the proxy's
    where there is one; `bound_to` says out of which interface a socket to such addresses has to go, "" for any.
    `rescue` serves where the clock cannot be trusted; without it the clock is what counts. Raises ConfigError for a
    proxy or TLS files that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        proxy: str = "",
        files: TlsFiles | None = None,
        on_resolved: Callable[[Sequence[str]], None] = lambda addresses: None,
        bound_to: Callable[[Sequence[str]], str] = lambda addresses: "",
        rescue: ClockRescue | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        self._host = (parts.hostname or "").replace("%25", "%")  # an IPv6 zone, as RFC 6874 writes it
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._proxy = chosen(proxy, parts)
        via = self._proxy
        self._resolver = Resolver(via.host, via.port) if via else Resolver(self._host, self._port)
        self._authority = parts.netloc.rpartition("@")[2]
        self._files = files or TlsFiles()
        self._rescue = rescue
        looks = rescue.agreed if rescue else None
        self._tls = context(self._files, looks) if parts.scheme == "https" else None
        self._checked: ssl.SSLContext | None = None  # by the rescued time
        self._asking: ssl.SSLContext | None = None
        self.on_resolved = on_resolved
        self.bound_to = bound_to

    @property
    def tls_options(self) -> Tls:
        """What asyncio needs beside the socket; nothing for http://."""
        if self._tls is None:
            return {}
        if self._rescue is not None and self._rescue.is_needed:
            self._checked = self._checked or self._untimed(self._rescue.check)
            return self._by(self._checked or self._tls)
        return self._by(self._tls)

    def _untimed(self, looks: Callable[[Validity], None] | None = None) -> ssl.SSLContext | None:
        """Made only when it is needed; None where the files are not what they were at the start."""
        try:
            return untimed(self._files, looks)
        except ConfigError:
            return None

    def _by(self, tls: ssl.SSLContext) -> Tls:
        return {"ssl": tls, "server_hostname": peer_name(self._host)}

    async def open(self, timeout_s: float, make: Callable[[socket.socket, Tls], Awaitable[_T]]) -> _T:
        """What `make` makes of a connection and what TLS it has to speak on it; once more where the time of a
        certificate was in the way and could be had of the server itself. Raises Unreachable, or what `make` does; it
        bounds its own time."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            return await make(await self.connect(timeout_s), self.tls_options)
        except ssl.SSLCertVerificationError as error:
            if not is_about_time(error) or not await self._is_rescued(error, deadline):
                raise
        return await make(await self.connect(self._left_s(deadline)), self.tls_options)

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

        async def make(sock: socket.socket, tls: Tls) -> asyncio.Transport:
            async with asyncio.timeout_at(deadline):
                transport, _ = await loop.create_connection(protocol, sock=sock, **tls)
            return transport

        try:
            return await self.open(timeout_s, make)
        except (ssl.SSLError, OSError) as error:
            raise self.named(error) from None

    def named(self, error: Exception) -> EdgeError:
        """What went wrong, in the words that both halves of the client use."""
        return unreachable(error, peer_name(self._host), is_pinned=bool(self._files.ca))

    @staticmethod
    def _left_s(deadline: float) -> float:
        return deadline - asyncio.get_running_loop().time()

    # --- where the clock is wrong ----------------------------------------------------------------------------------

    async def _is_rescued(self, error: ssl.SSLCertVerificationError, deadline: float) -> bool:
        """Whether the server itself could say what time it is; where not, `error` tells why. Raises Unreachable for a
        chain that is refused whatever the time."""
        rescue = self._rescue
        if rescue is None:
            return False
        if not rescue.is_allowed:
            rescue.contradicted()
            return False
        try:
            said_s, chain = await self._ask(_RESCUE_SHARE * self._left_s(deadline))
        except ssl.SSLCertVerificationError as graver:
            raise self.named(graver) from None
        except (EdgeError, OSError, h11.RemoteProtocolError):
            explain(error, "the server could not be asked for the date")
            return False
        fault = "the server says no date" if said_s is None else rescue.accept(said_s, chain)
        if fault:
            explain(error, fault, said_s)
        return not fault

    async def _ask(self, timeout_s: float) -> tuple[float | None, Validity]:
        """The server's date, and when the certificates are valid with which it vouches for it."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        tls = self._asking = self._asking or self._untimed()
        if tls is None:
            raise FileNotFoundError
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        sock = await self.connect(timeout_s)
        async with asyncio.timeout_at(deadline):
            transport, _ = await loop.create_connection(lambda: protocol, sock=sock, **self._by(tls))
            try:
                return await date(self._authority, transport, reader), validity(transport)
            finally:
                transport.abort()
