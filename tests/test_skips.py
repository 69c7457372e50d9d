"""tests/conftest.py: a skip has its reason here, and is a failure in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_passes():
    pass

@pytest.mark.skip(reason="for lack of luck")
def test_marked():
    pass

def test_skips_itself():
    pytest.skip("for lack of time")

@pytest.mark.xfail(reason="known")
def test_expected_failure():
    assert False
"""


@pytest.mark.parametrize(
    ("ci", "closing"), [("", "1 passed, 3 skipped, 1 xfailed"), ("true", "1 failed, 1 passed, 1 xfailed, 2 errors")]
)
def test_a_skip_is_a_failure_in_ci(tmp_path: Path, ci: str, closing: str) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text("import pytest\npytest.importorskip('no_such_library')\n")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rs",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=100,
        env={**os.environ, "CI": ci},
    )
    assert closing in run.stdout, run.stdout
    for reason in ("for lack of luck", "for lack of time", "could not import 'no_such_library'"):
        assert (f"skipped, which CI does not allow: Skipped: {reason}" in run.stdout) is bool(ci)
        assert reason in run.stdout
