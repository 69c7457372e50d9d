"""The examples in ResilientWebSocket's docstring do what they say, against a real receiver."""

from __future__ import annotations

import doctest
from pathlib import Path

from edge import client
from tests.client.receiver import TOKEN, ThreadedReceiver


def test_the_examples_in_the_docstring(tmp_path: Path) -> None:
    examples = doctest.DocTestFinder().find(client.ResilientWebSocket, globs={})
    assert sum(len(example.examples) for example in examples) > 8
    with ThreadedReceiver(tmp_path) as receiver:
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        for example in examples:
            example.globs.update(url=receiver.url, token=TOKEN)
            runner.run(example)
    assert runner.summarize(verbose=False).failed == 0
