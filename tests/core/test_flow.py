"""Throughput by what was handled; a link that is slower than the audio."""

from __future__ import annotations

import math

from edge.core.context import Phase
from edge.core.events import Ack, Effect, Note
from edge.core.flow import Backlog, Flow
from tests.core.driver import Driver


def test_nothing_is_known_before_the_first_answer() -> None:
    flow = Flow(0)
    assert math.isnan(flow.packets_per_s)
    flow.handled(3, 1.0, is_idle=True)  # nothing was sent on this socket
    assert math.isnan(flow.packets_per_s)
    flow.sending(2.0)
    flow.handled(4, 2.0, is_idle=True)  # no time has passed
    assert math.isnan(flow.packets_per_s)
    assert flow.limit(20, 300) == 20


def test_only_busy_time_counts() -> None:
    flow = Flow(0)
    flow.sending(0.0)
    flow.handled(10, 1.0, is_idle=True)
    flow.sending(100.0)
    flow.sending(100.5)
    flow.handled(20, 101.0, is_idle=False)
    flow.handled(25, 101.5, is_idle=True)
    assert flow.packets_per_s == 10.0
    assert flow.limit(1, 300) == 20
    assert flow.limit(1, 15) == 15


def test_what_is_long_ago_does_not_count() -> None:
    flow = Flow(0)
    flow.sending(0.0)
    flow.handled(1000, 1.0, is_idle=False)
    for second in range(2, 6):
        flow.handled(1000 + second - 1, float(second), is_idle=False)
    assert flow.packets_per_s == 1.0
    assert flow.limit(20, 300) == 2  # less could not be measured


def test_a_stall_makes_the_next_socket_begin_with_little_and_an_answer_ends_that() -> None:
    flow = Flow(0)
    flow.stalled()
    flow.begin(0)
    assert flow.limit(20, 300) == 4
    flow.sending(0.0)
    flow.handled(4, 0.1, is_idle=True)
    assert flow.limit(20, 300) == 80
    flow.begin(4)
    assert flow.limit(20, 300) == 20


def test_a_backlog_that_grows_is_told_once_and_once_when_it_is_over() -> None:
    backlog = Backlog()
    told = [seconds for seconds in (30.0, 20.0, 24.9, 25.0, 40.0, 10.0, 2.0, 1.0, 6.0, 7.0) if backlog.look(seconds)]
    assert told == [25.0, 2.0, 6.0]
    assert backlog.is_growing


def test_what_waits_when_a_socket_begins_is_no_verdict_on_it() -> None:
    backlog = Backlog()
    assert not backlog.look(0.0)
    backlog.begin()
    assert not backlog.look(60.0)
    assert backlog.look(65.0)


def test_a_link_slower_than_the_audio_keeps_its_socket_and_is_said_once() -> None:
    d = Driver()
    d.start(acks=True)
    said: list[Effect] = []
    for second in range(1, 31):
        said += d.record(10) + d.wait(1.0) + d.tell(Ack, 5 * second)
        assert len(d.sent) <= 5 * second + 20
    assert d.phase is Phase.STREAMING
    while d.ledger.delivered < 300:
        said += d.wait(0.1) + d.tell(Ack, d.sent[-1])
    kinds = [effect.kind for effect in said if isinstance(effect, Note)]
    assert kinds == ["slow-link", "caught-up"]
    [text] = [effect.text for effect in said if isinstance(effect, Note) and effect.kind == "slow-link"]
    assert text == "the link is slower than the audio: 5 s wait for it by now; they are kept"


def test_a_server_that_has_too_much_to_transcribe_is_no_slow_link() -> None:
    d = Driver()
    d.pongs = True
    d.start()
    d.record(10)
    d.next_poll(pending=15)
    effects = d.record(200) + d.wait(0.5)
    assert "slow-link" not in [effect.kind for effect in effects if isinstance(effect, Note)]
    assert d.sent == list(range(1, 11))
