"""The clients of today beside the recorder, through the same events: `python -m tests.bench.network.peers`.

For each scenario all of them start anew, in one device, towards one server (with acks; they use none). Reported is how
long after the event the first packet of each arrived again, and how much of its audio is not at the server WINDOW_S
after the event; of the recorder, what it has not delivered in the end by its account, which the rows of the bench
audit from outside. Libraries are fetched on demand, with these versions, into a folder of the cache.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.network.floor import Bare
from tests.bench.network.picture import draw_peers
from tests.campaign.stage import ROOT
from tests.network.lab import SERVER6, SERVER_NAME, Lab
from tests.network.netns import command_in, inside
from tests.network.rtnetlink import Moment
from tests.network.site import PORT, Plan, Site
from tests.rig.process import Child

NPM = {"partysocket": "1.3.0", "reconnecting-websocket": "4.4.0", "ws": "8.18.3"}
PIP = {"websocket-client": "1.9.0"}
CLIENTS = Path(__file__).with_name("clients")
WINDOW_S = 45.0
PACKET_S = 0.1
_BEFORE_S = 3.0
_UNDER_WAY_S = 1.0  # of audio that may be on its way at any moment
_BOUND_S = 120.0


def cache() -> Path:
    """Where libraries are kept."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "edge-bench" / "-".join(f"{name}-{version}" for name, version in (NPM | PIP).items())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _install(command: list[str], done: Path) -> str:
    """Run an installer unless `done` exists; why it cannot be used, or nothing."""
    if done.exists():
        return ""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    if run.returncode:
        return f"{command[0]}: {(run.stderr.strip() or run.stdout.strip()).splitlines()[-1][:200]}"
    done.touch()
    return ""


def programs() -> tuple[dict[str, list[str]], dict[str, str]]:
    """Command lines without the URL, by name; and why the others are left out."""
    folder = cache()
    node, python = folder / "node", folder / "python"
    node.mkdir(exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in NPM.items()]
    npm = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--prefix", str(node), *wanted]
    no_node = _install(npm, folder / "npm-is-done")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(python)]
    no_pip = _install([*pip, *(f"{name}=={version}" for name, version in PIP.items())], folder / "pip-is-done")
    script = str(CLIENTS / "reconnecting.mjs")
    found = {"websockets, async for": ["env", f"PYTHONPATH={ROOT}", sys.executable, str(CLIENTS / "idiom.py")]}
    missing = {}
    for name in ("partysocket", "reconnecting-websocket"):
        if no_node:
            missing[name] = no_node
        else:
            found[name] = ["node", script, str(node), name]
    if no_pip:
        missing["websocket-client"] = no_pip
    else:
        found["websocket-client"] = ["env", f"PYTHONPATH={ROOT}:{python}", sys.executable, str(CLIENTS / "threaded.py")]
    return found, missing


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens; the Moment is that from which everything could go on."""

    title: str
    happen: Callable[[Site], Awaitable[Moment]]


async def _cable(site: Site) -> Moment:
    for name in site.lab.uplinks:
        site.lab.pull(name)
    await asyncio.sleep(5.0)
    back = [site.lab.plug(name) for name in site.lab.uplinks]
    return Moment(back[0].at, back[-1].done_at)


async def _other(site: Site) -> Moment:
    return site.lab.pull("wlan0")


async def _address(site: Site) -> Moment:
    return site.lab.readdress("wlan0")


async def _airplane(site: Site) -> Moment:
    site.lab.airplane()
    await asyncio.sleep(20.0)
    return site.lab.land()


async def _blackhole(site: Site) -> Moment:
    site.lab.blackhole()
    await asyncio.sleep(15.0)
    return site.lab.heal()


async def _restart(site: Site) -> Moment:
    return await site.restart_receiver()


SCENARIOS = [
    Scenario("cable pulled for 5 s", _cable),
    Scenario("Wi-Fi to LTE", _other),
    Scenario("address changes", _address),
    Scenario("airplane mode, 20 s", _airplane),
    Scenario("blackhole, 15 s", _blackhole),
    Scenario("server restart", _restart),
]


@dataclass(frozen=True, slots=True)
class Fate:
    """Of one client in one scenario, in seconds: away None is longer than the window."""

    away_s: float | None
    missing_s: float

    def __str__(self) -> str:
        away = f"> {WINDOW_S:.0f} s" if self.away_s is None else f"{self.away_s:.2f} s"
        return f"{away}, {self.missing_s:.1f} s missing"


async def run(scenario: Scenario, commands: dict[str, list[str]], folder: Path) -> dict[str, Fate]:
    """Everybody through one scenario."""
    fates = {}
    with Lab(["wlan0", "wwan0"]) as lab:
        async with Site(lab, folder, Plan(seed="peers")) as site, AsyncExitStack() as stack:
            sessions, begun = {}, {}
            for name, command in commands.items():
                bare = Bare(SERVER6, PORT, site.token)
                await asyncio.to_thread(_begin_in, lab.device, bare)
                sessions[name] = bare.session
                way = f"/ws/audio_stream/{bare.session}?token={site.token}&client_id={len(sessions)}&resume=1"
                url = f"ws://{SERVER_NAME}:{PORT}{way}"
                child = Child(name.partition(",")[0], command_in(lab.device, [*command, url]), logs=folder, cwd=ROOT)
                await stack.enter_async_context(child)
                await child.wait_line(bool, _BOUND_S)
                begun[name] = time.monotonic()
            await site.start_recorder()
            await site.tap.wait(lambda: all(_arrived(site, one) for one in sessions.values()), _BOUND_S)
            await asyncio.sleep(_BEFORE_S)
            event = await scenario.happen(site)
            await asyncio.sleep(WINDOW_S)
            ended_at = time.monotonic()
            for name, session in sessions.items():
                arrived = _arrived(site, session)
                due = int((ended_at - begun[name] - _UNDER_WAY_S) / PACKET_S)
                missing = set(range(1, due + 1)) - {seq for _, seq in arrived}
                later = [at for at, _ in _arrived(site, session, lab.addresses) if at >= event.done_at]
                fates[name] = Fate(min(later) - event.at if later else None, len(missing) * PACKET_S)
            ours = {connection.session for connection in site.connections} - set(sessions.values())
            handled_at = site.handled_at(event.done_at, sessions=ours)
            _, account = await site.end_recorder()
            kept_s = (account["expected"] - account["delivered"]) / 16000
            fates["edge recorder"] = Fate(None if handled_at is None else handled_at - event.at, kept_s)
    return fates


def _begin_in(namespace: str, bare: Bare) -> None:
    with inside(namespace):
        bare.begin()


def _arrived(site: Site, session: str, addresses: Collection[str] | None = None) -> list[tuple[float, int]]:
    """When which packet of a session arrived, on sockets that the server welcomed: after its restart it knows no old
    session. `addresses`: only from these. (The kernel goes on sending from one that it has lost, and nobody can
    answer.)"""
    return [
        (packet.at, packet.seq)
        for one in site.connections
        if one.session == session
        and any(message.get("type") == "hello" for _, message in one.messages)
        and (addresses is None or site.tap.client_of(one) in addresses)
        for packet in one.handed
    ]


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.network.peers", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench-network", metavar="DIR")
    parser.add_argument("--only", metavar="TEXT", default="", help="scenarios that have this in their title")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    commands, missing = programs()
    for name, why in missing.items():
        print(f"{name}: left out: {why}", flush=True)
    results = {}
    for scenario in SCENARIOS:
        if args.only not in scenario.title:
            continue
        with tempfile.TemporaryDirectory(prefix="bench-peers-") as name:
            fates = asyncio.run(run(scenario, commands, Path(name)))
        print(f"{scenario.title}:", flush=True)
        for who, fate in fates.items():
            print(f"    {who:<24} away {fate}", flush=True)
        results[scenario.title] = {who: asdict(fate) for who, fate in fates.items()}
        (args.out / "peers.json").write_text(json.dumps(results, indent=1))
    if results:
        draw_peers(results, WINDOW_S, args.out / "peers.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
