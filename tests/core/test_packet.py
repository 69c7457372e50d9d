"""PCM1: byte-exact headers both ways, and everything else refused by name."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.packet import MAX_SEQ, AudioFormat, Header, decode_header, duration_ms, encode_header
from edge.errors import PacketError

MONO = AudioFormat(16000, 1)


def packet(seq: int = 7, ms: float = 1234.5, frames: int = 4, audio: AudioFormat = MONO) -> bytes:
    return encode_header(seq, ms, frames, audio) + bytes(frames * audio.frame_bytes)


def test_the_header_is_the_documented_32_bytes() -> None:
    header = encode_header(0x01020304, 1.5, 320, AudioFormat(48000, 2))
    assert header.hex(" ", 4) == "50434d31 04030201 00000000 0000f83f 40010700 80bb0000 02000100 00050000"


def test_a_format_knows_its_frames() -> None:
    audio = AudioFormat(8000, 2)
    assert (audio.frame_bytes, audio.seconds(4000)) == (4, 0.5)


@settings(derandomize=True, deadline=None)
@given(
    st.integers(1, MAX_SEQ),
    st.floats(0, 1e14),
    st.integers(1, 4000),
    st.sampled_from([8000, 16000, 48000]),
    st.integers(1, 2),
)
def test_what_is_encoded_is_decoded(seq: int, ms: float, frames: int, rate: int, channels: int) -> None:
    audio = AudioFormat(rate, channels)
    header = decode_header(packet(seq, ms, frames, audio))
    assert header == Header(seq, ms, frames, duration_ms(frames, rate), rate, channels)
    assert header.payload_bytes == frames * channels * 2


@pytest.mark.parametrize(
    ("frames", "rate", "ms"), [(1600, 16000, 100), (1, 48000, 1), (24, 48000, 1), (72, 48000, 2), (220, 11025, 20)]
)
def test_durations_are_rounded_and_never_zero(frames: int, rate: int, ms: int) -> None:
    assert duration_ms(frames, rate) == ms


@pytest.mark.parametrize(("seq", "frames"), [(0, 1), (MAX_SEQ + 1, 1), (1, 0), (1, 65536), (-1, 1)])
def test_what_does_not_fit_is_refused(seq: int, frames: int) -> None:
    with pytest.raises(PacketError, match="does not fit"):
        encode_header(seq, 0.0, frames, MONO)


def test_limits_fit() -> None:
    assert decode_header(packet(MAX_SEQ, frames=65535)).frames == 65535
    assert decode_header(packet(1, frames=1)).seq == 1


def changed(offset: int, code: str, value: int) -> bytes:
    data = bytearray(packet())
    struct.pack_into(code, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes are shorter"),
        (packet()[:31], "31 bytes are shorter"),
        (changed(0, "<I", 0x12345678), "magic 0x12345678"),
        (changed(26, "<H", 2), "format 2"),
        (changed(4, "<I", 0), "must not be 0"),
        (changed(16, "<H", 0), "must not be 0"),
        (changed(20, "<I", 0), "must not be 0"),
        (changed(24, "<H", 0), "must not be 0"),
        (changed(28, "<I", 6), "6 payload bytes do not hold 4 frames of 1"),
        (packet()[:-1], "7 bytes follow a header that announces 8"),
        (packet() + b"x", "9 bytes follow a header that announces 8"),
    ],
)
def test_what_is_no_packet_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(PacketError, match=reason):
        decode_header(memoryview(data))


@settings(derandomize=True, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_do_harm(data: bytes) -> None:
    try:
        decode_header(data)
    except PacketError as error:
        assert "\n" not in str(error)
