"""A raw client of the receiver: what is sent and expected is spelled out, nothing is retried."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from edge.core.packet import AudioFormat, encode_header
from edge.receiver.config import Limits, ReceiverConfig, StrictConfig, Timing
from edge.receiver.server import Receiver

TOKEN = "s3cret-t0ken"
WAIT_S = 20.0
AUDIO = AudioFormat(16000, 1)
FRAMES = 1600
Message = dict[str, Any]


def payload(seq: int, frames: int = FRAMES, audio: AudioFormat = AUDIO) -> bytes:
    """Samples that tell which packet they belong to."""
    size = frames * audio.frame_bytes
    return (struct.pack("<IH", seq, 0xBEEF) * (size // 6 + 1))[:size]


def packet(seq: int, frames: int = FRAMES, audio: AudioFormat = AUDIO) -> bytes:
    """A whole packet."""
    return encode_header(seq, 1e12 + seq * 100.0, frames, audio) + payload(seq, frames, audio)


def packets(seqs: Iterable[int]) -> list[bytes]:
    """Whole packets of the usual size."""
    return [packet(seq) for seq in seqs]


class Closed(Exception):
    """The socket was closed by the server."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class Wire:
    """One WebSocket. Server pings are put aside in `pings`, whatever else comes is read by `recv`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.pings: list[Message] = []
        self.hello: Message = {}

    async def send(self, message: Message | bytes) -> None:
        """One message."""
        await self._connection.send(message if isinstance(message, bytes) else json.dumps(message))

    async def send_raw(self, message: str | bytes) -> None:
        """Whatever it is. Raises ConnectionError once the socket has ended."""
        try:
            await self._connection.send(message)
        except ConnectionClosed:
            raise ConnectionError from None

    async def stream(self, seqs: Iterable[int]) -> None:
        """Packets of the usual size."""
        for seq in seqs:
            await self.send(packet(seq))

    async def init(self, **values: Any) -> None:
        """The usual init, confirmed by a barrier."""
        message = {
            "type": "init",
            "supports_pcm": True,
            "format": "pcm16",
            "sample_rate": AUDIO.rate_hz,
            "channels": AUDIO.channels,
            "frame_duration_ms": 100,
            "frame_samples": FRAMES,
            "next_seq": 1,
        }
        await self.send(message | values)
        await self.barrier()

    async def barrier(self) -> list[Message]:
        """Ping, and all that came before its pong."""
        await self.send({"type": "ping"})
        return await self.until("pong")

    async def recv(self, *, pings: bool = False) -> Message:
        """The next message; raises Closed, or TimeoutError."""
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    message: Message = json.loads(await self._connection.recv())
                except ConnectionClosed as closed:
                    frame = closed.rcvd
                    raise Closed(frame.code if frame else 1006, frame.reason if frame else "") from None
                if message["type"] == "ping":
                    self.pings.append(message)
                    if not pings:
                        continue
                return message

    async def until(self, kind: str, test: Callable[[Message], bool] = lambda message: True) -> list[Message]:
        """All messages up to the first of `kind` that passes `test`, that one included."""
        seen: list[Message] = []
        async with asyncio.timeout(WAIT_S):
            while True:
                seen.append(await self.recv(pings=kind == "ping"))
                if seen[-1]["type"] == kind and test(seen[-1]):
                    return seen

    async def acked(self, seq: int) -> list[int]:
        """Read until everything up to `seq` is acknowledged; the acknowledgements."""
        messages = await self.until("ack", lambda message: message["seq"] >= seq)
        return [message["seq"] for message in messages if message["type"] == "ack"]

    async def closed(self) -> Closed:
        """Read until the server closes; how it did."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    await self.recv()
        except Closed as closed:
            return closed

    async def ping_frame(self) -> None:
        """An RFC 6455 ping, and its answer."""
        async with asyncio.timeout(WAIT_S):
            await (await self._connection.ping())

    async def close(self) -> None:
        """Close in order."""
        await self._connection.close()

    def reset(self) -> None:
        """Drop the connection with a TCP reset."""
        transport = self._connection.transport
        raw = transport.get_extra_info("socket")
        if raw.fileno() >= 0:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends RST
        transport.abort()

    def deafen(self) -> None:
        """Read nothing more, as a half-open or very slow peer."""
        self._connection.transport.pause_reading()


class Client:
    """HTTP and WebSockets to `url`; an async context manager that closes all."""

    def __init__(self, url: str, token: str = TOKEN) -> None:
        self.url = url
        self.token = token
        self._http: aiohttp.ClientSession | None = None
        self._wires: list[Wire] = []

    async def __aenter__(self) -> Client:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for wire in self._wires:
            wire.reset()
        if self._http is not None:
            await self._http.close()

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        """Status and JSON body of the answer."""
        assert self._http is not None
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self._http.post(self.url + path, json=body, headers=headers, **options) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON body of the answer."""
        assert self._http is not None
        async with self._http.get(self.url + path, **options) as answer:
            return answer.status, await answer.json()

    async def start(self, recording: str | None = None, **more: Any) -> str:
        """Open a session; its id."""
        body = {"agent": "tester", "event": "test"} | more
        if recording is not None:
            body["recording"] = recording
        code, answer = await self.post("/api/recording/start", body)
        assert code == 200, answer
        session_id = answer["session_id"]
        assert isinstance(session_id, str)
        return session_id

    async def stop(self, session_id: str) -> tuple[int, Any]:
        """Stop by HTTP."""
        return await self.post("/api/recording/stop", {"session_id": session_id})

    async def status(self, session_id: str, **options: Any) -> Message:
        """What the server says of a session."""
        code, answer = await self.get(f"/session/{session_id}/status", **options)
        assert code == (200 if answer["exists"] else 404)
        assert isinstance(answer, dict)
        return answer

    async def dial(self, session_id: str, *, resume: int = 1, token: str | None = None, greet: bool = True) -> Wire:
        """Open a WebSocket and, with `greet`, read up to hello."""
        shown = self.token if token is None else token
        base = self.url.replace("http", "ws", 1)
        url = f"{base}/ws/audio_stream/{session_id}?token={shown}&client_id=tester&resume={resume}"
        wire = Wire(await connect(url, proxy=None, compression=None, ping_interval=None, open_timeout=WAIT_S))
        self._wires.append(wire)
        if greet:
            wire.hello = (await wire.until("hello"))[-1]
        return wire

    async def open(self, recording: str | None = None, **init: Any) -> tuple[str, Wire]:
        """A session with acknowledgements, ready for packets."""
        session_id = await self.start(recording or str(uuid4()))
        wire = await self.dial(session_id)
        await wire.init(acks=True, **init)
        return session_id, wire


async def eventually(test: Callable[[], Any], what: str = "the condition") -> None:
    """Wait until `test()` is true; it may be a coroutine function."""
    async with asyncio.timeout(WAIT_S):
        while True:
            result = test()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.01)
    raise AssertionError(what)


def config(out: Path, **more: Any) -> ReceiverConfig:
    """A receiver on a free port. `grace` and `strict` as elsewhere; everything else as in ReceiverConfig."""
    timing = more.pop("timing", None) or Timing.for_grace(more.pop("grace", 120.0))
    return ReceiverConfig(out, TOKEN, timing=timing, **more)


@asynccontextmanager
async def serving(out: Path, **more: Any) -> AsyncIterator[tuple[Receiver, Client]]:
    """A receiver and a client of it."""
    async with Receiver(config(out, **more)) as receiver, Client(receiver.url) as client:
        yield receiver, client


def account(out: Path, recording: str) -> dict[str, Any]:
    """The JSON account of a recording."""
    value: dict[str, Any] = json.loads((out / recording / "account.json").read_bytes())
    return value


__all__ = ["Limits", "StrictConfig"]
