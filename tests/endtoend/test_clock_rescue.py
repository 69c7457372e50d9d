"""`edge record` at an https receiver on a day that is years off, with no time server: libfaketime fakes the wall clock
for OpenSSL and all; the boot clock, the certificates and TLS are real."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import re
import signal
import ssl
import struct
import time
import wave
from pathlib import Path

import pytest

from edge import app, config
from edge.adapters.clock import SystemClock
from edge.adapters.floor import FloorFile
from edge.adapters.state import StateDirectory
from edge.core.built import BUILT_UTC_S
from edge.runtime import floorkeeper
from tests.adapters.hostile import BOUND_S
from tests.adapters.wire.peers import Dated
from tests.adapters.wire.pki import DAY, LOCAL, NOW, Authority, serves
from tests.cli.recorder import Recorder
from tests.client.receiver import TOKEN, ThreadedReceiver, account, wav

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime: apt-get install faketime"),
]
# `edge`, where the system says of its clock what this says, whatever keeps the clock of the machine that tests.
PROGRAM = """
import functools, pathlib, edge.adapters.clock as clock
clock.SystemClock = functools.partial(clock.SystemClock, timesyncd=pathlib.Path("/nowhere"), kernel_says=lambda: {})
from edge.__main__ import main
raise SystemExit(main())
"""
IN_2015, IN_2045 = dt.datetime(2015, 6, 1, tzinfo=dt.UTC), dt.datetime(2045, 6, 1, tzinfo=dt.UTC)
FRESH = NOW - dt.timedelta(minutes=1)  # behind the version's date: a certificate from here on needs the server's date
BUILT = dt.datetime.fromtimestamp(BUILT_UTC_S, dt.UTC)
RATE = 16000


def recorder(
    folder: Path,
    url: str,
    authority: Authority,
    day: dt.datetime,
    *options: str,
    trusted: bool = False,
    more: str = "",
) -> Recorder:
    """On `day`, in `folder`, where it keeps its state."""
    folder.mkdir(exist_ok=True)
    env = os.environ | {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME": f"{round((day - NOW) / DAY):+d}d",
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    env["SSL_CERT_FILE"] = str(authority.path)  # the token's source knows no ca_file
    more = more or f'[server]\nca_file = "{authority.path}"\n'
    child = Recorder(folder, url, *options, more=more, env=env)
    assert child.command[1:3] == ["-m", "edge"]
    child.command[1:3] = ["-c", PROGRAM.format(trusted)]
    return child


def ramp(path: Path, seconds: int) -> bytes:
    """A WAV file in which no two frames of a second are alike; returns its samples."""
    samples = b"".join(struct.pack("<h", (frame * 7919) % 65536 - 32768) for frame in range(seconds * RATE))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples)
    return samples


@pytest.mark.parametrize(("day", "side"), [(IN_2015, "behind"), (IN_2045, "ahead")])
async def test_all_is_delivered_each_frame(day: dt.datetime, side: str, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    samples = ramp(tmp_path / "in.wav", 3)
    out = tmp_path / "received"
    with ThreadedReceiver(out, cert=ours.issue(*LOCAL, begins=FRESH)) as receiver:
        url = receiver.url.replace("http://", "https://")
        options = ("--source", f"wav:{tmp_path / 'in.wav'}")
        async with recorder(tmp_path / "device", url, ours, day, *options) as child:
            said = await child.account(0)
            lines = [line for line in child.stderr if "no time server answers" in line]
    assert said["expected"] == said["delivered"] == len(samples) // 2
    assert said["lost"] == {}
    assert wav(out, said["recording"]) == (samples, RATE, 1)
    years = abs((day - NOW) / DAY) / 365.25
    assert len(lines) == 1, child.stderr
    found = re.search(rf"the clock is ([0-9.]+) years {side} and no time server answers: ", lines[0])
    assert found and float(found[1]) == pytest.approx(years, abs=0.11)
    assert "certificates are checked by the server's own date; audio is delivered, its time stamps" in lines[0]
    stored = account(out, said["recording"])
    assert stored["clock_trusted"] is False, "a stamp does not know of the rescue"
    assert stored["stamps"][0]["stamped_at"] == pytest.approx(day.timestamp(), abs=2 * 86400)
    assert not (tmp_path / "device" / "state" / "clock-floor").exists()


async def test_the_last_trusted_day_is_kept_and_serves_the_next_start(tmp_path: Path) -> None:
    ours, device, later = Authority(tmp_path, "ours"), tmp_path / "device", NOW + 100 * DAY
    ramp(tmp_path / "in.wav", 1)
    options = ("--source", f"wav:{tmp_path / 'in.wav'}", "--pace", "fast")
    said: list[str] = []
    async with Dated(serves(ours.issue(*LOCAL, begins=later - DAY, ends=later + DAY))) as peer:
        for day, trusted in ((later, True), (IN_2015, False)):
            async with recorder(device, peer.url, ours, day, *options, trusted=trusted) as child:
                await child.said("the recording has ended")
                await until(peer, 1)
                child.signal(signal.SIGINT)
                await child.account(3)
            assert peer.asked == 0
            peer.received.clear()
            kept = FloorFile(device / "state" / "clock-floor").load()
            assert kept == pytest.approx(later.timestamp(), abs=3600)
            said = child.stderr
    [line] = [line for line in said if "no time server answers" in line]
    assert "years behind" in line and "by the last date that this device knew" in line


async def test_while_it_runs_the_trusted_time_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floorkeeper, "FIRST_S", 0.0)
    (tmp_path / "edge.toml").write_text('[server]\nurl = ""\n[audio]\nsource = "tone:440"\n[panel]\nenabled = false\n')
    with StateDirectory(tmp_path / "state") as state:
        clock = SystemClock(timesyncd=Path("/"))  # which there is
        built = app.build(config.load(tmp_path / "edge.toml"), state, lambda happening: None, clock=clock)
        running = asyncio.create_task(built.device.run())
        async with asyncio.timeout(BOUND_S):
            while not state.clock_floor.exists():
                await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.wait([running])
        await built.close()
        assert FloorFile(state.clock_floor).load() == pytest.approx(time.time(), abs=60)


async def until(peer: Dated, served: int) -> None:
    async with asyncio.timeout(BOUND_S):
        while peer.served < served:
            await asyncio.sleep(0.02)


def context(kind: str, ours: Authority, folder: Path) -> tuple[ssl.SSLContext, dt.datetime]:
    """What the server shows, and the date it says."""
    end = NOW + 30 * DAY
    match kind:
        case "another authority's":
            return serves(Authority(folder, "other").issue(*LOCAL, begins=FRESH, ends=end)), NOW
        case "another name's":
            return serves(ours.issue("wifi.example", begins=FRESH, ends=end)), NOW
        case "a date before the floor":
            return serves(ours.issue(*LOCAL, begins=BUILT - 9 * DAY, ends=BUILT - DAY)), BUILT - 2 * DAY
        case "a date beyond the window":
            return serves(ours.issue(*LOCAL, begins=NOW + 4000 * DAY, ends=NOW + 4900 * DAY)), NOW + 4500 * DAY
        case _:
            return serves(ours.issue(*LOCAL, begins=FRESH, ends=end)), NOW + 60 * DAY


@pytest.mark.parametrize(
    ("kind", "day", "reason"),
    [
        ("another authority's", IN_2015, "tls: the server's certificate is not trusted"),
        ("another authority's", IN_2045, "tls: the server's certificate is not trusted"),
        ("another name's", IN_2015, "portal: "),
        ("another name's", IN_2045, "portal: "),
        ("a date before the floor", IN_2045, "is of no use: it lies before what this device has seen"),
        ("a date beyond the window", IN_2015, "is of no use: it lies too far in the future"),
        ("a chain that has ended", IN_2045, "is of no use: the certificates are not valid then, either"),
    ],
)
async def test_who_is_refused_hears_nothing(kind: str, day: dt.datetime, reason: str, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours", ends=NOW + 5000 * DAY)
    shown, date = context(kind, ours, tmp_path)
    async with Dated(shown, date) as peer:
        async with recorder(tmp_path / "device", peer.url, ours, day, "--source", "tone:440") as child:
            await child.said(reason)
            child.signal(signal.SIGINT)
            await child.said("the recording has ended")
            child.signal(signal.SIGINT)
            found = await child.account(3)
        assert found["pending"] == found["expected"] > 0
        assert found["lost"] == {}
        assert peer.served == 0
        assert TOKEN.encode() not in b"".join(peer.received)
        assert (peer.asked > 0) is ("date" in kind or "chain" in kind)
    assert not any("no time server answers" in line for line in child.stderr)


async def test_where_tokens_come_from_is_reached_as_well(tmp_path: Path) -> None:
    ours, device = Authority(tmp_path, "ours"), tmp_path / "device"
    device.mkdir()
    for name in ("key", "seed"):
        (device / name).write_text(f"the-{name}\n")
        (device / name).chmod(0o600)
    async with Dated(serves(ours.issue(*LOCAL, begins=FRESH)), NOW) as peer:
        more = (
            f'[server]\nurl = "{peer.url}"\nca_file = "{ours.path}"\nagent = "a"\nevent = "e"\n'
            f'refresh_url = "{peer.url}"\nrefresh_key_file = "{device / "key"}"\n'
            f'refresh_token_file = "{device / "seed"}"\n'
        )
        async with recorder(device, "", ours, IN_2045, "--source", "tone:440", more=more) as child:
            await until(peer, 1)
            child.signal(signal.SIGINT)
            await child.said("the recording has ended")
            child.signal(signal.SIGINT)
            await child.account(3)
        assert peer.asked == 1
        [first, *_] = [bytes(got) for got in peer.received if not got.startswith(b"HEAD ")]
    assert first.startswith(b"POST /auth/v1/token?grant_type=refresh_token ")


async def test_a_damaged_floor_is_said_and_not_used(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    ramp(tmp_path / "in.wav", 1)
    state = tmp_path / "device" / "state"
    state.mkdir(parents=True)
    with ThreadedReceiver(tmp_path / "received", cert=ours.issue(*LOCAL, begins=FRESH)) as receiver:
        url = receiver.url.replace("http://", "https://")
        for content in ("junk", json.dumps({"version": 1, "trusted_utc": "2080-01-01T00:00:00Z"})):
            (state / "clock-floor").write_text(content)
            options = ("--source", f"wav:{tmp_path / 'in.wav'}", "--pace", "fast")
            async with recorder(tmp_path / "device", url, ours, IN_2015, *options) as child:
                said = await child.account(0)
            assert said["expected"] == said["delivered"] == RATE
            [line] = [line for line in child.stderr if "clock-floor" in line]
            assert "is not used (it is" in line
