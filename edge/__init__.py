"""edge: the recorder that never loses a sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.client import ResilientWebSocket

__all__ = ["ResilientWebSocket"]


def __getattr__(name: str) -> Any:
    """Import the library's face only when it is asked for: commands and the receiver do not pay for it."""
    if name == "ResilientWebSocket":
        from edge.client import ResilientWebSocket

        return ResilientWebSocket
    raise AttributeError(f"module 'edge' has no attribute {name!r}")
