"""Programs under test as child processes: start, wait for a line, stop, and what /proc says of them.

Nothing here knows the programs: a child is a command line, its output, its exit code and its figures in /proc.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")


class ChildError(Exception):
    """A child did not do what the test waited for; the text carries the end of what it printed."""


class ReservedPort:
    """A port on loopback that stays ours while nobody listens on it.

    The reserving socket is bound and never listens. With SO_REUSEADDR on both sides another socket may bind and
    listen on the port, go away and come back; in between, connects are refused and the kernel gives the port to
    nobody else.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.host = host
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((host, 0))
        self.number: int = self._socket.getsockname()[1]

    def listener(self, backlog: int = 128) -> socket.socket:
        """A socket that listens on the port; the caller closes it."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.number))
        listener.listen(backlog)
        listener.setblocking(False)
        return listener

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far: processor seconds (user and system), memory in bytes."""

    cpu_s: float
    resident: int
    peak_resident: int


def usage(pid: int) -> Usage:
    """Read /proc/PID/stat and /proc/PID/status. Raises FileNotFoundError when the process is gone."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    memory = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM"):
            memory[key] = int(value.split()[0]) * 1024
    cpu_s = (int(after_name[11]) + int(after_name[12])) / _TICKS
    return Usage(cpu_s, memory["VmRSS"], memory["VmHWM"])


def bytes_read(pid: int) -> int:
    """All bytes that the process asked `read` for so far (rchar of /proc/PID/io)."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise ChildError(f"/proc/{pid}/io has no rchar")


class Child:
    """One child process. Its two outputs are kept as lines and, where a folder is given, as files.

    Use it as an async context manager: whatever happens, the process is gone afterwards. It also dies with this
    process (parent death signal), so that an aborted test run leaves nothing behind.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        logs: Path | None = None,
        cwd: Path | None = None,
        listens: bool = False,
    ) -> None:
        """`listens`: it reads what is `write`n to it; otherwise its stdin is empty."""
        self.name = name
        self.command = list(command)
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._env = dict(os.environ if env is None else env)
        self._logs = logs
        self._cwd = cwd
        self._listens = listens
        self._process: asyncio.subprocess.Process | None = None
        self._news = asyncio.Condition()
        self._readers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        """The process id; also valid after its end."""
        if self._process is None:
            raise ChildError(f"{self.name} was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start it (again, after an end: the lines of all lives stay in `stdout` and `stderr`)."""
        if self._process is not None and self._process.returncode is None:
            raise ChildError(f"{self.name} runs already")
        await self._finish_reading()
        prefix = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self._process = await asyncio.create_subprocess_exec(
            *prefix,
            *self.command,
            stdin=asyncio.subprocess.PIPE if self._listens else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._env,
            cwd=self._cwd,
            limit=1 << 20,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(self._process.stdout, self.stdout, "stdout")),
            asyncio.create_task(self._read(self._process.stderr, self.stderr, "stderr")),
        ]

    async def _read(self, stream: asyncio.StreamReader, lines: list[str], label: str) -> None:
        with contextlib.ExitStack() as stack:
            log = None
            if self._logs is not None:
                log = stack.enter_context((self._logs / f"{self.name}.{label}").open("ab"))
            while line := await stream.readline():
                if log is not None:
                    log.write(line)
                    log.flush()
                async with self._news:
                    lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._news.notify_all()
        async with self._news:
            self._news.notify_all()

    async def _finish_reading(self) -> None:
        if self._readers:
            await asyncio.gather(*self._readers)
            self._readers = []

    def write(self, text: str) -> None:
        """To its stdin, at once."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(text.encode())

    async def wait_line(self, wanted: Callable[[str], bool], timeout_s: float, skip: int = 0) -> str:
        """The first line of stdout, from line `skip` on, for which `wanted` is true; raises ChildError."""
        return await self._line(self.stdout, wanted, timeout_s, skip)

    async def wait_error(self, wanted: Callable[[str], bool], timeout_s: float, skip: int = 0) -> str:
        """The same of stderr."""
        return await self._line(self.stderr, wanted, timeout_s, skip)

    async def _line(self, lines: list[str], wanted: Callable[[str], bool], timeout_s: float, skip: int) -> str:
        def found() -> str | None:
            return next((line for line in lines[skip:] if wanted(line)), None)

        def settled() -> bool:
            return found() is not None or all(reader.done() for reader in self._readers)

        try:
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(settled)
        except TimeoutError:
            raise ChildError(f"{self.name}: no such line within {timeout_s} s; {self.tail()}") from None
        line = found()
        if line is None:
            raise ChildError(f"{self.name} ended before the line came; {self.tail()}")
        return line

    async def wait(self, timeout_s: float) -> int:
        """Its exit code, once it ended by itself and all output was read; raises ChildError."""
        assert self._process is not None
        try:
            async with asyncio.timeout(timeout_s):
                code = await self._process.wait()
                await self._finish_reading()
        except TimeoutError:
            raise ChildError(f"{self.name} did not end within {timeout_s:.0f} s; {self.tail()}") from None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        if self._process is not None and self._process.returncode is None:
            # Not send_signal: it looks whether the child has ended, and so takes its exit code from asyncio (255 then).
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone. May be called at any time, also twice."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        await self._process.wait()
        await self._finish_reading()

    def usage(self) -> Usage:
        """What it has used so far."""
        return usage(self.pid)

    def tail(self, lines: int = 12) -> str:
        """The end of what it printed, for an error text."""
        shown = [f"out| {line}" for line in self.stdout[-lines:]] + [f"err| {line}" for line in self.stderr[-lines:]]
        return "it printed:\n" + "\n".join(shown) if shown else "it printed nothing"
