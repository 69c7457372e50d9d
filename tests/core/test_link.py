"""The table of link changes: what was, what is, what that means."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.link import Change, Interface, LinkSnapshot, Path, link_delta

LO = Interface("lo", 1, "loopback", True, frozenset({"127.0.0.1", "::1"}))
ETH = Interface("eth0", 2, "wired", True, frozenset({"192.0.2.2", "2001:db8::2"}))
WLAN = Interface("wlan0", 3, "wireless", True, frozenset({"198.51.100.3"}))
WWAN = Interface("wwan0", 4, "modem", True, frozenset({"10.64.0.4"}))
TUN = Interface("tun0", 9, "tunnel", True, frozenset({"10.8.0.9"}))
BRIDGE = Interface("br0", 10, "bridge", True, frozenset({"192.0.2.2"}))

BY_ETH = Path("eth0", "192.0.2.2", "192.0.2.1")
BY_BRIDGE = Path("br0", "192.0.2.2", "192.0.2.1")
BY_ETH6 = Path("eth0", "2001:db8::2", "fe80::1")
BY_WLAN = Path("wlan0", "198.51.100.3", "198.51.100.1")
BY_WWAN = Path("wwan0", "10.64.0.4", "")
BY_TUN = Path("tun0", "10.8.0.9", "")
BY_LO = Path("lo", "127.0.0.1", "")


def snapshot(*interfaces: Interface, ways: tuple[Path, ...] = ()) -> LinkSnapshot:
    """The first of the ways is the path."""
    return LinkSnapshot((LO, *interfaces), ways[0] if ways else None, ways)


def down(interface: Interface) -> Interface:
    return replace(interface, is_running=False, is_up=False)


def unplugged(interface: Interface) -> Interface:
    return replace(interface, is_running=False)


def having(interface: Interface, *addresses: str) -> Interface:
    return replace(interface, addresses=frozenset(addresses))


NOTHING = snapshot()
WIRED = snapshot(ETH, ways=(BY_ETH,))
DUAL = snapshot(ETH, ways=(BY_ETH6, BY_ETH))
ON_MODEM = snapshot(WWAN, ways=(BY_WWAN,))
BOTH = snapshot(WLAN, WWAN, ways=(BY_WLAN, BY_WWAN))
ON_TUNNEL = snapshot(ETH, TUN, ways=(BY_TUN, BY_ETH))
NEW_ADDRESS = Path("eth0", "192.0.2.77", "192.0.2.1")
BESIDE = having(ETH, "192.0.2.2", "192.0.2.77")
PRIVATE_1, PRIVATE_2 = Path("eth0", "2001:db8::aaaa", "fe80::1"), Path("eth0", "2001:db8::bbbb", "fe80::1")
ROTATED = having(ETH, "2001:db8::aaaa", "2001:db8::bbbb")


@dataclass(frozen=True)
class Row:
    name: str
    old: LinkSnapshot
    new: LinkSnapshot
    change: Change
    reason: str
    source: str = ""


ROWS = [
    # lost
    Row("carrier lost", WIRED, snapshot(unplugged(ETH)), Change.LOST, "eth0 lost its carrier"),
    Row("interface down", WIRED, snapshot(down(ETH)), Change.LOST, "eth0 was taken down"),
    Row("interface removed", WIRED, NOTHING, Change.LOST, "eth0 is gone"),
    Row("route withdrawn", WIRED, snapshot(ETH), Change.LOST, "eth0 has no route to the server any more"),
    Row(
        "the only address removed",
        WIRED, snapshot(having(ETH, "2001:db8::2")), Change.LOST, "eth0 lost its address 192.0.2.2",
    ),
    Row(
        "renamed and unplugged at once",
        WIRED, snapshot(unplugged(replace(ETH, name="lan"))), Change.LOST, "lan lost its carrier",
    ),
    Row(
        "airplane mode: all down",
        BOTH, snapshot(down(WLAN), down(WWAN)), Change.LOST, "wlan0 was taken down",
    ),
    Row(
        "a path whose source nobody has",
        snapshot(ETH, ways=(Path("gone0", "192.0.2.99", ""),)), snapshot(ETH), Change.LOST,
        "no route leads to the server from 192.0.2.99",
    ),
    # found
    Row(
        "cable back",
        snapshot(unplugged(ETH)), WIRED, Change.FOUND,
        "there is a way to the server: eth0 from 192.0.2.2 through 192.0.2.1",
    ),
    Row("a modem dialled in", snapshot(ETH), snapshot(ETH, WWAN, ways=(BY_WWAN,)), Change.FOUND,
        "there is a way to the server: wwan0 from 10.64.0.4"),
    # better
    Row("modem to Wi-Fi", ON_MODEM, BOTH, Change.BETTER,
        "the path moved from wwan0 to wlan0 from 198.51.100.3 through 198.51.100.1"),
    Row("Wi-Fi to Ethernet", BOTH, snapshot(ETH, WLAN, WWAN, ways=(BY_ETH, BY_WLAN, BY_WWAN)), Change.BETTER,
        "the path moved from wlan0 to eth0 from 192.0.2.2 through 192.0.2.1"),
    Row("back to the modem by a metric", BOTH, snapshot(WLAN, WWAN, ways=(BY_WWAN, BY_WLAN)), Change.BETTER,
        "the path moved from wlan0 to wwan0 from 10.64.0.4"),
    Row("VPN up", WIRED, ON_TUNNEL, Change.BETTER, "the path moved from eth0 to tun0 from 10.8.0.9"),
    Row("the address moved into a bridge", WIRED,
        snapshot(having(ETH), BRIDGE, ways=(replace(BY_ETH, interface="br0"),)), Change.BETTER,
        "the path moved from eth0 to br0 from 192.0.2.2 through 192.0.2.1"),
    Row("another gateway", WIRED, snapshot(ETH, ways=(replace(BY_ETH, gateway="192.0.2.254"),)), Change.BETTER,
        "the path leads through another gateway: eth0 from 192.0.2.2 through 192.0.2.254"),
    Row("a path through what nobody knows", WIRED, LinkSnapshot((LO, ETH), Path("gone0", "192.0.2.2", ""), (BY_ETH,)),
        Change.BETTER, "the path moved from eth0 to gone0 from 192.0.2.2"),
    Row("from what nobody knows", LinkSnapshot((LO, ETH), Path("gone0", "192.0.2.2", ""), (BY_ETH,)), WIRED,
        Change.BETTER, "the path moved from gone0 to eth0 from 192.0.2.2 through 192.0.2.1"),
    Row("the server turns out to be this machine", LinkSnapshot((LO, ETH), Path("gone0", "192.0.2.2", ""), (BY_ETH,)),
        LinkSnapshot((LO, ETH), BY_LO, (BY_LO, BY_ETH)), Change.BETTER,
        "the path moved from gone0 to lo from 127.0.0.1"),
    # readdressed
    Row("an address instead of the old one", WIRED, snapshot(having(ETH, "192.0.2.77"), ways=(NEW_ADDRESS,)),
        Change.READDRESSED, "eth0 lost its address 192.0.2.2; it sends from 192.0.2.77 now"),
    Row("the old one of two removed", snapshot(BESIDE, ways=(BY_ETH,)),
        snapshot(having(ETH, "192.0.2.77"), ways=(NEW_ADDRESS,)),
        Change.READDRESSED, "eth0 lost its address 192.0.2.2; it sends from 192.0.2.77 now"),
    Row("the old one removed after another was preferred", snapshot(BESIDE, ways=(NEW_ADDRESS,)),
        snapshot(having(ETH, "192.0.2.77"), ways=(NEW_ADDRESS,)),
        Change.READDRESSED, "eth0 lost its address 192.0.2.2; it sends from 192.0.2.77 now", source="192.0.2.2"),
    Row("only IPv4 is left", DUAL, snapshot(ETH, ways=(BY_ETH,)),
        Change.READDRESSED, "eth0 has no route to the server any more; it sends from 192.0.2.2 now"),
    Row("renamed and readdressed at once", WIRED, snapshot(replace(ETH, name="lan", addresses=frozenset({"10.0.0.1"})),
        ways=(Path("lan", "10.0.0.1", ""),)),
        Change.READDRESSED, "lan lost its address 192.0.2.2; it sends from 10.0.0.1 now"),
    Row("another one instead of one that a dead interface has, too",
        snapshot(unplugged(ETH), BRIDGE, ways=(BY_BRIDGE,)),
        snapshot(unplugged(ETH), having(BRIDGE, "10.0.0.1"), ways=(Path("br0", "10.0.0.1", ""),)),
        Change.READDRESSED, "br0 lost its address 192.0.2.2; it sends from 10.0.0.1 now"),
    # moved
    Row("Wi-Fi to LTE", BOTH, snapshot(unplugged(WLAN), WWAN, ways=(BY_WWAN,)), Change.MOVED,
        "wlan0 lost its carrier; the path is wwan0 from 10.64.0.4 now"),
    Row("VPN down", ON_TUNNEL, WIRED, Change.MOVED,
        "tun0 is gone; the path is eth0 from 192.0.2.2 through 192.0.2.1 now"),
    Row("the old one dies before the move to a better path", BOTH, snapshot(WLAN, unplugged(WWAN), ways=(BY_WLAN,)),
        Change.MOVED, "wwan0 lost its carrier; the path is wlan0 from 198.51.100.3 through 198.51.100.1 now",
        source="10.64.0.4"),
    Row("a route withdrawn, another there", BOTH, snapshot(WLAN, WWAN, ways=(BY_WWAN,)), Change.MOVED,
        "wlan0 has no route to the server any more; the path is wwan0 from 10.64.0.4 now"),
    Row("a path through what nobody knows, ours is dead", WIRED, LinkSnapshot((LO,), Path("gone0", "10.0.0.1", "")),
        Change.MOVED, "eth0 is gone; the path is gone0 from 10.0.0.1 now"),
    Row("an address that a dead interface has, too", snapshot(unplugged(ETH), BRIDGE, ways=(BY_BRIDGE,)),
        snapshot(unplugged(ETH), unplugged(BRIDGE), WLAN, ways=(BY_WLAN,)),
        Change.MOVED, "br0 lost its carrier; the path is wlan0 from 198.51.100.3 through 198.51.100.1 now"),
    # irrelevant
    Row("nothing changed", WIRED, WIRED, Change.IRRELEVANT,
        "the way to the server is the same: eth0 from 192.0.2.2 through 192.0.2.1"),
    Row("still nothing", NOTHING, snapshot(unplugged(ETH)), Change.IRRELEVANT, "there is still no way to the server"),
    Row("another interface came", WIRED, snapshot(ETH, WLAN, ways=(BY_ETH, BY_WLAN)), Change.IRRELEVANT,
        "the way to the server is the same: eth0 from 192.0.2.2 through 192.0.2.1"),
    Row("another interface went", BOTH, snapshot(WLAN, ways=(BY_WLAN,)), Change.IRRELEVANT,
        "the way to the server is the same: wlan0 from 198.51.100.3 through 198.51.100.1"),
    Row("an address on another interface", BOTH, snapshot(WLAN, having(WWAN, "10.64.0.5"), ways=(BY_WLAN,)),
        Change.IRRELEVANT, "the way to the server is the same: wlan0 from 198.51.100.3 through 198.51.100.1"),
    Row("an address beside", WIRED, snapshot(BESIDE, ways=(BY_ETH,)), Change.IRRELEVANT,
        "the way to the server is the same: eth0 from 192.0.2.2 through 192.0.2.1"),
    Row("IPv6 privacy: a new one is preferred", snapshot(having(ETH, "2001:db8::aaaa"), ways=(PRIVATE_1,)),
        snapshot(ROTATED, ways=(PRIVATE_2,)), Change.IRRELEVANT,
        "eth0 prefers 2001:db8::bbbb, 2001:db8::aaaa still carries"),
    Row("IPv6 privacy: one that was not ours is gone", snapshot(ROTATED, ways=(PRIVATE_2,)),
        snapshot(having(ETH, "2001:db8::bbbb"), ways=(PRIVATE_2,)), Change.IRRELEVANT,
        "the way to the server is the same: eth0 from 2001:db8::bbbb through fe80::1"),
    Row("IPv6 came beside IPv4, on which we are", WIRED, DUAL, Change.IRRELEVANT,
        "eth0 prefers 2001:db8::2, 192.0.2.2 still carries"),
    Row("IPv6 went, we are on IPv4", DUAL, WIRED, Change.IRRELEVANT,
        "the way to the server is the same: eth0 from 192.0.2.2 through 192.0.2.1",
        source="::ffff:192.0.2.2"),
    Row("renamed", WIRED, snapshot(replace(ETH, name="lan"), ways=(replace(BY_ETH, interface="lan"),)),
        Change.IRRELEVANT, "the way to the server is the same: lan from 192.0.2.2 through 192.0.2.1"),
    Row("a server on this machine", snapshot(ETH, ways=(BY_LO,)), snapshot(down(ETH), ways=(BY_LO,)),
        Change.IRRELEVANT, "the way to the server is the same: lo from 127.0.0.1"),
    Row("what was dead stays dead", snapshot(WLAN, unplugged(WWAN), ways=(BY_WLAN,)),
        snapshot(WLAN, ways=(BY_WLAN,)), Change.IRRELEVANT,
        "the way to the server is the same: wlan0 from 198.51.100.3 through 198.51.100.1", source="10.64.0.4"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_a_change_means(row: Row) -> None:
    delta = link_delta(row.old, row.new, row.source)
    assert (delta.change, delta.reason) == (row.change, row.reason)


def test_each_change_is_in_the_table() -> None:
    assert {row.change for row in ROWS} == set(Change)


@pytest.mark.parametrize(
    ("state", "address", "carries", "has"),
    [
        (WIRED, "192.0.2.2", True, True),
        (WIRED, "::ffff:192.0.2.2", True, True),
        (WIRED, "2001:db8::2", False, True),  # no IPv6 way, though the interface has an IPv4 one
        (DUAL, "2001:DB8::2", True, True),
        (DUAL, "2001:db8::2%eth0", True, True),
        (WIRED, "192.0.2.3", False, False),
        (WIRED, "", False, False),
        (snapshot(ETH), "192.0.2.2", False, True),
        (snapshot(unplugged(ETH), ways=(BY_ETH,)), "192.0.2.2", False, True),
        (snapshot(BESIDE, ways=(BY_ETH,)), "192.0.2.77", True, True),
        (BOTH, "10.64.0.4", True, True),  # not preferred, but a way
        (LinkSnapshot((LO, WWAN), None, (BY_WWAN,)), "10.64.0.4", True, True),
        (LinkSnapshot((LO, WWAN), BY_WWAN), "10.64.0.4", True, True),
        (snapshot(ETH, WLAN, ways=(BY_ETH,)), "198.51.100.3", False, True),
        # A service address on the loopback interface travels by whatever route names it.
        (
            LinkSnapshot((having(LO, "203.0.113.1"), ETH), Path("eth0", "203.0.113.1", "192.0.2.1")),
            "203.0.113.1", True, True,
        ),
        (NOTHING, "127.0.0.1", True, True),
        (NOTHING, "127.8.0.1", True, True),
        (NOTHING, "::1", True, True),
        (LinkSnapshot((), None), "::ffff:127.0.0.1", True, True),
    ],
)  # fmt: skip
def test_whether_an_address_carries(state: LinkSnapshot, address: str, carries: bool, has: bool) -> None:
    assert (state.carries(address), state.has_address(address)) == (carries, has)


STATES = sorted({state for row in ROWS for state in (row.old, row.new)}, key=repr)
SOURCES = ["", "192.0.2.2", "198.51.100.3", "10.64.0.4", "2001:db8::2", "127.0.0.1", "192.0.2.77"]


@given(st.sampled_from(STATES), st.sampled_from(STATES), st.sampled_from(SOURCES))
def test_what_always_holds(old: LinkSnapshot, new: LinkSnapshot, source: str) -> None:
    change = link_delta(old, new, source).change
    assert link_delta(old, old, source).change is Change.IRRELEVANT
    assert (change is Change.FOUND) == (old.path is None and new.path is not None)
    assert (change is Change.LOST) == (old.path is not None and new.path is None)
    if old.path and new.path:
        used = source or old.path.source
        died = old.carries(used) and not new.carries(used)
        assert died == (change in (Change.READDRESSED, Change.MOVED))


def test_nothing_is_gained_by_moving_to_where_the_socket_is() -> None:
    both = snapshot(ETH, WWAN, ways=(BY_ETH, BY_WWAN))
    assert both.is_on_path("192.0.2.2")
    assert both.is_on_path("2001:db8::2%eth0")  # another address of the same interface
    assert not both.is_on_path("10.64.0.4")
    assert not NOTHING.is_on_path("192.0.2.2")
