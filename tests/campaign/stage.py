"""A stage for one recording: a receiver, the fault proxy before it, and a recorder, each a process of its own."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.campaign.wire import Wire
from tests.rig.process import Child, ReservedPort
from tests.rig.proxy import FaultProxy

ROOT = Path(__file__).resolve().parents[2]
EDGE = (sys.executable, "-m", "edge")
_RECEIVER_START_S = 30.0
_TERM_S = 60.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a stage is told. `config` has the recorder's TOML sections beside server url and token."""

    strict: bool = False
    grace_s: float = 120.0
    transcribe: str | None = None
    seed: int | None = None
    config: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    edge_record: Sequence[str] = EDGE
    edge_receive: Sequence[str] = EDGE
    env: Mapping[str, str] | None = None


class Stage:
    """Receiver, proxy and recorder in one folder. An async context manager; afterwards nothing runs any more.

    `direct`: the recorder talks to the receiver past the proxy. `token`: what both are given (random by default).
    """

    def __init__(self, folder: Path, settings: Settings, *, direct: bool = False, token: str = "") -> None:
        self.folder = folder
        self.out = folder / "received"
        self.state = folder / "state"
        self.wire = Wire()
        self.token = token or secrets.token_hex(20)
        self._settings = settings
        self._direct = direct
        self._port = ReservedPort()
        folder.mkdir(parents=True, exist_ok=True)
        self.token_file = folder / "token"
        self.token_file.write_text(self.token + "\n")
        self.token_file.chmod(0o600)
        self.proxy = FaultProxy(self._port.number, tap=self.wire)
        self.receiver = Child("receiver", self._receive_command(), env=settings.env, logs=folder, cwd=ROOT)
        self.recorder: Child | None = None

    def _receive_command(self) -> list[str]:
        settings = self._settings
        command = [*settings.edge_receive, "receive", "--host", "127.0.0.1", "--port", str(self._port.number)]
        command += ["--out", str(self.out), "--token-file", str(self.token_file), "--grace", str(settings.grace_s)]
        if settings.strict:
            command.append("--strict-aia")
            if settings.transcribe is not None:
                command += ["--transcribe-seconds", settings.transcribe]
            if settings.seed is not None:
                command += ["--seed", str(settings.seed)]
        return command

    async def __aenter__(self) -> Self:
        await self.proxy.__aenter__()
        try:
            await self.start_receiver()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.recorder is not None:
            await self.recorder.kill()
        await self.receiver.kill()
        await self.proxy.__aexit__(None, None, None)
        self._port.close()

    @property
    def receiver_port(self) -> int:
        """The receiver's own port, past the proxy."""
        return self._port.number

    async def start_receiver(self) -> None:
        """Start it (again, on the same port and folder) and wait until it listens."""
        seen = len(self.receiver.stdout)
        await self.receiver.start()
        await self.receiver.wait_line(lambda line: line.startswith("listening on"), _RECEIVER_START_S, skip=seen)

    async def kill_receiver(self) -> None:
        """SIGKILL."""
        await self.receiver.kill()

    async def terminate_receiver(self) -> None:
        """SIGTERM, and wait for its end."""
        self.receiver.signal(signal.SIGTERM)
        await self.receiver.wait(_TERM_S)

    async def start_recorder(self, source: str, *options: str, name: str = "recorder") -> Child:
        """Start `edge record` against the proxy."""
        config = self.folder / "edge.toml"
        config.write_text(toml(self._settings.config))
        url = f"http://127.0.0.1:{self._port.number}" if self._direct else self.proxy.url
        command = [*self._settings.edge_record, "record", "--config", str(config), "--server", url]
        command += ["--token-file", str(self.token_file), "--state", str(self.state), "--source", source, *options]
        self.recorder = Child(name, command, env=self._settings.env, logs=self.folder, cwd=ROOT)
        await self.recorder.start()
        return self.recorder


def last_json(child: Child) -> dict[str, Any]:
    """The JSON object on the last line of its output; empty when there is none."""
    try:
        value = json.loads(child.stdout[-1])
    except (IndexError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    lines = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


async def until(at: float) -> None:
    """Return at CLOCK_MONOTONIC `at`, at once when that has passed."""
    await asyncio.sleep(max(0.0, at - time.monotonic()))
