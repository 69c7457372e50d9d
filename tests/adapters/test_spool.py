"""The spool on a real folder: what was durable stays, bit for bit; what is damaged costs itself and nothing else."""

from __future__ import annotations

import errno
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.adapters.spool import CardFull, CardRecording, SpoolDirectory
from edge.core.journal import BootEntry, EndEntry, GapEntry, MarkEntry
from edge.core.manifest import CardState, Manifest
from edge.core.packet import encode_header
from edge.core.recovery import DAMAGED, UNEXPLAINED, Recovered
from edge.core.segment import BLOCK_BYTES, CardPacket, record_bytes
from edge.errors import UnreadableError
from tests.core.cards import AUDIO, RECORDING, meta, packet

P = 170
RECORD = record_bytes(AUDIO, P)
CAPACITY = 10
SEGMENT = 2 * BLOCK_BYTES  # the device counts in whole blocks
OTHER = "6f0c2c1e-8c0e-4d0a-9a53-0123456789ab"
BOOT = BootEntry(0, "boot", 1.7e9, True)


def spool_at(path: Path, max_bytes: int = 1 << 30, **options: Any) -> SpoolDirectory:
    return SpoolDirectory(path / "spool", max_bytes, **{"segment_bytes": SEGMENT, "ballast_bytes": 0, **options})


@pytest.fixture
def spool(tmp_path: Path) -> SpoolDirectory:
    return spool_at(tmp_path)


def begun(spool: SpoolDirectory, recording_id: str = RECORDING, **fields: Any) -> CardRecording:
    return spool.create(meta(P, recording_id, **fields), [BOOT])


def write(card: CardRecording, first: int, last: int, *, sync: bool = True, **options: Any) -> None:
    packets = [packet(seq, P) for seq in range(first, last + 1)]
    card.append(packets, [found.position for found in packets], **options)
    if sync:
        card.sync()


def load(spool: SpoolDirectory, recording_id: str = RECORDING, **options: Any) -> tuple[CardRecording, Recovered]:
    return spool.load(spool.recordings / recording_id, **options)


def read(card: CardRecording, first: int, last: int) -> list[CardPacket | None]:
    found = list(card.read(first, last))
    assert [seq for seq, _ in found] == list(range(first, last + 1))
    return [item for _, item in found]


def wanted(first: int, last: int, without: tuple[int, ...] = ()) -> list[CardPacket | None]:
    return [None if seq in without else packet(seq, P) for seq in range(first, last + 1)]


def spoil(card: CardRecording, seq: int, place: int = 50) -> None:
    [segment] = [each for each in card.segments if each.header.first_seq <= seq <= each.last_seq]
    with segment.path.open("r+b") as file:
        file.seek(segment.header.place(seq) + place)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def pool(spool: SpoolDirectory) -> list[Path]:
    return sorted((spool.path / "pool").iterdir())


def on_disk(spool: SpoolDirectory) -> int:
    """What it takes, counted outside."""
    return sum(path.lstat().st_blocks * 512 for path in spool.path.rglob("*") if path.suffix == ".seg")


# --- a recording's life -----------------------------------------------------------------------------------------------


def test_what_was_synced_is_there_after_a_crash(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 25)
    loaded, found = load(spool)  # the writer never closed anything
    assert found.ledger.last == 25
    assert found.ledger.is_cut
    assert (found.ended_by, found.torn, found.damaged_lines) == ("", 0, 0)
    assert found.boots == {0: BOOT}
    assert read(loaded, 1, 25) == wanted(1, 25)
    assert [(segment.header.first_seq, segment.count) for segment in loaded.segments] == [(1, 10), (11, 10), (21, 5)]
    assert read(card, 9, 23) == wanted(9, 23)  # and by the writer itself, while it writes
    assert read(card, 24, 27) == [*wanted(24, 25), None, None]


def test_a_recording_is_sealed_delivered_and_removed(spool: SpoolDirectory) -> None:
    before = descriptors()
    card = begun(spool)
    write(card, 1, 13)
    card.note([EndEntry(13 * P, "stop")])
    card.seal("stop")
    assert card.segments[-1].path.stat().st_size == BLOCK_BYTES + 3 * RECORD
    card.seal("stop")  # may be repeated
    loaded, found = load(spool)
    assert (loaded.manifest.state, loaded.manifest.ended_by, found.ended_by) == (CardState.SEALED, "stop", "stop")
    assert found.ledger.kept_frames == 13 * P
    quick, quickly = load(spool, is_quick=True)
    assert (quickly.ledger.last, quick.segments[-1].count) == (13, 3)
    assert not any(segment.is_damaged for segment in quick.segments)
    card.correct({"agent": "b"})
    card.deliver(5.0)
    loaded, found = load(spool)
    assert loaded.manifest.settings == {"agent": "b"}
    assert found.ledger.delivered == 13
    card.remove()
    assert spool.folders() == []
    assert list(spool.recordings.iterdir()) == []
    card.close()
    assert descriptors() == before


def test_a_sealed_segment_that_was_never_shortened_is_not_damaged_to_a_quick_look(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 3)
    card.close()
    card.seal("crash")
    loaded, found = load(spool, is_quick=True)
    assert found.ledger.last == 3
    assert not loaded.segments[0].is_damaged


def test_segments_are_freed_whole_and_used_again(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 25)
    assert card.oldest() == (1, 10)
    card.free(9)
    assert pool(spool) == []
    card.free(19)
    assert len(pool(spool)) == 1
    assert card.oldest() == (11, 20)
    [free] = pool(spool)
    inode = free.stat().st_ino
    write(card, 26, 35)
    assert pool(spool) == []
    assert card.segments[-1].path.stat().st_ino == inode
    loaded, found = load(spool)
    assert (found.ledger.delivered, found.ledger.last) == (10, 35)
    assert read(loaded, 11, 35) == wanted(11, 35)
    card.free(100)  # the current one stays
    assert (card.oldest(), len(card.segments)) == (None, 1)


def test_what_an_earlier_life_left_in_a_file_is_never_taken_for_audio(spool: SpoolDirectory) -> None:
    first = begun(spool)
    write(first, 1, 20)
    first.remove()
    assert len(pool(spool)) == 2
    again = begun(spool)  # the same packets, the same numbers, but for the nonce
    write(again, 1, 4)
    _, found = load(spool)
    assert found.ledger.last == 4
    assert found.torn <= 1  # as far as it looks like the packet that would come next


def test_a_torn_tail_is_cut_off_and_counted(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 14)
    card.close()
    spoil(card, 14)
    with card.segments[-1].path.open("r+b") as file:
        file.seek(card.segments[-1].header.place(15))
        file.write(b"begun?")
    loaded, found = load(spool)
    assert (found.ledger.last, found.torn) == (13, 1)
    assert read(loaded, 11, 14) == [*wanted(11, 13), None]
    assert found.ledger.expected == 13 * P  # nothing is invented behind it


def test_a_segment_of_which_nothing_was_durable_is_none(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 11)
    spoil(card, 11)
    loaded, found = load(spool)
    assert found.ledger.last == 10
    assert len(loaded.segments) == 1


def test_a_file_of_its_own_that_was_taken_again_and_not_begun_is_passed_over(spool: SpoolDirectory) -> None:
    """What is freed is used again by the same recording; until its header is written it still has the old one."""
    card = begun(spool)
    write(card, 1, 25)
    first = card.segments[0].path.read_bytes()
    card.free(10)
    (card.folder / "000003.seg").write_bytes(first)
    loaded, found = load(spool)
    assert (found.ledger.delivered, found.ledger.last) == (10, 25)
    assert read(loaded, 11, 25) == wanted(11, 25)


@pytest.mark.parametrize("header", [bytes(BLOCK_BYTES), None])
def test_a_file_that_was_taken_and_not_begun_is_passed_over(spool: SpoolDirectory, header: bytes | None) -> None:
    """Its header is none, or still the one of another recording."""
    other = begun(spool, OTHER)
    write(other, 1, 3)
    foreign = other.segments[0].path.read_bytes() if header is None else header
    card = begun(spool)
    write(card, 1, 10)
    (card.folder / "000001.seg").write_bytes(foreign)
    loaded, found = load(spool)
    assert found.ledger.last == 10
    write(card, 11, 12)  # the writer takes the name for itself
    loaded, found = load(spool)
    assert read(loaded, 9, 12) == wanted(9, 12)


def test_a_file_that_was_freed_and_taken_again_by_the_same_recording_is_passed_over(spool: SpoolDirectory) -> None:
    """A SIGKILL between the two left the header, and the whole records, of its earlier place."""
    card = begun(spool)
    write(card, 1, 10)
    freed = card.segments[0].path.read_bytes()
    write(card, 11, 20)
    card.free(10)
    (card.folder / "000002.seg").write_bytes(freed)
    loaded, found = load(spool)
    assert found.ledger.last == 20
    assert read(loaded, 11, 20) == wanted(11, 20)


def test_after_a_failed_sync_all_that_was_not_durable_is_written_again_elsewhere(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 4)
    write(card, 5, 8, sync=False)
    spoil(card, 6)
    card.retreat(4)
    write(card, 5, 14)
    assert read(card, 1, 14) == wanted(1, 14)  # not what was tried first
    assert [(segment.header.first_seq, segment.count) for segment in card.segments] == [(1, 4), (5, 10)]
    loaded, found = load(spool)
    assert found.ledger.last == 14
    assert [(segment.header.first_seq, segment.count) for segment in loaded.segments] == [(1, 4), (5, 10)]
    assert read(loaded, 1, 14) == wanted(1, 14)
    card.free(4)
    assert [segment.header.first_seq for segment in card.segments] == [5]


def test_a_retreat_gives_back_what_was_begun_behind_it(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 4)
    write(card, 5, 25, sync=False)
    card.note([MarkEntry(1, 1)])
    card.retreat(4)
    assert len(pool(spool)) == 2
    write(card, 5, 25)
    loaded, found = load(spool)
    assert read(loaded, 1, 25) == wanted(1, 25)
    assert found.ledger.delivered == 1


def test_after_a_retreat_nothing_goes_into_a_file_that_was_given_back(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 25)  # in order, and synced: three segments
    card.retreat(12)
    write(card, 13, 17)
    card, found = load(spool)
    assert found.ledger.last == 17
    assert all(packet is not None for _, packet in card.read(1, 17))


def test_what_failed_beside_the_audio_does_not_begin_a_new_segment(spool: SpoolDirectory) -> None:
    card = begun(spool)
    for seq in range(1, 9):
        write(card, seq, seq)
        card.retreat(seq)
    assert len(card.segments) == 1
    assert read(card, 1, 8) == wanted(1, 8)


def test_what_was_delivered_before_it_could_be_written_is_a_hole_on_the_card(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 4)
    write(card, 8, 9)
    assert read(card, 3, 10) == [*wanted(3, 4), None, None, None, *wanted(8, 9), None]
    assert read(card, 5, 6) == [None, None]
    _, found = load(spool)
    assert found.ledger.last == 9


def test_gaps_come_back(spool: SpoolDirectory) -> None:
    card = begun(spool)
    card.note([])
    card.note([GapEntry(3, 2 * P, 100, "xrun")])
    late = packet(3, P, 2 * P + 100)
    card.append([packet(1, P), packet(2, P), late], [0, P, 2 * P])
    card.sync()
    loaded, found = load(spool)
    assert found.ledger.lost == {"xrun": 100}
    assert read(loaded, 3, 3) == [late]
    (card.folder / "journal").unlink()  # then the audio itself tells where it has gaps
    _, found = load(spool)
    assert (found.ledger.lost, found.damaged_lines) == ({UNEXPLAINED: 100}, 1)
    assert found.ledger.packet(3).position == late.position


# --- damage -----------------------------------------------------------------------------------------------------------


def sealed(spool: SpoolDirectory, last: int = 25) -> CardRecording:
    card = begun(spool)
    write(card, 1, last)
    card.note([EndEntry(last * P, "stop")])
    card.seal("stop")
    return card


def test_a_damaged_packet_costs_itself_and_its_segment_is_set_aside(spool: SpoolDirectory) -> None:
    spoil(sealed(spool), 7)
    card, found = load(spool)
    assert found.ledger.last == 25
    assert read(card, 1, 25) == wanted(1, 25, without=(7,))
    card.free(10)
    names = sorted(path.name for path in spool.quarantine.iterdir())
    assert names == [f"{RECORDING}-000000.seg", f"{RECORDING}-000000.seg.reason.txt"]
    assert pool(spool) == []


def test_a_damaged_packet_at_the_end_of_what_was_sealed_is_lost(spool: SpoolDirectory) -> None:
    spoil(sealed(spool), 25)
    card, found = load(spool)
    assert (found.ledger.last, found.ledger.lost, found.ended_by) == (24, {DAMAGED: P}, "stop")
    assert read(card, 21, 24) == wanted(21, 24)
    _, quickly = load(spool, is_quick=True)
    assert quickly.ledger.last == 24


def test_damage_in_the_last_segment_of_what_was_sealed_is_no_end(spool: SpoolDirectory) -> None:
    spoil(sealed(spool), 22)
    card, found = load(spool)
    assert (found.ledger.last, found.ledger.lost) == (25, {})
    assert read(card, 21, 25) == wanted(21, 25, without=(22,))
    card.remove()
    assert [path.name for path in spool.quarantine.glob("*.seg")] == [f"{RECORDING}-000002.seg"]


@pytest.mark.parametrize("index", [0, 1])
def test_a_segment_without_its_header_is_lost_and_set_aside(spool: SpoolDirectory, index: int) -> None:
    card = sealed(spool)
    with card.segments[index].path.open("r+b") as file:
        file.write(b"?")
    card, found = load(spool)
    gone = tuple(range(1 + 10 * index, 11 + 10 * index))
    assert (found.ledger.last, found.ledger.expected) == (25, 25 * P)
    assert read(card, 1, 25) == wanted(1, 25, without=gone)
    if index == 0:  # what comes first without a header would else pass for delivered
        assert (found.ledger.delivered_frames, found.ledger.lost) == (0, {DAMAGED: 10 * P})
        assert [(hole.first, hole.last) for hole in found.missing] == [(1, 10)]
    card.remove()
    assert f"{RECORDING}-{index:06d}.seg" in [path.name for path in spool.quarantine.iterdir()]


def test_a_whole_last_segment_that_cannot_be_read_is_lost_and_set_aside(spool: SpoolDirectory) -> None:
    card = sealed(spool, 12)
    spoil(card, 11)
    spoil(card, 12)
    card, found = load(spool)
    assert (found.ledger.last, found.ledger.lost) == (10, {DAMAGED: 2 * P})
    card.remove()
    assert f"{RECORDING}-000001.seg" in [path.name for path in spool.quarantine.iterdir()]


def test_a_bad_sector_costs_its_packets_only(spool: SpoolDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    card = sealed(spool)
    bad = card.segments[0].header.place(5) + 3
    pread = os.pread

    def failing(descriptor: int, count: int, place: int) -> bytes:
        if place <= bad < place + count:
            raise OSError(errno.EIO, "Input/output error")
        return pread(descriptor, count, place)

    monkeypatch.setattr(os, "pread", failing)
    assert read(card, 1, 12) == wanted(1, 12, without=(5,))


def test_too_many_open_files_are_no_damage(spool: SpoolDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    card = sealed(spool)

    def full(*args: Any, **options: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="Too many"):
        read(card, 1, 5)
    assert not card.segments[0].is_damaged


def test_a_segment_that_was_given_up_while_it_was_read_is_none(spool: SpoolDirectory) -> None:
    card = sealed(spool)
    card.segments[1].path.unlink()
    assert read(card, 9, 22) == wanted(9, 22, without=tuple(range(11, 21)))


@pytest.mark.parametrize(
    ("spoiled", "words"), [("manifest.json", "version|checksum|Expecting|decode"), ("missing", "No such file")]
)
def test_a_damaged_manifest_is_set_aside_with_a_reason(spool: SpoolDirectory, spoiled: str, words: str) -> None:
    bystander = begun(spool, OTHER)
    write(bystander, 1, 3)
    card = begun(spool)
    write(card, 1, 15)
    path = card.folder / "manifest.json"
    if spoiled == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    with pytest.raises(UnreadableError, match=words) as caught:
        load(spool)
    aside = spool.set_aside(card.folder, str(caught.value))
    assert len(list(aside.glob("*.seg"))) == 2
    assert aside.with_name(f"{aside.name}.reason.txt").read_text() == f"{caught.value}\n"
    assert spool.folders() == [bystander.folder]
    again = spool.recordings / RECORDING
    again.mkdir()
    assert spool.set_aside(again, "again").name == f"{RECORDING}-2"
    assert load(spool, OTHER)[1].ledger.last == 3


def test_a_copy_under_another_name_is_not_taken_for_the_recording(spool: SpoolDirectory) -> None:
    card = begun(spool)
    card.folder.rename(spool.recordings / OTHER)
    with pytest.raises(UnreadableError, match="copy of"):
        load(spool, OTHER)


def test_segments_of_another_format_are_set_aside_with_their_recording(spool: SpoolDirectory) -> None:
    card = begun(spool)
    write(card, 1, 3)
    card._set(replace(card.manifest, packet_frames=9))
    with pytest.raises(UnreadableError, match="another format"):
        load(spool)


def test_a_damaged_journal_costs_no_audio(spool: SpoolDirectory) -> None:
    card = begun(spool)
    card.note([GapEntry(2, P, P, "xrun")])  # one packet's worth: the packets would add up without it
    card.append([packet(1, P), packet(2, P, 2 * P)], [0, P])
    card.sync()
    path = card.folder / "journal"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    _, found = load(spool)
    assert (found.damaged_lines, found.ledger.lost, found.ledger.last) == (1, {UNEXPLAINED: P}, 2)
    assert found.ledger.packet(2).position == 2 * P


# --- space ------------------------------------------------------------------------------------------------------------


def test_the_limit_holds_but_for_sealing(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.prepare()
    spool.max_bytes = spool._used + 3 * SEGMENT
    card = begun(spool)
    with pytest.raises(CardFull):
        write(card, 1, 100)
    card.retreat(0)
    write(card, 1, 20)
    write(card, 21, 30)
    assert on_disk(spool) == 3 * SEGMENT
    with pytest.raises(CardFull):
        write(card, 31, 31)
    card.retreat(card.segments[-1].last_seq)
    last = card.segments[-1].last_seq
    write(card, last + 1, last + 10, beyond_limit=True)
    assert load(spool)[1].ledger.last == last + 10


def test_the_space_is_counted_as_it_is_whatever_happens(tmp_path: Path) -> None:
    spool = spool_at(tmp_path, 1 << 24, segment_bytes=2 * SEGMENT)
    spool.prepare()
    start = spool._used - on_disk(spool)
    for number in range(12):
        card = begun(spool, f"{number:08d}-8c0e-4d0a-9a53-0123456789ab")
        write(card, 1, 35)
        if number % 3 == 0:
            card.retreat(12)
            write(card, 13, 17)
        card.free(30)
        card.seal("stop")
        assert spool._used - start == on_disk(spool)
        if number % 2:
            card.deliver(1.0)
            card.remove()
        assert spool._used - start == on_disk(spool)
    again = spool_at(tmp_path, 1 << 24, segment_bytes=2 * SEGMENT)
    again.prepare()
    assert abs(again._used - spool._used) < 1 << 20


def test_without_a_limit_it_takes_four_fifths_of_what_is_free(tmp_path: Path) -> None:
    spool = spool_at(tmp_path, 0)
    spool.prepare()
    assert spool.max_bytes == pytest.approx(0.8 * spool.free_bytes(), rel=0.05)
    assert 0 < spool.room_bytes() <= spool.max_bytes


def test_the_ballast_is_given_up_once_and_held_back_again(tmp_path: Path) -> None:
    spool = spool_at(tmp_path, ballast_bytes=1 << 20)
    spool.prepare()
    ballast = spool.path / "ballast"
    assert ballast.stat().st_blocks * 512 >= 1 << 20
    assert spool.give_up_ballast()
    assert not spool.give_up_ballast()
    spool.restore_ballast()
    assert ballast.stat().st_size == 1 << 20


def test_half_a_ballast_does_not_pass_for_one(tmp_path: Path) -> None:
    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def posix_fallocate(self, *args: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    spool = spool_at(tmp_path, ballast_bytes=1 << 20, system=Full())
    spool.prepare()
    assert not (spool.path / "ballast").exists()
    assert not spool.give_up_ballast()


def test_what_is_kept_goes_when_it_is_old_or_its_room_is_needed(spool: SpoolDirectory) -> None:
    ids = [f"{number}f0c2c1e-8c0e-4d0a-9a53-0123456789ab" for number in range(4)]
    for number, delivered in enumerate([1000.0, 0.0, 200000.0, None]):
        card = begun(spool, ids[number], number=number + 1)
        card.seal("stop")
        if delivered is not None:
            card.deliver(delivered)
    (spool.recordings / "damaged").mkdir()
    assert spool.next_number() == 5

    def left() -> list[str]:
        return [folder.name for folder in spool.folders()]

    assert spool.expire(1.0, None) == 0  # without a trusted clock nobody knows
    assert spool.expire(1.0, 200000.0) == 1
    assert left() == ["damaged", ids[1], ids[2], ids[3]]
    assert spool.make_room()  # the oldest that is delivered
    assert left() == ["damaged", ids[2], ids[3]]
    assert spool.expire(0.0, None) == 1
    assert not spool.make_room()
    assert left() == ["damaged", ids[3]]


def test_what_was_half_made_or_half_removed_is_gone_at_the_next_start(tmp_path: Path) -> None:
    spool = spool_at(tmp_path)
    spool.prepare()
    (spool.recordings / f".{RECORDING}.new").mkdir()
    (spool.recordings / f".{OTHER}.gone").mkdir()
    assert spool.folders() == []
    again = spool_at(tmp_path)
    again.prepare()
    assert list(spool.recordings.iterdir()) == []


def test_a_draft_is_no_recording_before_it_is_published(spool: SpoolDirectory) -> None:
    draft = spool.draft(meta(P), [BOOT])
    write(draft, 1, 5)
    draft.close()
    assert spool.folders() == []
    spool.publish(draft)
    assert read(draft, 1, 5) == wanted(1, 5)
    assert load(spool)[1].ledger.last == 5


def test_an_empty_spool_has_no_recordings(tmp_path: Path) -> None:
    assert spool_at(tmp_path).next_number() == 1


# --- a day ------------------------------------------------------------------------------------------------------------


def day_of(spool: SpoolDirectory, hours: int) -> Manifest:
    """`hours` of audio at 16 kHz in packets of 100 ms, fast: only the first and the last segment hold real records."""
    frames = 1600
    card = spool.create(meta(frames), [BOOT])
    capacity, last = card._capacity, hours * 36000
    payload = bytes(2 * frames)

    def records(first: int, stop: int) -> Iterator[CardPacket]:
        for seq in range(first, stop):
            wire = encode_header(seq, 1.0e12, frames, AUDIO) + payload
            yield CardPacket(wire, (seq - 1) * frames, seq * 100_000)

    first = 1
    while first <= last:
        stop = min(first + capacity, last + 1)
        is_real = first == 1 or stop > last
        chosen = list(records(first, stop if is_real else first + 1))
        card.append(chosen, [item.position for item in chosen])
        card.sync()
        if not is_real:
            card._close_segment()
        first = stop
    card.close()
    return card.manifest


def timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def test_a_day_of_audio_opens_quickly_and_in_little_memory(tmp_path: Path) -> None:
    took, peaks = {}, {}
    for hours in (1, 24):
        spool = SpoolDirectory(tmp_path / str(hours), 1 << 40, ballast_bytes=0)
        spool.system = sparse = _Sparse()
        day_of(spool, hours)
        assert sparse.allocated >= hours * 27
        fresh = SpoolDirectory(tmp_path / str(hours), 1 << 40, ballast_bytes=0)
        took[hours] = min(timed(lambda fresh=fresh: load(fresh)) for _ in range(3))  # type: ignore[misc]
        tracemalloc.start()
        card, found = load(fresh)
        peaks[hours] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.ledger.last == hours * 36000
        assert found.ledger.kept_frames == hours * 3600 * 16000
        assert next(card.read(hours * 36000, hours * 36000))[1] is not None
    print({hours: f"{took[hours]:.2f} s, {peaks[hours] >> 10} KiB" for hours in took})
    assert took[24] < 2.0
    assert peaks[24] < 4 << 20


class _Sparse:
    """The disk, but what is preallocated takes no space."""

    def __init__(self) -> None:
        self.allocated = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def posix_fallocate(self, descriptor: int, offset: int, size: int) -> None:
        self.allocated += 1
        os.ftruncate(descriptor, offset + size)
