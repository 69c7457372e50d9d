"""websocket-client as its documentation shows it: `run_forever(reconnect=5)`, audio from a thread of its own.

python threaded.py URL
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import threading
import time
from typing import Any

from tests.bench.network.clients.audio import INIT, PACKET_S, packet

websocket: Any = importlib.import_module("websocket")  # no dependency of ours


def opened(app: Any) -> None:
    """At each connection."""
    app.send(INIT)


def told(app: Any, message: str) -> None:
    """Answer the server's pings."""
    if json.loads(message).get("type") == "ping":
        app.send('{"type":"pong"}')


def capture(app: Any) -> None:
    """The microphone: what cannot be sent is gone."""
    begun_at, seq = time.monotonic(), 0
    while True:
        seq += 1
        time.sleep(max(0.0, begun_at + seq * PACKET_S - time.monotonic()))
        with contextlib.suppress(websocket.WebSocketException, OSError, AttributeError):
            app.send(packet(seq), opcode=websocket.ABNF.OPCODE_BINARY)


application = websocket.WebSocketApp(sys.argv[1], on_open=opened, on_message=told)
threading.Thread(target=capture, args=(application,), daemon=True).start()
print("started", flush=True)
application.run_forever(reconnect=5)
