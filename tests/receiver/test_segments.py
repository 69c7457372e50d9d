"""Cuts, against the numbers that PROTOCOL.md observed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.packet import AudioFormat, encode_header
from edge.receiver.segments import Arrival, Defect, Segmenter, parse
from tests.receiver.client import packet


def arrival(seq: int, ms: int = 20) -> Arrival:
    return Arrival(seq, ms, 16000, 1, b"")


def cuts(segmenter: Segmenter, last: int, ms: int) -> list[int]:
    return [seq for seq in range(1, last + 1) if segmenter.add(arrival(seq, ms)) is not None]


def test_20_ms_packets_are_cut_after_750_1475_and_2200() -> None:
    assert cuts(Segmenter(), 2200, 20) == [750, 1475, 2200]


@pytest.mark.parametrize(("ms", "expected"), [(100, [150, 295, 440]), (250, [60, 118, 176]), (60, [250, 492, 734])])
def test_other_packets(ms: int, expected: list[int]) -> None:
    assert cuts(Segmenter(), expected[-1], ms) == expected


def test_the_floor_of_the_target() -> None:
    segmenter = Segmenter()
    segmenter.set_target(1)
    assert segmenter.target_ms == 500
    assert segmenter.add(arrival(1, 499)) is None
    assert segmenter.add(arrival(2, 1)) is not None


@given(st.lists(st.integers(1, 700), max_size=200), st.integers(0, 3000))
def test_every_arrival_is_in_exactly_one_segment_in_order(durations: list[int], target: int) -> None:
    segmenter = Segmenter()
    segmenter.set_target(target)
    seen: list[int] = []
    for seq, ms in enumerate(durations, 1):
        segment = segmenter.add(arrival(seq, ms))
        seen += [one.seq for one in segment.arrivals] if segment else []
    tail = segmenter.tail()
    seen += [one.seq for one in tail.arrivals] if tail else []
    assert seen == list(range(1, len(durations) + 1))
    assert segmenter.tail() is None


def test_wiping_forgets_the_overlap_as_well() -> None:
    segmenter = Segmenter()
    segmenter.set_target(1000)
    assert cuts(segmenter, 12, 100) == [10]
    assert segmenter.wipe() == 2
    assert cuts(segmenter, 10, 100) == [10]


def test_parsing_takes_what_the_real_server_takes() -> None:
    good = packet(7)
    parsed = parse(good + b"trailing")
    assert isinstance(parsed, Arrival)
    assert (parsed.seq, parsed.duration_ms, parsed.rate_hz, parsed.channels, parsed.wire) == (7, 100, 16000, 1, good)
    odd = encode_header(1, 0.0, 2, AudioFormat(16000, 1))[:28] + (3).to_bytes(4, "little") + b"abc"
    assert isinstance(parse(odd), Arrival)
    assert parse(good[:31]) is Defect.DROPPED
    assert parse(good[:-1]) is Defect.DROPPED
    assert parse(b"WEBM" + good[4:]) is Defect.CRASH


@given(st.binary(max_size=80))
def test_no_bytes_break_the_parser(data: bytes) -> None:
    parse(data)
    parse(packet(1)[:4] + data)
