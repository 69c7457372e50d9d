"""The whole state, read anew from the kernel by netlink."""

from __future__ import annotations

from collections.abc import Sequence

from edge.adapters.netlink.kinds import known_kind
from edge.adapters.netlink.rtnetlink import IFF_RUNNING, IFF_UP, RTN_LOCAL, RTN_UNICAST, Link, Route, Rtnetlink
from edge.adapters.netlink.targets import (
    ANYWHERE,
    Paths,
    Target,
    family_of,
    is_same_way,
    loopback,
    reaches,
    targets,
    untorn,
)
from edge.core.link import Interface, LinkSnapshot, Path


class Dumps:
    """Reads snapshots; for one thread. `read` and the making of it raise OSError where netlink is refused."""

    def __init__(self) -> None:
        self._kernel = Rtnetlink()

    def read(self, wanted: Sequence[Target]) -> LinkSnapshot:
        """What is now; the path leads to the first of `wanted` that has one, or to anywhere where it is empty."""
        return untorn(self._interfaces, lambda interfaces: self._paths(interfaces, wanted))

    def close(self) -> None:
        """Let go of the socket."""
        self._kernel.close()

    def _interfaces(self) -> tuple[Interface, ...]:
        # Links first: for them the kernel waits until a change under way is complete.
        links = self._kernel.links()
        addresses = self._kernel.addresses()
        return tuple(
            Interface(
                link.name,
                link.index,
                known_kind(link.index, link.name, link.hardware, link.driver),
                _is_running(link),
                frozenset(address for index, address in addresses if index == link.index),
                bool(link.flags & IFF_UP),
            )
            for link in links
        )

    def _paths(self, interfaces: Sequence[Interface], wanted: Sequence[Target]) -> Paths:
        """The path, and the ways for the first target of each family."""
        if local := loopback(wanted):
            return local, (local,)
        running = {interface.index: interface for interface in interfaces if interface.is_running}
        scopes = {interface.name: interface.index for interface in interfaces}
        path: Path | None = None
        is_reachable = False
        wanted = wanted or targets(ANYWHERE)
        for target in wanted:
            route = self._kernel.route(target.address, scopes.get(target.scope, 0))
            if route is None or route.kind not in (RTN_UNICAST, RTN_LOCAL) or not reaches(route.source, target):
                continue
            is_reachable = True
            if route.index in running:
                path = _path(running[route.index], route)
                break
        if not is_reachable:
            return None, ()
        firsts: dict[int, Target] = {}
        for target in wanted:
            firsts.setdefault(target.family, target)
        ways = [way for first in firsts.values() for way in self._ways(running, first, scopes.get(first.scope, 0))]
        if path is None:
            return next(iter(ways), None), tuple(ways)
        return path, (path, *(way for way in ways if not is_same_way(way, path)))

    def _ways(self, running: dict[int, Interface], target: Target, scope: int) -> list[Path]:
        """One for each interface, best first: the longest prefix, then the lowest metric."""
        found: list[tuple[int, int, int, Path]] = []
        for index, interface in running.items():
            if scope not in (0, index) or not any(
                target.family == family_of(address) for address in interface.addresses
            ):
                continue
            entry = self._kernel.route(target.address, index, entry=True)
            route = self._kernel.route(target.address, index) if entry and entry.kind == RTN_UNICAST else None
            if entry and route and reaches(route.source, target):
                found.append((-entry.prefix, entry.metric, index, _path(interface, route)))
        return [way for *_, way in sorted(found)]


def _path(interface: Interface, route: Route) -> Path:
    return Path(interface.name, route.source, route.gateway)


def _is_running(link: Link) -> bool:
    return bool(link.flags & IFF_UP and link.flags & IFF_RUNNING)
