"""One TCP connection: to whichever of the addresses answers first, with options that notice a dead path."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Sequence

from aiohappyeyeballs import start_connection

from edge.adapters.wire.names import Address

EYEBALLS_DELAY_S = 0.25  # RFC 8305
# Unacknowledged for so long, the connection is dead. More than a socket is held for while its path is away, which ends
# sooner: nothing here may be faster than who decides that.
USER_TIMEOUT_S = 20
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 10, 5, 3
# Bytes that the kernel takes before the network does: five packets of 100 ms at 16 kHz. What is sent next (a ping, an
# answer) waits behind no more than these on a slow link; on a fast one it is measured not to cost speed.
NOTSENT_BYTES = 16 << 10

_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_S * 1000),
    (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_BYTES),
)
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENODEV)


async def connect(addresses: Sequence[Address], interface: str = "") -> socket.socket:
    """The first connection that succeeds; the others are given up. Raises OSError.

    An address that does not answer delays the next one by `EYEBALLS_DELAY_S`, not by its time-out. With `interface`
    the socket is bound to it; where that leads nowhere any more, the kernel chooses.
    """
    try:
        return await _connect(addresses, interface)
    except OSError as error:
        if not interface or error.errno not in _NO_WAY:
            raise
    return await _connect(addresses, "")


async def _connect(addresses: Sequence[Address], interface: str) -> socket.socket:
    try:
        return await start_connection(
            addresses,
            happy_eyeballs_delay=EYEBALLS_DELAY_S,
            socket_factory=lambda address: _socket(address, interface),
        )
    except OSError as error:
        numbers = re.findall(r"\[Errno (\d+)\]", str(error))
        if error.errno or not numbers:
            raise
        # Several addresses failed in several ways: the last one's is told, since IPv6, where there is none, is first.
        raise OSError(int(numbers[-1]), os.strerror(int(numbers[-1]))) from None


def _socket(address: Address, interface: str) -> socket.socket:
    made = socket.socket(address[0], address[1], address[2])
    for level, option, value in _OPTIONS:
        with contextlib.suppress(OSError):  # a kernel without it sends all the same
            made.setsockopt(level, option, value)
    if interface:
        with contextlib.suppress(OSError):  # gone meanwhile, or a kernel before 5.7, which lets only root do it
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
    return made
