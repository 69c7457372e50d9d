"""A path that goes without a word: the kernel's own patience, as the connector sets it. Takes as long as that."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.adapters.wire import Connector
from tests.rig.loopback import loopback

ROOT = Path(__file__).parents[3]


@pytest.mark.root
@pytest.mark.long
@pytest.mark.parametrize("is_sending", [True, False])
def test_a_dead_path_is_noticed_and_a_short_outage_is_not(is_sending: bool) -> None:
    """With something unacknowledged TCP_USER_TIMEOUT ends it, on an idle connection keepalive; by themselves the kernel
    would take a quarter of an hour and two hours."""
    program = [sys.executable, "-m", "tests.adapters.wire.test_dead_path", "sending" if is_sending else "idle"]
    run = subprocess.run(["unshare", "--net", *program], capture_output=True, text=True, cwd=ROOT, timeout=110)
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert seen["after_short_outage"] == "still there"
    assert seen["error"] == "Connection timed out"
    assert 15.0 < seen["after_s"] < 60.0, seen


async def outage(is_sending: bool) -> dict[str, object]:
    loopback(is_up=True)
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = await Connector(f"http://127.0.0.1:{listener.getsockname()[1]}").connect(10.0)
        peer, _ = listener.accept()
    peer.setblocking(False)
    with sock, peer:
        loopback(is_up=False)
        if is_sending:
            await loop.sock_sendall(sock, b"still ")
        await asyncio.sleep(10.0)  # as long as a socket is ever held while its path is away, and more
        loopback(is_up=True)
        await loop.sock_sendall(sock, b"there" if is_sending else b"still there")
        heard = b""
        while len(heard) < len(b"still there"):
            heard += await loop.sock_recv(peer, 100)
        loopback(is_up=False)
        since = time.monotonic()
        if is_sending:
            await loop.sock_sendall(sock, b"x")
        try:
            await loop.sock_recv(sock, 1)
            error = "it was closed in order"
        except OSError as caught:
            error = caught.strerror or type(caught).__name__
        return {"after_short_outage": heard.decode(), "error": error, "after_s": time.monotonic() - since}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(outage(sys.argv[1] == "sending"))))
