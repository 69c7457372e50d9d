"""The parts of the demo, one by one."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import wave
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge.cli import demo_source
from edge.cli.demo_course import FULL, QUICK, Course
from edge.cli.demo_interruption import Interruption
from edge.cli.demo_picture import draw
from edge.cli.demo_proxy import HOST, CuttableProxy, ReservedPort
from edge.cli.demo_source import ReadCounter
from edge.cli.demo_stage import RING_S, withholding
from edge.cli.demo_story import Actor, Event, Story
from edge.core.packet import HEADER_BYTES, AudioFormat, decode_header, encode_header
from edge.runtime.happening import Happening

AUDIO = AudioFormat(16000, 1)


@pytest.fixture
def handlers() -> Iterator[None]:
    """The test runner's own, whatever an interruption leaves."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
class TestInterruption:
    def test_on_the_spot_where_nothing_is_held(self, number: signal.Signals) -> None:
        with pytest.raises(KeyboardInterrupt), Interruption():
            signal.raise_signal(number)
            pytest.fail("not on the spot")
        signal.raise_signal(number)  # on the way out: nothing happens any more

    def test_behind_what_is_held_however_often(self, number: signal.Signals) -> None:
        done: list[str] = []
        with pytest.raises(KeyboardInterrupt), Interruption() as interruption, interruption.held():
            signal.raise_signal(number)
            signal.raise_signal(number)
            done.append("given back")
        assert done == ["given back"]

    def test_only_the_task_ends(self, number: signal.Signals) -> None:
        done: list[str] = []

        async def clean_up_after_a_task(interruption: Interruption) -> None:
            task = asyncio.create_task(asyncio.Event().wait())
            interruption.ends(task)
            signal.raise_signal(number)
            await asyncio.wait([task])
            assert task.cancelled()
            signal.raise_signal(number)
            await asyncio.get_running_loop().run_in_executor(None, done.append, "given back")

        with pytest.raises(KeyboardInterrupt), Interruption() as interruption, interruption.held():
            asyncio.run(clean_up_after_a_task(interruption))
        assert done == ["given back"]

    def test_a_task_that_comes_too_late_does_not_run(self, number: signal.Signals) -> None:
        async def begin_late(interruption: Interruption) -> None:
            task = asyncio.create_task(asyncio.Event().wait())
            interruption.ends(task)
            await asyncio.wait([task])

        with pytest.raises(KeyboardInterrupt), Interruption() as interruption, interruption.held():
            signal.raise_signal(number)
            asyncio.run(begin_late(interruption))

    def test_an_error_of_a_terminal_that_is_gone_is_no_bug(self, number: signal.Signals) -> None:
        with pytest.raises(KeyboardInterrupt), Interruption() as interruption, interruption.held():
            signal.raise_signal(number)
            raise OSError
        with pytest.raises(OSError, match="of its own"), Interruption() as interruption, interruption.held():
            raise OSError("of its own")

    def test_whoever_ignores_a_signal_has_said_so(self, number: signal.Signals) -> None:
        signal.signal(number, signal.SIG_IGN)
        with Interruption() as interruption:
            signal.raise_signal(number)
        assert not interruption.has_come

    def test_what_was_there_before_is_there_again(self, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        with Interruption():
            assert signal.getsignal(number) is not before
        assert signal.getsignal(number) is before


class TestSource:
    def test_speech_then_noise_the_same_each_time(self, tmp_path: Path) -> None:
        spoken = demo_source.speech()
        assert len(spoken) > 10 * 2 * demo_source.RATE_HZ
        for name in ("one.wav", "two.wav"):
            demo_source.write(tmp_path / name, spoken, 3.0)
        assert (tmp_path / "one.wav").read_bytes() == (tmp_path / "two.wav").read_bytes()
        with wave.open(str(tmp_path / "one.wav")) as file:
            assert (file.getframerate(), file.getnchannels()) == (16000, 1)
            data = file.readframes(file.getnframes())
        assert data[: len(spoken)] == spoken
        assert len(data) == len(spoken) + 3 * 2 * 16000

    def test_noise_shows_its_place(self) -> None:
        noise = demo_source.noise(20.0)
        pieces = {noise[at : at + 32] for at in range(0, len(noise), 32)}
        assert len(pieces) == len(noise) // 32

    def test_tone_where_there_is_no_speech(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edge.__file__", str(tmp_path / "edge" / "__init__.py"))
        assert demo_source.speech() == b""
        assert len(demo_source.tone(2.0)) == 2 * 2 * 16000

    def test_the_kernel_counts_what_was_read(self, tmp_path: Path) -> None:
        path = tmp_path / "source.wav"
        demo_source.write(path, b"", 1.0)
        descriptor = os.open(path, os.O_RDONLY)
        os.lseek(descriptor, 44, os.SEEK_SET)
        counter = ReadCounter(path)
        assert counter.frames() == 0
        assert len(os.read(descriptor, 3200)) == 3200
        os.close(descriptor)
        assert counter.frames() == 1600
        counter.close()
        with pytest.raises(FileNotFoundError):
            ReadCounter(path)


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[CuttableProxy, int]]:
    """A proxy before a server that sends back what it gets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, HOST, 0) as server:
        proxy = CuttableProxy(server.sockets[0].getsockname()[1])
        await proxy.mend()
        try:
            yield proxy, int(proxy.url.rpartition(":")[2])
        finally:
            await proxy.close()


class TestProxy:
    async def test_passes_bytes_and_ends_on(self) -> None:
        async with asyncio.timeout(10), echo() as (_, port):
            reader, writer = await asyncio.open_connection(HOST, port)
            data = random.Random(1).randbytes(1 << 20)
            writer.write(data)
            writer.write_eof()
            assert await reader.read(-1) == data
            writer.close()

    async def test_a_cut_resets_and_refuses_until_it_is_mended(self) -> None:
        async with asyncio.timeout(10), echo() as (proxy, port):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(b"one")
            assert await reader.read(10) == b"one"
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                await reader.read(10)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, port)
            await proxy.mend()
            reader, again = await asyncio.open_connection(HOST, port)
            again.write(b"two")
            assert await reader.read(10) == b"two"
            again.close()
            writer.close()

    async def test_a_dead_target_resets(self) -> None:
        reserved = ReservedPort()
        proxy = CuttableProxy(reserved.number)
        await proxy.mend()
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(HOST, int(proxy.url.rpartition(":")[2]))
            with pytest.raises(ConnectionResetError):
                await reader.read(10)
        writer.close()
        await proxy.close()
        reserved.close()


class TestSabotage:
    def test_one_packet_goes_out_almost_empty(self) -> None:
        def wire(seq: int) -> bytes:
            return encode_header(seq, 1000.0 * seq, 1600, AUDIO) + random.Random(seq).randbytes(3200)

        thinned = withholding(wire, AUDIO, 7)
        assert thinned(6) == wire(6)
        assert thinned(8) == wire(8)
        thin = thinned(7)
        assert thin is not None
        header = decode_header(thin)  # which the receiver accepts
        assert (header.seq, header.frames, header.captured_unix_ms) == (7, 1, 7000.0)
        assert thin[HEADER_BYTES:] == wire(7)[HEADER_BYTES:][:2]


class TestStory:
    def test_a_loss_is_told_once_until_the_connection_is_back(self) -> None:
        told: list[Event] = []
        story = Story(told.append)
        for kind, text in (
            ("lost", "the connection was lost"),
            ("lost", "the connection was lost"),
            ("lost", "the server cannot be reached (refused)"),
            ("connected", "connected"),
            ("lost", "the connection was lost"),
            ("woken", "trying now"),
            ("state", "never shown"),
        ):
            story.tell(Happening(kind, text))
        assert [event.text for event in told] == ["the connection was lost", "the connection was lost", "trying now"]
        assert story.events == told

    def test_outages(self) -> None:
        story = Story()
        seen = [story.is_cut]
        story.outage("cut")
        seen.append(story.is_cut)
        story.outage_ends()
        story.outage_ends()
        seen.append(story.is_cut)
        assert seen == [False, True, False]
        assert len(story.outages) == 1

    @pytest.mark.parametrize("is_empty", [True, False])
    def test_a_picture_of_anything(self, tmp_path: Path, is_empty: bool) -> None:
        story = Story()
        if not is_empty:
            story.say(Actor.BUTTON, "RECORD is pressed")
            story.sample(0.0, 0.0, "")
            story.outage("cut")
            story.sample(1.0, 0.5, "abc")
        draw(tmp_path / "timeline.png", story, "a title")
        assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("course", [FULL, QUICK])
def test_the_times_of_a_course_show_what_they_should(course: Course) -> None:
    receiver_grace_s = course.grace_s * 130 / 120  # PROTOCOL.md, trap 3
    attempts_s = [course.first_delay_s * (2**number - 1) for number in range(1, 5)]
    back_s = min(at for at in attempts_s if at * 0.9 > course.cut_s) * 1.1
    assert back_s < receiver_grace_s < course.outage_s
    assert course.outage_s + 5 < RING_S
    assert course.total_s < 75
