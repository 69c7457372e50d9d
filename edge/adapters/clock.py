"""The wall clock against CLOCK_BOOTTIME, and whether somebody keeps it right.

Trusted is a clock that systemd-timesyncd has set in this boot (its flag file), or that the kernel calls synchronised,
as chrony and ntpd let it. The kernel is asked by adjtimex(2), which needs no privilege; where a sandbox forbids it
(systemd's ProtectClock=yes does), only the file counts.
"""

from __future__ import annotations

import ctypes
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from edge.core.timebase import Anchor

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TIMESYNCD = Path("/run/systemd/timesync/synchronized")
_STA_UNSYNC = 0x40
_TIME_ERROR = 5
_TRIES = 5
_TIGHT_S = 0.0005


class SystemClock:
    """The clocks of this machine; paths, clocks and the kernel's word can be given by tests.

    The boot id is read once. Where it cannot be read, this process counts as a boot of its own: what it captured is
    then never taken to share a clock with anything else.
    """

    def __init__(
        self,
        boot_id: Path = BOOT_ID,
        timesyncd: Path = TIMESYNCD,
        kernel_says: Callable[[], bool] | None = None,
        boot_clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._timesyncd = timesyncd
        self._kernel_says = kernel_is_synchronised if kernel_says is None else kernel_says
        self._boot_clock = boot_clock
        self._wall_clock = wall_clock
        try:
            self.boot_id = boot_id.read_text("ascii").strip()
        except (OSError, ValueError):
            self.boot_id = ""
        if not self.boot_id:
            self.boot_id = str(uuid.uuid4())

    def read(self) -> Anchor:
        """How the clocks stand now, right within about a millisecond also on a busy machine."""
        # Trust first: a clock that is set in between counts as not trusted a little longer, never as trusted too early.
        trusted = self._timesyncd_says() or self._kernel_says()
        return Anchor(self.boot_id, self._utc_minus_boot_s(), trusted)

    def slept_s(self) -> float:
        """How long the machine has been suspended since it booted: only CLOCK_BOOTTIME runs meanwhile."""
        return self._boot_clock() - time.monotonic()

    def _timesyncd_says(self) -> bool:
        try:
            return self._timesyncd.exists()
        except OSError:
            return False

    def _utc_minus_boot_s(self) -> float:
        """The wall clock, read between two looks at the boot clock; the tightest of a few tries."""
        best = offset = float("inf")
        for _ in range(_TRIES):
            before = self._boot_clock()
            wall = self._wall_clock()
            width = self._boot_clock() - before
            if width < best:
                best, offset = width, wall - before - width / 2
            if best <= _TIGHT_S:
                break
        return offset


class _Timex(ctypes.Structure):
    """The beginning of struct timex (adjtimex(2)), and more room than any kernel fills."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def kernel_is_synchronised() -> bool:
    """What the kernel says of its clock; False where it may not be asked."""
    timex = _Timex()
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return False
    return 0 <= state < _TIME_ERROR and not timex.status & _STA_UNSYNC
