"""The rig judges rightly: what syncs passes, its twin without the sync fails. And it leaves nothing behind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.power.promises import Promises
from tests.power.workloads import Command

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("qemu-storage-daemon"), reason="needs qemu-system-common"),
]
SUMMARY = re.compile(r"^power: (\d+) cuts of \S+, (\d+) failed; .* at the device for .*; [\d.]+ s$")


def power(workload: str, cuts: int = 50, *options: str) -> tuple[int, int, str]:
    """Exit code, failed cuts, and all that was printed."""
    command = [
        sys.executable,
        "-m",
        "tests.power",
        "--workload",
        workload,
        "--cuts",
        str(cuts),
        "--runs",
        "2",
        *options,
    ]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100)
    summary = SUMMARY.match(done.stdout.splitlines()[-1])
    assert summary is None or int(summary[1]) == cuts
    return done.returncode, int(summary[2]) if summary else -1, done.stdout


@pytest.mark.parametrize("workload", ["append", "sqlite_full"])
def test_what_syncs_keeps_its_promises(workload: str) -> None:
    code, failed, output = power(workload)
    assert (code, failed) == (0, 0), output
    for what in ("kept", "torn", "lost"):  # else the cuts were harmless
        assert sum(map(int, re.findall(rf"(\d+) {what}", output))) > 5, output


@pytest.mark.parametrize("workload", ["online", "sealing"])
def test_what_the_recorder_captured_is_safe_two_seconds_later(workload: str) -> None:
    code, failed, printed = power(f"tests.power.edge:{workload}", 20, "--runs", "1")
    assert (code, failed) == (0, 0), printed


def test_without_its_syncs_it_is_not() -> None:
    code, failed, printed = power("tests.power.edge:unsynced", 20, "--runs", "1")
    assert code == 1, printed
    assert failed >= 5, printed


@pytest.mark.parametrize(("workload", "least"), [("append_unsynced", 25), ("append_early", 15), ("sqlite_normal", 5)])
def test_what_does_not_sync_in_time_fails(workload: str, least: int) -> None:
    code, failed, output = power(workload)
    assert code == 1 and failed >= least, output
    assert "file system:" not in output, output  # lost, but never a broken file system


def replaced(folder: Path, promised: Sequence[str], seed: int) -> str:
    """The check of `replace`: the file is whole, and not older than promised."""
    found = (folder / "manifest").read_text().split("\n") if promised else ["end", ""]
    if found[-2:] != ["end", ""]:
        return "the manifest is torn"
    return f"manifest {found[0]}, promised {promised[-1]}" if promised and int(found[0]) < int(promised[-1]) else ""


# Any program can be the workload: this one replaces a file and its folder's entry, again and again.
_REPLACE = """
cd "$EDGE_POWER_FOLDER"
for number in $(seq 60); do
    { echo $number; seq 2000; echo end; } >new
    sync new && mv new manifest && sync . || exit 1
    echo "$(stat -c %s "$EDGE_POWER_LOG") $number" >>"$EDGE_POWER_PROMISES"
done
echo 540000
"""
replace = Command(("sh", "-c", _REPLACE), replaced)
replace_unsynced = Command(("sh", "-c", _REPLACE.replace("&& sync .", "")), replaced)


def test_a_program_as_workload() -> None:
    code, failed, output = power("tests.power.test_power:replace")
    assert (code, failed) == (0, 0), output
    code, failed, output = power("tests.power.test_power:replace_unsynced")
    assert code == 1 and failed >= 10, output


def test_a_kept_run_can_be_cut_again() -> None:
    code, _, output = power("append_early", 20)
    seed = re.search(r"cut (\S+) after request (\d+): (.*)", output)
    kept = re.search(r"--replay (\S+)", output)
    assert code == 1 and seed and kept, output
    again = [sys.executable, "-m", "tests.power", "--workload", "append_early", "--replay", kept[1], "--cut", seed[1]]
    done = subprocess.run(again, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=100)
    assert done.returncode == 1 and seed[0] in done.stdout


class Stuck:
    """Says where it is and does not end."""

    def run(self, folder: Path, promises: Promises, seed: int) -> int:
        device = next(
            line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {folder} " in line
        )
        with (folder / "file").open("wb") as file:
            file.write(bytes(1 << 20))
            print(device, flush=True)
            while True:
                time.sleep(1000)

    def check(self, folder: Path, promised: Sequence[str], seed: int) -> str:
        raise NotImplementedError


class Leaky:
    """Leaves a process behind that works in the folder."""

    def run(self, folder: Path, promises: Promises, seed: int) -> int:
        subprocess.Popen(["sleep", "1000"], cwd=folder)
        return 0

    def check(self, folder: Path, promised: Sequence[str], seed: int) -> str:
        raise NotImplementedError


stuck, leaky = Stuck(), Leaky()
failing = Command(("sh", "-c", "exit 3"), replaced)


def loop_devices() -> set[str]:
    """Those in use, by anybody."""
    return {path.parts[3] for path in Path("/sys/block").glob("loop*/loop")}


def test_sigkill_leaves_nothing_behind() -> None:
    command = [sys.executable, "-m", "tests.power", "--workload", "tests.power.test_power:stuck"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        loop = process.stdout.readline().strip().removeprefix("/dev/")
        assert loop in loop_devices()
        process.kill()
        process.stdout.read()  # until the last process of the rig has closed it
    deadline = time.monotonic() + 20  # the kernel takes the namespaces apart by itself
    while loop in loop_devices() or list(Path("/sys/fs/fuse/connections").glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("workload", "words"), [("leaky", "busy"), ("failing", "exit status 3")])
def test_a_failing_workload_is_no_verdict_and_leaves_nothing_behind(workload: str, words: str) -> None:
    before = loop_devices()
    code, failed, output = power(f"tests.power.test_power:{workload}")
    assert (code, failed) == (2, -1), output
    assert words in output and "before any verdict" in output and "Traceback" not in output
    assert loop_devices() <= before
