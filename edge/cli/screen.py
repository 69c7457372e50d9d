"""What a person sees of a recording at work: each fact once, with the time, and one live line below."""

from __future__ import annotations

import contextlib
import sys
import time

from edge.core.link import Change
from edge.core.session import State
from edge.runtime.device import Status
from edge.runtime.happening import Happening
from edge.runtime.noserver import KEPT

_QUIET = {"message", "connected"}
_ATTEMPTS = {"waiting", "attempt"}
_FAILURES = {"lost", "refused"}  # told at each attempt
_MEANS = "; audio is kept"


class Screen:
    """Events as lines on stderr and, on a terminal, one live line below them. `is_verbose`: each attempt, and whatever
    cut a wait for one short, is a line, too."""

    def __init__(self, *, is_verbose: bool = False) -> None:
        self._is_verbose = is_verbose
        self._is_live = sys.stderr is not None and sys.stderr.isatty()
        self._has_line = False
        self._last_failure = ""
        self._away_since: float | None = None
        self._link_news = ""
        self._is_cut_off = False
        self._is_kept_said = False

    def tell(self, happening: Happening) -> None:
        """One event, unless it would only repeat what the live line shows, the failure before, or the news of the
        link that it follows from."""
        text, detail = happening.text, happening.detail or {}
        is_echo = bool(self._link_news) and text.endswith(self._link_news)
        match happening.kind:
            case "link":
                self._link_news = text.removeprefix("network: ")
                self._is_cut_off = detail["change"] == Change.LOST.value
            case kind if kind in _FAILURES:
                self._is_away()
                is_repeated, self._last_failure = text == self._last_failure, text
                if is_repeated or is_echo or (self._is_cut_off and not self._is_verbose):
                    return  # without a way no attempt can but fail
                if self._is_kept_said:
                    text = text.replace(_MEANS, "", 1)
            case "state":
                text = self._state(text, detail["new"])
            case "moving" if is_echo:
                return
            case "woken":
                self._last_failure = ""  # somebody asked, and wants an answer
                if is_echo and not self._is_verbose:
                    return
        if happening.kind not in _QUIET and (self._is_verbose or happening.kind not in _ATTEMPTS):
            self.say(text)

    def _state(self, text: str, new: str) -> str:
        if new == State.RECONNECTING.value:
            self._is_away()
            self._is_kept_said = True
            return text + _MEANS
        if new == State.CONNECTED.value:
            if self._away_since is not None:
                away_s = time.monotonic() - self._away_since
                text += f", after {away_s:.{0 if away_s >= 10 else 1}f} s"
            self._last_failure, self._away_since, self._link_news = "", None, ""
            self._is_cut_off = self._is_kept_said = False
        return text

    def _is_away(self) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()

    def say(self, text: str) -> None:
        """One line for people, with the time."""
        self.clear()
        line = " ".join(text.split())
        line = "".join(sign if sign.isprintable() else "?" for sign in line)
        self._print(f"{time.strftime('%H:%M:%S')} {line}\n")

    def show(self, status: Status) -> None:
        """Replace the live line."""
        self.line(_live_line(status))

    def line(self, text: str) -> None:
        """Replace the live line by `text`."""
        if self._is_live:
            self._print("\r\x1b[2K" + text)
            self._has_line = True

    def clear(self) -> None:
        """Take the live line away."""
        if self._has_line:
            self._print("\r\x1b[2K")
            self._has_line = False

    @staticmethod
    def _print(text: str) -> None:
        """Nobody may be there to read it (a closed pipe, a full disk): the recording goes on all the same."""
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(text)
                sys.stderr.flush()


def _live_line(status: Status) -> str:
    bar = "#" * max(0, min(12, round((status.level_dbfs + 60) / 5)))
    activity = f"REC {status.recorded:7.1f} s" if status.is_recording else "sending      "
    lost = f"  lost {status.lost:.1f} s" if status.lost else ""
    card = f"  CARD: {status.card_trouble}, {status.unsafe:.0f} s in memory only" if status.card_trouble else ""
    if status.is_local:
        return f"{activity} [{bar:<12}] on the card {status.undelivered - status.unsafe:.1f} s{lost}{card}  {KEPT}"
    return (
        f"{activity} [{bar:<12}] ring {status.ring_used:.1f}/{status.ring_size:.0f} s"
        f"  unconfirmed {status.unhandled:.1f} s{lost}{card}  {status.state.value}"
    )
