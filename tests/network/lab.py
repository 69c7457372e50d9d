"""A network in a box: device, router and server, each a network namespace, and all that can happen to the device's way.

    device   eth0   10.7.1.2  metric 100 ---- r-eth0 ---- switch ------ router --- lan --- server 10.7.0.2
             wlan0  10.7.2.2  metric 600 ---- r-wlan0 --- home, home2 or cafe    (and fd07:N::2 in each network N)
             wwan0  10.7.3.2  metric 700 ---- r-wwan0 --- cell
             tun0   10.8.0.2  metric 50, while the VPN is up

Every operation is what the kernel itself would see: a peer that goes down takes the carrier; addresses and routes are
taken and given by netlink. The device drops routes of links without carrier from its choice at once, as a network
manager would (sysctl ignore_routes_with_linkdown); the router drops what has a source address of another network, as a
provider would. Names are unique, so labs may run side by side; `with` removes everything, and the next lab removes what
a killed one left. Needs root.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from tests.network import netns
from tests.network.pump import Delay, NameServer, Tunnel
from tests.network.rtnetlink import Change, Moment, Netlink, address, link, master, route

SERVER4, SERVER6, SERVER_NAME = "10.7.0.2", "fd07:0::2", "edge.lab"
METRICS = {"eth0": 100, "wlan0": 600, "wwan0": 700}
HOME, HOME2, CAFE = "home", "home2", "cafe"  # access points; home and home2 are one network
_BRIDGES = {"eth0": "switch", "wlan0": HOME, "wwan0": "cell"}
_NETWORKS = {"switch": 1, HOME: 2, HOME2: 2, "cell": 3, CAFE: 4}
_VPN_METRIC = 50
_LINKDOWN = "ignore_routes_with_linkdown"
_PLAIN = {
    "ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0", "ipv6/conf/default/accept_ra": "0",
    "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
    "ipv4/conf/all/arp_ignore": "1",  # an interface answers for its own addresses only
}  # fmt: skip
_FORWARDING = {
    "ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
    "bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-ip6tables": "0",  # else rules count twice there
}  # fmt: skip
# A provider drops what comes with a source address that is not of its network (BCP 38).
_NO_STRANGERS = """chain source {
type filter hook prerouting priority -300;
iifname "late" accept
fib saddr . iif oif 0 drop
}
"""
_NO_DEAD_WAYS = {f"ipv{version}/conf/{which}/{_LINKDOWN}": "1" for version in (4, 6) for which in ("all", "default")}


def _mac(bridge: str) -> str:
    """The hardware address of the router in that network."""
    return f"02:07:00:00:00:{list(_NETWORKS).index(bridge):02x}"


@dataclass(frozen=True, slots=True)
class Uplink:
    """One of the device's interfaces: its numbers at both ends, where it is, and its host number there."""

    name: str
    index: int
    peer_index: int
    network: int
    host: int = 2

    @property
    def addresses(self) -> tuple[str, str]:
        """IPv4 and IPv6, with prefix lengths."""
        return f"10.7.{self.network}.{self.host}/24", f"fd07:{self.network}::{self.host}/64"

    @property
    def gateways(self) -> tuple[str, str]:
        """The router, seen from there."""
        return f"10.7.{self.network}.1", f"fd07:{self.network}::1"


class Lab:
    """See above. `device`, `router`, `server` are the names of the namespaces; operations return their Moment."""

    def __init__(self, uplinks: Sequence[str] = ("eth0", "wlan0", "wwan0")) -> None:
        """`uplinks`: those of the device, all up and with default routes."""
        self.device, self.router, self.server = netns.fresh_names("device", "router", "server")
        self.uplinks: dict[str, Uplink] = {}
        self._wanted = tuple(uplinks)
        self._access_points: dict[str, int] = {}
        self._closing = contextlib.ExitStack()
        self._vpn: Tunnel | None = None
        self._delay: Delay | None = None
        self._dropped: set[str] = set()
        self._rules: list[str] = []

    def __enter__(self) -> Self:
        netns.sweep()
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything. May be called twice."""
        for part in (self._vpn, self._delay):
            if part is not None:
                part.close()
        self._vpn = self._delay = None
        self._closing.close()

    # --- building --------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        for name in (self.device, self.router, self.server):
            self._closing.callback(netns.remove, name)
            netns.add(name, f"nameserver {SERVER4}\n" if name == self.device else "")
            netns.sysctl(name, _PLAIN)
        netns.sysctl(self.router, _FORWARDING)
        netns.sysctl(self.device, _NO_DEAD_WAYS)
        # An interface whose index is its peer's is no peer to the kernel's link watch: its events then come late.
        router = [
            f"link add name lan index 30 type veth peer name lan index 40 netns {self.server}",
            "link set lan up", *_at("lan", 0, 1),
        ]  # fmt: skip
        for name, network in _NETWORKS.items():
            router.append(f"link add name {name} address {_mac(name)} type bridge stp_state 0 forward_delay 0")
            # Something else is always plugged in: the router's own address and carrier stay when the device goes.
            # Behind home that is home2.
            router.append(f"link add name {name}-a type veth peer name {name}-b\nlink set {name}-a master {name} up")
            router.append(f"link set {name}-b up\nlink set {name} up")
            router += _at(name, network, 1) if name != HOME2 else [f"link set {HOME}-b master {HOME2}"]
        device = []
        for number, name in enumerate(self._wanted):
            bridge = _BRIDGES[name]
            self.uplinks[name] = uplink = Uplink(name, 10 + number, 20 + number, _NETWORKS[bridge])
            peer = f"r-{name}"
            near = f"name {peer} index {uplink.peer_index}"
            router.append(f"link add {near} type veth peer name {name} index {uplink.index} netns {self.device}")
            router.append(f"link set {peer} master {bridge} up")
            device += [f"link set {name} up", *_at(name, uplink.network, uplink.host)]
            for gateway in uplink.gateways:
                device.append(f"route add default via {gateway} dev {name} metric {METRICS[name]} proto static")
            # For minutes IPv6 avoids a gateway that did not answer while the cable was out, if no other sign of life
            # comes; a real router advertises itself as soon as the carrier is there.
            for bridge in (_BRIDGES[name], *((CAFE,) if name == "wlan0" else ())):
                gateway = f"fd07:{_NETWORKS[bridge]}::1"
                device.append(f"neigh replace {gateway} lladdr {_mac(bridge)} dev {name} nud permanent")
        netns.ip(self.router, "\n".join(router) + "\n")
        netns.ip(self.device, "\n".join(device) + "\n")
        far = [
            "link set lan up",
            *_at("lan", 0, 2),
            "route add default via 10.7.0.1",
            "route add default via fd07:0::1",
        ]
        netns.ip(self.server, "\n".join(far) + "\n")
        self._device = self._closing.enter_context(Netlink(self.device))
        self._router = self._closing.enter_context(Netlink(self.router))
        self._filter()
        self._access_points = {name: self._router.index(name) for name in (HOME, HOME2, CAFE)}
        self.names = NameServer(self.server, SERVER4, {SERVER_NAME: [SERVER4, SERVER6]})
        self._closing.callback(self.names.close)

    # --- cables, addresses, routes ---------------------------------------------------------------------------------

    def pull(self, name: str) -> Moment:
        """Pull the cable, or leave the radio's reach: the carrier is lost, addresses stay."""
        return self._router.do(link(self.uplinks[name].peer_index, is_up=False))

    def plug(self, name: str) -> Moment:
        """The carrier is back."""
        return self._router.do(link(self.uplinks[name].peer_index, is_up=True))

    def withdraw_default(self, *names: str) -> Moment:
        """The default routes by these uplinks go."""
        return self._device.do(*(change for name in names for change in self._defaults(name, add=False)))

    def restore_default(self, *names: str) -> Moment:
        """And come (back)."""
        return self._device.do(*(change for name in names for change in self._defaults(name)))

    def readdress(self, name: str) -> Moment:
        """Another address in the same network, as a DHCP server may decide: the old one goes first."""
        old = self.uplinks[name]
        self.uplinks[name] = new = replace(old, host=3 if old.host == 2 else 2)
        return self._device.do(*self._addresses(old, add=False), *self._addresses(new), *self._defaults(name))

    def airplane(self) -> Moment:
        """All links down at once, as a radio switch would."""
        return self._device.do(*(link(uplink.index, is_up=False) for uplink in self.uplinks.values()))

    def land(self) -> Moment:
        """All links up, with the addresses and routes that they had."""
        changes = [link(uplink.index, is_up=True) for uplink in self.uplinks.values()]
        for name, uplink in self.uplinks.items():
            changes += [*self._addresses(uplink), *self._defaults(name)]
        return self._device.do(*changes)

    def roam(self, access_point: str) -> Moment:
        """wlan0 leaves its access point and joins another: the same address where it is the same network, a new one
        in another. Stamped is the joining."""
        old = self.uplinks["wlan0"]
        network = _NETWORKS[access_point]
        new = old if network == old.network else replace(old, network=network)
        self._router.do(link(old.peer_index, is_up=False), master(old.peer_index, self._access_points[access_point]))
        if new is not old:
            self.uplinks["wlan0"] = new
            self._device.do(*self._addresses(old, add=False))
        joined = self._router.do(link(old.peer_index, is_up=True))
        if new is not old:
            joined = Moment(joined.at, self._device.do(*self._addresses(new), *self._defaults("wlan0")).done_at)
        return joined

    def _addresses(self, uplink: Uplink, *, add: bool = True) -> list[Change]:
        return [address(uplink.index, one, add=add) for one in uplink.addresses]

    def _defaults(self, name: str, *, add: bool = True) -> list[Change]:
        uplink = self.uplinks[name]
        return [route(uplink.index, gateway, METRICS[name], add=add) for gateway in uplink.gateways]

    @property
    def addresses(self) -> set[str]:
        """What the device has, as the server sees them."""
        own = {one.partition("/")[0] for uplink in self.uplinks.values() for one in uplink.addresses}
        return own | {"10.8.0.2", "fd08::2"} if self._vpn is not None else own

    def uplink_of(self, address: str) -> str:
        """Whose network a client's address belongs to: an uplink, `tun0`, or "" for none of the device's."""
        parts = address.removeprefix("::ffff:").replace(":", ".").split(".")
        if parts[:2] in (["10", "8"], ["fd08", "0"]) or parts[0] == "fd08":
            return "tun0"
        number = parts[2] if parts[0] == "10" else parts[1]
        names = {"1": "eth0", "2": "wlan0", "4": "wlan0", "3": "wwan0"}
        return names.get(number, "")

    # --- VPN -------------------------------------------------------------------------------------------------------

    def vpn_up(self, over: str) -> Moment:
        """A tunnel to the router through uplink `over`; it takes the default routes."""
        assert self._vpn is None, "one tunnel at a time"
        gateway = self.uplinks[over].gateways[0]
        self._device.do(route(self.uplinks[over].index, gateway, 0, "10.7.0.1/32"))
        self._vpn = Tunnel((self.device, "tun0"), (self.router, "vpn"), "10.7.0.1")
        netns.ip(self.router, "link set vpn up\naddr add 10.8.0.1/24 dev vpn\naddr add fd08::1/64 dev vpn nodad\n")
        netns.ip(self.device, "link set tun0 up\naddr add 10.8.0.2/24 dev tun0\naddr add fd08::2/64 dev tun0 nodad\n")
        index = self._device.index("tun0")
        return self._device.do(*(route(index, via, _VPN_METRIC) for via in ("10.8.0.1", "fd08::1")))

    def vpn_down(self) -> Moment:
        """Tunnel, address and routes are gone."""
        assert self._vpn is not None, "no tunnel is up"
        return _timed(lambda: self._close_vpn())

    def _close_vpn(self) -> None:
        if self._vpn is not None:
            self._vpn.close()
            self._vpn = None

    def revive_names(self) -> Moment:
        """The name server answers again."""

        def revive() -> None:
            self.names.is_dead = False

        return _timed(revive)

    # --- what the kernel does not tell -----------------------------------------------------------------------------

    def blackhole(self, *names: str) -> Moment:
        """The router drops all that comes from or goes to these uplinks (none given: all); nobody is told."""
        self._dropped |= set(names or self.uplinks)
        return self._filter()

    def reset(self) -> Moment:
        """The router answers every TCP segment with a reset, until `heal`."""
        self._rules.append("meta l4proto tcp reject with tcp reset")
        return self._filter()

    def lose(self, percent: int) -> Moment:
        """So many of 100 packets are lost, in each direction."""
        self._rules.append(f'iifname != "late" numgen random mod 100 < {percent} drop')
        return self._filter()

    def slow(self, kbit_s: int) -> Moment:
        """What goes to the server passes at this rate only."""
        shape = f"tbf rate {kbit_s}kbit burst 4kb latency 2s"
        command = ["tc", "-netns", self.router, "qdisc", "replace", "dev", "lan", "root", *shape.split()]
        return _timed(lambda: netns.run(command))

    def delay(self, base_s: float, jitter_s: float = 0.0) -> Moment:
        """Every packet takes `base_s` more, and up to `jitter_s` beyond that, in each direction."""
        assert self._delay is None, "one delay at a time"
        self._delay = Delay(self.router, "slow", "late", base_s, jitter_s)
        rules = ["link set slow up", "link set late up", "route add default dev slow table 7"]
        rules += ["-6 route add default dev slow table 7"]
        ways = [name for name in _NETWORKS if name != HOME2]
        rules += [f"{version} rule add iif lan lookup 7 pref 70" for version in ("-4", "-6")]
        # What is for the router itself is found before, in the local table; what was late comes in by no way of these.
        rules += [f"{version} rule add iif {way} lookup 7 pref 70" for version in ("-4", "-6") for way in ways]
        return _timed(lambda: [netns.run(["ip", "-netns", self.router, *rule.split()]) for rule in rules])

    def heal(self) -> Moment:
        """No blackhole, reset, loss, slowness or delay any more."""
        self._dropped, self._rules = set(), []
        healed = self._filter()
        with contextlib.suppress(netns.NetworkError):  # there was none
            netns.run(["tc", "-netns", self.router, "qdisc", "delete", "dev", "lan", "root"])
        if self._delay is not None:
            for version in ("-4", "-6"):
                self._flush_rules(version)
            self._delay.close()
            self._delay = None
        return healed

    def _flush_rules(self, version: str) -> None:
        with contextlib.suppress(netns.NetworkError):
            while True:  # one at a time, until there is none
                netns.run(["ip", "-netns", self.router, version, "rule", "delete", "pref", "70"])

    def _filter(self) -> Moment:
        networks = [self.uplinks[name].network for name in sorted(self._dropped)]
        ends = [f"{end}addr" for end in "sd"]
        rules = [f"ip {end} 10.7.{n}.0/24 drop" for n in networks for end in ends]
        rules += [f"ip6 {end} fd07:{n}::/64 drop" for n in networks for end in ends]
        body = "\n".join([*rules, *self._rules])
        text = "table inet lab\ndelete table inet lab\ntable inet lab {\n" + _NO_STRANGERS
        if body:
            text += f"chain way {{\ntype filter hook forward priority 0;\n{body}\n}}\n"
        text += "}\n"
        return _timed(lambda: netns.run(["ip", "netns", "exec", self.router, "nft", "-f", "-"], text))


def _at(interface: str, network: int, host: int) -> list[str]:
    return [
        f"addr add 10.7.{network}.{host}/24 dev {interface}",
        f"addr add fd07:{network}::{host}/64 dev {interface} nodad",
    ]


def _timed(action: Callable[[], object]) -> Moment:
    at = time.monotonic()
    action()
    return Moment(at, time.monotonic())
