"""What goes wrong in one run, and when: made from its seed alone. All times are seconds of world time."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tests.campaign import schedule as network
from tests.chaos.world import BROKEN, FULL, MICROPHONE, ClockStep, Window

GRACE_S = 30.0
QUIET_S = 4.0  # at the beginning and at the end, from anything but the network's faults
_KEPT = 0.45  # of the campaign's network faults: its audio is less often in peace
_EARLY = 0.1  # of the SIGKILLs come whenever they come, also while the recorder starts
HALF_HOUR_S = 1800.0


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL of the recorder at `at`; it is started again `after_s` later.

    Not before it has recorded for `lead_s` seconds: a start takes long at ten times the pace. None: no matter.
    """

    at: float
    after_s: float
    lead_s: float | None


@dataclass(frozen=True, slots=True)
class Schedule:
    """All of it. `network`: faults of the network and of the receiver."""

    network: tuple[network.Fault, ...]
    kills: tuple[Kill, ...]
    windows: tuple[Window, ...]
    steps: tuple[ClockStep, ...]
    keep_days: int
    ring_s: float


def draw(seed: str, seconds: float) -> Schedule:
    """The schedule of a run with `seconds` of audio; the same seed gives the same one."""
    dice = random.Random(f"chaos/{seed}")
    number = dice.randrange(1 << 30)
    faults = tuple(fault for fault in network.draw(number, seconds, GRACE_S) if dice.random() < _KEPT)
    last = seconds - QUIET_S
    kills = tuple(_kill(dice, at) for at in _moments(dice, last, 50.0, 12.0))
    windows = [
        Window(MICROPHONE, at, min(last, at + dice.uniform(0.3, 8.0))) for at in _moments(dice, last, 40.0, 10.0)
    ]
    for kind in (FULL, BROKEN):
        windows += [
            Window(kind, at, min(last, at + dice.uniform(0.5, 12.0))) for at in _moments(dice, last, 70.0, 15.0)
        ]
    return Schedule(
        faults,
        kills,
        tuple(sorted(windows, key=lambda window: window.begin)),
        _steps(dice, seconds),
        dice.choice([0, 1000]),
        dice.choice([60.0, 180.0]),
    )


def outages_and_kills(seed: str, seconds: float) -> Schedule:
    """For the bound of a SIGKILL: resets, refusals and outages, and a kill every few seconds."""
    dice = random.Random(f"kills/{seed}")
    faults, at = [], dice.uniform(1.0, 6.0)
    while at < seconds - 45.0:
        kind = dice.choice([network.Kind.RESET, network.Kind.REFUSAL, network.Kind.STALL, network.Kind.OUTAGE])
        lasts = {network.Kind.RESET: 0.0, network.Kind.OUTAGE: GRACE_S + 3.0}.get(kind, dice.uniform(1.0, 9.0))
        is_half_open = kind is network.Kind.STALL
        faults.append(network.Fault(round(at, 2), kind, round(lasts, 2), is_half_open, True, is_half_open))
        at += lasts + dice.uniform(2.0, 15.0)
    kills, at = [], dice.uniform(3.0, 12.0)
    while at < seconds - QUIET_S:
        kills.append(_kill(dice, round(at, 3)))
        at += 8.0 + dice.expovariate(1 / 6.0)
    steps = (ClockStep(0.0, 0.0, trusted=True),)
    return Schedule(tuple(faults), tuple(kills), (), steps, dice.choice([0, 1000]), 60.0)


def _kill(dice: random.Random, at: float) -> Kill:
    return Kill(at, dice.uniform(0.0, 3.0), None if dice.random() < _EARLY else dice.uniform(0.0, 16.0))


def _moments(dice: random.Random, last: float, every: float, apart: float) -> list[float]:
    """About one in `every` seconds, at least `apart`."""
    moments, at = [], QUIET_S + dice.expovariate(1 / every)
    while at < last:
        moments.append(round(at, 3))
        at += apart + dice.expovariate(1 / every)
    return moments


def _steps(dice: random.Random, seconds: float) -> tuple[ClockStep, ...]:
    """Wrong and not trusted at first (mostly), set by hand, then synchronised and stepped: in the end right."""
    if dice.random() < 0.2:
        return (ClockStep(0.0, 0.0, trusted=True),)
    first = ClockStep(0.0, dice.choice([-40 * 365 * 86400.0, 5.0, -HALF_HOUR_S]), trusted=False)
    moments = sorted(dice.uniform(3.0, 0.6 * seconds) for _ in range(dice.randrange(3)))
    by_hand = (ClockStep(round(at, 2), dice.uniform(-HALF_HOUR_S, HALF_HOUR_S), trusted=False) for at in moments)
    return (first, *by_hand, ClockStep(round(dice.uniform(0.6, 0.9) * seconds, 2), 0.0, trusted=True))


def scaled(fault: network.Fault, pace: float) -> network.Fault:
    """A network fault in our own seconds."""
    return replace(fault, at=fault.at / pace, seconds=fault.seconds / pace, latency_s=fault.latency_s / pace)
