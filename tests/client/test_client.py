"""ResilientWebSocket against a receiver in the same loop: audio in, events out, and nothing lost in between."""

from __future__ import annotations

import array
import asyncio
import json
import socket
import threading
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge import ResilientWebSocket
from edge.adapters.wav import ToneSource
from edge.client import EVENTS, Options, read_options
from edge.core.packet import AudioFormat, decode_header
from edge.errors import ConfigError, EdgeError, InternalError, MicrophoneError, ServerRefused, TokenRefused, Unreachable
from edge.receiver.config import ReceiverConfig
from edge.receiver.recovery import wire_packets
from edge.receiver.server import Receiver
from tests.client.receiver import TOKEN, wav
from tests.rig.process import ReservedPort
from tests.runtime.fakes import FedSource, pattern

BOUND_S = 20.0
QUICK = {"initial_reconnect_delay": 0.02, "max_reconnect_delay": 0.05, "connection_timeout": 2.0}


@asynccontextmanager
async def receiving(folder: Path, port: int = 0, **options: Any) -> AsyncIterator[Receiver]:
    async with Receiver(ReceiverConfig(folder, TOKEN, port=port, **options)) as receiver:
        yield receiver


class Log:
    """All events of one client, in order."""

    def __init__(self, ws: ResilientWebSocket) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._news = asyncio.Event()
        for event in EVENTS:
            ws.on(event, self._listener(event))

    def _listener(self, event: str) -> Callable[..., None]:
        def listen(*arguments: Any) -> None:
            self.events.append((event, *arguments))
            self._news.set()

        return listen

    def of(self, event: str) -> list[tuple[Any, ...]]:
        return [entry[1:] for entry in self.events if entry[0] == event]

    async def until(self, event: str, count: int = 1) -> Any:
        """Wait for the event, and return what it came with."""
        async with asyncio.timeout(BOUND_S):
            while len(self.of(event)) < count:
                self._news.clear()
                await self._news.wait()
        return self.of(event)[count - 1]


def client(url: str, token: Any = TOKEN, **options: Any) -> ResilientWebSocket:
    return ResilientWebSocket(url, token, **(QUICK | options))


@pytest.fixture
def port() -> Iterator[ReservedPort]:
    """A port at which nobody listens until a test does."""
    reserved = ReservedPort()
    yield reserved
    reserved.close()


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def heard(folder: Path) -> bytes:
    """The one recording that is stored."""
    [recording] = [path for path in folder.iterdir() if path.is_dir()]
    return wav(folder, recording.name)[0]


# --- audio -----------------------------------------------------------------------------------------------------------


async def test_what_is_sent_arrives_frame_for_frame(tmp_path: Path) -> None:
    given = pattern(0, 50_001)
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        log = Log(ws)
        await ws.connect("agent", "event")
        position = 0
        for size in (2, 640, 3200, 31998, 64000):
            assert ws.send_audio(given[position : position + size]) == size // 2
            position += size
        assert ws.send_audio(memoryview(given)[position:]) == (len(given) - position) // 2
        assert ws.send_audio(b"") == 0
        account = await ws.close()
        assert (account["expected"], account["delivered"], account["pending"]) == (50_001, 50_001, 0)
        assert account["lost"] == {}
        assert log.of("statusChanged") == [
            ("connecting", "disconnected"), ("connected", "connecting"), ("disconnected", "connected"),
        ]  # fmt: skip
        assert [event for event, *_ in log.events if event not in ("statusChanged", "error")] == ["open", "close"]
        assert log.of("close") == [(account,)]
    assert heard(tmp_path) == given


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: memoryview(array.array("h", data))])
async def test_any_kind_of_bytes_is_taken_and_may_be_reused_at_once(
    kind: Callable[[bytes], Any], tmp_path: Path
) -> None:
    given = pattern(0, 1600)
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        await ws.connect("agent", "event")
        buffer = kind(given)
        assert ws.send_audio(buffer) == 1600
        if isinstance(buffer, bytearray):
            buffer[:] = bytes(len(buffer))
        await ws.close()
    assert heard(tmp_path) == given


async def test_audio_needs_a_connection_and_whole_frames(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url, channels=2)
        with pytest.raises(ConfigError, match="call connect first"):
            ws.send_audio(bytes(4))
        await ws.connect("agent", "event")
        for size in (1, 2, 3, 5, 6, 7):
            with pytest.raises(ConfigError, match="no whole number of 4-byte frames"):
                ws.send_audio(bytes(size))
        with pytest.raises(ConfigError, match="no time"):
            ws.send_audio(bytes(4), float("nan"))
        assert ws.send_audio(bytes(8)) == 2
        account = await ws.close()
        assert account["expected"] == 2
        with pytest.raises(ConfigError, match="call connect first"):
            ws.send_audio(bytes(4))


async def test_audio_during_close_is_refused_and_not_swallowed(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        await ws.connect("agent", "event")
        ws.send_audio(pattern(0, 100))
        closing = asyncio.create_task(ws.close())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(ConfigError):
            ws.send_audio(pattern(0, 100))
        with pytest.raises(ConfigError):
            ws.start_audio_capture()
        assert (await closing)["delivered"] == 100


async def test_a_full_memory_refuses_exactly_what_does_not_fit_and_counts_it(nobody: str) -> None:
    ws = client(nobody, ring_seconds=6.0, segment_target_ms=1000, max_reconnect_attempts=1, drain_timeout=0.01)
    log = Log(ws)
    with pytest.raises(Unreachable):
        await ws.connect("agent", "event")
    accepted = [ws.send_audio(pattern(0, 16001)) for _ in range(7)]
    assert accepted == [16001, 16001, 16001, 16001, 16001, 15995, 0]
    account = await ws.close()
    assert account["expected"] == 7 * 16001
    assert account["pending"] == 96_000
    assert account["lost"] == {"overflow": 7 * 16001 - 96_000}
    assert any("full" in str(error) or "overflow" in str(error) for (error,) in log.of("error"))


async def test_what_was_accepted_is_never_refused_later(tmp_path: Path) -> None:
    """Whatever the thread in between is doing: the sum of what was accepted is what is captured."""
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url, ring_seconds=6.0, segment_target_ms=1000)
        await ws.connect("agent", "event")
        accepted, given = 0, b""
        for number in range(400):
            data = pattern(number, 1000)
            taken = ws.send_audio(data)
            accepted += taken
            given += data[: 2 * taken]
            if number % 7 == 0:
                await asyncio.sleep(0)
        account = await ws.close()
        assert account["expected"] == 400_000
        assert account["delivered"] == accepted == account["expected"] - account["lost"].get("overflow", 0)


async def test_a_stamp_is_the_capture_time_of_the_first_frame(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        await ws.connect("agent", "event")
        stamp = 1_700_000_000_000.0
        ws.send_audio(pattern(0, 1600), stamp)
        account = await ws.close()
        assert account["delivered"] == 1600
    [packet] = wire_packets(tmp_path / account["recording"])
    assert decode_header(packet).captured_unix_ms == pytest.approx(stamp, abs=20.0)


# --- the connection --------------------------------------------------------------------------------------------------


async def test_a_lost_connection_comes_back_and_nothing_is_lost(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        log = Log(ws)
        await ws.connect("agent", "event")
        ws.send_audio(pattern(0, 16000))
        assert receiver.drop_sockets() == 1
        await log.until("reconnected")
        ws.send_audio(pattern(16000, 16000))
        account = await ws.close()
        assert account["delivered"] == 32000
        assert account["reconnects"] == 1
        assert len(log.of("open")) == 1
        changes = [new for new, _ in log.of("statusChanged")]
        assert changes == ["connecting", "connected", "reconnecting", "connected", "disconnected"]
    assert heard(tmp_path) == pattern(0, 32000)


async def test_nobody_there_raises_unreachable_and_audio_is_kept_until_somebody_is(
    tmp_path: Path, port: ReservedPort
) -> None:
    ws = client(f"http://127.0.0.1:{port.number}", max_reconnect_attempts=3)
    log = Log(ws)
    with pytest.raises(Unreachable, match="3 attempts"):
        await ws.connect("agent", "event")
    assert [attempt for (attempt,) in log.of("reconnecting")] == [2, 3, 4]
    [failure] = await log.until("connectionFailed")
    assert isinstance(failure, Unreachable)
    assert ws.get_status()["state"] == "failed"
    assert "3 attempts" in ws.get_status()["failure"]
    assert ws.send_audio(pattern(0, 16000)) == 16000
    async with receiving(tmp_path, port.number):
        ws.network_changed()
        await log.until("open")
        account = await ws.close()
    assert log.of("networkChanged") == [()]
    assert account["delivered"] == 16000
    assert heard(tmp_path) == pattern(0, 16000)


async def test_a_wrong_token_raises_refused_and_says_so(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url, "wrong-token")
        log = Log(ws)
        with pytest.raises(TokenRefused, match=r"refused the token.*check auth_token") as caught:
            await ws.connect("agent", "event")
        assert "wrong-token" not in str(caught.value)
        assert isinstance(log.of("connectionFailed")[0][0], ServerRefused)
        ws.send_audio(pattern(0, 100))
        account = await ws.close()  # at once: waiting would change nothing
        assert account["pending"] == 100


async def test_a_token_may_be_a_function_and_is_asked_each_time(tmp_path: Path) -> None:
    tokens = iter(["wrong", "wrong"])
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url, lambda: next(tokens, TOKEN))
        log = Log(ws)
        with pytest.raises(ServerRefused):
            await ws.connect("agent", "event")
        next(tokens, None)
        ws.network_changed()
        await log.until("open")
        await ws.close()


async def test_a_token_may_come_from_an_async_function_and_expire(tmp_path: Path) -> None:
    asked: list[str] = []
    valid = TOKEN

    async def token() -> str:
        await asyncio.sleep(0.01)  # over a network, say
        asked.append(valid)
        return valid

    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url, token)
        log = Log(ws)
        await ws.connect("agent", "event")
        ws.send_audio(pattern(0, 16000))
        for number in (1, 2):
            valid = f"token-{number}"
            receiver._face._token = valid.encode()
            assert receiver.drop_sockets() == 1
            await log.until("reconnected", number)
            ws.send_audio(pattern(16000 * number, 16000))
        account = await ws.close()
        assert account["delivered"] == 48000
        assert account["reconnects"] == 2
        assert "failed" not in [new for new, _ in log.of("statusChanged")]
        assert not any("token" in str(error) for (error,) in log.of("error"))
    assert asked == [TOKEN, "token-1", "token-2"]
    assert heard(tmp_path) == pattern(0, 48000)


async def test_an_expired_token_is_renewed_within_the_attempt_that_it_fails(tmp_path: Path) -> None:
    """The function is a moment late: what it says before the attempt is refused, what it says then is not."""
    tokens = iter([TOKEN, TOKEN])
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url, lambda: next(tokens, "token-2"))
        log = Log(ws)
        await ws.connect("agent", "event")
        receiver._face._token = b"token-2"
        receiver.drop_sockets()
        await log.until("reconnected")
        await ws.close()
        assert "failed" not in [new for new, _ in log.of("statusChanged")]
        assert log.of("connectionFailed") == []


async def test_a_token_function_that_raises_is_one_failed_attempt(tmp_path: Path) -> None:
    faults = iter([KeyError("no token"), RuntimeError("still none")])

    def token() -> str:
        for fault in faults:
            raise fault
        return TOKEN

    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url, token)
        await ws.connect("agent", "event")
        ws.send_audio(pattern(0, 10))
        assert (await ws.close())["delivered"] == 10


@pytest.mark.parametrize(("agent", "user"), [("", "e"), ("a", "")])
async def test_agent_and_user_have_names(agent: str, user: str) -> None:
    with pytest.raises(ConfigError, match="must not be empty"):
        await client("http://127.0.0.1:9").connect(agent, user)


async def test_connect_twice_is_refused_and_connect_after_close_is_a_new_recording(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        await ws.connect("agent", "event")
        with pytest.raises(ConfigError, match="already called"):
            await ws.connect("agent", "event")
        ws.send_audio(pattern(0, 10))
        first = await ws.close()
        await ws.connect("agent", "event")
        ws.send_audio(pattern(0, 20))
        second = await ws.close()
        assert (first["delivered"], second["delivered"]) == (10, 20)
        assert first["recording"] != second["recording"]


async def test_a_connect_that_is_given_up_can_be_closed_and_tried_again(tmp_path: Path, port: ReservedPort) -> None:
    ws = client(f"http://127.0.0.1:{port.number}", drain_timeout=0.01)
    connecting = asyncio.create_task(ws.connect("agent", "event"))
    async with asyncio.timeout(BOUND_S):
        while ws.get_status()["state"] == "disconnected":
            await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait([connecting])
    ws.send_audio(pattern(0, 10))
    assert (await ws.close())["pending"] == 10
    async with receiving(tmp_path, port.number):
        await ws.connect("agent", "event")
        await ws.close()


async def test_close_during_connect_ends_the_connect(nobody: str) -> None:
    ws = client(nobody, drain_timeout=0.01)
    connecting = asyncio.create_task(ws.connect("agent", "event"))
    async with asyncio.timeout(BOUND_S):
        while ws.get_status()["state"] == "disconnected":
            await asyncio.sleep(0)
        await ws.close()
        with pytest.raises(Unreachable, match="closed"):
            await connecting


async def test_close_twice_at_once_and_before_connect(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        log = Log(ws)
        assert await ws.close() == {}
        await ws.connect("agent", "event")
        ws.send_audio(pattern(0, 10))
        one, two = await asyncio.gather(ws.close(), ws.close())
        three = await ws.close()
        assert one == two == three
        assert one["delivered"] == 10
        assert len(log.of("close")) == 1


async def test_a_cancelled_close_goes_on(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        await ws.connect("agent", "event")
        ws.send_audio(pattern(0, 10))
        closing = asyncio.create_task(ws.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert (await ws.close())["delivered"] == 10


async def test_status_tells_state_and_account(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        assert ws.get_status() == {"state": "disconnected", "failure": "", "account": None}
        await ws.connect("agent", "event")
        status = ws.get_status()
        assert status["state"] == "connected"
        assert status["account"]["unit"] == "frames"
        assert json.dumps(status)
        await ws.close()
        assert ws.get_status()["state"] == "disconnected"


async def test_sessions_name_agent_event_and_recording(tmp_path: Path) -> None:
    async with receiving(tmp_path, agents=frozenset({"known"})) as receiver:
        ws = client(receiver.url)
        with pytest.raises(ServerRefused, match="unknown agent"):
            await ws.connect("unknown", "event")
        await ws.close()
        await ws.connect("known", "event")
        await ws.close()


# --- events ----------------------------------------------------------------------------------------------------------


async def test_the_event_names_are_the_web_clients() -> None:
    assert set(EVENTS) == {
        "open", "close", "message", "error", "reconnecting", "reconnected", "connectionFailed", "statusChanged",
        "networkChanged",
    }  # fmt: skip
    ws = client("http://127.0.0.1:9")
    for register in (ws.on, ws.off):
        with pytest.raises(ConfigError, match="is no event"):
            register("opened", print)
    ws.off("open", print)


async def test_what_the_server_says_beside_the_protocol_is_a_message(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        log = Log(ws)
        await ws.connect("agent", "event")
        [served] = receiver._face.sockets
        served.send({"type": "transcript", "text": "hello"})
        assert await log.until("message") == ({"type": "transcript", "text": "hello"},)
        await ws.close()


async def test_handlers_that_raise_hurt_nobody(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        calls: list[str] = []

        def sync_fails(*arguments: Any) -> None:
            calls.append("sync")
            raise ZeroDivisionError("sync")

        async def async_fails(*arguments: Any) -> None:
            calls.append("async")
            raise ZeroDivisionError("async")

        def error_fails(error: Exception) -> None:
            calls.append(f"error {error}")
            raise ZeroDivisionError("error")

        ws.on("statusChanged", sync_fails)
        ws.on("statusChanged", async_fails)
        ws.on("error", error_fails)
        await ws.connect("agent", "event")
        ws.send_audio(pattern(0, 10))
        assert (await ws.close())["delivered"] == 10
        assert calls.count("sync") == calls.count("async") == 3
        assert calls.count("error sync") == calls.count("error async") == 3


async def test_async_handlers_are_waited_for_at_the_end(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        seen: list[str] = []

        async def slow(account: dict[str, Any]) -> None:
            await asyncio.sleep(0.05)
            seen.append(account["recording"])

        ws.on("close", slow)
        await ws.connect("agent", "event")
        account = await ws.close()
        assert seen == [account["recording"]]


async def test_a_handler_may_close_and_wait_for_it(nobody: str) -> None:
    """What a program does on connectionFailed, more often than not."""
    ws = client(nobody, max_reconnect_attempts=1, drain_timeout=0.01, connection_timeout=60.0)
    accounts: list[dict[str, Any]] = []

    async def give_up(error: EdgeError) -> None:
        accounts.append(await ws.close())

    ws.on("connectionFailed", give_up)
    with pytest.raises(Unreachable):
        await ws.connect("agent", "event")
    async with asyncio.timeout(BOUND_S):
        await ws.close()
        while not accounts:
            await asyncio.sleep(0)
    assert accounts[0]["expected"] == 0


async def test_a_handler_that_was_taken_off_during_the_event(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        seen: list[str] = []

        def once(new: str, old: str) -> None:
            seen.append(new)
            ws.off("statusChanged", once)

        ws.on("statusChanged", once)
        await ws.connect("agent", "event")
        await ws.close()
        assert seen == ["connecting"]


# --- capture ---------------------------------------------------------------------------------------------------------


async def test_a_files_audio_goes_through_the_same_connection(tmp_path: Path) -> None:
    path = tmp_path / "in.wav"
    given = pattern(0, 4800)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(given)
    async with receiving(tmp_path / "out") as receiver:
        ws = client(receiver.url, source=f"wav:{path}")
        with pytest.raises(ConfigError, match="call connect first"):
            ws.start_audio_capture()
        await ws.connect("agent", "event")
        ws.start_audio_capture()
        with pytest.raises(ConfigError, match="capture is running"):
            ws.start_audio_capture()
        async with asyncio.timeout(BOUND_S):
            while ws.get_status()["account"]["expected"] < 4800:
                await asyncio.sleep(0.005)
        account = await ws.close()
        assert account["delivered"] == 4800
    assert heard(tmp_path / "out") == given


async def test_capture_stops_and_starts_again(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url, source="tone:440")
        await ws.connect("agent", "event")
        for round_ in range(2):
            before = ws.get_status()["account"]["expected"]
            ws.start_audio_capture()
            async with asyncio.timeout(BOUND_S):
                while ws.get_status()["account"]["expected"] < before + 1600:
                    await asyncio.sleep(0.005)
            await ws.stop_audio_capture()
            await ws.stop_audio_capture()
            assert round_ in (0, 1)
        account = await ws.close()
        assert account["delivered"] == account["expected"] >= 3200
    tone = ToneSource("440", AudioFormat(16000, 1), "fast", 1600)
    tone.open()
    assert heard(tmp_path)[:3200] == bytes(tone.read().data)


@pytest.mark.parametrize(
    ("failure", "kind"), [(MicrophoneError("unplugged"), MicrophoneError), (KeyError("bug"), InternalError)]
)
async def test_a_microphone_that_fails_is_an_error_event_and_can_be_tried_again(
    failure: Exception, kind: type[EdgeError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [FedSource(), FedSource()]
    left = iter(sources)
    monkeypatch.setattr("edge.client.open_source", lambda *arguments: next(left))
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url)
        log = Log(ws)
        await ws.connect("agent", "event")
        first = sources[0].give(1000)
        sources[0].fail(failure)
        ws.start_audio_capture()
        [error] = await log.until("error")
        assert isinstance(error, kind)
        async with asyncio.timeout(BOUND_S):
            while any(thread.name == "feed" for thread in threading.enumerate()):
                await asyncio.sleep(0.001)
        ws.start_audio_capture()
        second = sources[1].give(500, lost=7, cause="xrun")
        sources[1].finish()
        async with asyncio.timeout(BOUND_S):
            while ws.get_status()["account"]["expected"] < 1507:
                await asyncio.sleep(0.001)
        account = await ws.close()
        assert account["lost"] == {"xrun": 7}
    assert heard(tmp_path) == first + bytes(14) + second


async def test_close_ends_a_capture(tmp_path: Path) -> None:
    async with receiving(tmp_path) as receiver:
        ws = client(receiver.url, source="tone:440")
        await ws.connect("agent", "event")
        ws.start_audio_capture()
        account = await ws.close()
        assert account["delivered"] == account["expected"]
        assert not any(thread.name in ("feed", "capture") for thread in threading.enumerate())


# --- options ---------------------------------------------------------------------------------------------------------


def test_the_web_clients_options_are_milliseconds() -> None:
    web = {
        "maxReconnectAttempts": 4, "initialReconnectDelay": 500, "maxReconnectDelay": 8000, "graceWindowMs": 60_000,
        "heartbeatIntervalMs": 15_000, "connectionTimeoutMs": 2500,
    }  # fmt: skip
    ours = Options(4, 0.5, 8.0, 60.0, 15.0, 2.5)
    assert read_options(web) == ours
    names = (
        "max_reconnect_attempts", "initial_reconnect_delay", "max_reconnect_delay", "grace_window",
        "heartbeat_interval", "connection_timeout",
    )  # fmt: skip
    assert read_options(dict(zip(names, (4, 0.5, 8.0, 60.0, 15.0, 2.5), strict=True))) == ours
    assert read_options({}) == Options()


@pytest.mark.parametrize(
    "options",
    [
        {"maxReconnectAttempt": 1}, {"grace_window": 0}, {"grace_window": -1}, {"grace_window": "60"},
        {"grace_window": True}, {"grace_window": None}, {"graceWindowMs": float("nan")},
        {"graceWindowMs": float("inf")},
        {"graceWindowMs": 1000, "grace_window": 1}, {"maxReconnectAttempts": 2.5}, {"max_reconnect_attempts": 0},
        {"rate": 0}, {"rate": 16000.5}, {"rate": 10**9}, {"channels": 0}, {"channels": 99}, {"packet_ms": 1},
        {"packet_ms": 1000}, {"rate": 11025, "packet_ms": 25}, {"segment_target_ms": 500}, {"ring_seconds": 0.1},
        {"ring_seconds": 80_000, "rate": 192_000}, {"source": 7}, {"source": "radio:1"}, {"drain_timeout": 0},
        {"initial_reconnect_delay": 9, "max_reconnect_delay": 1}, {"allow_insecure": 1},
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        ResilientWebSocket("http://127.0.0.1:9", TOKEN, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1", "ws://127.0.0.1", "http://user:pass@127.0.0.1", "http://127.0.0.1/path", "http://[::1"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url"):
        ResilientWebSocket(url, TOKEN)


def test_a_readable_way_beyond_this_machine_has_to_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="readable"):
        ResilientWebSocket("http://example.org", TOKEN)
    ResilientWebSocket("http://example.org", TOKEN, allow_insecure=True)
    ResilientWebSocket("https://example.org", TOKEN)
    ResilientWebSocket("http://[::1]:8765", TOKEN)


def test_the_token_is_in_no_repr() -> None:
    ws = ResilientWebSocket("http://127.0.0.1:9", TOKEN)
    assert TOKEN not in repr(ws)
    assert TOKEN not in repr(vars(ws))
