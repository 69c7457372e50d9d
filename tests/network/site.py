"""A lab with people in it: `edge receive` at the server, `edge record` on the device, each a process of its own, and
the tap at the server's network card."""

from __future__ import annotations

import contextlib
import random
import secrets
import signal
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.campaign.audio import Source
from tests.campaign.audit import audit_account, audit_packets, audit_samples
from tests.campaign.bounds import carried_twice
from tests.campaign.evidence import kept_packets, stored_recording
from tests.campaign.stage import ROOT, last_json, toml
from tests.campaign.wire import Connection
from tests.network.lab import SERVER_NAME, Lab
from tests.network.netns import command_in
from tests.network.rtnetlink import Moment
from tests.network.tap import Tap
from tests.rig.process import Child, ChildError

PORT = 8765
BOUND_S = 60.0
DRAIN_S = 240.0


class Noise(Source):
    """What `tone:noise:SEED` gives, made again here."""

    @cached_property
    def pcm(self) -> bytes:
        size = self.rate * self.frame_bytes
        seconds = -(-self.frames // self.rate)
        whole = b"".join(random.Random(f"{self.seed}:{second}").randbytes(size) for second in range(seconds))
        return whole[: self.frames * self.frame_bytes]


@dataclass(frozen=True, slots=True)
class Plan:
    """How receiver and recorder are started. `config`: the recorder's TOML sections beside server url and token."""

    strict: bool = False
    host: str = SERVER_NAME
    grace_s: float = 120.0
    seed: str = "lab"
    config: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the outside audit found in the end; times and amounts in frames."""

    problems: list[str]
    frames: int
    missing: int
    repeated: int
    account: dict[str, Any]


class Site:
    """An async context manager; `lab` has to be built. Afterwards nothing runs any more."""

    def __init__(self, lab: Lab, folder: Path, plan: Plan | None = None) -> None:
        self.lab = lab
        self.folder = folder
        self.plan = plan or Plan()
        self.token = secrets.token_hex(20)
        self.out = folder / "received"
        folder.mkdir(parents=True, exist_ok=True)
        self.token_file = folder / "token"
        self.token_file.write_text(self.token + "\n")
        self.token_file.chmod(0o600)
        self.receiver = Child("receiver", self._receive(), logs=folder, cwd=ROOT)
        self.recorder = Child("recorder", self._record(), logs=folder, cwd=ROOT)
        self.tap = Tap(lab.server, PORT)
        self._ending = contextlib.AsyncExitStack()

    def _receive(self) -> list[str]:
        command = [sys.executable, "-m", "edge", "receive", "--host", "::", "--port", str(PORT)]
        command += ["--out", str(self.out), "--token-file", str(self.token_file), "--grace", str(self.plan.grace_s)]
        if self.plan.strict:
            command += ["--strict-aia", "--transcribe-seconds", "0:1"]
        return command_in(self.lab.server, command)

    def _record(self) -> list[str]:
        config = self.folder / "edge.toml"
        sections = {name: dict(values) for name, values in self.plan.config.items()}
        sections.setdefault("server", {})["allow_insecure"] = True
        sections.setdefault("panel", {})["enabled"] = False
        config.write_text(toml(sections))
        command = [sys.executable, "-m", "edge", "record", "--config", str(config), "--server", self.url, "--json"]
        command += ["--token-file", str(self.token_file), "--state", str(self.folder / "state")]
        command += ["--source", f"tone:noise:{self.plan.seed}"]
        return command_in(self.lab.device, command)

    @property
    def url(self) -> str:
        """Where clients find the server."""
        host = f"[{self.plan.host}]" if ":" in self.plan.host else self.plan.host
        return f"http://{host}:{PORT}"

    async def __aenter__(self) -> Self:
        try:
            for child in (self.receiver, self.recorder):
                self._ending.push_async_callback(child.kill)
            await self._ending.enter_async_context(self.tap)
            await self.start_receiver()
        except BaseException:
            await self._ending.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._ending.aclose()

    async def start_receiver(self) -> None:
        """Start it (again) and wait until it listens."""
        seen = len(self.receiver.stdout)
        await self.receiver.start()
        await self.receiver.wait_line(lambda line: line.startswith("listening on"), BOUND_S, skip=seen)

    async def restart_receiver(self) -> Moment:
        """SIGKILL, and a new one on the same port and folder. Stamped: until it listens."""
        await self.receiver.kill()
        at = time.monotonic()
        await self.start_receiver()
        return Moment(at, time.monotonic())

    async def start_recorder(self) -> None:
        """Start it, and return when audio of it was handled."""
        await self.recorder.start()
        await self.handled(time.monotonic())

    async def end_recorder(self, timeout_s: float = DRAIN_S) -> tuple[int, dict[str, Any]]:
        """Ctrl-C; its exit code and account when all is delivered."""
        self.recorder.signal(signal.SIGINT)
        code = await self.recorder.wait(timeout_s)
        return code, last_json(self.recorder)

    async def stop(self, timeout_s: float = DRAIN_S) -> Outcome:
        """Ctrl-C; when all is delivered and the receiver is closed, the verdict."""
        code, account = await self.end_recorder(timeout_s)
        self.receiver.signal(signal.SIGTERM)
        await self.receiver.wait(BOUND_S + 40.0)  # a strict one lives on for half a minute (PROTOCOL.md, trap 7)
        return self._judge(code, account)

    # --- what the tap saw ------------------------------------------------------------------------------------------

    @property
    def connections(self) -> list[Connection]:
        """The WebSockets so far, of whomever."""
        return self.tap.wire.connections

    def handled_at(self, since: float, uplink: str = "", sessions: Collection[str] | None = None) -> float | None:
        """When the server first confirmed audio that had arrived after `since`, to an address that the device has now;
        None: not yet. `uplink`, `sessions`: only by that one, only theirs."""
        there = self.lab.addresses
        times = [
            at
            for connection in self.connections
            if sessions is None or connection.session in sessions
            for at, count in connection.confirmed
            if at >= since and connection.sent[count - 1].at >= since
            if (client := self.tap.client_of(connection)) in there and uplink in ("", self.lab.uplink_of(client))
        ]
        return min(times, default=None)

    async def handled(self, since: float, uplink: str = "", timeout_s: float = BOUND_S) -> float:
        """Wait for it. Raises TimeoutError."""
        try:
            await self.tap.wait(lambda: self._is_over or self.handled_at(since, uplink) is not None, timeout_s)
        except TimeoutError:
            text = f"no audio was handled within {timeout_s:.0f} s"
            raise TimeoutError(f"{text}{uplink and ' by '}{uplink}; {self.recorder.tail(40)}") from None
        at = self.handled_at(since, uplink)
        if at is None:
            raise ChildError(f"the recorder ended; {self.recorder.tail()}")
        return at

    @property
    def _is_over(self) -> bool:
        return self.recorder.returncode is not None

    def used(self, connection: Connection) -> str:
        """The uplink by which a WebSocket came."""
        return self.lab.uplink_of(self.tap.client_of(connection))

    @property
    def takeovers(self) -> int:
        """How often the server replaced a socket that it still held."""
        return sum(
            message.get("reason") == "replaced" for connection in self.connections for _, message in connection.messages
        )

    # --- the verdict -----------------------------------------------------------------------------------------------

    def _judge(self, code: int, account: dict[str, Any]) -> Outcome:
        frames = account.get("expected", 0)
        source = Noise(self.plan.seed, frames)
        problems = [] if code == 0 else [f"exit code {code}; {self.recorder.tail()}"]
        whole = {"pending": 0, "delivered": frames, "lost": {}}
        problems += [
            f"its account says {key} = {account.get(key)!r}" for key in whole if account.get(key) != whole[key]
        ]
        if missed := self.tap.missed():
            problems.append(f"the tap missed {missed} packets")
        if self.plan.strict:
            kept = audit_packets(source, kept_packets(self.out))
        else:
            stored = stored_recording(self.out)
            kept = audit_samples(source, stored.pcm, stored.rate, stored.channels)
            kept.problems += audit_account(source, stored.account, len(carried_twice(self.tap.wire)))
        problems += kept.problems
        for child in (self.recorder, self.receiver):
            if any(self.token in line for line in (*child.stdout, *child.stderr)):
                problems.append(f"the {child.name} printed the token")
        return Outcome(problems, frames, kept.missing_frames, kept.repeated_frames, account)
