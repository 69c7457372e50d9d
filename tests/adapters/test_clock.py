"""The clock's adapter: boot id, offset and trust, from given files and clocks, and from this machine's."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from edge.adapters import clock
from edge.adapters.clock import SystemClock, kernel_is_synchronised


@pytest.fixture
def boot_id(tmp_path: Path) -> Path:
    path = tmp_path / "boot_id"
    path.write_text("1b9d7cb1-0ef2-4c5f-8f7a-5b4c2a8d6d11\n")
    return path


def sequence(*values: float) -> Callable[[], float]:
    left: Iterator[float] = iter(values)
    return lambda: next(left)


def test_it_tells_boot_id_offset_and_trust(tmp_path: Path, boot_id: Path) -> None:
    timesyncd = tmp_path / "synchronized"
    system = SystemClock(boot_id, timesyncd, lambda: False, lambda: 100.0, lambda: 1600.0)
    anchor = system.read()
    assert (anchor.boot_id, anchor.utc_minus_boot_s) == ("1b9d7cb1-0ef2-4c5f-8f7a-5b4c2a8d6d11", 1500.0)
    assert anchor.trusted is False
    timesyncd.touch()
    assert system.read().trusted is True


def test_the_kernels_word_counts_without_timesyncd(tmp_path: Path, boot_id: Path) -> None:
    says = [False, True]
    system = SystemClock(boot_id, tmp_path / "synchronized", lambda: says.pop(0))
    assert [system.read().trusted, system.read().trusted] == [False, True]


def test_a_flag_that_may_not_be_looked_at_is_none(tmp_path: Path, boot_id: Path) -> None:
    system = SystemClock(boot_id, tmp_path / ("x" * 300), lambda: False)  # ENAMETOOLONG
    assert system.read().trusted is False


def test_the_tightest_of_a_few_readings_counts(tmp_path: Path, boot_id: Path) -> None:
    """The process was put aside between the looks at the clocks, twice; the third reading is tight."""
    boot = sequence(10.0, 10.8, 11.0, 11.2, 12.0, 12.0002)
    wall = sequence(1010.7, 1011.15, 1012.0001)
    system = SystemClock(boot_id, tmp_path / "no", lambda: False, boot, wall)
    assert system.read().utc_minus_boot_s == pytest.approx(1000.0, abs=1e-6)


def test_on_a_machine_that_is_never_quiet_the_best_of_all_readings_counts(tmp_path: Path, boot_id: Path) -> None:
    boot = sequence(0.0, 0.8, 1.0, 1.5, 2.0, 2.1, 3.0, 3.9, 4.0, 4.7)
    wall = sequence(500.0, 501.4, 502.06, 503.0, 504.0)
    system = SystemClock(boot_id, tmp_path / "no", lambda: False, boot, wall)
    assert system.read().utc_minus_boot_s == pytest.approx(500.01)


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_without_a_boot_id_each_process_is_a_boot_of_its_own(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "boot_id"
    if content is not None:
        path.write_bytes(content)
    first, second = SystemClock(path, tmp_path / "no"), SystemClock(path, tmp_path / "no")
    assert UUID(first.boot_id) != UUID(second.boot_id)
    assert first.read().boot_id == first.boot_id


def test_this_machines_clock() -> None:
    system = SystemClock()
    anchor = system.read()
    UUID(anchor.boot_id)
    assert anchor.utc_minus_boot_s == pytest.approx(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME), abs=0.05)
    assert isinstance(kernel_is_synchronised(), bool)


# --- what the kernel says ---


class FakeLibc:
    """adjtimex(2) that fills in a status; the true structure must not be longer than ours."""

    def __init__(self, state: int, status: int) -> None:
        self.state = state
        self.status = status

    def adjtimex(self, reference: Any) -> int:
        timex = reference._obj
        assert timex.modes == 0  # read only: needs no privilege, changes nothing
        timex.status = self.status
        return self.state


@pytest.mark.parametrize(
    ("state", "status", "synchronised"),
    [
        (0, 0x2001, True),  # TIME_OK, STA_PLL | STA_NANO
        (1, 0x2001, True),  # a leap second is announced
        (5, 0x2001, False),  # TIME_ERROR
        (5, 0x40, False),
        (0, 0x40, False),  # STA_UNSYNC
        (-1, 0, False),  # forbidden
    ],
)
def test_the_kernel_says_whether_its_clock_is_synchronised(
    monkeypatch: pytest.MonkeyPatch, state: int, status: int, synchronised: bool
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeLibc(state, status))
    assert kernel_is_synchronised() is synchronised


def test_where_there_is_no_such_call_the_kernel_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert kernel_is_synchronised() is False


def test_the_real_call_agrees_with_our_layout() -> None:
    """`tick` stands behind the fields that we name: about 10 000 microseconds, whatever else the kernel says."""
    timex = clock._Timex()
    if ctypes.CDLL(None).adjtimex(ctypes.byref(timex)) < 0:
        pytest.skip("adjtimex is forbidden here")
    rest = bytes(timex.rest)
    longs = memoryview(rest).cast("B")
    word = ctypes.sizeof(ctypes.c_long)
    # constant, precision, tolerance, time (2), tick: behind status, aligned to a long
    offset = (-(clock._Timex.status.offset + 4) % word) + 5 * word
    tick = int.from_bytes(longs[offset : offset + word], "little")
    assert 9000 <= tick <= 11000
