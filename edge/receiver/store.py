"""The durable store of one recording: its WAV file is the data, a journal says what is what.

    OUT/RECORDING/audio.wav      80 header bytes, then the samples, gaps as silence (holes in the file)
    OUT/RECORDING/journal        `edge.receiver.journal`
    OUT/RECORDING/account.json   the account, derived from the journal, replaced as a whole

The loop's side (`packet`, `fact`, ..., `take`, `committed`) only works in memory; `write` runs in a thread and does the
I/O. A batch is durable when `write` has returned: samples synced, then records written and synced. So a record that can
be read again has its samples. A batch whose `write` failed is written again, whole, at the same places: after a failed
sync the kernel forgets which pages it owes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from edge.core.packet import HEADER_BYTES, AudioFormat, Header
from edge.receiver import journal, wav
from edge.receiver.account import Account
from edge.receiver.journal import Kind

WAV = "audio.wav"
JOURNAL = "journal"
ACCOUNT = "account.json"
MAX_WAV_BYTES = 8 << 40  # half of what ext4 can address; a gap beyond that is nonsense
_IOV_MAX = 1024
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


@dataclass(slots=True)
class Batch:
    """What one commit writes. `parts` are stretches of samples: offset in the data, then buffers in a row."""

    ticket: int
    next_seq: int
    records: list[bytes]
    parts: list[tuple[int, list[memoryview]]]
    audio: AudioFormat | None
    data_bytes: int
    payload_bytes: int


@dataclass(slots=True)
class _Run:
    """Duplicates in a row that no record tells of yet."""

    session_id: str
    first_seq: int
    first_at: float
    last_seq: int
    last_at: float


@dataclass(slots=True)
class _Gathering:
    records: list[bytes] = field(default_factory=list)
    parts: list[tuple[int, list[memoryview]]] = field(default_factory=list)
    part_end: int = -1
    payload_bytes: int = 0


class RecordingStore:
    """One recording in `folder`; `journal_bytes` is how much of its journal is sound (0: there is none)."""

    def __init__(self, folder: Path, account: Account, journal_bytes: int = 0) -> None:
        self.folder = folder
        self.account = account
        self.accepted = 0  # counts everything that was taken in; a batch's ticket says how much of it it covers
        self.durable = 0
        self.durable_next = account.next_seq
        self._gathering = _Gathering()
        self._duplicates: _Run | None = None
        self._refused: dict[str, int] = {}
        self._unsynced_bytes = 0
        # The thread's side.
        self._journal = self._wav = -1
        self._journal_bytes = journal_bytes
        self._audio = account.audio
        self._data_bytes = account.frames * account.audio.frame_bytes if account.audio else 0
        self._header_bytes = -1 if journal_bytes == 0 else self._data_bytes
        self._header_at = -1e9
        if journal_bytes == 0:
            self.fact(
                Kind.OPENED,
                {"version": journal.VERSION, "recording": account.recording, "started": account.started_at},
            )

    # --- the loop's side ---

    @property
    def unsynced_bytes(self) -> int:
        """Payload in RAM that is not durable."""
        return self._unsynced_bytes

    @property
    def header_is_current(self) -> bool:
        """True while the WAV header announces all that was committed; without a format there is no WAV file yet."""
        return self._audio is None or self._header_bytes == self._data_bytes

    def has_room(self, frames: int) -> bool:
        """False where `frames` more would make the file larger than any sane recording."""
        audio = self.account.audio
        size = audio.frame_bytes if audio else 2
        return (self.account.frames + frames) * size <= MAX_WAV_BYTES

    def packet(self, header: Header, wire: bytes) -> None:
        """Append packet `header`, which came as `wire`."""
        if self._duplicates is not None:
            self._tell_duplicates()
        payload = memoryview(wire)[HEADER_BYTES:]
        position = self.account.packet(header.seq, header.frames, header.captured_unix_ms)
        self._add(journal.packet(position, wire[:HEADER_BYTES], crc32(payload)))
        gathering = self._gathering
        offset = position * header.channels * 2
        if offset != gathering.part_end or len(gathering.parts[-1][1]) >= _IOV_MAX:
            gathering.parts.append((offset, []))
        gathering.parts[-1][1].append(payload)
        gathering.part_end = offset + len(payload)
        gathering.payload_bytes += len(payload)
        self._unsynced_bytes += len(payload)

    def fact(self, kind: Kind, value: dict[str, Any]) -> None:
        """Something other than a packet happened."""
        record = journal.fact(kind, value)
        self.account.apply(kind, value)
        self._add(record)

    def duplicate(self, session_id: str, seq: int) -> None:
        """Packet `seq` came although it is there. Told with the next batch."""
        now, run = time.time(), self._duplicates
        if run is not None and (run.session_id != session_id or seq != run.last_seq + 1):
            self._tell_duplicates()
            run = None
        if run is None:
            self._duplicates = _Run(session_id, seq, now, seq, now)
        else:
            run.last_seq, run.last_at = seq, now

    def refuse(self, reason: str) -> None:
        """A packet was not taken. Told with the next batch."""
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def take(self) -> Batch | None:
        """All that came since the last `take`; None when there was nothing."""
        self._tell_duplicates()
        refused, self._refused = self._refused, {}
        for reason, packets in refused.items():
            self.fact(Kind.REFUSED, {"reason": reason, "packets": packets})
        gathering = self._gathering
        if not gathering.records:
            return None
        self._gathering = _Gathering()
        account = self.account
        data_bytes = account.frames * account.audio.frame_bytes if account.audio else 0
        return Batch(
            self.accepted,
            account.next_seq,
            gathering.records,
            gathering.parts,
            account.audio,
            data_bytes,
            gathering.payload_bytes,
        )

    def committed(self, batch: Batch) -> None:
        """`batch` is durable."""
        self.durable = batch.ticket
        self.durable_next = batch.next_seq
        self._unsynced_bytes -= batch.payload_bytes

    def _add(self, record: bytes) -> None:
        self._gathering.records.append(record)
        self.accepted += 1

    def _tell_duplicates(self) -> None:
        run, self._duplicates = self._duplicates, None
        if run is not None:
            packets = run.last_seq - run.first_seq + 1
            self.fact(
                Kind.DUPLICATES,
                {
                    "session_id": run.session_id,
                    "first_seq": run.first_seq,
                    "last_seq": run.last_seq,
                    "packets": packets,
                    "first_at": run.first_at,
                    "last_at": run.last_at,
                },
            )

    # --- the thread's side ---

    def write(self, batch: Batch, header_age: float) -> None:
        """Make `batch` durable. Raises OSError: then nothing of it counts, and it has to be written again.

        The WAV header is brought up to date when it is older than `header_age` seconds.
        """
        self._open()
        if batch.audio is not None and self._write_samples(batch, batch.audio, header_age):
            os.fdatasync(self._wav)
        records = b"".join(batch.records)
        _write_all(self._journal, [memoryview(records)], self._journal_bytes)
        os.fdatasync(self._journal)
        self._journal_bytes += len(records)

    def write_header(self) -> None:
        """Let the WAV header announce all that was committed; not synced, since it can be derived again."""
        if self._audio is not None:
            self._open_wav()
            _write_all(self._wav, [memoryview(wav.header(self._audio, self._data_bytes))], 0)
        self._header_bytes, self._header_at = self._data_bytes, time.monotonic()

    def write_account(self, account: bytes) -> None:
        """Replace the JSON account."""
        self._open()
        replace_durably(self.folder / ACCOUNT, account)

    def render_account(self) -> bytes:
        """The account as JSON, with the places of the data. Called by the loop, for `write_account`."""
        files = {"wav": WAV, "journal": JOURNAL, "journal_bytes": self._journal_bytes}
        state = {"updated_at": time.time(), "is_durable": self.durable == self.accepted}
        value = self.account.to_json() | files | state
        return (json.dumps(value, indent=1) + "\n").encode()

    def close(self) -> None:
        """Give back the files; a later `write` opens them again."""
        for descriptor in (self._wav, self._journal):
            if descriptor >= 0:
                os.close(descriptor)
        self._wav = self._journal = -1

    def _open(self) -> None:
        if self._journal < 0:
            self.folder.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._journal = self._open_file(JOURNAL)

    def _open_wav(self) -> None:
        if self._wav < 0:
            self._wav = self._open_file(WAV)

    def _open_file(self, name: str) -> int:
        path = self.folder / name
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            if is_new:
                sync_directory(self.folder)
                sync_directory(self.folder.parent)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        return descriptor

    def _write_samples(self, batch: Batch, audio: AudioFormat, header_age: float) -> bool:
        """Samples, length and header; returns whether anything was written."""
        self._open_wav()
        for offset, buffers in batch.parts:
            _write_all(self._wav, buffers, wav.HEADER_BYTES + offset)
        wanted = wav.HEADER_BYTES + batch.data_bytes
        is_resized = os.fstat(self._wav).st_size != wanted
        if is_resized:  # a gap at the end became longer or shorter: a hole in the file is silence
            os.ftruncate(self._wav, wanted)
        self._audio, self._data_bytes = audio, batch.data_bytes
        if not self.header_is_current and time.monotonic() - self._header_at >= header_age:
            self.write_header()
        return is_resized or bool(batch.parts)


def replace_durably(path: Path, content: bytes) -> None:
    """Put `content` at `path` so that at every moment either the old or the new is there, whole."""
    fresh = path.with_name(f".{path.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE)
    try:
        _write_all(descriptor, [memoryview(content)], 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, buffers: Sequence[memoryview], offset: int) -> None:
    """All of at most 1024 `buffers` at `offset`; a short write is continued, so a full disk ends in its OSError."""
    rest = list(buffers)
    while rest:
        written = os.pwritev(descriptor, rest, offset)
        offset += written
        while rest and written >= len(rest[0]):
            written -= len(rest[0])
            rest.pop(0)
        if rest and written:
            rest[0] = rest[0][written:]
