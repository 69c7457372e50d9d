"""A TCP proxy on loopback whose connections can be cut while both ends live on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

HOST = "127.0.0.1"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CHUNK = 1 << 16
_END_S = 2.0


class ReservedPort:
    """A port that stays ours while nobody listens on it, so that whoever ends can come back to it.

    The socket is bound and never listens: connects are refused meanwhile. A listener with SO_REUSEADDR gets in.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((HOST, 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it back."""
        self._socket.close()


class CuttableProxy:
    """Passes bytes on to `target` until `cut`; from then on connects are refused, until `mend`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._port = ReservedPort()
        self._server: asyncio.Server | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self._port.number}"

    async def mend(self) -> None:
        """Listen (again)."""
        self._server = await asyncio.start_server(self._accepted, HOST, self._port.number, reuse_address=True)

    def cut(self) -> None:
        """Reset every connection, on both sides, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            _reset(writer)

    async def close(self) -> None:
        """The end: nothing listens, nothing runs any more."""
        self.cut()
        if self._links:
            await asyncio.wait(self._links, timeout=_END_S)
        self._port.close()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            far_reader, far = await asyncio.open_connection(HOST, self._target)
            self._writers.add(far)
            if self._server is None:  # cut meanwhile
                raise ConnectionResetError
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass_on(reader, far))
                both.create_task(_pass_on(far_reader, writer))
        except (OSError, ExceptionGroup):  # either side is gone, and with it the link
            _reset(writer)
        finally:
            self._links.discard(task)
            for end in (writer, far):
                if end is not None:
                    self._writers.discard(end)
                    end.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
