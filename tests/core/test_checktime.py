"""By what time certificates are checked: the clock, the floor, a server's date; and what is kept as the next floor."""

from __future__ import annotations

import pytest

from edge.core.built import BUILT_UTC_S
from edge.core.checktime import SLACK_S, WINDOW_S, CheckTime, Validity, common
from edge.core.timebase import Anchor

DAY_S = 86400.0
FLOOR_S = BUILT_UTC_S + 100 * DAY_S
BOOT_S = 50.0
LATER_S = 3000.0  # on the boot clock
CHAIN = Validity(FLOOR_S - DAY_S, FLOOR_S + 90 * DAY_S)
ALWAYS = Validity(0.0, 1e11)


def clock(wall_s: float, boot_s: float = BOOT_S, *, trusted: bool = False) -> Anchor:
    return Anchor("boot", wall_s - boot_s, trusted)


BEHIND, AHEAD = clock(FLOOR_S - 4000 * DAY_S), clock(FLOOR_S + 7000 * DAY_S)


@pytest.fixture
def time() -> CheckTime:
    return CheckTime(FLOOR_S, BOOT_S)


# --- by what time ----------------------------------------------------------------------------------------------------


def test_a_trusted_clock_is_the_one(time: CheckTime) -> None:
    assert time.at(clock(FLOOR_S - 4000 * DAY_S, trusted=True), LATER_S) is None


def test_a_clock_behind_the_floor_gives_way_to_it_and_the_floor_runs_on(time: CheckTime) -> None:
    assert time.at(BEHIND, BOOT_S) == FLOOR_S
    assert time.at(BEHIND, LATER_S) == FLOOR_S + LATER_S - BOOT_S


def test_a_clock_that_may_be_right_is_the_one_whoever_keeps_it(time: CheckTime) -> None:
    assert time.at(clock(FLOOR_S), BOOT_S) is None
    assert time.at(AHEAD, BOOT_S) is None


@pytest.mark.parametrize("wrong", [BEHIND, AHEAD])
def test_a_servers_date_counts_from_then_on_until_the_clock_is_trusted(time: CheckTime, wrong: Anchor) -> None:
    date_s = FLOOR_S + 30 * DAY_S
    assert time.fault(date_s, CHAIN, wrong, LATER_S) == ""
    assert time.at(wrong, LATER_S + 5.0) == date_s + 5.0
    assert time.at(clock(date_s, trusted=True), LATER_S + 5.0) is None


# --- which dates are taken -------------------------------------------------------------------------------------------

SEEN, FUTURE, INVALID = "before what this device has seen", "too far in the future", "not valid then, either"


@pytest.mark.parametrize(
    ("date_s", "chain", "fault"),
    [
        (FLOOR_S - SLACK_S, ALWAYS, ""),
        (FLOOR_S - SLACK_S - 1, ALWAYS, SEEN),
        (FLOOR_S + WINDOW_S, ALWAYS, ""),
        (FLOOR_S + WINDOW_S + 1, ALWAYS, FUTURE),
        (CHAIN.ends_s, CHAIN, ""),
        (CHAIN.ends_s + 1, CHAIN, INVALID),
        (FLOOR_S, Validity(FLOOR_S + 1, FLOOR_S + 2), INVALID),
        (FLOOR_S, common([]), INVALID),
        (FLOOR_S, common([ALWAYS, Validity(0.0, FLOOR_S - 1)]), INVALID),
    ],
)
def test_the_bounds_of_a_date(time: CheckTime, date_s: float, chain: Validity, fault: str) -> None:
    assert fault in time.fault(date_s, chain, AHEAD, BOOT_S)
    assert (time.at(AHEAD, BOOT_S) is not None) is (fault == "")


def test_a_trusted_clock_takes_no_date(time: CheckTime) -> None:
    trusted = clock(FLOOR_S + 7000 * DAY_S, trusted=True)
    assert time.fault(FLOOR_S, ALWAYS, trusted, BOOT_S) == "this device's clock is trusted"
    assert time.at(AHEAD, BOOT_S) is None


def test_a_chain_is_valid_while_all_of_it_is() -> None:
    chain = common([Validity(1, 9), Validity(3, 20), Validity(0, 7)])
    assert chain == Validity(3, 7)
    assert [chain.has(moment) for moment in (2.9, 3, 7, 7.1)] == [False, True, True, False]


# --- what people are told --------------------------------------------------------------------------------------------


def test_it_is_said_once_by_how_much_the_clock_is_off(time: CheckTime) -> None:
    assert time.news(AHEAD, BOOT_S) == ""
    assert time.fault(FLOOR_S + DAY_S, CHAIN, AHEAD, BOOT_S) == ""
    assert time.news(AHEAD, BOOT_S) == (
        "the clock is 19.2 years ahead and no time server answers: certificates are checked by the server's own date; "
        "audio is delivered, its time stamps are marked as not trusted; set the clock, or let it reach a time server "
        "(NTP)"
    )
    assert time.news(AHEAD, BOOT_S) == ""


def test_by_the_floor_it_is_off_by_so_much_at_least(time: CheckTime) -> None:
    assert time.news(clock(FLOOR_S - 40 * DAY_S), BOOT_S).startswith(
        "the clock is at least 40 days behind and no time server answers: certificates are checked by the last date"
    )


def test_less_than_a_day_is_not_worth_a_line(time: CheckTime) -> None:
    assert time.news(clock(FLOOR_S - 600), BOOT_S) == ""


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_only_a_trusted_clock_is_kept(time: CheckTime) -> None:
    assert time.to_keep(clock(FLOOR_S + 5), BOOT_S) is None
    assert time.to_keep(clock(FLOOR_S + 5, trusted=True), BOOT_S + 2) == FLOOR_S + 7


def test_also_one_that_is_behind_the_floor_or_the_floor_would_be_wrong_for_ever(time: CheckTime) -> None:
    assert time.to_keep(clock(FLOOR_S - 900 * DAY_S, trusted=True), BOOT_S) == FLOOR_S - 900 * DAY_S


def test_nothing_is_kept_while_a_servers_certificates_contradict(time: CheckTime) -> None:
    wrong, right = clock(FLOOR_S + 3000 * DAY_S, trusted=True), clock(FLOOR_S + DAY_S, trusted=True)
    time.contradicted()
    assert time.to_keep(wrong, BOOT_S) is None
    time.agreed(CHAIN)
    assert time.to_keep(right, BOOT_S) == FLOOR_S + DAY_S
    assert time.to_keep(wrong, BOOT_S) is None, "the latest chain is not valid then"


def test_a_python_that_cannot_see_the_chain_contradicts_nothing(time: CheckTime) -> None:
    time.agreed(common([]))
    assert time.to_keep(clock(FLOOR_S, trusted=True), BOOT_S) == FLOOR_S


def test_the_version_was_made_before_now() -> None:
    from time import time as now

    assert 1795824000 <= BUILT_UTC_S < now(), "made with a clock that was ahead, it would lock every device out"
