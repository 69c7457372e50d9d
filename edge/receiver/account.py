"""What is known of one recording: positions, gaps, duplicates, refusals, sessions. All of it follows from the journal.

The same methods take a fact when it happens and when the journal is read again, so that both give the same account.
Facts are JSON objects; `apply` lists their keys. Times are Unix seconds, positions and gaps are in frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edge.core.packet import AudioFormat
from edge.receiver.journal import Kind
from edge.receiver.stamps import Stamps

VERSION = 1
MISSING = "missing"
MAX_LISTED = 10_000  # stretches of duplicates that are listed for one session; later ones are only counted
MAX_CLOCKS = 1_000
_SAME_STRETCH_S = 2.0
_STRETCHES = 64


@dataclass(frozen=True, slots=True)
class Gap:
    """`frames` without audio from `position` on, just before packet `before_seq`.

    `lost_from`: they stand for the packets from that one on, which were captured and will never come.
    """

    position: int
    frames: int
    cause: str
    before_seq: int
    lost_from: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the account."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(slots=True)
class _Stretch:
    """Packets of `frames` each that follow one another from `first_seq` and `position` on; a loss is a stretch of
    one."""

    first_seq: int
    position: int
    frames: int
    count: int = 1

    @property
    def end(self) -> tuple[int, int]:
        return self.first_seq + self.count, self.position + self.count * self.frames


@dataclass(slots=True)
class Duplicates:
    """Packets that were already there when they came (again), a stretch of ascending numbers."""

    first_seq: int
    last_seq: int
    packets: int
    first_at: float
    last_at: float


@dataclass(slots=True)
class SessionEntry:
    """One session of the recording; `packets` counts those that it brought and that were stored."""

    session_id: str
    started_at: float
    acks: bool = False
    ended_at: float | None = None
    ended_by: str | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    packets: int = 0
    duplicates_ignored: int = 0
    duplicates: list[Duplicates] = field(default_factory=list)


class Account:
    """The account of the recording `recording`."""

    def __init__(self, recording: str, started_at: float) -> None:
        self.recording = recording
        self.started_at = started_at
        self.audio: AudioFormat | None = None
        self.next_seq = 1
        self.packets = 0
        self.stored_frames = 0
        self.gaps: list[Gap] = []
        self.sessions: list[SessionEntry] = []
        self.refused: dict[str, int] = {}
        self.clocks: deque[dict[str, Any]] = deque(maxlen=MAX_CLOCKS)
        self.stamps = Stamps()
        self._end = 0
        self._pending: dict[str, int] = {}
        self._stretches: deque[_Stretch] = deque(maxlen=_STRETCHES)

    @property
    def frames(self) -> int:
        """The position behind the last packet and the gaps that follow it."""
        return self._end + sum(self._pending.values())

    @property
    def pending_gaps(self) -> Mapping[str, int]:
        """Gaps before packet `next_seq`, by cause: they may still change."""
        return self._pending

    def packet(self, seq: int, frames: int, stamped_ms: float) -> int:
        """Packet `seq` is appended, whose header says `stamped_ms`; returns its position. `next_seq` never goes
        back."""
        if self._pending:
            self._fold()
        position = self._end
        self.stamps.packet(seq, position, stamped_ms)
        self._place(seq, frames)
        self.packets += 1
        self.stored_frames += frames
        self.next_seq = max(self.next_seq, seq + 1)
        if self.sessions:
            session = self.sessions[-1]
            if session.first_seq is None:
                session.first_seq = seq
            session.last_seq = seq
            session.packets += 1
        return position

    def apply(self, kind: Kind, value: Mapping[str, Any]) -> None:
        """A fact other than a packet."""
        match kind:
            case Kind.OPENED:
                self.started_at = float(value["started"])
            case Kind.FORMAT:
                self.audio = AudioFormat(int(value["rate"]), int(value["channels"]))
            case Kind.GAP:
                self._gap(str(value["cause"]), int(value["frames"]))
            case Kind.LOST:
                self._lost(str(value["cause"]), int(value["frames"]), int(value["lost_from"]), int(value["before_seq"]))
            case Kind.BASE:
                self._fold()
                self.next_seq = int(value["next_seq"])
                self._gap(MISSING, int(value["frames"]))
            case Kind.SESSION_BEGUN:
                self._begun(str(value["session_id"]), float(value["at"]), acks=bool(value["acks"]))
            case Kind.SESSION_ENDED:
                self._ended(str(value["session_id"]), float(value["at"]), str(value["by"]))
            case Kind.DUPLICATES:
                self._duplicates(value)
            case Kind.REFUSED:
                reason = str(value["reason"])
                self.refused[reason] = self.refused.get(reason, 0) + int(value["packets"])
            case Kind.CLOCK:
                self.clocks.append(dict(value))
                self.stamps.told(value)
            case Kind.PACKET:
                raise ValueError("packets are not facts")

    def session(self, session_id: str) -> SessionEntry | None:
        """The entry of one session."""
        return next((entry for entry in reversed(self.sessions) if entry.session_id == session_id), None)

    def interrupted(self, cause: str) -> None:
        """Nobody is there any more to end the sessions that have no end."""
        for session in self.sessions:
            if session.ended_by is None:
                session.ended_by = cause

    def to_json(self) -> dict[str, Any]:
        """The account as it is written beside the WAV file.

        started_at     when the frame at position 0 was captured, if `clock_trusted`: by a synchronised clock of the
                       recorder; else when the receiver first heard of the recording, which is `opened_at`
        stamps         stretches of packets stamped by one clock: first stamp as it came (`stamped_at`), and the right
                       time where that is known (`captured_at`); `clock` has the recorder's clock messages as they came
        """
        captured_at = self.stamps.started_at(self.audio.rate_hz) if self.audio else None
        gaps = [*self.gaps, *self._open_gaps()]
        by_cause: dict[str, int] = {}
        for gap in gaps:
            by_cause[gap.cause] = by_cause.get(gap.cause, 0) + gap.frames
        return {
            "version": VERSION,
            "recording": self.recording,
            "unit": "frames",
            "rate": self.audio.rate_hz if self.audio else None,
            "channels": self.audio.channels if self.audio else None,
            "frames": self.frames,
            "stored_frames": self.stored_frames,
            "packets": self.packets,
            "next_seq": self.next_seq,
            "gap_frames": by_cause,
            "gaps": [gap.to_json() for gap in gaps],
            "duplicates_ignored": sum(session.duplicates_ignored for session in self.sessions),
            "refused": dict(self.refused),
            "started_at": self.started_at if captured_at is None else captured_at,
            "clock_trusted": captured_at is not None,
            "opened_at": self.started_at,
            "stamps": self.stamps.to_json(),
            "sessions": [asdict(session) for session in self.sessions],
            "clock": list(self.clocks),
        }

    def frames_from(self, seq: int) -> int | None:
        """How many frames there are from packet `seq` to the last one, if it is one of the latest; else None."""
        for stretch in self._stretches:
            if stretch.first_seq <= seq < stretch.end[0]:
                return self._end - stretch.position - (seq - stretch.first_seq) * stretch.frames
        return None

    def _place(self, seq: int, frames: int) -> None:
        last = self._stretches[-1] if self._stretches else None
        if last and last.frames == frames and last.end == (seq, self._end):
            last.count += 1
        else:
            self._stretches.append(_Stretch(seq, self._end, frames))
        self._end += frames

    def _lost(self, cause: str, frames: int, lost_from: int, before_seq: int) -> None:
        self._fold()
        self.gaps.append(Gap(self._end, frames, cause, before_seq, lost_from))
        self._stretches.append(_Stretch(lost_from, self._end, frames))
        self._end += frames
        self.next_seq = before_seq

    def _gap(self, cause: str, frames: int) -> None:
        if frames:
            self._pending[cause] = frames
        else:
            self._pending.pop(cause, None)

    def _fold(self) -> None:
        """What follows the gaps before `next_seq` fixes them."""
        self.gaps += self._open_gaps()
        self._end = self.frames
        self._pending = {}

    def _open_gaps(self) -> list[Gap]:
        position, gaps = self._end, []
        for cause, frames in self._pending.items():
            gaps.append(Gap(position, frames, cause, self.next_seq))
            position += frames
        return gaps

    def _begun(self, session_id: str, at: float, *, acks: bool) -> None:
        session = self.session(session_id)
        if session is None:
            self.sessions.append(SessionEntry(session_id, at, acks))
            self.stamps.session_begun()
        else:
            session.acks = session.acks or acks

    def _ended(self, session_id: str, at: float, by: str) -> None:
        session = self.session(session_id)
        if session is not None:
            session.ended_at, session.ended_by = at, by

    def _duplicates(self, value: Mapping[str, Any]) -> None:
        session = self.session(str(value["session_id"]))
        if session is None:
            return
        new = Duplicates(
            int(value["first_seq"]),
            int(value["last_seq"]),
            int(value["packets"]),
            float(value["first_at"]),
            float(value["last_at"]),
        )
        session.duplicates_ignored += new.packets
        last = session.duplicates[-1] if session.duplicates else None
        if last and new.first_seq == last.last_seq + 1 and new.first_at - last.last_at < _SAME_STRETCH_S:
            last.last_seq, last.last_at = new.last_seq, new.last_at
            last.packets += new.packets
        elif len(session.duplicates) < MAX_LISTED:
            session.duplicates.append(new)
