"""How long the card lasts, said once at each threshold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.budget import HOUR_S, LAST_S, Announcer, bytes_per_s
from edge.core.packet import AudioFormat


def test_the_rate_counts_whole_records() -> None:
    assert bytes_per_s(AudioFormat(16000, 1), 1600) == pytest.approx(10 * (36 + 32 + 3200))


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ([7200, 3601, 3600, 3599, 601, 600, 10, 0], [None, None, HOUR_S, None, None, LAST_S, None, None]),
        ([500, 400], [LAST_S, None]),  # the card is nearly full at the start: not two announcements
        ([3000, 3601, 3000, 4321, 3000], [HOUR_S, None, None, None, HOUR_S]),  # only after there was clearly more
        ([500, 1000, 500, 4000, 500], [LAST_S, None, LAST_S, None, LAST_S]),
        ([500, 8000, 3000], [LAST_S, None, HOUR_S]),
    ],
)
def test_each_threshold_is_said_once(left: list[float], said: list[float | None]) -> None:
    announcer = Announcer()
    assert [announcer.due(seconds) for seconds in left] == said


@given(st.lists(st.floats(0, 1e5)))
def test_it_never_repeats_itself_while_less_and_less_is_left(left: list[float]) -> None:
    announcer = Announcer()
    said = [announcer.due(seconds) for seconds in sorted(left, reverse=True)]
    told = [threshold for threshold in said if threshold is not None]
    assert told == sorted(set(told), reverse=True)
