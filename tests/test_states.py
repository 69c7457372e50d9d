"""The state diagram in README.md is the one that the table says."""

from __future__ import annotations

from edge.core.context import Phase
from edge.core.session import TRANSITIONS
from tests.tools import states
from tests.tools.reference import README, refreshed


def test_readme_shows_the_table() -> None:
    text = README.read_text()
    assert refreshed(text, states.BEGIN, states.END, states.diagram()) == text, "run: python -m tests.tools.states"


def test_every_phase_has_a_row_and_a_place_in_the_picture() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert sorted(phase.name for group in states.GROUPS.values() for phase in group) == sorted(p.name for p in Phase)
