"""A session that an earlier process had opened: reattached, flushed or followed, and never believed too much."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core import events
from edge.core.context import Phase, restore
from edge.core.cuts import CutModel
from edge.core.delivery import PlainDelivery
from edge.core.ledger import Ledger
from edge.core.resume import ACKS, PLAIN, UNKNOWN, Resume
from edge.core.session import Session
from tests.core.driver import FRAMES, Driver, of, policy, texts

CUTS = CutModel(100, 15000)
GRACE_S = 108.0


class Heir(Driver):
    """A driver whose session goes on with one of an earlier process, which had sent some of `last` packets."""

    def __init__(self, resume: Resume, last: int, delivered: int = 0) -> None:
        super().__init__()
        self.ledger.capture(last * FRAMES)
        if delivered:
            self.ledger.deliver(delivered)
        self.session = Session(self.ledger, self.policy, None, resume)


def resume(server: str = PLAIN, *, handled: int = 60, alive_at: float = 990.0, is_same_boot: bool = True) -> Resume:
    return Resume("old", server, 1, handled, alive_at, is_same_boot)


def test_a_session_within_its_grace_is_reattached_behind_what_it_handled() -> None:
    heir = Heir(resume(), 100)
    assert heir.session.at_server == ("old", PLAIN)
    effects = heir.reattach()
    assert [effect.session_id for effect in of(events.OpenSocket, effects)] == []
    assert heir.phase is Phase.STREAMING  # init was confirmed to the earlier process: never again (trap 2)
    assert not [text for text in heir.texts if text.get("type") == "init"]
    assert heir.sent[0] == 61
    assert heir.session.session_ids == ()


def test_a_session_near_the_end_of_its_grace_is_flushed_and_followed() -> None:
    heir = Heir(resume(alive_at=1000.0 - GRACE_S), 100)
    heir.feed(events.Attempted())
    heir.polled(connected=False)
    assert heir.phase is Phase.STOPPING_OLD


def test_a_session_of_an_earlier_boot_is_flushed_and_followed() -> None:
    """How long its grace has run nobody knows."""
    heir = Heir(resume(is_same_boot=False, alive_at=1000.0), 100)
    heir.feed(events.Attempted())
    heir.polled(connected=False)
    assert heir.phase is Phase.STOPPING_OLD
    heir.tell(events.Stopped)
    heir.polled(connected=False)
    assert heir.phase is Phase.STARTING
    effects = heir.start(session_id="new")
    assert texts(effects)[0]["next_seq"] == 1  # nothing of it was proved to this process
    assert heir.session.at_server == ("new", PLAIN)


def test_a_session_that_is_gone_is_followed_from_what_is_delivered() -> None:
    heir = Heir(resume(handled=60), 100, delivered=20)
    heir.feed(events.Attempted())
    heir.polled(exists=False)
    assert heir.session.at_server is None
    heir.start(session_id="new")
    assert heir.sent[0] == 21


@pytest.mark.parametrize("server", [PLAIN, UNKNOWN])
def test_a_session_of_which_nothing_was_handled_is_flushed_and_followed(server: str) -> None:
    """Whether it heard `init` nobody knows; it may hold audio, which a second one would wipe (trap 2)."""
    heir = Heir(resume(server, handled=0), 30)
    heir.feed(events.Attempted())
    assert heir.phase is Phase.ASKING
    heir.polled(connected=False)
    assert heir.phase is Phase.STOPPING_OLD
    heir.tell(events.Stopped)
    heir.polled(connected=False)
    heir.start(session_id="new")
    assert heir.sent[0] == 1


def test_a_server_with_acks_says_itself_what_it_has() -> None:
    heir = Heir(resume(ACKS, handled=60), 100, delivered=20)
    assert heir.session.at_server == ("old", UNKNOWN)
    heir.feed(events.Attempted())
    assert heir.phase is Phase.OPENING
    heir.open(acks=True, next_seq=71)
    heir.pong()
    assert heir.session.at_server == ("old", ACKS)
    assert heir.ledger.delivered == 70
    assert heir.sent[0] == 71


def test_a_session_without_a_server_has_none() -> None:
    assert Session(Ledger(FRAMES), policy()).at_server is None


def test_what_moved_the_cuts_is_handed_on() -> None:
    found = restore(Resume("old", PLAIN, 1, 9, 5.0, True, 2, ((3, 4),)), Ledger(FRAMES), policy())
    assert found is not None
    assert isinstance(found.delivery, PlainDelivery)
    assert (found.delivery._shorts, found.delivery._passed) == (2, [(3, 4)])
    assert (found.dials, found.init_confirmed, found.is_stopped) == (1, True, False)


def test_a_restored_session_knows_nothing_beyond_what_was_handled() -> None:
    delivery = PlainDelivery.restored(11, CUTS, 5.0, delivered=20, handled=30, shorts=1, passed=[(25, 40), (50, 51)])
    assert (delivery.delivered, delivery.proved, delivery.resume, delivery.sent) == (20, 20, 30, 30)
    assert delivery._passed == [(25, 30)]
    assert delivery.may_have_cut()
    delivery.attach()
    assert not delivery.proven
    delivery.prove(6.5)
    assert delivery.proved == 30
    assert PlainDelivery.restored(11, CUTS, 5.0, delivered=20, handled=15).resume == 20


@settings(deadline=None)
@given(
    arrivals=st.lists(st.integers(1, 260), min_size=1, max_size=4),
    holes=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 120)), max_size=2),
    short_at=st.sets(st.integers(1, 400), max_size=3),
    more=st.integers(0, 300),
)
def test_a_restored_session_never_takes_for_cut_what_may_not_be(
    arrivals: list[int], holes: list[tuple[int, int]], short_at: set[int], more: int
) -> None:
    """The server of the earlier process got packets 1 to `arrivals[i]` again and again, without the lost ones, and cuts
    by the milliseconds that arrived; what the heir concludes has to lie before a cut."""
    lost = {seq for first, count in holes for seq in range(first, first + count)}
    received: list[int] = []
    handled = 0
    for until in arrivals:
        start = max(1, handled - until % 20)  # some of what was handled comes twice
        received += [seq for seq in range(start, handled + until + 1) if seq not in lost]
        handled = max([handled, *received])
    ranges: list[tuple[int, int]] = []
    for seq in sorted(lost):
        if ranges and ranges[-1][1] == seq - 1:
            ranges[-1] = (ranges[-1][0], seq)
        else:
            ranges.append((seq, seq))
    shorts = len([seq for seq in short_at if seq <= handled])
    heir = PlainDelivery.restored(1, CUTS, 0.0, delivered=0, handled=handled, shorts=shorts, passed=ranges)
    heir.attach()
    heir.prove(1.0)
    for seq in range(handled + 1, handled + more + 1):
        if seq in lost:
            heir.passing(seq, seq)
        else:
            heir.sending(seq, 0.0, short=seq in short_at)
            received.append(seq)
    heir.barrier(1.0)
    heir.pong(1.1)
    heir.pending_zero(heir.poll(), 1.2, GRACE_S)
    assert heir.delivered <= cut_by(received, short_at, lost)


def cut_by(received: list[int], short_at: set[int], lost: set[int]) -> int:
    """The last packet before the server's latest cut, lost ones behind it included: 15 s with 0.5 s of overlap."""
    held: list[int] = []
    held_ms, cut = 0, 0
    for seq in received:
        held.append(seq)
        held_ms += 1 if seq in short_at else 100
        if held_ms >= 15000:
            cut = max(cut, seq)
            tail_ms, tail = 0, []
            while held and tail_ms < 500:
                tail.append(held.pop())
                tail_ms += 1 if tail[-1] in short_at else 100
            held, held_ms = tail[::-1], tail_ms
    while cut + 1 in lost:
        cut += 1
    return cut


@pytest.mark.parametrize("handled", [0, 5])
def test_init_was_confirmed_if_packets_were_handled(handled: int) -> None:
    found = restore(resume(handled=handled), Ledger(FRAMES), policy())
    assert found is not None
    assert found.init_confirmed == (handled > 0)


def test_a_session_with_acks_that_may_not_have_heard_init_is_not_gone_on_with() -> None:
    assert restore(resume(ACKS, handled=0), Ledger(FRAMES), policy()) is None
