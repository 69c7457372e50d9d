"""README.md's state diagram, from the table in edge/core/session.py: python -m tests.tools.states"""

from __future__ import annotations

from collections.abc import Iterator

from edge.core.context import Phase
from edge.core.roam import UNDER_WAY
from edge.core.session import TIMERS, TRANSITIONS
from tests.tools.reference import README, refreshed

BEGIN, END = "<!-- states:begin -->", "<!-- states:end -->"

# What people see, and the phases below it. While coming back `connecting` is called `reconnecting`.
GROUPS: dict[str, tuple[Phase, ...]] = {
    "disconnected": (Phase.IDLE, Phase.DONE),
    "connecting": tuple(phase for phase in Phase if phase in UNDER_WAY | {Phase.WAITING, Phase.PAUSING, Phase.HELD}),
    "connected": (Phase.STREAMING, Phase.MOVING, Phase.STOPPING),
    "failed": (Phase.FAILED,),
}


def diagram() -> str:
    """A Mermaid diagram of the way forward, and a table of every transition."""
    return "\n".join([*_diagram(), "", *_table()])


def _moves() -> dict[Phase, dict[str, list[Phase]]]:
    order = list(Phase)
    return {
        phase: {event.__name__: sorted(targets - {phase}, key=order.index) for event, (_, targets) in row.items()}
        for phase, row in TRANSITIONS.items()
    }


def _diagram() -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    for state, phases in GROUPS.items():
        yield f"    state {state} {{"
        yield from (f"        {phase.name}" for phase in phases)
        yield "    }"
    yield "    [*] --> WAITING"
    for phase, row in _moves().items():
        ways: dict[Phase, list[str]] = {}
        for event, targets in row.items():
            for target in targets:
                ways.setdefault(target, []).append(event)
        for target, events in ways.items():
            if target not in (Phase.WAITING, Phase.FAILED, Phase.DONE) or len(row) <= 4 or phase is Phase.WAITING:
                yield f"    {phase.name} --> {target.name}: {', '.join(events)}"
    yield "    DONE --> [*]"
    yield "```"
    yield ""
    yield "Not drawn: an attempt that ends leads to WAITING, to FAILED after a refusal, or to DONE if nothing is owed."


def _table() -> Iterator[str]:
    yield "| phase | it means | event: where it may lead |"
    yield "| --- | --- | --- |"
    for phase, row in _moves().items():
        ways = "; ".join(
            f"{event}: {', '.join(target.name for target in targets)}" for event, targets in row.items() if targets
        )
        yield f"| {phase.name} | {phase.value} | {ways} |"
    yield ""
    yield "| timer | where it may lead |"
    yield "| --- | --- |"
    for timer, (_, targets) in TIMERS.items():
        names = ", ".join(phase.name for phase in Phase if phase in targets)
        yield f"| {timer.value} | {names or 'nowhere: it asks again'} |"


if __name__ == "__main__":
    README.write_text(refreshed(README.read_text(), BEGIN, END, diagram()))
