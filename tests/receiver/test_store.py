"""The store at every point of time: written, torn at any byte, read again."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.core.packet import AudioFormat, decode_header
from edge.receiver import journal, wav
from edge.receiver.account import Account
from edge.receiver.journal import Kind
from edge.receiver.recovery import load, recording_id, recover_all, wire_packets
from edge.receiver.store import ACCOUNT, JOURNAL, WAV, RecordingStore
from tests.receiver.client import packet

RECORDING = "12345678-1234-5678-1234-567812345678"
SESSION = "87654321-1234-5678-1234-567812345678"
MONO = AudioFormat(16000, 1)


def commit(store: RecordingStore) -> None:
    batch = store.take()
    if batch is not None:
        store.write(batch, header_age=0)
        store.committed(batch)


def put(store: RecordingStore, wire: bytes) -> None:
    header = decode_header(wire)
    if store.account.audio is None:
        store.fact(Kind.FORMAT, {"rate": header.rate_hz, "channels": header.channels})
    store.packet(header, wire)


def filled(folder: Path, lengths: list[int], gaps: dict[int, int]) -> list[tuple[int, int, int]]:
    """A store with packets of `lengths` frames; after each commit the sizes of journal and WAV file, and the packet."""
    store = RecordingStore(folder, Account(RECORDING, 1.0))
    store.fact(Kind.SESSION_BEGUN, {"session_id": SESSION, "at": 2.0, "acks": True})
    commits = []
    for seq, frames in enumerate(lengths, 1):
        if seq in gaps:
            store.fact(Kind.GAP, {"before_seq": seq, "frames": gaps[seq], "cause": "xrun"})
        put(store, packet(seq, frames))
        commit(store)
        commits.append(((folder / JOURNAL).stat().st_size, (folder / WAV).stat().st_size, seq))
    store.close()
    return commits


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    gaps=st.dictionaries(st.integers(1, 8), st.integers(1, 50)),
    data=st.data(),
)
def test_a_store_torn_at_any_byte_has_all_that_was_committed_before(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], gaps: dict[int, int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("torn") / RECORDING
    commits = filled(folder, lengths, gaps)
    journal_bytes, wav_bytes = commits[-1][:2]
    # A commit writes samples before records, so the WAV file may be ahead of the journal, never behind it.
    cut = data.draw(st.integers(0, journal_bytes))
    whole = [seq for size, _, seq in commits if size <= cut]
    safe = whole[-1] if whole else 0
    torn_from = commits[safe][1] if safe < len(commits) else wav_bytes
    wav_cut = data.draw(st.integers(max(commits[safe - 1][1] if safe else 0, 0), torn_from))
    journal_file = (folder / JOURNAL).read_bytes()[:cut]
    (folder / JOURNAL).write_bytes(journal_file)
    (folder / WAV).write_bytes((folder / WAV).read_bytes()[:wav_cut])

    store = load(folder, RECORDING)
    stored = [decode_header(wire).seq for wire in wire_packets(folder)]
    assert stored == list(range(1, len(stored) + 1))
    assert len(stored) >= safe
    assert store.account.next_seq == len(stored) + 1
    assert store.account.packets == len(stored)
    # And it goes on.
    put(store, packet(len(stored) + 1, 5))
    commit(store)
    store.write_header()
    store.close()
    assert [decode_header(wire).seq for wire in wire_packets(folder)] == list(range(1, len(stored) + 2))
    with wave.open(str(folder / WAV)) as file:
        assert file.getnframes() == store.account.frames


def test_a_store_with_losses_torn_at_any_byte_stands_where_a_commit_ended(tmp_path: Path) -> None:
    folder = tmp_path / RECORDING
    store = RecordingStore(folder, Account(RECORDING, 1.0))
    commits = []
    for seq in range(1, 9):
        if seq % 3:
            put(store, packet(seq, 10))
        else:
            store.fact(Kind.LOST, {"lost_from": seq, "before_seq": seq + 1, "frames": 10, "cause": "card"})
        commit(store)
        commits.append((folder / JOURNAL).stat().st_size)
    store.close()
    content, audio = (folder / JOURNAL).read_bytes(), (folder / WAV).read_bytes()
    for cut in range(commits[0], commits[-1] + 1):
        (folder / JOURNAL).write_bytes(content[:cut])
        (folder / WAV).write_bytes(audio)
        again = load(folder, RECORDING)
        whole = sum(size <= cut for size in commits)
        assert (again.account.next_seq, again.account.frames) == (whole + 1, 10 * whole)
        assert (folder / WAV).stat().st_size == wav.HEADER_BYTES + 20 * whole
        assert again.account.frames_from(whole) == 10
        again.close()


def test_samples_that_never_reached_the_disk_cut_their_records(tmp_path: Path) -> None:
    """After a power cut a file system may know a file's length, but not its content."""
    folder = tmp_path / RECORDING
    filled(folder, [100] * 5, {})
    content = bytearray((folder / WAV).read_bytes())
    content[wav.HEADER_BYTES + 3 * 200 + 50 :] = bytes(len(content) - wav.HEADER_BYTES - 3 * 200 - 50)
    (folder / WAV).write_bytes(content)
    store = load(folder, RECORDING)
    assert store.account.next_seq == 4
    assert (folder / WAV).stat().st_size == wav.HEADER_BYTES + 3 * 200
    store.close()


def test_a_session_whose_client_tells_no_clock_is_not_corrected_by_the_one_before(tmp_path: Path) -> None:
    store = RecordingStore(tmp_path / RECORDING, Account(RECORDING, 1.0))
    right = {"boot_id": "b", "boot_s": 9.0, "utc_s": 2e9, "trusted": True}
    store.fact(Kind.SESSION_BEGUN, {"session_id": "one", "at": 2.0, "acks": False})
    store.fact(Kind.CLOCK, right)
    store.fact(Kind.SESSION_BEGUN, {"session_id": "one", "at": 2.0, "acks": True})  # by its init
    put(store, packet(1, 10))
    store.fact(Kind.SESSION_BEGUN, {"session_id": "two", "at": 3.0, "acks": False})
    put(store, packet(2, 10))
    store.fact(Kind.CLOCK, right | {"utc_s": 2.1e9})
    assert [(stamp["first_seq"], stamp["boot_id"]) for stamp in store.account.to_json()["stamps"]] == [
        (1, "b"),
        (2, None),
    ]
    store.close()


def test_the_account_is_the_same_when_the_journal_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / RECORDING
    store = RecordingStore(folder, Account(RECORDING, 1.0))
    store.fact(Kind.SESSION_BEGUN, {"session_id": SESSION, "at": 2.0, "acks": False})
    store.fact(Kind.SESSION_BEGUN, {"session_id": SESSION, "at": 2.5, "acks": True})
    store.fact(Kind.FORMAT, {"rate": 16000, "channels": 1})
    store.fact(Kind.GAP, {"before_seq": 1, "frames": 9, "cause": "xrun"})
    put(store, packet(1, 10))
    store.duplicate(SESSION, 1)
    store.refuse("hole")
    store.refuse("hole")
    put(store, packet(2, 10))
    store.fact(Kind.BASE, {"next_seq": 9, "frames": 70})
    store.fact(Kind.CLOCK, {"utc_ms": 5})
    wrong = {"boot_id": "b", "boot_s": 9.0, "utc_s": 9.0, "trusted": False}
    store.fact(Kind.CLOCK, wrong)
    put(store, packet(9, 10))
    store.fact(Kind.CLOCK, wrong | {"utc_s": 2e9, "trusted": True})
    store.fact(Kind.GAP, {"before_seq": 10, "frames": 3, "cause": "microphone"})
    store.fact(Kind.SESSION_ENDED, {"session_id": SESSION, "at": 3.0, "by": "stop"})
    commit(store)
    store.close()
    before = store.account.to_json()
    assert [gap["position"] for gap in before["gaps"]] == [0, 29, 109]
    assert before["frames"] == 112
    assert [stamp["captured_at"] is None for stamp in before["stamps"]] == [True, False]
    again = load(folder, RECORDING)
    assert again.account.to_json() == before
    again.close()


def test_recovery_writes_account_and_header_only_where_needed(tmp_path: Path) -> None:
    folder = tmp_path / RECORDING
    filled(folder, [100] * 3, {})
    (tmp_path / "not a recording").mkdir()
    (tmp_path / "token").write_text("x")
    assert recover_all(tmp_path) == 1
    account = json.loads((folder / ACCOUNT).read_bytes())
    assert account["sessions"][0]["ended_by"] == "receiver ended"
    with wave.open(str(folder / WAV)) as file:
        assert file.getnframes() == 300
    assert recover_all(tmp_path) == 0


def test_a_store_that_contradicts_itself_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / RECORDING
    filled(folder, [100] * 3, {})
    wire = packet(4, 100)
    misplaced = (folder / WAV).read_bytes()[wav.HEADER_BYTES + 24 :][:200]
    with (folder / JOURNAL).open("ab") as file:
        file.write(journal.packet(12, wire[:32], crc32(misplaced)))
        file.write(b"torn")
    before = [(folder / name).read_bytes() for name in (JOURNAL, WAV)]
    assert recover_all(tmp_path) == 0
    assert [(folder / name).read_bytes() for name in (JOURNAL, WAV)] == before


@pytest.mark.parametrize("text", ["../x", "", "x" * 99, None, 7, RECORDING + "/..", "/etc/passwd"])
def test_only_uuids_become_folders(text: object) -> None:
    assert recording_id(text) is None


def test_every_spelling_of_a_uuid_is_one_folder() -> None:
    assert recording_id(RECORDING.upper()) == recording_id("{" + RECORDING + "}") == RECORDING


@given(st.binary(max_size=300))
def test_no_bytes_break_the_scan(data: bytes) -> None:
    good = journal.fact(Kind.CLOCK, {"a": 1})
    assert next(journal.scan(good + data)).kind == Kind.CLOCK


class TestWav:
    def test_a_small_header_is_plain_riff(self) -> None:
        header = wav.header(AudioFormat(48000, 2), 400)
        assert len(header) == wav.HEADER_BYTES
        assert (header[:4], header[12:16]) == (b"RIFF", b"JUNK")
        assert int.from_bytes(header[4:8], "little") == 472
        assert int.from_bytes(header[76:80], "little") == 400

    def test_beyond_4_gib_it_is_rf64_with_64_bit_sizes(self) -> None:
        size = 5 << 30
        header = wav.header(MONO, size)
        assert (header[:8], header[12:16]) == (b"RF64\xff\xff\xff\xff", b"ds64")
        assert int.from_bytes(header[20:28], "little") == size + 72
        assert int.from_bytes(header[28:36], "little") == size
        assert int.from_bytes(header[36:44], "little") == size // 2
        assert header[76:80] == b"\xff\xff\xff\xff"

    def test_the_limit_is_exact(self) -> None:
        largest = 0xFFFF_FFFF - 72
        assert wav.header(MONO, largest)[:4] == b"RIFF"
        assert wav.header(MONO, largest + 1)[:4] == b"RF64"

    def test_a_file_that_grows_beyond_4_gib_keeps_its_samples_in_place(self, tmp_path: Path) -> None:
        folder = tmp_path / RECORDING
        store = RecordingStore(folder, Account(RECORDING, 1.0))
        put(store, packet(1, 100))
        commit(store)
        store.fact(Kind.GAP, {"before_seq": 2, "frames": 3 << 30, "cause": "microphone"})
        put(store, packet(2, 100))
        commit(store)
        store.write_header()
        store.close()
        assert (folder / WAV).stat().st_blocks * 512 < 1 << 20  # the silence is a hole in the file
        with (folder / WAV).open("rb") as file:
            assert file.read(4) == b"RF64"
            file.seek(wav.HEADER_BYTES)
            assert file.read(200) == packet(1, 100)[32:]
            file.seek(wav.HEADER_BYTES + 200 + (6 << 30))
            assert file.read(201) == packet(2, 100)[32:]
        again = load(folder, RECORDING)
        assert again.account.frames == 200 + (3 << 30)
        again.close()

    @pytest.mark.parametrize(("rate", "channels"), [(0xFFFF_FFFF, 1), (16000, 40000)])
    def test_what_does_not_fit(self, rate: int, channels: int) -> None:
        assert not wav.fits(AudioFormat(rate, channels))
