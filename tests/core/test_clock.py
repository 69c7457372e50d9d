"""The wall clock in a session: a server with acks is told, before the packets that it stamped; it decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.context import Phase
from edge.core.events import Ack, Attempted, ClockChanged, Effect, Opened, SendPackets, SendText, Started
from edge.core.timebase import Anchor
from tests.core.driver import FINALIZED, Driver, texts

WRONG = Anchor("boot", 3600.0, trusted=False)
RIGHT = Anchor("boot", 1.7e9, trusted=True)


def clocks(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == "clock"]


def kinds(d: Driver) -> list[str]:
    return [text.get("type", "stop") for text in d.texts]


def test_a_server_with_acks_is_told_the_clock_behind_init_and_before_any_packet() -> None:
    d = Driver(clock=WRONG)
    d.record(3)
    effects = d.start(acks=True)
    assert kinds(d) == ["init", "ping", "clock"]
    order = [type(effect) for effect in effects if type(effect) in (SendText, SendPackets)]
    assert order[-2:] == [SendText, SendPackets]
    assert clocks(d.texts) == [
        {"type": "clock", "boot_id": "boot", "boot_s": 1000.0, "utc_s": 4600.0, "trusted": False}
    ]


def test_a_clock_that_changes_goes_ahead_of_what_waits_and_says_what_it_was_before() -> None:
    d = Driver(clock=WRONG)
    d.start(acks=True)
    d.record(3)
    d.now += 2.5
    effects = d.feed(ClockChanged(RIGHT))
    told = {"type": "clock", "boot_id": "boot", "boot_s": 1002.5, "utc_s": 1.7e9 + 1002.5, "trusted": True}
    assert effects == [SendText({**told, "was_utc_minus_boot_s": 3600.0}, ahead=True)]
    assert d.feed(ClockChanged(RIGHT)) == []


def test_each_socket_is_told_and_what_changed_in_between_once() -> None:
    d = Driver(clock=WRONG)
    d.start(acks=True)
    d.record(2)
    d.closed()
    assert d.feed(ClockChanged(RIGHT)) == []
    d.feed(Attempted())
    [told] = clocks(texts(d.open(acks=True)))
    assert (told["trusted"], told["was_utc_minus_boot_s"]) == (True, 3600.0)
    d.closed()
    d.feed(Attempted())
    [told] = clocks(texts(d.open(acks=True)))
    assert (told["trusted"], told.get("was_utc_minus_boot_s")) == (True, None)


def test_a_follow_on_session_knows_of_no_clock_before() -> None:
    d = Driver(clock=WRONG)
    d.start(acks=True)
    d.record(2)
    d.closed(1000, FINALIZED)
    d.feed(ClockChanged(RIGHT))
    d.start(acks=True, session_id="s2")
    assert [told.get("was_utc_minus_boot_s") for told in clocks(d.texts)] == [None, None]


def test_a_change_while_init_is_unconfirmed_is_told_once_audio_may_flow() -> None:
    d = Driver(clock=WRONG)
    d.feed(Attempted())
    d.tell(Started, "s1")
    d.tell(Opened)
    d.open_hello(acks=True)
    assert d.phase is Phase.INITIALISING
    assert d.feed(ClockChanged(RIGHT)) == []
    assert [told["trusted"] for told in clocks(texts(d.pong()))] == [True]


def test_without_a_clock_nothing_is_told() -> None:
    d = Driver()
    d.start(acks=True)
    assert clocks(d.texts) == []


def test_an_aia_server_is_told_nothing() -> None:
    d = Driver(clock=WRONG)
    d.start()
    d.record(3)
    assert d.feed(ClockChanged(RIGHT)) == []
    d.closed()
    d.feed(ClockChanged(WRONG))
    d.reattach()
    assert clocks(d.texts) == []


@pytest.mark.parametrize("phase", list(Phase))
def test_in_no_phase_does_a_step_of_the_clock_change_more_than_what_is_told(phase: Phase) -> None:
    d = Driver(clock=WRONG)
    d.session._context.phase = Phase.WAITING
    d.start()
    d.session._context.phase = phase
    deadline, timers = d.session.deadline, dict(d.session._context.timers)
    d.feed(ClockChanged(RIGHT))
    assert (d.session.phase, d.session.deadline, d.session._context.timers) == (phase, deadline, timers)


# --- no duration hangs on it ---

Step = tuple[Callable[[Driver], bool], Callable[[Driver], list[Effect]]]
STEPS: dict[str, Step] = {
    "record": (lambda d: not d.ledger.ended, lambda d: d.record(7)),
    "gap": (lambda d: not d.ledger.ended, lambda d: d.gap(0.3)),
    "end": (lambda d: not d.ledger.ended, lambda d: d.end()),
    "wait": (lambda d: True, lambda d: d.wait(0.3)),
    "long wait": (lambda d: True, lambda d: d.wait(40.0)),
    "pong": (lambda d: d.phase is Phase.STREAMING, lambda d: d.pong()),
    "ack": (lambda d: d.phase is Phase.STREAMING, lambda d: d.tell(Ack, max(d.sent, default=0))),
    "close": (lambda d: d.phase is Phase.STREAMING, lambda d: d.closed()),
    "alive": (lambda d: d.phase is Phase.STREAMING, lambda d: d.alive()),
    "poll": (lambda d: d.phase is Phase.STREAMING and d.owes_poll, lambda d: d.polled()),
    "attempt": (lambda d: d.session.wants_attempt, lambda d: d.feed(Attempted())),
}


def story(steps: list[str], offsets: list[float], *, acks: bool) -> list[str]:
    """What a session wanted and when, over `steps`; before each the wall clock is set to the next of `offsets`."""
    d = Driver(clock=WRONG)
    d.start(acks=acks)
    seen: list[str] = []
    for number, step in enumerate(steps):
        if offsets:
            changed = d.feed(ClockChanged(Anchor("boot", offsets[number % len(offsets)], trusted=number % 3 == 0)))
            assert clocks(texts(changed)) == texts(changed)
            assert len(texts(changed)) == len(changed)
        is_possible, take = STEPS[step]
        effects = take(d) if is_possible(d) else []
        timers = sorted((timer.value, due) for timer, due in d.session._context.timers.items())
        seen.append(f"{step} at {d.now}: {effects} {timers} {d.phase} {d.session.state} {d.session.handled}")
    return seen


@given(
    steps=st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=30),
    offsets=st.lists(st.floats(-4e9, 4e9), min_size=1, max_size=5),
    acks=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_steps_of_the_wall_clock_change_no_deadline_and_no_decision(
    steps: list[str], offsets: list[float], acks: bool
) -> None:
    assert story(steps, offsets, acks=acks) == story(steps, [], acks=acks)
