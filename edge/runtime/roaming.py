"""Follows the link: what each new snapshot means is decided by the pure diff, and said once with its reason."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from edge.core.link import Change, LinkDelta, LinkSnapshot, link_delta
from edge.runtime.happening import Happening
from edge.runtime.ports import LinkWatch

SETTLE_S = 1.0  # a better path has to last for so long before it is moved to
MOST_SETTLE_S = 60.0  # one that comes and goes, for so long
CALM_S = 300.0  # since the last one that went again: then it is trusted as in the beginning


class Roaming:
    """Tells `on_change` what becomes of the way to the server, and where the link stands then; `on_blind` that nobody
    will tell any more. `used` says the source address of the connection that there is, "" if none. Over `fleet_spread`
    seconds many devices spread themselves that get a better path in one moment."""

    def __init__(
        self,
        watch: LinkWatch,
        on_change: Callable[[LinkDelta, LinkSnapshot], None],
        used: Callable[[], str],
        tell: Callable[[Happening], None],
        clock: Callable[[], float],
        on_blind: Callable[[str], None] = lambda reason: None,
        fleet_spread: float = 0.0,
    ) -> None:
        self.current: LinkSnapshot | None = None
        self._watch = watch
        self._on_change = on_change
        self._used = used
        self._tell = tell
        self._clock = clock
        self._on_blind = on_blind
        self._fleet_spread = fleet_spread
        self._acted: LinkSnapshot | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._settle_s = SETTLE_S
        self._flapped_at = self._moved_at = -math.inf

    def aim(self, addresses: Sequence[str]) -> None:
        """The server's addresses, as they were just resolved."""
        self._watch.aim(addresses)

    def interface_to(self, addresses: Sequence[str]) -> str:
        """What a new socket to one of `addresses` is to be bound to, so that it stays on its path when there is a
        better one: else the kernel sends it out of the other interface, with a source address that nobody takes there.
        "" where no path to them is known yet, or nothing leaves the machine."""
        state = self.current
        if state is None or state.path is None or set(state.aim) != {one.partition("%")[0] for one in addresses}:
            return ""
        kinds = {interface.name: interface.kind for interface in state.interfaces}
        return "" if kinds.get(state.path.interface) == "loopback" else state.path.interface

    async def run(self) -> None:
        """Watch until cancelled. The connection works without it, only slower."""
        try:
            async for snapshot in self._watch.snapshots():
                self._look(snapshot)
        except Exception as error:  # noqa: BLE001  (whatever the kernel says, audio goes on)
            why = f"{type(error).__name__}: the connection is kept by time-outs alone"
            self._tell(Happening("warning", f"the network is not watched any more ({why})"))
            self._on_blind("the network is not watched any more")
        finally:
            self._settled()
            self.current = None  # from here on it says nothing of how things are
            await self._watch.close()

    def _look(self, snapshot: LinkSnapshot) -> None:
        self.current = snapshot
        if self._acted is None:
            self._acted = snapshot  # what was there before anything began is no change
            return
        acted, used = self._acted, self._used()
        is_lost = bool(used) and acted.carries(used) and not snapshot.carries(used)
        is_found = bool(acted.aim) and acted.path is None and snapshot.path is not None
        if snapshot.aim != acted.aim and not is_lost and not is_found:
            self._reaimed(acted, snapshot, used)
            return
        delta = link_delta(acted, snapshot, used)
        is_back = bool(used) and not acted.carries(used) and snapshot.carries(used)  # a held socket has little time
        if delta.change is Change.BETTER and not is_back:
            if self._settling is None:
                wait_s = self._wait_s() + random.uniform(0.0, self._fleet_spread)
                self._settling = asyncio.get_running_loop().call_later(wait_s, self._move)
            return
        if self._settling is not None and delta.change is Change.IRRELEVANT:
            self._flapped()
        self._act(delta, snapshot)

    def _reaimed(self, acted: LinkSnapshot, snapshot: LinkSnapshot, used: str) -> None:
        """It leads to another address of the server, which is no news of the link. What settles goes on to."""
        if self._settling is not None and link_delta(acted, snapshot, used).change is Change.BETTER:
            self._acted = replace(acted, aim=snapshot.aim)
            return
        self._settled()
        self._acted = snapshot

    def _flapped(self) -> None:
        """A better path went again."""
        self._settle_s = min(2 * self._settle_s, MOST_SETTLE_S)
        self._flapped_at = self._clock()

    def _wait_s(self) -> float:
        if self._clock() - self._flapped_at > CALM_S:
            self._settle_s = SETTLE_S
        return self._settle_s

    def _move(self) -> None:
        """A better path has lasted."""
        assert self._acted is not None
        assert self.current is not None
        self._moved_at = self._clock()
        self._act(link_delta(self._acted, self.current, self._used()), self.current)

    def _act(self, delta: LinkDelta, snapshot: LinkSnapshot) -> None:
        self._settled()
        before = self._acted.path if self._acted is not None else None
        self._acted = snapshot
        is_gone = before is not None and (snapshot.path is None or snapshot.path.interface != before.interface)
        if delta.change in (Change.LOST, Change.MOVED) and is_gone:
            if self._clock() - self._moved_at < CALM_S:
                self._flapped()  # it had lasted just long enough to be moved to
            self._moved_at = -math.inf
        if delta.change is not Change.IRRELEVANT:
            self._tell(Happening("link", f"network: {delta.reason}", {"change": delta.change.value}))
            self._on_change(delta, snapshot)

    def _settled(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
