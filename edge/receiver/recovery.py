"""Reads a recording's store again after its receiver ended, however it ended, and cuts off what was torn."""

from __future__ import annotations

import json
import logging
import os
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID
from zlib import crc32

from edge.core.packet import HEADER_BYTES
from edge.receiver import journal, store, wav
from edge.receiver.account import Account
from edge.receiver.journal import Kind
from edge.receiver.store import RecordingStore

log = logging.getLogger("edge.receiver")
_FIELDS = struct.Struct("<4xIdH6xH")  # seq, stamp, samples, channels of a PCM1 header
_TAIL_PACKETS = 256
INTERRUPTED = "receiver ended"


class _Placed(NamedTuple):
    record_start: int
    offset: int
    size: int
    crc: int


def load(folder: Path, recording: str) -> RecordingStore:
    """The store in `folder`, ready to go on; an empty one where there is none.

    Blocking: reads the whole journal. Raises OSError, or ValueError where sound records contradict each other.
    """
    try:
        data = (folder / store.JOURNAL).read_bytes()
    except FileNotFoundError:
        return RecordingStore(folder, Account(recording, time.time()))
    path = folder / store.WAV
    sound = _sound_bytes(data, path)
    account = _replay(data[:sound], recording)  # may refuse: until then nothing is changed
    if sound < len(data):
        log.warning("recording %s: %d torn bytes cut off its journal", recording, len(data) - sound)
        os.truncate(folder / store.JOURNAL, sound)
    if account.audio is not None:
        data_bytes = account.frames * account.audio.frame_bytes
        path.touch(0o600)
        with path.open("r+b", buffering=0) as samples:
            samples.truncate(wav.HEADER_BYTES + data_bytes)
            os.pwrite(samples.fileno(), wav.header(account.audio, data_bytes), 0)
            os.fsync(samples.fileno())
        store.sync_directory(folder)
    account.interrupted(INTERRUPTED)
    return RecordingStore(folder, account, sound)


def recover_all(out: Path) -> int:
    """Bring every recording below `out` that was not closed in order into a sound state; returns how many were not."""
    torn = 0
    for folder in sorted(out.iterdir()):
        recording = recording_id(folder.name)
        if recording != folder.name or _is_closed(folder):
            continue
        try:
            found = load(folder, recording)
            found.write_account(found.render_account())
            found.close()
        except (OSError, ValueError, KeyError) as error:
            log.warning("recording %s cannot be recovered (%s); it is left as it is", recording, _why(error))
            continue
        torn += 1
    return torn


def recording_id(text: object) -> str | None:
    """`text` as a UUID in its one written form; None where it is none. Only this ever becomes a folder's name."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    try:
        return str(UUID(text))
    except ValueError:
        return None


def wire_packets(folder: Path) -> Iterator[bytes]:
    """The stored packets, header and payload as they came, in the order of their positions."""
    data = (folder / store.JOURNAL).read_bytes()
    with (folder / store.WAV).open("rb") as samples:
        for record in journal.scan(data):
            if record.kind == Kind.PACKET:
                place = _place(record, 0)
                yield record.body[8 : 8 + HEADER_BYTES] + os.pread(samples.fileno(), place.size, place.offset)


def _is_closed(folder: Path) -> bool:
    """True where the account tells exactly what the journal does, and nobody died. Strict folders have no journal."""
    try:
        size = (folder / store.JOURNAL).stat().st_size
    except OSError:
        return True
    try:
        account = json.loads((folder / store.ACCOUNT).read_bytes())
        is_ended = all(session["ended_by"] for session in account["sessions"])
        return bool(account["is_durable"] and account["journal_bytes"] == size and is_ended)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sound_bytes(data: bytes, path: Path) -> int:
    """How much of the journal is whole and has its samples. The last packets' samples are read and compared."""
    wav_bytes = path.stat().st_size if path.exists() else 0
    tail: deque[_Placed] = deque(maxlen=_TAIL_PACKETS)
    sound = 0
    for record in journal.scan(data):
        if record.kind == Kind.PACKET:
            place = _place(record, sound)
            if place.offset + place.size > wav_bytes:
                break
            tail.append(place)
        sound = record.end
    if not tail:
        return sound
    with path.open("rb") as samples:
        for place in tail:
            if crc32(os.pread(samples.fileno(), place.size, place.offset)) != place.crc:
                return place.record_start
    return sound


def _place(record: journal.Record, record_start: int) -> _Placed:
    packet = journal.parse_packet(record.body)
    _, _, frames, channels = _FIELDS.unpack(packet.header[: _FIELDS.size])
    frame_bytes = channels * 2
    return _Placed(
        record_start, wav.HEADER_BYTES + packet.position * frame_bytes, frames * frame_bytes, packet.payload_crc
    )


def _replay(data: bytes, recording: str) -> Account:
    account = Account(recording, time.time())
    for record in journal.scan(data):
        kind = Kind(record.kind)
        if kind is not Kind.PACKET:
            account.apply(kind, json.loads(record.body))
            continue
        packet = journal.parse_packet(record.body)
        seq, stamped_ms, frames, _ = _FIELDS.unpack(packet.header[: _FIELDS.size])
        if account.packet(seq, frames, stamped_ms) != packet.position:
            raise ValueError(f"packet {seq} stands at {packet.position}, which the records before it contradict")
    return account


def _why(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
