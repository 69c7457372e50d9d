"""`python -m tests.chaos.audit FOLDER`: was every frame of a run kept exactly once, and is every gap explained?

It is given the world (source and schedule), the log of what really happened, the receiver's files, the card as it was
at each SIGKILL, and as it is in the end. It imports nothing of `edge`.

Each recording's audio is found again in the source by its content. Then every frame from the first that a microphone
gave to the stop must lie in exactly one recording; or in what a lost microphone did not give (frame by frame, by the
log of the one who took it away); or in what a SIGKILL took: at most `sync_interval` + 1 s before it, and the time until
a microphone was open again. While the card failed, what was not on it yet adds to that; and so does the time for which
the recorder was ready to run and had no processor, by the kernel's word.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.campaign.audit import UnreadableError
from tests.campaign.evidence import Recording, recording_in
from tests.chaos.card import DamagedError, OnCard, read_card
from tests.chaos.world import BROKEN, FULL, MICROPHONE, Log, World

CARD_AGAIN_S = 4.0  # so long after a fault of the card it may take until all is on it
STOP_SLACK_S = 0.3  # of the end: the period under way, and one that arrives
REOPEN_S = 5.0  # a microphone that is back is opened within
CLOCK_S = 0.25
_LOOK = 64  # bytes that tell a place in the source
Span = tuple[int, int]


@dataclass(slots=True)
class Verdict:
    """What came out. `lost_by_kill_s`: how much audio before each SIGKILL is in no recording, less the time for
    which the recorder had no processor (at most `starved_s`)."""

    problems: list[str] = field(default_factory=list)
    unaccounted: int = 0
    duplicated: int = 0
    frames: int = 0
    recordings: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    microphone_s: float = 0.0
    lost_by_kill_s: list[float] = field(default_factory=list)
    starved_s: float = 0.0
    excused_kills: int = 0  # at which the card did not work


@dataclass(frozen=True, slots=True)
class Stretch:
    """`frames` at `position` of a recording that are those of the source from `frame` on."""

    recording: str
    position: int
    frame: int
    frames: int

    @property
    def end(self) -> int:
        """Behind it, in the source."""
        return self.frame + self.frames


def judge(folder: Path) -> Verdict:
    """Audit the run in `folder`."""
    world, events = World.load(folder), Log(folder).read()
    verdict = Verdict()
    verdict.faults = _faults(world, events)
    pcm = world.sound(0, _end(world, events) + 60 * world.rate)
    received: dict[str, Recording] = {}
    for path in sorted((folder / "received").iterdir()):
        if path.is_dir():
            if not (path / "audio.wav").exists() and json.loads((path / "account.json").read_text())["frames"] == 0:
                continue  # begun, and cut off before anything was sent
            try:
                received[path.name] = recording_in(path)
            except (UnreadableError, OSError, ValueError) as error:
                verdict.problems.append(f"{path.name}: {type(error).__name__}: {error}")
    stretches: list[Stretch] = []
    for name, recording in received.items():
        stretches += _judge_recording(world, pcm, name, recording, _missed(world, events), verdict)
    verdict.recordings = len(received)
    _judge_coverage(world, events, stretches, verdict)
    _judge_cards(folder, events, received, verdict)
    _judge_clock(world, stretches, received, verdict)
    return verdict


# --- what happened ---------------------------------------------------------------------------------------------------


def _faults(world: World, events: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The faults that really happened, by kind."""
    faults: Counter[str] = Counter()
    stopped = next((event["at"] for event in events if event["kind"] == "stop"), 0.0)
    for event in events:
        if event["kind"] == "network":
            faults[event["fault"]] += 1
        elif event["kind"] == "kill":
            faults["recorder killed"] += 1
    faults["microphone"] = sum(event["kind"] == "microphone lost" for event in events)
    for kind in (FULL, BROKEN):
        failed = [event["at"] for event in events if event["kind"] == f"card {kind}"]
        windows = [window for window in world.windows if window.kind == kind]
        faults[kind] = sum(any(window.has(at) for at in failed) for window in windows)
    faults["clock step"] = sum(0.0 < step.at < stopped for step in world.steps)
    return dict(+faults)


def _opened_after(events: Sequence[dict[str, Any]], at: float, otherwise: int) -> int:
    return next((int(event["frame"]) for event in events if event["kind"] == "open" and event["at"] >= at), otherwise)


def _end(world: World, events: Sequence[dict[str, Any]]) -> int:
    return int(next(event["at"] for event in events if event["kind"] == "stop") * world.rate)


def _missed(world: World, events: Sequence[dict[str, Any]]) -> list[Span]:
    """Frames that no microphone gave, since one was taken away: from the last that it gave to the next opening."""
    end = _end(world, events)
    return [
        (int(event["frame"]), _opened_after(events, event["at"], end))
        for event in events
        if event["kind"] == "microphone lost"
    ]


def _bound_s(world: World, event: dict[str, Any]) -> tuple[float, bool]:
    """How much audio the SIGKILL `event` may take, and whether anything excuses more than usual."""
    at, starved_s = float(event["at"]), float(event.get("starved", 0.0))
    usual = world.sync_interval_s + 1.0 + starved_s
    failing = [
        window.begin
        for window in world.windows
        if window.kind in (FULL, BROKEN) and window.begin <= at <= window.end + CARD_AGAIN_S + starved_s
    ]
    # Faults that follow each other closely are one.
    for window in sorted(world.windows, key=lambda window: -window.begin):
        if failing and window.kind in (FULL, BROKEN) and window.begin < min(failing) <= window.end + CARD_AGAIN_S:
            failing.append(window.begin)
    return (at - min(failing) + usual, True) if failing else (usual, False)


# --- audio -----------------------------------------------------------------------------------------------------------


def _judge_recording(
    world: World, source: bytes, name: str, recording: Recording, missed: Sequence[Span], verdict: Verdict
) -> list[Stretch]:
    """Its account, its gaps, and where its audio is in the source."""
    account, frames = recording.account, len(recording.pcm) // 2
    say = verdict.problems.append
    gaps = sorted(account["gaps"], key=lambda gap: int(gap["position"]))
    in_gaps = sum(int(gap["frames"]) for gap in gaps)
    if not account["frames"] == frames == account["stored_frames"] + in_gaps:
        say(
            f"{name}: {account['frames']} frames, {account['stored_frames']} stored, {in_gaps} in gaps, {frames} in WAV"
        )
    if account["refused"] or recording.rate != world.rate or recording.channels != 1:
        say(f"{name}: refused {account['refused']}, {recording.rate} Hz, {recording.channels} channels")
    stretches: list[Stretch] = []
    at = 0
    for gap in [*gaps, {"position": frames, "frames": 0, "cause": ""}]:
        position = int(gap["position"])
        if position > at:
            stretches += _locate(world, source, name, recording.pcm[2 * at : 2 * position], at, stretches, verdict)
        at = position + int(gap["frames"])
        if any(recording.pcm[2 * position : 2 * at]):
            say(f"{name}: the gap at {position} is not silent")
    verdict.frames += sum(stretch.frames for stretch in stretches)
    if not stretches:
        return stretches
    shift = stretches[0].frame - stretches[0].position
    for stretch in stretches:
        if abs(stretch.frame - stretch.position - shift) > world.period_frames:
            say(
                f"{name}: frame {stretch.frame} stands at {stretch.position}, the first ones {shift} before their place"
            )
    for gap in gaps:
        _judge_gap(world, name, gap, shift, missed, verdict)
    return stretches


def _judge_gap(
    world: World, name: str, gap: dict[str, Any], shift: int, missed: Sequence[Span], verdict: Verdict
) -> None:
    """Only a lost microphone explains a gap inside a recording, and no more of it than was lost, within a period."""
    first = int(gap["position"]) + shift
    last = first + int(gap["frames"])
    outside = _without([(first, last)], [(a - world.period_frames, b + world.period_frames) for a, b in missed])
    if gap["cause"] != MICROPHONE:
        verdict.problems.append(f"{name}: {gap['frames']} frames are missing at {gap['position']} for {gap['cause']!r}")
        verdict.unaccounted += int(gap["frames"])
    elif outside:
        verdict.problems.append(f"{name}: the gap at frames {first} to {last} is longer than the microphone was away")
        verdict.unaccounted += _sum(outside)
    verdict.microphone_s += int(gap["frames"]) / world.rate


def _locate(
    world: World, source: bytes, name: str, pcm: bytes, position: int, before: Sequence[Stretch], verdict: Verdict
) -> list[Stretch]:
    """Where in the source `pcm` comes from; several stretches where it jumps, which it must not."""
    at = 0
    found: list[Stretch] = []
    while at < len(pcm):
        piece = pcm[at : at + _LOOK]
        last = [*before, *found][-1:]
        guess = 2 * (last[0].frame - last[0].position + position + at // 2) if last else 0
        place = source.find(piece, max(0, guess - 2 * world.period_frames)) if last else -1
        place = source.find(piece) if place < 0 else place
        if place < 0 or place % 2:
            verdict.problems.append(
                f"{name}: {(len(pcm) - at) // 2} frames at {position + at // 2} are not the source's"
            )
            verdict.unaccounted += (len(pcm) - at) // 2
            break
        same = _same(pcm, at, source, place)
        if at + same < len(pcm):
            verdict.problems.append(f"{name}: the audio jumps at {position + (at + same) // 2}, and no gap says so")
        found.append(Stretch(name, position + at // 2, place // 2, same // 2))
        at += max(2, same - same % 2)
    return found


def _same(one: bytes, at: int, other: bytes, place: int) -> int:
    """How many bytes agree."""
    low, high = 0, min(len(one) - at, len(other) - place)
    if one[at : at + high] == other[place : place + high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if one[at : at + middle] == other[place : place + middle]:
            low = middle
        else:
            high = middle
    return low


def _judge_coverage(world: World, events: Sequence[dict[str, Any]], stretches: list[Stretch], verdict: Verdict) -> None:
    """Every frame once, or explained."""
    order = sorted(stretches, key=lambda stretch: stretch.frame)
    end_before = 0
    for stretch in order:
        twice = min(end_before, stretch.end) - stretch.frame
        if twice > 0:
            verdict.duplicated += twice
            verdict.problems.append(f"{stretch.recording}: {twice} frames from {stretch.frame} on are there twice")
        end_before = max(end_before, stretch.end)
    first = _opened_after(events, -1e9, 0)
    end = _end(world, events)
    covered = [(stretch.frame, stretch.end) for stretch in order]
    holes = _without([(first, end - int(STOP_SLACK_S * world.rate))], covered)
    missed = _missed(world, events)
    taken: list[Span] = []
    for event in events:
        if event["kind"] in ("kill", "exited"):
            at = float(event["at"])
            bound, is_excused = _bound_s(world, event)
            begun = max(int((at - bound) * world.rate), _heard_from(world, events, at))
            taken.append((begun, _opened_after(events, at, end)))
            if event["kind"] == "kill":
                heard = _heard_from(world, events, at)
                lost = _sum(_without(_across(holes, heard, int(at * world.rate)), missed))
                verdict.excused_kills += is_excused
                if not is_excused:
                    starved_s = float(event.get("starved", 0.0))
                    verdict.starved_s = max(verdict.starved_s, starved_s)
                    verdict.lost_by_kill_s.append(round(max(0.0, lost / world.rate - starved_s), 3))
    unexplained = _without(holes, [*missed, *taken])
    for a, b in unexplained:
        verdict.unaccounted += b - a
        verdict.problems.append(
            f"frames {a} to {b} ({(b - a) / world.rate:.3f} s) are nowhere, and nothing explains it"
        )
    for event in events:
        if event["kind"] == "microphone lost":
            back = _opened_after(events, event["at"], end) / world.rate
            away = [w.end for w in world.windows if w.kind == MICROPHONE and w.begin <= event["at"]]
            if away and back > max(away) + REOPEN_S and not _is_killed(events, event["at"], back):
                verdict.problems.append(f"the microphone was back at {max(away):.1f} s, and opened at {back:.1f} s")


def _is_killed(events: Sequence[dict[str, Any]], begin: float, end: float) -> bool:
    return any(event["kind"] in ("kill", "exited") and begin - 2 <= event["at"] <= end for event in events)


def _heard_from(world: World, events: Sequence[dict[str, Any]], at: float) -> int:
    """The first frame that the recorder heard which ended at `at`: another one's loss is not its own."""
    ended = [float(event["at"]) for event in events if event["kind"] in ("kill", "exited") and event["at"] < at]
    since = max(ended, default=-1e9)
    opened = [int(event["frame"]) for event in events if event["kind"] == "open" and since < event["at"] <= at]
    return min(opened, default=int(at * world.rate))


def _across(spans: Iterable[Span], first: int, last: int) -> list[Span]:
    """The parts between `first` and `last` of those that go on beyond `last`."""
    return [(max(a, first), last) for a, b in spans if a < last <= b]


def _without(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """What of `spans` is in none of `others`."""
    rest = [span for span in spans if span[0] < span[1]]
    for low, high in others:
        rest = [
            part
            for a, b in rest
            for part in (((a, b),) if high <= a or b <= low else ((a, min(b, low)), (max(a, high), b)))
            if part[0] < part[1]
        ]
    return rest


def _sum(spans: Iterable[Span]) -> int:
    return sum(b - a for a, b in spans)


# --- the card --------------------------------------------------------------------------------------------------------


def _judge_cards(
    folder: Path, events: Sequence[dict[str, Any]], received: dict[str, Recording], verdict: Verdict
) -> None:
    """What was whole on the card when the recorder was killed has arrived; in the end nothing is owed."""
    for path in [*sorted((folder / "cards").glob("*")), folder / "state" / "spool"]:
        try:
            found = read_card(path)
        except (DamagedError, OSError) as error:
            verdict.problems.append(f"card {path.name}: {error}")
            continue
        for recording in found:
            _judge_card(path.name, recording, received, verdict)
        if path.name == "spool":
            _judge_last_card(path, found, events, verdict)


def _judge_card(card: str, recording: OnCard, received: dict[str, Recording], verdict: Verdict) -> None:
    if not recording.records:
        return
    there = received.get(recording.name)
    if there is None:
        verdict.problems.append(f"card {card}: {recording.name} never arrived")
        verdict.unaccounted += sum(len(record.payload) // 2 for record in recording.records)
        return
    if recording.end > len(there.pcm) // 2:
        missing = recording.end - len(there.pcm) // 2
        verdict.problems.append(f"card {card}: the last {missing} whole frames of {recording.name} never arrived")
        verdict.unaccounted += missing
    for record in recording.records:
        if there.pcm[2 * record.position :][: len(record.payload)] != record.payload:
            verdict.problems.append(f"card {card}: packet {record.seq} of {recording.name} arrived as something else")
            break


def _judge_last_card(path: Path, found: Sequence[OnCard], events: Sequence[dict[str, Any]], verdict: Verdict) -> None:
    names = {recording.name for recording in found}
    for recording in found:
        if recording.state != "delivered":
            verdict.problems.append(f"in the end {recording.name} is {recording.state} on the card")
        predecessor = recording.manifest["predecessor"]
        older = [other for other in found if other.manifest["number"] < recording.manifest["number"]]
        if predecessor in names and predecessor != older[-1].name:
            verdict.problems.append(f"{recording.name} goes on with {predecessor}, but {older[-1].name} came before it")
        lost = [entry for entry in recording.journal if entry["kind"] == "lost"]
        if lost:
            verdict.problems.append(f"the journal of {recording.name} gives up {lost}")
    aside = sorted(item.name for item in (path / "quarantine").iterdir())
    if aside and not any(str(event["kind"]).startswith("card ") for event in events):
        verdict.problems.append(f"set aside, though the card never failed: {aside}")


# --- time ------------------------------------------------------------------------------------------------------------


def _judge_clock(world: World, stretches: Sequence[Stretch], received: dict[str, Recording], verdict: Verdict) -> None:
    """When the first frame was captured, where the receiver says that it knows."""
    for name, recording in received.items():
        first = next((stretch for stretch in stretches if stretch.recording == name), None)
        if first is None or not recording.account["clock_trusted"]:
            continue
        right = world.zero_s + world.utc_minus_boot_s + (first.frame - first.position) / world.rate
        wrong = float(recording.account["started_at"]) - right
        if abs(wrong) > CLOCK_S:
            verdict.problems.append(f"{name}: the receiver believes in a beginning {wrong:+.3f} s from the right one")


if __name__ == "__main__":
    outcome = judge(Path(sys.argv[1]))
    print(json.dumps(asdict(outcome)))
    sys.exit(1 if outcome.problems else 0)
