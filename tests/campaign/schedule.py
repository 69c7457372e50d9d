"""What goes wrong, and when: a random schedule of faults for one run, made from its seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of incident."""

    RESET = "reset"  # every connection gets a RST
    REFUSAL = "refusal"  # the same, and new connections are refused for a while
    STALL = "stall"  # half-open: nothing passes, nothing closes, for far less than the grace window
    OUTAGE = "outage"  # refusal or stall for about the grace window or longer
    KILL = "kill"  # SIGKILL of the server, then a new one
    TERM = "term"  # SIGTERM of the server, then a new one
    SLOW = "slow"  # latency or a narrow line; nothing is lost by it


@dataclass(frozen=True, slots=True)
class Fault:
    """One planned incident: it begins `at` seconds after the recorder's start, or when the one before is over.

    half_open    the connections stall; otherwise they are reset and new ones refused
    everything   a stall also holds new connections; otherwise only those that are open
    blackhole    what a stall held never passes; otherwise it passes when the stall is over
    latency_s    the line is so slow in the second before, so that much is in flight when it happens
    """

    at: float
    kind: Kind
    seconds: float = 0.0
    half_open: bool = False
    everything: bool = True
    blackhole: bool = False
    latency_s: float = 0.0

    def __str__(self) -> str:
        words: list[str] = [self.kind]
        if self.half_open:
            words.append("half-open" if self.everything else "half-open (old sockets)")
        if self.blackhole:
            words.append("black hole")
        duration = f" {self.seconds:.2f} s" if self.seconds else ""
        slow = f" (latency {self.latency_s:.2f} s)" if self.latency_s else ""
        return f"{self.at:.2f} {' '.join(words)}{duration}{slow}"


SHORT_S = 10.5  # a refusal or a stall lasts so long at most: recovery ends well within the grace
TERM_S = 31.0  # how long a server may live on after SIGTERM (PROTOCOL.md, trap 7)
SLOW_BEFORE_S = 1.0
_WEIGHTS = {
    Kind.RESET: 5,
    Kind.REFUSAL: 3,
    Kind.STALL: 5,
    Kind.OUTAGE: 2,
    Kind.KILL: 3,
    Kind.TERM: 1,
    Kind.SLOW: 2,
}


def draw(seed: int, seconds: float, grace_s: float) -> list[Fault]:
    """The faults of one run that lasts `seconds`; the same seed gives the same faults.

    At most one SIGTERM (an aia-v4 server takes half a minute over it) and two outages a run. Pauses between faults are
    often shorter than a recovery, on purpose. The last fault is over before the audio is.
    """
    dice = random.Random(f"faults/{seed}")
    most = {Kind.TERM: 1, Kind.OUTAGE: 2}
    drawn: dict[Kind, int] = {}
    faults: list[Fault] = []
    at = dice.uniform(0.5, 5.0)
    while True:
        kinds = [kind for kind in _WEIGHTS if drawn.get(kind, 0) < most.get(kind, 99)]
        kind = dice.choices(kinds, [_WEIGHTS[kind] for kind in kinds])[0]
        fault = _one(dice, kind, at, grace_s)
        lasts = fault.seconds + (SLOW_BEFORE_S if fault.latency_s else 0.0) + (TERM_S if kind is Kind.TERM else 0.0)
        if at + lasts > seconds - 2.0:
            return faults
        drawn[kind] = drawn.get(kind, 0) + 1
        faults.append(fault)
        at += lasts + 0.1 + dice.expovariate(1 / 4.0)


def _one(dice: random.Random, kind: Kind, at: float, grace_s: float) -> Fault:
    at = round(at, 2)
    slow = dice.choice([0.0, round(dice.uniform(0.05, 0.6), 2)])
    match kind:
        case Kind.RESET:
            return Fault(at, kind, latency_s=slow)
        case Kind.REFUSAL:
            return Fault(at, kind, round(dice.uniform(0.3, SHORT_S), 2), latency_s=slow)
        case Kind.STALL:
            seconds = round(dice.uniform(0.3, SHORT_S), 2)
            return Fault(at, kind, seconds, True, dice.random() < 0.5, dice.random() < 0.5)
        case Kind.OUTAGE:
            seconds = round(dice.uniform(grace_s - 1.5, grace_s + 9.0), 2)
            return Fault(at, kind, seconds, dice.random() < 0.5, True, dice.random() < 0.5)
        case Kind.KILL | Kind.TERM:
            return Fault(at, kind, round(dice.uniform(0.1, 3.0), 2), latency_s=slow)
        case Kind.SLOW:
            return Fault(at, kind, round(dice.uniform(1.0, 6.0), 2))
