"""From the kernel's word to the connection: what app and client share of the composition."""

from __future__ import annotations

from collections.abc import Callable

from edge.adapters.netlink import NetlinkWatch
from edge.adapters.wire import Connector
from edge.runtime.device import Device
from edge.runtime.happening import Happening
from edge.runtime.ports import LinkWatch


def link_watch(tell: Callable[[Happening], None]) -> LinkWatch:
    """The kernel's link events; what hinders it is told."""
    return NetlinkWatch(lambda kind, text: tell(Happening(kind, text)))


def steer(connector: Connector, device: Device) -> None:
    """Let the device know where the connector dials, and the connector out of which interface it has to."""
    roaming = device.roaming
    if roaming is not None:
        connector.on_resolved = roaming.aim
        connector.bound_to = roaming.interface_to
