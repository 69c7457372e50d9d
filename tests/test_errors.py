"""The tree of errors is drawn in edge/errors.py, and the README explains each name: neither may fall behind."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edge import errors
from edge.errors import EdgeError

ROW = re.compile(r"^ {4}((?:\|   )*)(?:\|-- |`-- )(\w+) +(?:([a-z]+) +)?(\d) +(local|remote|environment) +\S")


def tree(error: type[EdgeError] = EdgeError, depth: int = 0) -> Iterator[tuple[int, str, str, int, str]]:
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__:
            yield depth, child.__name__, child.name, int(child.exit_code), child.fault.value
            yield from tree(child, depth + 1)


def test_the_drawing_is_the_tree() -> None:
    rows = [match for line in (errors.__doc__ or "").splitlines() if (match := ROW.match(line))]
    drawn = [(len(row[1]) // 4, row[2], row[3] or "", int(row[4]), row[5]) for row in rows]
    assert drawn == list(tree())
    assert len(drawn) > 10


def test_each_name_is_explained_once() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    table = readme.partition("### Troubles with a name")[2].partition("\n### ")[0]
    names = [name for _, _, name, _, _ in tree() if name]
    assert re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE) == names
    assert len(set(names)) == len(names) > 5


def test_a_name_stands_at_the_head_of_the_line() -> None:
    assert str(errors.NameFailure("what", "means", "do")) == "dns: what; means; do"
    assert str(errors.Unreachable("what", "means", "do")) == "what; means; do"
