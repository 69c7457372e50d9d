"""The link watch on real kernel events in network namespaces, by netlink and, where that is refused, by polling."""

from __future__ import annotations

import asyncio
import errno
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.adapters.netlink import NetlinkWatch, watch
from edge.adapters.netlink.dumps import Dumps
from edge.adapters.netlink.files import Files
from edge.adapters.netlink.kinds import kind_of
from edge.adapters.netlink.rtnetlink import Hints
from edge.adapters.netlink.targets import Target, targets
from edge.adapters.netlink.watch import Budget
from edge.core.link import Change, Interface, LinkSnapshot, link_delta
from edge.core.link import Path as Way
from tests.network import netns
from tests.network.lab import SERVER4, SERVER6, Lab
from tests.network.observer import BOUND_S, Observer
from tests.network.rtnetlink import Netlink, address, link, route

ETH, WLAN, WWAN = (Way(name, f"10.7.{n}.2", f"10.7.{n}.1") for name, n in (("eth0", 1), ("wlan0", 2), ("wwan0", 3)))
ETH6 = Way("eth0", "fd07:1::2", "fd07:1::1")
VPN = Way("tun0", "10.8.0.2", "10.8.0.1")
root = pytest.mark.root
both = pytest.mark.parametrize("without_netlink", [False, True], ids=["netlink", "polling"])


def by(way: Way | None) -> Callable[[LinkSnapshot], bool]:
    return lambda state: state.path == way


def on(name: str) -> Callable[[LinkSnapshot], bool]:
    return lambda state: state.path is not None and state.path.interface == name


def interface(state: LinkSnapshot, name: str) -> Interface:
    return next(interface for interface in state.interfaces if interface.name == name)


def ip(lab: Lab, *lines: str) -> None:
    """`ip` on the device, one command a line, options first."""
    for line in lines:
        netns.run(["ip", "-netns", lab.device, *line.split()])


def names(state: LinkSnapshot) -> set[str]:
    return {interface.name for interface in state.interfaces}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture
def wired() -> Iterator[Lab]:
    with Lab(["eth0"]) as made:
        yield made


@pytest.fixture
def mobile() -> Iterator[Lab]:
    with Lab(["wlan0", "wwan0"]) as made:
        yield made


# --- what happens to links -------------------------------------------------------------------------------------------


@root
@both
def test_a_cable_is_pulled_and_plugged_in_again(wired: Lab, without_netlink: bool) -> None:
    with Observer(wired.device, [SERVER4], without_netlink=without_netlink) as seen:
        state = seen.until(by(ETH))
        assert interface(state, "eth0").kind == "wired" and interface(state, "lo").kind == "loopback"
        assert state.carries("10.7.1.2") and not state.carries("fd07:1::2")
        delta = seen.step(lambda: wired.pull("eth0"), by(None))
        assert (delta.change, delta.reason) == (Change.LOST, "eth0 lost its carrier")
        assert not seen.now.carries("10.7.1.2") and seen.now.has_address("10.7.1.2")
        assert seen.now.ways == ()
        delta = seen.step(lambda: wired.plug("eth0"), by(ETH))
        assert delta.change is Change.FOUND
        assert seen.now.carries("10.7.1.2")
    if without_netlink:
        assert seen.told == [
            ("warning", "no netlink here (Operation not permitted): the network is polled every 0.05 s")
        ]
    else:
        assert seen.told == []


@root
@both
def test_wifi_to_modem_and_back(mobile: Lab, without_netlink: bool) -> None:
    with Observer(mobile.device, [SERVER4], without_netlink=without_netlink) as seen:
        assert seen.until(by(WLAN)).ways == (WLAN, WWAN)
        delta = seen.step(lambda: mobile.pull("wlan0"), by(WWAN))
        assert (delta.change, delta.reason) == (
            Change.MOVED,
            "wlan0 lost its carrier; the path is wwan0 from 10.7.3.2 through 10.7.3.1 now",
        )
        assert seen.now.ways == (WWAN,)
        delta = seen.step(lambda: mobile.plug("wlan0"), by(WLAN))
        assert delta.change is Change.BETTER
        assert seen.now.carries("10.7.3.2")
        # The one it was on is gone before it moved over.
        delta = seen.step(lambda: mobile.pull("wwan0"), lambda state: not state.carries("10.7.3.2"), source="10.7.3.2")
        assert (delta.change, seen.now.path) == (Change.MOVED, WLAN)


@root
@both
@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_a_kernel_that_goes_on_sending_into_a_dead_cable(lab: Lab, without_netlink: bool, server: str) -> None:
    """Without ignore_routes_with_linkdown and without a network manager: the next best way is told all the same."""
    keys = [f"ipv{n}/conf/{which}/ignore_routes_with_linkdown" for n in (4, 6) for which in ("all", "eth0")]
    netns.sysctl(lab.device, dict.fromkeys(keys, "0"))
    with Observer(lab.device, [server], without_netlink=without_netlink) as seen:
        seen.until(on("eth0"))
        delta = seen.step(lambda: lab.pull("eth0"), lambda state: not interface(state, "eth0").is_running)
        assert delta.change is Change.MOVED
        assert [way.interface for way in seen.now.ways] == ["wlan0", "wwan0"]
        assert seen.now.path == seen.now.ways[0]
        assert seen.change(lambda: lab.plug("eth0"), on("eth0")) is Change.BETTER


@root
@both
def test_a_default_route_is_withdrawn_and_restored(wired: Lab, without_netlink: bool) -> None:
    with Observer(wired.device, [SERVER4, SERVER6], without_netlink=without_netlink) as seen:
        assert seen.until(by(ETH)).ways == (ETH, ETH6)
        delta = seen.step(lambda: wired.withdraw_default("eth0"), by(None))
        assert (delta.change, delta.reason) == (Change.LOST, "eth0 has no route to the server any more")
        assert interface(seen.now, "eth0").is_running
        assert (
            seen.change(lambda: wired.restore_default("eth0"), lambda state: state.ways == (ETH, ETH6)) is Change.FOUND
        )


@root
@both
def test_airplane_mode(lab: Lab, without_netlink: bool) -> None:
    with Observer(lab.device, [SERVER4], without_netlink=without_netlink) as seen:
        assert seen.until(by(ETH)).ways == (ETH, WLAN, WWAN)
        delta = seen.step(lambda: lab.airplane(), by(None))
        assert (delta.change, delta.reason) == (Change.LOST, "eth0 was taken down")
        seen.until(lambda state: not any(one.is_up for one in state.interfaces if one.kind != "loopback"))
        assert seen.change(lambda: lab.land(), lambda state: state.ways == (ETH, WLAN, WWAN)) is Change.FOUND


@root
@both
def test_a_metric_changes(lab: Lab, without_netlink: bool) -> None:
    with Observer(lab.device, [SERVER4], without_netlink=without_netlink) as seen, Netlink(lab.device) as device:
        seen.until(by(ETH))
        better = route(lab.uplinks["wwan0"].index, "10.7.3.1", 50)
        delta = seen.step(lambda: device.do(better), by(WWAN))
        assert delta.change is Change.BETTER
        assert seen.now.ways == (WWAN, ETH, WLAN) and seen.now.carries("10.7.1.2")
        assert (
            seen.change(lambda: device.do(route(lab.uplinks["wwan0"].index, "10.7.3.1", 50, add=False)), by(ETH))
            is Change.BETTER
        )


@root
@both
def test_vpn_on_and_off(wired: Lab, without_netlink: bool) -> None:
    with Observer(wired.device, [SERVER4], without_netlink=without_netlink) as seen:
        seen.until(by(ETH))
        delta = seen.step(lambda: wired.vpn_up("eth0"), by(VPN))
        assert delta.change is Change.BETTER
        assert interface(seen.now, "tun0").kind == "tunnel"
        assert seen.now.ways == (VPN, ETH) and seen.now.carries("10.7.1.2")
        delta = seen.step(lambda: wired.vpn_down(), by(ETH))
        assert delta.change is Change.MOVED
        assert delta.reason.startswith("tun0 ")


@root
@pytest.mark.parametrize(("version", "server", "gateway"), [(4, SERVER4, "10.7.3.1"), (6, SERVER6, "fd07:3::1")])
def test_rules_count(lab: Lab, version: int, server: str, gateway: str) -> None:
    """A rule sends what goes to the server elsewhere, as VPNs do; another forbids it."""
    with Observer(lab.device, [server]) as seen:
        seen.until(on("eth0"))
        ip(lab, f"-{version} route add default via {gateway} dev wwan0 table 77")
        assert (
            seen.change(
                lambda: ip(lab, f"-{version} rule add to {server} lookup 77 pref 70"),
                lambda state: state.path and state.path.gateway == gateway,
            )
            is Change.BETTER
        )
        assert (
            seen.change(lambda: ip(lab, f"-{version} rule add to {server} prohibit pref 60"), by(None)) is Change.LOST
        )
        assert seen.now.ways == ()
        delta = seen.step(
            lambda: ip(lab, f"-{version} rule delete pref 60", f"-{version} rule delete pref 70"),
            on("eth0"),
        )
        assert delta.change is Change.FOUND


@root
@both
def test_ipv6(lab: Lab, without_netlink: bool) -> None:
    with Observer(lab.device, [f"{SERVER6}"], without_netlink=without_netlink) as seen, Netlink(lab.device) as device:
        state = seen.until(by(ETH6))
        assert [way.source for way in state.ways] == ["fd07:1::2", "fd07:2::2", "fd07:3::2"]
        assert state.carries("fd07:3::2") and not state.carries("10.7.1.2") and state.has_address("10.7.1.2")
        assert seen.change(lambda: lab.pull("eth0"), on("wlan0")) is Change.MOVED
        assert seen.change(lambda: lab.plug("eth0"), by(ETH6)) is Change.BETTER
        assert (
            seen.change(
                lambda: device.do(*(link(uplink.index, is_up=False) for uplink in lab.uplinks.values())), by(None)
            )
            is Change.LOST
        )
        assert seen.change(lambda: lab.land(), by(ETH6)) is Change.FOUND


# --- addresses -------------------------------------------------------------------------------------------------------


@root
@both
def test_another_address_instead_of_the_old_one(wired: Lab, without_netlink: bool) -> None:
    """In one call: whatever of it was seen on the way, the whole of it is a new address."""
    with Observer(wired.device, [SERVER4], without_netlink=without_netlink) as seen:
        before = seen.until(by(ETH))
        count = len(seen.states)
        wired.readdress("eth0")
        after = seen.until(by(Way("eth0", "10.7.1.3", "10.7.1.1")))
        delta = link_delta(before, after, "10.7.1.2")
        assert (delta.change, delta.reason) == (
            Change.READDRESSED,
            "eth0 lost its address 10.7.1.2; it sends from 10.7.1.3 now",
        )
        assert not after.has_address("10.7.1.2")
        steps = [link_delta(a, b).change for a, b in zip(seen.states[count - 1 :], seen.states[count:], strict=False)]
        assert set(steps) <= {Change.READDRESSED, Change.LOST, Change.FOUND, Change.IRRELEVANT}
        assert Change.READDRESSED in steps or (Change.LOST in steps and Change.FOUND in steps)


@root
@both
def test_the_old_address_goes_before_the_new_one_comes(wired: Lab, without_netlink: bool) -> None:
    index = wired.uplinks["eth0"].index
    with Observer(wired.device, [SERVER4], without_netlink=without_netlink) as seen, Netlink(wired.device) as device:
        seen.until(by(ETH))
        delta = seen.step(
            lambda: device.do(address(index, "10.7.1.2/24", add=False)),
            lambda state: state.path is None and not state.has_address("10.7.1.2"),
        )
        assert (delta.change, delta.reason) == (Change.LOST, "eth0 lost its address 10.7.1.2")
        assert (
            seen.change(
                lambda: device.do(address(index, "10.7.1.3/24"), route(index, "10.7.1.1", 100)),
                by(Way("eth0", "10.7.1.3", "10.7.1.1")),
            )
            is Change.FOUND
        )


@root
@both
def test_the_new_address_comes_before_the_old_one_goes(wired: Lab, without_netlink: bool) -> None:
    index = wired.uplinks["eth0"].index
    netns.sysctl(wired.device, {"ipv4/conf/eth0/promote_secondaries": "1"})
    with Observer(wired.device, [SERVER4], without_netlink=without_netlink) as seen, Netlink(wired.device) as device:
        seen.until(by(ETH))
        delta = seen.step(lambda: device.do(address(index, "10.7.1.3/24")), lambda state: state.has_address("10.7.1.3"))
        assert delta.change is Change.IRRELEVANT
        assert seen.now.path == ETH and seen.now.carries("10.7.1.3")
        delta = seen.step(
            lambda: device.do(address(index, "10.7.1.2/24", add=False), route(index, "10.7.1.1", 100)),
            lambda state: by(Way("eth0", "10.7.1.3", "10.7.1.1"))(state) and not state.has_address("10.7.1.2"),
        )
        assert delta.change is Change.READDRESSED
        assert not seen.now.carries("10.7.1.2")


@root
@both
def test_privacy_addresses_rotate(wired: Lab, without_netlink: bool) -> None:
    """The old one is deprecated, a new one preferred: nothing to a connection on the old one, until that goes."""
    with Observer(wired.device, [SERVER6], without_netlink=without_netlink) as seen:
        seen.until(by(ETH6))
        assert (
            seen.change(
                lambda: netns.ip(wired.device, "addr add fd07:1::aaaa/64 dev eth0 nodad\n"),
                lambda state: state.has_address("fd07:1::aaaa"),
                "fd07:1::2",
            )
            is Change.IRRELEVANT
        )
        netns.ip(wired.device, "addr change fd07:1::2/64 dev eth0 preferred_lft 0 nodad\n")
        newer = Way("eth0", "fd07:1::aaaa", "fd07:1::1")
        # The kernel may have preferred the new one at once.
        seen.until(by(newer))
        assert {link_delta(a, b).change for a, b in zip(seen.states, seen.states[1:], strict=False)} == {
            Change.IRRELEVANT
        }
        assert seen.now.carries("fd07:1::2")
        before = seen.now
        netns.ip(wired.device, "addr delete fd07:1::2/64 dev eth0\n")
        after = seen.until(lambda state: not state.has_address("fd07:1::2"))
        assert link_delta(before, after, "fd07:1::2").change is Change.READDRESSED
        assert link_delta(before, after, "fd07:1::aaaa").change is Change.IRRELEVANT
        assert link_delta(before, after).change is Change.IRRELEVANT


@root
def test_an_address_under_test_is_none_yet(wired: Lab) -> None:
    """IPv6 first asks whether somebody else has it. Nobody answers while the cable is out, so it stays so."""
    netns.sysctl(wired.device, {"ipv6/conf/eth0/accept_dad": "1"})
    with Observer(wired.device) as seen:
        seen.until(by(ETH))
        wired.pull("eth0")
        seen.until(by(None))
        netns.ip(wired.device, "addr add fd07:1::bbbb/64 dev eth0\naddr add 10.7.1.9/24 dev eth0\n")
        assert not seen.until(lambda state: state.has_address("10.7.1.9")).has_address("fd07:1::bbbb")
        wired.plug("eth0")
        seen.until(lambda state: state.has_address("fd07:1::bbbb"))


# --- interfaces ------------------------------------------------------------------------------------------------------


@root
@both
def test_an_interface_is_removed(wired: Lab, without_netlink: bool) -> None:
    with Observer(wired.device, [SERVER4], without_netlink=without_netlink) as seen:
        seen.until(by(ETH))
        delta = seen.step(
            lambda: netns.ip(wired.device, "link delete eth0\n"), lambda state: "eth0" not in names(state)
        )
        assert (delta.change, delta.reason) == (Change.LOST, "eth0 is gone")
        assert not seen.now.has_address("10.7.1.2")


@root
@both
def test_an_interface_is_renamed(wired: Lab, without_netlink: bool) -> None:
    with Observer(wired.device, [SERVER4], without_netlink=without_netlink) as seen:
        before = seen.until(by(ETH))
        try:
            netns.ip(wired.device, "link set eth0 name lan0\n")
        except netns.NetworkError:  # kernels before 6.2: not while it is up
            netns.ip(wired.device, "link set eth0 down\nlink set eth0 name lan0\nlink set lan0 up\n")
            wired.restore_default("eth0")
        after = seen.until(by(Way("lan0", "10.7.1.2", "10.7.1.1")))
        assert link_delta(before, after).change is Change.IRRELEVANT
        assert after.carries("10.7.1.2")


@root
@both
def test_what_does_not_concern_the_path(lab: Lab, without_netlink: bool) -> None:
    with Observer(lab.device, [SERVER4], without_netlink=without_netlink) as seen:
        seen.until(by(ETH))
        netns.ip(lab.device, "link add other0 type veth peer name other1\naddr add 10.99.0.1/24 dev other0\n")
        seen.until(lambda state: state.has_address("10.99.0.1"))
        lab.pull("wwan0")
        seen.until(lambda state: not interface(state, "wwan0").is_running)
        netns.ip(lab.device, "addr add 10.7.2.77/24 dev wlan0\nlink set other0 up\nlink set other1 up\n")
        seen.until(lambda state: state.has_address("10.7.2.77") and interface(state, "other0").is_running)
        netns.ip(lab.device, "link delete other0\n")
        seen.until(lambda state: "other0" not in names(state))
        changes = {link_delta(a, b).change for a, b in zip(seen.states, seen.states[1:], strict=False)}
        assert changes == {Change.IRRELEVANT}
        assert seen.now.path == ETH


@root
def test_a_bridge_takes_the_address(wired: Lab) -> None:
    with Observer(wired.device, [SERVER4]) as seen:
        before = seen.until(by(ETH))
        wired.withdraw_default("eth0")
        netns.ip(
            wired.device,
            "link add br0 type bridge\nlink set br0 up\nlink set eth0 master br0\naddr flush dev eth0\n"
            "addr add 10.7.1.2/24 dev br0\nroute add default via 10.7.1.1 dev br0 metric 100\n",
        )
        after = seen.until(by(Way("br0", "10.7.1.2", "10.7.1.1")))
        assert interface(after, "br0").kind == "bridge"
        assert link_delta(before, after).change is Change.BETTER


# --- where to --------------------------------------------------------------------------------------------------------


@root
@both
def test_the_aim_decides_and_may_change(lab: Lab, without_netlink: bool) -> None:
    with Observer(lab.device, without_netlink=without_netlink) as seen, Netlink(lab.device) as device:
        anywhere = seen.until(by(ETH)).ways
        assert anywhere[:3] == (ETH, WLAN, WWAN) and len(anywhere) == 6
        device.do(route(lab.uplinks["wwan0"].index, "10.7.3.1", 0, f"{SERVER4}/32"))
        seen.aim(SERVER4)
        # The route for this server comes first, whatever the metrics of the others.
        assert seen.until(by(WWAN)).ways == (WWAN, ETH, WLAN)
        seen.aim("10.7.0.99")
        assert seen.until(by(ETH)).ways == (ETH, WLAN, WWAN)
        seen.aim(SERVER6, SERVER4)
        assert [way.interface for way in seen.until(by(ETH6)).ways] == [
            "eth0",
            "wlan0",
            "wwan0",
            "wwan0",
            "eth0",
            "wlan0",
        ]
        seen.aim("10.7.2.200")
        assert seen.until(by(Way("wlan0", "10.7.2.2", ""))).ways[0] == Way("wlan0", "10.7.2.2", "")
        seen.aim("::1")
        assert seen.until(by(Way("lo", "::1", ""))).carries("::1")
        seen.aim("127.0.0.1", SERVER4)
        assert seen.until(by(Way("lo", "127.0.0.1", ""))).carries("127.0.0.1")
        seen.aim()
        seen.until(by(ETH))


@root
def test_the_second_address_counts_where_the_first_has_no_way(wired: Lab) -> None:
    with Observer(wired.device, [SERVER6, SERVER4]) as seen:
        seen.until(by(ETH6))
        # For a connection by IPv4 that is nothing; one by IPv6 is dead.
        assert (
            seen.change(lambda: ip(wired, "-6 route delete default"), by(ETH), source="10.7.1.2") is Change.IRRELEVANT
        )
        assert link_delta(seen.states[-2], seen.now).change is Change.READDRESSED


@root
@both
def test_a_server_with_a_link_local_address(wired: Lab, without_netlink: bool) -> None:
    netns.ip(wired.router, "addr add fe80::77/64 dev r-eth0 nodad\n")
    with Observer(wired.device, ["fe80::77%eth0"], without_netlink=without_netlink) as seen:
        state = seen.until(lambda state: state.path)
        assert state.path is not None
        assert (state.path.interface, state.path.gateway) == ("eth0", "")
        assert state.path.source.startswith("fe80::") and state.carries(state.path.source + "%eth0")


@root
def test_both_readers_and_iproute2_agree(lab: Lab) -> None:
    lab.vpn_up("eth0")
    lab.pull("wwan0")
    with Observer(lab.device, [SERVER4]) as seen:
        seen.until(lambda state: by(VPN)(state) and not interface(state, "wwan0").is_running)
    with netns.inside(lab.device):
        kernel, files = Dumps(), Files()
        for aim in ([], [SERVER4], [SERVER6], [SERVER6, SERVER4], ["10.7.2.9"], ["::1"]):
            assert kernel.read(targets(aim)) == files.read(targets(aim)), aim
        state = kernel.read(targets([SERVER4]))
        kernel.close()
    told = json.loads(netns.run(["ip", "-json", "-netns", lab.device, "address"]))
    assert [(one.name, one.index, one.is_up) for one in state.interfaces] == [
        (one["ifname"], one["ifindex"], "UP" in one["flags"]) for one in told
    ]
    assert [one.is_running for one in state.interfaces] == ["LOWER_UP" in one["flags"] for one in told]
    for one, other in zip(state.interfaces, told, strict=True):
        assert one.addresses == {entry["local"] for entry in other["addr_info"]}
    [way] = json.loads(netns.run(["ip", "-json", "-netns", lab.device, "route", "get", SERVER4]))
    assert state.path == Way(way["dev"], way["prefsrc"], way["gateway"])


# --- many events -----------------------------------------------------------------------------------------------------


@root
def test_what_says_nothing_new_is_not_yielded(wired: Lab) -> None:
    with Observer(wired.device, [SERVER4]) as seen, Netlink(wired.device) as device:
        seen.until(by(ETH))
        reads, states = seen.settled(), len(seen.states)
        device.do(route(wired.uplinks["eth0"].index, "10.7.1.1", 0, "10.200.0.0/16"))
        assert seen.settled() > reads
        assert len(seen.states) == states


@root
def test_ten_thousand_route_changes_cost_few_reads(wired: Lab) -> None:
    with Observer(wired.device, [SERVER4]) as seen:
        seen.until(by(ETH))
        reads, states, cpu_s = seen.settled(), len(seen.states), seen.cpu_s()
        routes = [f"10.{100 + n // 250}.{n % 250}.0/24" for n in range(5000)]
        lines = [f"route {what} {where} via 10.7.1.1 dev eth0" for what in ("add", "delete") for where in routes]
        began_s = time.monotonic()
        netns.ip(wired.device, "\n".join([*lines, "addr add 10.7.1.99/24 dev eth0\n"]))
        seen.until(lambda state: state.has_address("10.7.1.99"))
        took_s = time.monotonic() - began_s
        cpu_s = seen.cpu_s() - cpu_s
        assert watch.BURST / 2 <= seen.watch.reads - reads <= watch.BURST + took_s / watch.INTERVAL_S + 2
        assert len(seen.states) == states + 1
        assert cpu_s < 1.0


@root
def test_hints_that_the_kernel_had_to_drop(wired: Lab) -> None:
    """A buffer for two or three of them, and thousands within one call."""
    index = wired.uplinks["eth0"].index
    with Observer(wired.device, [SERVER4], buffer_bytes=1) as seen, Netlink(wired.device) as device:
        seen.until(by(ETH))
        seen.settled()
        for round_ in range(3):
            for add in (True, False):
                changes = [route(index, "10.7.1.1", 0, f"10.200.{n}.0/24", add=add) for n in range(200)]
                device.do(*changes, route(index, "10.7.1.1", 100, add=add))
                seen.until(by(ETH if add else None))
            assert seen.told == [], round_
        assert seen.watch.overruns > 0


def test_the_first_hints_act_at_once_and_then_one_each_interval() -> None:
    budget = Budget(3, 0.25)
    assert [budget.take(100.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.25, 0.5]
    assert budget.take(100.75) == 0.0
    assert budget.take(100.75) == 0.25
    assert [budget.take(200.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.25]


@root
def test_two_events_in_a_row_both_act_at_once(wired: Lab) -> None:
    """With an interval that nobody would wait for."""
    index = wired.uplinks["eth0"].index
    with Observer(wired.device, [SERVER4], interval_s=3600.0) as seen, Netlink(wired.device) as device:
        seen.until(by(ETH))
        device.do(address(index, "10.7.1.3/24"))
        seen.until(lambda state: state.has_address("10.7.1.3"))
        device.do(address(index, "10.7.1.4/24"))
        seen.until(lambda state: state.has_address("10.7.1.4"))


# --- starting and ending ---------------------------------------------------------------------------------------------


async def first(watched: NetlinkWatch) -> LinkSnapshot:
    states = watched.snapshots()
    try:
        async with asyncio.timeout(BOUND_S):
            return await anext(states)
    finally:
        await states.aclose()  # type: ignore[attr-defined]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_it_lets_go_of_everything() -> None:
    before, threads = open_files(), threading.active_count()
    for _ in range(3):
        watched = NetlinkWatch(lambda kind, text: None)
        assert (await first(watched)).has_address("127.0.0.1")
        await watched.close()
        await watched.close()
    assert open_files() == before
    watched = NetlinkWatch(lambda kind, text: None)
    states = watched.snapshots()
    await anext(states)
    with pytest.raises(RuntimeError):
        await anext(watched.snapshots())
    waiting = asyncio.ensure_future(anext(states, None))
    await watched.close()
    assert await waiting is None
    assert [state async for state in watched.snapshots()] == []
    assert open_files() == before
    ends_at = time.monotonic() + BOUND_S
    while threading.active_count() > threads:
        assert time.monotonic() < ends_at
        await asyncio.sleep(0.01)


async def test_it_can_be_cancelled_and_started_again() -> None:
    watched = NetlinkWatch(lambda kind, text: None)
    started = asyncio.Event()

    async def follow() -> None:
        async for _ in watched.snapshots():
            started.set()

    for _ in range(2):
        started.clear()
        task = asyncio.create_task(follow())
        async with asyncio.timeout(BOUND_S):
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    await watched.close()


async def test_netlink_that_fails_later_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    files = open_files()
    watched = NetlinkWatch(lambda kind, text: told.append((kind, text)), poll_s=0.01, retry_s=0.02)
    states = watched.snapshots()
    warning = ("warning", "no netlink here (Cannot allocate memory): the network is polled every 0.01 s")
    failed = threading.Semaphore(0)
    found: set[Way | None] = set()

    def fail(self: Dumps, wanted: object) -> LinkSnapshot:
        failed.release()
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    async def follow() -> None:
        async for state in states:
            found.add(state.path)

    async with asyncio.timeout(BOUND_S):
        await anext(states)
        with monkeypatch.context() as patch:
            patch.setattr(Dumps, "read", fail)
            watched.aim(["127.0.0.1"])
            assert (await anext(states)).path == Way("lo", "127.0.0.1", "")
            following = asyncio.ensure_future(follow())
            for _ in range(3):  # it is tried again, and again
                await asyncio.to_thread(failed.acquire)
            assert told == [warning]
        while told == [warning]:
            await asyncio.sleep(0.01)
        assert told == [warning, ("link", "netlink works again: the network is not polled any more")]
        watched.aim(["::1"])
        while Way("lo", "::1", "") not in found:
            await asyncio.sleep(0.01)
        await watched.close()
        await following
    assert open_files() == files


async def test_a_poll_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Hints, buffer_bytes: int) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    failures = [OSError(errno.EMFILE, "Too many open files")] * 3
    read = Files.read

    def sometimes(self: Files, wanted: tuple[Target, ...]) -> LinkSnapshot:
        if failures:
            raise failures.pop()
        return read(self, wanted)

    monkeypatch.setattr(Hints, "__init__", refuse)
    monkeypatch.setattr(Files, "read", sometimes)
    told: list[tuple[str, str]] = []
    watched = NetlinkWatch(lambda kind, text: told.append((kind, text)), poll_s=0.01)
    assert (await first(watched)).has_address("::1")
    assert told == [("warning", "no netlink here (Protocol not supported): the network is polled every 0.01 s")]
    await watched.close()


def test_a_process_to_which_netlink_is_refused() -> None:
    """As a plain user, too: by seccomp, as systemd's RestrictAddressFamilies does it."""
    program = (
        "import asyncio\nfrom edge.adapters.netlink import NetlinkWatch\n"
        "from tests.network.observer import refuse_netlink\n"
        "async def main():\n"
        "    watch = NetlinkWatch(print)\n    watch.aim(['127.0.0.1'])\n"
        "    async for state in watch.snapshots():\n"
        "        print(state.path.interface, state.path.source)\n        break\n"
        "    await watch.close()\n"
        "refuse_netlink()\nasyncio.run(main())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=BOUND_S)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "warning no netlink here (Operation not permitted): the network is polled every 2 s",
        "lo 127.0.0.1",
    ]


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "wanted"),
    [
        ([], ()),
        (["192.0.2.1", "192.0.2.1"], (Target("192.0.2.1"),)),
        (["2001:DB8:0::1"], (Target("2001:db8::1"),)),
        (["[2001:db8::1]"], (Target("2001:db8::1"),)),
        (["::ffff:192.0.2.1"], (Target("192.0.2.1"),)),
        (["fe80::1%eth0"], (Target("fe80::1", "eth0"),)),
        (["server.example", "", "192.0.2.300", "::1"], (Target("::1"),)),
    ],
)
def test_targets(addresses: list[str], wanted: tuple[Target, ...]) -> None:
    assert targets(addresses) == wanted


@pytest.mark.parametrize(
    ("name", "hardware", "driver", "entry", "kind"),
    [
        ("lo", 772, "", "", "loopback"),
        ("eth0", 1, "", "", "wired"),
        ("end0", 1, "", "device", "wired"),
        ("veth1", 1, "veth", "", "wired"),
        ("wlan0", 1, "", "phy80211", "wireless"),
        ("wlp2s0", 1, "", "wireless", "wireless"),
        ("wwan0", 519, "", "", "modem"),
        ("wwan0", 1, "wwan", "", "modem"),
        ("usb0", 1, "", "DEVTYPE=wwan", "modem"),
        ("usb0", 1, "", "DEVTYPE=gadget", "wired"),
        ("ppp0", 512, "ppp", "", "modem"),
        ("tun0", 65534, "tun", "", "tunnel"),
        ("tap0", 1, "tun", "", "tunnel"),
        ("tap0", 1, "", "tun_flags", "tunnel"),
        ("wg0", 65534, "wireguard", "", "tunnel"),
        ("wg0", 65534, "", "", "tunnel"),
        ("tunl0", 768, "ipip", "", "tunnel"),
        ("br0", 1, "bridge", "", "bridge"),
        ("br0", 1, "", "bridge", "bridge"),
        ("dummy0", 1, "dummy", "", "other"),
        ("can0", 280, "", "", "other"),
    ],
)
def test_kinds(tmp_path: Path, name: str, hardware: int, driver: str, entry: str, kind: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    if entry.startswith("DEVTYPE"):
        (folder / "uevent").write_text(f"INTERFACE={name}\n{entry}\n")
    elif entry:
        (folder / entry).mkdir()
    assert kind_of(name, hardware, driver, tmp_path) == kind


@pytest.mark.parametrize("content", ["", "garbage\n"])
def test_a_proc_that_shows_little(tmp_path: Path, content: str) -> None:
    """What cannot be read is not there; the kernel's own choice is still asked for."""
    for name in ("route", "dev") if content else ():
        (tmp_path / name).write_text(content)
    state = Files(tmp_path).read(targets(["192.0.2.1"]))
    assert state == LinkSnapshot((), None)
    assert Files(tmp_path).read(targets(["::1"])).path == Way("lo", "::1", "")
