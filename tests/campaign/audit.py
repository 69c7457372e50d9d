"""Was every frame kept, at its place, bit for bit, and what was kept more than once?

Two forms of evidence. From an unmodified server: the packets whose transcript was written, session by session, in the
order of their arrival (`audit_packets`). From a server that acknowledges: the recording as one stretch of samples
(`audit_samples`). Both are compared with the source alone.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.campaign.audio import Source

_HEADER = struct.Struct("<IIdHHIHHI")
_MAGIC = 0x314D4350
_SHOWN = 8  # problems of one kind that are spelled out


class UnreadableError(Exception):
    """The evidence itself is broken."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One PCM1 packet as it came over the wire."""

    seq: int
    captured_unix_ms: float
    frames: int
    duration_ms: int
    rate: int
    channels: int
    payload: bytes

    @classmethod
    def parse(cls, data: bytes | memoryview) -> tuple[Packet, int]:
        """The packet at the beginning of `data` and how many bytes it takes; raises UnreadableError."""
        if len(data) < _HEADER.size:
            raise UnreadableError(f"{len(data)} bytes where a header should be")
        magic, seq, stamp, frames, duration, rate, channels, code, size = _HEADER.unpack_from(data)
        if magic != _MAGIC or code != 1 or size != frames * channels * 2:
            raise UnreadableError(f"no PCM1: magic {magic:#x}, format {code}, {frames} x {channels} in {size} bytes")
        end = _HEADER.size + size
        if len(data) < end:
            raise UnreadableError(f"packet {seq} announces {size} bytes, {len(data) - _HEADER.size} follow")
        return cls(seq, stamp, frames, duration, rate, channels, bytes(data[_HEADER.size : end])), end

    @staticmethod
    def header(data: bytes) -> tuple[int, int, int] | None:
        """Sequence number, frames and payload bytes of a header; None when it is none."""
        magic, seq, _, frames, _, _, _, _, size = _HEADER.unpack_from(data)
        return (seq, frames, size) if magic == _MAGIC else None

    def encode(self) -> bytes:
        """The bytes on the wire."""
        fields = (self.seq, self.captured_unix_ms, self.frames, self.duration_ms, self.rate, self.channels)
        return _HEADER.pack(_MAGIC, *fields, 1, len(self.payload)) + self.payload


def parse_packets(data: bytes) -> Iterator[Packet]:
    """All packets that lie one after the other in `data`; raises UnreadableError at the first that is none."""
    view = memoryview(data)
    offset = 0
    while offset < len(data):
        packet, size = Packet.parse(view[offset:])
        yield packet
        offset += size


@dataclass(frozen=True, slots=True)
class Repeat:
    """A packet that was kept again, as one of `copies` arrivals of `seq` in its session: 0 `from_end` is the last."""

    session: str
    seq: int
    frames: int
    from_end: int
    copies: int


@dataclass(slots=True)
class Kept:
    """What the audit found. No problem and no missing frame is the only good result."""

    problems: list[str] = field(default_factory=list)
    missing_frames: int = 0
    kept_frames: int = 0
    repeats: list[Repeat] = field(default_factory=list)

    @property
    def repeated_frames(self) -> int:
        """Frames that were kept again."""
        return sum(repeat.frames for repeat in self.repeats)


def audit_packets(source: Source, sessions: Sequence[tuple[str, Sequence[Packet]]]) -> Kept:
    """Judge what an unmodified server kept: `sessions` in their order, each with its packets in order of arrival.

    The transcript of the recording is the sessions' transcripts one after the other. So over all arrivals in that
    order no packet may come before its predecessor has come once: that would be a hole, even where it is filled later.
    One exception: a server that finalises a session loses the segments that are pending and keeps the tail behind them;
    that hole is good again when a later session begins at or before it.
    """
    found = Kept()
    covered: set[int] = set()
    numbers: set[int] = set()
    wrong: list[str] = []
    holes: list[tuple[int, str, int, int]] = []  # index of the session, its name, what came, what was due
    due = 1
    for index, (session, packets) in enumerate(sessions):
        copies = Counter(packet.seq for packet in packets)
        left = copies.copy()
        for packet in packets:
            left[packet.seq] -= 1
            found.kept_frames += packet.frames
            complaint = _judge(source, packet)
            if complaint is not None:
                wrong.append(f"session {session}, packet {packet.seq}: {complaint}")
            else:
                covered.add(packet.seq)
            if packet.seq > due and (index, due) not in {(hole[0], hole[3]) for hole in holes}:
                holes.append((index, session, packet.seq, due))
            if packet.seq in numbers:
                found.repeats.append(Repeat(session, packet.seq, packet.frames, left[packet.seq], copies[packet.seq]))
            numbers.add(packet.seq)
            due = due + 1 if packet.seq == due else due
    jumps = [
        f"session {name}: packet {came} follows where {wanted} was due"
        for index, name, came, wanted in holes
        if not any(packets and packets[0].seq <= wanted for _, packets in sessions[index + 1 :])
    ]
    absent = [seq for seq in range(1, source.packets + 1) if seq not in covered]
    found.missing_frames = sum(_frames_of(source, seq) for seq in absent)
    found.problems += _some("wrong", wrong) + _some("out of order", jumps)
    if absent:
        found.problems.append(f"missing: {found.missing_frames} frames, packets {ranges(absent)}")
    return found


def _frames_of(source: Source, seq: int) -> int:
    """How many frames packet `seq` of the source has."""
    return min(source.packet_frames, source.frames - (seq - 1) * source.packet_frames)


def _judge(source: Source, packet: Packet) -> str | None:
    """What is wrong with one packet; None when it is the right audio at the right place."""
    if not 1 <= packet.seq <= source.packets:
        return f"the source has packets 1 to {source.packets}"
    if (packet.rate, packet.channels) != (source.rate, source.channels):
        return f"{packet.rate} Hz, {packet.channels} channels"
    wanted = _frames_of(source, packet.seq)
    start = (packet.seq - 1) * source.packet_frames
    if packet.frames == wanted and packet.payload == source.at(start, wanted):
        stated = max(1, round(1000 * packet.frames / source.rate))
        return None if abs(packet.duration_ms - stated) <= 1 else f"states {packet.duration_ms} ms"
    return f"{packet.frames} frames, {_origin(source, packet.payload, start)}"


def _origin(source: Source, payload: bytes, start: int) -> str:
    """Where in the source the bytes come from, for the report."""
    offset = source.pcm.find(payload) if len(payload) >= 8 else -1
    if offset < 0 or offset % source.frame_bytes:
        return "audio that the source does not have"
    return f"the audio of frame {offset // source.frame_bytes} instead of {start}"


def _some(label: str, complaints: list[str]) -> list[str]:
    shown = [f"{label}: {text}" for text in complaints[:_SHOWN]]
    rest = len(complaints) - len(shown)
    return [*shown, f"{label}: and {rest} more"] if rest > 0 else shown


def ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers, short: 3-7, 9."""
    parts: list[str] = []
    start = previous = None
    for number in [*numbers, None]:
        if start is not None and (number is None or number != (previous or 0) + 1):
            parts.append(str(start) if start == previous else f"{start}-{previous}")
            start = None
        if start is None:
            start = number
        previous = number
    return ", ".join(parts)


def audit_samples(source: Source, pcm: bytes, rate: int, channels: int) -> Kept:
    """Judge one stretch of samples that should be the source, each frame exactly once."""
    found = Kept(kept_frames=len(pcm) // source.frame_bytes)
    if (rate, channels) != (source.rate, source.channels):
        found.problems.append(f"wrong: the recording has {rate} Hz, {channels} channels")
    if pcm == source.pcm:
        return found
    step = source.packet_frames
    absent = []
    for seq in range(1, source.packets + 1):
        wanted = source.at((seq - 1) * step, step)
        if pcm[(seq - 1) * step * source.frame_bytes :][: len(wanted)] != wanted:
            absent.append(seq)
    here = [seq for seq in absent if pcm.find(source.at((seq - 1) * step, step)) >= 0]
    gone = [seq for seq in absent if seq not in set(here)]
    found.missing_frames = sum(_frames_of(source, seq) for seq in gone)
    if gone:
        found.problems.append(f"missing: {found.missing_frames} frames, packets {ranges(gone)}")
    if here:
        found.problems.append(f"out of place: packets {ranges(here)}")
    if found.kept_frames != source.frames:
        found.problems.append(f"wrong: {found.kept_frames} frames kept, the source has {source.frames}")
    if not found.problems:
        found.problems.append("wrong: the samples differ from the source")
    return found


def audit_account(source: Source, account: Mapping[str, Any], sent_again: int) -> list[str]:
    """Judge what a server with acknowledgements says of a whole recording. `sent_again` packets came more than once.

    A server that was killed may have forgotten duplicates that it ignored, never packets.
    """
    problems = [
        f"the receiver's account says {key} = {account.get(key)!r}, not {wanted!r}"
        for key, wanted in (("frames", source.frames), ("rate", source.rate), ("channels", source.channels))
        if account.get(key) != wanted
    ]
    if account.get("gaps") != []:
        problems.append(f"the receiver's account has gaps: {account.get('gaps')!r}")
    ignored = account.get("duplicates_ignored")
    if not isinstance(ignored, int) or not 0 <= ignored <= sent_again:
        problems.append(f"the receiver ignored {ignored!r} duplicates, {sent_again} packets were sent again")
    return problems
