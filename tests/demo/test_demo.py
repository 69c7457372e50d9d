"""The whole demo, shortened: what it must show, and that its audit can fail."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
import wave
from fcntl import ioctl
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 100
IN_THE_FILE = re.compile(r"delivered (\d+\.\d)")  # what the screen says of it, in seconds
SOME_IN_THE_FILE = re.compile(r"delivered (?!0\.0)\d")


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "edge", "demo", "--quick", "--out", str(out), *options]


def environment(folder: Path) -> dict[str, str]:
    """Temporary folders where the test can look for what was left."""
    (folder / "tmp").mkdir()
    plain = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    return dict(plain, TMPDIR=str(folder / "tmp"), TERM="xterm-256color", PYTHONUNBUFFERED="1")


def demo(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder / "out", *options),
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def left_over(folder: Path) -> list[str]:
    """Processes that still know the folder, and temporary files."""
    found = [path.name for path in (folder / "tmp").iterdir()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in process.read_bytes():
                found.append(str(process))
        except OSError:
            continue
    return found


@pytest.mark.long
def test_nothing_is_lost(tmp_path: Path) -> None:
    run = demo(tmp_path)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stderr == ""
    assert "\x1b" not in run.stdout
    last = run.stdout.splitlines()[-1]
    assert re.fullmatch(r"WHOLE: all \d+ frames of the source were received, bit for bit, each once", last)
    for shown in ("the same session", "a follow-on session", "RETRY is pressed", "RECORD is pressed", "SIGKILL"):
        assert shown in run.stdout
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "events.txt", "received", "received.wav", "receiver.log", "source.wav", "timeline.png",
    }  # fmt: skip
    (account,) = (json.loads(path.read_text()) for path in out.glob("received/*/account.json"))
    assert [session["ended_by"] for session in account["sessions"]] == ["receiver ended", "grace", "stop"]
    assert left_over(tmp_path) == []


@pytest.mark.long
def test_a_withheld_packet_is_found(tmp_path: Path) -> None:
    run = demo(tmp_path, "--sabotage", "drop")
    assert run.returncode == 1, run.stdout + run.stderr
    assert run.stderr == ""
    assert "SABOTAGE: of packet 60 " in run.stdout
    last = run.stdout.splitlines()[-1]
    assert last.startswith("FAILED: 1599 frames missing (94401 to 95999, at 5.900 s)")
    assert left_over(tmp_path) == []


class Terminal:
    """The demo on a terminal of 80 by 24."""

    def __init__(self, folder: Path, *options: str) -> None:
        master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._master = master
        self.text = ""
        self._before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            command(folder / "out", *options),
            cwd=ROOT,
            env=environment(folder),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )

    def read_until(self, wanted: str | re.Pattern[str] | None) -> None:
        """Until `wanted` was shown, or (None) until the demo ended."""
        deadline = time.monotonic() + LIMIT_S
        while wanted is None or not self._has_shown(wanted):
            assert time.monotonic() < deadline, self.text[-3000:]
            ready, _, _ = select.select([self._master], [], [], 0.2)
            if ready:
                self.text += os.read(self._master, 65536).decode(errors="replace")
            elif self.process.poll() is not None:
                assert wanted is None, self.text[-3000:]
                return

    def _has_shown(self, wanted: str | re.Pattern[str]) -> bool:
        return wanted in self.text if isinstance(wanted, str) else wanted.search(self.text) is not None

    def interrupt(self, number: signal.Signals) -> None:
        """Ctrl-C goes to all processes of the group, as a terminal does it; the others to the demo alone."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    def hang_up(self) -> None:
        """The terminal is gone: whoever writes to it gets an error."""
        os.close(self._master)
        self._master = -1

    def is_clean(self) -> bool:
        """Main screen, cursor visible, and the line discipline as it was."""
        restored = self.text.rfind("\x1b[?1049l") > self.text.rfind("\x1b[?1049h")
        visible = self.text.rfind("\x1b[?25h") > self.text.rfind("\x1b[?25l")
        return restored and visible and termios.tcgetattr(self._slave) == self._before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self._master >= 0:
            os.close(self._master)
        os.close(self._slave)


@pytest.mark.long
def test_on_a_terminal(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        terminal.read_until(None)
        assert terminal.process.returncode == 0, terminal.text[-3000:]
        assert terminal.is_clean()
        for shown in ("REC", "SAFE", "dBFS", "unconfirmed", "OUT OF REACH", "number 3 of this recording"):
            assert shown in terminal.text
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text)
        for lamps in ("○ REC   ● SAFE", "● REC   ● SAFE", "● REC   ○ SAFE"):  # ready; recording; an outage
            assert lamps in plain
        after = terminal.text.rpartition("\x1b[?1049l")[2]
        for shown in ("the recorder's account", "WHOLE", "received.wav"):
            assert shown in after
    finally:
        terminal.close()


@pytest.mark.long
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "terminate", "hang-up"]
)
@pytest.mark.parametrize("moment", ["captured", "OUT OF REACH"])
def test_an_interruption_leaves_all_clean(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    terminal = Terminal(tmp_path)
    try:
        if moment == "OUT OF REACH":  # so that there is a file to ask for
            terminal.read_until(SOME_IN_THE_FILE)
        terminal.read_until(moment)
        terminal.interrupt(number)
        terminal.read_until(None)
        check_interrupted(terminal, tmp_path)
    finally:
        terminal.close()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_a_second_interruption_does_not_cut_the_clean_up_short(tmp_path: Path, number: signal.Signals) -> None:
    terminal = Terminal(tmp_path)
    try:
        terminal.read_until(SOME_IN_THE_FILE)
        terminal.interrupt(number)
        terminal.read_until("\x1b[?1049l")  # the screen is given back first, the receiver after it
        terminal.interrupt(number)
        terminal.read_until(None)
        check_interrupted(terminal, tmp_path)
    finally:
        terminal.close()


@pytest.mark.long
def test_a_terminal_that_is_gone_leaves_nothing(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        terminal.read_until(SOME_IN_THE_FILE)
        terminal.hang_up()
        terminal.interrupt(signal.SIGHUP)
        assert terminal.process.wait(LIMIT_S) == 130
        assert left_over(tmp_path) == []
    finally:
        terminal.close()


def check_interrupted(terminal: Terminal, folder: Path) -> None:
    """Nothing is left but files in the folder that was asked for, and one line says so."""
    assert terminal.process.returncode == 130, terminal.text[-3000:]
    assert terminal.is_clean()
    after = terminal.text.rpartition("\x1b[?1049l")[2]
    assert after.count("edge: interrupted before the verdict") == 1
    assert "Traceback" not in terminal.text
    assert "internal error" not in terminal.text
    assert left_over(folder) == []
    # An interrupted demo delivers nothing more, and a recording may be young enough for the receiver not to know it
    # yet; but what was said to be delivered is in its file, readable.
    delivered = float(IN_THE_FILE.findall(terminal.text)[-1])
    assert received_s(folder / "out" / "received") >= delivered - 0.05  # a tenth, rounded


def received_s(folder: Path) -> float:
    """Seconds in the one file that the receiver left; 0 where there is none."""
    files = list(folder.glob("*/audio.wav"))
    assert len(files) <= 1
    if not files:
        return 0.0
    with wave.open(str(files[0])) as file:
        frames: int = len(file.readframes(file.getnframes())) // file.getsampwidth()
        rate: int = file.getframerate()
    return frames / rate


def test_refusals_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    run = demo(tmp_path)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert "is not empty" in run.stderr
