"""The fault proxy: each fault as the two ends see it, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress

import pytest

from tests.rig.process import ReservedPort
from tests.rig.proxy import FaultProxy

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
REQUEST = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"
SOON = 5.0
REFUSED = (ConnectionError, asyncio.IncompleteReadError)
DIALLED: list[asyncio.StreamWriter] = []


class Server:
    """Sends back what it gets; keeps its ends of the connections."""

    def __init__(self) -> None:
        self.ends: asyncio.Queue[str] = asyncio.Queue()
        self.got = bytearray()
        self.news = asyncio.Condition()
        self.open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.open[writer] = asyncio.current_task()
        try:
            while data := await reader.read(65536):
                async with self.news:
                    self.got += data
                    self.news.notify_all()
                writer.write(data)
                await writer.drain()
            await self.ends.put("fin")
        except ConnectionError:
            await self.ends.put("rst")
        finally:
            writer.close()

    async def close(self) -> None:
        """End what is still open."""
        await gone(self.open)
        await asyncio.gather(*(task for task in self.open.values() if task is not None))


async def gone(writers: Iterable[asyncio.StreamWriter]) -> None:
    """End connections and wait for their ends."""
    for writer in list(writers):
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def scene() -> AsyncIterator[tuple[Server, FaultProxy]]:
    """An echo server and a proxy before it."""
    server = Server()
    listener = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    try:
        async with FaultProxy(listener.sockets[0].getsockname()[1]) as proxy:
            yield server, proxy
    finally:
        listener.close()
        await server.close()
        await gone(DIALLED)
        DIALLED.clear()


async def dial(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client; the scene ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    DIALLED.append(writer)
    return reader, writer


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bytes:
    """Send, and wait for as many bytes."""
    writer.write(data)
    async with asyncio.timeout(SOON):
        return await reader.readexactly(len(data))


async def silent(reader: asyncio.StreamReader, seconds: float = 0.2) -> bool:
    """Whether nothing comes, not even an end."""
    try:
        async with asyncio.timeout(seconds):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


def check(part: Callable[[Server, FaultProxy], Awaitable[None]]) -> None:
    """Run one test in a fresh scene."""

    async def whole() -> None:
        async with scene() as (server, proxy):
            await part(server, proxy)

    asyncio.run(whole())


def test_bytes_and_orderly_ends_pass_unchanged() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        reader, writer = await dial(proxy)
        data = bytes(range(256)) * 20000
        assert await echo(reader, writer, data) == data
        writer.write_eof()
        async with asyncio.timeout(SOON):
            assert await reader.read() == b""
            assert await server.ends.get() == "fin"
        assert proxy.counters.bytes_up == proxy.counters.bytes_down == len(data)
        assert proxy.counters.connections == 1

    check(part)


def test_reset_reaches_both_ends() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        reader, writer = await dial(proxy)
        await echo(reader, writer, b"x")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        async with asyncio.timeout(SOON):
            assert await server.ends.get() == "rst"
        assert [event.kind for event in proxy.timeline] == ["reset"]
        assert abs(proxy.timeline[0].at - time.monotonic()) < SOON

    check(part)


def test_a_reset_of_the_client_reaches_the_server() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        reader, writer = await dial(proxy)
        await echo(reader, writer, b"x")
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        async with asyncio.timeout(SOON):
            assert await server.ends.get() == "rst"

    check(part)


def test_a_server_that_is_down_is_a_reset() -> None:
    async def part() -> None:
        port = ReservedPort()
        async with FaultProxy(port.number) as proxy:
            with pytest.raises(REFUSED):
                await echo(*await dial(proxy), b"x")
        port.close()

    asyncio.run(part())


def test_a_stall_holds_everything_and_then_passes_it_on() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        old = await dial(proxy)
        await echo(*old, b"a")
        proxy.stall()
        new = await dial(proxy)
        for end, data in ((old, b"b"), (new, b"c")):
            end[1].write(data)
            assert await silent(end[0])
        assert bytes(server.got) == b"a"
        proxy.resume()
        async with asyncio.timeout(SOON):
            assert await old[0].readexactly(1) == b"b"
            assert await new[0].readexactly(1) == b"c"

    check(part)


def test_a_stall_of_open_connections_leaves_new_ones_alone() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        old = await dial(proxy)
        await echo(*old, b"a")
        proxy.stall(everything=False)
        assert await echo(*await dial(proxy), b"c") == b"c"
        old[1].write(b"b")
        assert await silent(old[0])

    check(part)


def test_what_fell_into_a_black_hole_stays_there_and_no_end_learns_of_it() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        old = await dial(proxy)
        await echo(*old, b"a")
        proxy.stall()
        old[1].write(b"b")
        proxy.blackhole()
        assert await silent(old[0])
        proxy.resume()
        proxy.reset()
        assert await silent(old[0])
        assert bytes(server.got) == b"a"
        old[1].close()
        assert await echo(*await dial(proxy), b"c") == b"c"
        assert server.ends.empty()  # half-open: the server still has the first one

    check(part)


@pytest.mark.parametrize("how", ["closed", "reset"])
def test_refusal_leaves_open_connections_alone(how: str) -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        old = await dial(proxy)
        await echo(*old, b"a")
        proxy.refuse("closed" if how == "closed" else "reset")
        with pytest.raises(REFUSED):
            await echo(*await dial(proxy), b"x")
        assert await echo(*old, b"b") == b"b"
        await proxy.admit()
        assert await echo(*await dial(proxy), b"c") == b"c"

    check(part)


def test_latency_and_a_narrow_line() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        end = await dial(proxy)
        await echo(*end, b"a")
        proxy.latency_s = 0.1
        begun = time.monotonic()
        await echo(*end, b"b")
        assert time.monotonic() - begun >= 0.2
        proxy.latency_s = 0.0
        proxy.bytes_per_s = 100_000
        begun = time.monotonic()
        assert await echo(*end, bytes(20_000)) == bytes(20_000)
        assert time.monotonic() - begun >= 0.15

    check(part)


def test_one_socket_at_a_time_is_told_from_two() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        first = await dial(proxy)
        await echo(*first, UPGRADE)
        await echo(*await dial(proxy), REQUEST)  # plain HTTP does not count
        assert proxy.counters.websockets_at_once == proxy.websockets_open() == 1
        first[1].close()
        second = await dial(proxy)
        await echo(*second, UPGRADE)
        assert proxy.counters.websockets == 2
        assert not proxy.counters.too_many
        third = await dial(proxy)
        await echo(*third, UPGRADE)
        assert proxy.counters.websockets_at_once == 2
        assert len(proxy.counters.too_many) == 1

    check(part)


def test_a_socket_that_the_client_let_go_during_a_stall_is_not_open() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        first = await dial(proxy)
        await echo(*first, UPGRADE)
        proxy.stall(everything=False)
        first[1].transport.abort()
        second = await dial(proxy)
        await echo(*second, UPGRADE)
        assert proxy.counters.websockets_at_once == 1

    check(part)


def test_an_upgrade_in_pieces_is_recognised() -> None:
    async def part(server: Server, proxy: FaultProxy) -> None:
        end = await dial(proxy)
        for offset in range(0, len(UPGRADE), 9):
            await echo(*end, UPGRADE[offset : offset + 9])
        assert proxy.counters.websockets == 1

    check(part)


def test_a_reserved_port_is_refused_until_somebody_listens_and_again_after() -> None:
    port = ReservedPort()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port.number), timeout=SOON)
        listener = port.listener()
        socket.create_connection(("127.0.0.1", port.number), timeout=SOON).close()
        listener.close()
    port.close()
