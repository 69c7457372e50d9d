"""In a network and mount namespace of its own: a recorder, its receiver, and a name service that is dead at first.

`python -m tests.adapters.wire.nameless silent|refusing|failing FOLDER` prints one JSON object: what the recorder said
and accounted for, how many questions were in vain, and how long after the name service came back the session was open.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from tests.rig.loopback import loopback

NAME = "aia.example"
DEAD_S = 6.0
REFUSE = 0x8182  # an answer: SERVFAIL


class NameService:
    """DNS on 127.0.0.1:53 for one name. While it is dead it says nothing ("silent"), that it failed ("failing"), or is
    not there at all ("refusing")."""

    def __init__(self, outage: str) -> None:
        self._outage = outage
        self._lives = threading.Event()
        self.in_vain = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def revive(self) -> None:
        self._lives.set()

    def _serve(self) -> None:
        if self._outage == "refusing":
            self._lives.wait()
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind(("127.0.0.1", 53))
        while True:
            question, client = listener.recvfrom(4096)
            if self._lives.is_set():
                listener.sendto(answer(question), client)
                continue
            self.in_vain += 1
            if self._outage == "failing":
                listener.sendto(question[:2] + struct.pack(">H", REFUSE) + question[4:], client)


def answer(question: bytes) -> bytes:
    """127.0.0.1 for A, nothing for all other types (RFC 1035, 4.1)."""
    end = question.index(b"\0", 12) + 5
    is_a = question[end - 4 : end - 2] == b"\0\1"
    head = question[:2] + struct.pack(">HHHHH", 0x8180, 1, int(is_a), 0, 0)
    record = b"\xc0\x0c" + struct.pack(">HHIH4s", 1, 1, 0, 4, socket.inet_aton("127.0.0.1"))
    return head + question[12:end] + (record if is_a else b"")


def isolate(folder: Path) -> None:
    """Loopback up; names by DNS at 127.0.0.1 alone."""
    loopback(is_up=True)
    for path, content in (
        (Path("/etc/resolv.conf"), "nameserver 127.0.0.1\n"),
        (Path("/etc/nsswitch.conf"), "hosts: files dns\n"),
    ):
        mine = folder / path.name
        mine.write_text(content)
        if path.exists():
            subprocess.run(["mount", "--bind", str(mine), str(path.resolve())], check=True)


def first_line(stream: IO[str], text: str) -> str:
    for line in stream:
        if text in line:
            return line
    raise SystemExit(f"nameless: nobody said {text!r}")


def main(outage: str, folder: Path) -> None:
    isolate(folder)
    service = NameService(outage)
    token = folder / "token"
    token.write_text("0123456789abcdef\n")
    token.chmod(0o600)
    edge = [sys.executable, "-m", "edge"]
    receiver = subprocess.Popen(
        [
            *edge,
            "receive",
            "--host",
            "127.0.0.1",
            "--port",
            "8765",
            "--out",
            str(folder / "out"),
            "--token-file",
            str(token),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert receiver.stdout is not None
    first_line(receiver.stdout, "8765")
    configuration = folder / "edge.toml"
    configuration.write_text(f'[server]\nurl = "http://{NAME}:8765"\ntoken_file = "token"\nallow_insecure = true\n')
    recorder = subprocess.Popen(
        [*edge, "record", "--config", str(configuration), "--state", str(folder / "state"), "--source", "tone:440",
         "--seconds", "10", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert recorder.stderr is not None
    revived_at = [0.0]

    def revive() -> None:
        revived_at[0] = time.monotonic()
        service.revive()

    timer = threading.Timer(DEAD_S, revive)
    lines = []
    back_at = 0.0
    for line in recorder.stderr:
        lines.append(line.strip())
        if "dns:" in line and not timer.is_alive() and not timer.finished.is_set():
            timer.start()
        if "-> connected" in line and not back_at:
            back_at = time.monotonic()
    assert recorder.stdout is not None
    account = json.loads(recorder.stdout.read().splitlines()[-1])
    result = {
        "exit": recorder.wait(),
        "account": account,
        "lines": lines,
        "questions_in_vain": service.in_vain,
        "back_after_s": back_at - revived_at[0],
    }
    receiver.terminate()
    receiver.communicate()
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
