"""The audit itself: each thing that it must find is planted in evidence made by hand."""

from __future__ import annotations

import ast
import json
import struct
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.campaign import bounds
from tests.campaign.audio import Source
from tests.campaign.audit import (
    Kept,
    Packet,
    UnreadableError,
    audit_account,
    audit_packets,
    audit_samples,
    parse_packets,
    ranges,
)
from tests.campaign.bounds import Incident
from tests.campaign.evidence import kept_packets, stored_recording
from tests.campaign.schedule import TERM_S, Kind, draw
from tests.campaign.wire import Connection, Passed, Poll, Wire

SOURCE = Source("test", 16000 * 6 + 77)


def packet(seq: int, source: Source = SOURCE) -> Packet:
    """Packet `seq` as a faultless recorder sends it."""
    start = (seq - 1) * source.packet_frames
    frames = min(source.packet_frames, source.frames - start)
    stated = max(1, round(1000 * frames / source.rate))
    return Packet(seq, 1e12 + 100 * seq, frames, stated, source.rate, source.channels, source.at(start, frames))


def packets(first: int = 1, last: int = SOURCE.packets) -> list[Packet]:
    """Packets `first` to `last`."""
    return [packet(seq) for seq in range(first, last + 1)]


def test_only_the_mutants_import_the_product() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "__import__"
        assert path.name == "mutants.py" or not names & {"edge", "importlib", "runpy"}, path


def test_the_rig_does_not_import_the_product() -> None:
    for name in ("proxy", "process"):
        assert "edge" not in (Path(__file__).parents[1] / "rig" / f"{name}.py").read_text().split()


class TestSource:
    def test_no_packet_occurs_twice(self) -> None:
        contents = {packet(seq).payload for seq in range(1, SOURCE.packets + 1)}
        assert len(contents) == SOURCE.packets

    def test_the_same_seed_gives_the_same_audio_and_another_seed_another(self) -> None:
        assert Source("a", 1000).pcm == Source("a", 1000).pcm != Source("b", 1000).pcm
        assert Source("a", 5000).pcm.startswith(Source("a", 1000).pcm)

    def test_the_file_holds_it(self, tmp_path: Path) -> None:
        source = Source("s", 4801, 48000, 2)
        source.write(tmp_path / "s.wav")
        with wave.open(str(tmp_path / "s.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (48000, 2, 4801)
            assert file.readframes(4801) == source.pcm


class TestPackets:
    def test_whole_in_one_session(self) -> None:
        kept = audit_packets(SOURCE, [("a", packets())])
        assert kept == Kept(kept_frames=SOURCE.frames)

    def test_whole_in_three_sessions_with_an_overlap_that_is_counted(self) -> None:
        kept = audit_packets(SOURCE, [("a", packets(1, 20)), ("b", packets(18, 40)), ("c", packets(41))])
        assert not kept.problems
        assert kept.missing_frames == 0
        assert kept.repeated_frames == 3 * 1600
        assert [(repeat.session, repeat.seq) for repeat in kept.repeats] == [("b", 18), ("b", 19), ("b", 20)]

    def test_a_rewind_inside_a_session_counts_each_arrival(self) -> None:
        kept = audit_packets(SOURCE, [("a", [*packets(1, 20), *packets(15, 20), *packets(20)])])
        assert not kept.problems
        assert kept.repeated_frames == 7 * 1600
        assert [repeat.from_end for repeat in kept.repeats] == [0, 0, 0, 0, 0, 1, 0]

    @pytest.mark.parametrize("seq", [1, 30, SOURCE.packets])
    def test_one_missing_packet(self, seq: int) -> None:
        kept = audit_packets(SOURCE, [("a", [p for p in packets() if p.seq != seq])])
        assert kept.missing_frames == packet(seq).frames
        assert any(problem.startswith("missing") and str(seq) in problem for problem in kept.problems)

    def test_nothing_at_all(self) -> None:
        kept = audit_packets(SOURCE, [])
        assert kept.missing_frames == SOURCE.frames

    def test_swapped_packets(self) -> None:
        swapped = packets()
        swapped[9], swapped[10] = swapped[10], swapped[9]
        kept = audit_packets(SOURCE, [("a", swapped)])
        assert any("out of order" in problem and "packet 11" in problem for problem in kept.problems)

    def test_a_hole_that_is_filled_late_is_still_out_of_order(self) -> None:
        late = [*packets(1, 10), *packets(13, 20), *packets(11)]
        kept = audit_packets(SOURCE, [("a", late)])
        assert kept.missing_frames == 0
        assert any("out of order" in problem for problem in kept.problems)

    def test_a_hole_that_a_later_session_begins_before_is_good_again(self) -> None:
        lost_at_the_end = [*packets(1, 10), *packets(16, 20)]
        assert not audit_packets(SOURCE, [("a", lost_at_the_end), ("b", packets(8))]).problems
        kept = audit_packets(SOURCE, [("a", lost_at_the_end), ("b", packets(12))])
        assert any("packet 16 follows where 11 was due" in problem for problem in kept.problems)
        assert any("missing" in problem for problem in kept.problems)

    def test_contents_of_another_position_under_the_right_number(self) -> None:
        wrong = packets()
        wrong[4] = replace(wrong[4], payload=wrong[7].payload)
        kept = audit_packets(SOURCE, [("a", wrong)])
        assert kept.missing_frames == 1600
        assert any("packet 5" in p and f"the audio of frame {7 * 1600} instead" in p for p in kept.problems)

    def test_one_changed_bit(self) -> None:
        wrong = packets()
        payload = bytearray(wrong[4].payload)
        payload[100] ^= 1
        wrong[4] = replace(wrong[4], payload=bytes(payload))
        kept = audit_packets(SOURCE, [("a", wrong)])
        assert any("audio that the source does not have" in problem for problem in kept.problems)

    def test_a_wrong_copy_is_found_beside_a_right_one(self) -> None:
        kept = audit_packets(SOURCE, [("a", [*packets(), replace(packet(60), payload=packet(1).payload)])])
        assert kept.missing_frames == 0
        assert any("packet 60" in problem for problem in kept.problems)

    def test_a_number_that_the_source_does_not_have(self) -> None:
        extra = replace(packet(1), seq=SOURCE.packets + 1)
        assert audit_packets(SOURCE, [("a", [*packets(), extra])]).problems

    def test_a_padded_last_packet(self) -> None:
        last = packet(SOURCE.packets)
        padded = replace(last, frames=1600, duration_ms=100, payload=last.payload.ljust(3200, b"\0"))
        assert audit_packets(SOURCE, [("a", [*packets()[:-1], padded])]).problems

    @pytest.mark.parametrize("change", [{"rate": 8000}, {"channels": 2}, {"duration_ms": 90}])
    def test_a_wrong_header(self, change: dict[str, int]) -> None:
        kept = audit_packets(SOURCE, [("a", [*packets(1, 9), replace(packet(10), **change), *packets(11)])])  # type: ignore[arg-type]
        assert kept.problems

    def test_the_wire_form_is_read_back(self) -> None:
        data = b"".join(p.encode() for p in packets())
        assert list(parse_packets(data)) == packets()

    @pytest.mark.parametrize("spoil", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"x" + d])
    def test_broken_evidence_is_no_evidence(self, spoil: Callable[[bytes], bytes]) -> None:
        with pytest.raises(UnreadableError):
            list(parse_packets(spoil(packet(1).encode())))


class TestSamples:
    def test_whole(self) -> None:
        assert not audit_samples(SOURCE, SOURCE.pcm, 16000, 1).problems

    def test_a_missing_packet(self) -> None:
        kept = audit_samples(SOURCE, SOURCE.pcm[:32000] + SOURCE.pcm[35200:], 16000, 1)
        assert kept.missing_frames == 1600
        assert any("missing" in problem and "packets 11" in problem for problem in kept.problems)

    def test_a_packet_twice(self) -> None:
        kept = audit_samples(SOURCE, SOURCE.pcm[:35200] + SOURCE.pcm[32000:], 16000, 1)
        assert kept.missing_frames == 0
        assert kept.problems

    def test_silence_in_place_of_audio(self) -> None:
        kept = audit_samples(SOURCE, SOURCE.pcm[:32000] + bytes(3200) + SOURCE.pcm[35200:], 16000, 1)
        assert kept.missing_frames == 1600

    def test_audio_after_the_end(self) -> None:
        assert audit_samples(SOURCE, SOURCE.pcm + bytes(2), 16000, 1).problems

    def test_a_wrong_rate(self) -> None:
        assert audit_samples(SOURCE, SOURCE.pcm, 8000, 1).problems


def connection(wire: Wire, session: str, opened_at: float, first: int, last: int, **more: object) -> Connection:
    """A connection that sends packets `first` to `last`, one each 0.1 s, each confirmed 0.05 s after it was sent."""
    made = Connection(len(wire.connections), opened_at, session, False)
    unconfirmed = int(str(more.get("unconfirmed", 0)))
    for index, seq in enumerate(range(first, last + 1)):
        passed = Passed(opened_at + 0.1 * index, seq, packet(seq).frames)
        made.packet_sent(passed)
        made.handed.append(passed)
        if seq <= last - unconfirmed:
            made.text_sent({"type": "ping"})
            made.text_told({"type": "pong"}, passed.at + 0.05)
    made.closed_at = made.sent[-1].at + 0.1
    wire.connections.append(made)
    return made


SERVER = bounds.Server(3000, 6.0)


class TestBounds:
    def judged(self, wire: Wire, incidents: list[Incident], sessions: list[tuple[str, list[Packet]]]) -> list[str]:
        kept = audit_packets(SOURCE, sessions)
        assert not kept.problems
        carried, problems = bounds.carried_kept(wire, kept.repeats)
        for incident in incidents:
            bounds.allow(SOURCE, wire, incident, SERVER)
        return problems + bounds.judge(SOURCE, wire, incidents, carried, SERVER).problems

    def test_a_reset_may_repeat_what_was_in_flight_and_one_barrier_interval(self) -> None:
        for again, good in ((5, True), (6, False)):
            wire = Wire()
            connection(wire, "a", 100.0, 1, 20, unconfirmed=2)
            connection(wire, "a", 103.0, 21 - again, SOURCE.packets)
            reset = Incident(Kind.RESET, 101.95, 101.95)
            arrivals = [*packets(1, 20), *packets(21 - again)]
            assert (not self.judged(wire, [reset], [("a", arrivals)])) == good
            assert reset.in_flight == 2 * 1600
            assert reset.repeated == again * 1600

    def test_a_stall_may_repeat_two_seconds(self) -> None:
        for again, good in ((20, True), (21, False)):
            wire = Wire()
            connection(wire, "a", 100.0, 1, 30)
            connection(wire, "a", 105.0, 31 - again, SOURCE.packets)
            stall = Incident(Kind.STALL, 103.0, 105.5)
            arrivals = [*packets(1, 30), *packets(31 - again)]
            assert (not self.judged(wire, [stall], [("a", arrivals)])) == good

    def test_a_crash_may_repeat_what_was_not_polled_free(self) -> None:
        for begin, good in ((31, True), (30, False)):
            wire = Wire()
            connection(wire, "a", 100.0, 1, 40)
            connection(wire, "b", 105.0, begin, SOURCE.packets)
            # Asked at 103.5: packets up to 35 were confirmed, of which 30 lie before a cut.
            wire.polls.append(Poll(103.5, 103.6, "a", True, 0, True))
            kill = Incident(Kind.KILL, 104.0, 104.8)
            assert (not self.judged(wire, [kill], [("a", packets(1, 40)), ("b", packets(begin))])) == good
            assert kill.allowed == 10 * 1600

    def test_a_sigterm_may_repeat_what_was_open_when_the_process_died(self) -> None:
        for begin, good in ((31, True), (30, False)):
            wire = Wire()
            connection(wire, "a", 100.0, 1, 40)
            connection(wire, "b", 106.0, begin, SOURCE.packets)
            wire.polls.append(Poll(103.5, 103.6, "a", True, 0, True))  # 30 packets lie before a cut
            term = Incident(Kind.TERM, 102.0, 106.0, died_at=105.0)
            assert (not self.judged(wire, [term], [("a", packets(1, 40)), ("b", packets(begin))])) == good
            assert term.allowed == 10 * 1600

    def test_a_poll_between_two_sockets_frees_once_the_session_was_alive_after_it(self) -> None:
        wire = Wire()
        connection(wire, "a", 100.0, 1, 40)
        wire.polls.append(Poll(109.5, 109.6, "a", True, 0, False))
        assert bounds.open_audio(SOURCE, wire, 110.0, SERVER) == 40 * 1600
        second = connection(wire, "a", 109.8, 41, 60)
        sent = second.sent_by(115.0)
        assert sent
        assert bounds.open_audio(SOURCE, wire, 115.0, SERVER) == (40 + sent) * 1600
        second.text_told({"type": "ping", "t": 1, "is_recording": True}, 114.9)
        assert bounds.open_audio(SOURCE, wire, 115.0, SERVER) == (10 + sent) * 1600

    def test_what_an_unproved_socket_confirmed_is_not_delivered(self) -> None:
        wire = Wire()
        connection(wire, "a", 100.0, 1, 20)
        second = connection(wire, "a", 102.5, 21, 40)
        wire.polls.append(Poll(104.5, 104.6, "a", True, 0, True))
        assert bounds.open_audio(SOURCE, wire, 104.7, SERVER) == 40 * 1600
        second.text_told({"type": "ping", "t": 1, "is_recording": True}, 103.9)
        assert bounds.open_audio(SOURCE, wire, 104.7, SERVER) == 10 * 1600

    def test_short_faults_that_add_up_to_an_outage_may_repeat_as_much(self) -> None:
        for opened, good in ((110.0, True), (106.0, False)):
            wire = Wire()
            connection(wire, "a", 100.0, 1, 40)
            connection(wire, "b", opened, 11, SOURCE.packets)
            incidents = [Incident(Kind.REFUSAL, 104.2, 105.0), Incident(Kind.REFUSAL, 105.2, 105.9)]
            assert (not self.judged(wire, incidents, [("a", packets(1, 40)), ("b", packets(11))])) == good

    def test_repeats_without_any_fault_are_found(self) -> None:
        wire = Wire()
        connection(wire, "a", 100.0, 1, 20)
        connection(wire, "a", 103.0, 20, SOURCE.packets)
        late = Incident(Kind.RESET, 108.0, 108.0)
        problems = self.judged(wire, [late], [("a", [*packets(1, 20), *packets(20)])])
        assert any("before any fault" in problem for problem in problems)

    def test_slowness_excuses_nothing(self) -> None:
        wire = Wire()
        connection(wire, "a", 100.0, 1, 20)
        connection(wire, "a", 103.0, 20, SOURCE.packets)
        slow = Incident(Kind.SLOW, 101.0, 103.0)
        assert self.judged(wire, [slow], [("a", [*packets(1, 20), *packets(20)])])

    def test_incidents_of_one_recovery_share_their_allowance(self) -> None:
        wire = Wire()
        connection(wire, "a", 100.0, 1, 20)
        connection(wire, "a", 105.0, 15, SOURCE.packets)
        incidents = [Incident(Kind.RESET, 102.0, 102.0), Incident(Kind.RESET, 103.0, 103.0)]
        assert not self.judged(wire, incidents, [("a", [*packets(1, 20), *packets(15)])])
        assert incidents[1].repeated == 6 * 1600

    def test_more_kept_than_sent(self) -> None:
        wire = Wire()
        connection(wire, "a", 100.0, 1, SOURCE.packets)
        problems = self.judged(wire, [], [("a", [*packets(1, 20), *packets(20)])])
        assert any("more often than it was sent" in problem for problem in problems)

    def test_sure_cuts(self) -> None:
        assert [bounds.sure_cut(n, 0, 30, 25) for n in (29, 30, 54, 55, 80)] == [0, 30, 30, 55, 80]
        assert [bounds.sure_cut(n, 3, 30, 25) for n in (29, 30, 54, 55, 58)] == [0, 27, 30, 52, 52]

    def test_duplicates_to_a_server_that_said_what_it_has(self) -> None:
        wire = Wire()
        connection(wire, "a", 100.0, 1, 20)
        second = connection(wire, "a", 103.0, 18, 30)
        second.next_seq = 21
        assert [(carried.frames, carried.connection) for carried in bounds.carried_twice(wire)] == [(1600, 1)] * 3


def masked(opcode: int, payload: bytes) -> bytes:
    """A frame of a WebSocket client."""
    key = b"\x11\x22\x33\x44"
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack(">H", size)
    return bytes([0x80 | opcode]) + length + key + bytes(b ^ key[i % 4] for i, b in enumerate(payload))


def unmasked(message: object) -> bytes:
    """A text frame of a server."""
    payload = json.dumps(message).encode()
    assert len(payload) < 126
    return bytes([0x81, len(payload)]) + payload


class TestWire:
    @pytest.mark.parametrize("step", [1, 7, 1 << 20])
    def test_a_connection_is_read_however_it_is_cut(self, step: int) -> None:
        wire = Wire()
        up = b"GET /ws/audio_stream/abc?token=x&resume=1 HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
        up += masked(1, b'{"type":"init","acks":true}')
        up += b"".join(masked(2, packet(seq).encode()) for seq in range(7, 12)) + masked(1, b'{"type":"ping"}')
        up += masked(2, packet(12).encode())
        down = b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + unmasked({"type": "hello", "acks": True, "next_seq": 7})
        down += unmasked({"type": "ack", "seq": 9}) + unmasked({"type": "pong"})
        wire.opened(1, 1.0)
        for call, data in ((wire.sent, up), (wire.handed, up), (wire.told, down)):
            for offset in range(0, len(data), step):
                call(1, data[offset : offset + step], 2.0)
        (seen,) = wire.connections
        assert (seen.session, seen.resume, seen.next_seq) == ("abc", True, 7)
        assert [p.seq for p in seen.sent] == [p.seq for p in seen.handed] == [7, 8, 9, 10, 11, 12]
        assert [count for _, count in seen.confirmed] == [3, 5]
        assert seen.in_flight(3.0) == 1600
        assert seen.init == {"type": "init", "acks": True}
        assert wire.peak_unconfirmed == 6 * 1600

    def test_status_polls_on_one_kept_connection(self) -> None:
        wire = Wire()
        wire.opened(1, 1.0)
        body = json.dumps({"exists": True, "connected": False, "backlog": {"pending_segments": 2}}).encode()
        for at in (2.0, 4.0):
            wire.sent(1, b"GET /session/abc/status HTTP/1.1\r\nHost: x\r\n\r\n", at)
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            wire.told(1, answer[:20], at + 1)
            wire.told(1, answer[20:], at + 1)
        gone = b'{"exists":false}'
        wire.sent(1, b"GET /session/abc/status HTTP/1.1\r\n\r\n", 6.0)
        wire.told(1, b"HTTP/1.1 404 X\r\ncontent-length: %d\r\n\r\n" % len(gone) + gone, 7.0)
        first = Poll(2.0, 3.0, "abc", True, 2, False)
        assert wire.polls == [
            first, replace(first, asked_at=4.0, told_at=5.0), Poll(6.0, 7.0, "abc", False, 0, False)
        ]  # fmt: skip


class TestEvidence:
    def test_kept_packets_in_the_order_of_the_sessions(self, tmp_path: Path) -> None:
        folder = tmp_path / "recording"
        folder.mkdir()
        (folder / "sessions.json").write_text('["b", "a"]')
        (folder / "a.kept.pcm1").write_bytes(packet(2).encode())
        (folder / "b.kept.pcm1").write_bytes(packet(1).encode())
        assert kept_packets(tmp_path) == [("b", [packet(1)]), ("a", [packet(2)])]

    def test_a_file_that_no_session_owns(self, tmp_path: Path) -> None:
        folder = tmp_path / "recording"
        folder.mkdir()
        (folder / "sessions.json").write_text("[]")
        (folder / "a.kept.pcm1").write_bytes(b"")
        with pytest.raises(UnreadableError):
            kept_packets(tmp_path)

    def test_two_recordings_where_one_was_made(self, tmp_path: Path) -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        with pytest.raises(UnreadableError):
            stored_recording(tmp_path)

    def test_a_stored_recording(self, tmp_path: Path) -> None:
        (tmp_path / "recording").mkdir()
        SOURCE.write(tmp_path / "recording" / "audio.wav")
        account = {"frames": SOURCE.frames, "gaps": [], "duplicates_ignored": 2, "rate": 16000, "channels": 1}
        (tmp_path / "recording" / "account.json").write_text(json.dumps(account))
        stored = stored_recording(tmp_path)
        assert (stored.pcm, stored.rate, stored.channels) == (SOURCE.pcm, 16000, 1)
        assert not audit_account(SOURCE, stored.account, 2)
        assert audit_account(SOURCE, stored.account, 1)  # more duplicates than were sent
        assert audit_account(SOURCE, account | {"frames": 5}, 2)
        assert audit_account(SOURCE, account | {"gaps": [{"position": 7, "frames": 1, "cause": "overflow"}]}, 2)


class TestSchedule:
    def test_the_same_seed_gives_the_same_faults(self) -> None:
        assert draw(7, 75, 6.0) == draw(7, 75, 6.0) != draw(8, 75, 6.0)

    def test_twenty_seeds_have_every_kind_of_fault(self) -> None:
        faults = [fault for seed in range(20) for fault in draw(seed, 75, 6.0)]
        assert {fault.kind for fault in faults} == set(Kind)
        assert any(fault.kind is Kind.OUTAGE and fault.seconds > 7 for fault in faults)
        assert any(fault.half_open and fault.blackhole and not fault.everything for fault in faults)

    def test_faults_are_over_before_the_audio(self) -> None:
        for seed in range(50):
            for fault in draw(seed, 60, 6.0):
                assert fault.at + fault.seconds + (TERM_S if fault.kind is Kind.TERM else 0) < 60


def test_ranges() -> None:
    assert ranges([]) == ""
    assert ranges([5]) == "5"
    assert ranges([1, 2, 3, 7, 9, 10]) == "1-3, 7, 9-10"
