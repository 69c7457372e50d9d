"""The receiver as a whole: one listening socket, one kind of server behind it.

async with Receiver(config) as receiver:
    print(receiver.url)
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import socket as sockets
import ssl
from types import TracebackType

from aiohttp import web

from edge.errors import ConfigError, StateDirectoryInUse
from edge.receiver.config import ReceiverConfig
from edge.receiver.durable import DurableBackend
from edge.receiver.facts import SessionFacts
from edge.receiver.http import Backend, Face
from edge.receiver.strict import StrictBackend

_BACKLOG = 128
_SHUTDOWN_S = 1.0
_DIRECTORY_MODE = 0o700
# aiohttp's own loggers quote request lines, and with them tokens.
_silent = logging.getLogger("edge.receiver.silent")
_silent.disabled = True


class Receiver:
    """A receiver in this process. An async context manager; leaving it makes everything durable and closes in order."""

    def __init__(self, config: ReceiverConfig) -> None:
        self.config = config
        strict = config.strict
        self._backend: Backend = StrictBackend(config, strict) if strict else DurableBackend(config)
        self._face = Face(config, self._backend)
        self._runner = web.AppRunner(
            self._face.app, access_log=None, logger=_silent, handle_signals=False, shutdown_timeout=_SHUTDOWN_S
        )
        self._socket: sockets.socket | None = None
        self._lock = -1
        self._is_open = False

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._socket is not None, "the receiver is not open"
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """http(s)://host:port."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"{'https' if self.config.cert else 'http'}://{host}:{self.port}"

    async def __aenter__(self) -> Receiver:
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    def sessions(self) -> list[SessionFacts]:
        """The sessions: the living ones; in strict mode also those that ended."""
        return self._backend.facts()

    def set_conflict(self, *, active: bool) -> None:
        """While `active`, every start is answered 409."""
        self._face.conflict = active

    def drop_sockets(self) -> int:
        """Reset every WebSocket, as a failing network would; returns how many there were."""
        live = list(self._face.sockets)
        for socket in live:
            socket.abort()
        return len(live)

    async def terminate(self) -> None:
        """What SIGTERM does before the process ends; leave the context manager afterwards."""
        if self.config.strict and self.config.strict.faults.lingers_after_term and self._socket is not None:
            # New connections still complete in the kernel's queue, but nobody serves them (trap 7).
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        await self._backend.linger()

    async def kill(self) -> None:
        """End as a crash would: nothing more is said or stored. The context manager's exit has nothing left to do."""
        self.drop_sockets()
        await self._backend.abort()
        await self._clean_up()

    async def _open(self) -> None:
        out = self.config.out
        try:
            out.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._lock = os.open(out / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StateDirectoryInUse(
                f"{out} is in use by another receiver", "", "stop it, or give another with --out"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"the folder {out} cannot be used ({error.strerror})", "", "give another with --out"
            ) from None
        context = _tls(self.config)
        await self._backend.recover()
        self._socket = _listen(self.config.host, self.config.port)
        await self._runner.setup()
        self._is_open = True
        await web.SockSite(self._runner, self._socket, ssl_context=context, backlog=_BACKLOG).start()

    async def _close(self) -> None:
        if self._is_open:
            await self._backend.close()
        await self._clean_up()

    async def _clean_up(self) -> None:
        self._is_open = False
        if self.config.strict:
            self.drop_sockets()
        for socket in list(self._face.sockets):
            socket.close(1001, "receiver stopped")
        if self._runner.server is not None:
            closing = [asyncio.create_task(one.closed.wait()) for one in self._face.sockets]
            if closing:
                _, deaf = await asyncio.wait(closing, timeout=2 * self.config.timing.close)
                self.drop_sockets()
                for task in deaf:
                    task.cancel()
            await self._runner.cleanup()
        if self._socket is not None:
            self._socket.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _listen(host: str, port: int) -> sockets.socket:
    try:
        family, kind, protocol, _, address = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM)[0]
        listener = sockets.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} ({error.strerror})", "", "give another with --host") from None
    try:
        listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        remedy = "give another with --host" if error.errno == errno.EADDRNOTAVAIL else "give another with --port"
        raise ConfigError(f"cannot listen on {host} port {port} ({error.strerror})", "", remedy) from None
    return listener


def _tls(config: ReceiverConfig) -> ssl.SSLContext | None:
    if config.cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.cert, config.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"certificate and key cannot be used ({error.strerror or error})", "", "check --cert and --key"
        ) from None
    return context
