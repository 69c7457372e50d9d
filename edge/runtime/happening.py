"""What people may want to know."""

from __future__ import annotations

from dataclasses import dataclass

from edge.runtime.ports import JsonObject


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that people may want to know. `kind` is stable; `detail` holds a server's message where there is
    one."""

    kind: str
    text: str
    detail: JsonObject | None = None
