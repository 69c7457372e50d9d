"""The token is nowhere but in its file: with every library logging at DEBUG, through failures of each kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from tests.campaign.audio import Source
from tests.campaign.stage import Settings, Stage, last_json
from tests.rig.process import Child

# Legal in a header, and different wherever somebody quotes, escapes or splits it.
TOKEN = "Qz7/uniquely+secret=&%41;token~9"
_CHATTY = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from edge.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
CHATTY = (sys.executable, "-X", "dev", "-W", "default", "-c", _CHATTY)
SETTINGS: dict[str, dict[str, object]] = {
    "audio": {"segment_target_ms": 2000},
    "connection": {
        "initial_reconnect_delay": 0.2,
        "max_reconnect_delay": 0.5,
        "max_reconnect_attempts": 1000,
        "connection_timeout": 5.0,
        "grace_window": 6.0,
    },
}


def forms(token: str) -> set[bytes]:
    """The token as somebody could have written it."""
    texts = {token, quote(token), quote(token, safe=""), quote_plus(token), json.dumps(token), repr(token)}
    plain = {text.strip("\"'").encode() for text in texts}
    return plain | {base64.b64encode(token.encode()), token.encode().hex().encode()}


def places(data: bytes, token: str = TOKEN) -> list[str]:
    """The forms of the token that occur in `data`."""
    return sorted(form.decode() for form in forms(token) if form in data)


def command_lines() -> bytes:
    """The arguments of every process there is."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())
    return b"\n".join(lines)


def told(child: Child) -> bytes:
    """Everything that it printed."""
    return "\n".join([*child.stdout, *child.stderr]).encode()


def assert_clean(stage: Stage, child: Child, token: str = TOKEN) -> None:
    """No trace in what was printed, nor in any file but the token's own."""
    assert not places(told(child), token), "the recorder printed it"
    assert not places(told(stage.receiver), token), "the receiver printed it"
    for path in [*stage.state.rglob("*"), *stage.out.rglob("*")]:
        assert not places(str(path).encode(), token)
        if path.is_file():
            assert not places(path.read_bytes(), token), path


def test_the_search_finds_what_it_looks_for() -> None:
    assert places(f"GET /ws/audio_stream/x?token={quote(TOKEN, safe='')}&resume=0".encode())
    assert places(f"Authorization: Bearer {TOKEN}".encode())
    assert places(repr({"token": TOKEN}).encode())
    assert not places(b"token=***")


@pytest.mark.parametrize("strict", [False, True], ids=["acks", "strict"])
async def test_through_a_recording_with_faults(tmp_path: Path, strict: bool) -> None:
    source = Source("secrets", 16000 * 7)
    source.write(tmp_path / "source.wav")
    settings = Settings(
        strict=strict, grace_s=6.0, transcribe="0:1", seed=1, config=SETTINGS, edge_record=CHATTY, edge_receive=CHATTY
    )
    async with Stage(tmp_path, settings, token=TOKEN) as stage:
        child = await stage.start_recorder(f"wav:{tmp_path / 'source.wav'}", "--json")
        # The faults are the schedule of this test: each in its own second of a recording in real time.
        for fault in (stage.proxy.reset, stage.proxy.stall, stage.proxy.blackhole, stage.proxy.refuse):
            await asyncio.sleep(1.0)
            assert not places(command_lines())
            fault()
        stage.proxy.reset()
        await stage.kill_receiver()
        await asyncio.sleep(1.5)
        await stage.start_receiver()
        await stage.proxy.admit()
        assert await child.wait(90) == 0, child.tail()
        assert any("DEBUG" in line for line in child.stderr), "the libraries did not log"
        assert last_json(child)["delivered"] == source.frames
        assert_clean(stage, child)


async def test_when_the_server_refuses_it(tmp_path: Path) -> None:
    wrong = "Wr/ong+" + TOKEN
    source = Source("secrets", 16000)
    source.write(tmp_path / "source.wav")
    settings = Settings(config=SETTINGS, edge_record=CHATTY, edge_receive=CHATTY)
    async with Stage(tmp_path, settings, token=TOKEN) as stage:
        stage.token_file.write_text(wrong)
        child = await stage.start_recorder(f"wav:{tmp_path / 'source.wav'}", "--json")
        assert await child.wait(60) == 5, child.tail()
        assert_clean(stage, child, wrong)
        assert_clean(stage, child)


async def test_when_it_stands_where_a_setting_belongs(tmp_path: Path) -> None:
    token = "9f3c51aa70e24b6d8c1f0b7e55d2a964"
    for options in (["--token-file", token], ["--server", f"http://user:{token}@127.0.0.1:1"], ["--token", token]):
        command = [*CHATTY, "record", "--source", "tone:440", "--seconds", "1", "--state", str(tmp_path), *options]
        async with Child("recorder", command) as child:
            assert await child.wait(60) == 2, child.tail()
            assert not places(told(child), token), options
