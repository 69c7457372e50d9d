"""`edge spool` on real spools: made by a real `edge record`, or written record by record."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from edge.adapters import wav as wav_source
from edge.adapters.spool import CardRecording, SpoolDirectory
from edge.cli.main import main
from edge.cli.spool_export import cues
from edge.core.journal import BootEntry, EndEntry, Entry, GapEntry
from edge.core.manifest import CardState, Manifest
from edge.core.packet import AudioFormat, encode_header
from edge.core.segment import CardPacket, RecordCodec
from edge.receiver import wav as wav_header
from tests.client.receiver import TOKEN, ThreadedReceiver, wav

AUDIO = AudioFormat(16000, 1)
PACKET = 1600
CONFIG = """
[server]
url = "{url}"
token_file = "{token}"
[connection]
initial_reconnect_delay = 0.05
max_reconnect_delay = 0.2
max_reconnect_attempts = 3
connection_timeout = 2.0
[panel]
enabled = false
[spool]
keep_days = {keep_days}
mode = "{mode}"
"""


@dataclass
class Outcome:
    code: int
    out: str
    err: str


class Rig:
    """Runs commands in this process, on one state directory."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.config = folder / "edge.toml"
        self.token = folder / "token"
        self.token.write_text(TOKEN + "\n")
        self.token.chmod(0o600)
        self._capsys = capsys
        self.configure()

    def configure(self, url: str = "", keep_days: float = 0, mode: str = "always", token: str = "token") -> None:
        self.config.write_text(CONFIG.format(url=url, keep_days=keep_days, mode=mode, token=token))

    def run(self, *words: str) -> Outcome:
        self._capsys.readouterr()
        code = main([*words])
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        assert TOKEN not in out + err
        return Outcome(code, out, err)

    def spool(self, command: str, *words: str) -> Outcome:
        done = self.run("spool", command, "--state", str(self.state), *words)
        errors = [line for line in done.err.splitlines() if line.startswith("edge: ") and "note:" not in line]
        assert len(errors) <= 1
        return done

    def ls(self) -> dict[str, Any]:
        listed: dict[str, Any] = json.loads(self.spool("ls", "--json").out)
        return listed

    def deliver(self, *words: str) -> Outcome:
        return self.spool("deliver", "--config", str(self.config), *words)

    def record(self, name: str, seconds: int = 3) -> tuple[str, bytes]:
        """A recording of noise; its id and its samples."""
        path = self.folder / f"{name}.wav"
        samples = random.Random(name).randbytes(2 * 16000 * seconds)
        with wave.open(str(path), "wb") as file:
            file.setframerate(16000)
            file.setnchannels(1)
            file.setsampwidth(2)
            file.writeframes(samples)
        done = self.run(
            "record", "--config", str(self.config), "--state", str(self.state), "--source", f"wav:{path}",
            "--pace", "fast", "--json",
        )  # fmt: skip
        assert done.code == 0, done.err
        return str(json.loads(done.out)["recording"]), samples

    def exported(self, recording: str, name: str = "out.wav") -> bytes:
        path = self.folder / name
        path.unlink(missing_ok=True)
        done = self.spool("export", recording, str(path))
        assert done.code in (0, 4), done.err
        return samples_of(path)


@pytest.fixture
def rig(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Rig:
    return Rig(tmp_path, capsys)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[ThreadedReceiver]:
    with ThreadedReceiver(tmp_path / "received", agents=frozenset({"edge"})) as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def nobody() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def samples_of(path: Path) -> bytes:
    with path.open("rb") as file:
        layout = wav_source.parse_wav(file, path.stat().st_size)
        assert layout.notes == ()
        file.seek(layout.offset)
        return file.read(layout.frames * layout.audio.frame_bytes)


# --- written record by record ----------------------------------------------------------------------------------------

IDS = [str(UUID(int=number << 96)) for number in range(0x1000_0000, 0x1000_0100)]


def a_spool(state: Path, segment_bytes: int = 4096 + 10 * 3268) -> SpoolDirectory:
    state.mkdir(exist_ok=True)
    spool = SpoolDirectory(state / "spool", 1 << 30, segment_bytes=segment_bytes, ballast_bytes=0)
    spool.prepare()
    return spool


def begun(spool: SpoolDirectory, recording: str = IDS[0], *, trusted: bool = True, **more: Any) -> CardRecording:
    settings = {"agent": "edge", "event": "e", "recording": recording}
    meta = Manifest(recording, "device", "mic", "", AUDIO, PACKET, settings, number=spool.next_number())
    return spool.create(replace(meta, **more), [BootEntry(0, "boot-a", 1_790_000_000.0, trusted)])


class Writer:
    """Writes what a recorder would."""

    def __init__(self, card: CardRecording) -> None:
        self.card = card
        self.position = self.offset = 0
        self.seq = 1
        self.samples = b""

    def audio(self, frames: int) -> Writer:
        while frames:
            count = min(frames, PACKET)
            data = random.Random(self.seq).randbytes(2 * count)
            wire = encode_header(self.seq, 1.0, count, AUDIO) + data
            boot_us = 1_000_000_000 + self.position * 1_000_000 // 16000
            self.card.append([CardPacket(wire, self.position, boot_us)], [self.offset])
            self.position, self.offset, self.seq = self.position + count, self.offset + count, self.seq + 1
            self.samples += data
            frames -= count
        return self

    def gap(self, frames: int, cause: str) -> Writer:
        self.card.note([GapEntry(self.seq, self.position, frames, cause)])
        self.position += frames
        self.samples += bytes(2 * frames) if frames < 1 << 24 else b""
        return self

    def note(self, *entries: Entry) -> Writer:
        self.card.note(entries)
        return self

    def end(self, by: str = "stop") -> bytes:
        self.card.note([EndEntry(self.position, by)])
        self.card.seal(by)
        self.card.close()
        return self.samples


def spoil(card: CardRecording, seq: int) -> None:
    """One bit of a packet falls over."""
    for segment in card.segments:
        if segment.header.first_seq <= seq <= segment.last_seq:
            with segment.path.open("r+b") as file:
                file.seek(segment.header.place(seq) + 500)
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte ^ 1]))


# --- without a server ------------------------------------------------------------------------------------------------


def test_without_a_server_all_stays_on_the_card_until_there_is_one(rig: Rig, receiver: ThreadedReceiver) -> None:
    first, first_samples = rig.record("first")
    second, second_samples = rig.record("second")
    listed = rig.ls()["recordings"]
    assert [item["recording"] for item in listed] == [first, second]
    assert {item["state"] for item in listed} == {"sealed"}
    assert [item["owed_seconds"] for item in listed] == [3.0, 3.0]
    assert rig.exported(first) == first_samples
    assert rig.spool("verify").code == 0
    assert "no server is configured" in rig.deliver().err

    rig.configure(receiver.url)
    done = rig.deliver()
    assert (done.code, "nothing is owed any more" in done.err) == (0, True)
    assert rig.ls() == {"recordings": [], "damaged": []}
    receiver.stop()
    assert wav(receiver.out, first)[0] == first_samples
    assert wav(receiver.out, second)[0] == second_samples


def test_the_next_recording_delivers_it_as_well(rig: Rig, receiver: ThreadedReceiver) -> None:
    first, first_samples = rig.record("first")
    rig.configure(receiver.url)
    rig.record("second")
    assert rig.ls()["recordings"] == []
    receiver.stop()
    assert wav(receiver.out, first)[0] == first_samples


def test_a_plain_recorder_says_so(rig: Rig) -> None:
    path = str(rig.state)
    done = rig.run("record", "--config", str(rig.config), "--state", path, "--source", "tone:440", "--pace", "fast",
                   "--seconds", "1")  # fmt: skip
    assert done.code == 0
    assert "no server is configured: kept on the card" in done.err
    assert "nothing is delivered, everything is kept on the card" in rig.run("check-config", str(rig.config)).err


def test_no_server_and_no_card_is_an_error(rig: Rig) -> None:
    rig.configure(mode="ram")
    done = rig.run("check-config", str(rig.config))
    assert done.code == 2
    assert "spool.mode" in done.err


def test_an_empty_option_is_no_way_to_say_it(rig: Rig) -> None:
    done = rig.run("record", "--server", "", "--state", str(rig.state))
    assert done.code == 2
    assert not rig.state.exists()


# --- deliver, resend -------------------------------------------------------------------------------------------------


def test_deliver_is_3_where_something_is_left_5_where_it_is_refused_0_where_nothing_is(
    rig: Rig, receiver: ThreadedReceiver, nobody: str
) -> None:
    rig.record("x")
    rig.configure(nobody)
    done = rig.deliver("--drain-timeout", "0.3")
    assert (done.code, "3.0 s are still owed" in done.err) == (3, True)
    wrong = rig.folder / "wrong"
    wrong.write_text("another-token\n")
    wrong.chmod(0o600)
    rig.configure(receiver.url, token="wrong")
    assert rig.deliver().code == 5
    rig.configure(receiver.url)
    assert rig.deliver().code == 0
    done = rig.deliver()
    assert (done.code, "nothing is owed" in done.err) == (0, True)


def test_deliver_needs_no_microphone(rig: Rig, receiver: ThreadedReceiver) -> None:
    rig.record("x")
    rig.configure(receiver.url)
    with rig.config.open("a") as file:
        file.write('[audio]\nsource = "alsa:no-such-card"\nfallback = "alsa:nor-this"\n')
    assert rig.deliver().code == 0


def test_deliver_says_what_is_lost(rig: Rig, receiver: ThreadedReceiver) -> None:
    rig.state.mkdir()
    card = begun(spool := a_spool(rig.state))
    Writer(card).audio(30 * PACKET).end()
    spoil(spool.load(card.folder)[0], 7)
    rig.configure(receiver.url)
    done = rig.deliver()
    assert (done.code, "0.1 s could not be read any more" in done.err) == (4, True)


def test_a_kept_recording_is_sent_again_as_a_new_one(rig: Rig, receiver: ThreadedReceiver) -> None:
    rig.configure(receiver.url, keep_days=7)
    first, samples = rig.record("x")
    assert [(item["recording"], item["state"]) for item in rig.ls()["recordings"]] == [(first, "delivered")]
    done = rig.spool("resend", first[:6], "--config", str(rig.config))
    assert done.code == 0, done.err
    old, new = rig.ls()["recordings"]
    assert (old["recording"], new["predecessor"], new["state"]) == (first, first, "sealed")
    assert (new["seconds"], new["owed_seconds"]) == (3.0, 3.0)
    assert new["began_unix_s"] == pytest.approx(old["began_unix_s"], abs=0.001)
    assert rig.deliver().code == 0
    receiver.stop()
    assert wav(receiver.out, first)[0] == samples
    assert wav(receiver.out, new["recording"])[0] == samples


def test_gaps_are_sent_again_as_well(rig: Rig) -> None:
    card = begun(a_spool(rig.state))
    samples = Writer(card).audio(2000).gap(700, "xrun").audio(1600 * 12).end()
    card.deliver(1.0)
    assert rig.spool("resend", "1", "--config", str(rig.config)).code == 0
    old, new = rig.ls()["recordings"]
    assert new["lost_seconds"] == old["lost_seconds"] == {"xrun": 700 / 16000}
    assert rig.exported(new["recording"]) == samples


def test_what_is_not_wholly_there_is_not_sent_again(rig: Rig) -> None:
    spool = a_spool(rig.state)
    owed, freed, bad, end = (begun(spool, IDS[number]) for number in range(4))
    for card in (owed, freed, bad, end):
        Writer(card).audio(30 * PACKET).end()
    for card in (freed, bad, end):
        card.deliver(1.0)
    spool.load(freed.folder)[0].free(10)
    spoil(spool.load(bad.folder)[0], 7)
    spool.load(end.folder)[0].segments[-1].path.unlink()
    before = sorted((rig.state / "spool" / "recordings").iterdir())
    for card, why in (
        (owed, "not delivered yet"), (freed, "given back"), (bad, "packet 7 cannot be read"),
        (end, "its end is missing"),
    ):  # fmt: skip
        done = rig.spool("resend", card.manifest.recording_id, "--config", str(rig.config))
        assert (done.code, why in done.err) == (2, True), done.err
    assert sorted((rig.state / "spool" / "recordings").iterdir()) == before


# --- ls --------------------------------------------------------------------------------------------------------------


def test_ls_tells_what_is_known(rig: Rig) -> None:
    spool = a_spool(rig.state)
    Writer(begun(spool, IDS[0])).audio(16000).gap(8000, "microphone").audio(16000).end()
    Writer(begun(spool, IDS[1], trusted=False, predecessor=IDS[0])).audio(500).end("limit")
    done = rig.spool("ls")
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0].split() == ["ID", "BEGAN", "STATE", "LENGTH", "OWED", "LOST", "ENDED", "BY", "AFTER", "ON", "CARD"]
    assert lines[1].startswith("10000000  2026-") and "0:00:02.500  2.0 s  0.5 s microphone  stop" in lines[1]
    assert "?  sealed" in lines[2] and "limit     10000000" in lines[2]
    assert lines[3].startswith("?: ")
    first, _ = rig.ls()["recordings"]
    assert first["began_unix_s"] == 1_790_001_000.0
    assert first["card_bytes"] > 64000


def test_a_recording_that_is_just_written_is_shown_and_one_that_was_cut_off(rig: Rig) -> None:
    spool = a_spool(rig.state)
    older, card = begun(spool, IDS[0]), begun(spool, IDS[1])
    Writer(older).audio(3200)
    writer = Writer(card).audio(16000)
    with (rig.state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [item["state"] for item in rig.ls()["recordings"]] == ["cut off", "recording"]
        assert rig.spool("verify").code == 0
        assert rig.exported(IDS[1]) == writer.samples
        for words in (["deliver", "--server", "http://localhost:1"], ["resend", IDS[1]], ["purge", IDS[1], "--yes"]):
            assert rig.spool(*words).code == 7
    assert [item["state"] for item in rig.ls()["recordings"]] == ["cut off", "cut off"]


def test_ls_reads_two_records_of_a_long_recording(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    card = begun(a_spool(rig.state))
    Writer(card).audio(300 * PACKET).end()
    read: list[int] = []
    decode = RecordCodec.decode

    def counted(self: RecordCodec, record: bytes | memoryview, seq: int) -> Any:
        read.append(seq)
        return decode(self, record, seq)

    monkeypatch.setattr(RecordCodec, "decode", counted)
    assert rig.ls()["recordings"][0]["seconds"] == 30.0
    assert sorted(read) == [1, 300]


def test_ls_shows_what_is_damaged_and_what_was_set_aside(rig: Rig) -> None:
    spool = a_spool(rig.state)
    good, bad, aside = (begun(spool, IDS[number]) for number in range(3))
    for card in (good, bad, aside):
        Writer(card).audio(PACKET).end()
    (bad.folder / "manifest.json").write_text("{")
    spool.set_aside(aside.folder, "for\x1b[31m\nfun")
    done = rig.spool("ls")
    assert done.code == 0
    assert f"{aside.manifest.recording_id}, 0.0 MB: for [31m fun" in done.out
    assert "\x1b" not in done.out
    listed = rig.ls()
    assert [item["recording"] for item in listed["recordings"]] == [IDS[0]]
    assert [(item["name"], item["where"]) for item in listed["damaged"]] == [
        (IDS[1], "recordings"),
        (IDS[2], "quarantine"),
    ]
    assert rig.spool("verify").code == 4


def test_short_ids_are_as_long_as_they_have_to_be(rig: Rig) -> None:
    spool = a_spool(rig.state)
    near = IDS[0][:12] + "f" + IDS[0][13:]
    for recording in (IDS[0], near):
        Writer(begun(spool, recording)).audio(PACKET).end()
    assert [line.split()[0] for line in rig.spool("ls").out.splitlines()[1:]] == [IDS[0][:13], near[:13]]
    done = rig.spool("verify", IDS[0][:12])
    assert (done.code, "may be any of 2" in done.err) == (2, True)
    assert rig.spool("verify", IDS[0][:13].upper()).code == 0


def test_nothing_on_the_card(rig: Rig) -> None:
    rig.state.mkdir()
    assert rig.spool("ls").out == "nothing is on the card\n"
    assert rig.spool("verify").code == 0
    assert list(rig.state.iterdir()) == []


def test_spool_mode_ram_leaves_no_audio_to_export(rig: Rig, nobody: str) -> None:
    card = begun(a_spool(rig.state), has_audio=False)
    card.note([EndEntry(32000, "stop")])
    card.seal("stop")
    (item,) = rig.ls()["recordings"]
    assert (item["seconds"], item["has_audio"], item["owed_seconds"]) == (2.0, False, 0.0)
    done = rig.spool("export", "1", str(rig.folder / "x.wav"))
    assert (done.code, "spool.mode was ram" in done.err) == (2, True)


# --- export ----------------------------------------------------------------------------------------------------------


def chunks(path: Path) -> dict[bytes, bytes]:
    data, found = path.read_bytes(), {}
    at = 12
    while at < len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        found[name] = data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    assert at == len(data) == struct.unpack_from("<I", data, 4)[0] + 8
    return found


def test_gaps_are_silence_with_cue_points(rig: Rig) -> None:
    card = begun(a_spool(rig.state))
    samples = Writer(card).gap(100, "microphone").audio(2000).gap(801, "xrun").audio(50000).gap(7, "overflow").end()
    assert rig.exported(IDS[0]) == samples
    found = chunks(rig.folder / "out.wav")
    assert struct.unpack_from("<I", found[b"cue "]) == (3,)
    points = [struct.unpack_from("<II4sIII", found[b"cue "], 4 + 24 * number) for number in range(3)]
    assert [(point[0], point[1], point[2], point[5]) for point in points] == [
        (1, 0, b"data", 0), (2, 2100, b"data", 2100), (3, 52901, b"data", 52901),
    ]  # fmt: skip
    for label in (b"gap: 0.006 s (microphone)", b"gap: 0.050 s (xrun)", b"gap: 0.000 s (overflow)"):
        assert label in found[b"LIST"]
    with wave.open(str(rig.folder / "out.wav")) as file:
        assert file.getnframes() == 52908


def test_without_a_gap_there_is_no_cue() -> None:
    assert cues([], AUDIO) == b""
    assert len(cues([(0, 1, "x"), (1 << 32, 1, "y")], AUDIO)) == len(cues([(0, 1, "x")], AUDIO))


def test_beyond_4_gib_it_is_rf64(rig: Rig) -> None:
    hours = 40 * 3600 * 16000
    card = begun(a_spool(rig.state))
    Writer(card).audio(PACKET).gap(hours, "microphone").audio(PACKET).end()
    path = rig.folder / "long.wav"
    assert rig.spool("export", "1", str(path)).code == 0
    size = path.stat().st_size
    assert size > 1 << 32
    assert path.stat().st_blocks * 512 < 1 << 20
    with path.open("rb") as file:
        layout = wav_source.parse_wav(file, size)
        assert (layout.frames, layout.notes) == (hours + 2 * PACKET, ())
        file.seek(0)
        head = file.read(wav_header.HEADER_BYTES)
        assert head[:4] == b"RF64"
        assert struct.unpack_from("<Q", head, 20) == (size - 8,)
        file.seek(layout.offset + 2 * (PACKET + hours))
        assert file.read(2 * PACKET) == random.Random(2).randbytes(2 * PACKET)
    path.unlink()


@pytest.mark.skipif(shutil.which("flac") is None, reason="needs flac")
def test_flac_holds_the_same_and_names_the_gaps(rig: Rig) -> None:
    card = begun(a_spool(rig.state))
    samples = Writer(card).audio(2000).gap(801, "xrun").audio(50000).end()
    path = rig.folder / "x.FLAC"
    done = rig.spool("export", "1", str(path))
    assert done.code == 0, done.err
    raw = subprocess.run(
        ["flac", "-s", "-d", "-c", "--force-raw-format", "--endian=little", "--sign=signed", str(path)],
        capture_output=True, check=True,
    )  # fmt: skip
    assert raw.stdout == samples
    tags = subprocess.run(["metaflac", "--export-tags-to=-", str(path)], capture_output=True, text=True, check=True)
    assert "GAP0001=0.125 s: 0.050 s missing (xrun)" in tags.stdout.splitlines()
    assert f"RECORDING={IDS[0]}" in tags.stdout.splitlines()
    assert sorted(item.name for item in rig.folder.iterdir() if "FLAC" in item.name) == ["x.FLAC"]


def test_without_flac_it_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    Writer(begun(a_spool(rig.state))).audio(2000).end()
    monkeypatch.setenv("PATH", "/nowhere")
    done = rig.spool("export", "--flac", "1", str(rig.folder / "x"))
    assert (done.code, "apt install flac" in done.err) == (2, True)
    assert not (rig.folder / "x").exists()


@pytest.mark.skipif(shutil.which("flac") is None, reason="needs flac")
def test_a_flac_that_fails_leaves_no_file(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    Writer(begun(a_spool(rig.state))).audio(50 * PACKET).end()
    tools = rig.folder / "bin"
    tools.mkdir()
    (tools / "flac").write_text("#!/bin/sh\necho no way >&2\nexit 3\n")
    (tools / "flac").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    done = rig.spool("export", "1", str(rig.folder / "x.flac"))
    assert (done.code, "flac failed (no way)" in done.err) == (2, True)
    assert [item for item in rig.folder.iterdir() if "x.flac" in item.name] == []


def test_what_was_given_back_is_said_and_the_rest_exported(rig: Rig) -> None:
    spool = a_spool(rig.state)
    card = begun(spool)
    samples = Writer(card).audio(35 * PACKET).end()
    spool.load(card.folder)[0].free(20)
    path = rig.folder / "x.wav"
    done = rig.spool("export", "1", str(path))
    assert done.code == 0
    assert "the first 2.0 s are not on the card any more" in done.err
    assert samples_of(path) == samples[2 * 20 * PACKET :]
    assert rig.spool("verify").code == 0


def test_a_file_that_exists_is_left_alone(rig: Rig) -> None:
    Writer(begun(a_spool(rig.state))).audio(2000).end()
    path = rig.folder / "x.wav"
    path.write_text("mine")
    done = rig.spool("export", "1", str(path))
    assert (done.code, path.read_text()) == (2, "mine")


def test_a_full_disk_is_one_line_and_no_file(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    Writer(begun(a_spool(rig.state))).audio(2000).end()

    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    done = rig.spool("export", "1", str(rig.folder / "x.wav"))
    assert (done.code, "No space left" in done.err) == (2, True)
    assert [item for item in rig.folder.iterdir() if "x.wav" in item.name] == []


# --- verify ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq", [1, 7, 10, 11, 33, 35])
def test_a_damaged_record_is_named_and_is_a_gap_in_the_file(rig: Rig, seq: int) -> None:
    spool = a_spool(rig.state)
    card = begun(spool)
    samples = bytearray(Writer(card).audio(35 * PACKET).end())
    spoil(spool.load(card.folder)[0], seq)
    done = rig.spool("verify", "1000")
    assert done.code == 4
    tenth = seq - 1
    assert f"DAMAGED: 0:00:0{tenth / 10:.3f} to 0:00:0{seq / 10:.3f}, packet {seq} cannot be read" in done.out
    assert "readable: 3.400 s in 34 packets" in done.out
    samples[2 * tenth * PACKET : 2 * seq * PACKET] = bytes(2 * PACKET)
    path = rig.folder / "x.wav"
    assert rig.spool("export", "1", str(path)).code == 4
    assert samples_of(path) == samples
    assert b"(card)" in chunks(path)[b"LIST"]


def test_damage_beside_a_gap(rig: Rig) -> None:
    spool = a_spool(rig.state)
    card = begun(spool)
    Writer(card).audio(3 * PACKET).gap(4800, "xrun").audio(20 * PACKET).end()
    spoil(spool.load(card.folder)[0], 4)
    done = rig.spool("verify")
    assert (done.code, "DAMAGED: 0:00:00.600 to 0:00:00.700, packet 4" in done.out) == (4, True)
    assert rig.exported("1")
    found = chunks(rig.folder / "out.wav")
    assert b"gap: 0.300 s (xrun)" in found[b"LIST"]
    assert b"gap: 0.100 s (card)" in found[b"LIST"]


def test_a_segment_that_is_gone(rig: Rig) -> None:
    spool = a_spool(rig.state)
    card = begun(spool)
    Writer(card).audio(35 * PACKET).end()
    card.segments[1].path.unlink()
    done = rig.spool("verify")
    assert (done.code, "DAMAGED: 0:00:01.000 to 0:00:02.000" in done.out) == (4, True)


def test_an_end_that_is_gone(rig: Rig) -> None:
    spool = a_spool(rig.state)
    card = begun(spool)
    Writer(card).audio(35 * PACKET).end()
    card.segments[-1].path.unlink()
    done = rig.spool("verify")
    assert (done.code, "DAMAGED: 0:00:03.000 to 0:00:03.500, the end is missing" in done.out) == (4, True)


def test_what_a_power_cut_tore_is_no_damage(rig: Rig) -> None:
    spool = a_spool(rig.state)
    card = begun(spool)
    writer = Writer(card).audio(15 * PACKET)
    card.close()
    with card.segments[-1].path.open("r+b") as file:
        file.seek(card.segments[-1].header.place(16))
        file.write(bytes(36) + encode_header(16, 1.0, PACKET, AUDIO))
    done = rig.spool("verify")
    assert (done.code, "cut off while it was written" in done.out) == (0, True)
    assert rig.exported("1") == writer.samples


# --- purge -----------------------------------------------------------------------------------------------------------


def test_purge_leaves_nothing_of_it_in_any_file(rig: Rig) -> None:
    spool = a_spool(rig.state)
    card = begun(spool)
    samples = Writer(card).audio(35 * PACKET).end()
    kept = Writer(begun(spool, IDS[1])).audio(PACKET).end()
    loaded = spool.load(card.folder)[0]
    loaded.free(10)
    loaded.deliver(1.0)
    assert planted(rig.state, samples[:64])  # in the pool
    done = rig.spool("purge", IDS[0], "--yes")
    assert done.code == 0
    assert "flash card" in done.out
    for start in range(0, len(samples), 2 * PACKET):
        if samples[start:][:64] not in kept:
            assert not planted(rig.state, samples[start:][:64])
    assert [item["recording"] for item in rig.ls()["recordings"]] == [IDS[1]]


def planted(state: Path, sample: bytes) -> bool:
    return any(sample in path.read_bytes() for path in state.rglob("*") if path.is_file())


def test_undelivered_audio_is_not_purged_by_accident(rig: Rig) -> None:
    spool = a_spool(rig.state)
    Writer(begun(spool)).audio(16000).end()
    bad = begun(spool, IDS[1])
    (bad.folder / "manifest.json").write_text("{")
    spool.set_aside(bad.folder, "fun")
    for recording, why in ((IDS[0], "1.0 s of"), (IDS[1], "nobody can tell")):
        done = rig.spool("purge", recording, "--yes")
        assert (done.code, why in done.err) == (2, True)
        assert rig.spool("purge", recording, "--yes-lose-it").code == 0
    assert rig.ls() == {"recordings": [], "damaged": []}
    assert list((rig.state / "spool" / "quarantine").iterdir()) == []


@pytest.mark.parametrize(("answer", "code"), [("yes\n", 0), ("no\n", 2), ("\n", 2), ("\x04", 2)])
def test_purge_asks(rig: Rig, monkeypatch: pytest.MonkeyPatch, answer: str, code: int) -> None:
    card = begun(a_spool(rig.state))
    Writer(card).audio(PACKET).end()
    card.deliver(1.0)
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert rig.spool("purge", "1").code == code
    os.close(ours)
    assert card.folder.exists() == bool(code)


def test_purge_without_a_terminal_needs_yes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    card = begun(a_spool(rig.state))
    Writer(card).audio(PACKET).end()
    card.deliver(1.0)
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        done = rig.spool("purge", "1")
    assert (done.code, "no terminal" in done.err, card.folder.exists()) == (2, True, True)


# --- nonsense --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [], ["nonsense"], ["ls", "more"], ["ls", "--jsonn"], ["export"], ["export", "1"], ["export", "", "x"],
        ["export", "1", ""], ["export", "1", "-"], ["export", "1", "."], ["export", "1", "no/such/folder.wav"],
        ["export", "1", "x" * 300], ["export", "--wav", "--flac", "1", "x"], ["export", "../..", "x"],
        ["export", "manifest", "x"], ["export", "\x1b[31m", "x"], ["verify", "zz"], ["verify", ""],
        ["verify", "1", "2"],
        ["resend", "zz"], ["resend"], ["purge", "zz"], ["purge", ""], ["purge", ".."], ["purge", "--yes"],
        ["deliver", "--drain-timeout", "-1"], ["deliver", "--drain-timeout", "x"], ["deliver", "--server", "nonsense"],
    ],
)  # fmt: skip
def test_nonsense_is_2_and_one_line(rig: Rig, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    card = begun(a_spool(rig.state))
    Writer(card).audio(PACKET).end()
    monkeypatch.chdir(rig.folder)
    before = sorted(rig.folder.rglob("*"))
    rest: Sequence[str] = (
        ["--state", str(rig.state)] if words and words[0] in ("ls", "export", "verify", "purge") else []
    )
    done = rig.run("spool", *words[:1], *rest, *words[1:])
    assert done.code == 2
    assert len(done.err.splitlines()) == 1
    assert done.err.startswith("edge: ")
    assert done.err.strip().isprintable()
    assert sorted(rig.folder.rglob("*")) in (before, sorted([*before, rig.state / "lock"]))
    assert card.manifest.state is CardState.SEALED


def test_a_state_directory_that_is_not_there_is_not_made(rig: Rig) -> None:
    for words in (["ls"], ["verify"], ["deliver"], ["export", "1", "x"], ["resend", "1"], ["purge", "1", "--yes"]):
        assert rig.spool(*words).code == 2
    assert not rig.state.exists()
