"""One socket and its two tasks: order, endings, and never two sockets at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edge.errors import ConfigError, EdgeError, InternalError, ServerRefused, Unreachable
from edge.runtime.channel import Channel
from edge.runtime.ports import Closed, JsonObject
from tests.runtime.fakes import FakeServer, FakeSocket, now, simulate


class Rig:
    """A channel to a FakeServer, and all that it reports."""

    def __init__(self) -> None:
        self.server = FakeServer()
        self.server.sessions["s"] = "r"
        self.server.stored["r"] = []
        self.server.gaps["r"] = []
        self.heard: list[tuple[int, Any]] = []
        self.failed: list[EdgeError] = []
        self.wire: dict[int, bytes | EdgeError] = {}
        self.channels = 0

    def open(self, after: asyncio.Task[None] | None = None) -> Channel:
        self.channels += 1
        number = self.channels
        channel = Channel(self._wire, lambda what: self.heard.append((number, what)), self.failed.append)
        channel.open(self.server, "s", after)
        return channel

    def _wire(self, seq: int) -> bytes:
        made = self.wire.get(seq, b"")
        if isinstance(made, EdgeError):
            raise made
        return made

    def whats(self) -> list[Any]:
        return [what for _, what in self.heard]


async def settle() -> None:
    """Let everything that can happen at this moment happen."""
    for _ in range(20):
        await asyncio.sleep(0)


def text_only(rig: Rig) -> list[Any]:
    """The server takes anything and answers nothing."""
    said: list[Any] = []

    def take(socket: FakeSocket, message: JsonObject) -> bool:
        said.append(message)
        return True

    rig.server.on_text = take
    return said


def test_what_goes_ahead_comes_before_the_next_packet_that_becomes_bytes() -> None:
    async def main() -> None:
        rig = Rig()
        said = text_only(rig)
        made: list[int] = []
        stamp = b"old"

        def wire(seq: int) -> bytes:
            made.append(seq)
            return b"%d %s" % (seq, stamp)

        rig.server.hear = lambda socket, message: said.append(message)  # type: ignore[method-assign]
        channel = Channel(wire, lambda what: None, rig.failed.append)
        channel.open(rig.server, "s", None)
        await settle()
        rig.server.room = asyncio.Event()  # the socket takes nothing more
        channel.send((1, 4))
        channel.send("0")
        await settle()
        assert made == [1]
        stamp = b"new"
        channel.send("1", ahead=True)
        channel.send("2", ahead=True)
        rig.server.room.set()
        await settle()
        assert said == [b"1 old", 1, 2, b"2 new", b"3 new", b"4 new", 0]
        channel.send("3", ahead=True)  # and where nothing waits
        await settle()
        assert said[-1] == 3
        await channel.leave(abort=True)

    simulate(main())


def test_it_reports_the_handshake_the_messages_and_the_end() -> None:
    async def main() -> None:
        rig = Rig()
        rig.open()
        await settle()
        rig.server.sockets[0].tell({"type": "pong"})
        rig.server.sockets[0].end(1012, "replaced")
        await settle()
        hello = {"type": "hello", "session_id": "s", "acks": True, "next_seq": 1}
        assert rig.whats() == [True, hello, {"type": "pong"}, Closed(1012, "replaced")]
        assert rig.server.in_use == set()

    simulate(main())


def test_texts_and_packets_go_out_in_the_order_of_sending_even_those_queued_before_the_handshake() -> None:
    async def main() -> None:
        rig = Rig()
        said = text_only(rig)
        channel = rig.open()
        channel.send('{"n": 1}')
        channel.send('{"n": 2}')
        await settle()
        channel.send('{"n": 3}')
        await settle()
        assert said == [{"n": 1}, {"n": 2}, {"n": 3}]

    simulate(main())


@pytest.mark.parametrize("error", [Unreachable("no"), ServerRefused("no"), ConfigError("token file is gone")])
def test_a_failed_dial_is_reported_as_it_is(error: EdgeError) -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.refuse_dial.append(error)
        rig.open()
        await settle()
        assert rig.whats() == [error]

    simulate(main())


def test_whatever_a_library_raises_at_a_dial_is_unreachable_and_quotes_nothing() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.refuse_dial.append(RuntimeError("ws://host/?token=secret"))  # type: ignore[arg-type]
        rig.open()
        await settle()
        [error] = rig.whats()
        assert isinstance(error, Unreachable)
        assert "secret" not in str(error)
        assert "RuntimeError" in str(error)

    simulate(main())


def test_a_reader_that_breaks_is_a_lost_connection() -> None:
    async def main() -> None:
        rig = Rig()
        rig.open()
        await settle()

        async def broken() -> Closed:
            raise RecursionError

        socket = rig.server.sockets[0]
        socket.receive = broken  # type: ignore[method-assign]
        socket.tell({"type": "x"})
        await settle()
        assert rig.whats()[-1] == Closed(1006, "RecursionError")
        assert rig.server.in_use == set()

    simulate(main())


@pytest.mark.parametrize("abort", [True, False])
def test_after_leave_nothing_is_reported(abort: bool) -> None:
    async def main() -> None:
        rig = Rig()
        channel = rig.open()
        await settle()
        rig.server.sockets[0].tell({"type": "late"})
        leaving = channel.leave(abort=abort)
        await leaving
        await settle()
        assert rig.whats()[2:] == []
        assert rig.server.in_use == set()
        assert rig.server.sockets[0].was_aborted is abort

    simulate(main())


def test_leave_during_a_dial_ends_the_dial() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.dial_takes = 8.0
        channel = rig.open()
        await asyncio.sleep(1.0)
        since = now()
        await channel.leave(abort=False)
        assert now() == since
        assert rig.server.in_use == set()
        assert rig.whats() == []

    simulate(main())


def test_leave_before_the_dial_began() -> None:
    async def main() -> None:
        rig = Rig()
        channel = rig.open()
        await channel.leave(abort=True)
        await settle()
        assert rig.server.sockets == []
        assert rig.whats() == []

    simulate(main())


def test_leave_in_the_moment_in_which_the_dial_succeeds() -> None:
    """Whichever of the two comes first in that moment: no socket is left open."""

    async def main(turns: int) -> None:
        rig = Rig()
        channel = rig.open()
        for _ in range(turns):
            await asyncio.sleep(0)
        await channel.leave(abort=False)
        await settle()
        assert rig.server.in_use == set(), turns

    for turns in range(8):
        simulate(main(turns))


def test_the_next_socket_waits_for_the_slow_close_of_the_one_before() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.close_takes = 2.0
        first = rig.open()
        await settle()
        leaving = first.leave(abort=False)
        since = now()
        rig.open(leaving)
        await asyncio.sleep(1.9)
        assert len(rig.server.sockets) == 1
        await asyncio.sleep(0.2)
        assert len(rig.server.sockets) == 2
        assert now() - since < 2.2
        assert rig.server.most_in_use == 1

    simulate(main())


def test_a_chain_of_sockets_left_at_once_is_one_socket_at_a_time() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.close_takes = 1.0
        leaving: asyncio.Task[None] | None = None
        for _ in range(4):
            channel = rig.open(leaving)
            leaving = channel.leave(abort=False)
        rig.open(leaving)
        await asyncio.sleep(10.0)
        assert rig.server.most_in_use == 1
        assert len(rig.server.in_use) == 1

    simulate(main())


def test_the_late_close_of_an_old_socket_does_not_reach_the_new_one() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.close_takes = 1.0
        first = rig.open()
        await settle()
        leaving = first.leave(abort=False)
        rig.open(leaving)
        rig.server.sockets[0].end(1011, "late")
        await asyncio.sleep(3.0)
        assert [what for number, what in rig.heard if isinstance(what, Closed)] == []
        assert rig.server.sockets[1].is_open

    simulate(main())


def test_once_left_a_writer_stops_so_that_the_close_comes_next() -> None:
    """A packet behind the close would break it, and an orderly end is what loses nothing."""

    async def main() -> None:
        rig = Rig()
        said = text_only(rig)
        rig.server.room = asyncio.Event()
        rig.server.close_takes = 1.0
        channel = rig.open()
        for number in range(3):
            channel.send(f'{{"n": {number}}}')
        await settle()
        leaving = channel.leave(abort=False)
        await settle()
        rig.server.room.set()
        await leaving
        assert said == []
        assert not rig.server.sockets[0].was_aborted

    simulate(main())


def test_a_close_that_raises_still_frees_the_socket() -> None:
    async def main() -> None:
        rig = Rig()
        channel = rig.open()
        await settle()
        socket = rig.server.sockets[0]

        async def broken() -> None:
            raise OSError("no")

        socket.close = broken  # type: ignore[method-assign]
        leaving = channel.leave(abort=False)
        await asyncio.wait([leaving])
        leaving.exception()
        assert socket.was_aborted
        assert rig.server.in_use == set()

    simulate(main())


def test_a_packet_that_cannot_be_made_fails_the_delivery() -> None:
    async def main() -> None:
        rig = Rig()
        rig.wire[1] = InternalError("not in the ring")
        channel = rig.open()
        channel.send((1, 2))
        await settle()
        assert [str(error) for error in rig.failed] == ["not in the ring"]

    simulate(main())


def test_but_not_once_it_was_left() -> None:
    """Its packets may be delivered and freed by then, through the next socket."""

    async def main() -> None:
        rig = Rig()
        rig.wire[2] = InternalError("not in the ring")
        rig.server.close_takes = 1.0
        channel = rig.open()
        await settle()
        leaving = channel.leave(abort=False)
        channel.send((2, 2))
        await leaving
        assert rig.failed == []

    simulate(main())


def test_a_write_into_an_ended_socket_is_the_readers_business() -> None:
    async def main() -> None:
        rig = Rig()
        channel = rig.open()
        await settle()
        rig.server.sockets[0].end(1006, "reset")
        channel.send('{"n": 1}')
        await settle()
        assert rig.whats()[-1] == Closed(1006, "reset")
        assert rig.failed == []

    simulate(main())


def test_a_write_that_breaks_ends_the_socket() -> None:
    async def main() -> None:
        rig = Rig()

        async def admit(socket: FakeSocket) -> None:
            raise RuntimeError("transport")

        rig.server.admit = admit  # type: ignore[method-assign]
        channel = rig.open()
        channel.send('{"n": 1}')
        await settle()
        assert rig.whats()[-1] == Closed(1006, "gone")
        assert rig.server.in_use == set()

    simulate(main())
