"""When a session is tried, and what is said of it: Attempts in simulated time with a real Session."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from edge.core import events
from edge.core.context import Phase
from edge.core.ledger import Ledger
from edge.core.link import Change
from edge.core.policy import Policy
from edge.core.session import Session, State
from edge.errors import EdgeError, NameFailure, ServerRefused, TokenRefused, Unreachable
from edge.runtime.attempts import NAME_DELAY_S, PROBE_S, Attempts, RetryPolicy
from edge.runtime.happening import Happening
from tests.runtime.fakes import MONO, PACKET, joined, now, simulate

DOWN = Unreachable("connection refused")
SPREAD_S = 120.0


class Tokens:
    """Gives `others`, one after another, where the server refuses what it gave first."""

    def __init__(self, *others: str) -> None:
        self.others = deque(others)
        self.current = "first"

    async def ready(self) -> str:
        return self.current

    async def retried(
        self, used: str, refusal: TokenRefused, again: Callable[[], Awaitable[EdgeError | None]]
    ) -> EdgeError | None:
        assert used == self.current
        if not self.others:
            return refusal
        self.current = self.others.popleft()
        return await again()

    def accepted(self) -> None:
        raise AssertionError("that is the uplink's to say")


class Rig:
    """Attempts with a session that has something to deliver. What becomes of an attempt the test says: `outcomes` first
    to last, then always the last one; None: it hangs until `connect` or `fail`."""

    def __init__(self, retry: RetryPolicy, *outcomes: EdgeError | None, tokens: Tokens | None = None) -> None:
        self.ledger = Ledger(PACKET, 0)
        self.ledger.capture(10 * PACKET)
        self.session = Session(self.ledger, Policy(MONO, PACKET))
        self.outcomes = deque(outcomes or [DOWN])
        self.told: list[tuple[float, Happening]] = []
        self.tried: list[float] = []
        self.moved = asyncio.Event()
        self.attempts = Attempts(retry, self._feed, lambda happening: self.told.append((now(), happening)), now, tokens)
        self.begun = now()

    def _feed(self, event: events.Event) -> None:
        if isinstance(event, events.Attempted):
            self.tried.append(round(now() - self.begun, 6))
        self._step(event)
        if isinstance(event, events.Attempted):
            outcome = self.outcomes.popleft() if len(self.outcomes) > 1 else self.outcomes[0]
            if outcome is not None:
                asyncio.get_running_loop().call_soon(self.fail, outcome)

    def _step(self, event: events.Event) -> None:
        for effect in self.session.handle(event, now()):
            if isinstance(effect, events.Over):
                self.attempts.ended(effect.error, effect.why, is_planned=effect.is_planned)
        self.moved.set()
        if self.session.phase is Phase.DONE:
            self.attempts.done()

    def fail(self, error: EdgeError) -> None:
        """What the attempt under way has failed of."""
        self._step(events.Failed(self.session.attempt, error))

    def connect(self) -> None:
        """The attempt under way brings a connection, and something is delivered on it."""
        number = self.session.attempt
        if self.session.phase is Phase.STARTING:
            self._step(events.Started(number, "session"))
        self._step(events.Opened(number))
        self._step(events.Hello(number, acks=True, next_seq=self.ledger.delivered + 1))
        if self.session.phase is Phase.INITIALISING:
            self._step(events.Pong(number))
        assert self.session.state is State.CONNECTED
        self._step(events.Ack(number, self.ledger.delivered + 1))

    def hang_up(self) -> None:
        """The connection ends."""
        self._step(events.SocketClosed(self.session.attempt, 1006, "reset"))

    def move(self) -> None:
        """There is a better path, and all is confirmed."""
        self._step(events.LinkChanged(Change.BETTER, "wlan0", is_carried=True, is_kept=True, has_path=True))
        self._step(events.Ack(self.session.attempt, self.ledger.last))

    def end(self) -> None:
        """The recording ends, and the server has all of it."""
        self.ledger.end()
        self.ledger.deliver(self.ledger.last)
        self._step(events.Supplied())

    @property
    def attempts_told(self) -> list[str]:
        return [happening.text for _, happening in self.told if happening.kind == "attempt"]

    @property
    def wakes_told(self) -> list[str]:
        return [happening.text for _, happening in self.told if happening.kind == "woken"]

    @property
    def waits(self) -> list[float]:
        """The announced ones."""
        return [h.detail["delay_s"] for _, h in self.told if h.kind == "waiting" and h.detail]


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[None]:
    task = asyncio.create_task(rig.attempts.run(rig.session, rig.moved))
    try:
        await asyncio.sleep(0.001)
        yield
        assert not task.done()
    finally:
        await joined([task])


def one_box(*outcomes: EdgeError | None, attempts: int = 10) -> Rig:
    return Rig(RetryPolicy(attempts, 1.0, 30.0), *outcomes)


def of_a_fleet(*outcomes: EdgeError | None) -> Rig:
    return Rig(RetryPolicy(10, 1.0, 30.0, SPREAD_S), *outcomes)


# --- wakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_wake_cuts_a_backoff_and_counts_from_one(is_asked: bool) -> None:
    async def main() -> None:
        rig = one_box()
        async with running(rig):
            await asyncio.sleep(20)  # in the wait of 16 s
            before = len(rig.tried)
            (rig.attempts.wake if is_asked else rig.attempts.wake_with_others)("the cable is back")
            await asyncio.sleep(0.001)
            assert rig.tried[before:] == [pytest.approx(20.001)]
            assert rig.wakes_told == ["trying now: the cable is back"]
            assert rig.attempts_told[-1] == "attempt 1: the cable is back"
            assert rig.waits[-1] == pytest.approx(1.0, rel=0.11)
            await asyncio.sleep(2)
            assert rig.attempts_told[-1].startswith("attempt 2: ")

    simulate(main())


def test_a_wake_right_behind_an_attempt_is_not_spaced_out() -> None:
    async def main() -> None:
        rig = one_box()
        async with running(rig):
            for _ in range(3):
                await asyncio.sleep(0.01)
                rig.attempts.wake("RETRY was pressed")
            await asyncio.sleep(0.001)
            assert len(rig.tried) == 4
            assert rig.wakes_told == ["trying now: RETRY was pressed"] * 3

    simulate(main())


def test_a_wake_during_an_attempt_counts_once_that_has_failed_and_no_wait_is_announced() -> None:
    async def main() -> None:
        rig = one_box(None, DOWN)
        async with running(rig):
            await asyncio.sleep(5)
            rig.attempts.wake("RETRY was pressed")
            await asyncio.sleep(5)
            assert len(rig.tried) == 1
            rig.fail(DOWN)
            await asyncio.sleep(0.001)
            assert len(rig.tried) == 2
            assert [h.kind for _, h in rig.told] == ["attempt", "woken", "attempt", "waiting"]
            assert rig.attempts_told == ["attempt 1: there is audio to deliver", "attempt 1: RETRY was pressed"]

    simulate(main())


def test_an_attempt_that_a_wake_follows_is_never_the_last_one() -> None:
    """The network came back while the last attempt was still waiting on the old one: that is no failure to show."""

    async def main() -> None:
        rig = one_box(DOWN, DOWN, None, None, attempts=3)
        async with running(rig):
            await asyncio.sleep(10)
            assert rig.session.phase is Phase.STARTING
            rig.attempts.wake_with_others("there is a way")
            rig.fail(Unreachable("there is a way"))
            await asyncio.sleep(0.001)
            assert rig.session.phase is Phase.STARTING
            rig.fail(DOWN)
            assert rig.session.state is State.CONNECTING
            assert [happening.kind for _, happening in rig.told].count("waiting") == 2

    simulate(main())


def test_the_slow_probes_are_cut_short_too() -> None:
    async def main() -> None:
        rig = one_box(ServerRefused("409"))
        async with running(rig):
            await asyncio.sleep(10)
            assert rig.session.state is State.FAILED
            rig.attempts.wake("RETRY was pressed")
            await asyncio.sleep(0.001)
            assert len(rig.tried) == 2
            assert rig.waits == [PROBE_S] * 2

    simulate(main())


def test_what_was_asked_for_while_all_was_well_is_no_news_of_a_later_loss() -> None:
    async def main() -> None:
        rig = of_a_fleet(None)
        async with running(rig):
            rig.connect()
            rig.attempts.wake("RETRY was pressed")
            await asyncio.sleep(3600)
            rig.hang_up()
            await asyncio.sleep(0.001)
            assert rig.wakes_told == []
            assert rig.waits[0] > 0
            assert len(rig.tried) == 1

    simulate(main())


def test_the_end_of_all_owed_audio_ends_the_wait_and_is_no_wake() -> None:
    async def main() -> None:
        rig = one_box()
        task = asyncio.create_task(rig.attempts.run(rig.session, rig.moved))
        await asyncio.sleep(20)
        tried = len(rig.tried)
        rig.end()
        await asyncio.wait_for(task, 0.001)
        assert len(rig.tried) == tried
        assert rig.wakes_told == []

    simulate(main())


def test_the_next_recording_is_tried_at_once_and_knows_nothing_of_the_wakes_before_it() -> None:
    async def main() -> None:
        rig = one_box(None)
        task = asyncio.create_task(rig.attempts.run(rig.session, rig.moved))
        await asyncio.sleep(0.001)
        rig.connect()
        rig.attempts.wake("RETRY was pressed")
        rig.end()
        rig.hang_up()
        await asyncio.wait_for(task, 0.001)
        rig.ledger = Ledger(PACKET, 0)
        rig.ledger.capture(PACKET)
        rig.session = Session(rig.ledger, Policy(MONO, PACKET))
        async with running(rig):
            assert len(rig.tried) == 2
            assert rig.attempts_told == ["attempt 1: there is audio to deliver"] * 2
            assert rig.wakes_told == []

    simulate(main())


# --- what is said ----------------------------------------------------------------------------------------------------


def test_each_attempt_and_each_wake_is_told_once_with_its_reason() -> None:
    async def main() -> None:
        rig = one_box(DOWN, DOWN, DOWN, None)
        async with running(rig):
            await asyncio.sleep(2)
            rig.attempts.wake_with_others("there is a way to the server: eth0")
            await asyncio.sleep(4)
            rig.connect()
            await asyncio.sleep(10)
            rig.hang_up()
            await asyncio.sleep(0.001)
            said = [happening.text for _, happening in rig.told if happening.kind in {"attempt", "woken"}]
            first, second, woken, third, fourth, fifth = said
            assert first == "attempt 1: there is audio to deliver"
            assert second.startswith("attempt 2: ")
            assert second.endswith(" s after the last")
            assert woken == "trying now: there is a way to the server: eth0"
            assert third == "attempt 1: there is a way to the server: eth0"
            assert fourth.startswith("attempt 2: ")
            assert fifth == "attempt 1: the connection was lost (1006 reset)"

    simulate(main())


def test_a_loss_that_brings_its_own_wake_is_one_telling() -> None:
    """The path moved, so the session drops its socket and the attempts are woken, in one go."""

    async def main() -> None:
        rig = one_box(None)
        async with running(rig):
            rig.connect()
            await asyncio.sleep(10)
            rig.hang_up()
            rig.attempts.wake_with_others("eth0 lost its carrier; the path is wwan0 now")
            await asyncio.sleep(0.001)
            assert rig.tried == [0.0, pytest.approx(10.001)]
            assert [happening.kind for _, happening in rig.told] == ["attempt", "attempt"]

    simulate(main())


def test_a_loss_right_behind_the_attempt_is_spaced_out_unless_it_brings_its_own_wake() -> None:
    async def main() -> None:
        for is_woken in (False, True):
            rig = one_box(None)
            async with running(rig):
                rig.connect()
                await asyncio.sleep(0.2)
                rig.hang_up()
                if is_woken:
                    rig.attempts.wake_with_others("the path is wwan0 now")
                await asyncio.sleep(0.001)
                assert len(rig.tried) == (2 if is_woken else 1)
                await asyncio.sleep(2)
                assert rig.tried[1] == pytest.approx(0.201 if is_woken else 1.0)

    simulate(main())


# --- a fleet ---------------------------------------------------------------------------------------------------------


def test_the_first_attempt_of_a_recording_is_not_spread() -> None:
    async def main() -> None:
        rig = of_a_fleet()
        async with running(rig):
            assert rig.tried == [0.0]
            await asyncio.sleep(4)
            assert len(rig.tried) == 3  # nor are those of its backoff

    simulate(main())


def quantiles(values: list[float]) -> list[float]:
    return sorted(values)[len(values) // 10 :: len(values) // 5]


@pytest.mark.parametrize("is_loss", [True, False])
def test_losses_and_wakes_by_the_link_are_spread_evenly(is_loss: bool) -> None:
    async def wait() -> float:
        rig = of_a_fleet(None) if is_loss else of_a_fleet(DOWN)
        async with running(rig):
            if is_loss:
                rig.connect()
                await asyncio.sleep(10)
                rig.hang_up()
            else:
                await asyncio.sleep(20)
                rig.attempts.wake_with_others("there is a way")
            since, before = now(), len(rig.tried)
            while len(rig.tried) == before:
                assert now() - since <= SPREAD_S
                await asyncio.sleep(0.1)
            (announced,) = [float(text.split()[2]) for text in rig.wakes_told] or rig.waits[-1:]
            assert now() - since == pytest.approx(announced, abs=0.7)
            return now() - since

    async def main() -> None:
        random.seed(4)
        waits = await asyncio.gather(*(wait() for _ in range(200)))
        assert quantiles(waits) == pytest.approx([12, 36, 60, 84, 108], abs=12)

    simulate(main())


def test_a_loss_that_brings_its_own_wake_is_spread_too() -> None:
    async def main() -> None:
        random.seed(4)
        rig = of_a_fleet(None)
        async with running(rig):
            rig.connect()
            await asyncio.sleep(10)
            rig.hang_up()
            rig.attempts.wake_with_others("eth0 has another address")
            await asyncio.sleep(0.001)
            assert len(rig.tried) == 1
            (woken,) = rig.wakes_told
            assert woken.endswith(" s (fleet_spread): eth0 has another address")
            await asyncio.sleep(SPREAD_S)
            assert len(rig.tried) == 2
            assert rig.attempts_told[-1] == "attempt 1: eth0 has another address"

    simulate(main())


def test_retry_cuts_through_the_spread() -> None:
    async def main() -> None:
        rig = of_a_fleet(None)
        async with running(rig):
            rig.connect()
            await asyncio.sleep(10)
            rig.hang_up()
            await asyncio.sleep(0.001)
            assert rig.waits[-1] > 1.0
            rig.attempts.wake("RETRY was pressed")
            await asyncio.sleep(0.001)
            assert len(rig.tried) == 2
            assert rig.wakes_told == ["trying now: RETRY was pressed"]
            assert rig.attempts_told[-1] == "attempt 1: RETRY was pressed"

    simulate(main())


def test_retry_while_the_connection_is_tested_is_not_spread_when_the_test_fails() -> None:
    async def main() -> None:
        rig = of_a_fleet(None)
        async with running(rig):
            rig.connect()
            await asyncio.sleep(100)
            rig.attempts.wake("RETRY was pressed")
            await asyncio.sleep(2)
            rig.hang_up()
            await asyncio.sleep(0.001)
            assert len(rig.tried) == 2

    simulate(main())


def test_more_wakes_by_the_link_neither_cut_a_spread_nor_begin_it_again() -> None:
    async def main() -> None:
        random.seed(4)
        rig = of_a_fleet(None)
        async with running(rig):
            rig.connect()
            await asyncio.sleep(10)
            rig.hang_up()
            since = now()
            await asyncio.sleep(0.001)
            (announced,) = rig.waits
            for _ in range(100):
                await asyncio.sleep(announced / 101)
                rig.attempts.wake_with_others("the access point is there")
                assert len(rig.tried) == 1
            await asyncio.sleep(announced / 50)
            assert rig.tried[1:] == [pytest.approx(since - rig.begun + announced)]
            assert rig.wakes_told == []

    simulate(main())


def test_only_the_first_attempt_behind_a_loss_is_spread() -> None:
    async def main() -> None:
        random.seed(4)
        rig = of_a_fleet(None, DOWN)
        async with running(rig):
            rig.connect()
            await asyncio.sleep(10)
            rig.hang_up()
            await asyncio.sleep(SPREAD_S)
            tried = len(rig.tried)
            assert tried > 1
            await asyncio.sleep(2 * 30.0)
            assert len(rig.tried) > tried
            assert [wait for wait in rig.waits[1:] if wait > 33.0] == []
            assert rig.waits[1] == pytest.approx(1.0, rel=0.11)

    simulate(main())


def test_a_wake_by_the_link_during_the_attempt_behind_a_spread_counts() -> None:
    async def main() -> None:
        random.seed(4)
        rig = of_a_fleet(None)
        async with running(rig):
            rig.connect()
            await asyncio.sleep(10)
            rig.hang_up()
            await asyncio.sleep(SPREAD_S)
            assert len(rig.tried) == 2
            rig.attempts.wake_with_others("the access point is there")
            rig.fail(DOWN)
            await asyncio.sleep(0.001)
            assert len(rig.wakes_told) == 1
            await asyncio.sleep(SPREAD_S)
            assert len(rig.tried) == 3

    simulate(main())


def test_a_wake_by_the_link_during_a_mere_pause_is_spread() -> None:
    async def main() -> None:
        random.seed(4)
        rig = of_a_fleet(None)
        async with running(rig):
            rig.connect()
        rig.session = Session(rig.ledger, Policy(MONO, PACKET))
        async with running(rig):  # again, right behind the last attempt: it is spaced out for a second
            assert len(rig.tried) == 1
            rig.attempts.wake_with_others("there is a way")
            await asyncio.sleep(0.001)
            assert len(rig.tried) == 1
            assert len(rig.wakes_told) == 1
            await asyncio.sleep(SPREAD_S)
            assert len(rig.tried) == 2

    simulate(main())


def test_a_move_to_a_better_path_is_not_spread_once_more() -> None:
    async def main() -> None:
        rig = of_a_fleet(None)
        async with running(rig):
            rig.connect()
            await asyncio.sleep(10)
            rig.move()
            await asyncio.sleep(0.001)
            assert len(rig.tried) == 2
            assert rig.attempts_told[-1] == "attempt 1: reconnecting on the better path"
            rig.ledger.capture(PACKET)
            rig.connect()
            rig.hang_up()
            await asyncio.sleep(1.1)
            assert len(rig.tried) == 2

    simulate(main())


def test_without_a_spread_nothing_is_put_off() -> None:
    async def main() -> None:
        rig = one_box(None)
        async with running(rig):
            rig.connect()
            await asyncio.sleep(10)
            rig.hang_up()
            await asyncio.sleep(0.001)
            assert rig.tried == [0.0, pytest.approx(10.001)]

    simulate(main())


# --- failures of their own -------------------------------------------------------------------------------------------


def test_a_name_service_that_is_silent_uses_up_no_attempt() -> None:
    async def main() -> None:
        rig = one_box(*[NameFailure("no answer")] * 50, DOWN, attempts=3)
        async with running(rig):
            await asyncio.sleep(49 * NAME_DELAY_S)
            assert rig.session.phase in {Phase.WAITING, Phase.STARTING}
            assert set(rig.waits) == {NAME_DELAY_S}
            assert rig.attempts.trouble == {"trouble": "dns"}
            assert set(rig.attempts_told[1:]) == {f"attempt 1: {NAME_DELAY_S} s after the last"}
            await asyncio.sleep(10)
            assert rig.session.state is State.FAILED
            assert len(rig.tried) == 53
            assert rig.attempts.trouble == {}

    simulate(main())


def test_a_token_that_is_refused_is_followed_by_another_one_within_the_attempt() -> None:
    async def main() -> None:
        rig = Rig(RetryPolicy(), TokenRefused("no"), None, tokens=Tokens("second"))
        async with running(rig):
            assert rig.tried == [0.0, 0.0]
            assert rig.attempts_told == ["attempt 1: there is audio to deliver", "attempt 1: with another token"]
            rig.connect()
            assert rig.waits == []

    simulate(main())


def test_another_token_is_not_asked_for_where_none_was_refused() -> None:
    async def main() -> None:
        tokens = Tokens("second")
        rig = Rig(RetryPolicy(), DOWN, None, tokens=tokens)
        async with running(rig):
            await asyncio.sleep(2)
            assert tokens.current == "first"
            assert rig.attempts_told[1].startswith("attempt 2: ")

    simulate(main())


def test_where_there_is_no_other_token_it_has_failed_and_is_probed() -> None:
    async def main() -> None:
        rig = Rig(RetryPolicy(), TokenRefused("no"), TokenRefused("no"), None, tokens=Tokens("second"))
        async with running(rig):
            assert len(rig.tried) == 2
            assert rig.session.state is State.FAILED
            assert isinstance(rig.session.failure, TokenRefused)
            assert rig.waits == [PROBE_S]
            rig.attempts.wake("there is a new token")
            await asyncio.sleep(0.001)
            rig.connect()

    simulate(main())
