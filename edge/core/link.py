"""What the kernel says of interfaces, addresses and routes, and what a change of it means for the way to the server.

Kernel events are only hints: after each the whole state is read again into a `LinkSnapshot`, and `link_delta` compares
two of them. Addresses are literals as `ipaddress` writes them, without a scope.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Change(Enum):
    """What became of the way to the server; the value says it in words.

    IRRELEVANT   whatever it was, the connection in use is as good as before: other interfaces, other addresses
    LOST         there was a way, and there is none now
    FOUND        there was no way, and there is one now
    BETTER       the kernel prefers another way (other interface, VPN, other gateway) while the old one still carries:
                 there is time to move over in order
    READDRESSED  the old source address no longer carries, its interface has another one: lost and found in one
    MOVED        the old way is dead, and another interface has one: lost and found in one
    """

    IRRELEVANT = "irrelevant"
    LOST = "lost"
    FOUND = "found"
    BETTER = "better path"
    READDRESSED = "new address"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface.

    index       the kernel's number, which stays the same when it is renamed
    kind        "wired", "wireless", "modem", "tunnel", "bridge", "loopback" or "other"
    is_running  up and with carrier: what is sent leaves it
    addresses   that may be sent from
    is_up       somebody wants it to run
    """

    name: str
    index: int
    kind: str
    is_running: bool
    addresses: frozenset[str]
    is_up: bool = True


@dataclass(frozen=True, slots=True)
class Path:
    """How something would get to the server: out of `interface`, from `source`, through `gateway` ("" where none)."""

    interface: str
    source: str
    gateway: str


@dataclass(frozen=True, slots=True)
class LinkSnapshot:
    """The whole state at one moment.

    path  the way to the server (to anywhere, while no server is known) that the kernel takes. Where it would send into
          an interface that does not run: the best of `ways`, which then needs a socket bound to its interface.
    ways  one for each running interface and family that could carry it, best first
    aim   the addresses of the server that path and ways lead to; none: to anywhere
    """

    interfaces: tuple[Interface, ...]
    path: Path | None
    ways: tuple[Path, ...] = ()
    aim: tuple[str, ...] = ()

    def carries(self, address: str) -> bool:
        """Whether a socket on the local `address` can still reach the server: some way leads out of a running interface
        that has this address. True for loopback addresses.

        Where that way is not the path it takes a socket bound to the interface (SO_BINDTODEVICE): the kernel sends what
        an unbound one says out of the path's interface, from an address that is not of there.
        """
        return _is_loopback(address) or self._holder(address, carrying=True) is not None

    def has_address(self, address: str) -> bool:
        """Whether any interface, running or not, has `address`: a socket on it may come to life again."""
        return _is_loopback(address) or self._holder(address) is not None

    def is_on_path(self, address: str) -> bool:
        """Whether `address` is on the interface that the path leads out of: nothing is gained by moving."""
        if self.path is None:
            return False
        named = (interface for interface in self.interfaces if interface.name == self.path.interface)
        return any(_plain(address) in interface.addresses for interface in named)

    def _holder(self, address: str, *, carrying: bool = False) -> Interface | None:
        """The interface that `address` is on; with `carrying`, the one through which it reaches the server."""
        wanted = _plain(address)
        for interface in self.interfaces:
            if not carrying:
                if wanted in interface.addresses:
                    return interface
            elif interface.is_running and any(
                way.source == wanted or (wanted in interface.addresses and _is_6(way.source) == _is_6(wanted))
                for way in self._all_ways()
                if way.interface == interface.name
            ):
                return interface
        return None

    def _all_ways(self) -> tuple[Path, ...]:
        return self.ways if self.path is None else (self.path, *self.ways)

    def _index(self, path: Path) -> int:
        return next((interface.index for interface in self.interfaces if interface.name == path.interface), 0)

    def _numbered(self, index: int) -> Interface | None:
        return next((interface for interface in self.interfaces if interface.index == index), None)


@dataclass(frozen=True, slots=True)
class LinkDelta:
    """What changed, and why in one line for a person."""

    change: Change
    reason: str


def link_delta(old: LinkSnapshot, new: LinkSnapshot, source: str = "") -> LinkDelta:
    """What the step from `old` to `new` means for a connection from the local address `source`.

    Without `source` the connection is taken to be where the kernel would make it: on `old.path`. It matters where the
    kernel prefers a new address beside the old one, or where a better path was announced and not yet moved to.
    """
    if new.path is None:
        if old.path is None:
            return LinkDelta(Change.IRRELEVANT, "there is still no way to the server")
        return LinkDelta(Change.LOST, _cause(old, new, source or old.path.source))
    if old.path is None:
        return LinkDelta(Change.FOUND, f"there is a way to the server: {_words(new.path)}")
    used = source or old.path.source
    if old.carries(used) and not new.carries(used):
        return _died(old, new, new.path, used)
    if old._index(old.path) != new._index(new.path):
        return LinkDelta(Change.BETTER, f"the path moved from {old.path.interface} to {_words(new.path)}")
    if old.path.gateway != new.path.gateway and _is_6(old.path.source) == _is_6(new.path.source):
        return LinkDelta(Change.BETTER, f"the path leads through another gateway: {_words(new.path)}")
    if new.path.source not in (old.path.source, _plain(used)):
        preferred = f"{new.path.interface} prefers {new.path.source}"
        return LinkDelta(Change.IRRELEVANT, f"{preferred}, {used} still carries")
    return LinkDelta(Change.IRRELEVANT, f"the way to the server is the same: {_words(new.path)}")


def _died(old: LinkSnapshot, new: LinkSnapshot, path: Path, used: str) -> LinkDelta:
    """`used` carried before and does not now, but `path` is there."""
    cause = _cause(old, new, used)
    before = old._holder(used, carrying=True)
    if before is not None and before.index == new._index(path):
        return LinkDelta(Change.READDRESSED, f"{cause}; it sends from {path.source} now")
    return LinkDelta(Change.MOVED, f"{cause}; the path is {_words(path)} now")


def _cause(old: LinkSnapshot, new: LinkSnapshot, used: str) -> str:
    """Why the local address `used` carries no more."""
    before = old._holder(used, carrying=True)
    if before is None:
        return f"no route leads to the server from {used}"
    now = new._numbered(before.index)
    if now is None:
        return f"{before.name} is gone"
    if not now.is_up:
        return f"{now.name} was taken down"
    if not now.is_running:
        return f"{now.name} lost its carrier"
    if _plain(used) not in now.addresses:
        return f"{now.name} lost its address {used}"
    return f"{now.name} has no route to the server any more"


def _words(path: Path) -> str:
    through = f" through {path.gateway}" if path.gateway else ""
    return f"{path.interface} from {path.source}{through}"


def _plain(address: str) -> str:
    """Without a scope, and IPv4 as itself where a socket says "::ffff:192.0.2.1"."""
    address = address.partition("%")[0].lower()
    return address.removeprefix("::ffff:") if "." in address else address


def _is_loopback(address: str) -> bool:
    address = _plain(address)
    return address == "::1" or address.startswith("127.")


def _is_6(address: str) -> bool:
    return ":" in address
