"""The manifest: comes back whole, or says in words what is wrong."""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.manifest import CardState, Manifest, decode, encode
from edge.core.packet import AudioFormat
from tests.core.cards import meta

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
MANIFESTS = st.builds(
    Manifest,
    st.uuids().map(str),
    st.text(),
    st.text(),
    st.text(),
    st.builds(AudioFormat, st.integers(1, 2**32 - 1), st.integers(1, 65535)),
    st.integers(1, 65535),
    st.dictionaries(st.text(), JSON),
    st.integers(0, 2**40),
    st.text(),
    st.booleans(),
    st.sampled_from(CardState),
    st.text(),
    st.floats(0, 4e9),
)


def signed(**changes: Any) -> bytes:
    """One that somebody made by hand, with the right checksum."""
    value = {**json.loads(encode(meta())), **changes}
    del value["crc32"]
    value = {key: item for key, item in value.items() if item is not ...}
    check = zlib.crc32(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())
    return json.dumps({**value, "crc32": f"{check:08x}"}).encode()


@given(MANIFESTS)
def test_a_manifest_comes_back(manifest: Manifest) -> None:
    assert decode(encode(manifest)) == manifest


def test_each_flipped_bit_is_noticed() -> None:
    data = encode(meta())
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            decode(bytes(changed))


def test_each_truncation_is_noticed() -> None:
    data = encode(meta())
    for size in range(len(data) - 1):
        with pytest.raises(ValueError):
            decode(data[:size])
    assert decode(data[:-1]) == meta()  # the last line feed says nothing


def test_one_made_by_hand_is_read_if_it_is_right() -> None:
    assert decode(signed(number=7)).number == 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "version 2 is not 1"),
        ({"rate": 0}, "makes no sense"),
        ({"channels": 0}, "makes no sense"),
        ({"packet_frames": 0}, "makes no sense"),
        ({"packet_frames": 65536}, "makes no sense"),
        ({"rate": ...}, "missing"),
        ({"rate": None}, "wrong kind"),
        ({"rate": float("inf")}, "wrong kind"),
        ({"recording": 5}, "wrong kind"),
        ({"settings": 5}, "wrong kind"),
        ({"recording": "../../etc"}, "UUID"),
        ({"state": "asleep"}, "asleep"),
    ],
)
def test_what_makes_no_sense_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode(signed(**changes))


@pytest.mark.parametrize("data", [b"", b"[]", b"5", b"{}", b"null"])
def test_what_is_no_manifest_is_none(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_a_checksum_that_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="checksum does not fit"):
        decode(encode(meta()).replace(b"USB", b"USC"))
