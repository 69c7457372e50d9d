"""The loopback of a network namespace, up or down, without any program for it."""

from __future__ import annotations

import fcntl
import socket
import struct

_SET_FLAGS, _UP, _LOOPBACK = 0x8914, 0x1, 0x8  # linux/sockios.h, linux/if.h


def loopback(*, is_up: bool) -> None:
    """Switch it, in this process' namespace. Raises OSError where that is not allowed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _LOOPBACK | (_UP if is_up else 0))
        fcntl.ioctl(any_socket, _SET_FLAGS, request)
