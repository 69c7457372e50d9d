"""Stamps: by which clock each packet was stamped, and what a trusted clock of that boot makes of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.receiver.stamps import MAX_BOOTS, MAX_STRETCHES, Stamps

RATE = 16000
TRUE = 1.7e9  # what has to be added to the boot clock for UTC
START_S = 50.0  # the boot clock at position 0


def clock(
    offset: float, *, trusted: bool = False, boot_id: str = "b", boot_s: float = 60.0, **more: Any
) -> dict[str, Any]:
    return {"boot_id": boot_id, "boot_s": boot_s, "utc_s": boot_s + offset, "trusted": trusted, **more}


def put(stamps: Stamps, seq: int, offset: float) -> None:
    """Packet `seq`, 100 ms each, stamped by a clock that is `offset` from the boot clock."""
    stamps.packet(seq, (seq - 1) * 1600, (START_S + (seq - 1) * 0.1 + offset) * 1000)


def captured(stamps: Stamps) -> list[tuple[int, Any]]:
    return [(entry["first_seq"], entry["captured_at"]) for entry in stamps.to_json()]


def test_trust_gained_corrects_what_came_before() -> None:
    stamps = Stamps()
    stamps.session_begun()
    stamps.told(clock(0.0))
    for seq in (1, 2, 3):
        put(stamps, seq, 0.0)
    assert stamps.started_at(RATE) is None
    stamps.told(clock(TRUE, trusted=True, was_utc_minus_boot_s=0.0))
    assert stamps.started_at(RATE) == pytest.approx(TRUE + START_S)
    put(stamps, 4, TRUE)
    assert captured(stamps) == [(1, pytest.approx(TRUE + START_S)), (4, pytest.approx(TRUE + START_S + 0.3))]
    assert [entry["stamped_at"] for entry in stamps.to_json()] == [START_S, pytest.approx(TRUE + START_S + 0.3)]


def test_a_clock_that_was_right_all_the_time() -> None:
    stamps = Stamps()
    stamps.told(clock(TRUE, trusted=True))
    put(stamps, 1, TRUE)
    assert stamps.started_at(RATE) == pytest.approx(TRUE + START_S)


def test_several_wrong_clocks_are_put_right_by_the_trusted_one() -> None:
    stamps = Stamps()
    for seq, offset in enumerate((0.0, 5e8, -7.0, 5e8), 1):
        stamps.told(clock(offset))
        put(stamps, seq, offset)
    stamps.told(clock(TRUE, trusted=True))
    assert captured(stamps) == [(seq, pytest.approx(TRUE + START_S + (seq - 1) * 0.1)) for seq in (1, 2, 3, 4)]


def test_the_latest_trusted_clock_counts_and_no_untrusted_one_behind_it() -> None:
    stamps = Stamps()
    stamps.told(clock(TRUE - 2.0, trusted=True))
    put(stamps, 1, TRUE - 2.0)
    stamps.told(clock(TRUE, trusted=True))
    stamps.told(clock(77.0))
    assert stamps.started_at(RATE) == pytest.approx(TRUE + START_S)


def test_the_same_clock_told_on_the_next_socket_begins_nothing() -> None:
    stamps = Stamps()
    stamps.told(clock(0.0))
    put(stamps, 1, 0.0)
    stamps.told(clock(0.0, boot_s=1e6 + 0.1))
    put(stamps, 2, 0.0)
    stamps.session_begun()
    stamps.told(clock(0.0, boot_s=2e6 + 0.7))
    put(stamps, 3, 0.0)
    assert [first for first, _ in captured(stamps)] == [1]


def test_a_clock_of_another_boot_corrects_nothing() -> None:
    stamps = Stamps()
    stamps.told(clock(0.0, boot_id="earlier"))
    put(stamps, 1, 0.0)
    stamps.told(clock(TRUE, trusted=True, boot_id="later"))
    assert stamps.started_at(RATE) is None
    stamps.told(clock(TRUE - 1e6, trusted=True, boot_id="earlier"))
    assert stamps.started_at(RATE) == pytest.approx(TRUE - 1e6 + START_S)


def test_packets_whose_clock_was_never_told_stay_as_they_are() -> None:
    stamps = Stamps()
    put(stamps, 1, 0.0)
    stamps.session_begun()  # a client of another kind follows
    put(stamps, 2, 0.0)
    stamps.session_begun()
    stamps.told(clock(TRUE, trusted=True, was_utc_minus_boot_s=0.0))  # nothing of this session was before it
    put(stamps, 3, TRUE)
    assert captured(stamps) == [(1, None), (2, None), (3, pytest.approx(TRUE + START_S + 0.2))]
    assert [entry["boot_id"] for entry in stamps.to_json()] == [None, None, "b"]
    assert stamps.started_at(RATE) is None


def test_a_first_message_that_names_the_clock_before_it_corrects_this_sessions_packets() -> None:
    stamps = Stamps()
    stamps.session_begun()
    put(stamps, 1, 33.0)
    stamps.told(clock(TRUE, trusted=True, was_utc_minus_boot_s=33.0))
    assert stamps.started_at(RATE) == pytest.approx(TRUE + START_S)


def test_a_recording_that_begins_with_a_gap_began_before_its_first_packet() -> None:
    stamps = Stamps()
    stamps.told(clock(TRUE, trusted=True))
    stamps.packet(1, 8000, (START_S + 0.5 + TRUE) * 1000)
    assert stamps.started_at(RATE) == pytest.approx(TRUE + START_S)


def test_nothing_stored_nothing_known() -> None:
    stamps = Stamps()
    stamps.told(clock(TRUE, trusted=True))
    assert (stamps.started_at(RATE), stamps.to_json()) == (None, [])


@pytest.mark.parametrize("stamp", [math.nan, math.inf, -math.inf])
def test_a_stamp_that_is_no_time_is_none(stamp: float) -> None:
    stamps = Stamps()
    stamps.told(clock(TRUE, trusted=True))
    stamps.packet(1, 0, stamp)
    assert stamps.started_at(RATE) is None
    assert stamps.to_json()[0]["stamped_at"] is None


BROKEN: list[dict[str, Any]] = [
    {},
    {"boot_id": 5},
    {"boot_id": ""},
    {"boot_id": "x" * 65},
    {"boot_s": None},
    {"boot_s": "12"},
    {"utc_s": True},
    {"utc_s": math.nan},
    {"utc_s": math.inf},
    {"utc_s": 10**400},
    {"trusted": 1},
    {"trusted": None},
]


@pytest.mark.parametrize("broken", BROKEN[1:])
def test_a_message_that_makes_no_sense_changes_nothing(broken: dict[str, Any]) -> None:
    stamps = Stamps()
    stamps.told(clock(0.0))
    put(stamps, 1, 0.0)
    stamps.told(clock(TRUE, trusted=True) | broken)
    put(stamps, 2, 0.0)
    assert captured(stamps) == [(1, None)]


def test_a_hostile_client_does_not_fill_the_memory() -> None:
    stamps = Stamps()
    for seq in range(1, 2 * MAX_STRETCHES):
        stamps.told(clock(float(seq), trusted=True, boot_id=f"b{seq}"))
        put(stamps, seq, float(seq))
    assert len(stamps.to_json()) == MAX_STRETCHES
    assert len(stamps._trusted) == MAX_BOOTS


@given(
    steps=st.lists(st.tuples(st.floats(-1e9, 3e9), st.booleans(), st.integers(1, 3)), min_size=1, max_size=12),
    last=st.floats(-1e9, 3e9),
)
def test_whatever_the_clocks_were_a_trusted_one_at_last_gives_every_stretch_its_time(
    steps: list[tuple[float, bool, int]], last: float
) -> None:
    stamps, seq = Stamps(), 0
    for offset, is_new_session, packets in steps:
        if is_new_session:
            stamps.session_begun()
        stamps.told(clock(offset))
        for _ in range(packets):
            seq += 1
            put(stamps, seq, offset)
    stamps.told(clock(last, trusted=True))
    for first, when in captured(stamps):
        assert when == pytest.approx(last + START_S + (first - 1) * 0.1, abs=1e-2)
    assert stamps.started_at(RATE) == pytest.approx(last + START_S, abs=1e-2)
