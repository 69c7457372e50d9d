"""Recordings and the card: what is begun there, what is found there, and what a full one means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.core.journal import BootEntry, EndEntry
from edge.core.manifest import Manifest
from edge.core.recovery import Recovered, Verdict, verdict
from edge.core.resume import ACKS, Resume
from edge.core.ring import Ring
from edge.core.timebase import Anchor, Timebase
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.keeper import CardReader, Keeper, give_up, stamped_by
from edge.runtime.ports import Card, SourceInfo
from edge.runtime.recording import Recording
from edge.runtime.spooler import Held, Spooler
from edge.runtime.uplink import boot_clock

STOP_RECORDING, DROP_OLDEST = "stop-recording", "drop-oldest"
FULL = "full"
_ALMOST = 0.1  # so little of the ring free, while the card is full: time to act


@dataclass(frozen=True, slots=True)
class StorePolicy:
    """What the configuration says of the card (`edge/settings.py`, Spool)."""

    device_id: str
    has_audio: bool = True
    when_full: str = STOP_RECORDING
    keep_days: float = 0.0
    resume_within: float = 600.0
    resume_after_power_loss: bool = True


class Store:
    """Owns what is on the card. Everything here runs in the loop."""

    def __init__(self, spooler: Spooler, ring: Ring, clock: ClockWatch, policy: StorePolicy, number: int) -> None:
        """`number`: the next recording's; it grows from recording to recording."""
        self.spooler = spooler
        self.policy = policy
        self._ring = ring
        self._clock = clock
        self._number = number
        self._held: dict[str, Held] = {}
        self._keepers: dict[str, Keeper] = {}
        self.predecessor = ""  # what the next recording goes on with

    # --- live ------------------------------------------------------------------------------------------------------

    def begin(
        self, recording: Recording, timebase: Timebase, info: SourceInfo, on_safe: Callable[[int], None]
    ) -> Keeper:
        """Keep `recording`, which has just begun. `on_safe(offset)`: ring frames before `offset` are durable."""
        anchor = timebase.current or self._clock.anchor
        meta = Manifest(
            recording.recording_id,
            self.policy.device_id,
            info.name,
            info.identity,
            recording.audio,
            recording.ledger.packet_frames,
            recording.settings,
            self._number,
            self.predecessor,
            self.policy.has_audio,
        )
        self._number, self.predecessor = self._number + 1, ""
        held = Held(recording, meta, (_boot(0, anchor),), is_kept=self.policy.keep_days > 0)
        keeper = Keeper(self.spooler, held, self._ring, recording.ledger, timebase, recording.audio, on_safe)
        recording.wire, recording.load = keeper.wire, keeper.load
        recording.on_session = keeper.session
        self._held[recording.recording_id] = held
        self._keepers[recording.recording_id] = keeper
        return keeper

    def clock_changed(self) -> None:
        """The clock is known better."""
        for keeper in self._keepers.values():
            keeper.clock_changed()

    def delivered(self, recording: Recording) -> None:
        """All of `recording` is delivered."""
        held = self._held.pop(recording.recording_id, None)
        self._keepers.pop(recording.recording_id, None)
        if held is not None:
            anchor = self._clock.anchor
            held.delivered_utc_s = boot_clock() + anchor.utc_minus_boot_s if anchor.trusted else 0.0
            held.is_kept = self.policy.keep_days > 0
            self.spooler.kick()

    # --- found -----------------------------------------------------------------------------------------------------

    def verdict(self, found: Recovered) -> Verdict:
        """Whether recording goes on by itself after `found` was cut off."""
        policy = self.policy
        return verdict(
            found,
            self._clock.anchor,
            boot_clock(),
            resume_within_s=policy.resume_within,
            after_power_loss=policy.resume_after_power_loss,
        )

    def adopt(self, card: Card, found: Recovered) -> Recording:
        """A recording of an earlier process, to be delivered."""
        meta = card.manifest
        ledger = found.ledger
        anchor = self._clock.anchor
        boots = dict(found.boots)
        is_same_boot = self._is_same_boot(found)
        if is_same_boot:
            boots[found.tail.boot] = _boot(found.tail.boot, _anchor(boots[found.tail.boot]).or_better(anchor))
        held = Held(
            _recording(meta, found),
            boot=found.tail.boot,
            card=card,
            durable=ledger.last,
            ended_by=found.ended_by or self.verdict(found).cause,
            is_kept=self.policy.keep_days > 0,
        )
        recording = held.recording
        reader = CardReader(
            lambda: card,
            ledger,
            meta.audio,
            stamped_by(boots),
            lambda first, last: give_up(held, ledger, first, last),
        )
        recording.wire, recording.load = reader.wire, reader.load
        if found.tail.boot in boots:
            known = _anchor(boots[found.tail.boot])
            recording.anchor = lambda: known
        recording.on_session = lambda session_id, server, boot_s: held.note_session(
            session_id, server, ledger.delivered + 1, boot_s
        )
        recording.handled = found.handled
        recording.resume = self._resume(found, is_same_boot=is_same_boot)
        held.inbox.extend(found.missing)
        if not found.ended_by:  # what lies behind it is cut off for good: it ends there at each later start, too
            held.inbox.append(EndEntry(ledger.expected, held.ended_by))
        self._held[recording.recording_id] = held
        self.spooler.hold(held)
        return recording

    def _is_same_boot(self, found: Recovered) -> bool:
        boot = found.boots.get(found.tail.boot)
        return boot is not None and boot.boot_id == self._clock.anchor.boot_id

    @staticmethod
    def _resume(found: Recovered, *, is_same_boot: bool) -> Resume | None:
        if not found.sessions:
            return None
        session = found.sessions[-1]
        if session.server == ACKS and not is_same_boot:
            return None  # a new session of the recording takes over there
        alive_at = max(session.boot_s, found.tail.alive_us / 1e6) if is_same_boot else 0.0
        is_same = is_same_boot and session.boot == found.tail.boot
        first, handled = session.first_seq, found.handled
        shorts, passed = found.shorts(first, handled), found.lost(first, handled)
        return Resume(session.session_id, session.server, first, handled, alive_at, is_same, shorts, passed)

    # --- a full card -----------------------------------------------------------------------------------------------

    def is_at_its_end(self) -> bool:
        """Neither card nor memory takes much more."""
        return self.spooler.is_full and self._ring.free_frames < _ALMOST * self._ring.capacity_frames

    def drop_oldest(self) -> float:
        """Give up the oldest segment of the oldest recording; returns how many seconds of it were not delivered."""
        for held in self._held.values():
            oldest = None if held.card is None else held.card.oldest()
            if oldest is None:
                continue
            if oldest[1] <= held.drop_to:
                return 0.0  # it is on its way
            ledger = held.recording.ledger
            first, last = max(oldest[0], ledger.delivered + 1), oldest[1]
            before = sum(ledger.lost.values())
            if first <= last:
                give_up(held, ledger, first, last, "overflow")
            held.drop_to = last  # after the note of it
            self.spooler.kick()
            return held.recording.audio.seconds(sum(ledger.lost.values()) - before)
        return 0.0


def _recording(meta: Manifest, found: Recovered) -> Recording:
    return Recording(
        meta.recording_id,
        meta.audio,
        found.ledger,
        meta.settings,
        lambda seq: None,
        lambda offset: None,
        [session.session_id for session in found.sessions],
        max(0, len(found.sessions) - 1),
        found.handled,
    )


def _boot(boot: int, anchor: Anchor) -> BootEntry:
    return BootEntry(boot, anchor.boot_id, anchor.utc_minus_boot_s, anchor.trusted)


def _anchor(entry: BootEntry) -> Anchor:
    return Anchor(entry.boot_id, entry.utc_minus_boot_s, entry.trusted)
