"""What the kernel says of the network.

watch.py       when to look: hints by netlink, else a timer
dumps.py       the state by netlink
rtnetlink.py   its messages
files.py       the state without netlink
kinds.py       cable, radio, modem, tunnel
targets.py     what the path leads to
"""

from edge.adapters.netlink.watch import NetlinkWatch

__all__ = ["NetlinkWatch"]
