"""`edge receive` as a process of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.receiver.client import TOKEN

ROOT = Path(__file__).resolve().parents[2]
_START_S = 20.0


class Process:
    """A running receiver: where it listens, and what it said on stderr when it has ended."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.process = process
        self.url = url

    @property
    def pid(self) -> int:
        return self.process.pid

    async def end(self, number: int) -> tuple[int, str]:
        """Send a signal; exit code and stderr."""
        self.process.send_signal(number)
        _, stderr = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, stderr.decode()


@asynccontextmanager
async def receiving(out: Path, *options: str, before: Sequence[str] = ()) -> AsyncIterator[Process]:
    """A receiver with the usual token; killed at the end if it still runs. `before` is put before its command."""
    token_file = out.parent / "token"
    await asyncio.to_thread(token_file.write_text, TOKEN)
    command = [*before, sys.executable, "-m", "edge", "receive", "--port", "0", "--out", str(out)]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--token-file",
        str(token_file),
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_START_S):
            line = (await process.stdout.readline()).decode()
        assert line.startswith("listening on "), (await process.communicate())[1].decode()
        yield Process(process, line.split()[-1])
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
