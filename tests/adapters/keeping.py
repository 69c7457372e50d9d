"""Folders as the first releases kept them in STATE/pending/, and recordings to put into them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.adapters.pending import Course
from edge.core.ledger import Ledger
from edge.core.packet import AudioFormat, encode_header

STEREO = AudioFormat(48000, 2)
PACKET = 480
RECORDING = "6f5902ac-2370-4f1c-b3a2-0123456789ab"
OTHER = "7f5902ac-2370-4f1c-b3a2-0123456789ab"
SETTINGS = {"agent": "a", "event": "ümläut", "recording": RECORDING}
COURSE = Course(SETTINGS, ("s1", "sé2"), 3)


class Model:
    """A recording as plain lists: what packets hold, and which gaps stand before them."""

    def __init__(self, audio: AudioFormat = STEREO) -> None:
        self.audio = audio
        self.ledger = Ledger(PACKET, 1000)  # it began in the middle of a ring

    def talk(self, frames: int) -> None:
        self.ledger.capture(frames)

    def lose(self, frames: int, cause: str) -> None:
        self.ledger.gap(frames, cause)

    def wire(self, seq: int) -> bytes:
        packet = self.ledger.packet(seq)
        payload = random.Random(seq).randbytes(packet.frames * self.audio.frame_bytes)
        return encode_header(seq, 1e12 + packet.position / 48.0, packet.frames, self.audio) + payload

    def keep(self, folder: Path, recording_id: str = RECORDING) -> Path:
        return keep(folder, recording_id, self.audio, self.ledger, COURSE, self.wire)


def example(delivered: int = 0) -> Model:
    """Five packets, two of them short, gaps in front, between, and behind."""
    model = Model()
    model.lose(77, "microphone")
    model.talk(PACKET + 100)
    model.lose(5, "xrun")
    model.lose(7, "overflow")
    model.talk(2 * PACKET + 1)
    model.lose(9, "xrun")
    model.lose(11, "overflow")
    model.ledger.end()
    if delivered:
        model.ledger.deliver(delivered)
    return model


def anything(seed: int) -> Model:
    """Any recording, delivered up to anywhere."""
    chance = random.Random(seed)
    model = Model(chance.choice([STEREO, AudioFormat(8000, 1)]))
    for _ in range(chance.randrange(12)):
        model.talk(chance.randrange(4 * PACKET))
        for cause in ("xrun", "overflow", "microphone"):
            if chance.random() < 0.4:
                model.lose(chance.randrange(1, 100_000), cause)
    model.ledger.end()
    model.ledger.deliver(chance.randint(0, model.ledger.last))
    return model


def account(ledger: Ledger) -> dict[str, Any]:
    """All that a ledger knows of what is still owed, and the sums of what is not."""
    return {
        "expected": ledger.expected,
        "delivered": ledger.delivered,
        "delivered_frames": ledger.delivered_frames,
        "kept": ledger.kept_frames,
        "lost": ledger.lost,
        "last": ledger.last,
        "gaps": [gap for seq in range(ledger.delivered + 1, ledger.last + 2) for gap in ledger.gaps_before(seq)],
    }


def keep(
    pending: Path,
    recording_id: str,
    audio: AudioFormat,
    ledger: Ledger,
    course: Course,
    wire: Callable[[int], bytes],
) -> Path:
    """What the release before this one wrote of what `ledger` owed; returns the folder."""
    folder = pending / recording_id
    folder.mkdir(mode=0o700, parents=True)
    first = ledger.delivered + 1
    gaps = [gap for seq in range(first, ledger.last + 2) for gap in ledger.gaps_before(seq)]
    owed: dict[str, int] = {}
    for gap in gaps:
        owed[gap.cause] = owed.get(gap.cause, 0) + gap.frames
    meta = {
        "version": 1,
        "recording": recording_id,
        "rate": audio.rate_hz,
        "channels": audio.channels,
        "packet_frames": ledger.packet_frames,
        "first_seq": first,
        "delivered_frames": ledger.delivered_frames,
        "lost": {cause: frames - owed.get(cause, 0) for cause, frames in ledger.lost.items()},
        "gaps": [[gap.before_seq, gap.frames, gap.cause] for gap in gaps],
        **_progress(ledger, course),
    }
    (folder / "packets.pcm1").write_bytes(b"".join(wire(seq) for seq in range(first, ledger.last + 1)))
    (folder / "recording.json").write_text(json.dumps(meta, indent=1))
    return folder


def advance(folder: Path, ledger: Ledger, course: Course) -> None:
    """What it changed when a later run had delivered more of it."""
    meta = json.loads((folder / "recording.json").read_bytes()) | _progress(ledger, course)
    (folder / "recording.json").write_text(json.dumps(meta, indent=1))


def _progress(ledger: Ledger, course: Course) -> dict[str, Any]:
    return {
        "settings": course.settings,
        "delivered": ledger.delivered,
        "sent": course.sent,
        "resent": ledger.resent_frames,
        "sessions": list(course.session_ids),
        "reconnects": course.reconnects,
    }
