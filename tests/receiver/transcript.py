"""Runs a transcript: who sends what, and what an aia-v4 server answers, as PROTOCOL.md tells it.

One step a line; `#` begins a comment. A session is named by a letter, a socket by a number.

    set NAME VALUE            before anything else; `set off FAULT` switches a fault off
    start A                   POST start               start A -> 401 | 409 | 400 | 500, with: token, agent, event
    connect 1 A [resume=0] [token=wrong]
    1 > init [TARGET_MS]      packets SEQS, ping, pong, stop, pause, go, short, truncated, format, empty, magic, odd
    1 < KIND [FIELD=VALUE..]  the next message but for server pings; `closed CODE [REASON]`; a ping: `t`, `ts`, `piled`
    1 rfc-ping                an RFC 6455 ping, answered
    1 close | 1 reset | 1 deaf
    stop A                    POST stop, answered
    status A FIELD=VALUE..    now
    until A FIELD=VALUE..     sooner or later
    kept A SEQS | -           sooner or later, in the order of arrival
    lost A SEQS               is in no file now
    hangs A | answers A       a status poll
    restart                   SIGKILL, and another process on the same folder
    term                      SIGTERM;  `ended`: and the process ends
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from edge.receiver.config import StrictConfig, StrictFaults, Timing
from edge.receiver.segments import Arrival, parse
from edge.receiver.server import Receiver
from tests.receiver.client import Client, Closed, Message, Wire, config, eventually, packet

_HANG_S = 0.5
_MALFORMED = {
    "short": packet(9)[:31],
    "truncated": packet(9)[:-2],
    "format": packet(9)[:26] + b"\2\0" + packet(9)[28:],
    "empty": b"",
    "magic": b"WEBM" + packet(9)[4:],
}
_TEXTS: dict[str, Message] = {
    "ping": {"type": "ping"},
    "pong": {"type": "pong"},
    "stop": {"action": "stop_stream"},
    "pause": {"action": "set_processing_state", "paused": True},
    "go": {"action": "set_processing_state", "paused": False},
}


class Transcript:
    """One run of the file `path` with the receiver's files in `out`."""

    def __init__(self, path: Path, out: Path) -> None:
        self._path = path
        self._out = out
        self._recording = str(uuid4())
        self._strict = StrictConfig(transcribe=(0.0, 0.0), cleanup=(0.05, 0.2), hold=0.1)
        self._timing = Timing(promised_grace=60, linger_after_term=10)
        self._receiver: Receiver | None = None
        self._client: Client | None = None
        self._sessions: dict[str, str] = {}
        self._wires: dict[str, Wire] = {}
        self._ending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """All steps; an AssertionError names the line."""
        lines = self._path.read_text().splitlines()
        try:
            for number, line in enumerate(lines, 1):
                words = shlex.split(line, comments=True)
                if not words:
                    continue
                try:
                    await self._step(words)
                except (AssertionError, Closed, TimeoutError, KeyError) as error:
                    problem = f"{self._path.name}:{number}: {line.strip()}: {type(error).__name__} {error}"
                    raise AssertionError(problem) from error
        finally:
            await self._end()

    async def _step(self, words: list[str]) -> None:
        match words:
            case ["set", name, value]:
                self._set(name, value)
                return
            case _ if self._receiver is None:
                await self._serve()
        match words:
            case ["start", session, *rest]:
                await self._start(session, rest)
            case ["connect", wire, session, *options]:
                self._wires[wire] = await self._dial(session, dict(option.split("=") for option in options))
            case [wire, ">", what, *rest]:
                await self._send(self._wires[wire], what, rest)
            case [wire, "<", *wanted]:
                await self._expect(self._wires[wire], wanted)
            case [wire, "rfc-ping"]:
                await self._wires[wire].ping_frame()
            case [wire, "close"]:
                await self._wires[wire].close()
            case [wire, "reset"]:
                self._wires[wire].reset()
            case [wire, "deaf"]:
                self._wires[wire].deafen()
            case _:
                await self._look(words)

    async def _look(self, words: list[str]) -> None:
        match words:
            case ["stop", session]:
                code, answer = await self._http.stop(self._sessions[session])
                assert (code, answer["status"]) == (200, "success")
            case ["status", session, *wanted]:
                assert await self._has_status(session, wanted), await self._http.status(self._sessions[session])
            case ["until", session, *wanted]:
                await eventually(lambda: self._has_status(session, wanted))
            case ["kept", session, seqs]:
                wanted_seqs = _seqs(seqs)
                await eventually(lambda: self._kept(session) == wanted_seqs)
            case ["lost", session, seqs]:
                assert not set(_seqs(seqs)) & set(self._kept(session)), self._kept(session)
            case ["hangs", session]:
                assert not await self._answers(session)
            case ["answers", session]:
                assert await self._answers(session)
            case ["restart"]:
                await self._restart()
            case ["term"]:
                self._ending = asyncio.create_task(self._terminate())
                await asyncio.sleep(0)
            case ["ended"]:
                assert self._ending is not None
                async with asyncio.timeout(10):
                    await self._ending
            case _:
                raise KeyError(" ".join(words))

    # --- the receiver ---

    @property
    def _http(self) -> Client:
        assert self._client is not None
        return self._client

    def _set(self, name: str, value: str) -> None:
        if name == "off":
            assert value in {item.name for item in fields(StrictFaults)}
            self._strict = replace(self._strict, faults=replace(self._strict.faults, **{value: False}))
        elif name in {item.name for item in fields(Timing)}:
            self._timing = replace(self._timing, **{name: float(value)})
        else:
            low, colon, high = value.partition(":")
            number: Any = (float(low), float(high)) if colon else type(getattr(self._strict, name))(float(value))
            self._strict = replace(self._strict, **{name: number})

    async def _serve(self) -> None:
        agents = frozenset({"tester"})
        self._receiver = Receiver(config(self._out, strict=self._strict, timing=self._timing, agents=agents))
        await self._receiver.__aenter__()
        self._client = Client(self._receiver.url)
        await self._client.__aenter__()

    async def _restart(self) -> None:
        assert self._receiver is not None
        await self._receiver.kill()
        await self._http.__aexit__(None, None, None)
        await self._serve()

    async def _terminate(self) -> None:
        assert self._receiver is not None
        await self._receiver.terminate()
        await self._receiver.__aexit__(None, None, None)

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
        if self._ending is not None:
            await self._ending
        elif self._receiver is not None:
            await self._receiver.__aexit__(None, None, None)

    # --- steps ---

    async def _start(self, session: str, rest: list[str]) -> None:
        body = {"agent": "tester", "event": "test", "recording": self._recording}
        token = self._http.token
        wanted = "200"
        if "->" in rest:
            wanted = rest[rest.index("->") + 1]
        assert self._receiver is not None
        self._receiver.set_conflict(active=wanted == "409")
        for option in rest:
            name, equals, value = option.partition("=")
            if equals and name == "token":
                self._http.token = value
            elif equals and value:
                body[name] = value
            elif equals:
                del body[name]
        code, answer = await self._http.post("/api/recording/start", body)
        self._http.token = token
        if wanted == "401":
            assert code == 200, (code, answer)
            assert list(answer[0]) == ["error"], answer
            assert answer[1] == 401, answer
            return
        assert str(code) == wanted, (code, answer)
        if code == 200:
            required = {"status", "message", "session_id", "session_start_time_utc", "recording_status"}
            assert required <= set(answer), answer
            self._sessions[session] = answer["session_id"]

    async def _dial(self, session: str, options: dict[str, str]) -> Wire:
        return await self._http.dial(
            self._sessions.get(session, "00000000-0000-0000-0000-000000000000"),
            resume=int(options.get("resume", "1")),
            token=options.get("token"),
            greet=False,
        )

    async def _send(self, wire: Wire, what: str, rest: list[str]) -> None:
        if what == "init":
            await wire.send(
                {
                    "type": "init",
                    "supports_pcm": True,
                    "format": "pcm16",
                    "sample_rate": 16000,
                    "channels": 1,
                    "frame_duration_ms": 100,
                    "frame_samples": 1600,
                    "next_seq": 1,
                    "segment_target_ms": int(rest[0]) if rest else 15000,
                }
            )
        elif what == "packets":
            for seq in _seqs(rest[0]):
                await wire.send(packet(seq))
        elif what in _MALFORMED:
            await wire.send(_MALFORMED[what])
        else:
            await wire.send(_TEXTS[what])

    async def _expect(self, wire: Wire, wanted: list[str]) -> None:
        kind, rest = wanted[0], wanted[1:]
        if kind == "closed":
            closed = await wire.closed()
            assert [str(closed.code), closed.reason] == [rest[0], rest[1] if len(rest) > 1 else ""], closed
            return
        pings: dict[str, Callable[[Message], bool]] = {
            "t": lambda message: "t" in message,
            "ts": lambda message: 0 < message.get("ts", 0) < 1e11,
            "piled": lambda message: message.get("ts", 0) > 1e11,
        }
        if kind in pings:
            message = (await wire.until("ping", lambda message: pings[kind](message) and _has(message, rest)))[-1]
        else:
            message = await wire.recv()
            assert message["type"] == kind, message
        assert _has(message, rest), message

    async def _has_status(self, session: str, wanted: list[str]) -> bool:
        answer = await self._http.status(self._sessions[session])
        return _has(answer | answer.get("backlog", {}), wanted)

    async def _answers(self, session: str) -> bool:
        try:
            async with asyncio.timeout(_HANG_S):
                await self._http.status(self._sessions[session])
        except TimeoutError:
            return False
        return True

    def _kept(self, session: str) -> list[int]:
        path = self._out / self._recording / f"{self._sessions[session]}.kept.pcm1"
        data = path.read_bytes() if path.exists() else b""
        seqs = []
        while data:
            arrival = parse(data)
            if not isinstance(arrival, Arrival):
                break  # just being written
            assert arrival.wire == packet(arrival.seq)
            seqs.append(arrival.seq)
            data = data[len(arrival.wire) :]
        return seqs


def _has(message: Message, wanted: list[str]) -> bool:
    """Whether the message has each FIELD=VALUE; values are JSON, else text."""
    for word in wanted:
        name, _, text = word.partition("=")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if message.get(name) != value:
            return False
    return True


def _seqs(text: str) -> list[int]:
    """`1-3,7` as numbers; `-` for none."""
    seqs: list[int] = []
    for part in text.split(",") if text != "-" else ():
        first, _, last = part.partition("-")
        seqs += range(int(first), int(last or first) + 1)
    return seqs
