"""One recording while it is open: what may be stored, in which order, and who is told when it is durable."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from concurrent.futures import Executor
from enum import StrEnum
from typing import Any, TypeGuard

from edge.core.packet import FORMAT_S16LE, HEADER_BYTES, MAGIC, MAX_SEQ, AudioFormat, decode_header
from edge.errors import PacketError
from edge.receiver import wav
from edge.receiver.committer import Committer
from edge.receiver.config import Limits, Timing
from edge.receiver.journal import Kind
from edge.receiver.store import RecordingStore

MAX_CAUSE_CHARS = 40
MAX_CLOCK_CHARS = 4096
_MAGIC_AND_FORMAT = struct.Struct("<I22xH4x")


class Taken(StrEnum):
    """What became of a packet or a gap; everything but the first two is a reason for refusing it."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    HOLE = "hole"
    SHORT_HEADER = "short header"
    MAGIC = "wrong magic"
    FORMAT = "format is not 1"
    MALFORMED = "lengths do not match"
    CHANGED = "rate or channels changed"
    TOO_LONG = "too long"
    BAD_GAP = "malformed gap"
    LATE_GAP = "gap changed after its packet was stored"


class Recording:
    """Takes packets and gaps into `store` in order. At most one session at a time feeds it."""

    def __init__(
        self,
        store: RecordingStore,
        executor: Executor,
        timing: Timing,
        limits: Limits,
        on_durable: Callable[[], None],
        on_trouble: Callable[[str | None], None],
    ) -> None:
        self.store = store
        self.recording_id = store.account.recording
        self._limits = limits
        self.committer = Committer(store, executor, timing, on_durable, on_trouble)

    @property
    def next_seq(self) -> int:
        """The first packet that was not taken in."""
        return self.store.account.next_seq

    def packet(self, session_id: str, wire: bytes, *, in_order: bool) -> Taken:
        """Take one packet in. `in_order`: only the next one will do (a client with acks); else as it comes."""
        try:
            header = decode_header(wire)
        except PacketError:
            return self._refuse(_why_malformed(wire))
        account = self.store.account
        if in_order:
            if header.seq < account.next_seq:
                self.store.duplicate(session_id, header.seq)
                return Taken.DUPLICATE
            if header.seq > account.next_seq:
                return self._refuse(Taken.HOLE)
        audio = account.audio
        is_new = audio is None or audio.rate_hz != header.rate_hz or audio.channels != header.channels
        if is_new and (account.packets or not self._set_format(header.rate_hz, header.channels)):
            return self._refuse(Taken.CHANGED)
        if not self.store.has_room(header.frames):
            return self._refuse(Taken.TOO_LONG)
        self.store.packet(header, wire)
        self.committer.wake()
        return Taken.STORED

    def gap(self, message: dict[str, Any]) -> Taken:
        """A gap before the next packet. The last value for a cause counts, so that it may be sent again.

        With `lost_from` it stands for the packets from that one on, which will never come.
        """
        before, frames, cause = message.get("before_seq"), message.get("frames"), message.get("cause")
        if not (_is_count(before) and _is_count(frames) and isinstance(cause, str)):
            return self._refuse(Taken.BAD_GAP)
        if not 0 < len(cause) <= MAX_CAUSE_CHARS or not cause.isprintable():
            return self._refuse(Taken.BAD_GAP)
        account = self.store.account
        if "lost_from" in message:
            return self._lost(message["lost_from"], before, frames, cause)
        if before > account.next_seq:
            return self._refuse(Taken.HOLE)
        if before < account.next_seq:
            known = any(
                gap.before_seq == before and gap.cause == cause and gap.frames == frames for gap in account.gaps
            )
            return Taken.DUPLICATE if known or not frames else self._refuse(Taken.LATE_GAP)
        already = account.pending_gaps.get(cause, 0)
        if already == frames:
            return Taken.DUPLICATE
        if not self.store.has_room(frames - already):
            return self._refuse(Taken.TOO_LONG)
        self.store.fact(Kind.GAP, {"before_seq": before, "frames": frames, "cause": cause})
        self.committer.wake()
        return Taken.STORED

    def _lost(self, first: object, before: int, frames: int, cause: str) -> Taken:
        """Packets `first` to the one before `before`. What of them is there already, as audio or as a loss, stays."""
        if not (_is_count(first) and 0 < first < before <= MAX_SEQ + 1 and frames):
            return self._refuse(Taken.BAD_GAP)
        account = self.store.account
        there = 0 if first == account.next_seq else account.frames_from(first)
        if there is None or first > account.next_seq:
            return self._refuse(Taken.HOLE)
        if before <= account.next_seq:
            return Taken.DUPLICATE
        if frames <= there or (there and account.pending_gaps):
            return self._refuse(Taken.BAD_GAP)
        new = frames - there
        if not self.store.has_room(new):
            return self._refuse(Taken.TOO_LONG)
        fact = {"lost_from": account.next_seq, "before_seq": before, "frames": new, "cause": cause}
        self.store.fact(Kind.LOST, fact)
        self.committer.wake()
        return Taken.STORED

    def init(self, session_id: str, message: dict[str, Any], *, acks: bool) -> None:
        """What a client says before its audio: the format for gaps before any audio, and from which packet on it sends.

        A first packet beyond the next one means that the ones between will never come: they stand as a gap.
        """
        account = self.store.account
        rate, channels = message.get("sample_rate"), message.get("channels")
        if account.audio is None and _is_count(rate) and _is_count(channels) and rate and channels:
            self._set_format(rate, channels)
        if not acks:
            return
        self.store.fact(Kind.SESSION_BEGUN, {"session_id": session_id, "at": time.time(), "acks": True})
        first, each = message.get("next_seq"), message.get("frame_samples")
        if _is_count(first) and account.next_seq < first <= MAX_SEQ:
            frames = (first - account.next_seq) * (each if _is_count(each) and each <= 0xFFFF else 0)
            if self.store.has_room(frames):
                self.store.fact(Kind.BASE, {"next_seq": first, "frames": frames})
        self.committer.wake()

    def clock(self, message: dict[str, Any], size: int) -> None:
        """An anchor of the recorder's clock, stored as it is."""
        if size <= MAX_CLOCK_CHARS:
            value = {key: item for key, item in message.items() if key != "type"}
            self.store.fact(Kind.CLOCK, {"received_at": time.time()} | value)
            self.committer.wake()

    def session_begun(self, session_id: str) -> None:
        """A session of this recording was opened."""
        self.store.fact(Kind.SESSION_BEGUN, {"session_id": session_id, "at": time.time(), "acks": False})
        self.committer.wake()

    def session_ended(self, session_id: str, by: str) -> None:
        """It is over; `by` says why."""
        self.store.fact(Kind.SESSION_ENDED, {"session_id": session_id, "at": time.time(), "by": by})
        self.committer.wake()

    def _set_format(self, rate_hz: int, channels: int) -> bool:
        if not wav.fits(AudioFormat(rate_hz, channels)):
            return False
        self.store.fact(Kind.FORMAT, {"rate": rate_hz, "channels": channels})
        return True

    def _refuse(self, reason: Taken) -> Taken:
        self.store.refuse(reason)
        return reason


def _why_malformed(wire: bytes) -> Taken:
    if len(wire) < HEADER_BYTES:
        return Taken.SHORT_HEADER
    magic, code = _MAGIC_AND_FORMAT.unpack_from(wire)
    if magic != MAGIC:
        return Taken.MAGIC
    return Taken.MALFORMED if code == FORMAT_S16LE else Taken.FORMAT


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
