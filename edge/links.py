"""From what the machine knows (its links, its clock) to the connection: what app and client share of the
composition."""

from __future__ import annotations

from collections.abc import Callable

from edge.adapters.clock import SystemClock
from edge.adapters.netlink import NetlinkWatch
from edge.adapters.wire import ClockRescue, Connector
from edge.core.built import BUILT_UTC_S
from edge.core.timebase import Anchor
from edge.runtime.device import Device
from edge.runtime.happening import Happening
from edge.runtime.ports import LinkWatch
from edge.runtime.uplink import boot_clock


def link_watch(tell: Callable[[Happening], None]) -> LinkWatch:
    """The kernel's link events; what hinders it is told."""
    return NetlinkWatch(lambda kind, text: tell(Happening(kind, text)))


def clock_rescue(
    tell: Callable[[Happening], None], read: Callable[[], Anchor] | None = None, floor_s: float = BUILT_UTC_S
) -> ClockRescue:
    """By what time certificates are checked while the clock that `read` reads cannot be trusted."""
    return ClockRescue(read or SystemClock().read, floor_s, lambda line: tell(Happening("clock", line)), boot_clock)


def steer(connector: Connector, device: Device) -> None:
    """Let the device know where the connector dials, and the connector out of which interface it has to."""
    roaming = device.roaming
    if roaming is not None:
        connector.on_resolved = roaming.aim
        connector.bound_to = roaming.interface_to
