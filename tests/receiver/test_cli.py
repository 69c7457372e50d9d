"""`edge receive` as a person meets it, and its secrets."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest

from edge.cli.main import main
from edge.receiver.config import ReceiverConfig, StrictConfig
from edge.receiver.server import Receiver
from tests.receiver.client import TOKEN, Client, serving
from tests.receiver.process import ROOT, receiving


def edge(*options: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "edge", "receive", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "give --token-file"),
        (["--port", "99999"], "--port"),
        (["--grace", "-1"], "--grace"),
        (["--cert", "x"], "--cert and --key come together"),
        (["--token-file", "/nowhere/token"], "No such file"),
        (["--transcribe-seconds", "0:7"], "needs --strict-aia"),
        (["--strict-aia", "--transcribe-seconds", "7:x"], "such as 0:7"),
        (["--host", "no such host"], "give --token-file"),
        (["--out", "/proc/nowhere"], "cannot be used (No such file or directory); check --out"),
        (["--out", ""], "argument --out: it is empty"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    out = [] if "--out" in options else ["--out", str(tmp_path / "out")]
    assert main(["receive", "--port", "0", *out, *options]) == 2
    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert says in said.err


def test_a_host_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    out = ["--out", str(tmp_path / "out"), "--token-file", str(tmp_path / "token")]
    code, _, stderr = edge("--port", "0", "--host", "no such host", *out)
    assert (code, len(stderr.splitlines())) == (2, 1)
    assert "cannot listen on no such host" in stderr
    code, _, stderr = edge("--port", "0", "--host", "192.0.2.1", *out)  # an address of nobody here
    assert (code, len(stderr.splitlines())) == (2, 1)
    assert "cannot listen on 192.0.2.1" in stderr
    assert "give another with --host" in stderr


def test_an_empty_token_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    code, _, stderr = edge("--port", "0", "--out", str(tmp_path / "out"), "--token-file", str(tmp_path / "token"))
    assert (code, "does not hold one token" in stderr) == (2, True)


def test_help_is_short() -> None:
    code, stdout, _ = edge("--help")
    assert code == 0
    assert len(stdout.splitlines()) < 40


async def test_it_listens_and_ends_in_order(tmp_path: Path) -> None:
    async with receiving(tmp_path / "out") as process, Client(process.url) as client:
        _, wire = await client.open()
        await wire.stream([1, 2, 3])
        await wire.acked(3)
        closing = asyncio.create_task(wire.closed())
        assert await process.end(signal.SIGTERM) == (0, "")
        assert (await closing).code == 1001


async def test_ctrl_c_is_as_good(tmp_path: Path) -> None:
    async with receiving(tmp_path / "out", "--strict-aia") as process:
        assert await process.end(signal.SIGINT) == (0, "")


async def test_one_folder_one_receiver(tmp_path: Path) -> None:
    async with receiving(tmp_path / "out"):
        code, _, stderr = await asyncio.to_thread(
            edge, "--port", "0", "--out", str(tmp_path / "out"), "--token-file", str(tmp_path / "token")
        )
        assert code == 7
        assert "in use by another receiver" in stderr


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    async with receiving(tmp_path / "out") as process:
        port = process.url.rpartition(":")[2]
        code, _, stderr = await asyncio.to_thread(edge, "--port", port, "--out", str(tmp_path / "other"))
        assert (code, len(stderr.splitlines())) == (2, 1)
        assert "in use" in stderr


async def test_on_loopback_a_token_is_made_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    tokens = []
    for _ in range(2):
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "edge", "receive", "--port", "0", "--out", str(out)],
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[-1]
        assert str(out / "token") in (await process.stdout.readline()).decode()
        path = out / "token"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        tokens.append(path.read_text().strip())
        async with Client(url, tokens[-1]) as client:
            await client.start()
        process.terminate()
        await process.communicate()
        assert process.returncode == 0
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("strict", [None, StrictConfig(transcribe=(0, 0))])
async def test_the_token_is_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, strict: StrictConfig | None
) -> None:
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "out"
    async with serving(out, strict=strict) as (receiver, client):
        session = await client.start(str(uuid4()))
        wire = await client.dial(session)
        await wire.init()
        await wire.stream([1])
        await client.stop(session)
        await wire.closed()
        wrong = await client.dial(session, token=TOKEN + "x", greet=False)
        assert (await wrong.closed()).code == 1000
        for line in (f"GET /?token={TOKEN} NONSENSE/1", f"\0{TOKEN}", f"POST /x?{TOKEN} HTTP/1.1"):
            reader, writer = await asyncio.open_connection("127.0.0.1", receiver.port)
            writer.write(line.encode() + b"\r\n\r\n")
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()
    said = [record.getMessage() + str(record.exc_info) for record in caplog.records if "websockets" not in record.name]
    assert not [line for line in said if TOKEN in line]
    files = [path for path in out.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


async def test_a_wrong_token_is_answered_as_the_real_server_does(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        session = await client.start()
        for token in ("", "x", TOKEN[:-1], TOKEN + "z"):
            client.token = token
            for path, body in (("start", {"agent": "a", "event": "e"}), ("stop", {"session_id": session})):
                code, answer = await client.post(f"/api/recording/{path}", body)
                assert (code, list(answer[0]), answer[1]) == (200, ["error"], 401)
        assert (await client.status(session))["exists"] is True


async def test_http_that_makes_no_sense(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, client):
        assert (await client.post("/api/recording/start", ["no object"]))[0] == 400
        assert (await client.post("/api/recording/start", {"agent": "a"}))[0] == 400
        assert (await client.post("/api/recording/start", {"event": "e", "recording": "../../etc"}))[0] == 400
        assert (await client.post("/api/recording/attach", {}))[0] == 404
        assert await client.get("/api/recording/status") == (200, {"is_recording": False})
        assert (await client.get("/session/..%2f..%2fetc/status"))[0] == 404
        assert {path.name for path in tmp_path.iterdir()} == {"lock"}  # noqa: ASYNC240


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_tls(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    await asyncio.to_thread(
        subprocess.run, [*make, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True
    )
    config = ReceiverConfig(tmp_path / "out", TOKEN, cert=cert, key=key)
    trusting = ssl.create_default_context(cafile=str(cert))
    async with Receiver(config) as receiver, aiohttp.ClientSession() as http:
        assert receiver.url.startswith("https://127.0.0.1:")
        headers = {"Authorization": f"Bearer {TOKEN}"}
        body = {"agent": "a", "event": "e"}
        async with http.post(receiver.url + "/api/recording/start", json=body, headers=headers, ssl=trusting) as answer:
            session = (await answer.json())["session_id"]
        url = f"{receiver.url}/ws/audio_stream/{session}?token={TOKEN}&client_id=x&resume=1"
        async with http.ws_connect(url, ssl=trusting) as wire:
            assert (await wire.receive_json())["type"] == "hello"


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    for name in ("cert", "key"):
        (tmp_path / name).write_text("nonsense")
    out = ["--port", "0", "--out", str(tmp_path / "out")]
    code, _, stderr = edge(*out, "--cert", str(tmp_path / "cert"), "--key", str(tmp_path / "key"))
    assert (code, len(stderr.splitlines())) == (2, 1)
    assert "check --cert and --key" in stderr
