"""Segments as bytes: what is damaged, torn or left from an earlier life is never taken for a packet."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.packet import HEADER_BYTES, AudioFormat, encode_header
from edge.core.segment import (
    BLOCK_BYTES,
    HEAD_BYTES,
    CardPacket,
    RecordCodec,
    SegmentHeader,
    Torn,
    decode_segment,
    encode_segment,
    record_bytes,
    records_in,
)
from edge.errors import PacketError
from tests.core.cards import AUDIO, RECORDING, header, packet

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
HEADERS = st.builds(
    SegmentHeader,
    st.uuids().map(str),
    U32,
    st.integers(1, 2**32 - 1),
    U64,
    U64,
    st.builds(AudioFormat, st.integers(1, 2**32 - 1), st.integers(1, 65535)),
    st.integers(1, 65535),
    U32,
)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(HEADERS)
def test_a_header_comes_back(wanted: SegmentHeader) -> None:
    block = encode_segment(wanted)
    assert len(block) == BLOCK_BYTES
    assert decode_segment(block) == wanted


def test_each_flipped_bit_of_a_header_is_noticed() -> None:
    wanted = header(first_seq=5, position=77, offset=70, index=3)
    block = encode_segment(wanted)
    used = len(block.rstrip(b"\0"))
    for bit in range(8 * used):
        with pytest.raises(Torn):
            decode_segment(flipped(block, bit))
    assert decode_segment(flipped(block, 8 * BLOCK_BYTES - 1)) == wanted  # padding means nothing


@pytest.mark.parametrize("size", [0, 1, 100, BLOCK_BYTES - 1])
def test_a_header_cut_off_is_noticed(size: int) -> None:
    with pytest.raises(Torn, match="no whole header"):
        decode_segment(encode_segment(header())[:size])


def test_a_header_of_another_version_is_named() -> None:
    block = bytearray(encode_segment(header()))
    block[8] = 2
    size = len(bytes(block).rstrip(b"\0"))
    fields = bytes(block[: size - 4])
    with pytest.raises(Torn, match="version 2"):
        decode_segment((fields + zlib.crc32(fields).to_bytes(4, "little")).ljust(BLOCK_BYTES, b"\0"))


def test_a_segment_of_zeros_is_none() -> None:
    with pytest.raises(Torn, match="no header of ours"):
        decode_segment(bytes(BLOCK_BYTES))


def test_records_stand_where_arithmetic_finds_them() -> None:
    place = header(first_seq=5)
    assert place.record_bytes == record_bytes(AUDIO, 8) == HEAD_BYTES + HEADER_BYTES + 16
    assert [place.place(seq) for seq in (5, 7)] == [BLOCK_BYTES, BLOCK_BYTES + 2 * place.record_bytes]
    assert records_in(BLOCK_BYTES + 2 * place.record_bytes + 1, AUDIO, 8) == 2
    assert records_in(10, AUDIO, 8) == 1


@given(
    frames=st.integers(1, 8),
    fields=st.fixed_dictionaries(
        {"boot_us": U64, "boot": st.integers(0, 65535), "delivered": U32, "handled": U32, "key_id": st.integers(0, 255)}
    ),
    position=U64,
)
def test_records_come_back(frames: int, fields: dict[str, int], position: int) -> None:
    codec = RecordCodec(header())
    written = [packet(1, frames, position, **fields), packet(2, position=0)]
    data = codec.encode(written)
    size = codec.header.record_bytes
    assert len(data) == 2 * size
    assert [codec.decode(data[:size], 1), codec.decode(memoryview(data)[size:], 2)] == written
    assert (written[0].seq, written[0].frames) == (1, frames)


@pytest.mark.parametrize("frames", [8, 3])
def test_each_flipped_bit_of_a_record_is_noticed(frames: int) -> None:
    codec = RecordCodec(header())
    wanted = packet(1, frames, delivered=3, handled=4)
    record = codec.encode([wanted])
    used = HEAD_BYTES + len(wanted.wire)
    for bit in range(8 * len(record)):
        if bit < 8 * used:
            with pytest.raises(Torn):
                codec.decode(flipped(record, bit), 1)
        else:
            assert codec.decode(flipped(record, bit), 1) == wanted


@pytest.mark.parametrize("frames", [8, 3])
def test_each_truncation_of_a_record_is_noticed(frames: int) -> None:
    """A file that ends in it, and a power cut that left zeros, or what was there before."""
    codec = RecordCodec(header())
    wanted = packet(1, frames)
    record = codec.encode([wanted])
    stale = RecordCodec(header(nonce=8)).encode([packet(1, 8, position=999, boot_us=5)])
    for size in range(len(record)):
        with pytest.raises(Torn):
            codec.decode(record[:size], 1)
    needed = len((record[: HEAD_BYTES + len(wanted.wire)]).rstrip(b"\0"))
    for size in range(needed):
        with pytest.raises(Torn):
            codec.decode(record[:size].ljust(len(record), b"\0"), 1)
    for size in range(0, HEAD_BYTES, 4):
        with pytest.raises(Torn):
            codec.decode(record[:size] + stale[size:], 1)


@given(old=HEADERS, new=HEADERS, nonces=st.lists(U32, min_size=2, max_size=2, unique=True), seq=st.integers(1, 5))
def test_records_of_an_earlier_life_never_validate(
    old: SegmentHeader, new: SegmentHeader, nonces: list[int], seq: int
) -> None:
    old = replace(old, audio=AUDIO, packet_frames=8)
    new = replace(new, audio=AUDIO, packet_frames=8)
    for before, after in (
        (replace(old, nonce=nonces[0]), replace(new, nonce=nonces[1])),
        (replace(old, nonce=nonces[0]), replace(old, nonce=nonces[1])),
    ):
        record = RecordCodec(before).encode([packet(seq)])
        with pytest.raises(Torn, match="checksum"):
            RecordCodec(after).decode(record, seq)


def test_a_record_in_another_place_is_not_taken() -> None:
    codec = RecordCodec(header())
    with pytest.raises(Torn, match="packet 1 stands where 2 belongs"):
        codec.decode(codec.encode([packet(1)]), 2)


def test_a_record_of_another_format_is_not_taken() -> None:
    codec = RecordCodec(header())
    wire = encode_header(1, 0.0, 4, AudioFormat(8000, 2)) + bytes(16)
    with pytest.raises(Torn, match="stands where"):
        codec.decode(codec.encode([CardPacket(wire, 0, 0)]), 1)


def test_a_record_whose_packet_makes_no_sense_is_not_taken() -> None:
    codec = RecordCodec(header())
    with pytest.raises(Torn, match="shorter than a PCM1 header"):
        codec.decode(codec.encode([CardPacket(b"x" * 20, 0, 0)]), 1)


def test_a_packet_that_does_not_fit_is_refused() -> None:
    with pytest.raises(PacketError, match="longer than a record"):
        RecordCodec(header()).encode([packet(1, 9)])


def test_what_was_begun_is_told_from_what_was_never_written() -> None:
    codec = RecordCodec(header())
    record = codec.encode([packet(3)])
    assert codec.is_begun(record[:60] + bytes(24), 3)
    assert not codec.is_begun(record, 4)
    assert not codec.is_begun(bytes(len(record)), 3)
    assert not codec.is_begun(b"", 3)
    assert header().recording_id == RECORDING
