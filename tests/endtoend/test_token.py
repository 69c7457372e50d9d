"""Tokens that expire in mid-recording: no frame is lost, nobody waits for a probe, and no secret is seen anywhere."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge import app, config
from edge.adapters import provenance
from edge.adapters.state import StateDirectory
from edge.receiver.config import StrictConfig, Timing
from edge.runtime.happening import Happening
from tests.campaign.test_secrets import CHATTY, places
from tests.client.receiver import ThreadedReceiver, wav
from tests.rig.process import Child
from tests.rig.supabase import KEY, Supabase

ROOT = Path(__file__).resolve().parents[2]
BOUND_S = 50.0  # for one step on a slow machine; less than a minute, after which a probe would come
SECONDS = 8
FIRST = "the-first-token-of-this-test"
EXPIRED = "nothing-that-anybody-has"
CONFIG = """
[server]
url = "{url}"
agent = "a"
event = "e"
{server}
[audio]
source = "{source}"
segment_target_ms = 1000
[connection]
initial_reconnect_delay = 0.2
max_reconnect_delay = 0.5
grace_window = 20.0
[panel]
enabled = false
"""


def noise(folder: Path) -> tuple[str, bytes]:
    """Some seconds of sound that cannot be mistaken."""
    samples = random.Random(4).randbytes(2 * 16000 * SECONDS)
    with wave.open(str(folder / "source.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples)
    return f"wav:{folder / 'source.wav'}", samples


def private(path: Path, text: str) -> Path:
    """A file with a secret, in place at once."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text + "\n")
    fresh.chmod(0o600)
    return fresh.replace(path)


BOTH = pytest.mark.parametrize("receiver", [False, True], ids=["acks", "strict"], indirect=True)
ACKS = pytest.mark.parametrize("receiver", [False], ids=["acks"], indirect=True)


@pytest.fixture
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ThreadedReceiver]:
    strict = StrictConfig(transcribe=(0.0, 0.2)) if request.param else None
    with ThreadedReceiver(tmp_path / "received", FIRST, strict=strict, timing=Timing.for_grace(20.0)) as made:
        yield made


@pytest.fixture
async def supabase(receiver: ThreadedReceiver) -> AsyncIterator[Supabase]:
    async with Supabase() as made:
        made.on_grant = receiver.accept
        yield made


class Recorder(Child):
    """`edge record`, every library of it at DEBUG."""

    def __init__(self, folder: Path, url: str, server: str, source: str, *options: str) -> None:
        self.folder = folder
        file = folder / "edge.toml"
        file.write_text(CONFIG.format(url=url, server=server, source=source))
        command = [*CHATTY, "record", "--config", str(file), "--state", str(folder / "state"), "--json", *options]
        super().__init__("recorder", command, cwd=ROOT)

    async def says(self, *texts: str, after: int = 0) -> int:
        """Wait until lines with these texts have come, in this order; returns the number of the line behind them."""

        def found() -> int | None:
            at = after
            for text in texts:
                at = next((n for n, line in enumerate(self.stderr[at:], at + 1) if text in line), 0)
                if not at:
                    return None
            return at

        async with asyncio.timeout(BOUND_S), self._news:
            await self._news.wait_for(lambda: found() is not None or all(reader.done() for reader in self._readers))
        at = found()
        assert at is not None, f"{texts} behind line {after}; " + self.tail(40)
        return at

    async def whole(self, frames: int) -> str:
        """All of it is delivered; returns the recording's id."""
        assert await self.wait(BOUND_S) == 0, self.tail(40)
        found: dict[str, Any] = json.loads(self.stdout[-1])
        assert (found["expected"], found["delivered"], found["lost"]) == (frames, frames, {}), found
        return str(found["recording"])

    def assert_hides(self, *secrets: str) -> None:
        """They are nowhere in what it printed, nor in what it left."""
        assert any("DEBUG" in line for line in self.stderr)
        told = "\n".join([*self.stdout, *self.stderr]).encode()
        for secret in secrets:
            assert not places(told, secret)
        for path in (*(self.folder / "state").rglob("*"), *(self.folder / "received").rglob("*")):
            if path.is_file() and path.name != "refresh-token":
                content = path.read_bytes()
                assert not any(places(content, secret) for secret in secrets), path


def refreshing(folder: Path, supabase: Supabase, seed: str) -> str:
    """That part of the configuration."""
    private(folder / "key", KEY)
    private(folder / "seed", seed)
    return f'refresh_url = "{supabase.url}"\nrefresh_key_file = "key"\nrefresh_token_file = "seed"'


def expire(receiver: ThreadedReceiver) -> None:
    """The token that is in use is not taken any more, and the connection is lost."""
    receiver.accept(EXPIRED)
    assert receiver.do(lambda it: it.drop_sockets()) == 1


def assert_heard(receiver: ThreadedReceiver, recording: str, samples: bytes) -> None:
    """All of it is there: exactly once at a receiver with acks, each packet at least once at a strict one."""
    receiver.stop()
    if receiver.is_strict:
        with wave.open(str(receiver.out / recording / "kept.wav"), "rb") as file:
            found = file.readframes(file.getnframes())
        packets = [samples[at : at + 3200] for at in range(0, len(samples), 3200)]
        assert [number for number, packet in enumerate(packets, 1) if packet not in found] == []
    else:
        assert wav(receiver.out, recording) == (samples, 16000, 1)


@BOTH
async def test_a_refreshed_token_that_expires_twice_costs_no_frame(
    tmp_path: Path, receiver: ThreadedReceiver, supabase: Supabase
) -> None:
    source, samples = noise(tmp_path)
    server = refreshing(tmp_path, supabase, supabase.sign_in())
    async with Recorder(tmp_path, receiver.url, server, source) as recorder:
        line = await recorder.says("connecting -> connected")
        for _ in range(2):
            supabase.pass_time(3000)
            expire(receiver)
            line = await recorder.says(
                "connected -> reconnecting", "the server refused the token; there is a new one",
                "reconnecting -> connected", after=line,
            )  # fmt: skip
        recording = await recorder.whole(len(samples) // 2)
        assert not any("-> failed" in line for line in recorder.stderr), recorder.tail(40)
        assert len(supabase.granted) == 3
        assert supabase.refusals == []
        recorder.assert_hides(KEY, *supabase.granted, *supabase.refresh_tokens)
    assert_heard(receiver, recording, samples)
    kept = json.loads((tmp_path / "state" / "refresh-token").read_text())
    assert kept["refresh_token"] == supabase.refresh_tokens[-1]
    assert (tmp_path / "state" / "refresh-token").stat().st_mode & 0o777 == 0o600


@ACKS
async def test_a_refreshed_token_is_replaced_before_its_end_and_the_connection_stays(
    tmp_path: Path, receiver: ThreadedReceiver, supabase: Supabase
) -> None:
    supabase.life_s = 1.0  # which is so short that only the floor between two exchanges bounds it
    server = refreshing(tmp_path, supabase, supabase.sign_in())
    async with Recorder(tmp_path, receiver.url, server, "tone:440") as recorder:
        line = await recorder.says("connecting -> connected")
        async with asyncio.timeout(BOUND_S):
            while len(supabase.granted) < 2:
                await asyncio.sleep(0.05)
        expired = supabase.granted[0]
        assert receiver.do(lambda it: it.drop_sockets()) == 1
        await recorder.says("connected -> reconnecting", "reconnecting -> connected", after=line)
        recorder.signal(signal.SIGINT)
        assert await recorder.wait(BOUND_S) == 0, recorder.tail(40)
        assert not any("refused" in line for line in recorder.stderr), recorder.tail(40)
        recorder.assert_hides(KEY, expired, *supabase.granted, *supabase.refresh_tokens)


@ACKS
async def test_an_endpoint_that_is_away_costs_no_frame_and_is_no_refusal(
    tmp_path: Path, receiver: ThreadedReceiver, supabase: Supabase
) -> None:
    source, samples = noise(tmp_path)
    server = refreshing(tmp_path, supabase, supabase.sign_in())
    async with Recorder(tmp_path, receiver.url, server, source) as recorder:
        line = await recorder.says("connecting -> connected")
        supabase.is_down = True
        expire(receiver)
        line = await recorder.says("connected -> reconnecting", "no new token: server.refresh_url", after=line)
        before = supabase.requests
        async with asyncio.timeout(BOUND_S):
            while supabase.requests < before + 2:
                await asyncio.sleep(0.05)
        supabase.is_down = False
        await recorder.says("reconnecting -> connected", after=line)
        recording = await recorder.whole(len(samples) // 2)
        assert not any("-> failed: token" in line for line in recorder.stderr), recorder.tail(40)
        recorder.assert_hides(KEY, *supabase.granted, *supabase.refresh_tokens)
    assert_heard(receiver, recording, samples)


@BOTH
async def test_a_file_that_somebody_renews_late_is_noticed_at_once(tmp_path: Path, receiver: ThreadedReceiver) -> None:
    source, samples = noise(tmp_path)
    second = "the-second-token-of-this-test"
    private(tmp_path / "token", FIRST)
    async with Recorder(tmp_path, receiver.url, 'token_file = "token"', source) as recorder:
        line = await recorder.says("connecting -> connected")
        expire(receiver)
        line = await recorder.says("connected -> reconnecting", "-> failed: token: the server refused", after=line)
        receiver.accept(second)
        private(tmp_path / "token", second)
        await recorder.says("trying now: there is a new token", "-> connected", after=line)
        recording = await recorder.whole(len(samples) // 2)
        recorder.assert_hides(FIRST, second)
    assert_heard(receiver, recording, samples)


@ACKS
async def test_a_program_is_asked_again_when_its_token_is_refused(
    tmp_path: Path, receiver: ThreadedReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "SYSTEM", tmp_path)
    monkeypatch.setattr(provenance, "_MEDIA", ())  # a temporary folder may lie anywhere
    source, samples = noise(tmp_path)
    private(tmp_path / "answer", FIRST)
    (tmp_path / "runs").touch()
    script = tmp_path / "give"
    script.write_text('#!/bin/sh\necho run >> "$2"\necho "never shown" >&2\ncat "$1"\n')
    script.chmod(0o700)
    file = tmp_path / "edge.toml"
    server = f"token_command = \"'{script}' '{tmp_path / 'answer'}' '{tmp_path / 'runs'}'\""
    file.write_text(CONFIG.format(url=receiver.url, server=server, source=source))
    told: list[Happening] = []

    def states() -> list[str]:
        return [happening.detail["new"] for happening in told if happening.kind == "state" and happening.detail]

    async def until(count: int) -> None:
        async with asyncio.timeout(BOUND_S):
            while states().count("connected") < count:
                await asyncio.sleep(0.02)

    with StateDirectory(tmp_path / "state") as state:
        built = app.build(config.load(file), state, told.append)
        delivering = asyncio.create_task(built.device.run())
        recording, _ = await built.device.start()
        for number in (1, 2):
            await until(number)
            private(tmp_path / "answer", f"token-{number}")
            receiver.accept(f"token-{number}")
            assert receiver.do(lambda it: it.drop_sockets()) == 1
        async with asyncio.timeout(BOUND_S):
            await built.device.ended()
            await built.device.delivered()
        delivering.cancel()
        await asyncio.wait([delivering])
        await built.close()
    assert recording.ledger.delivered_frames == recording.ledger.expected == len(samples) // 2
    assert recording.ledger.lost == {}
    assert "failed" not in states()
    assert (tmp_path / "runs").read_text().splitlines() == ["run"] * 3
    texts = "\n".join(happening.text for happening in told)
    assert not any(text in texts for text in (FIRST, "token-1", "token-2", "never shown"))
    assert_heard(receiver, recording.recording_id, samples)


@ACKS
@pytest.mark.parametrize("away_s", [5.0, 15.0])
async def test_a_recorder_that_is_killed_between_answer_and_card(
    tmp_path: Path, receiver: ThreadedReceiver, supabase: Supabase, away_s: float
) -> None:
    """Soon enough it goes on by itself; later the line says what to do, and a new seed goes on at once."""
    server = refreshing(tmp_path, supabase, supabase.sign_in())
    has_rotated = asyncio.Event()

    async def hold() -> None:
        has_rotated.set()
        await asyncio.Event().wait()

    async with Recorder(tmp_path, receiver.url, server, "tone:440") as recorder:
        await recorder.says("connecting -> connected")
        supabase.pass_time(3000)
        at_once, supabase.answering = supabase.answering, hold
        expire(receiver)
        async with asyncio.timeout(BOUND_S):
            await has_rotated.wait()
        await recorder.kill()
    supabase.answering = at_once
    supabase.pass_time(away_s)
    async with Recorder(tmp_path, receiver.url, server, "tone:440") as again:
        line = 0
        if away_s > 10:
            line = await again.says("-> failed: token: the refresh token is worth nothing any more")
            assert "write the new refresh token into server.refresh_token_file" in again.stderr[line - 1]
            private(tmp_path / "seed", supabase.sign_in())
        await again.says("-> connected", after=line)
        again.signal(signal.SIGINT)
        assert await again.wait(BOUND_S) in (0, 4), again.tail(40)  # a power cut's worth may be lost of the first one
        assert bool(supabase.refusals) is (away_s > 10)
        again.assert_hides(KEY, *supabase.granted, *supabase.refresh_tokens)
    assert not list((tmp_path / "state" / "spool" / "recordings").glob("*"))  # both are delivered
