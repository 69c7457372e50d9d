"""README.md says what the code does."""

from __future__ import annotations

import re

import pytest

from edge.errors import ExitCode
from edge.settings import KEYS
from tests.tools.reference import README, refreshed


def test_the_configuration_reference_is_what_the_code_declares() -> None:
    text = README.read_text()
    assert refreshed(text) == text, "run: make reference"
    for known in KEYS.values():
        assert f"| `{known.key.partition('.')[2]}` |" in text


def test_refreshing_needs_its_markers() -> None:
    with pytest.raises(ValueError, match="configuration:begin"):
        refreshed("no markers")


def test_every_exit_code_is_explained() -> None:
    section = README.read_text().partition("### Exit codes")[2].partition("###")[0]
    assert [int(code) for code in re.findall(r"^\| (\d) \|", section, re.MULTILINE)] == sorted(ExitCode)


def test_links_inside_lead_somewhere() -> None:
    text = README.read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= headings


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (README.parent / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README.read_text())) <= targets | {"demo", "test"}
