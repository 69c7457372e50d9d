"""What happened in a demo and when: events, outages, the two curves. Screen and picture are drawn from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from edge.runtime.happening import Happening


class Actor(StrEnum):
    """Who did it."""

    DEMO = "demo"
    BUTTON = "button"
    RECORDER = "recorder"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened `at` seconds after the demo began."""

    at: float
    actor: Actor
    text: str

    def __str__(self) -> str:
        return f"{self.at:6.1f} s  {self.actor:<8}  {self.text}"


@dataclass(slots=True)
class Outage:
    """A time without a way to the receiver; `end` None: still."""

    label: str
    start: float
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """Where the recording stood `at` seconds after the demo began: seconds of audio, and the session (short)."""

    at: float
    captured: float
    delivered: float
    session: str


# What the recorder says and the demo repeats. The rest is on the screen anyhow, or said in the demo's own words.
_REPEATED = {
    "bug", "gap", "orphan", "overflow", "refused", "server-stopping", "session-gone", "takeover", "warning", "woken",
}  # fmt: skip
_STILL_LOST = "the server cannot be reached"  # no news while it was cut off by the demo itself


@dataclass(slots=True)
class Story:
    """Filled by the course of events; `on_event` sees each event at once, `now` is the headline."""

    on_event: Callable[[Event], None] = lambda event: None
    now: str = ""
    events: list[Event] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    attempt: str = ""
    _began: float = field(default_factory=time.monotonic)
    _last_loss: str = ""

    @property
    def clock(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    @property
    def is_cut(self) -> bool:
        """True while there is no way to the receiver."""
        return bool(self.outages) and self.outages[-1].end is None

    def say(self, actor: Actor, text: str) -> None:
        """One event."""
        event = Event(self.clock, actor, " ".join(text.split()))
        self.events.append(event)
        self.on_event(event)

    def outage(self, label: str) -> None:
        """From now on there is no way to the receiver."""
        self.outages.append(Outage(label, self.clock))

    def outage_ends(self) -> None:
        """There is one again."""
        if self.is_cut:
            self.outages[-1].end = self.clock

    def sample(self, captured: float, delivered: float, session: str) -> None:
        """One point of both curves."""
        self.samples.append(Sample(self.clock, captured, delivered, session))

    def tell(self, happening: Happening) -> None:
        """What the recorder says. A failure is an event once, not at every attempt."""
        match happening.kind:
            case "waiting":
                self.attempt = happening.text
            case "connected":
                self.attempt = self._last_loss = ""
            case "lost" if happening.text != self._last_loss and not happening.text.startswith(_STILL_LOST):
                self._last_loss = happening.text
                self.say(Actor.RECORDER, happening.text)
            case kind if kind in _REPEATED:
                self.say(Actor.RECORDER, happening.text)
