"""One TCP connection: its options, and the race between the addresses of a server, of which some are dead."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge.adapters.wire import Connector, tcp
from edge.adapters.wire.names import Address
from edge.errors import Unreachable
from tests.adapters.hostile import BOUND_S, RawServer
from tests.adapters.wire.peers import server


def at(host: str, port: int) -> Address:
    [found] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return found  # type: ignore[return-value]


@pytest.fixture
def dead() -> Iterator[int]:
    """A port of ::1 that does not answer a SYN, as where IPv6 ends somewhere on the way: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET6))
        listener.bind(("::1", 0))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket(socket.AF_INET6))
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def open_sockets() -> int:
    return sum(Path(entry).is_socket() for entry in Path("/proc/self/fd").iterdir())


async def test_what_a_dead_path_is_noticed_by() -> None:
    async with asyncio.timeout(BOUND_S), RawServer(server) as peer:
        with await Connector(peer.url).connect(10.0) as sock:
            options = {
                name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in (
                    "TCP_NODELAY", "TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT",
                    "TCP_NOTSENT_LOWAT",
                )
            }  # fmt: skip
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert sock.getblocking() is False
    assert options == {
        "TCP_NODELAY": 1,
        "TCP_USER_TIMEOUT": 20_000,
        "TCP_KEEPIDLE": 10,
        "TCP_KEEPINTVL": 5,
        "TCP_KEEPCNT": 3,
        "TCP_NOTSENT_LOWAT": 16384,
    }


async def test_ipv6_that_is_dead_does_not_hold_up_ipv4(dead: int) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await tcp.connect([at("::1", dead)])
    async with asyncio.timeout(BOUND_S), RawServer(server) as peer:
        living = at("127.0.0.1", int(peer.url.rpartition(":")[2]))
        before = open_sockets()
        with await tcp.connect([at("::1", dead), living]) as sock:
            assert sock.getpeername() == living[4]
            assert open_sockets() <= before + 2  # ours, and the server's: the one that lost the race is closed
        while peer.still_open:
            await asyncio.sleep(0)
        assert peer.connections == 1


async def test_the_first_in_the_list_wins_where_it_lives() -> None:
    async with asyncio.timeout(BOUND_S), RawServer(server, host="::1") as six, RawServer(server) as four:
        addresses = [at("::1", int(six.url.rpartition(":")[2])), at("127.0.0.1", int(four.url.rpartition(":")[2]))]
        with await tcp.connect(addresses) as sock:
            assert sock.family == socket.AF_INET6
        assert four.connections == 0


async def test_addresses_that_refuse_are_passed_over() -> None:
    async with asyncio.timeout(BOUND_S), RawServer(server) as peer:
        living = at("127.0.0.1", int(peer.url.rpartition(":")[2]))
        with await tcp.connect([at("::1", 1), at("127.0.0.1", 1), living]) as sock:
            assert sock.getpeername() == living[4]


async def test_why_all_of_them_failed() -> None:
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(ConnectionRefusedError):
            await tcp.connect([at("::1", 1), at("127.0.0.1", 1)])
        # 240/4 is no address of anybody, and multicast none for TCP: each fails in its own way, one after the other.
        with pytest.raises(OSError) as caught:
            await tcp.connect([at("ff02::1", 1), at("127.0.0.1", 1)])
        assert caught.value.errno == errno.ECONNREFUSED


async def test_an_attempt_that_is_cancelled_leaves_no_socket(dead: int) -> None:
    before = open_sockets()
    assert before >= 9  # those of the fixture
    connecting = asyncio.create_task(tcp.connect([at("::1", dead), at("::1", dead)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait([connecting])
    assert open_sockets() == before


async def test_a_server_that_does_not_answer_is_given_up_in_time(dead: int) -> None:
    connector = Connector(f"http://[::1]:{dead}")
    async with asyncio.timeout(BOUND_S):
        with pytest.raises(Unreachable, match="no answer in time"):
            await connector.connect(0.3)


async def test_a_zone_that_is_no_interface_here() -> None:
    with pytest.raises(Unreachable, match="there is no way to fe80::1%nowhere"):
        await Connector("http://[fe80::1%25nowhere]:80").connect(1.0)
