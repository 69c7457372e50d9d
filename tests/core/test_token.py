"""core.token: what a JWT says of its life, whatever stands in it, and when the next one is due."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.token import Token, due_after, granted_life, life_of

NOW = 1_800_000_000.0


def jwt(claims: Any) -> str:
    """As a server makes it; nobody here looks at the signature."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    )
    return f"{head}.{body}.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("life_s", "due_s"),
    [(3600, 3300), (86400, 86100), (1500, 1200), (1499, 1199.2), (600, 480), (300, 240), (60, 48), (1, 0.8), (0, 0)],
)
def test_the_next_one_is_due_late_in_its_life_and_well_before_its_end(life_s: float, due_s: float) -> None:
    assert due_after(life_s) == pytest.approx(due_s)


@given(st.floats(0, 1e9))
def test_it_is_due_within_its_life(life_s: float) -> None:
    assert 0 <= due_after(life_s) <= life_s
    assert life_s - due_after(life_s) <= 300.0001


def test_the_text_is_not_in_what_is_printed() -> None:
    assert "secret" not in repr(Token("secret", 3.0))


def test_a_trusted_clock_says_how_long_it_still_lives() -> None:
    token = jwt({"iat": NOW - 600, "exp": NOW + 3000})
    assert life_of(token, NOW) == 3000
    assert life_of(token, NOW + 2990) == 10
    assert life_of(token, NOW + 9999) == 0
    assert life_of(jwt({"exp": NOW + 7}), NOW) == 7


def test_without_one_a_token_lives_as_long_as_it_was_made_to() -> None:
    assert life_of(jwt({"iat": NOW, "exp": NOW + 3600}), None) == 3600
    assert life_of(jwt({"iat": NOW, "exp": NOW - 1}), None) == 0
    assert life_of(jwt({"exp": NOW + 3600}), None) is None


@pytest.mark.parametrize(
    "text",
    [
        "", "opaque", "a.b", "a.b.c.d", "a.%%%.c", "a..c", "a.\u00e9.c", f"a.{'A' * 20000}.c",
        jwt([]), jwt(7), jwt({}), jwt({"exp": None}), jwt({"exp": "soon"}), jwt({"exp": True}), jwt({"exp": -1}),
        jwt({"exp": float("nan")}), jwt({"exp": float("inf")}), jwt({"exp": 10**400}),
        "a." + base64.urlsafe_b64encode(b"[" * 9000).decode() + ".c",
        "a." + base64.urlsafe_b64encode(b"\xff\xfe{").decode() + ".c",
    ],
)  # fmt: skip
def test_of_anything_else_nobody_knows(text: str) -> None:
    assert life_of(text, NOW) is None
    assert life_of(text, None) is None


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", fullmatch=True))
def test_nothing_breaks_it(text: str) -> None:
    life = life_of(text, NOW)
    assert life is None or life >= 0


def test_an_answer_is_believed_in_the_order_of_how_little_it_needs_a_clock() -> None:
    token = jwt({"iat": NOW, "exp": NOW + 100})
    assert granted_life({"expires_in": 3600, "expires_at": NOW + 50}, token, NOW) == 3600
    assert granted_life({"expires_in": 3600}, token, None) == 3600
    assert granted_life({"expires_at": NOW + 50}, token, NOW) == 50
    assert granted_life({"expires_at": NOW - 50}, token, NOW) == 0
    assert granted_life({"expires_at": NOW + 50}, token, None) == 100
    assert granted_life({"expires_in": "3600", "expires_at": []}, token, NOW) == 100
    assert granted_life({}, "opaque", NOW) is None
