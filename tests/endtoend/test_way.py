"""`edge record` over whatever lies between: TLS with a pinned authority, a proxy, a portal that has to go first."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from edge.client import ResilientWebSocket
from edge.errors import ConfigError
from tests.adapters.hostile import RawServer, answers
from tests.adapters.wire.peers import Proxy
from tests.adapters.wire.pki import Authority, serves
from tests.cli.recorder import Recorder
from tests.client.receiver import TOKEN, ThreadedReceiver, wav
from tests.rig.process import ReservedPort

SECONDS = 2.0
FRAMES = 32000
OPTIONS = ("--source", "tone:440", "--seconds", f"{SECONDS:g}")


def configured(folder: Path, url: str, authority: Authority, proxy: str = "") -> Recorder:
    """The proxy belongs to [connection], which stands first in the recorder's configuration."""
    made = Recorder(folder, url, *OPTIONS, more=f'[server]\nca_file = "{authority.path}"\n')
    path = folder / "edge.toml"
    settings = f'proxy = "{proxy}"\nmax_reconnect_attempts = 1000\n'
    path.write_text(path.read_text().replace("[connection]\n", f"[connection]\n{settings}"))
    return made


async def test_tls_with_a_pinned_authority_through_a_proxy(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    pem = ours.issue("aia.example")
    secret = "me:hunter2"
    with ThreadedReceiver(tmp_path / "out", cert=pem, key=pem) as receiver:
        async with Proxy(authorization="Basic bWU6aHVudGVyMg==", hosts={"aia.example": "127.0.0.1"}) as proxy:
            via = proxy.url.replace("http://", f"http://{secret}@")
            async with configured(tmp_path, f"https://aia.example:{receiver.port}", ours, via) as recorder:
                found = await recorder.account(0)
            assert {line for line, _ in proxy.requests} == {f"CONNECT aia.example:{receiver.port} HTTP/1.1"}
    assert found["delivered"] == found["expected"] == FRAMES
    audio, _, _ = wav(tmp_path / "out", found["recording"])
    assert len(audio) == 2 * FRAMES
    assert not [line for line in (*recorder.stdout, *recorder.stderr) if "hunter2" in line]


async def test_a_portal_is_named_and_all_is_delivered_once_it_is_gone(tmp_path: Path) -> None:
    ours, portals = Authority(tmp_path, "ours"), Authority(tmp_path, "portals")
    pem = ours.issue("127.0.0.1")
    port = ReservedPort()
    try:
        tls = serves(portals.issue("wifi.example"))
        receiver = ThreadedReceiver(tmp_path / "out", cert=pem, key=pem)
        receiver.port = port.number
        async with configured(tmp_path, f"https://127.0.0.1:{port.number}", ours) as recorder:
            async with RawServer(answers("200 OK"), tls=tls, listener=port.listener()) as portal:
                await recorder.said("portal: something on the way answers in the server's place")
            await recorder.said("the recording has ended")
            await asyncio.to_thread(receiver.begin)
            try:
                found = await recorder.account(0)
            finally:
                await asyncio.to_thread(receiver.stop)
        assert portal.requests == []
    finally:
        port.close()
    assert found["delivered"] == found["expected"] == FRAMES
    assert any("a certificate for wifi.example, not for 127.0.0.1" in line for line in recorder.stderr)


async def test_a_missing_file_ends_it_before_anything_is_recorded(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    ours.path.unlink()
    async with configured(tmp_path, "https://127.0.0.1:1", ours) as recorder:
        assert await recorder.wait(30.0) == 2
    assert recorder.stdout == []
    assert any("server.ca_file cannot be used: No such file or directory" in line for line in recorder.stderr)


async def test_the_library_takes_the_same_settings(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    pem = ours.issue("127.0.0.1")
    with ThreadedReceiver(tmp_path / "out", cert=pem, key=pem) as receiver:
        async with Proxy() as proxy:
            url = f"https://127.0.0.1:{receiver.port}"
            ws = ResilientWebSocket(url, TOKEN, ca_file=str(ours.path), proxy=proxy.url)
            async with asyncio.timeout(30.0):
                await ws.connect("agent", "event")
                ws.send_audio(bytes(2 * FRAMES))
                found = await ws.close()
            assert proxy.requests
    assert found["delivered"] == found["expected"] == FRAMES
    with pytest.raises(ConfigError, match="ca_file"):
        ResilientWebSocket(url, TOKEN, ca_file=os.devnull + "/none")
    with pytest.raises(ConfigError, match="proxy must be"):
        ResilientWebSocket(url, TOKEN, proxy="socks5://proxy")
