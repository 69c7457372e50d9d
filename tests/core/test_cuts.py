"""CutModel against a server that is simulated packet by packet: never a packet too many, exact where it can be."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge.core.cuts import CutModel


@dataclass
class BruteServer:
    """PROTOCOL.md, "Segments": header durations add up; a cut keeps the last 500 ms as overlap, in whole packets."""

    target_ms: int
    overlap_up: bool = False

    def __post_init__(self) -> None:
        self.buffer: list[tuple[int, int]] = []
        self.cut: set[int] = set()
        self.cuts: list[int] = []  # number of packets appended when each cut fell
        self.appended = 0

    def append(self, seq: int, ms: int) -> None:
        self.appended += 1
        self.buffer.append((seq, ms))
        if sum(length for _, length in self.buffer) >= max(500, self.target_ms):
            self.cut |= {number for number, _ in self.buffer}
            self.cuts.append(self.appended)
            rest: list[tuple[int, int]] = []
            for packet in reversed(self.buffer):
                kept = sum(length for _, length in rest)
                if kept >= 500 or (kept + packet[1] > 500 and not self.overlap_up):
                    break
                rest.insert(0, packet)
            self.buffer = rest

    @property
    def surely_cut(self) -> int:
        """All packets up to this one lie before a cut."""
        seq = 0
        while seq + 1 in self.cut:
            seq += 1
        return seq


def test_the_measured_example() -> None:
    model = CutModel(20, 15000)
    server = BruteServer(15000)
    for seq in range(1, 2301):
        server.append(seq, 20)
        assert model.surely_cut(seq, 0, 0) == server.surely_cut
        assert model.reached(seq) == len(server.cuts)
    assert server.cuts == [750, 1475, 2200]
    assert (model.window, model.interval, model.is_exact) == (750, 725, True)


@pytest.mark.parametrize(
    ("packet_ms", "target_ms", "is_exact"),
    [
        (20, 15000, True),
        (100, 15000, True),
        (250, 15000, True),
        (60, 15000, False),  # 500 ms are no whole number of packets
        (100, 15050, False),
        (100, 500, False),  # every packet cuts
        (100, 600, True),
        (100, 100, False),
        (30, 15000, False),
    ],
)
def test_cuts_are_exact_on_whole_packets_only(packet_ms: int, target_ms: int, is_exact: bool) -> None:
    assert CutModel(packet_ms, target_ms).is_exact is is_exact


@pytest.mark.parametrize(
    ("packet_ms", "target_ms", "window", "interval"),
    [
        (100, 15000, 150, 145),
        (60, 15000, 250, 241),
        (100, 500, 5, 1),
        (100, 0, 5, 1),
        (250, 600, 3, 1),
        (600, 500, 1, 1),
    ],
)
def test_the_way_from_cut_to_cut(packet_ms: int, target_ms: int, window: int, interval: int) -> None:
    model = CutModel(packet_ms, target_ms)
    assert (model.window, model.interval) == (window, interval)


def test_repeats_move_the_sure_cut_down() -> None:
    """The formula of PROTOCOL.md, by hand: F = 150, G = 145."""
    model = CutModel(100, 15000)
    assert model.surely_cut(149, 0, 0) == 0
    assert model.surely_cut(150, 0, 0) == 150
    assert model.surely_cut(150, 20, 0) == 130
    assert model.surely_cut(299, 20, 0) == 275
    assert model.surely_cut(290, 20, 0) == 146  # four repeats: 294 appended, the one cut fell at packet 146
    assert model.surely_cut(150, 1000, 0) == 6  # however many: there is a cut among any 150 in a row, minus a period
    assert model.surely_cut(10, 5, 0) == 0


def test_short_packets_leave_the_longest_way_only() -> None:
    model = CutModel(100, 15000)
    assert model.surely_cut(200, 0, 1) == 49
    assert model.surely_cut(151, 0, 1) == 0
    assert model.surely_cut(150, 0, 1) == 0
    assert CutModel(60, 15000).surely_cut(300, 5, 0) == 50


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[CutModel, BruteServer, int, int, int]:
    """Several sockets: each sends on from what was confirmed, some of that arrives, less of it is confirmed."""
    packet_ms = draw(st.sampled_from([20, 50, 60, 100, 125, 250, 300, 23]))
    target_ms = draw(st.sampled_from([0, 500, 600, 1000, 1500, 2500, 3000]))
    server = BruteServer(target_ms, draw(st.booleans()))
    short_at = draw(st.sets(st.integers(1, 60), max_size=draw(st.sampled_from([0, 0, 1, 4]))))
    lengths = {seq: draw(st.integers(1, packet_ms)) if seq in short_at else packet_ms for seq in range(1, 400)}
    confirmed = repeats = shorts = 0
    for _ in range(draw(st.integers(1, 6))):
        sent = draw(st.integers(0, 60))
        arrived = draw(st.integers(0, sent))
        new = draw(st.integers(0, arrived))
        for seq in range(confirmed + 1, confirmed + sent + 1):
            shorts += seq in short_at
            if seq <= confirmed + arrived:
                server.append(seq, lengths[seq])
        confirmed += new
        repeats += sent - new
    return CutModel(packet_ms, target_ms), server, confirmed, repeats, shorts


@settings(max_examples=500, derandomize=True, deadline=None)
@given(deliveries())
def test_never_more_than_was_really_cut(case: tuple[CutModel, BruteServer, int, int, int]) -> None:
    model, server, confirmed, repeats, shorts = case
    claim = model.surely_cut(confirmed, repeats, shorts)
    assert 0 <= claim <= confirmed
    assert claim <= server.surely_cut
    assert model.surely_cut(confirmed, repeats + 1, shorts) <= claim
    if not shorts:
        assert model.reached(server.appended) >= len(server.cuts) or not model.is_exact


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.sampled_from([20, 50, 100, 125, 250]), st.integers(2, 60), st.integers(0, 500))
@example(20, 30, 499)
def test_exact_where_nothing_was_repeated(packet_ms: int, halves: int, count: int) -> None:
    model = CutModel(packet_ms, 500 * halves)
    server = BruteServer(500 * halves)
    for seq in range(1, count + 1):
        server.append(seq, packet_ms)
    assert model.is_exact
    assert model.surely_cut(count, 0, 0) == server.surely_cut
    assert model.reached(count) == len(server.cuts)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.integers(0, 400), st.integers(0, 400))
def test_the_minimum_over_one_period_is_the_minimum(arrived: int, repeats: int) -> None:
    """PROTOCOL.md takes it over all d in 0..D; the model stops after one period."""
    model = CutModel(100, 2500)

    def last_cut(appended: int) -> int:
        return 0 if appended < 25 else 25 + 20 * ((appended - 25) // 20)

    formula = max(0, min(last_cut(arrived + d) - d for d in range(repeats + 1)))
    assert model.surely_cut(arrived, repeats, 0) >= formula
    assert model.surely_cut(arrived, repeats, 0) == max(formula, arrived - 25)
