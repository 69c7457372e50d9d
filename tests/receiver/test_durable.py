"""The good server over real sockets: PROTOCOL.md, "Our extension"."""

from __future__ import annotations

import asyncio
import time
import wave
from pathlib import Path
from uuid import uuid4

import pytest

from edge.core.packet import AudioFormat
from edge.receiver.config import Limits, Timing
from edge.receiver.recovery import wire_packets
from edge.receiver.server import Receiver
from tests.receiver.client import FRAMES, Client, account, config, eventually, packet, packets, payload, serving


def samples(out: Path, recording: str) -> bytes:
    with wave.open(str(out / recording / "audio.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        pcm: bytes = file.readframes(file.getnframes())
        return pcm


def only_recording(out: Path) -> Path:
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    return folder


class TestStreaming:
    async def test_packets_are_acknowledged_once_they_are_in_the_files(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            assert wire.hello == {"type": "hello", "session_id": session, "acks": True, "next_seq": 1}
            await wire.stream(range(1, 31))
            acks = await wire.acked(30)
            assert acks == sorted(set(acks))
            assert list(wire_packets(tmp_path / recording)) == packets(range(1, 31))
            raw = (tmp_path / recording / "audio.wav").read_bytes()
            assert raw[80:] == b"".join(payload(seq) for seq in range(1, 31))

    async def test_stop_stream_gives_a_last_ack_and_closes_with_finalize(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream(range(1, 11))
            await wire.send({"action": "stop_stream"})
            await wire.acked(10)
            closed = await wire.closed()
            assert (closed.code, closed.reason) == (1000, "Session stopped by server (finalize)")
            assert samples(tmp_path, recording) == b"".join(payload(seq) for seq in range(1, 11))
            (entry,) = account(tmp_path, recording)["sessions"]
            assert (entry["session_id"], entry["ended_by"], entry["packets"]) == (session, "stop", 10)
            assert (entry["first_seq"], entry["last_seq"], entry["acks"]) == (1, 10, True)
            assert await client.status(session) == {"exists": False}
            gone = await client.dial(session, greet=False)
            assert (await gone.closed()).code == 1011

    async def test_stop_by_http_closes_the_socket_the_same_way(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open()
            await wire.stream(range(1, 4))
            await wire.barrier()
            assert (await client.stop(session))[0] == 200
            assert (await wire.closed()).reason == "Session stopped by server (finalize)"
            code, body = await client.stop("never heard of")
            assert (code, body["status"]) == (200, "success")

    async def test_the_wav_is_readable_while_recording(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            _, wire = await client.open(recording)
            await wire.stream(range(1, 6))
            await wire.acked(5)
            expected = b"".join(payload(seq) for seq in range(1, 6))
            await eventually(lambda: samples(tmp_path, recording) == expected)

    async def test_a_short_packet_and_stereo(self, tmp_path: Path) -> None:
        stereo, recording = AudioFormat(48000, 2), str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording, sample_rate=48000, channels=2)
            await wire.send(packet(1, 4800, stereo))
            await wire.send(packet(2, 7, stereo))
            await wire.acked(2)
            await client.stop(session)
            with wave.open(str(tmp_path / recording / "audio.wav")) as file:
                assert (file.getframerate(), file.getnchannels()) == (48000, 2)
                assert file.readframes(9999) == payload(1, 4800, stereo) + payload(2, 7, stereo)

    async def test_an_rfc_ping_is_answered(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (_, client):
            _, wire = await client.open()
            await wire.ping_frame()

    async def test_a_recording_without_audio_is_a_wav_file_without_audio(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, _ = await client.open(recording)
            await client.stop(session)
            assert samples(tmp_path, recording) == b""
            unheard = await client.start(str(uuid4()))
            await client.stop(unheard)
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1])
            await wire.acked(1)
            await client.stop(session)
            assert samples(tmp_path, recording) == payload(1)


class TestExactlyOnce:
    async def test_duplicates_are_ignored_counted_and_listed(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream(range(1, 11))
            await wire.stream([4, 5, 6])
            await wire.stream([2])
            await wire.stream([11])
            await wire.acked(11)
            await client.stop(session)
            told = account(tmp_path, recording)
            assert (told["packets"], told["duplicates_ignored"], told["next_seq"]) == (11, 4, 12)
            listed = told["sessions"][0]["duplicates"]
            assert [(one["first_seq"], one["last_seq"], one["packets"]) for one in listed] == [(4, 6, 3), (2, 2, 1)]
            assert all(told["started_at"] <= one["first_at"] <= one["last_at"] for one in listed)
            assert samples(tmp_path, recording) == b"".join(payload(seq) for seq in range(1, 12))

    async def test_a_duplicate_of_what_is_durable_is_acknowledged_again(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open()
            await wire.stream([1, 2])
            await wire.acked(2)
            again = await client.dial(session)
            assert again.hello["next_seq"] == 3
            await again.stream([1, 2])
            assert await again.acked(2) == [2]

    async def test_a_hole_is_refused_and_not_acknowledged(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1, 2, 5, 6])
            messages = await wire.barrier()
            warnings = [message for message in messages if message["type"] == "warning"]
            assert warnings == [{"type": "warning", "event": "packet_refused", "reason": "hole"}]
            await wire.stream([3])
            assert await wire.acked(3)
            await client.stop(session)
            told = account(tmp_path, recording)
            assert (told["packets"], told["refused"]) == (3, {"hole": 2})

    async def test_a_follow_on_session_of_the_recording_goes_on_at_the_next_packet(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            first, wire = await client.open(recording)
            await wire.stream(range(1, 6))
            await wire.acked(5)
            await client.stop(first)
            second, wire = await client.open(recording, next_seq=6)
            assert wire.hello["next_seq"] == 6
            await wire.stream(range(6, 9))
            await wire.acked(8)
            await client.stop(second)
            told = account(tmp_path, recording)
            assert [one["session_id"] for one in told["sessions"]] == [first, second]
            assert samples(tmp_path, recording) == b"".join(payload(seq) for seq in range(1, 9))

    async def test_a_second_session_of_a_live_recording_ends_the_first(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            first, old = await client.open(recording)
            await old.stream(range(1, 4))
            second, new = await client.open(recording)
            assert new.hello["next_seq"] == 4
            assert (await old.closed()).code == 1012
            assert await client.status(first) == {"exists": False}
            await new.stream([4])
            await new.acked(4)
            await client.stop(second)
            assert samples(tmp_path, recording) == b"".join(payload(seq) for seq in range(1, 5))

    async def test_packets_that_will_never_come_stand_as_a_gap(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1, 2])
            await wire.acked(2)
            await client.stop(session)
            session, wire = await client.open(recording, next_seq=6)
            await wire.stream([6])
            await wire.acked(6)
            await client.stop(session)
            gap = {"position": 2 * FRAMES, "frames": 3 * FRAMES, "cause": "missing", "before_seq": 6}
            assert account(tmp_path, recording)["gaps"] == [gap]
            silence = bytes(3 * FRAMES * 2)
            assert samples(tmp_path, recording) == payload(1) + payload(2) + silence + payload(6)


class TestReattach:
    async def test_a_takeover_leaves_the_new_socket_in_charge(self, tmp_path: Path) -> None:
        async with serving(tmp_path, grace=0.5) as (_, client):
            session, old = await client.open()
            await old.stream(range(1, 4))
            new = await client.dial(session)
            assert new.hello["next_seq"] in (1, 4)
            info = (await old.until("info"))[-1]
            assert info == {"type": "info", "reason": "replaced", "by": "tester"}
            assert (await old.closed()).code == 1012
            # Two heartbeats, each longer than the grace of a session without a socket.
            for _ in range(3):
                ping = (await new.until("ping", lambda message: "t" in message))[-1]
                assert (ping["is_recording"], ping["ws_connected"]) == (True, True)
            assert (await client.status(session))["connected"] is True
            first = new.hello["next_seq"]
            await new.stream(range(first, 8))
            await new.acked(7)

    async def test_init_again_wipes_nothing(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open()
            await wire.stream(range(1, 4))
            await wire.init(acks=True)
            await wire.stream([4])
            await wire.acked(4)
            wire.reset()
            await eventually(lambda: connected_is(client, session, expected=False))
            again = await client.dial(session)
            assert again.hello["next_seq"] == 5

    async def test_resume_0_while_a_socket_is_attached_is_refused(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open()
            second = await client.dial(session, resume=0, greet=False)
            closed = await second.closed()
            assert (closed.code, closed.reason) == (1008, "Connection already exists")
            await wire.barrier()

    async def test_the_grace_ends_the_session_but_not_the_recording(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path, grace=0.2) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1, 2])
            await wire.acked(2)
            await wire.close()
            await eventually(lambda: exists_is(client, session, expected=False))
            assert account(tmp_path, recording)["sessions"][0]["ended_by"] == "grace"
            _, wire = await client.open(recording)
            assert wire.hello["next_seq"] == 3

    async def test_a_restart_forgets_sessions_but_no_packet(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (receiver, client):
            session, wire = await client.open(recording)
            await wire.stream(range(1, 21))
            await wire.acked(20)
            await receiver.kill()
        async with serving(tmp_path) as (_, client):
            assert await client.status(session) == {"exists": False}
            gone = await client.dial(session, greet=False)
            closed = await gone.closed()
            assert (closed.code, closed.reason) == (1011, "Session not found")
            assert account(tmp_path, recording)["sessions"][0]["ended_by"] == "receiver ended"
            _, wire = await client.open(recording)
            assert wire.hello["next_seq"] == 21

    async def test_sigterm_makes_all_durable_and_says_so(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        receiver = Receiver(config(tmp_path))
        await receiver.__aenter__()
        async with Client(receiver.url) as client:
            _, wire = await client.open(recording)
            await wire.stream(range(1, 6))
            await wire.barrier()
            ending = asyncio.create_task(receiver.__aexit__(None, None, None))
            assert (await wire.closed()).code == 1001
            await ending
        assert samples(tmp_path, recording) == b"".join(payload(seq) for seq in range(1, 6))


async def connected_is(client: Client, session: str, *, expected: bool) -> bool:
    return bool((await client.status(session))["connected"] is expected)


async def exists_is(client: Client, session: str, *, expected: bool) -> bool:
    return bool((await client.status(session))["exists"] is expected)


def lost(first: int, before: int, frames: int) -> dict[str, object]:
    return {"type": "gap", "before_seq": before, "lost_from": first, "frames": frames, "cause": "card"}


class TestGaps:
    async def test_a_gap_is_silence_at_its_place(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1])
            await wire.send({"type": "gap", "before_seq": 2, "frames": 500, "cause": "xrun"})
            await wire.send({"type": "gap", "before_seq": 2, "frames": 300, "cause": "overflow"})
            await wire.stream([2])
            await wire.acked(2)
            await client.stop(session)
            told = account(tmp_path, recording)
            assert told["gap_frames"] == {"xrun": 500, "overflow": 300}
            assert told["frames"] == 2 * FRAMES + 800
            assert told["stored_frames"] == 2 * FRAMES
            assert [gap["position"] for gap in told["gaps"]] == [FRAMES, FRAMES + 500]
            assert samples(tmp_path, recording) == payload(1) + bytes(1600) + payload(2)

    async def test_the_last_value_for_a_cause_counts(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1])
            for frames in (5000, 800, 800, 1200):
                await wire.send({"type": "gap", "before_seq": 2, "frames": frames, "cause": "microphone"})
                await wire.barrier()
            wire.reset()
            again = await client.dial(session)
            await again.send({"type": "gap", "before_seq": 2, "frames": 400, "cause": "microphone"})
            await again.stream([2])
            await again.acked(2)
            # Known, and no longer to be changed.
            await again.send({"type": "gap", "before_seq": 2, "frames": 400, "cause": "microphone"})
            await again.send({"type": "gap", "before_seq": 2, "frames": 401, "cause": "microphone"})
            assert [one["reason"] for one in await again.barrier() if one["type"] == "warning"] == [
                "gap changed after its packet was stored"
            ]
            await client.stop(session)
            assert account(tmp_path, recording)["gap_frames"] == {"microphone": 400}
            assert samples(tmp_path, recording) == payload(1) + bytes(800) + payload(2)

    async def test_a_trailing_gap_is_durable_before_the_stop_is_answered(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            _, wire = await client.open(recording)
            await wire.stream([1])
            await wire.send({"type": "gap", "before_seq": 2, "frames": 50, "cause": "microphone"})
            await wire.send({"action": "stop_stream"})
            assert (await wire.closed()).code == 1000
            assert samples(tmp_path, recording) == payload(1) + bytes(100)
            gap = {"position": FRAMES, "frames": 50, "cause": "microphone", "before_seq": 2}
            assert account(tmp_path, recording)["gaps"] == [gap]

    async def test_a_recording_of_nothing_but_a_gap(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.send({"type": "gap", "before_seq": 1, "frames": 100, "cause": "microphone"})
            await wire.barrier()
            await client.stop(session)
            assert samples(tmp_path, recording) == bytes(200)

    @pytest.mark.parametrize(
        "gap",
        [
            {"before_seq": 2, "frames": -1, "cause": "x"},
            {"before_seq": 2, "frames": 1, "cause": ""},
            {"before_seq": 2, "frames": 1, "cause": "x" * 41},
            {"before_seq": 2, "frames": 1.5, "cause": "x"},
            {"before_seq": "2", "frames": 1, "cause": "x"},
            {"before_seq": True, "frames": 1, "cause": "x"},
            {"before_seq": 3, "frames": 1, "cause": "x"},
            {"before_seq": 2, "frames": 1 << 60, "cause": "x"},
            {"frames": 1, "cause": "x"},
        ],
    )
    async def test_a_bad_gap_is_refused(self, tmp_path: Path, gap: dict[str, object]) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1])
            await wire.send({"type": "gap"} | gap)
            assert [one["event"] for one in await wire.barrier() if one["type"] == "warning"] == ["packet_refused"]
            await client.stop(session)
            told = account(tmp_path, recording)
            assert (told["gaps"], sum(told["refused"].values())) == ([], 1)

    async def test_lost_packets_are_silence_and_the_next_one_follows(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1, 2])
            await wire.send({"type": "gap", "before_seq": 3, "frames": 10, "cause": "xrun"})
            await wire.send(lost(3, 6, 700))
            await wire.acked(5)  # durable, with nothing behind it
            await wire.send({"type": "gap", "before_seq": 6, "frames": 20, "cause": "xrun"})
            await wire.stream([6])
            await wire.acked(6)
            await client.stop(session)
        told = account(tmp_path, recording)
        assert told["gaps"] == [
            {"position": 2 * FRAMES, "frames": 10, "cause": "xrun", "before_seq": 3},
            {"position": 2 * FRAMES + 10, "frames": 700, "cause": "card", "before_seq": 6, "lost_from": 3},
            {"position": 2 * FRAMES + 710, "frames": 20, "cause": "xrun", "before_seq": 6},
        ]
        assert (told["packets"], told["next_seq"], told["refused"]) == (3, 7, {})
        assert samples(tmp_path, recording) == payload(1) + payload(2) + bytes(2 * 730) + payload(6)

    async def test_a_loss_told_again_changes_nothing(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1])
            await wire.send(lost(2, 4, 300))
            await wire.acked(3)
            wire.reset()
            again = await client.dial(session)
            assert again.hello["next_seq"] == 4
            await again.send(lost(2, 4, 300))
            await again.stream([3, 4])
            await again.send(lost(2, 4, 300))
            await again.acked(4)
            assert not [one for one in await again.barrier() if one["type"] == "warning"]
            await client.stop(session)
        assert account(tmp_path, recording)["gap_frames"] == {"card": 300}
        assert samples(tmp_path, recording) == payload(1) + bytes(600) + payload(4)

    async def test_of_a_loss_what_is_there_already_stays(self, tmp_path: Path) -> None:
        """A client that was not told of its last packets may have lost them since; and more behind them."""
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1, 2, 3])
            await wire.send(lost(2, 6, 4 * FRAMES))
            await wire.send(lost(2, 7, 4 * FRAMES + 50))
            await wire.stream([7])
            await wire.acked(7)
            await client.stop(session)
        gaps = [(gap["lost_from"], gap["before_seq"], gap["frames"]) for gap in account(tmp_path, recording)["gaps"]]
        assert gaps == [(4, 6, 2 * FRAMES), (6, 7, 50)]
        assert samples(tmp_path, recording) == b"".join(map(payload, (1, 2, 3))) + bytes(4 * FRAMES + 100) + payload(7)

    async def test_a_recording_that_is_lost_as_a_whole(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.send(lost(1, 3, 250))
            await wire.acked(2)
            await client.stop(session)
        assert samples(tmp_path, recording) == bytes(500)

    @pytest.mark.parametrize(
        ("gap", "reason"),
        [
            ({"lost_from": 4, "before_seq": 6}, "hole"),
            ({"lost_from": 0, "before_seq": 6}, "malformed gap"),
            ({"lost_from": 3, "before_seq": 3}, "malformed gap"),
            ({"lost_from": 5, "before_seq": 4}, "malformed gap"),
            ({"lost_from": "3", "before_seq": 6}, "malformed gap"),
            ({"lost_from": None, "before_seq": 6}, "malformed gap"),
            ({"lost_from": 3, "before_seq": 1 << 33}, "malformed gap"),
            ({"lost_from": 3, "before_seq": 6, "frames": 0}, "malformed gap"),
            ({"lost_from": 2, "before_seq": 6, "frames": FRAMES}, "malformed gap"),
            ({"lost_from": 3, "before_seq": 6, "frames": 1 << 60}, "too long"),
        ],
    )
    async def test_a_bad_loss_is_refused(self, tmp_path: Path, gap: dict[str, object], reason: str) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.stream([1, 2])
            await wire.send({"type": "gap", "frames": 300, "cause": "card"} | gap)
            assert [one["reason"] for one in await wire.barrier() if one["type"] == "warning"] == [reason]
            await wire.stream([3])
            await wire.acked(3)
            await client.stop(session)
            told = account(tmp_path, recording)
            assert (told["gaps"], told["refused"]) == ([], {reason: 1})

    async def test_clock_anchors_are_kept(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        anchor = {"boot_id": "b", "boot_s": 12.5, "utc_ms": 1e12, "trusted": True}
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.send({"type": "clock"} | anchor)
            await wire.send({"type": "clock", "much": "x" * 5000})
            await wire.barrier()
            await client.stop(session)
            (kept,) = account(tmp_path, recording)["clock"]
            assert kept.pop("received_at") > 0
            assert kept == anchor

    async def test_a_trusted_clock_puts_the_account_right_and_keeps_what_was_stamped(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        wrong = {"type": "clock", "boot_id": "b", "boot_s": 9.0, "utc_s": 9.0, "trusted": False}
        right = {"type": "clock", "boot_id": "b", "boot_s": 10.0, "utc_s": 1.7e9, "trusted": True}
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.send(wrong)
            await wire.stream([1, 2])
            await wire.barrier()
            before = time.time()
            await wire.send(right | {"was_utc_minus_boot_s": 0.0})
            await wire.stream([3])
            await client.stop(session)
            told = account(tmp_path, recording)
            # Packet n was stamped 1e9 + n * 0.1 s, which the second clock finds 1.7e9 - 10 s too early.
            assert told["clock_trusted"] is True
            assert told["started_at"] == pytest.approx(1e9 + 0.1 + 1.7e9 - 10.0)
            assert before - 20 < told["opened_at"] < before
            assert [one["stamped_at"] for one in told["stamps"]] == pytest.approx([1e9 + 0.1, 1e9 + 0.3])
            assert [one["captured_at"] for one in told["stamps"]] == pytest.approx([2.7e9 - 9.9, 1e9 + 0.3])
            assert len(told["clock"]) == 2

    async def test_without_a_trusted_clock_the_account_says_so(self, tmp_path: Path) -> None:
        recording = str(uuid4())
        async with serving(tmp_path) as (_, client):
            session, wire = await client.open(recording)
            await wire.send({"type": "clock", "boot_id": "b", "boot_s": 9.0, "utc_s": 9.0, "trusted": False})
            await wire.stream([1])
            await client.stop(session)
            told = account(tmp_path, recording)
            assert (told["clock_trusted"], told["started_at"]) == (False, told["opened_at"])


class TestForeignClient:
    """A client of the real server, which knows nothing of our extension."""

    async def test_every_arrival_is_appended_and_the_pong_means_durable(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (_, client):
            session = await client.start()
            wire = await client.dial(session, resume=0)
            await wire.init()
            await wire.stream([1, 2, 2, 7, 3])
            assert [one["type"] for one in await wire.barrier()] == ["pong"]
            folder = only_recording(tmp_path)
            assert list(wire_packets(folder)) == packets([1, 2, 2, 7, 3])
            await wire.send({"action": "stop_stream"})
            assert (await wire.closed()).reason == "Session stopped by server (finalize)"
            assert samples(tmp_path, folder.name) == b"".join(payload(seq) for seq in [1, 2, 2, 7, 3])

    async def test_audio_before_init_is_kept(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (_, client):
            wire = await client.dial(await client.start())
            await wire.stream([1])
            await wire.barrier()
            folder = only_recording(tmp_path)
            assert list(wire_packets(folder)) == packets([1])


class TestPings:
    async def test_all_three_kinds_come(self, tmp_path: Path) -> None:
        timing = Timing(heartbeat=0.2, ts_ping=0.1, piled_ping=0.3, no_audio=0.2)
        async with serving(tmp_path, timing=timing) as (_, client):
            _, wire = await client.open()
            await wire.stream([1, 2])
            warning = (await wire.until("warning"))[-1]
            assert warning == {"type": "warning", "event": "no_audio_detected"}
            await wire.until("ping", lambda message: message.get("ts", 0) > 1e11)
            beats = [ping for ping in wire.pings if "t" in ping]
            piled = [ping for ping in wire.pings if ping.get("ts", 0) > 1e11]
            plain = [ping for ping in wire.pings if 0 < ping.get("ts", 0) < 1e11]
            assert plain
            assert {ping["is_recording"] for ping in piled} == {False}
            assert beats[0].items() >= {"is_recording": True, "audio_ms": 200, "ws_connected": True}.items()

    async def test_an_idle_socket_is_closed_without_a_reason(self, tmp_path: Path) -> None:
        async with serving(tmp_path, timing=Timing(idle=0.2)) as (_, client):
            _, wire = await client.open()
            closed = await wire.closed()
            assert (closed.code, closed.reason) == (1000, "")


class TestBounds:
    async def test_too_many_sockets_and_sessions(self, tmp_path: Path) -> None:
        async with serving(tmp_path, limits=Limits(sockets=1, sessions=2)) as (_, client):
            session, _ = await client.open()
            with pytest.raises(Exception, match="503"):
                await client.dial(session)
            await client.start()
            code, body = await client.post("/api/recording/start", {"agent": "a", "event": "e"})
            assert (code, body) == (503, {"error": "too many sessions"})

    async def test_a_huge_message_ends_only_its_socket(self, tmp_path: Path) -> None:
        async with serving(tmp_path, limits=Limits(message_bytes=10_000)) as (_, client):
            _, good = await client.open()
            _, bad = await client.open()
            await bad.send(bytes(20_000))
            assert (await bad.closed()).code == 1009
            await good.stream([1])
            await good.acked(1)

    async def test_a_huge_body_is_refused(self, tmp_path: Path) -> None:
        async with serving(tmp_path) as (_, client):
            code, _ = await client.post("/api/recording/start", {"agent": "a", "event": "e" * 100_000})
            assert code == 413

    async def test_a_client_that_reads_nothing_loses_its_socket_and_nothing_else(self, tmp_path: Path) -> None:
        async with serving(tmp_path, limits=Limits(outbox_messages=20), timing=Timing(send=0.5)) as (receiver, client):
            session, deaf = await client.open()
            deaf.deafen()
            with pytest.raises(Exception, match=r"close frame|closed|[Ll]ost|reset"):
                while True:
                    await deaf.send({"type": "ping"})
            await eventually(lambda: connected_is(client, session, expected=False))
            _, good = await client.open()
            await good.stream([1])
            await good.acked(1)
            assert len(receiver.sessions()) == 2
