"""The journal: each line stands for itself, whatever happened to its neighbours."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.journal import (
    BootEntry,
    EndEntry,
    Entry,
    GapEntry,
    LostEntry,
    MarkEntry,
    SessionEntry,
    decode,
    encode,
)

N = st.integers(0, 2**53)
TEXT = st.text()
S = st.floats(-1e12, 1e12)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(BootEntry, N, TEXT, S, st.booleans()),
    st.builds(SessionEntry, TEXT, N, TEXT, N, S),
    st.builds(GapEntry, N, N, N, TEXT),
    st.builds(LostEntry, N, N, N, TEXT),
    st.builds(MarkEntry, N, N),
    st.builds(EndEntry, N, TEXT),
)
SOME: list[Entry] = [
    BootEntry(0, "b", 1.7e9, True),
    GapEntry(3, 100, 50, "xrun"),
    SessionEntry("s-1", 1, "acks", 0, 12.5),
    EndEntry(900, "stop"),
]


def line(value: object) -> bytes:
    text = json.dumps(value).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


@given(st.lists(ENTRIES))
def test_entries_come_back(entries: list[Entry]) -> None:
    assert decode(encode(entries)) == (entries, 0)
    # Each try begins with a line feed; space that was never written is zeros.
    assert decode(b"\n" + encode(entries) + bytes(500)) == (entries, 0)


def test_each_flipped_bit_costs_the_lines_that_it_touches_and_is_counted() -> None:
    data = encode(SOME)
    ends = [len(encode(SOME[:count])) for count in range(1, len(SOME) + 1)]
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        entries, damaged = decode(bytes(changed))
        hit = next(index for index, end in enumerate(ends) if bit // 8 < end)
        is_joint = bit // 8 == ends[hit] - 1  # the line feed itself: it takes the next line with it
        assert damaged >= 1
        assert entries == SOME[:hit] + SOME[hit + 1 + is_joint :]


def test_each_truncation_leaves_the_lines_before() -> None:
    data = encode(SOME)
    ends = [0, *(len(encode(SOME[:count])) for count in range(1, len(SOME) + 1))]
    for size in range(len(data)):
        entries, damaged = decode(data[:size])
        whole = sum(1 for end in ends[1:] if end - 1 <= size)  # a line lacks nothing without its line feed
        assert entries == SOME[:whole]
        assert damaged == (size not in (*ends, *(end - 1 for end in ends)))


def test_a_torn_line_does_not_swallow_the_next_one() -> None:
    torn = encode(SOME[:1])[:20]
    assert decode(torn + b"\n" + encode(SOME[1:])) == (SOME[1:], 1)


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "mark", "delivered": 1},
        {"kind": "mark", "delivered": "1", "handled": 1},
        {"kind": "what is that", "delivered": 1},
        {"delivered": 1},
        {"kind": ["mark"]},
        ["mark"],
        5,
    ],
)
def test_what_is_not_understood_is_passed_over_and_counted(value: object) -> None:
    assert decode(line(value) + encode(SOME)) == (SOME, 1)


def test_a_line_with_a_checksum_and_no_json_is_passed_over() -> None:
    text = b"{nothing"
    assert decode(b"%08x %b\n" % (zlib.crc32(text), text)) == ([], 1)


def test_a_later_version_may_say_more() -> None:
    data = line({"kind": "mark", "delivered": 1, "handled": 2, "mood": "good"})
    assert decode(data) == ([MarkEntry(1, 2)], 0)
