"""Changes of links, addresses and routes as netlink messages: one system call each, stamped around it.

A command such as `ip` takes 2-10 ms to start, more than some of what is to be measured. The kernel carries out a
message to NETLINK_ROUTE within `send`, so the two stamps of a Moment enclose the event.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.network.netns import inside, socket_in

_NEWLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 20, 21, 24, 25
_REQUEST, _ACK, _REPLACE, _CREATE = 0x1, 0x4, 0x100, 0x400
_ERROR = 2
_IFF_UP = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY = 1, 4, 5, 6
_IFLA_MASTER = 10
_NODAD = 0x02


@dataclass(frozen=True, slots=True)
class Moment:
    """An event: CLOCK_MONOTONIC before it could begin, and after it was done."""

    at: float
    done_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """One message, without its sequence number."""

    kind: int
    flags: int
    body: bytes


def link(index: int, *, is_up: bool) -> Change:
    """Administratively up or down."""
    return Change(_NEWLINK, 0, struct.pack("<BxHiII", 0, 0, index, _IFF_UP if is_up else 0, _IFF_UP))


def master(index: int, bridge: int) -> Change:
    """A port of the bridge with index `bridge`; 0: of none."""
    return Change(_NEWLINK, 0, struct.pack("<BxHiII", 0, 0, index, 0, 0) + _u32(_IFLA_MASTER, bridge))


def address(index: int, interface: str, *, add: bool = True) -> Change:
    """`interface` is an address with its prefix length."""
    parsed = ipaddress.ip_interface(interface)
    packed = parsed.ip.packed
    body = struct.pack("<BBBBI", _family(packed), parsed.network.prefixlen, _NODAD, 0, index)
    body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
    return Change(_NEWADDR if add else _DELADDR, _CREATE | _REPLACE if add else 0, body)


def route(index: int, gateway: str, metric: int, target: str = "", *, add: bool = True) -> Change:
    """A route by `gateway` (empty: on the link itself) to `target` (a network; empty: the default route)."""
    parsed = ipaddress.ip_network(target) if target else None
    via = ipaddress.ip_address(gateway).packed if gateway else b""
    family = _family(via or (parsed.network_address.packed if parsed else b"    "))
    length = parsed.prefixlen if parsed else 0
    # table main, protocol static, scope universe (or link), type unicast
    body = struct.pack("<BBBBBBBBI", family, length, 0, 0, 254, 4, 0 if via else 253, 1, 0)
    if parsed is not None:
        body += _attribute(_RTA_DST, parsed.network_address.packed)
    if via:
        body += _attribute(_RTA_GATEWAY, via)
    body += _u32(_RTA_OIF, index) + _u32(_RTA_PRIORITY, metric)
    return Change(_NEWROUTE if add else _DELROUTE, _CREATE | _REPLACE if add else 0, body)


def _family(packed: bytes) -> int:
    return socket.AF_INET if len(packed) == 4 else socket.AF_INET6


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("<I", value))


class Netlink:
    """The link, address and route tables of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._socket = socket_in(namespace, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(10.0)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()

    def index(self, name: str) -> int:
        """The interface's number."""
        with inside(self._namespace):
            return socket.if_nametoindex(name)

    def do(
        self, *changes: Change, ignore: tuple[int, ...] = (errno.ENODEV, errno.ESRCH, errno.EADDRNOTAVAIL)
    ) -> Moment:
        """All of them in one system call, in order. Raises OSError for what failed, but for what was `ignore`d:
        by default the removal of something that is gone already."""
        message = b""
        for change in changes:
            self._number += 1
            flags = _REQUEST | _ACK | change.flags
            size = 16 + len(change.body)
            message += struct.pack("<IHHII", size, change.kind, flags, self._number, 0) + change.body
            message += bytes(-size % 4)
        at = time.monotonic()
        if changes:
            self._socket.send(message)
        done_at = time.monotonic()
        last = self._number
        problems = []
        answered = last - len(changes)
        while answered < last:
            for number, code in self._answers():
                answered = max(answered, number)
                change = changes[number - last - 1]
                if code and not (code in ignore and change.kind in (_DELADDR, _DELROUTE)):
                    problems.append((code, f"{os.strerror(code)} (message {change.kind} of {self._namespace})"))
        if problems:
            raise OSError(*problems[0])
        return Moment(at, done_at)

    def _answers(self) -> list[tuple[int, int]]:
        data, found, at = self._socket.recv(1 << 16), [], 0
        while at + 16 <= len(data):
            size, kind, _, number, _ = struct.unpack_from("<IHHII", data, at)
            if kind == _ERROR:
                found.append((number, -struct.unpack_from("<i", data, at + 16)[0]))
            at += (size + 3) & ~3
        return found
