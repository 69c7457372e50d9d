"""The short form of `make bench-network`: what it measures is real, and the audit balances. No figure is judged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.bench.network import __main__ as bench
from tests.bench.network import picture
from tests.bench.network.measure import Figures
from tests.bench.network.rows import ROWS, STRICT, Wanted

pytestmark = pytest.mark.root


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_short_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(["--quick", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "figures.json").read_text())
    assert list(found) == list(bench.QUICK), printed
    for row in found.values():
        for who in (bench.FLOOR, bench.RECORDER):
            assert row[who]["problems"] == [], printed
            assert len(row[who]["seconds"]) == 3, printed
            assert all(0 < seconds < 60 for seconds in row[who]["seconds"]), printed


def test_figures() -> None:
    figures = Figures([float(number) for number in range(30, 0, -1)])
    assert (figures.median, figures.p95, figures.worst) == (15.5, 29.0, 30.0)
    assert Figures([3.0, 1.0, 2.0]).p95 == 3.0


@pytest.mark.parametrize(
    ("ours", "wanted", "said"),
    [
        (Figures([0.04, 0.05]), Wanted(0.05), "ok"),
        (Figures([0.04, 0.07]), Wanted(0.05), "FAILED: 0.070 s, not 0.060 s"),
        (Figures([0.04, 0.07]), Wanted(0.07, True), "ok"),
        (Figures([0.04], problems=["x"]), Wanted(0.05), "FAILED: the audit does not balance"),
        (Figures(), Wanted(0.05), "FAILED: not measured"),
        (Figures([9.0]), None, "reported"),
    ],
)
def test_verdict(ours: Figures, wanted: Wanted | None, said: str) -> None:
    from dataclasses import replace

    row = replace(ROWS[0], wanted=wanted)
    assert bench.verdict(row, {bench.FLOOR: Figures([0.01]), bench.RECORDER: ours}) == said


def test_a_takeover_is_a_failure_where_none_is_wanted() -> None:
    ours = Figures([0.5], proven=[math.nan], takeovers=1)
    assert bench.verdict(STRICT[0], {bench.RECORDER: ours}) == "FAILED: 1 takeovers"


def test_pictures(tmp_path: Path) -> None:
    results = {row.key: {bench.RECORDER: Figures([0.1, 2.0])} for row in ROWS[:-1]} | {
        ROWS[-1].key: {bench.RECORDER: Figures()}
    }
    picture.draw(ROWS, results, tmp_path / "picture.png")
    fates: picture.Fates = {
        "a": {"edge recorder": {"away_s": 0.1, "missing_s": 0.0}, "other": {"away_s": None, "missing_s": 4.0}}
    }
    picture.draw_peers(fates, 45.0, tmp_path / "peers.png")
    for name in ("picture.png", "peers.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
