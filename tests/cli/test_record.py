"""`edge record` in this process, against a receiver in a thread: exit codes, the account, and what is kept."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import wave
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge import app
from edge.adapters.pending import Course
from edge.adapters.state import StateDirectory
from edge.cli.main import main
from edge.cli.screen import Screen
from edge.core.journal import SessionEntry, encode
from edge.core.packet import HEADER_BYTES, AudioFormat
from edge.errors import MicrophoneError
from edge.runtime.happening import Happening
from edge.runtime.ports import Source
from tests.adapters.keeping import OTHER, RECORDING, Model, keep
from tests.client.receiver import TOKEN, ThreadedReceiver, account, wav
from tests.runtime.fakes import FedSource

FIELDS = {
    "recording", "unit", "rate", "channels", "expected", "delivered", "pending", "on_card", "lost", "resent",
    "sessions", "reconnects",
}  # fmt: skip
CONFIG = """
[connection]
initial_reconnect_delay = 0.05
max_reconnect_delay = 0.2
max_reconnect_attempts = 3
connection_timeout = 2.0
[panel]
enabled = false
"""


@dataclass
class Outcome:
    """What a run left: exit code, the last line of stdout as JSON, stderr."""

    code: int
    account: dict[str, Any]
    stdout: str
    stderr: str


class Rig:
    """Runs `edge record` with a state directory, a token and quick retries."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], receiver: ThreadedReceiver) -> None:
        self.folder = folder
        self.receiver = receiver
        self.state = folder / "state"
        self.token = folder / "token"
        self.token.write_text(TOKEN + "\n")
        self.token.chmod(0o600)
        self.config = folder / "edge.toml"
        self.config.write_text(CONFIG)
        self._capsys = capsys

    def record(self, *options: str, url: str = "") -> Outcome:
        self._capsys.readouterr()
        code = main([
            "record", "--config", str(self.config), "--server", url or self.receiver.url, "--state", str(self.state),
            "--token-file", str(self.token), "--pace", "fast", "--json", *options,
        ])  # fmt: skip
        out, err = self._capsys.readouterr()
        for text in (out, err):
            assert TOKEN not in text
            assert "Traceback" not in text
        for line in err.splitlines():
            assert line.isprintable()
        lines = out.splitlines()
        assert len(lines) <= 1
        return Outcome(code, json.loads(lines[-1]) if lines else {}, out, err)

    @property
    def kept(self) -> set[str]:
        recordings = self.state / "spool" / "recordings"
        return {path.name for path in recordings.iterdir()} if recordings.exists() else set()

    def received(self, recording: str) -> bytes:
        """Everything a recording has at the receiver, which ends for that."""
        self.receiver.stop()
        samples, _, _ = wav(self.receiver.out, recording)
        self.receiver.begin()
        return samples


@pytest.fixture
def rig(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Rig]:
    with ThreadedReceiver(tmp_path / "received", agents=frozenset({"edge", "other"})) as receiver:
        yield Rig(tmp_path, capsys, receiver)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """A command ends with its process; here the process goes on."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def noise(folder: Path, name: str, seconds: int) -> tuple[str, bytes]:
    """A source of noise, and its samples."""
    path = folder / f"{name}.wav"
    samples = write_wav(path, 16000, 1, 16000 * seconds)
    return f"wav:{path}", samples


def write_wav(path: Path, rate: int, channels: int, frames: int) -> bytes:
    samples = random.Random(path.name).randbytes(2 * channels * frames)
    with wave.open(str(path), "wb") as file:
        file.setframerate(rate)
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.writeframes(samples)
    return samples


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> FedSource:
    """The microphone that the next run opens."""
    source = FedSource()

    def open_source(*arguments: Any) -> Source:
        return source

    monkeypatch.setattr(app, "open_source", open_source)
    return source


# --- 0 ---------------------------------------------------------------------------------------------------------------


def test_whole_is_0_and_the_account_says_so(rig: Rig) -> None:
    path = rig.folder / "x.wav"
    samples = write_wav(path, 16000, 1, 50_001)
    done = rig.record("--source", f"wav:{path}")
    assert done.code == 0
    assert done.account.keys() == FIELDS
    recording = done.account["recording"]
    assert done.account == {
        "recording": recording, "unit": "frames", "rate": 16000, "channels": 1, "expected": 50_001,
        "delivered": 50_001, "pending": 0, "on_card": 0, "lost": {}, "resent": 0, "sessions": done.account["sessions"],
        "reconnects": 0,
    }  # fmt: skip
    assert len(done.account["sessions"]) == 1
    assert rig.received(recording) == samples
    assert rig.kept == set()
    assert account(rig.receiver.out, recording)["frames"] == 50_001


def test_seconds_are_kept_to_the_frame(rig: Rig) -> None:
    done = rig.record("--source", "tone:440", "--seconds", "3.00005")
    assert (done.code, done.account["expected"]) == (0, 48001)
    done = rig.record("--source", "tone:440", "--seconds", "0.000001")
    assert (done.code, done.account["expected"]) == (0, 1)


def test_a_file_brings_its_own_format(rig: Rig) -> None:
    path = rig.folder / "x.wav"
    samples = write_wav(path, 48000, 2, 30_000)
    done = rig.record("--source", f"wav:{path}")
    assert done.code == 0
    assert (done.account["rate"], done.account["channels"], done.account["expected"]) == (48000, 2, 30_000)
    assert rig.received(done.account["recording"]) == samples


def test_unless_somebody_chose_another(rig: Rig) -> None:
    path = rig.folder / "x.wav"
    write_wav(path, 48000, 2, 100)
    rig.config.write_text(CONFIG + "[audio]\nrate = 16000\n")
    done = rig.record("--source", f"wav:{path}")
    assert done.code == 6
    assert "48000 Hz, 2 channels" in done.stderr


def test_an_empty_file_is_an_empty_recording(rig: Rig) -> None:
    path = rig.folder / "x.wav"
    write_wav(path, 16000, 1, 0)
    done = rig.record("--source", f"wav:{path}")
    assert (done.code, done.account["expected"], done.account["pending"]) == (0, 0, 0)
    assert rig.kept == set()


def test_cut_connections_repeat_nothing_and_lose_nothing(rig: Rig, fed: FedSource) -> None:
    given = b"".join(fed.give(1600) for _ in range(100))
    cuts = iter([True, True, True, False])
    read = fed.read

    def cutting() -> Any:
        if fed.reads in (20, 50, 80) and next(cuts):
            rig.receiver.do(lambda receiver: receiver.drop_sockets())
        return read()

    fed.read = cutting  # type: ignore[method-assign]
    fed.finish()
    done = rig.record()
    assert done.code == 0
    assert rig.received(done.account["recording"]) == given


# --- 2, 6, 7: nothing begins -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["--seconds", "0"], ["--seconds", "-1"], ["--seconds", "nan"], ["--seconds", "inf"], ["--seconds", "x"],
        ["--drain-timeout", "0"], ["--drain-timeout", "1e99"], ["--pace", "slow"], ["--nonsense"], ["one", "two"],
        ["--source", "radio:1"], ["--config", "/nonexistent/edge.toml"], ["--token-file", "/nonexistent/token"],
        ["--server", "ftp://x"], ["--server", "http://example.org"], ["--state", "/dev/null/x"], ["--state", ""],
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_2_in_one_line(options: list[str], rig: Rig) -> None:
    done = rig.record(*options)
    assert (done.code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("edge: ")


@pytest.mark.parametrize("source", ["wav:/nonexistent.wav", "wav:/dev/null", "wav:/", "tone:9999999"])
def test_no_microphone_is_6(source: str, rig: Rig) -> None:
    done = rig.record("--source", source)
    assert done.code in (2, 6)
    assert (done.code == 2) == (source == "tone:9999999")
    assert done.stdout == ""
    assert rig.kept == set()


def test_a_file_of_an_odd_rate_says_which_packets_fit(rig: Rig) -> None:
    path = rig.folder / "x.wav"
    for rate, remedy in ((11025, "set audio.packet_ms to a multiple of 40"), (11111, "record at another rate")):
        write_wav(path, rate, 1, 100)
        done = rig.record("--source", f"wav:{path}")
        assert done.code == 2
        assert done.stderr.endswith(f"nothing is recorded; {remedy}\n")
    rig.config.write_text(CONFIG + "[audio]\npacket_ms = 80\n")
    write_wav(path, 11025, 1, 100)
    assert rig.record("--source", f"wav:{path}").code == 0


def test_a_file_that_is_not_there_says_what_to_do(rig: Rig) -> None:
    done = rig.record("--source", "wav:/nonexistent.wav")
    assert done.stderr == (
        "edge: /nonexistent.wav cannot be read: No such file or directory; nothing is recorded; check audio.source\n"
    )


def test_a_microphone_that_fails_to_open_is_6_and_one_line(rig: Rig, fed: FedSource) -> None:
    fed.fail_open = MicrophoneError("no such card", remedy="plug it in")
    done = rig.record()
    assert (done.code, done.stdout) == (6, "")
    assert done.stderr.splitlines()[-1] == "edge: no such card; plug it in"


def test_a_microphone_that_goes_away_is_6_and_what_it_gave_is_delivered(rig: Rig, fed: FedSource) -> None:
    given = fed.give(4000)
    fed.fail(MicrophoneError("unplugged"))
    done = rig.record()
    assert (done.code, done.account["delivered"], done.account["pending"]) == (6, 4000, 0)
    assert "unplugged" in done.stderr
    assert rig.received(done.account["recording"]) == given


def test_a_source_with_a_bug_is_1_and_what_it_gave_is_delivered(rig: Rig, fed: FedSource) -> None:
    fed.give(4000)
    fed.fail(KeyError("oops"))
    done = rig.record()
    assert (done.code, done.account["delivered"]) == (1, 4000)


def test_a_state_directory_in_use_is_7(rig: Rig) -> None:
    with StateDirectory(rig.state):
        done = rig.record("--source", "tone:440", "--seconds", "1")
    assert (done.code, done.stdout) == (7, "")
    assert len(done.stderr.splitlines()) == 1
    assert rig.record("--source", "tone:440", "--seconds", "1").code == 0


# --- 3: kept for later -----------------------------------------------------------------------------------------------


def test_what_cannot_be_delivered_is_3_kept_and_delivered_by_the_next_run(rig: Rig, nobody: str) -> None:
    sources = [noise(rig.folder, name, seconds) for name, seconds in (("a", 3), ("b", 2), ("c", 1))]
    first = rig.record("--source", sources[0][0], "--drain-timeout", "0.3", url=nobody)
    assert first.code == 3
    assert (first.account["expected"], first.account["delivered"], first.account["pending"]) == (48000, 0, 48000)
    assert rig.kept == {first.account["recording"]}
    second = rig.record("--source", sources[1][0], "--drain-timeout", "0.3", url=nobody)
    assert second.code == 3
    assert rig.kept == {first.account["recording"], second.account["recording"]}
    third = rig.record("--source", sources[2][0])
    assert (third.code, third.account["pending"]) == (0, 0)
    assert rig.kept == set()
    for (_, samples), done in zip(sources, (first, second, third), strict=True):
        assert rig.received(done.account["recording"]) == samples


# A connection that is accepted in the moment in which the receiver's loop ends is nobody's any more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_was_delivered_before_is_not_delivered_again(rig: Rig, fed: FedSource) -> None:
    given = b"".join(fed.give(1600) for _ in range(30))
    read = fed.read

    def ending() -> Any:
        block = read()
        if fed.reads == 30:
            rig.receiver.stop()
        return block

    fed.read = ending  # type: ignore[method-assign]
    fed.finish()
    first = rig.record("--drain-timeout", "0.3")
    assert first.code == 3
    assert first.account["delivered"] + first.account["pending"] == 48000
    rig.receiver.begin()
    fed.give(100)
    fed.finish()
    second = rig.record()
    assert second.code == 0
    recording = first.account["recording"]
    assert rig.received(recording) == given
    assert rig.kept == set()


def test_a_damaged_recording_is_said_and_set_aside_and_recording_goes_on(rig: Rig, nobody: str) -> None:
    first = rig.record("--source", "tone:440", "--seconds", "1", "--drain-timeout", "0.2", url=nobody)
    name = first.account["recording"]
    manifest = rig.state / "spool" / "recordings" / name / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    done = rig.record("--source", "tone:440", "--seconds", "1")
    assert done.code == 0
    assert "cannot be read" in done.stderr
    assert rig.kept == set()
    quarantine = rig.state / "spool" / "quarantine"
    assert list((quarantine / name).glob("*.seg"))
    assert "cannot be read" in (quarantine / f"{name}.reason.txt").read_text()


def test_what_became_whole_in_the_last_moment_is_not_kept_after_all(rig: Rig, nobody: str) -> None:
    """Delivered, but its stop was still on its way when the time was up."""
    first = rig.record("--source", "tone:440", "--seconds", "1", "--drain-timeout", "0.2", url=nobody)
    assert rig.kept == {first.account["recording"]}

    def delivered_but_for_the_stop(self: app.App) -> int:
        owed = hand_over(self)
        for recording in self.device.undelivered:
            if recording.ledger.ended:
                recording.ledger.deliver(recording.ledger.last)
        return owed

    hand_over = app.App.owe_kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.App, "owe_kept", delivered_but_for_the_stop)
        rig.record("--source", "tone:440", "--seconds", "0.1", "--drain-timeout", "0.2", url=nobody)
    assert first.account["recording"] not in rig.kept


def test_a_gap_before_the_first_frame_is_still_told_after_a_restart(rig: Rig, fed: FedSource, nobody: str) -> None:
    given = fed.give(1000, lost=700, cause="microphone")
    fed.finish()
    first = rig.record("--drain-timeout", "0.2", url=nobody)
    assert (first.code, first.account["expected"], first.account["pending"]) == (3, 1700, 1000)
    fed.finish()
    assert rig.record().code == 0
    recording = first.account["recording"]
    assert rig.received(recording) == bytes(1400) + given
    assert account(rig.receiver.out, recording)["gap_frames"] == {"microphone": 700}


def test_what_the_release_before_kept_is_delivered_oldest_first_and_its_folder_goes(rig: Rig, nobody: str) -> None:
    audio, pending = AudioFormat(16000, 1), rig.state / "pending"
    models = {name: Model(audio) for name in (RECORDING, OTHER)}
    for age, (name, model) in enumerate(models.items()):
        model.lose(77, "xrun")
        model.talk(1000)
        model.lose(5, "overflow")
        model.talk(481)
        model.ledger.end()
        settings = {"agent": "edge", "event": "recording", "recording": name}
        keep(pending, name, audio, model.ledger, Course(settings), model.wire)
        os.utime(pending / name / "packets.pcm1", (1e9 + age, 1e9 + age))
    offline = rig.record("--source", "tone:440", "--seconds", "1", "--drain-timeout", "0.2", url=nobody)
    assert list(pending.iterdir()) == []
    assert rig.kept == {*models, offline.account["recording"]}
    done = rig.record("--source", "tone:440", "--seconds", "1")
    assert done.code == 0
    assert rig.kept == set()
    told = [line.split()[2] for line in done.stderr.splitlines() if line.endswith(" is delivered")]
    assert [name for name in told if name != done.account["recording"]] == [*models, offline.account["recording"]]
    for name, model in models.items():
        wires = [model.wire(seq)[HEADER_BYTES:] for seq in range(1, model.ledger.last + 1)]
        samples = bytes(2 * 77) + b"".join(wires[:3]) + bytes(2 * 5) + b"".join(wires[3:])
        assert rig.received(name) == samples
        assert account(rig.receiver.out, name)["gap_frames"] == {"xrun": 77, "overflow": 5}


def test_a_disk_that_takes_nothing_is_a_loss_that_is_counted(rig: Rig, nobody: str) -> None:
    rig.state.mkdir()
    (rig.state / "spool").write_text("in the way")
    done = rig.record("--source", "tone:440", "--seconds", "2", "--drain-timeout", "0.2", url=nobody)
    assert done.code == 4
    assert (done.account["expected"], done.account["pending"]) == (32000, 0)
    assert done.account["lost"] == {"card": 32000}
    assert "2.0 s of audio are lost" in done.stderr


# --- 4: lost ---------------------------------------------------------------------------------------------------------


def test_delivered_with_a_gap_is_4_and_the_gap_stands_in_the_wav(rig: Rig, fed: FedSource) -> None:
    before = fed.give(1000)
    after = fed.give(2000, lost=500, cause="xrun")
    fed.finish()
    done = rig.record()
    assert done.code == 4
    assert done.account["lost"] == {"xrun": 500}
    assert (done.account["expected"], done.account["delivered"]) == (3500, 3000)
    recording = done.account["recording"]
    assert rig.received(recording) == before + bytes(1000) + after
    assert account(rig.receiver.out, recording)["gap_frames"] == {"xrun": 500}


def test_a_gap_behind_the_last_frame_counts_as_well(rig: Rig, fed: FedSource) -> None:
    before = fed.give(1000)
    fed.give(0, lost=700, cause="microphone")
    fed.finish()
    done = rig.record()
    assert (done.code, done.account["lost"]) == (4, {"microphone": 700})
    assert rig.received(done.account["recording"]) == before + bytes(1400)


# --- 5: refused ------------------------------------------------------------------------------------------------------


def refuse_token(rig: Rig) -> Callable[[], None]:
    rig.token.write_text("wrong-" + TOKEN[::-1] + "\n")

    def repair() -> None:
        rig.token.write_text(TOKEN + "\n")

    return repair


def refuse_conflict(rig: Rig) -> Callable[[], None]:
    rig.receiver.do(lambda receiver: receiver.set_conflict(active=True))
    return lambda: rig.receiver.do(lambda receiver: receiver.set_conflict(active=False))


@pytest.mark.parametrize(("refuse", "text"), [(refuse_token, "refused the token"), (refuse_conflict, "409")])
def test_refused_is_5_at_once_kept_and_delivered_when_it_is_put_right(
    refuse: Callable[[Rig], Callable[[], None]], text: str, rig: Rig
) -> None:
    repair = refuse(rig)
    source, samples = noise(rig.folder, "a", 2)
    done = rig.record("--source", source)
    assert done.code == 5
    assert text in done.stderr
    assert rig.kept == {done.account["recording"]}
    repair()
    assert rig.record("--source", "tone:440", "--seconds", "1").code == 0
    assert rig.received(done.account["recording"]) == samples


def test_a_mistyped_agent_is_corrected_by_the_next_run(rig: Rig, nobody: str) -> None:
    source, typed_samples = noise(rig.folder, "typed", 2)
    typed = rig.record("--source", source, "--agent", "egde", "--event", "talk")
    assert typed.code == 5
    again = rig.record("--source", "tone:440", "--seconds", "1", "--agent", "egde")
    assert again.code == 5
    source, other_samples = noise(rig.folder, "other", 1)  # not refused: it keeps its own agent
    other = rig.record("--source", source, "--agent", "other", "--drain-timeout", "0.2", url=nobody)
    assert other.code == 3
    done = rig.record("--source", "tone:440", "--seconds", "1", "--agent", "edge", "--event", "talk")
    assert done.code == 0
    assert rig.kept == set()
    assert rig.received(typed.account["recording"]) == typed_samples
    assert rig.received(other.account["recording"]) == other_samples
    said = [line for line in done.stderr.splitlines() if "as configured now" in line]
    assert len(said) == 2
    assert typed.account["recording"] in said[0]
    assert "agent 'egde', event 'talk'" in said[0]
    assert "agent 'edge', event 'talk'" in said[0]


def test_a_correction_outlives_the_run_that_made_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a session under the new agent would bind what is left to the old one, which the server never takes."""
    typed = rig.record("--source", "tone:440", "--seconds", "1", "--agent", "egde")
    assert typed.code == 5
    tell = Screen.tell

    def interrupt(self: Screen, happening: Happening) -> None:
        tell(self, happening)
        if happening.kind == "corrected":
            refuse_conflict(rig)

    with monkeypatch.context() as patch:
        patch.setattr(Screen, "tell", interrupt)
        assert rig.record("--source", "tone:440", "--seconds", "1", "--agent", "edge").code == 5
    name = typed.account["recording"]
    assert rig.kept == {name}
    manifest = json.loads((rig.state / "spool" / "recordings" / name / "manifest.json").read_text())
    assert (manifest["settings"]["agent"], manifest["settings"]["recording"]) == ("edge", name)


def test_an_old_recording_that_is_refused_stops_nothing_that_comes_after(rig: Rig, nobody: str) -> None:
    old = rig.record("--source", "tone:440", "--seconds", "1", "--agent", "nobody")
    assert old.code == 5
    # The server took the agent once: this is no typing error, and nobody else gets the audio.
    notes = rig.state / "spool" / "recordings" / old.account["recording"] / "journal"
    with notes.open("ab") as journal:
        journal.write(b"\n" + encode([SessionEntry("one", 1, "acks", 0, 0.0)]))
    source, later_samples = noise(rig.folder, "later", 1)
    later = rig.record("--source", source, "--drain-timeout", "0.2", url=nobody)
    assert later.code == 3
    source, new_samples = noise(rig.folder, "new", 2)
    new = rig.record("--source", source)
    assert (new.code, new.account["pending"]) == (5, 0)
    assert rig.kept == {old.account["recording"]}
    assert rig.received(new.account["recording"]) == new_samples
    assert rig.received(later.account["recording"]) == later_samples


# --- people ----------------------------------------------------------------------------------------------------------


def test_without_json_stdout_stays_empty_and_people_are_told(
    rig: Rig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = main([
        "record", "--config", str(rig.config), "--server", rig.receiver.url, "--state", str(rig.state),
        "--token-file", str(rig.token), "--pace", "fast", "--source", "tone:440", "--seconds", "1",
    ])  # fmt: skip
    out, err = capsys.readouterr()
    assert (code, out) == (0, "")
    assert "1.000 s: 1.000 s delivered, 0.000 s kept for later" in err.splitlines()[-1]


@pytest.mark.parametrize("is_there", [True, False])
def test_nobody_has_to_read_what_it_says(is_there: bool, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", Broken() if is_there else None)
    done = rig.record("--source", "tone:440", "--seconds", "1")
    assert (done.code, done.account["pending"]) == (0, 0)


def test_a_live_line_on_a_terminal(
    rig: Rig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    code = main([
        "record", "--config", str(rig.config), "--server", rig.receiver.url, "--state", str(rig.state),
        "--token-file", str(rig.token), "--source", "tone:440", "--seconds", "0.5",
    ])  # fmt: skip
    _, err = capsys.readouterr()
    assert code == 0
    assert "ring" in err
    assert "REC" in err


def test_the_environment_of_a_shell_does_not_matter(rig: Rig, monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setitem(os.environ, name, nobody)
    assert rig.record("--source", "tone:440", "--seconds", "1").code == 0
