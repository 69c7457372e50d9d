"""JSON messages <-> events (PROTOCOL.md, "Open, stream, stop", "Server to client", "Our extension")."""

from __future__ import annotations

from edge.core.events import Ack, Backpressure, Hello, Message, OfAttempt, Pinged, Pong, Unknown
from edge.core.ledger import Gap
from edge.core.packet import MAX_SEQ, AudioFormat, duration_ms
from edge.core.timebase import Anchor

PING: Message = {"type": "ping"}
PONG: Message = {"type": "pong"}
STOP: Message = {"action": "stop_stream"}


def init(audio: AudioFormat, packet_frames: int, next_seq: int, segment_target_ms: int, *, acks: bool) -> Message:
    """The one `init` of a session: what the packets will look like and the first one's number."""
    message: Message = {
        "type": "init",
        "supports_pcm": True,
        "format": "pcm16",
        "sample_rate": audio.rate_hz,
        "channels": audio.channels,
        "frame_duration_ms": duration_ms(packet_frames, audio.rate_hz),
        "frame_samples": packet_frames,
        "next_seq": next_seq,
        "segment_target_ms": segment_target_ms,
    }
    if acks:
        message["acks"] = True
    return message


def gap(gap: Gap) -> Message:
    """A gap of the timeline, for a server with acks, in stream order; with `lost_from` it stands for packets."""
    lost_from = {} if gap.lost_from is None else {"lost_from": gap.lost_from}
    return {"type": "gap", "before_seq": gap.before_seq, **lost_from, "frames": gap.frames, "cause": gap.cause}


def clock(anchor: Anchor, now: float, was: Anchor | None) -> Message:
    """By which clock the packets behind this message are stamped, for a server with acks: `now` on the boot clock and
    in UTC, seconds. `was` is the anchor that was told before in this session."""
    message: Message = {
        "type": "clock",
        "boot_id": anchor.boot_id,
        "boot_s": now,
        "utc_s": now + anchor.utc_minus_boot_s,
        "trusted": anchor.trusted,
    }
    if was is not None and was.utc_minus_boot_s != anchor.utc_minus_boot_s:
        message["was_utc_minus_boot_s"] = was.utc_minus_boot_s
    return message


def parse(message: Message, attempt: int) -> OfAttempt:
    """The event that a server's message stands for; whatever is not understood is `Unknown`, never an error."""
    kind = message.get("type")
    if kind == "pong":
        return Pong(attempt)
    if kind == "ack" and _is_seq(message.get("seq")):
        return Ack(attempt, message["seq"])
    if kind == "ping":
        alive = message.get("is_recording")
        return Pinged(attempt, alive if "t" in message and isinstance(alive, bool) else None)
    if kind == "hello":
        acks = message.get("acks") is True and _is_seq(message.get("next_seq"))
        return Hello(attempt, acks, message["next_seq"] if acks else 1)
    if kind == "event" and message.get("event") == "backpressure_reject":
        return Backpressure(attempt)
    return Unknown(attempt, message)


def _is_seq(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEQ
