"""Recording takes no more memory the longer it lasts."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc

from edge.adapters.wav import ToneSource
from edge.core.packet import decode_header
from edge.core.policy import Policy
from edge.runtime.attempts import RetryPolicy
from edge.runtime.device import Device
from edge.runtime.ports import Block, JsonObject, SourceInfo
from edge.runtime.uplink import Uplink, boot_clock
from tests.runtime.fakes import MONO, PACKET, FakeServer, FakeSocket, joined, watch

LEG_FRAMES = 1_000_000
WARM_LEGS, LEGS = 2, 2
# 2 million frames are 1250 packets: one object forgotten for each would show as 1250 objects, or as a list of them.
GROWTH_OBJECTS = 1000  # asyncio sweeps its cancelled timers only now and then; seen: up to 602, on a busy machine
GROWTH_BYTES = 2048
# CPython keeps freed tuples of `match` in stock, ever more of them: what is smaller than this is counted as objects.
SMALL_BYTES = 100
BOUND_S = 60.0


class _Forgetful(FakeServer):
    """Acknowledges packets and keeps none."""

    def __init__(self) -> None:
        super().__init__()
        self.last = 0

    def hear(self, socket: FakeSocket, message: JsonObject | bytes) -> None:
        socket.sent.clear()
        if isinstance(message, bytes):
            self.last = decode_header(message).seq
            socket.tell({"type": "ack", "seq": self.last})
        else:
            super().hear(socket, message)


class _Legs:
    """A tone at full speed that pauses behind every leg until it is let go."""

    can_wait = True
    can_return = False

    def __init__(self) -> None:
        self._tone = ToneSource("440", MONO, "fast", PACKET)
        self._left = LEG_FRAMES
        self.may_go = threading.Event()
        self.may_go.set()

    def open(self) -> SourceInfo:
        return self._tone.open()

    def read(self) -> Block:
        if not self._left:
            self.may_go.wait(0.5)
            if not self.may_go.is_set():
                return Block(b"", boot_clock())
            self._left = LEG_FRAMES
        block = self._tone.read()
        frames = min(len(block.data) // MONO.frame_bytes, self._left)
        self._left -= frames
        if not self._left:
            self.may_go.clear()
        return block

    def close(self) -> None:
        self._tone.close()


def _size() -> tuple[int, int]:
    """Bytes that code of ours holds, and how many objects there are in all."""
    gc.collect()
    ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/edge/*")])
    return sum(trace.size for trace in ours.traces if trace.size > SMALL_BYTES), len(gc.get_objects())


async def test_memory_stays_flat_over_millions_of_frames() -> None:
    server, source = _Forgetful(), _Legs()
    assert LEG_FRAMES % PACKET == 0
    policy = Policy(MONO, PACKET)
    uplink = Uplink(server, server, policy, RetryPolicy(), lambda happening: None)
    device = Device(lambda: source, MONO, policy, 20.0, {}, uplink, lambda happening: None, clock=watch())
    running = asyncio.create_task(device.run())
    sizes: list[tuple[int, int]] = []
    try:
        async with asyncio.timeout(BOUND_S):
            recording, _ = await device.start()
            for leg in range(1, WARM_LEGS + LEGS + 1):
                while recording.ledger.delivered_frames < leg * LEG_FRAMES:
                    await asyncio.sleep(0.002)
                if leg == 1:
                    tracemalloc.start()
                elif leg in (WARM_LEGS, WARM_LEGS + LEGS):
                    sizes.append(_size())
                device.status()
                source.may_go.set()
    finally:
        tracemalloc.stop()
        device.stop()
        await joined([running])
    (bytes_before, objects_before), (bytes_after, objects_after) = sizes
    assert bytes_after - bytes_before < GROWTH_BYTES, sizes
    assert objects_after - objects_before < GROWTH_OBJECTS, sizes
