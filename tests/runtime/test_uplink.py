"""The uplink in simulated time: when it tries, how it counts, what it survives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from edge.core.packet import decode_header
from edge.core.ring import Ring
from edge.core.session import State
from edge.errors import EdgeError, InternalError, NameFailure, ServerRefused, Unreachable
from edge.runtime.attempts import NAME_DELAY_S, PROBE_S, RetryPolicy
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.ports import JsonObject
from tests.runtime.fakes import PACKET, FakeClock, FakeServer, FakeSocket, Feed, Line, joined, now, simulate, wire


def deliver(line: Line, feed: Feed) -> asyncio.Task[None]:
    return asyncio.create_task(line.uplink.deliver(feed.recording))


async def whole(line: Line, feed: Feed, delivering: asyncio.Task[None]) -> None:
    """Everything arrived once, and was given back."""
    await delivering
    assert line.server.audio(feed.recording.recording_id) == feed.given
    assert feed.ledger.delivered_frames == feed.ledger.stored == feed.ring.tail
    assert line.server.in_use == set()
    assert line.server.most_in_use == 1


def test_it_delivers_what_comes_in_and_ends_with_the_recording() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()
        delivering = deliver(line, feed)
        for _ in range(50):
            feed.talk(777)
            await asyncio.sleep(0.05)
        feed.lose(500, "xrun")
        feed.talk(3333)
        feed.lose(70, "microphone")
        feed.end()
        await whole(line, feed, delivering)
        assert line.states() == ["connecting", "connected", "disconnected"]
        assert line.server.gaps["r"] == [(26, 500, "xrun"), (29, 70, "microphone")]
        assert feed.recording.session_ids == ["session-1"]
        assert line.server.duplicates == 0

    simulate(main())


def test_every_packet_is_stamped_by_the_clock_that_was_told_last() -> None:
    """Also those that waited for the socket when the clock was set."""

    async def main() -> None:
        line = Line()
        feed = line.feed()
        clock = FakeClock(0.0, trusted=False)
        watching = ClockWatch(clock, lambda happening: None)
        watching.on_change = line.uplink.clock_changed
        watching.follow(feed.timebase)
        heard: list[tuple[float, int]] = []  # offset told last, packet
        told: list[JsonObject] = []

        def on_text(socket: FakeSocket, message: JsonObject) -> bool:
            if message.get("type") == "clock":
                told.append(message)
            return False

        def on_packet(socket: FakeSocket, seq: int) -> None:
            wire = socket.sent[-1]
            assert isinstance(wire, bytes)
            stamp_s = decode_header(wire).captured_unix_ms / 1000
            assert stamp_s == pytest.approx(told[-1]["utc_s"] - told[-1]["boot_s"] + (seq - 1) * 0.1, abs=1e-3)
            heard.append((told[-1]["utc_s"] - told[-1]["boot_s"], seq))

        line.server.on_text, line.server.on_packet = on_text, on_packet
        delivering = deliver(line, feed)
        await asyncio.sleep(1)
        feed.talk(5 * PACKET)
        await asyncio.sleep(1)
        line.server.room = asyncio.Event()
        feed.talk(10 * PACKET)
        await asyncio.sleep(0.1)
        clock.set(1.7e9, trusted=True)
        watching.look()
        line.server.room.set()
        line.server.room = None
        await asyncio.sleep(1)
        line.server.is_down = True
        line.server.sockets[0].end(1006)
        await asyncio.sleep(0.1)
        line.server.is_down = False
        clock.set(1.8e9, trusted=True)
        watching.look()
        feed.talk(3 * PACKET)
        await asyncio.sleep(5)
        feed.end()
        await delivering
        watching.on_change()  # nothing is under delivery: nobody to tell
        assert [(message["trusted"], message.get("was_utc_minus_boot_s")) for message in told] == [
            (False, None),
            (True, 0.0),
            (True, 1.7e9),
        ]
        # Packet 6 was bytes already when the clock was set.
        assert [seq for offset, seq in heard if offset < 1e9] == [1, 2, 3, 4, 5, 6]
        assert [seq for offset, seq in heard if offset > 1.75e9] == [16, 17, 18]
        assert len(heard) == 18

    simulate(main())


def test_an_empty_recording_needs_no_server() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()
        feed.end()
        await deliver(line, feed)
        assert line.server.times == []

    simulate(main())


# --- when to try again -----------------------------------------------------------------------------------------------


def test_backoff_doubles_up_to_its_bound_with_jitter_then_fails_and_probes_each_minute() -> None:
    async def main() -> None:
        line = Line()
        line.server.is_down = True
        feed = line.feed()
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(600)
        delays = line.delays()
        for delay, wanted in zip(delays[:9], [1, 2, 4, 8, 16, 30, 30, 30, 30], strict=True):
            assert 0.9 * wanted <= delay <= 1.1 * wanted
        assert len({round(delay / wanted, 6) for delay, wanted in zip(delays[:5], [1, 2, 4, 8, 16], strict=True)}) > 1
        assert set(delays[9:]) == {PROBE_S}
        assert len(delays) > 12
        assert line.states() == ["connecting", "failed"]
        failed_after = next(i for i, (_, h) in enumerate(line.told) if h.detail and h.detail.get("new") == "failed")
        assert len([h for _, h in line.told[:failed_after] if h.kind == "waiting"]) == 9
        failure = line.uplink.session and line.uplink.session.failure
        assert isinstance(failure, Unreachable)
        assert "(10 attempts)" in str(failure)
        line.server.is_down = False
        feed.end()
        await whole(line, feed, delivering)

    simulate(main())


def test_attempts_are_as_many_as_asked_for() -> None:
    async def main() -> None:
        line = Line(retry=RetryPolicy(max_attempts=1, initial_delay=0.5, max_delay=0.5))
        line.server.is_down = True
        feed = line.feed()
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(1.0)
        assert line.uplink.state is State.FAILED
        assert line.delays() == [PROBE_S]
        await joined([delivering])

    simulate(main())


async def back(line: Line) -> float:
    """Seconds from the end of an outage to the connection."""
    line.server.is_down, since = False, now()
    while line.states()[-1] != "connected":
        await asyncio.sleep(0.01)
    return now() - since


@pytest.mark.parametrize("was_connected", [False, True])
def test_a_dead_name_service_uses_up_no_attempt_and_is_asked_again_at_once(was_connected: bool) -> None:
    async def main() -> None:
        line = Line()
        line.server.outage = NameFailure("the name cannot be resolved")
        line.server.is_down = not was_connected
        feed = line.feed()
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(1.0)
        if was_connected:
            assert line.uplink.state is State.CONNECTED
            line.server.is_down = True
            line.server.sockets[-1].end(1006)
        await asyncio.sleep(300.0)
        assert line.states()[-1] == ("reconnecting" if was_connected else "connecting")
        assert set(line.delays()[1:]) == {NAME_DELAY_S}
        assert len(line.delays()) > 500
        waiting = [h.detail for _, h in line.told if h.kind == "waiting" and h.detail]
        assert waiting[-1]["attempt"] <= 2
        assert waiting[-1]["trouble"] == "dns"
        assert await back(line) < 1.0
        *_, connected = (h.detail for _, h in line.told if h.kind == "state")
        assert connected == {"old": line.states()[-2], "new": "connected"}
        feed.end()
        await whole(line, feed, delivering)

    simulate(main())


def test_a_name_that_does_not_exist_uses_up_the_attempts_and_is_still_asked_for() -> None:
    async def main() -> None:
        line = Line()
        line.server.outage = NameFailure("the name cannot be resolved", is_answer=True)
        line.server.is_down = True
        feed = line.feed()
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(20.0)
        assert line.uplink.state is State.FAILED
        *_, failed = (h for _, h in line.told if h.kind == "state")
        assert failed.detail == {"old": "connecting", "new": "failed", "trouble": "dns"}
        assert "dns: the name cannot be resolved (10 attempts)" in failed.text
        assert set(line.delays()) == {NAME_DELAY_S}
        assert await back(line) < 1.0
        feed.end()
        await whole(line, feed, delivering)

    simulate(main())


@pytest.mark.parametrize("refusal", ["agent", "409", "token"])
def test_a_refusal_is_failed_at_once_shown_and_probed_slowly(refusal: str) -> None:
    async def main() -> None:
        line = Line()
        line.server.refuse_start.extend([ServerRefused(refusal)] * 3)
        feed = line.feed()
        feed.talk(PACKET)
        feed.end()
        delivering = deliver(line, feed)
        since = now()
        await asyncio.wait_for(line.uplink.refused(), 1.0)
        assert now() - since < 0.1
        assert line.uplink.state is State.FAILED
        session = line.uplink.session
        assert session is not None
        assert str(session.failure) == refusal
        await whole(line, feed, delivering)
        assert line.delays() == [PROBE_S] * 3
        assert now() - since == pytest.approx(3 * PROBE_S, abs=1.0)
        assert line.states() == ["connecting", "failed", "connected", "disconnected"]

    simulate(main())


def test_retry_cuts_the_wait_short_and_counts_from_one() -> None:
    async def main() -> None:
        line = Line()
        line.server.is_down = True
        feed = line.feed()
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(20)  # in the wait of 16 s
        before, since = len(line.server.times), now()
        line.uplink.retry_now("button")
        await asyncio.sleep(0.1)
        assert len(line.server.times) == before + 1
        assert line.server.times[-1] == since
        assert line.delays()[-1] == pytest.approx(1.0, rel=0.11)
        assert [h.detail["attempt"] for _, h in line.told if h.kind == "waiting" and h.detail][-1] == 2
        await joined([delivering])

    simulate(main())


@pytest.mark.parametrize("error", [ServerRefused("409"), Unreachable("no")])
def test_retry_reaches_the_slow_probes_too(error: EdgeError) -> None:
    async def main() -> None:
        line = Line(retry=RetryPolicy(max_attempts=2, initial_delay=1.0, max_delay=1.0))
        line.server.refuse_start.extend([error] * 2)
        feed = line.feed()
        feed.talk(PACKET)
        feed.end()
        delivering = deliver(line, feed)
        await asyncio.sleep(10)
        assert line.uplink.state is State.FAILED
        if isinstance(error, ServerRefused):
            line.server.refuse_start.clear()
        since = now()
        line.uplink.retry_now("link")
        await whole(line, feed, delivering)
        assert now() - since < 0.5

    simulate(main())


def test_a_retry_during_an_attempt_counts_as_soon_as_that_has_failed() -> None:
    """The network changed while a connect was still waiting on the old one."""

    async def main() -> None:
        line = Line()
        line.server.dial_takes = 8.0
        line.server.refuse_dial.append(Unreachable("no answer"))
        feed = line.feed()
        feed.talk(PACKET)
        feed.end()
        delivering = deliver(line, feed)
        await asyncio.sleep(5.0)
        line.uplink.retry_now("link")
        line.server.dial_takes = 0.0
        since = now()
        await whole(line, feed, delivering)
        assert now() - since < 3.1  # the rest of the old dial, and no backoff

    simulate(main())


def test_a_retry_while_all_is_well_does_not_spoil_a_later_wait() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(5)
        line.uplink.retry_now("link")
        line.server.is_down = True
        line.server.sockets[0].end(1006)
        await asyncio.sleep(5)
        assert "woken" not in line.kinds()
        await joined([delivering])

    simulate(main())


def test_a_server_that_takes_one_packet_and_hangs_up_is_not_dialled_in_a_tight_loop() -> None:
    async def main() -> None:
        line = Line()

        def hang_up(socket: FakeSocket, seq: int) -> None:
            asyncio.get_running_loop().call_soon(socket.end, 1006, "reset")

        line.server.on_packet = hang_up
        feed = line.feed()
        feed.talk(30 * PACKET)
        feed.end()
        delivering = deliver(line, feed)
        since = now()
        await whole(line, feed, delivering)
        assert now() - since >= len(line.server.sockets) - 2
        gaps = [b - a for a, b in zip(line.server.times, line.server.times[1:], strict=False) if b - a > 0.01]
        assert min(gaps) >= 0.99

    simulate(main())


def test_a_server_that_hangs_up_before_anything_is_handled_is_backed_off() -> None:
    async def main() -> None:
        line = Line()

        def hang_up(socket: FakeSocket, message: JsonObject) -> bool:
            socket.end(1006, "reset")
            return True

        line.server.on_text = hang_up
        feed = line.feed()
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(60)
        assert len(line.server.sockets) <= 7
        await joined([delivering])

    simulate(main())


def test_progress_starts_the_count_afresh() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()
        feed.talk(PACKET)
        line.server.refuse_start.extend([Unreachable("no")] * 4)
        delivering = deliver(line, feed)
        await asyncio.sleep(30)
        assert line.uplink.state is State.CONNECTED
        line.server.refuse_dial.append(Unreachable("no"))
        line.server.sockets[-1].end(1006, "reset")
        await asyncio.sleep(20)
        attempts = [h.detail["attempt"] for _, h in line.told if h.kind == "waiting" and h.detail]
        assert attempts == [2, 3, 4, 5, 2]
        feed.end()
        await whole(line, feed, delivering)

    simulate(main())


# --- moments ---------------------------------------------------------------------------------------------------------


def test_a_recording_that_ends_whole_while_the_next_attempt_is_spaced_out() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()
        delivering = deliver(line, feed)
        feed.talk(PACKET)
        await asyncio.sleep(0.2)
        assert feed.ledger.delivered == 1
        line.server.sockets[0].end(1006, "reset")
        await asyncio.sleep(0.1)
        feed.end()
        since = now()
        await whole(line, feed, delivering)
        assert now() == since

    simulate(main())


def test_a_recording_that_ends_whole_during_a_long_wait_ends_it() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()
        delivering = deliver(line, feed)
        feed.talk(PACKET)
        await asyncio.sleep(0.2)
        line.server.is_down = True
        line.server.sockets[0].end(1006, "reset")
        await asyncio.sleep(100)
        feed.end()
        since = now()
        await whole(line, feed, delivering)
        assert now() == since
        assert "all is delivered" not in str(line.told)

    simulate(main())


@pytest.mark.parametrize("turns", range(12))
def test_the_end_comes_at_any_moment_of_a_failing_attempt(turns: int) -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(0.2)
        line.server.is_down = True
        line.server.sockets[0].end(1006, "reset")
        for _ in range(turns):
            await asyncio.sleep(0)
        feed.end()
        since = now()
        await whole(line, feed, delivering)
        assert now() - since <= 1.0

    simulate(main())


def test_a_cancelled_delivery_lets_go_in_order_and_another_one_goes_on() -> None:
    async def main() -> None:
        line = Line()
        line.server.close_takes = 1.5
        feed = line.feed()
        feed.talk(20 * PACKET)
        line.server.acks = False
        delivering = deliver(line, feed)
        await asyncio.sleep(0.5)
        await joined([delivering])
        assert line.server.in_use == set()
        assert not line.server.sockets[0].was_aborted
        assert line.uplink.session is None
        assert feed.ledger.delivered == 0
        line.server.acks = True
        feed.end()
        await whole(line, feed, deliver(line, feed))
        assert line.server.duplicates == 0  # its hello said what it has

    simulate(main())


@pytest.mark.parametrize("at", [0.0, 0.5, 3.0, 8.5])
def test_cancelled_in_the_middle_of_a_dial_or_a_wait_it_ends_at_once(at: float) -> None:
    async def main() -> None:
        line = Line()
        line.server.dial_takes = 2.0
        line.server.refuse_dial.extend([Unreachable("no")] * 9)
        feed = line.feed()
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(at)
        since = now()
        await joined([delivering])
        assert now() - since < 0.1
        assert line.server.in_use == set()

    simulate(main())


def test_a_server_that_answers_nothing_is_left_in_time() -> None:
    async def main() -> None:
        line = Line()
        line.server.is_silent = True
        feed = line.feed()
        feed.talk(PACKET)
        feed.end()
        delivering = deliver(line, feed)
        await asyncio.sleep(10.5)
        assert line.server.sockets[0].was_aborted
        line.server.is_silent = False
        await whole(line, feed, delivering)

    simulate(main())


def test_a_peer_that_reads_nothing_is_left_in_time() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()
        delivering = deliver(line, feed)
        feed.talk(PACKET)
        await asyncio.sleep(1.0)
        line.server.room = asyncio.Event()
        feed.talk(50 * PACKET)
        await asyncio.sleep(12.0)
        assert line.server.sockets[0].was_aborted
        line.server.room = None
        feed.end()
        await whole(line, feed, delivering)

    simulate(main())


# --- once each -------------------------------------------------------------------------------------------------------


def test_acknowledged_while_still_queued_a_packet_is_not_sent_again() -> None:
    """An old socket's packets may be stored while the next one is already sending them again."""

    async def main() -> None:
        line = Line()
        server = line.server
        feed = line.feed()
        feed.talk(10 * PACKET)
        feed.end()
        delivering = deliver(line, feed)
        server.room = asyncio.Event()
        server.room.set()
        server.on_packet = lambda socket, seq: hold(socket) if seq == 2 else None

        def hold(socket: FakeSocket) -> None:
            server.room = asyncio.Event()
            stored = server.stored["r"]
            for number in range(len(stored) + 1, 10):
                packet = wire(feed.recording, number)
                stored.append((number, packet[32:]))
            socket.tell({"type": "ack", "seq": 9})

        await asyncio.sleep(0.5)
        assert feed.ledger.delivered == 9
        assert server.room is not None
        server.room.set()
        await whole(line, feed, delivering)
        sent = [message for message in server.sockets[0].sent if isinstance(message, bytes)]
        assert len(sent) in (3, 4)  # 1, 2, perhaps the one that was held, 10

    simulate(main())


def test_lost_while_still_queued_a_packet_holds_up_nothing() -> None:
    """Its bytes cannot be made any more, and nothing that was queued behind it may go out as if nothing was missing."""

    async def main() -> None:
        line = Line()
        server = line.server
        feed = line.feed()
        feed.talk(10 * PACKET)
        feed.end()
        delivering = deliver(line, feed)
        server.on_packet = lambda socket, seq: setattr(server, "room", asyncio.Event()) if seq == 2 else None
        await asyncio.sleep(0.5)
        assert server.room is not None
        feed.ledger.lose(5, 7, "card")
        line.uplink.supplied(feed.recording)
        server.on_packet = lambda socket, seq: None
        server.room.set()
        await delivering
        kept = feed.given[: 4 * 2 * PACKET] + feed.given[7 * 2 * PACKET :]
        assert server.audio("r") == kept
        assert [seq for seq, payload in server.stored["r"] if not payload] == [5, 6, 7]
        assert (feed.ledger.lost, feed.ledger.kept_frames) == ({"card": 3 * PACKET}, 0)
        assert len(server.sockets) == 2

    simulate(main())


@pytest.mark.parametrize("seed", range(12))
def test_faults_at_random_moments(seed: int) -> None:
    """Resets, refusals, silence, slow closes, retries: everything arrives once, one socket at a time."""

    async def main() -> None:
        chance = random.Random(seed)
        line = Line()
        server = line.server
        feed = Feed("r", 0, Ring(600 * PACKET, 2))
        feed.uplink = line.uplink
        delivering = deliver(line, feed)

        def on_packet(socket: FakeSocket, seq: int) -> None:
            if chance.random() < 0.02:
                socket.end(*chance.choice([(1006, "reset"), (1011, "gone"), (1012, "replaced"), (1000, "")]))

        server.on_packet = on_packet
        for _ in range(300):
            feed.talk(chance.choice([1, 800, PACKET, PACKET + 1]))
            if chance.random() < 0.05:
                feed.lose(chance.randrange(1, 4000), chance.choice(["xrun", "overflow"]))
            server.is_down = chance.random() < 0.2
            server.is_silent = chance.random() < 0.05
            server.close_takes = chance.choice([0.0, 0.3, 2.0])
            if chance.random() < 0.1:
                line.uplink.retry_now("link")
            if chance.random() < 0.03 and server.sessions:
                server.sessions.pop(next(iter(server.sessions)))  # it was restarted
                for socket in server.sockets:
                    socket.end(1006, "restart")
            await asyncio.sleep(chance.choice([0.0, 0.05, 0.1, 0.5]))
        server.is_down = server.is_silent = False
        server.on_packet = lambda socket, seq: None
        feed.end()
        await asyncio.wait_for(whole(line, feed, delivering), 300)
        assert sorted(server.gaps["r"]) == sorted((seq, frames, cause) for (seq, cause), frames in feed.gaps.items())

    simulate(main())


# --- what must not break it ------------------------------------------------------------------------------------------

HOSTILE: list[JsonObject] = [
    {"type": "pong"},
    {"type": "ack", "seq": 5},
    {"type": "ack", "seq": 2**32},
    {"type": "ack", "seq": "x"},
    {"type": "hello"},
    {"type": "hello", "acks": True, "next_seq": 0},
    {"type": "hello", "acks": True, "next_seq": 99999},
    {"type": "event", "event": "backpressure_reject"},
    {"type": "ping", "t": 1, "is_recording": False},
    {"type": "ping", "t": 1, "is_recording": True},
    {"type": "ping"},
    {"type": "status", "state": "RESUMED"},
    {"type": None},
    {},
]


@pytest.mark.parametrize("seed", range(20))
def test_no_message_at_any_moment_breaks_the_delivery(seed: int) -> None:
    async def main() -> None:
        chance = random.Random(f"hostile {seed}")
        line = Line()
        server = line.server
        original = server.__class__.__call__

        async def dial(session_id: str) -> Any:
            socket = await original(server, session_id)
            assert isinstance(socket, FakeSocket)
            if is_hostile:
                for _ in range(chance.randrange(4)):
                    socket._inbox.insert(chance.randrange(len(socket._inbox) + 1), dict(chance.choice(HOSTILE)))
            return socket

        line.uplink._dial = dial
        is_hostile = True
        feed = line.feed()
        delivering = deliver(line, feed)
        for _ in range(100):
            feed.talk(PACKET)
            for socket in server.sockets[-1:]:
                if chance.random() < 0.3:
                    socket.tell(dict(chance.choice(HOSTILE)))
            line.uplink.retry_now("test")
            await asyncio.sleep(chance.choice([0.0, 0.1, 1.5]))
            if delivering.done():
                delivering.result()
        is_hostile = False
        await joined([delivering])
        assert server.most_in_use == 1

    simulate(main())


class _Cursed(FakeServer):
    """Its requests raise what no port allows."""

    def __init__(self, curse: Callable[[], Exception]) -> None:
        super().__init__()
        self.curse: Callable[[], Exception] | None = curse

    async def start(self, settings: JsonObject) -> str:
        if self.curse is not None:
            raise self.curse()
        return await super().start(settings)


@pytest.mark.parametrize("curse", [RecursionError, ValueError, KeyError, AttributeError])
def test_whatever_a_request_raises_is_one_failed_attempt(curse: type[Exception]) -> None:
    async def main() -> None:
        server = _Cursed(curse)
        line = Line(server)
        feed = line.feed()
        feed.talk(PACKET)
        feed.end()
        delivering = deliver(line, feed)
        await asyncio.sleep(10)
        assert len(line.delays()) >= 3
        server.curse = None
        await whole(line, feed, delivering)

    simulate(main())


def test_a_bug_ends_the_delivery_with_its_place_and_without_its_text() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()

        def broken(offset: int) -> None:
            raise KeyError("token=secret")

        feed.recording.release = broken
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        with pytest.raises(InternalError, match=r"KeyError at test_uplink.py:\d+") as caught:
            await delivering
        assert "secret" not in str(caught.value)
        assert line.server.in_use == set()

    simulate(main())


def test_a_packet_that_cannot_be_read_ends_the_delivery_with_that() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()

        def unreadable(seq: int) -> bytes:
            raise EdgeError("the card is broken")

        feed.recording.wire = unreadable
        feed.talk(PACKET)
        with pytest.raises(EdgeError, match="the card is broken"):
            await deliver(line, feed)

    simulate(main())


def test_a_listener_that_raises_is_a_bug_and_no_standstill() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed()
        feed.talk(PACKET)

        def tell(happening: Any) -> None:
            raise BrokenPipeError

        line.uplink._tell = tell
        with pytest.raises((InternalError, BrokenPipeError)):
            await deliver(line, feed)

    simulate(main())


def test_the_sessions_settings_and_reconnects_are_known_to_the_recording() -> None:
    async def main() -> None:
        line = Line()
        feed = line.feed("b6a9")
        feed.talk(PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(1)
        line.server.sockets[0].end(1006, "reset")
        await asyncio.sleep(3)
        feed.talk(PACKET)
        feed.end()
        await whole(line, feed, delivering)
        assert feed.recording.reconnects == 1
        assert feed.recording.session_ids == ["session-1"]
        assert line.server.settings == [{"agent": "a", "event": "e", "recording": "b6a9"}]

    simulate(main())


def test_a_delivery_that_begins_anew_adds_to_what_was_there() -> None:
    """It made way for another recording, or a bug ended it: the account still names each session."""

    async def main() -> None:
        line = Line()
        feed = line.feed("b6a9")
        feed.talk(3 * PACKET)
        delivering = deliver(line, feed)
        await asyncio.sleep(1)
        line.server.sockets[0].end(1006, "reset")
        await asyncio.sleep(3)
        await joined([delivering])
        assert feed.recording.sent == 3
        delivering = deliver(line, feed)
        await asyncio.sleep(1)
        feed.talk(PACKET)
        feed.end()
        await whole(line, feed, delivering)
        assert feed.recording.session_ids == ["session-1", "session-2"]
        assert feed.recording.reconnects == 1
        assert feed.recording.sent == 4

    simulate(main())
