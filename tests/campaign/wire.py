"""What went over the wire, read at the proxy: packets, confirmations, status polls, with CLOCK_MONOTONIC times."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.campaign.audit import Packet

_PCM1_HEADER = 32
_CONTENT_LENGTH = re.compile(rb"^content-length:[ \t]*(\d+)", re.IGNORECASE | re.MULTILINE)
_STATUS = re.compile(r"^/session/([^/]+)/status")
_STREAM = re.compile(r"^/ws/audio_stream/([^/]+)")
_TEXT, _BINARY, _CLOSE = 1, 2, 8


@dataclass(frozen=True, slots=True)
class Passed:
    """One packet that passed."""

    at: float
    seq: int
    frames: int


@dataclass(frozen=True, slots=True)
class Poll:
    """One status poll that was answered."""

    asked_at: float
    told_at: float
    session: str
    exists: bool
    pending: int
    connected: bool


@dataclass(slots=True)
class Connection:
    """One WebSocket of the client.

    `sent` left the client, `handed` was written to the server. `confirmed` has, per confirmation told to the client,
    the time and how many of `sent` it covers, `acked` the same for acknowledgements alone (with the number).
    """

    link: int
    opened_at: float
    session: str
    resume: bool
    sent: list[Passed] = field(default_factory=list)
    handed: list[Passed] = field(default_factory=list)
    messages: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    confirmed: list[tuple[float, int]] = field(default_factory=list)
    acked: list[tuple[float, int]] = field(default_factory=list)
    next_seq: int | None = None
    closed_at: float | None = None
    init: dict[str, Any] | None = None
    peak_unconfirmed: int = 0  # frames
    _barriers: deque[int] = field(default_factory=deque)
    _unconfirmed: int = 0
    _covered: int = 0

    def packet_sent(self, packet: Passed) -> None:
        """The client sent a packet."""
        self.sent.append(packet)
        self._unconfirmed += packet.frames
        self.peak_unconfirmed = max(self.peak_unconfirmed, self._unconfirmed)

    def text_sent(self, message: dict[str, Any]) -> None:
        """The client sent a JSON message."""
        match message.get("type"):
            case "ping":
                self._barriers.append(len(self.sent))
            case "init":
                self.init = message

    def text_told(self, message: dict[str, Any], now: float) -> None:
        """The server's JSON message reached the client."""
        self.messages.append((now, message))
        match message.get("type"):
            case "hello":
                self.next_seq = message.get("next_seq")
            case "pong" if self._barriers:
                self._cover(self._barriers.popleft(), now)
            case "ack":
                self.acked.append((now, int(message["seq"])))
                covered = self._covered
                while covered < len(self.sent) and self.sent[covered].seq <= int(message["seq"]):
                    covered += 1
                self._cover(covered, now)

    def _cover(self, count: int, now: float) -> None:
        if count > self._covered:
            self._unconfirmed -= sum(packet.frames for packet in self.sent[self._covered : count])
            self._covered = count
            self.confirmed.append((now, count))

    def covered_at(self, now: float) -> int:
        """How many of `sent` were confirmed to the client at `now`."""
        index = bisect_right(self.confirmed, now, key=lambda entry: entry[0])
        return self.confirmed[index - 1][1] if index else 0

    def sent_by(self, now: float) -> int:
        """How many packets had been sent at `now`."""
        return bisect_right(self.sent, now, key=lambda packet: packet.at)

    def in_flight(self, now: float) -> int:
        """Frames that were sent and not confirmed at `now`."""
        return sum(packet.frames for packet in self.sent[self.covered_at(now) : self.sent_by(now)])


class _Frames:
    """RFC 6455 frames out of a byte stream. Of a binary message only the PCM1 header is unmasked."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes, int]]:
        """Opcode, payload (for binary messages: its first 32 bytes), and the payload's length."""
        self._data += data
        offset = 0
        while (frame := self._next(offset)) is not None:
            offset, opcode, payload, size = frame
            yield opcode, payload, size
        del self._data[:offset]

    def _next(self, offset: int) -> tuple[int, int, bytes, int] | None:
        data = self._data
        if len(data) < offset + 2:
            return None
        opcode, masked, size = data[offset] & 15, data[offset + 1] >> 7, data[offset + 1] & 127
        at = offset + 2
        extra = {126: 2, 127: 8}.get(size, 0)
        if len(data) < at + extra + 4 * masked:
            return None
        if extra:
            size = int.from_bytes(data[at : at + extra], "big")
        at += extra
        mask = bytes(data[at : at + 4]) if masked else b"\0\0\0\0"
        at += 4 * masked
        if len(data) < at + size:
            return None
        wanted = min(size, _PCM1_HEADER) if opcode == _BINARY else size
        key = int.from_bytes((mask * (wanted // 4 + 1))[:wanted], "big")
        payload = (int.from_bytes(data[at : at + wanted], "big") ^ key).to_bytes(wanted, "big")
        return at + size, opcode, payload, size


class _Http:
    """Messages of HTTP/1.1 with a Content-Length (or none) out of a byte stream."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Head and body of each whole message."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._data[:end])
            length = _CONTENT_LENGTH.search(head)
            body_end = end + 4 + (int(length[1]) if length else 0)
            if len(self._data) < body_end:
                return
            body = bytes(self._data[end + 4 : body_end])
            del self._data[:body_end]
            yield head, body

    def rest(self) -> bytes:
        """What follows the last message; forgets it."""
        rest = bytes(self._data)
        self._data.clear()
        return rest


class _Stream:
    """One link's two byte streams, read as HTTP first and, after an upgrade, as frames."""

    def __init__(self) -> None:
        self.opened_at = 0.0
        self.requests: deque[tuple[float, str]] = deque()
        self.connection: Connection | None = None
        self.up_http, self.up_frames = _Http(), _Frames()
        self.handed_http, self.handed_frames = _Http(), _Frames()
        self.down_http, self.down_frames = _Http(), _Frames()
        self.handed_upgraded = self.down_upgraded = False


class Wire:
    """The tap of a FaultProxy: everything that the client sent and was told, in order of time."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.polls: list[Poll] = []
        self.starts: list[tuple[float, dict[str, Any]]] = []
        self._streams: dict[int, _Stream] = {}

    @property
    def peak_unconfirmed(self) -> int:
        """The most frames that were sent and unconfirmed on one socket."""
        return max((connection.peak_unconfirmed for connection in self.connections), default=0)

    def of_session(self, session: str) -> list[Connection]:
        """The WebSockets of one session, in order."""
        return [connection for connection in self.connections if connection.session == session]

    # --- called by the proxy ---

    def opened(self, link: int, now: float) -> None:
        stream = self._streams[link] = _Stream()
        stream.opened_at = now

    def closed(self, link: int, now: float) -> None:
        connection = self._streams[link].connection
        if connection is not None:
            connection.closed_at = now

    def sent(self, link: int, data: bytes, now: float) -> None:
        stream = self._streams[link]
        if stream.connection is None:
            requests = stream.up_http.feed(data)
            upgraded = any(self._request(stream, link, head, body, now) for head, body in requests)
            data = stream.up_http.rest() if upgraded else b""
        if stream.connection is None:
            return
        for opcode, payload, size in stream.up_frames.feed(data):
            if opcode == _BINARY and (packet := _passed(payload, size, now)) is not None:
                stream.connection.packet_sent(packet)
            elif opcode == _TEXT:
                stream.connection.text_sent(_object(payload))

    def handed(self, link: int, data: bytes, now: float) -> None:
        stream = self._streams[link]
        if stream.connection is None:
            return
        if not stream.handed_upgraded:
            stream.handed_upgraded = next(stream.handed_http.feed(data), None) is not None
            data = stream.handed_http.rest() if stream.handed_upgraded else b""
        for opcode, payload, size in stream.handed_frames.feed(data):
            if opcode == _BINARY and (packet := _passed(payload, size, now)) is not None:
                stream.connection.handed.append(packet)

    def told(self, link: int, data: bytes, now: float) -> None:
        stream = self._streams[link]
        if not stream.down_upgraded:
            answers = stream.down_http.feed(data)
            stream.down_upgraded = any(self._response(stream, head, body, now) for head, body in answers)
            data = stream.down_http.rest() if stream.down_upgraded else b""
        if stream.connection is None:
            return
        for opcode, payload, _ in stream.down_frames.feed(data):
            if opcode == _TEXT:
                stream.connection.text_told(_object(payload), now)

    # --- HTTP ---

    def _request(self, stream: _Stream, link: int, head: bytes, body: bytes, now: float) -> bool:
        """Note one request; returns whether it asked for a WebSocket."""
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        url = urlsplit(target)
        streaming = _STREAM.match(url.path)
        if streaming:
            resume = parse_qs(url.query).get("resume", ["0"])[0] in ("1", "true")
            stream.connection = Connection(link, now, streaming[1], resume)
            self.connections.append(stream.connection)
            return True
        if method == "POST" and url.path == "/api/recording/start":
            self.starts.append((now, _object(body)))
        stream.requests.append((now, url.path))
        return False

    def _response(self, stream: _Stream, head: bytes, body: bytes, now: float) -> bool:
        """Note one answer; returns whether it opened a WebSocket."""
        code = head.split(b" ", 2)[1]
        if code == b"101" or not stream.requests:
            return code == b"101"
        asked_at, path = stream.requests.popleft()
        status = _STATUS.match(path)
        if status:
            answer = _object(body)
            backlog = answer.get("backlog") or {}
            exists = bool(answer.get("exists", code == b"200"))
            pending = int(backlog.get("pending_segments", 0))
            self.polls.append(Poll(asked_at, now, status[1], exists, pending, bool(answer.get("connected"))))
        return False


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _passed(header: bytes, size: int, now: float) -> Passed | None:
    """The packet whose header this is; None for anything else."""
    if len(header) < _PCM1_HEADER:
        return None
    fields = Packet.header(header)
    return None if fields is None or size != _PCM1_HEADER + fields[2] else Passed(now, fields[0], fields[1])
