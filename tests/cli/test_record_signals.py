"""`edge record` as a process: Ctrl-C, pipes that nobody reads, and a receiver that comes late."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.receiver.config import ReceiverConfig
from edge.receiver.server import Receiver
from tests.cli.recorder import BOUND_S, ROOT, Recorder
from tests.client.receiver import TOKEN
from tests.rig.process import ReservedPort


@pytest.fixture
def port() -> Iterator[ReservedPort]:
    """A port at which nobody listens until a test does."""
    reserved = ReservedPort()
    yield reserved
    reserved.close()


def config(folder: Path, port: int = 0) -> ReceiverConfig:
    return ReceiverConfig(folder / "received", TOKEN, port=port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_once_is_stop_and_deliver(number: signal.Signals, tmp_path: Path) -> None:
    source = ("--source", "tone:440")
    async with Receiver(config(tmp_path)) as receiver, Recorder(tmp_path, receiver.url, *source) as recorder:
        await recorder.said("connecting -> connected")
        recorder.signal(number)
        account = await recorder.account(0)
        assert account["expected"] == account["delivered"]
        assert account["pending"] == 0
        assert recorder.kept == []


async def test_twice_keeps_the_rest(tmp_path: Path, port: ReservedPort) -> None:
    async with Recorder(tmp_path, f"http://127.0.0.1:{port.number}", "--source", "tone:440") as recorder:
        await recorder.said("recording ")
        recorder.signal(signal.SIGINT)
        await recorder.said("the recording has ended")
        recorder.signal(signal.SIGINT)
        account = await recorder.account(3)
        assert account["delivered"] == 0
        assert account["pending"] == account["expected"]
        assert recorder.kept == ([account["recording"]] if account["expected"] else [])


async def test_twice_at_once_as_impatient_people_do(tmp_path: Path, port: ReservedPort) -> None:
    async with Recorder(tmp_path, f"http://127.0.0.1:{port.number}", "--source", "tone:440") as recorder:
        await recorder.said("recording ")
        async with asyncio.timeout(BOUND_S):
            while recorder.returncode is None:
                recorder.signal(signal.SIGINT)
                await asyncio.sleep(0.02)  # two that come at once are one to a process
        assert await recorder.wait(BOUND_S) in (0, 3)  # 0 only where nothing was captured yet
        assert "Traceback" not in "\n".join(recorder.stderr)
        account = json.loads(recorder.stdout[0])
        assert account["pending"] == account["expected"]


async def test_while_it_only_delivers_once_keeps_the_rest(tmp_path: Path, port: ReservedPort) -> None:
    options = ("--source", "tone:440", "--pace", "fast", "--seconds", "2")
    async with Recorder(tmp_path, f"http://127.0.0.1:{port.number}", *options) as recorder:
        await recorder.said("the recording has ended")
        recorder.signal(signal.SIGINT)
        account = await recorder.account(3)
        assert account["pending"] == 32000
        assert recorder.kept == [account["recording"]]


async def test_sigterm_delivers_for_a_while_and_keeps_the_rest(tmp_path: Path, port: ReservedPort) -> None:
    url = f"http://127.0.0.1:{port.number}"
    async with Recorder(tmp_path, url, "--source", "tone:440", drain_s=0.1) as recorder:
        await recorder.said("recording ")
        recorder.signal(signal.SIGTERM)
        account = await recorder.account(3)
        assert account["pending"] == account["expected"]
        assert recorder.kept == ([account["recording"]] if account["expected"] else [])
        assert any("within 0.1 s is kept for later" in line for line in recorder.stderr)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
async def test_after_sigterm_another_signal_ends_it_at_once(
    second: signal.Signals, tmp_path: Path, port: ReservedPort
) -> None:
    url = f"http://127.0.0.1:{port.number}"
    async with Recorder(tmp_path, url, "--source", "tone:440", drain_s=3600.0) as recorder:
        await recorder.said("recording ")
        recorder.signal(signal.SIGTERM)
        await recorder.said("the recording has ended")
        recorder.signal(second)
        assert (await recorder.account(3))["delivered"] == 0


async def test_sigterm_limits_what_one_ctrl_c_left_unlimited(tmp_path: Path, port: ReservedPort) -> None:
    url = f"http://127.0.0.1:{port.number}"
    async with Recorder(tmp_path, url, "--source", "tone:440", drain_s=0.1) as recorder:
        await recorder.said("recording ")
        recorder.signal(signal.SIGINT)
        await recorder.said("the recording has ended")
        recorder.signal(signal.SIGTERM)
        assert (await recorder.account(3))["delivered"] == 0


async def test_without_a_limit_it_waits_for_the_server_and_retry_cuts_that_short(
    tmp_path: Path, port: ReservedPort
) -> None:
    options = ("--source", "tone:440", "--pace", "fast", "--seconds", "2")
    async with Recorder(tmp_path, f"http://127.0.0.1:{port.number}", *options) as recorder:
        await recorder.said("the recording has ended")
        async with Receiver(config(tmp_path, port.number)):
            recorder.signal(signal.SIGUSR1)
            account = await recorder.account(0)
            assert account["delivered"] == 32000


@pytest.mark.parametrize("is_verbose", [True, False])
async def test_verbose_says_each_attempt_and_each_wake(tmp_path: Path, port: ReservedPort, is_verbose: bool) -> None:
    options = ["--source", "tone:440", "--pace", "fast", "--seconds", "2", *["--verbose"][: int(is_verbose)]]
    async with Recorder(tmp_path, f"http://127.0.0.1:{port.number}", *options) as recorder:
        await recorder.said("connecting -> failed")
        async with Receiver(config(tmp_path, port.number)):
            recorder.signal(signal.SIGUSR1)
            await recorder.account(0)
    lines = [line.partition(" ")[2] for line in recorder.stderr]
    assert lines.count("trying now: asked for") == 1
    attempts = [line.partition(": ")[::2] for line in lines if line.startswith("attempt ") and ": " in line]
    if not is_verbose:
        assert [line for line in lines if line.startswith("attempt ")] == []
        return
    assert attempts[0] == ("attempt 1", "there is audio to deliver")
    assert [name for name, _ in attempts] == [*(f"attempt {number}" for number in range(1, 11)), "attempt 1"]
    assert all(reason.endswith(" s after the last") for _, reason in attempts[1:-1])
    assert attempts[-1] == ("attempt 1", "asked for")
    announced = [line for line in lines if line.startswith("attempt ") and " in " in line]
    assert [line.partition(" in ")[0] for line in announced] == [f"attempt {number}" for number in range(2, 12)]


async def test_a_killed_receiver_that_comes_back_gets_the_rest_and_nothing_twice(
    tmp_path: Path, port: ReservedPort
) -> None:
    options = ("--source", "tone:440", "--seconds", "1.5")
    first = Receiver(config(tmp_path, port.number))
    async with Recorder(tmp_path, f"http://127.0.0.1:{port.number}", *options) as recorder:
        async with first:
            await recorder.said("connecting -> connected")
            await first.kill()
        async with Receiver(config(tmp_path, port.number)):
            account = await recorder.account(0)
        assert account["delivered"] == 24000
        assert len(account["sessions"]) == 2
        stored = json.loads((tmp_path / "received" / account["recording"] / "account.json").read_text())
        assert (stored["frames"], stored["stored_frames"], stored["packets"]) == (24000, 24000, 15)


async def test_nobody_reads_stderr(tmp_path: Path) -> None:
    async with Receiver(config(tmp_path)) as receiver:
        options = ("--source", "tone:440", "--pace", "fast", "--seconds", "2")
        recorder = Recorder(tmp_path, receiver.url, *options)
        code, out = await _run(recorder.command, lambda: os.close(2))
        assert code == 0
        assert json.loads(out)["delivered"] == 32000
        read_end, write_end = os.pipe()
        os.close(read_end)
        code, out = await _run(recorder.command, lambda: os.dup2(write_end, 2), write_end)
        os.close(write_end)
        assert code == 0
        assert json.loads(out)["delivered"] == 32000


async def test_nobody_reads_stdout(tmp_path: Path) -> None:
    async with Receiver(config(tmp_path)) as receiver:
        options = ("--source", "tone:440", "--pace", "fast", "--seconds", "2")
        recorder = Recorder(tmp_path, receiver.url, *options)
        read_end, write_end = os.pipe()
        os.close(read_end)
        full = os.open("/dev/full", os.O_WRONLY)
        for stdout in (write_end, full):
            process = await asyncio.create_subprocess_exec(
                *recorder.command, stdout=stdout, stderr=asyncio.subprocess.PIPE, cwd=ROOT
            )
            os.close(stdout)
            async with asyncio.timeout(BOUND_S):
                _, err = await process.communicate()
            assert process.returncode == 0
            assert b"Traceback" not in err
            assert b"Exception" not in err
            assert b"the account cannot be written" in err
            assert err.endswith(b"2.000 s: 2.000 s delivered, 0.000 s kept for later\n")
            assert recorder.kept == []


async def test_a_terminal_that_goes_away_takes_nothing_with_it(tmp_path: Path, port: ReservedPort) -> None:
    """SSH over a network that fails: the very case in which all is still in memory."""
    options = ("--source", "tone:440", "--pace", "fast", "--seconds", "2")
    recorder = Recorder(tmp_path, f"http://127.0.0.1:{port.number}", *options, drain_s=0.1)
    control, terminal = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *recorder.command, stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal)
    seen = b""
    async with asyncio.timeout(BOUND_S):
        while b"the recording has ended" not in seen:
            seen += await asyncio.to_thread(os.read, control, 1000)
        os.close(control)
        assert await process.wait() == 3
    assert len(recorder.kept) == 1


async def test_nohup_goes_on_without_the_terminal(tmp_path: Path) -> None:
    async with Receiver(config(tmp_path)) as receiver:
        recorder = Recorder(tmp_path, receiver.url, "--source", "tone:440", "--seconds", "2")
        recorder.command.insert(0, "nohup")
        async with recorder:
            await recorder.said("connecting -> connected")
            recorder.signal(signal.SIGHUP)
            assert (await recorder.account(0))["delivered"] == 32000


async def _run(command: list[str], prepare: Callable[[], object], *descriptors: int) -> tuple[int | None, str]:
    environment = os.environ | {"PYTHONUNBUFFERED": ""}  # what is held back fails a second time, at the exit
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, preexec_fn=prepare, pass_fds=descriptors, cwd=ROOT, env=environment
    )
    async with asyncio.timeout(BOUND_S):
        out, _ = await process.communicate()
    return process.returncode, out.decode()
