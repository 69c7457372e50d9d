"""The one who keeps the token fresh, in simulated time: when it fetches, what it says, and whom it wakes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from edge.core.session import State
from edge.core.token import Token
from edge.errors import ConfigError, EdgeError, ServerRefused, TokenRefused, Unreachable
from edge.runtime.attempts import PROBE_S, RetryPolicy
from edge.runtime.fresh import FreshServer
from edge.runtime.ports import JsonObject, SessionStatus, Socket
from edge.runtime.refresher import Refresher
from edge.runtime.uplink import Uplink
from tests.runtime.fakes import PACKET, FakeServer, FakeSocket, Feed, Line, joined, now, simulate

REFUSED = TokenRefused("the server refused the token (401)")


class FakeSource:
    """Gives "token-1", "token-2" ..., each for `life_s`; where it keeps nothing, another one only after `change`.
    `failures` are what the next fetches raise instead."""

    def __init__(self, life_s: float | None = 3600.0, *, keeps: bool = True) -> None:
        self.life_s = life_s
        self.keeps = keeps
        self.remedy = "do something about it"
        self.failures: deque[Exception] = deque()
        self.fetches: list[float] = []
        self.count = 0 if keeps else 1
        self.is_stuck = False  # gives the same one again
        self.takes = 0.0
        self.is_changed = False
        self.at_once = 0

    async def fetch(self) -> Token:
        self.at_once += 1
        assert self.at_once == 1, "two fetches at once"
        self.fetches.append(now())
        self.is_changed = False
        try:
            await asyncio.sleep(self.takes)
            if self.failures:
                raise self.failures.popleft()
            self.count += self.keeps and not (self.is_stuck and self.count)
            return Token(f"token-{self.count}", self.life_s)
        finally:
            self.at_once -= 1

    def change(self) -> None:
        """Somebody writes another one."""
        self.count += 1
        self.is_changed = True

    def has_changed(self) -> bool:
        return self.is_changed


@dataclass
class Rig:
    """A Refresher with what it told, and whom it woke."""

    source: FakeSource
    told: list[tuple[str, str]]
    woken: list[float]
    tokens: Refresher


def rig(**source: Any) -> Rig:
    fake = FakeSource(**source)
    told: list[tuple[str, str]] = []
    woken: list[float] = []
    tokens = Refresher(
        fake, lambda kind, text: told.append((kind, text)), now, on_new=lambda reason: woken.append(now())
    )
    return Rig(fake, told, woken, tokens)


def run(test: Callable[[Rig], Any], **source: Any) -> None:
    async def main() -> None:
        made = rig(**source)
        await test(made)
        await made.tokens.close()
        assert len(asyncio.all_tasks()) == 1

    simulate(main())


# --- by the clock ----------------------------------------------------------------------------------------------------


def test_a_token_is_fetched_once_and_the_next_one_well_before_its_end() -> None:
    async def test(r: Rig) -> None:
        with pytest.raises(Unreachable, match="no token yet"):
            r.tokens.current()
        began = now()
        assert [await r.tokens.ready() for _ in range(3)] == ["token-1"] * 3
        assert r.tokens.current() == "token-1"
        await asyncio.sleep(3299)
        assert r.tokens.current() == "token-1"
        await asyncio.sleep(2)
        assert r.tokens.current() == "token-2"
        await asyncio.sleep(10 * 3300)
        assert [at - began for at in r.source.fetches] == pytest.approx([3300.0 * n for n in range(12)])
        assert r.told == [] and r.woken == []

    run(test)


def test_who_does_not_say_how_long_it_lives_serves_until_it_is_refused() -> None:
    async def test(r: Rig) -> None:
        await r.tokens.ready()
        await asyncio.sleep(30 * 86400)
        assert r.source.count == 1

    run(test, life_s=None)


@pytest.mark.parametrize("life_s", [0.0, 1.0, 12.0])
def test_a_token_of_a_life_that_cannot_be_is_not_fetched_in_a_loop(life_s: float) -> None:
    async def test(r: Rig) -> None:
        for _ in range(100):
            assert await r.tokens.ready()
            await asyncio.sleep(1)
        assert 2 <= len(r.source.fetches) <= 11

    run(test, life_s=life_s)


def test_what_keeps_nothing_is_asked_before_each_attempt_and_never_by_the_clock() -> None:
    async def test(r: Rig) -> None:
        assert await r.tokens.ready() == await r.tokens.ready() == "token-1"
        r.source.change()
        assert await r.tokens.ready() == "token-2"
        r.source.change()
        await asyncio.sleep(86400)
        assert r.tokens.current() == "token-2"
        assert len(r.source.fetches) == 3

    run(test, keeps=False, life_s=60.0)


def test_one_fetch_serves_all_who_wait_for_it_and_goes_on_when_one_gives_up() -> None:
    async def test(r: Rig) -> None:
        r.source.takes = 3.0
        waiting = [asyncio.create_task(r.tokens.ready()) for _ in range(3)]
        await asyncio.sleep(1)
        waiting.pop(0).cancel()
        assert await asyncio.gather(*waiting) == ["token-1"] * 2
        assert len(r.source.fetches) == 1

    run(test)


# --- in trouble ------------------------------------------------------------------------------------------------------


def test_a_failed_refresh_is_said_once_and_tried_again_soon_while_the_old_token_serves() -> None:
    async def test(r: Rig) -> None:
        await r.tokens.ready()
        r.source.failures.extend([Unreachable("no way")] * 5)
        await asyncio.sleep(3301)
        assert r.source.fetches[2] - r.source.fetches[1] <= 1.5  # what a lost answer rotated is good for 10 s
        assert await r.tokens.ready() == "token-1"
        await asyncio.sleep(60)
        assert r.tokens.current() == "token-2"
        assert r.told == [("warning", "no new token: no way"), ("token", "there is a new token again")]
        waits = [after - before for before, after in zip(r.source.fetches[1:], r.source.fetches[2:], strict=False)]
        assert len(waits) == 5 and max(waits) <= 10

    run(test)


def test_after_its_end_attempts_wait_for_a_new_one_and_else_go_with_the_old() -> None:
    async def test(r: Rig) -> None:
        await r.tokens.ready()
        r.source.failures.extend([Unreachable("no way")] * 1000)
        await asyncio.sleep(3700)
        before = len(r.source.fetches)
        assert await r.tokens.ready() == "token-1"  # the server is the judge; perhaps our clock runs fast
        assert len(r.source.fetches) == before + 1
        r.source.failures.clear()
        assert await r.tokens.ready() == "token-2"

    run(test)


@pytest.mark.parametrize("error", [Unreachable("no way"), ConfigError("no such file"), TokenRefused("revoked")])
def test_without_any_token_the_reason_is_what_a_call_fails_with(error: EdgeError) -> None:
    async def test(r: Rig) -> None:
        r.source.failures.append(error)
        assert await r.tokens.ready() == ""
        with pytest.raises(type(error), match=str(error)):
            r.tokens.current()
        assert r.told == [("warning", f"no new token: {error}")]
        r.source.is_changed = True
        await asyncio.sleep(2)
        assert r.tokens.current() == "token-1"
        assert r.woken == [pytest.approx(now(), abs=2)]

    run(test)


def test_where_a_person_has_to_act_it_asks_once_a_minute_and_looks_at_the_file_each_second() -> None:
    async def test(r: Rig) -> None:
        r.source.failures.extend([TokenRefused("revoked")] * 1000)
        await r.tokens.ready()
        await asyncio.sleep(601)
        assert 10 <= len(r.source.fetches) <= 12
        assert len(r.told) == 1
        r.source.failures.clear()
        before = now()
        r.source.is_changed = True
        await asyncio.sleep(1.01)
        assert r.tokens.current() == "token-1"
        assert before <= r.woken[0] <= before + 1.01

    run(test)


def test_a_bug_of_a_source_is_told_by_its_name_and_is_no_end() -> None:
    async def test(r: Rig) -> None:
        r.source.failures.append(RuntimeError("s3cret"))
        assert await r.tokens.ready() == ""
        assert r.told == [("warning", "no new token: the token cannot be had: RuntimeError")]
        await asyncio.sleep(2)
        assert r.tokens.current() == "token-1"

    run(test)


def test_what_keeps_nothing_says_nothing_as_each_attempt_does() -> None:
    async def test(r: Rig) -> None:
        assert await r.tokens.ready() == "token-1"
        r.source.failures.append(ConfigError("gone"))
        assert await r.tokens.ready() == ""
        with pytest.raises(ConfigError, match="gone"):
            r.tokens.current()
        assert r.told == []

    run(test, keeps=False)


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_refused_token_is_renewed_at_once_and_only_once_for_all() -> None:
    async def test(r: Rig) -> None:
        used = await r.tokens.ready()
        r.source.takes = 1.0
        assert await asyncio.gather(*(r.tokens.renew(used, REFUSED) for _ in range(3))) == [None] * 3
        assert r.tokens.current() == "token-2"
        assert await r.tokens.renew(used, REFUSED) is None  # by a late one: there is another already
        assert len(r.source.fetches) == 2
        assert r.told == [("token", "the server refused the token; there is a new one")]

    run(test)


def test_where_there_is_no_other_the_refusal_says_what_to_do() -> None:
    async def test(r: Rig) -> None:
        used = await r.tokens.ready()
        error = await r.tokens.renew(used, REFUSED)
        assert isinstance(error, TokenRefused)
        assert str(error) == "token: the server refused the token (401); audio is kept; do something about it"
        await asyncio.sleep(600)
        assert 15 <= len(r.source.fetches) <= 30  # asked again, and not in a loop
        r.source.is_stuck = False
        await asyncio.sleep(31)
        assert r.tokens.current() == "token-2"
        assert len(r.woken) == 1

    async def stuck(r: Rig) -> None:
        r.source.is_stuck = True
        await test(r)

    run(stuck)


def test_a_changed_file_is_noticed_within_a_second_while_its_token_is_refused() -> None:
    async def test(r: Rig) -> None:
        used = await r.tokens.ready()
        assert isinstance(await r.tokens.renew(used, REFUSED), TokenRefused)
        await asyncio.sleep(500.3)
        assert len(r.source.fetches) == 2
        r.source.change()
        before = now()
        await asyncio.sleep(1.01)
        assert before <= r.woken[0] <= before + 1.01
        assert r.tokens.current() == "token-2"

    run(test, keeps=False, life_s=None)


def test_a_file_that_changed_to_the_same_wakes_nobody() -> None:
    async def test(r: Rig) -> None:
        r.source.is_stuck = True
        used = await r.tokens.ready()
        await r.tokens.renew(used, REFUSED)
        r.source.is_changed = True
        await asyncio.sleep(5)
        assert len(r.source.fetches) == 3
        assert r.woken == []
        r.tokens.accepted()  # the server took it after all
        r.source.is_changed = True
        await asyncio.sleep(5)
        assert len(r.source.fetches) == 3

    run(test, keeps=False, life_s=None)


def test_no_token_at_all_is_no_trouble_until_it_is_refused() -> None:
    async def test(r: Rig) -> None:
        r.source.fetch = none  # type: ignore[method-assign]
        assert await r.tokens.ready() == ""
        assert r.tokens.current() == ""
        r.source.is_changed = True
        await asyncio.sleep(5)
        assert r.source.is_changed
        assert isinstance(await r.tokens.renew("", REFUSED), TokenRefused)

    async def none() -> Token:
        return Token("")

    run(test, keeps=False)


async def test_what_a_source_must_not_leave_half_done_is_waited_for_at_the_end() -> None:
    done = asyncio.Event()

    class Careful(FakeSource):
        async def fetch(self) -> Token:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                done.set()
            raise AssertionError

    tokens = Refresher(Careful(), lambda kind, text: None, now)
    waiting = asyncio.create_task(tokens.ready())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await tokens.close()
    assert done.is_set()
    await joined([waiting])
    await Refresher(FakeSource(), lambda kind, text: None, now).close()


# --- with an uplink --------------------------------------------------------------------------------------------------


class Gate(FakeServer):
    """Takes one token only. `how`: by what call it refuses."""

    def __init__(self, tokens: Refresher, how: str) -> None:
        super().__init__()
        self.tokens = tokens
        self.good = "token-1"
        self.how = how
        self.asked: list[str] = []
        self.on_refusal: Callable[[], None] = lambda: None

    def _check(self) -> bool:
        self.asked.append(self.tokens.current())
        if self.tokens.current() == self.good:
            return True
        self.on_refusal()
        return False

    async def start(self, settings: JsonObject) -> str:
        self.times.append(now())
        if self.how == "start" and not self._check():
            raise TokenRefused("start: no")
        return await super().start(settings)

    async def __call__(self, session_id: str) -> Socket:
        if self.how == "dial" and not self._check():
            raise TokenRefused("dial: no")
        is_good = self.how != "greeting" or self._check()
        socket = await super().__call__(session_id)
        if not is_good:
            assert isinstance(socket, FakeSocket)
            socket._inbox.clear()
            socket.end(1000, "")
        return socket


def line(source: FakeSource, how: str = "start", **options: Any) -> tuple[Line, Gate, Refresher]:
    made = Line(**options)
    told = made.told
    tokens = Refresher(source, lambda kind, text: None, now)
    gate = Gate(tokens, how)
    made.server = gate
    made.uplink = Uplink(
        FreshServer(gate, tokens),
        gate,
        made.uplink._policy,
        options.get("retry") or RetryPolicy(),
        lambda happening: told.append((now(), happening)),
        now,
        tokens,
    )
    tokens.on_new = made.uplink.retry_now
    return made, gate, tokens


async def whole(made: Line, feed: Feed, delivering: asyncio.Task[None], tokens: Refresher) -> None:
    async with asyncio.timeout(900):
        await delivering
    await tokens.close()
    assert made.server.audio(feed.recording.recording_id) == feed.given
    assert made.server.in_use == set()


@pytest.mark.parametrize("how", ["start", "dial", "greeting"])
@pytest.mark.parametrize("keeps", [True, False])
def test_an_expired_token_costs_an_attempt_no_time_and_is_no_failure(how: str, keeps: bool) -> None:
    async def main() -> None:
        source = FakeSource(keeps=keeps, life_s=None)
        made, gate, tokens = line(source, how)
        feed = made.feed()
        delivering = asyncio.create_task(made.uplink.deliver(feed.recording))
        for second in range(10):
            feed.talk(16000)
            await asyncio.sleep(1.0)
            if second == 4:
                gate.good = f"token-{source.count + 1}"
                if not keeps:
                    gate.on_refusal = source.change  # whoever renews it is a moment late
                session = made.uplink.session
                assert session is not None and gate.sockets
                if how == "start":
                    gate.sessions.clear()  # so that a new one has to be opened
                gate.sockets[-1].end(1011 if how == "start" else 1006)
        feed.end()
        await whole(made, feed, delivering, tokens)
        assert "failed" not in made.states()
        assert gate.asked[-1] == gate.good
        assert PROBE_S not in made.delays() and len(made.delays()) <= 1
        waits = [after - before for before, after in zip(gate.times, gate.times[1:], strict=False)]
        assert max(waits[1:], default=0.0) < 10.0

    simulate(main())


def test_a_refusal_that_no_new_token_helps_is_shown_and_probed_slowly() -> None:
    async def main() -> None:
        source = FakeSource()
        made, gate, tokens = line(source)
        gate.good = "none of ours"
        feed = made.feed()
        feed.talk(PACKET)
        feed.end()
        delivering = asyncio.create_task(made.uplink.deliver(feed.recording))
        await asyncio.wait_for(made.uplink.refused(), 1.0)
        session = made.uplink.session
        assert session is not None
        assert str(session.failure) == "token: start: no; audio is kept; do something about it"
        assert gate.asked == ["token-1", "token-2"]
        await asyncio.sleep(5 * PROBE_S)
        assert len(gate.asked) <= 2 + 2 * 5  # no storm at the server, nor at the source
        assert len(source.fetches) <= 2 + 2 * 5
        assert made.uplink.state is State.FAILED
        gate.good = f"token-{source.count + 1}"
        await whole(made, feed, delivering, tokens)

    simulate(main())


def test_a_source_that_cannot_be_reached_is_no_refusal_and_its_return_is_an_attempt_at_once() -> None:
    async def main() -> None:
        source = FakeSource()
        made, gate, tokens = line(source, retry=RetryPolicy(max_attempts=100, initial_delay=20.0, max_delay=20.0))
        feed = made.feed()
        feed.talk(PACKET)
        await tokens.ready()
        gate.good = "token-2"
        source.failures.extend([Unreachable("no way to the token")] * 6)
        delivering = asyncio.create_task(made.uplink.deliver(feed.recording))
        await asyncio.sleep(1.0)
        assert made.uplink.state is State.CONNECTING
        while "connected" not in made.states():
            await asyncio.sleep(0.1)
        assert now() - source.fetches[-1] < 0.5
        assert "failed" not in made.states()
        feed.end()
        await whole(made, feed, delivering, tokens)

    simulate(main())


def test_a_person_who_replaces_a_refused_token_does_not_wait_for_the_next_probe() -> None:
    async def main() -> None:
        source = FakeSource(keeps=False, life_s=None)
        made, gate, tokens = line(source)
        gate.good = "token-2"
        feed = made.feed()
        feed.talk(PACKET)
        feed.end()
        delivering = asyncio.create_task(made.uplink.deliver(feed.recording))
        await asyncio.wait_for(made.uplink.refused(), 1.0)
        await asyncio.sleep(5.0)
        source.change()
        since = now()
        await whole(made, feed, delivering, tokens)
        assert now() - since < 3.0
        assert made.states() == ["connecting", "failed", "connected", "disconnected"]

    simulate(main())


@pytest.mark.parametrize("has_new", [True, False])
def test_a_status_that_is_refused_is_asked_again_with_a_new_token(has_new: bool) -> None:
    class Server(FakeServer):
        async def status(self, session_id: str) -> SessionStatus:
            if tokens.current() == "token-1":
                raise REFUSED
            return SessionStatus(True, True, 0, 7)

    source = FakeSource()
    source.is_stuck = not has_new
    tokens = Refresher(source, lambda kind, text: None, now)

    async def main() -> None:
        server = FreshServer(Server(), tokens)
        await tokens.ready()
        if has_new:
            assert await server.status("s") == SessionStatus(True, True, 0, 7)
        else:
            with pytest.raises(ServerRefused):
                await server.status("s")
        await server.stop("s")
        server.forget_connections()
        await server.close()
        await tokens.close()

    simulate(main())


def test_without_anybody_who_has_tokens_a_refusal_stands() -> None:
    async def main() -> None:
        made = Line()
        made.server.refuse_start.extend([REFUSED] * 2)
        feed = made.feed()
        feed.talk(PACKET)
        feed.end()
        delivering = asyncio.create_task(made.uplink.deliver(feed.recording))
        await asyncio.wait_for(made.uplink.refused(), 1.0)
        assert made.uplink.state is State.FAILED
        await delivering
        assert made.delays() == [PROBE_S] * 2

    simulate(main())
