"""A process that lives `pace` times as fast: every clock that it reads and every wait that it asks for.

So all timers are scaled alike, those that no configuration reaches as well, and nothing of the product knows of it.
What takes its time really (processor, disk, network) becomes `pace` times as slow to those inside.
"""

from __future__ import annotations

import selectors
import threading
import time
from typing import Any


def speed_up(pace: float, utc_minus_boot_s: float | None = None) -> None:
    """From now on this process does. The boot clock is the machine's times `pace`: the same for all who do so.

    The wall clock is then `utc_minus_boot_s` ahead of the boot clock.
    """
    clock_gettime, monotonic, sleep = time.clock_gettime, time.monotonic, time.sleep
    wait = threading.Event.wait

    def fast_clock(clock: int) -> float:
        return clock_gettime(clock) * (pace if clock in (time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC) else 1.0)

    def shorter(timeout: float | None) -> float | None:
        return None if timeout is None else timeout / pace

    time.clock_gettime = fast_clock
    time.monotonic = lambda: pace * monotonic()
    time.sleep = lambda seconds: sleep(float(seconds) / pace)
    if utc_minus_boot_s is not None:
        time.time = lambda: fast_clock(time.CLOCK_BOOTTIME) + utc_minus_boot_s

    def fast_wait(self: threading.Event, timeout: float | None = None) -> bool:
        return wait(self, shorter(timeout))

    threading.Event.wait = fast_wait  # type: ignore[method-assign]
    selector: Any = selectors.DefaultSelector  # the event loop's
    select = selector.select
    selector.select = lambda self, timeout=None: select(self, shorter(timeout))
