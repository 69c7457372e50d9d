"""The spool writer: one thread that brings recordings onto the card, beside everything else.

The loop hands over ring positions and notes, never audio; the thread copies from the ring, writes, and makes durable
once in `sync_interval`. What it cannot write stays in the ring and is tried again: neither capture nor uplink waits for
the card. What has become durable comes back to the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge.core.budget import Announcer, bytes_per_s
from edge.core.journal import Entry, MarkEntry, SessionEntry
from edge.core.ledger import Packet
from edge.core.manifest import CardState, Manifest
from edge.core.packet import encode_header
from edge.core.ring import Ring
from edge.core.segment import CardPacket
from edge.errors import InternalError
from edge.runtime.ports import Card, Spool
from edge.runtime.recording import Recording
from edge.runtime.uplink import boot_clock

_EXPIRE_S = 600.0  # how often it is looked for what need not be kept any more
_MARK_S = 10.0  # how often delivery's progress is noted where no audio is written that could carry it
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BATCH = 512  # packets made durable at once: after a long trouble the ring is not copied as a whole


@dataclass(frozen=True, slots=True)
class Due:
    """A packet to be written: where it is in the ring, and what its stamps are."""

    packet: Packet
    stored_offset: int
    boot_us: int
    unix_ms: float


@dataclass(slots=True)
class Held:
    """One recording on its way to the card, or on it. The loop appends to `inbox`; the thread owns the rest."""

    recording: Recording
    meta: Manifest | None = None
    first_notes: tuple[Entry, ...] = ()
    card: Card | None = None
    boot: int = 0
    durable: int = 0
    inbox: deque[Due | Entry] = field(default_factory=deque)
    unsynced: list[Due | Entry] = field(default_factory=list)
    ended_by: str = ""  # wanted: seal it
    delivered_utc_s: float | None = None  # wanted: note that it is delivered
    is_kept: bool = False  # what is delivered stays for a while (`keep_days`)
    marked: int = 0
    marked_at: float = 0.0
    is_through: bool = False  # nothing more will be done about it
    drop_to: int = 0  # wanted: the segments up to this packet are given up
    on_durable: Callable[[int], None] = lambda seq: None

    def note_session(self, session_id: str, server: str, first_seq: int, boot_s: float) -> None:
        """The server has a session: an heir of this process wants to know."""
        self.inbox.append(SessionEntry(session_id, first_seq, server, self.boot, boot_s))


class Spooler:
    """Owns the thread. Everything public belongs to the loop; `tell(kind, text)` is called in it."""

    def __init__(
        self,
        spool: Spool,
        ring: Ring,
        sync_interval: float,
        tell: Callable[[str, str], None],
        clock: Callable[[], float] = boot_clock,
        keep_days: float = 0.0,
        utc: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.trouble = ""  # why the card takes nothing just now
        self.is_full = False
        self.left_s: float | None = None  # how long the card lasts at the rate of the latest recording
        self._spool = spool
        self._ring = ring
        self._interval = sync_interval
        self._tell = tell
        self._clock = clock
        self._keep_days = keep_days
        self._utc = utc  # by a trusted clock, else None
        self._expired_at = -_EXPIRE_S
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held: list[Held] = []
        self._lock = threading.Lock()
        self._kick = threading.Event()
        self._is_stopping = False
        self._announcer = Announcer()
        self._ended: asyncio.Future[bool] | None = None
        self._passes: list[asyncio.Future[None]] = []

    # --- for the loop ----------------------------------------------------------------------------------------------

    def hold(self, held: Held) -> Held:
        """Take a recording under this thread's care; the first one starts the thread."""
        with self._lock:
            self._held.append(held)
        if self._ended is None:
            self._loop = asyncio.get_running_loop()
            self._ended = self._loop.create_future()
            threading.Thread(target=self._run, args=(self._ended,), name="spool", daemon=True).start()
        self._kick.set()
        return held

    def kick(self) -> None:
        """Do not wait for the next round: something is to be durable soon."""
        self._kick.set()

    async def flush(self) -> None:
        """Return after a whole round that began now: what could be written is durable then."""
        if self._ended is None or self._ended.done():
            return
        passed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._passes.append(passed)
        self._kick.set()
        await passed

    async def close(self, patience_s: float) -> bool:
        """Write what is left and end; False where the card did not let it within `patience_s`."""
        if self._ended is None:
            return True
        self._is_stopping = True
        self._kick.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await asyncio.shield(self._ended)
        return self._ended.done() and self._ended.result()

    # --- in the thread ---------------------------------------------------------------------------------------------

    def _run(self, ended: asyncio.Future[bool]) -> None:
        is_clean = False
        passes: list[asyncio.Future[None]] = []
        try:
            while True:
                is_last = self._is_stopping
                if not is_last:
                    self._kick.wait(self._interval if self._has_work() else None)
                self._kick.clear()
                with self._lock:
                    passes, self._passes = self._passes, []
                    everything = list(self._held)
                results = [self._work(held) for held in everything]
                is_clean = all(results)
                if is_clean:
                    self._out_of_trouble()
                self._expire()
                with self._lock:
                    self._held = [held for held in self._held if not held.is_through]
                for passed in passes:
                    self._call(functools.partial(_settle, passed, None))
                if is_last and not self._kick.is_set():  # set: room was made, and is worth one more round
                    break
        except Exception as error:  # noqa: BLE001  (a bug must not end in a silent thread)
            bug = InternalError(f"the spool failed: {type(error).__name__}: {error}")
            self._call(lambda: self._say("bug", str(bug)))
            is_clean = False
        for held in self._held:
            if held.card is not None:
                with contextlib.suppress(OSError):
                    held.card.close()
        self._call(functools.partial(self._end, ended, is_clean, passes))

    def _end(self, ended: asyncio.Future[bool], is_clean: bool, passes: list[asyncio.Future[None]]) -> None:
        """In the loop: nobody waits for a round that never comes."""
        _settle(ended, is_clean)
        for passed in (*passes, *self._passes):
            _settle(passed, None)

    def _expire(self) -> None:
        now = self._clock()
        if now - self._expired_at >= _EXPIRE_S:
            self._expired_at = now
            with contextlib.suppress(OSError):  # what matters of it is said by whoever writes
                self._spool.expire(self._keep_days, self._utc())

    def _has_work(self) -> bool:
        return any(not held.is_through for held in self._held)

    def _call(self, function: Callable[[], object]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody wants to know any more
            self._loop.call_soon_threadsafe(function)

    def _work(self, held: Held) -> bool:
        """One round for one recording; True where nothing is left to do now."""
        if held.is_through:
            return True
        # What is wanted now is noted in what the inbox holds now: what comes while we write is for the next round.
        ended_by, delivered_utc_s, drop_to = held.ended_by, held.delivered_utc_s, held.drop_to
        while held.inbox:
            held.unsynced.append(held.inbox.popleft())
        try:
            card = self._card(held)
            if card.manifest.settings != held.recording.settings:  # corrected; durable before their first session is
                card.correct(held.recording.settings)
            if not held.unsynced:
                self._mark(held, card)
            self._write(held, card, drop_to)
            self._free(held, card)
            self._milestones(held, card, ended_by, delivered_utc_s)
        except OSError as error:
            if held.card is not None:
                held.card.retreat(held.durable)
            is_full = error.errno in _FULL or error.errno is None
            if is_full and self._make_room(held):
                self._kick.set()
            else:
                self._in_trouble(error.strerror or str(error) or type(error).__name__, is_full=is_full)
            return False
        return True

    def _card(self, held: Held) -> Card:
        if held.card is None:
            assert held.meta is not None
            held.card = self._spool.create(held.meta, held.first_notes)
        return held.card

    def _write(self, held: Held, card: Card, drop_to: int) -> None:
        entries = [item for item in held.unsynced if isinstance(item, Entry)]
        if entries:
            card.note(entries)
            card.sync()
        held.unsynced = [item for item in held.unsynced if isinstance(item, Due)]
        if drop_to:  # on a full card this is the room for what follows
            self._free_to(held, card, drop_to)
            if held.drop_to == drop_to:
                held.drop_to = 0
        while held.unsynced:
            self._append(held, card, [item for item in held.unsynced[:_BATCH] if isinstance(item, Due)])
            del held.unsynced[:_BATCH]
            self._look_at_room(held)

    def _append(self, held: Held, card: Card, batch: list[Due]) -> None:
        packets, offsets = [], []
        for due in batch:
            packet = self._packet(held, due)
            if packet is not None:
                packets.append(packet)
                offsets.append(due.stored_offset)
        card.append(packets, offsets, beyond_limit=bool(held.ended_by))
        card.sync()
        held.durable = last = batch[-1].packet.seq
        self._call(lambda: held.on_durable(last))

    def _packet(self, held: Held, due: Due) -> CardPacket | None:
        """None where the ring has been used again: then the packet was delivered first."""
        packet, recording = due.packet, held.recording
        data = self._ring.copy(packet.offset, packet.frames)
        if data is None:
            return None
        wire = encode_header(packet.seq, due.unix_ms, packet.frames, recording.audio) + data
        ledger = recording.ledger
        return CardPacket(wire, packet.position, due.boot_us, held.boot, ledger.delivered, recording.handled)

    def _mark(self, held: Held, card: Card) -> None:
        """Delivery goes on after the recording has ended: note how far, now and then."""
        delivered, now = held.recording.ledger.delivered, self._clock()
        if delivered > held.marked and (self._is_stopping or now - held.marked_at >= _MARK_S):
            card.note([MarkEntry(delivered, max(delivered, held.recording.handled))])
            card.sync()
            held.marked, held.marked_at = delivered, now

    def _free(self, held: Held, card: Card) -> None:
        """Segments that are delivered go, once it is durable that they are: else one that is missing could not be told
        from one that was freed."""
        delivered, oldest = held.recording.ledger.delivered, card.oldest()
        if not held.is_kept and oldest is not None and oldest[1] <= delivered:
            self._free_to(held, card, delivered)

    @staticmethod
    def _free_to(held: Held, card: Card, last: int) -> None:
        delivered = held.recording.ledger.delivered
        card.note([MarkEntry(delivered, max(delivered, held.recording.handled))])
        card.sync()
        card.free(last)

    def _milestones(self, held: Held, card: Card, ended_by: str, delivered_utc_s: float | None) -> None:
        if ended_by and card.manifest.state is CardState.RECORDING:
            card.seal(ended_by)
            self._spool.restore_ballast()
        if delivered_utc_s is not None:
            if card.manifest.state is not CardState.DELIVERED:
                card.deliver(delivered_utc_s)
            if not held.is_kept:
                card.remove()
            else:
                card.close()
            held.is_through = True

    # --- room ------------------------------------------------------------------------------------------------------

    def _make_room(self, held: Held) -> bool:
        try:
            if self._spool.make_room() or self._free_kept():
                return True
        except OSError:
            pass  # said with the next failure
        return bool(held.ended_by) and self._spool.give_up_ballast()

    def _free_kept(self) -> bool:
        """The same within recordings that are not delivered as a whole; False where there is nothing."""
        with self._lock:
            everything = list(self._held)
        for held in everything:
            card, delivered = held.card, held.recording.ledger.delivered
            oldest = card.oldest() if card is not None and held.is_kept and not held.is_through else None
            if card is not None and oldest is not None and oldest[1] <= delivered:
                card.note([MarkEntry(delivered, max(delivered, held.recording.handled))])
                card.sync()
                card.free(delivered)
                return True
        return False

    def _look_at_room(self, held: Held) -> None:
        recording = held.recording
        rate = bytes_per_s(recording.audio, recording.ledger.packet_frames)
        self.left_s = left_s = self._spool.room_bytes() / rate
        threshold = self._announcer.due(left_s) if not held.ended_by else None
        if threshold is not None:
            text = f"the card has room for {left_s / 60:.0f} more minutes of this recording"
            self._call(lambda: self._say("space", text))

    def _in_trouble(self, why: str, *, is_full: bool) -> None:
        if not self.trouble:
            goes_on = "recording goes on in memory, the card is tried again"
            text = f"the card is full; {goes_on}" if is_full else f"the card takes nothing ({why}); {goes_on}"
            self._call(lambda: self._say("card", text))
        self.trouble, self.is_full = why, is_full

    def _out_of_trouble(self) -> None:
        if self.trouble:
            self._call(lambda: self._say("card", "the card takes audio again; what was only in memory is on it now"))
        self.trouble, self.is_full = "", False

    def _say(self, kind: str, text: str) -> None:
        self._tell(kind, text)


def _settle(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)
