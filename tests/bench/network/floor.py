"""The floor: a bare client that connects in a tight loop. A program of its own, on the device, without any library.

    python floor.py HOST PORT TOKEN [NAMESERVER NAME]

It opens a session and prints its id; each `go` (or `fresh`: with a new session, as after a crash of the server) on
stdin makes it connect until a packet was answered by a pong: TCP, WebSocket, packet, pong, nothing else. It then prints
the session's id again. An attempt that takes longer than ATTEMPT_S is begun anew. With a name server it also asks for
the name first, in the same way. No packet is sent before the first `go`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time
import uuid

ATTEMPT_S = 0.1
_PAUSE_S = 0.0005  # where the kernel says at once that there is no way: leave the processor to those who make one
_MASK = b"\x00\x00\x00\x00"  # legal, and the payload stays as it is
_FRAMES = 1600


def frame(opcode: int, payload: bytes) -> bytes:
    """One masked WebSocket frame."""
    size = len(payload)
    head = bytes([0x80 | opcode, 0x80 | size]) if size < 126 else struct.pack(">BBH", 0x80 | opcode, 0xFE, size)
    return head + _MASK + payload


class Bare:
    """See above."""

    def __init__(self, host: str, port: int, token: str, nameserver: str = "", name: str = "") -> None:
        self._address = (host, port)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._token = token
        self._nameserver, self._name = nameserver, name
        self._socket: socket.socket | None = None
        self._seq = 0
        self.session = ""

    def begin(self) -> None:
        """Open a session. Raises OSError, ValueError."""
        settings = {"agent": "bench", "event": "floor", "recording": str(uuid.uuid4())}
        body = json.dumps(settings).encode()
        head = f"POST /api/recording/start HTTP/1.1\r\nHost: floor\r\nAuthorization: Bearer {self._token}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        with self._connected() as stream:
            stream.sendall(head.encode() + body)
            answer = b""
            while more := stream.recv(65536):
                answer += more
        self.session = json.loads(answer.partition(b"\r\n\r\n")[2])["session_id"]
        self._seq = 0

    def loop(self, *, fresh: bool) -> None:
        """Until a packet was answered."""
        if self._socket is not None:
            self._socket.close()
        if fresh:
            self.session = ""
        while True:
            try:
                if self._nameserver and not self._resolves():
                    continue
                if not self.session:
                    self.begin()
                self._once()
            except (OSError, ValueError, LookupError):
                if self._socket is not None:
                    self._socket.close()
                time.sleep(_PAUSE_S)
            else:
                return

    def _connected(self) -> socket.socket:
        stream = socket.socket(self._family, socket.SOCK_STREAM)
        stream.settimeout(ATTEMPT_S)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            stream.connect(self._address)
        except OSError:
            stream.close()
            raise
        return stream

    def _once(self) -> None:
        stream = self._socket = self._connected()
        way = f"/ws/audio_stream/{self.session}?token={self._token}&client_id=floor&resume=1"
        head = f"GET {way} HTTP/1.1\r\nHost: floor\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        stream.sendall(head.encode())
        _until(stream, b'"hello"')
        seq = self._seq + 1
        audio = struct.pack("<IIdHHIHHI", 0x314D4350, seq, 1e3 * time.time(), _FRAMES, 100, 16000, 1, 1, 2 * _FRAMES)
        init = {"type": "init", "supports_pcm": True, "format": "pcm16", "sample_rate": 16000, "channels": 1}
        init |= {"frame_duration_ms": 100, "frame_samples": _FRAMES, "next_seq": 1, "acks": True}
        first = frame(1, json.dumps(init).encode()) if seq == 1 else b""
        stream.sendall(first + frame(2, audio + bytes(2 * _FRAMES)) + frame(1, b'{"type":"ping"}'))
        _until(stream, b'"pong"')
        self._seq = seq

    def _resolves(self) -> bool:
        labels = b"".join(bytes([len(part)]) + part.encode() for part in self._name.split("."))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(ATTEMPT_S)
            asking.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1", (self._nameserver, 53))
            with contextlib.suppress(TimeoutError):
                return len(asking.recv(512)) > 12
        return False


def _until(stream: socket.socket, text: bytes) -> None:
    """Read until `text` came. Raises OSError."""
    answer = b""
    while text not in answer:
        more = stream.recv(65536)
        if not more:
            raise ConnectionError("it hung up")
        answer += more


def main() -> None:
    """The program."""
    host, port, token, *names = sys.argv[1:]
    bare = Bare(host, int(port), token, *names)
    bare.begin()
    print(bare.session, flush=True)
    for line in sys.stdin:
        bare.loop(fresh=line.strip() == "fresh")
        print(bare.session, flush=True)


if __name__ == "__main__":
    main()
