"""`edge receive` as a process of its own, so that it can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path

import edge
from edge.cli.demo_proxy import HOST, ReservedPort
from edge.errors import EdgeError

_START_S = 30.0
_END_S = 10.0


class ReceiverProcess:
    """Starts, dies and comes back on one port and one folder. `log` gets what it says."""

    def __init__(self, folder: Path, token_file: Path, grace_s: float, log: Path) -> None:
        self._port = ReservedPort()
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        options = ["--host", HOST, "--port", str(self.port), "--out", str(folder), "--token-file", str(token_file)]
        receive = [sys.executable, "-m", "edge", "receive", *options, "--grace", f"{grace_s:g}"]
        # It must not outlive a demo that is killed.
        setpriv = shutil.which("setpriv")
        self._command = [setpriv, "--pdeathsig", "KILL", *receive] if setpriv else receive

    @property
    def port(self) -> int:
        """Where it listens when it runs."""
        return self._port.number

    async def start(self) -> None:
        """Return when it listens. Raises EdgeError."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=Path(edge.__file__).parents[1],
                process_group=0,  # Ctrl-C is for the demo, which ends it
            )
        assert self._process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                line = await self._process.stdout.readline()
        if not line.startswith(b"listening on "):
            await self.kill()
            raise EdgeError("the receiver does not start", remedy=f"see {self._log}")

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def end(self) -> None:
        """SIGTERM: it closes its files; SIGKILL where that takes too long."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_S):
                    await self._process.wait()
        await self.kill()

    def close(self) -> None:
        """Give the port back."""
        self._port.close()
