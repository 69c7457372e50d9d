"""One WebSocket and the two tasks around it: one writes in order, one reads and reports."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from edge.errors import EdgeError, Unreachable
from edge.runtime.ports import Closed, Dialer, JsonObject, Socket

Item = str | tuple[int, int]
AHEAD_PACKETS = 64  # are read from the card at once


class Channel:
    """Dials once, then reads until the socket ends. `report` gets the handshake (True), messages, and how it ended;
    `fail` a packet that cannot be made.

    Packets are queued as numbers and become bytes when their turn comes, so the queue holds no audio. The session
    bounds what is queued by the bound on what is unconfirmed. `wire` returns nothing for a packet that the server
    turned out to have: an earlier socket may have brought it.
    """

    def __init__(
        self,
        wire: Callable[[int], bytes | None],
        report: Callable[[bool | JsonObject | Closed | EdgeError], None],
        fail: Callable[[EdgeError], None],
        load: Callable[[int, int], Awaitable[None]] | None = None,
        gate: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._wire = wire
        self._load = load
        self._gate = gate
        self._report = report
        self._fail = fail
        self._items: deque[Item] = deque()
        self._ahead: deque[Item] = deque()
        self._has_items = asyncio.Event()
        self._socket: Socket | None = None
        self._is_left = False
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._after: asyncio.Task[None] | None = None

    @property
    def local_address(self) -> str:
        """The source address of the socket; "" before there is one."""
        return self._socket.local_address if self._socket is not None else ""

    def open(self, dial: Dialer, session_id: str, after: asyncio.Task[None] | None) -> None:
        """Dial once the socket `after` is really gone: one socket at a time."""
        self._after = after
        self._task = asyncio.create_task(self._run(dial, session_id), name="socket")

    def send(self, item: Item, *, ahead: bool = False) -> None:
        """Queue a JSON text, or the packets (first, last). `ahead`: before the next packet becomes bytes."""
        (self._ahead if ahead else self._items).append(item)
        self._has_items.set()

    def leave(self, *, abort: bool) -> asyncio.Task[None]:
        """Report nothing more, and close; the task ends when the socket is gone."""
        self._is_left = True
        return asyncio.create_task(self._close(abort), name="socket-close")

    async def _close(self, abort: bool) -> None:
        if self._writer is not None:
            self._writer.cancel()
        if self._socket is not None:
            try:
                if not abort:
                    await self._socket.close()
            finally:
                self._socket.abort()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._after is not None:
            await asyncio.wait([self._after])

    async def _run(self, dial: Dialer, session_id: str) -> None:
        if self._after is not None:
            await asyncio.wait([self._after])
        try:
            self._socket = await dial(session_id)
        except EdgeError as error:
            self._tell(error)
            return
        except Exception as error:  # noqa: BLE001  (whatever a library raises is no reason to lose audio)
            self._tell(Unreachable(f"connecting failed: {type(error).__name__}"))
            return
        self._tell(True)
        writer = self._writer = asyncio.create_task(self._write(self._socket), name="socket-write")
        try:
            while not isinstance(message := await self._socket.receive(), Closed):
                self._tell(message)
            self._tell(message)
        except Exception as error:  # noqa: BLE001  (as above)
            self._tell(Closed(1006, type(error).__name__))
        finally:
            writer.cancel()
            self._socket.abort()

    async def _write(self, socket: Socket) -> None:
        try:
            while True:
                await self._has_items.wait()
                self._has_items.clear()
                while self._ahead or self._items:
                    item = (self._ahead or self._items).popleft()
                    if isinstance(item, str):
                        await socket.send(item)
                        continue
                    first, last = item
                    packet = await self._packet(first, last)
                    if packet is None:
                        socket.abort()  # it was lost on the card: the next attempt leaves it out
                        return
                    if first < last:
                        self._items.appendleft((first + 1, last))
                    if packet:
                        await socket.send(packet)
        except EdgeError as error:
            if not self._is_left:
                self._fail(error)
        except ConnectionError:
            pass  # the reader reports how the socket ended
        except Exception:  # noqa: BLE001  (as above)
            socket.abort()  # so that the reader does

    async def _packet(self, first: int, last: int) -> bytes | None:
        """Packet `first`; what follows up to `last` is read ahead where that is worth it. None: it is lost."""
        if self._gate is not None:
            await self._gate()
        packet = self._wire(first)
        if packet is None and self._load is not None:
            await self._load(first, min(last, first + AHEAD_PACKETS - 1))
            packet = self._wire(first)
        return packet

    def _tell(self, what: bool | JsonObject | Closed | EdgeError) -> None:
        if not self._is_left:
            self._report(what)
