"""The whole state where netlink is refused: from /proc/net, ioctls and sockets that send nothing."""

from __future__ import annotations

import array
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path as FilePath

from edge.adapters.netlink.kinds import known_kind
from edge.adapters.netlink.targets import ANYWHERE, Paths, Target, is_same_way, loopback, reaches, targets, untorn
from edge.core.link import Interface, LinkSnapshot, Path

PROC = FilePath("/proc/thread-self/net")

_SIOCGIFCONF, _SIOCGIFFLAGS, _SIOCGIFHWADDR, _SIOCGIFINDEX = 0x8912, 0x8913, 0x8927, 0x8933
_IFREQ_BYTES = 16 + (24 if struct.calcsize("P") == 8 else 16)
_MOST_ADDRESSES = 1024
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_FAILED, _TENTATIVE = 0x08, 0x40
_RTF_UP, _RTF_GATEWAY, _RTF_REJECT, _RTF_LOCAL = 0x1, 0x2, 0x200, 0x80000000
_PORT = 9  # a datagram socket's `connect` looks the route up, and sends nothing


@dataclass(frozen=True, slots=True)
class _Entry:
    """A line of a routing table."""

    interface: str
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    gateway: str
    metric: int

    @property
    def order(self) -> tuple[int, int]:
        return -self.network.prefixlen, self.metric


class Files:
    """Reads snapshots. What cannot be read counts as not there."""

    def __init__(self, proc: FilePath = PROC) -> None:
        self._proc = proc

    def read(self, wanted: Sequence[Target]) -> LinkSnapshot:
        """What is now; the path leads to the first of `wanted` that has one, or to anywhere where it is empty."""
        return untorn(self._interfaces, lambda interfaces: self._paths(interfaces, wanted))

    def close(self) -> None:
        """Nothing is kept open."""

    def _paths(self, interfaces: Sequence[Interface], wanted: Sequence[Target]) -> Paths:
        """The path, and the ways for the first target of each family."""
        if local := loopback(wanted):
            return local, (local,)
        running = {interface.name: interface for interface in interfaces if interface.is_running}
        entries = [*self._routes(), *self._routes6()]
        path: Path | None = None
        is_reachable = False
        ways: dict[int, list[Path]] = {}
        for target in wanted or targets(ANYWHERE):
            address = ipaddress.ip_address(target.address)
            matching = [entry for entry in entries if address in entry.network]
            matching.sort(key=lambda entry: entry.order)
            ways.setdefault(target.family, list(_ways(running, matching, target)))
            source = _source(target)
            if path is None and reaches(source, target):
                is_reachable = True
                path = _path(source, matching, running)
        if not is_reachable:
            return None, ()
        others = [way for found in ways.values() for way in found]
        if path is None:
            return next(iter(others), None), tuple(others)
        return path, (path, *(way for way in others if not is_same_way(way, path)))

    def _interfaces(self) -> tuple[Interface, ...]:
        return tuple(sorted(self._each_interface(), key=lambda interface: interface.index))

    def _each_interface(self) -> Iterator[Interface]:
        addresses: dict[str, set[str]] = {}
        for name, address in [*_addresses(), *self._addresses6()]:
            addresses.setdefault(name, set()).add(address)
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
            for line in self._lines("dev")[2:]:
                name = line.partition(":")[0].strip()
                try:
                    flags = _number("H", _ioctl(asking, _SIOCGIFFLAGS, name))
                    index = _index(asking, name)
                    hardware = _number("H", _ioctl(asking, _SIOCGIFHWADDR, name))
                except OSError:
                    continue  # it went meanwhile
                yield Interface(
                    name,
                    index,
                    known_kind(index, name, hardware),
                    bool(flags & _IFF_UP and flags & _IFF_RUNNING),
                    frozenset(addresses.get(name, ())),
                    bool(flags & _IFF_UP),
                )

    def _addresses6(self) -> Iterator[tuple[str, str]]:
        for line in self._lines("if_inet6"):
            digits, _, _, _, flags, name = line.split()
            if not int(flags, 16) & (_FAILED | _TENTATIVE):
                yield name, _ipv6(digits)

    def _routes(self) -> Iterator[_Entry]:
        for line in self._lines("route")[1:]:
            name, network, gateway, flags, _, _, metric, mask = line.split()[:8]
            if int(flags, 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP:
                via = _ipv4(gateway) if int(flags, 16) & _RTF_GATEWAY else ""
                yield _Entry(name, _network(_ipv4(network), _ipv4(mask)), via, int(metric))

    def _routes6(self) -> Iterator[_Entry]:
        for line in self._lines("ipv6_route"):
            network, length, _, _, gateway, metric, _, _, flags, name = line.split()
            if int(flags, 16) & (_RTF_UP | _RTF_REJECT | _RTF_LOCAL) == _RTF_UP:
                via = _ipv6(gateway) if int(flags, 16) & _RTF_GATEWAY else ""
                yield _Entry(name, _network(_ipv6(network), str(int(length, 16))), via, int(metric, 16))

    def _lines(self, name: str) -> list[str]:
        try:
            return (self._proc / name).read_text().splitlines()
        except OSError:
            return []


def _ways(running: dict[str, Interface], matching: Sequence[_Entry], target: Target) -> Iterator[Path]:
    """One for each running interface, best first."""
    seen: set[str] = set()
    for entry in matching:
        if entry.interface in running and entry.interface not in seen and target.scope in ("", entry.interface):
            seen.add(entry.interface)
            source = _source(target, entry.interface)
            if reaches(source, target):
                yield Path(entry.interface, source, entry.gateway)


def _path(source: str, matching: Sequence[_Entry], running: dict[str, Interface]) -> Path | None:
    """The kernel sends from `source`: by the best route of an interface that has it, else (a rule, a table that is not
    shown here) by that interface anyhow."""
    holders = [interface.name for interface in running.values() if source in interface.addresses]
    for entry in matching:
        if entry.interface in holders:
            return Path(entry.interface, source, entry.gateway)
    return Path(holders[0], source, "") if holders else None


def _source(target: Target, interface: str = "") -> str:
    """The address from which the kernel would send to `target` (out of `interface`); "" where it would not."""
    is_6 = target.family == 6
    try:
        with closing(socket.socket(socket.AF_INET6 if is_6 else socket.AF_INET, socket.SOCK_DGRAM)) as asking:
            if interface:
                asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(interface))
            if is_6:
                asking.connect((target.address, _PORT, 0, _index(asking, target.scope)))
            else:
                asking.connect((target.address, _PORT))
            return str(asking.getsockname()[0]).partition("%")[0]
    except OSError:
        return ""


def _addresses() -> list[tuple[str, str]]:
    """Interface and IPv4 address, for all."""
    names = array.array("B", bytes(_MOST_ADDRESSES * _IFREQ_BYTES))
    place, size = names.buffer_info()
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFCONF, struct.pack("iP", size, place))
        except OSError:
            return []
    length, _ = struct.unpack("iP", answer)
    entries = [names[start : start + _IFREQ_BYTES].tobytes() for start in range(0, length, _IFREQ_BYTES)]
    # An address with a label stands under it: "eth0:1".
    return [(_name(entry).partition(":")[0], socket.inet_ntoa(entry[20:24])) for entry in entries]


def _index(asking: socket.socket, name: str) -> int:
    return _number("i", _ioctl(asking, _SIOCGIFINDEX, name)) if name else 0


def _ioctl(asking: socket.socket, request: int, name: str) -> bytes:
    return fcntl.ioctl(asking, request, os.fsencode(name)[:15].ljust(_IFREQ_BYTES, b"\0"))


def _number(form: str, answer: bytes) -> int:
    return int(struct.unpack_from(form, answer, 16)[0])


def _name(entry: bytes) -> str:
    return os.fsdecode(entry[:16].partition(b"\0")[0])


# Kept, because every two seconds it is the same.
@lru_cache(1024)
def _network(address: str, mask: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(f"{address}/{mask}")


@lru_cache(1024)
def _ipv4(digits: str) -> str:
    return socket.inet_ntoa(struct.pack("=I", int(digits, 16)))


@lru_cache(1024)
def _ipv6(digits: str) -> str:
    return str(ipaddress.IPv6Address(int(digits, 16)))
