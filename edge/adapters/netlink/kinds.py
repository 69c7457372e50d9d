"""What sort of thing an interface is, for people."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

SYSFS = Path("/sys/class/net")

# ARPHRD numbers (Linux's if_arp.h)
_ETHERNET, _PPP, _RAW_IP, _LOOPBACK, _NONE = 1, 512, 519, 772, 65534
_TUNNELS = {768, 769, 776, 778, 823}  # IPIP, IP6 tunnel, SIT, GRE, GRE over IPv6
_TUNNEL_DRIVERS = {
    "amt", "erspan", "gre", "gretap", "gtp", "ip6erspan", "ip6gre", "ip6gretap", "ip6tnl", "ipip", "l2tp", "ovpn",
    "sit", "tun", "vti", "vti6", "vxlan", "wireguard", "xfrm", "geneve",
}  # fmt: skip
# What is like the cable that it stands for, or is put on it.
_WIRED_DRIVERS = {"", "veth", "vlan", "macvlan", "ipvlan", "bond", "team", "dsa", "macsec", "hsr"}
_MODEM_NAMES = ("wwan", "ppp", "rmnet", "wwp", "wwx")


@lru_cache(256)
def known_kind(index: int, name: str, hardware: int, driver: str = "") -> str:
    """As `kind_of`, looked up once for each interface; `index` is never used twice."""
    return kind_of(name, hardware, driver)


def kind_of(name: str, hardware: int, driver: str = "", sysfs: Path = SYSFS) -> str:
    """A value for Interface.kind. `hardware` is the ARPHRD number, `driver` what the kernel calls a virtual one."""
    if hardware == _LOOPBACK:
        return "loopback"
    folder = sysfs / name
    if driver == "wwan" or name.startswith(_MODEM_NAMES) or hardware in (_PPP, _RAW_IP):
        return "modem"
    if driver in _TUNNEL_DRIVERS or hardware in _TUNNELS or hardware == _NONE or (folder / "tun_flags").exists():
        return "tunnel"
    if driver == "bridge" or (folder / "bridge").exists():
        return "bridge"
    if (folder / "wireless").exists() or (folder / "phy80211").exists():
        return "wireless"
    if _device_type(folder) == "wwan":
        return "modem"
    return "wired" if hardware == _ETHERNET and driver in _WIRED_DRIVERS else "other"


def _device_type(folder: Path) -> str:
    try:
        lines = (folder / "uevent").read_text().splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("DEVTYPE=") for line in lines if line.startswith("DEVTYPE=")), "")
