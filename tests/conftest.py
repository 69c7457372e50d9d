"""What holds for all tests: markers with their reasons to skip, and no skipping in CI."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# A loaded machine is slow, which is no fault of the code; a failure prints what repeats it.
settings.register_profile("edge", deadline=None, print_blob=True)
settings.load_profile("edge")
# Whoever starts the tests may ignore them (nohup; a shell that starts them in the background), and children inherit
# that: then neither a hang-up nor a Ctrl-C could be tested.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Skips that CI accepts, as beginnings of test ids. Empty: .ci/run installs everything.
ALLOWED_SKIPS: tuple[str, ...] = ()


@functools.cache
def root_is_missing() -> str:
    """Why tests marked `root` cannot run here, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        return "needs network namespaces, which this machine refuses even to root"
    return ""


@functools.cache
def pulse_is_missing() -> str:
    """Why tests marked `pulse` cannot run here, or nothing."""
    if importlib.util.find_spec("alsaaudio") is None:
        return "needs pyalsaaudio: install gcc, python3-dev and libasound2-dev, then make -B env"
    for program in ("pulseaudio", "pactl", "paplay"):
        if shutil.which(program) is None:
            return f"needs {program}: install pulseaudio and pulseaudio-utils"
    if not any(Path("/usr/lib").glob("**/alsa-lib/libasound_module_pcm_pulse.so")):
        return "needs ALSA's way to PulseAudio: install libasound2-plugins"
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in (("root", root_is_missing), ("pulse", pulse_is_missing)):
        if item.get_closest_marker(marker) and missing():
            pytest.skip(missing())


def in_ci() -> bool:
    """Whether a skip is a failure (`CI=true`)."""
    return os.environ.get("CI") == "true"


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    # An expected failure is reported as skipped too, and is none.
    expected = hasattr(report, "wasxfail") or report.nodeid.startswith(ALLOWED_SKIPS or ("\0",))
    if in_ci() and report.skipped and not expected:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, pytest.TestReport]:
    report: pytest.TestReport = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, pytest.CollectReport]:
    report: pytest.CollectReport = yield
    _refuse_skip(report)
    return report
