"""`edge record` as a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.client.receiver import TOKEN
from tests.rig.process import Child

ROOT = Path(__file__).resolve().parents[2]
BOUND_S = 30.0
CONFIG = """
[connection]
initial_reconnect_delay = 0.05
max_reconnect_delay = 0.2
connection_timeout = 2.0
shutdown_drain = {drain_s}
[panel]
enabled = false
"""


class Recorder(Child):
    """`edge record` as a child; `said` waits for a line of stderr."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *options: str,
        drain_s: float = 20.0,
        state: Path | None = None,
        more: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`folder` takes token and configuration (`more` of it: TOML), and the state unless `state` does. With no `url`
        `more` has to say what server there is."""
        token, config = folder / "token", folder / "edge.toml"
        token.write_text(TOKEN + "\n")
        token.chmod(0o600)
        config.write_text(CONFIG.format(drain_s=drain_s) + more)
        self.state = state or folder / "state"
        command = [
            sys.executable,
            "-m",
            "edge",
            "record",
            "--config",
            str(config),
            "--state",
            str(self.state),
            "--json",
        ]
        command += ["--server", url, "--token-file", str(token)] if url else []
        command += options
        super().__init__("recorder", command, cwd=ROOT, env=env)

    async def said(self, text: str) -> None:
        async with asyncio.timeout(BOUND_S), self._news:
            await self._news.wait_for(lambda: self._is_over() or any(text in line for line in self.stderr))
        assert any(text in line for line in self.stderr), self.tail()

    def _is_over(self) -> bool:
        return all(reader.done() for reader in self._readers)

    async def account(self, code: int) -> dict[str, Any]:
        """Its account, once it ended with `code`."""
        assert await self.wait(BOUND_S) == code, self.tail()
        for line in (*self.stdout, *self.stderr):
            assert TOKEN not in line
            assert "Traceback" not in line
            assert "never retrieved" not in line
            assert "was never awaited" not in line
        assert len(self.stdout) == 1
        found: dict[str, Any] = json.loads(self.stdout[0])
        return found

    @property
    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.state / "spool" / "recordings").glob("*"))
