"""JSON messages: each of PROTOCOL.md's becomes its event; nonsense becomes Unknown and never an error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core import messages
from edge.core.events import Ack, Backpressure, Event, Hello, Pinged, Pong, Unknown
from edge.core.ledger import Gap
from edge.core.packet import MAX_SEQ, AudioFormat
from edge.core.timebase import Anchor


def test_init_is_the_documented_message() -> None:
    assert messages.init(AudioFormat(16000, 1), 320, 1, 15000, acks=False) == {
        "type": "init",
        "supports_pcm": True,
        "format": "pcm16",
        "sample_rate": 16000,
        "channels": 1,
        "frame_duration_ms": 20,
        "frame_samples": 320,
        "next_seq": 1,
        "segment_target_ms": 15000,
    }
    acked = messages.init(AudioFormat(11025, 2), 220, 9, 5000, acks=True)
    assert (acked["acks"], acked["frame_duration_ms"], acked["next_seq"], acked["channels"]) == (True, 20, 9, 2)


def test_a_gap_is_the_documented_message() -> None:
    assert messages.gap(Gap(4, 160, "xrun")) == {"type": "gap", "before_seq": 4, "frames": 160, "cause": "xrun"}


def test_a_clock_is_the_documented_message() -> None:
    wrong, right = Anchor("b", 3600.0, trusted=False), Anchor("b", 1e9, trusted=True)
    told = {"type": "clock", "boot_id": "b", "boot_s": 12.5, "utc_s": 3612.5, "trusted": False}
    assert messages.clock(wrong, 12.5, None) == told
    assert messages.clock(wrong, 12.5, wrong) == told
    told = {"type": "clock", "boot_id": "b", "boot_s": 20.0, "utc_s": 1e9 + 20.0, "trusted": True}
    assert messages.clock(right, 20.0, wrong) == {**told, "was_utc_minus_boot_s": 3600.0}


def test_what_we_say_to_an_aia_server_is_the_documented_text() -> None:
    assert messages.PING == {"type": "ping"}
    assert messages.PONG == {"type": "pong"}
    assert messages.STOP == {"action": "stop_stream"}


@pytest.mark.parametrize(
    ("message", "event"),
    [
        ({"type": "pong"}, Pong(3)),
        ({"type": "ack", "seq": 5}, Ack(3, 5)),
        ({"type": "ack", "seq": MAX_SEQ}, Ack(3, MAX_SEQ)),
        ({"type": "ping", "ts": 1}, Pinged(3, None)),
        ({"type": "ping", "ts": 1, "is_recording": False}, Pinged(3, None)),
        ({"type": "ping", "t": 1, "is_recording": True, "audio_ms": 0, "ws_connected": True}, Pinged(3, True)),
        ({"type": "ping", "t": 1, "is_recording": False}, Pinged(3, False)),
        ({"type": "hello", "session_id": "x"}, Hello(3, False, 1)),
        ({"type": "hello", "session_id": "x", "acks": True, "next_seq": 7}, Hello(3, True, 7)),
        ({"type": "event", "event": "backpressure_reject", "pending": 20}, Backpressure(3)),
    ],
)
def test_each_message_is_its_event(message: dict[str, Any], event: Event) -> None:
    assert messages.parse(message, 3) == event


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"type": None},
        {"type": ["ping"]},
        {"type": "ack"},
        {"type": "ack", "seq": -1},
        {"type": "ack", "seq": True},
        {"type": "ack", "seq": 1.0},
        {"type": "ack", "seq": MAX_SEQ + 1},
        {"type": "event", "event": "other"},
        {"type": "status", "state": "RESUMED"},
        {"type": "warning", "event": "no_audio_detected"},
        {"type": "info", "reason": "replaced", "by": "x"},
        {"event": "backpressure_reject"},
    ],
)
def test_anything_else_is_passed_on(message: dict[str, Any]) -> None:
    assert messages.parse(message, 3) == Unknown(3, message)


@pytest.mark.parametrize(
    "hello",
    [
        {"acks": True},
        {"acks": True, "next_seq": "7"},
        {"acks": 1, "next_seq": 7},
        {"acks": True, "next_seq": -1},
        {"acks": False, "next_seq": 7},
    ],
)
def test_a_hello_with_half_an_extension_is_a_plain_one(hello: dict[str, Any]) -> None:
    assert messages.parse({"type": "hello", **hello}, 3) == Hello(3, False, 1)


@pytest.mark.parametrize("ping", [{"t": 1}, {"t": 1, "is_recording": None}, {"t": 1, "is_recording": "no"}])
def test_a_t_ping_without_a_verdict_condemns_nobody(ping: dict[str, Any]) -> None:
    assert messages.parse({"type": "ping", **ping}, 3) == Pinged(3, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(["type", "event", "seq", "acks", "next_seq", "t", "is_recording"])
VALUES = JSON | st.sampled_from(["ping", "pong", "ack", "hello", "event", "backpressure_reject"])


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(KEYS, VALUES))
def test_no_message_is_an_error(message: dict[str, Any]) -> None:
    assert messages.parse(message, 3).attempt == 3
