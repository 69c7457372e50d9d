"""A recording's audio, wherever it is: in the ring, on the card, or both.

`Keeper` feeds the spool writer with what was captured, hears what became durable, and gives packets back for sending:
from the ring as long as they are there, else from the card, read ahead in a thread of asyncio's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from edge.core.journal import BootEntry, EndEntry, Entry, GapEntry
from edge.core.ledger import Ledger
from edge.core.packet import HEADER_BYTES, AudioFormat, encode_header
from edge.core.recovery import lose
from edge.core.ring import Ring
from edge.core.segment import CardPacket
from edge.core.timebase import Anchor, Timebase
from edge.runtime.ports import Card
from edge.runtime.spooler import Due, Held, Spooler

DAMAGED = "card"


class CardReader:
    """Packets of one recording from the card. `stamp` says what a packet's capture time is by today's knowledge."""

    def __init__(
        self,
        card: Callable[[], Card | None],
        ledger: Ledger,
        audio: AudioFormat,
        stamp: Callable[[CardPacket], float | None],
        damaged: Callable[[int, int], None],
    ) -> None:
        self._card = card
        self._ledger = ledger
        self._audio = audio
        self._stamp = stamp
        self._damaged = damaged
        self._ahead: dict[int, CardPacket] = {}

    async def load(self, first: int, last: int) -> None:
        """Read `first` to `last` ahead, as far as the card has them. What cannot be read is lost, and said to be."""
        card, last = self._card(), min(last, self._ledger.synced)
        self._ahead = {seq: packet for seq, packet in self._ahead.items() if seq >= first}
        if card is None:
            return
        bad: list[int] = []
        for seq, packet in await asyncio.to_thread(lambda: list(card.read(first, last))):
            if packet is not None:
                self._ahead[seq] = packet
            elif seq > self._ledger.delivered and not self._ledger.is_lost(seq):
                bad.append(seq)
        for seq in bad:
            self._damaged(seq, seq)

    def wire(self, seq: int) -> bytes | None:
        """The packet as it goes out now; None where it has to be loaded first."""
        packet = self._ahead.get(seq)
        if packet is None:
            return None
        unix_ms = self._stamp(packet)
        if unix_ms is None:
            return packet.wire
        return encode_header(seq, unix_ms, packet.frames, self._audio) + packet.wire[HEADER_BYTES:]


def stamped_by(boots: Mapping[int, BootEntry]) -> Callable[[CardPacket], float | None]:
    """Stamps by the anchor of the boot in which a packet was captured; None where nothing is known of it."""

    def stamp(packet: CardPacket) -> float | None:
        entry = boots.get(packet.boot)
        if entry is None:
            return None
        return Anchor(entry.boot_id, entry.utc_minus_boot_s, entry.trusted).unix_ms(packet.boot_us / 1e6)

    return stamp


def give_up(held: Held, ledger: Ledger, first: int, last: int, cause: str = DAMAGED) -> None:
    """Those of the packets that are not lost yet can never be sent any more: in the account, and in the journal."""
    held.inbox.extend(lose(ledger, first, last, cause))


class Keeper:
    """Keeps one live recording on the card. Everything here runs in the loop."""

    def __init__(
        self,
        spooler: Spooler,
        held: Held,
        ring: Ring,
        ledger: Ledger,
        timebase: Timebase,
        audio: AudioFormat,
        on_safe: Callable[[int], None],
    ) -> None:
        """`on_safe(offset)`: frames before ring offset `offset` are durable."""
        self.held = held
        self._spooler = spooler
        self._ring = ring
        self._ledger = ledger
        self._timebase = timebase
        self._on_safe = on_safe
        self._audio = audio
        self._queued = 0
        self._anchor = timebase.current
        self._start_offset = ledger.start_offset
        self._reader = CardReader(
            lambda: held.card, ledger, audio, self._stamp, lambda first, last: give_up(held, ledger, first, last)
        )
        held.on_durable = self._durable
        spooler.hold(held)

    def supply(self) -> None:
        """Hand over the packets that were completed, and the gaps between them."""
        ledger, inbox = self._ledger, self.held.inbox
        if self.held.meta is not None and not self.held.meta.has_audio:
            self._queued = ledger.last
        while self._queued < ledger.last:
            seq = self._queued + 1
            packet = ledger.packet(seq)
            inbox.extend(self._gaps(seq, packet.position))
            boot_us = max(0, round(self._timebase.boot_s(packet.position) * 1e6))
            offset = packet.offset - self._start_offset
            inbox.append(Due(packet, offset, boot_us, self._timebase.unix_ms(packet.position)))
            self._queued = seq

    def _gaps(self, seq: int, end_position: int) -> list[Entry]:
        gaps = [gap for gap in self._ledger.gaps_before(seq) if gap.lost_from is None]
        position = end_position - sum(gap.frames for gap in gaps)
        entries: list[Entry] = []
        for gap in gaps:
            entries.append(GapEntry(seq, position, gap.frames, gap.cause))
            position += gap.frames
        return entries

    def end(self, by: str) -> None:
        """The recording has ended: what is left of it, then the seal."""
        self.supply()
        ledger, inbox = self._ledger, self.held.inbox
        inbox.extend(self._gaps(ledger.last + 1, ledger.expected))
        inbox.append(EndEntry(ledger.expected, by))
        self.held.ended_by = by
        self._spooler.kick()

    def clock_changed(self) -> None:
        """The clock is known better: so that a later boot stamps right what this one keeps."""
        anchor = self._timebase.current
        if anchor is not None and anchor != self._anchor:
            self._anchor = anchor
            boot = BootEntry(self.held.boot, anchor.boot_id, anchor.utc_minus_boot_s, anchor.trusted)
            self.held.inbox.append(boot)

    def session(self, session_id: str, server: str, boot_s: float) -> None:
        """The server has a session: an heir of this process wants to know."""
        self.held.note_session(session_id, server, self._ledger.delivered + 1, boot_s)

    def _durable(self, seq: int) -> None:
        if seq > self._ledger.synced:
            self._on_safe(self._ledger.sync(seq))

    # --- for sending -----------------------------------------------------------------------------------------------

    def wire(self, seq: int) -> bytes | None:
        """Packet `seq` as it goes out now; None where it has to be loaded from the card."""
        packet = self._ledger.packet(seq)
        data = self._ring.copy(packet.offset, packet.frames)
        if data is None:
            return self._reader.wire(seq)
        return encode_header(seq, self._timebase.unix_ms(packet.position), packet.frames, self._audio) + data

    async def load(self, first: int, last: int) -> None:
        """Bring packets `first` to `last` from the card."""
        await self._reader.load(first, last)

    def _stamp(self, packet: CardPacket) -> float | None:
        return self._timebase.unix_ms(packet.position)
