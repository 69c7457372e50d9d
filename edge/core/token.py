"""How long a token lives, and when the next one is due. Nothing here verifies a token: that is the server's part."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, field
from typing import Any

_SHARE = 0.8
_MARGIN_S = 300.0
_MOST = 1 << 14


@dataclass(frozen=True, slots=True)
class Token:
    """`text` is for the server alone. `life_s`: seconds that it lives from when it was received; None: nobody knows,
    it serves until it is refused."""

    text: str = field(repr=False)
    life_s: float | None = None


def due_after(life_s: float) -> float:
    """Seconds from receipt to when the next token should be fetched: at 80 % of its life or 5 minutes before its end,
    whichever is later."""
    return max(0.0, _SHARE * life_s, life_s - _MARGIN_S)


def life_of(text: str, utc_s: float | None) -> float | None:
    """Seconds that the JWT `text` still lives: until `exp` by a wall clock that can be trusted (`utc_s`).

    None for that clock: as long as from `iat` to `exp`, which is true of a token that was just made. The answer is None
    where it is no JWT, or does not say.
    """
    claims = _claims(text)
    end, begin = _time(claims.get("exp")), _time(claims.get("iat"))
    if end is None:
        return None
    if utc_s is not None:
        return max(0.0, end - utc_s)
    return None if begin is None else max(0.0, end - begin)


def granted_life(answer: dict[str, Any], text: str, utc_s: float | None) -> float | None:
    """Seconds that a token lives which came with `answer`: by its `expires_in`, which needs no clock, else by
    `expires_at` and a trusted one, else by the token itself."""
    life = _time(answer.get("expires_in"))
    end = _time(answer.get("expires_at"))
    if life is not None:
        return life
    if end is not None and utc_s is not None:
        return max(0.0, end - utc_s)
    return life_of(text, utc_s)


def _claims(text: str) -> dict[str, Any]:
    parts = text.split(".")
    if len(parts) != 3 or len(text) > _MOST:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _time(value: Any) -> float | None:
    """A number of seconds, which may be anything in what others wrote."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
