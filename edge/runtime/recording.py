"""One recording as the uplink sees it: an account, settings for the server, and packets on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge.core.ledger import Ledger
from edge.core.packet import AudioFormat, encode_header
from edge.core.ring import Ring
from edge.core.timebase import Timebase
from edge.runtime.ports import JsonObject


@dataclass(slots=True)
class Recording:
    """`wire(seq)` gives a packet's bytes, `release(offset)` takes back what is delivered; `settings` go into POST
    start."""

    recording_id: str
    audio: AudioFormat
    ledger: Ledger
    settings: JsonObject
    wire: Callable[[int], bytes]
    release: Callable[[int], None]
    session_ids: list[str] = field(default_factory=list)
    reconnects: int = 0

    @property
    def is_whole(self) -> bool:
        """True once it has ended and each of its packets is delivered."""
        return self.ledger.ended and self.ledger.delivered == self.ledger.last

    def account(self) -> JsonObject:
        """The recording in frames, as `edge record --json` prints it."""
        ledger = self.ledger
        return {
            "recording": self.recording_id,
            "unit": "frames",
            "rate": self.audio.rate_hz,
            "channels": self.audio.channels,
            "expected": ledger.expected,
            "delivered": ledger.delivered_frames,
            "pending": ledger.kept_frames,
            "on_card": ledger.card_frames,
            "lost": dict(ledger.lost),
            "resent": ledger.resent_frames,
            "sessions": list(self.session_ids),
            "reconnects": self.reconnects,
        }


def packets_in_ring(ring: Ring, ledger: Ledger, timebase: Timebase, audio: AudioFormat) -> Callable[[int], bytes]:
    """The `wire` of a recording that lives in the ring. Stamps are made late, by what is known of the clock by then."""

    def wire(seq: int) -> bytes:
        packet = ledger.packet(seq)
        header = encode_header(seq, timebase.unix_ms(packet.position), packet.frames, audio)
        return b"".join((header, *ring.read(packet.offset, packet.frames)))

    return wire
