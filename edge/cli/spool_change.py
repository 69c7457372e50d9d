"""What changes the card: a kept recording once more, and one that is to be gone. Whoever calls holds the lock."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from edge.adapters.spool import CardRecording, SpoolDirectory
from edge.adapters.wipe import wipe
from edge.cli import spool_find
from edge.core.journal import EndEntry, GapEntry, LostEntry
from edge.core.manifest import CardState
from edge.core.recovery import DAMAGED, Recovered
from edge.core.segment import BLOCK_BYTES, Torn, decode_segment
from edge.errors import ConfigError, UnreadableError

_BATCH = 64


# --- once more -------------------------------------------------------------------------------------------------------


def resend(spool: SpoolDirectory, folder: Path) -> tuple[str, float]:
    """Write the recording in `folder` once more, under an id of its own, to be delivered; returns that and its seconds
    of audio. Raises ConfigError where it is not wholly there, or where there is no room."""
    card, found = spool_find.load(spool, folder)
    meta = card.manifest
    _refuse(card, found)
    recording_id = str(uuid.uuid4())
    settings = {**meta.settings, "recording": recording_id, "predecessor": meta.recording_id}
    fresh = replace(
        meta,
        recording_id=recording_id,
        settings=settings,
        number=spool.next_number(),
        predecessor=meta.recording_id,
        state=CardState.RECORDING,
        ended_by="",
        delivered_utc_s=0.0,
    )
    gaps = [entry for entry in card.entries() if isinstance(entry, GapEntry)]
    try:
        spool.prepare()
        copy = spool.draft(fresh, [*found.boots.values(), *gaps])
        try:
            frames = _copy(card, copy, found.ledger.last)
            copy.note([EndEntry(found.ledger.expected, meta.ended_by)])
            copy.seal(meta.ended_by)
            copy.close()
        except BaseException:
            copy.remove()
            raise
        spool.publish(copy)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"the card takes no copy of it ({why})", "nothing was changed") from None
    return recording_id, meta.audio.seconds(frames)


def _refuse(card: CardRecording, found: Recovered) -> None:
    meta = card.manifest
    if meta.state is not CardState.DELIVERED:
        raise ConfigError(
            f"{meta.recording_id} is not delivered yet", "it is owed as it is", "edge spool deliver sends it"
        )
    if not meta.has_audio or not card.segments:
        raise ConfigError(
            f"of {meta.recording_id} no audio is on the card", remedy="see spool.mode and spool.keep_days"
        )
    if card.segments[0].header.first_seq != 1:
        raise _not_whole(meta.recording_id, "its beginning was given back after delivery")
    if any(isinstance(entry, LostEntry) for entry in card.entries()):
        raise _not_whole(meta.recording_id, "some of it was given up")
    if DAMAGED in found.ledger.lost:
        raise _not_whole(meta.recording_id, "its end is missing")


def _not_whole(recording_id: str, why: str) -> ConfigError:
    return ConfigError(
        f"{recording_id} is not wholly on the card ({why})",
        "it cannot be sent again",
        "edge spool export saves what is there",
    )


def _copy(card: CardRecording, copy: CardRecording, last: int) -> int:
    """All packets; returns their frames. Raises OSError, or ConfigError where one cannot be read."""
    frames = 0
    for first in range(1, last + 1, _BATCH):
        packets, offsets = [], []
        for seq, packet in card.read(first, min(first + _BATCH - 1, last)):
            if packet is None:
                raise _not_whole(card.manifest.recording_id, f"packet {seq} cannot be read")
            packets.append(replace(packet, delivered=0, handled=0))
            offsets.append(frames)
            frames += packet.frames
        copy.append(packets, offsets)
    return frames


# --- gone ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Doomed:
    """What is to be gone. `owed_seconds` None: nobody can tell how much of it was delivered."""

    folder: Path
    owed_seconds: float | None


def doomed(spool: SpoolDirectory, text: str) -> Doomed:
    """The recording whose id begins with `text`, damaged ones included. Raises ConfigError."""
    everything = spool_find.folders(spool)
    try:
        folder = spool_find.find(text, everything)
    except ConfigError:
        aside = spool_find.find(text, [path for path, _ in spool_find.quarantined(spool)] or everything)
        return Doomed(aside, None)
    try:
        card, found = spool.load(folder)
    except UnreadableError:
        return Doomed(folder, None)
    if card.manifest.state is CardState.DELIVERED:
        return Doomed(folder, 0.0)
    return Doomed(folder, card.manifest.audio.seconds(found.ledger.kept_frames))


def purge(spool: SpoolDirectory, folder: Path) -> int:
    """Overwrite and remove `folder`, and what pool and quarantine still hold of that recording; returns the bytes
    overwritten. Raises ConfigError."""
    try:
        size = spool_find.size_bytes(folder)
        wipe(folder)
        spool_find.reason_file(folder).unlink(missing_ok=True)
        for path in sorted((spool.path / "pool").glob("*")):
            if _is_of(path, folder.name):
                size += spool_find.size_bytes(path)
                wipe(path)
        for path, _ in spool_find.quarantined(spool):
            if path.name.startswith(f"{folder.name}-"):
                size += spool_find.size_bytes(path)
                wipe(path)
                spool_find.reason_file(path).unlink(missing_ok=True)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(f"{folder.name} cannot be removed wholly ({why})", "some of it may still be there") from None
    return size


def _is_of(path: Path, recording_id: str) -> bool:
    """Whether a free segment file still holds audio of the recording."""
    with path.open("rb") as file:
        block = file.read(BLOCK_BYTES)
    try:
        return decode_segment(block).recording_id == recording_id[:36]
    except Torn:
        return False
