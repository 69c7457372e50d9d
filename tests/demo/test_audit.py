"""The audit must name what is wrong, and must not be content with anything but the source."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from edge.cli.demo_audit import Difference, Samples, UnreadableError, audit, differences, read

RATE = 16000
NOISE: Samples = np.random.default_rng(7).integers(-1024, 1024, 40_000, dtype=np.int16)


def write(path: Path, samples: Samples, *, rate: int = RATE, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def join(*parts: Samples) -> Samples:
    return np.concatenate(parts)


class TestDifferences:
    def test_equal(self) -> None:
        assert differences(NOISE, NOISE.copy()) == []

    def test_both_empty(self) -> None:
        assert differences(NOISE[:0], NOISE[:0]) == []

    @pytest.mark.parametrize(("first", "frames"), [(0, 1600), (16_000, 1600), (16_000, 1), (38_400, 1600), (39_999, 1)])
    def test_missing(self, first: int, frames: int) -> None:
        got = join(NOISE[:first], NOISE[first + frames :])
        assert differences(NOISE, got) == [Difference("missing", first, frames)]

    def test_nothing_received(self) -> None:
        assert differences(NOISE, NOISE[:0]) == [Difference("missing", 0, len(NOISE))]

    @pytest.mark.parametrize("at", [1600, 16_000, 40_000])
    def test_doubled(self, at: int) -> None:
        got = join(NOISE[:at], NOISE[at - 1600 : at], NOISE[at:])
        assert differences(NOISE, got) == [Difference("doubled", at, 1600)]

    @pytest.mark.parametrize("at", [0, 16_000, 40_000])
    def test_foreign(self, at: int) -> None:
        got = join(NOISE[:at], np.full(300, 5000, np.int16), NOISE[at:])
        assert differences(NOISE, got) == [Difference("foreign", at, 300)]

    @pytest.mark.parametrize(("first", "frames"), [(0, 1), (16_000, 1600), (39_000, 1000)])
    def test_altered(self, first: int, frames: int) -> None:
        got = NOISE.copy()
        got[first : first + frames] += 5000
        assert differences(NOISE, got) == [Difference("altered", first, frames)]

    def test_shifted_by_one_frame(self) -> None:
        assert differences(NOISE, join(NOISE[:0], np.zeros(1, np.int16), NOISE)) == [Difference("foreign", 0, 1)]

    def test_silence_instead_of_a_packet(self) -> None:
        got = NOISE.copy()
        got[3200:4800] = 0
        assert [difference.kind for difference in differences(NOISE, got)] == ["altered"]

    def test_two_packets_swapped(self) -> None:
        got = join(NOISE[:1600], NOISE[3200:4800], NOISE[1600:3200], NOISE[4800:])
        found = differences(NOISE, got)
        assert found
        assert sum(one.frames for one in found if one.kind == "missing") == sum(
            one.frames for one in found if one.kind == "doubled"
        )

    def test_each_of_several(self) -> None:
        got = join(NOISE[:8000], NOISE[9600:20_000], NOISE[18_400:30_000])
        assert differences(NOISE, got) == [
            Difference("missing", 8000, 1600),
            Difference("doubled", 20_000, 1600),
            Difference("missing", 30_000, 10_000),
        ]

    def test_nothing_fits(self) -> None:
        found = differences(NOISE[:2000], NOISE[20_000:21_500])
        assert found == [Difference("missing", 0, 2000), Difference("foreign", 0, 1500)]

    def test_only_silence_is_missing_in_silence(self) -> None:
        silence = np.zeros(5000, np.int16)
        wanted = join(NOISE[:1000], silence, NOISE[1000:2000])
        got = join(NOISE[:1000], silence[:3400], NOISE[1000:2000])
        assert [(one.kind, one.frames) for one in differences(wanted, got)] == [("missing", 1600)]


GOOD = {"expected": 32_000, "delivered": 32_000, "pending": 0, "lost": {}}
TAKEN = {"frames": 32_000, "gaps": []}


class TestAudit:
    def files(self, folder: Path, got: Samples) -> tuple[Path, Path]:
        return write(folder / "source.wav", NOISE), write(folder / "received.wav", got)

    def test_whole(self, tmp_path: Path) -> None:
        source, received = self.files(tmp_path, NOISE[:32_000])
        verdict = audit(source, 32_000, received, GOOD, TAKEN)
        assert verdict.is_whole
        assert "32000 frames" in verdict.line

    def test_missing_frames_are_named(self, tmp_path: Path) -> None:
        source, received = self.files(tmp_path, join(NOISE[:16_000], NOISE[17_600:32_000]))
        verdict = audit(source, 32_000, received, GOOD, TAKEN)
        assert not verdict.is_whole
        assert verdict.line == "1600 frames missing (16000 to 17599, at 1.000 s)"

    def test_what_the_source_never_gave_is_too_much(self, tmp_path: Path) -> None:
        source, received = self.files(tmp_path, NOISE[:33_600])
        assert not audit(source, 32_000, received, GOOD, TAKEN).is_whole

    def test_the_last_packet_counts(self, tmp_path: Path) -> None:
        source, received = self.files(tmp_path, NOISE[:30_400])
        verdict = audit(source, 32_000, received, GOOD, TAKEN)
        assert verdict.line == "1600 frames missing (30400 to 31999, at 1.900 s)"

    @pytest.mark.parametrize("emitted", [0, 40_001])
    def test_a_count_that_cannot_be(self, tmp_path: Path, emitted: int) -> None:
        source, received = self.files(tmp_path, NOISE[:0])
        assert not audit(source, emitted, received, GOOD, TAKEN).is_whole

    @pytest.mark.parametrize(
        "wrong", [{"expected": 1}, {"delivered": 30_400}, {"pending": 1600}, {"lost": {"overflow": 1600}}]
    )
    def test_the_recorder_must_say_so_as_well(self, tmp_path: Path, wrong: dict[str, object]) -> None:
        source, received = self.files(tmp_path, NOISE[:32_000])
        verdict = audit(source, 32_000, received, GOOD | wrong, TAKEN)
        assert not verdict.is_whole
        assert "recorder's account" in verdict.line

    @pytest.mark.parametrize("wrong", [{"frames": 1}, {"gaps": [{"frames": 1}]}])
    def test_the_receiver_must_say_so_as_well(self, tmp_path: Path, wrong: dict[str, object]) -> None:
        source, received = self.files(tmp_path, NOISE[:32_000])
        verdict = audit(source, 32_000, received, GOOD, TAKEN | wrong)
        assert not verdict.is_whole
        assert "receiver's account" in verdict.line

    def test_without_accounts(self, tmp_path: Path) -> None:
        source, received = self.files(tmp_path, NOISE[:32_000])
        verdict = audit(source, 32_000, received, None, None)
        assert verdict.line == "no account of the recorder; no account of the receiver"

    def test_another_rate(self, tmp_path: Path) -> None:
        source = write(tmp_path / "source.wav", NOISE)
        received = write(tmp_path / "received.wav", NOISE[:32_000], rate=8000)
        assert "8000 Hz" in audit(source, 32_000, received, GOOD, TAKEN).line

    def test_many_differences_stay_one_line(self, tmp_path: Path) -> None:
        got = NOISE[:32_000].copy()
        got[::200] += 5000
        source, received = self.files(tmp_path, got)
        line = audit(source, 32_000, received, GOOD, TAKEN).line
        assert "\n" not in line
        assert line.count(";") < 30

    def test_unreadable_files(self, tmp_path: Path) -> None:
        source, received = self.files(tmp_path, NOISE[:32_000])
        assert "cannot be read" in audit(source, 32_000, tmp_path / "none.wav", GOOD, TAKEN).line
        received.write_bytes(b"RIFF")
        assert not audit(source, 32_000, received, GOOD, TAKEN).is_whole
        with pytest.raises(UnreadableError, match="mono"):
            read(write(tmp_path / "stereo.wav", NOISE, channels=2))
        whole = write(tmp_path / "short.wav", NOISE)
        whole.write_bytes(whole.read_bytes()[:-100])
        with pytest.raises(UnreadableError):
            read(whole)
