"""Where the path shall lead to, and a state read whole."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from edge.core.link import Interface, LinkSnapshot, Path

# Where "anywhere" is while no server is known: addresses in nobody's own network. Nothing is ever sent there.
ANYWHERE = ("192.31.196.1", "2001:4:112::1")

_REPEATS = 3  # of reading what changes meanwhile
Paths = tuple[Path | None, tuple[Path, ...]]


@dataclass(frozen=True, slots=True)
class Target:
    """An address of the server. `scope` names the interface of a link-local one, else it is ""."""

    address: str
    scope: str = ""

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.address)


def targets(addresses: Sequence[str]) -> tuple[Target, ...]:
    """Literals as `ipaddress` writes them; what is none is left out, and IPv4 in IPv6 becomes IPv4."""
    found = []
    for text in addresses:
        plain, _, scope = text.strip("[]").partition("%")
        with suppress(ValueError):
            address = ipaddress.ip_address(plain)
            inside = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
            found.append(Target(str(inside or address), scope))
    return tuple(dict.fromkeys(found))


def loopback(wanted: Sequence[Target]) -> Path | None:
    """The path to a server on this machine's own loopback address, which nothing can take away."""
    for target in wanted:
        if ipaddress.ip_address(target.address).is_loopback:
            return Path("lo", "127.0.0.1" if target.family == 4 else "::1", "")
    return None


def family_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def reaches(source: str, target: Target) -> bool:
    """Whether an answer could find back to `source`: to a link-local address only from its own link."""
    return bool(source) and (
        not ipaddress.ip_address(source).is_link_local or ipaddress.ip_address(target.address).is_link_local
    )


def is_same_way(one: Path, other: Path) -> bool:
    """Whether they differ in details only."""
    return one.interface == other.interface and family_of(one.source) == family_of(other.source)


def untorn(
    interfaces: Callable[[], tuple[Interface, ...]], paths: Callable[[tuple[Interface, ...]], Paths]
) -> LinkSnapshot:
    """What the two read, once more where the kernel was in the middle of a change."""
    there = interfaces()
    path, ways = paths(there)
    for _ in range(_REPEATS):
        before, there = there, interfaces()
        if there == before:
            break
        path, ways = paths(there)
    return LinkSnapshot(there, path, ways)
