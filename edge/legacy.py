"""What the first release kept in STATE/pending/ comes onto the spool, as recordings like all others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from edge.adapters import pending
from edge.adapters.spool import SpoolDirectory
from edge.core.journal import EndEntry, Entry, GapEntry, MarkEntry, SessionEntry
from edge.core.ledger import Ledger
from edge.core.manifest import Manifest
from edge.core.resume import ACKS
from edge.core.segment import CardPacket
from edge.errors import EdgeError, UnreadableError
from edge.runtime.happening import Happening
from edge.runtime.recorder import STOP

_BATCH = 64


def import_pending(folder: Path, spool: SpoolDirectory, device_id: str, tell: Callable[[Happening], None]) -> None:
    """Bring over what is in `folder`; each goes there only once it is durable here. What cannot be read stays."""
    for found in pending.kept(folder):
        if isinstance(found, EdgeError):
            tell(Happening("warning", str(found)))
            continue
        try:
            _import(found, spool, device_id)
            pending.drop(found.folder)
        except UnreadableError as error:
            tell(Happening("warning", str(error)))
        except OSError as error:
            why = error.strerror or str(error)
            text = f"the kept recording {found.folder} cannot be brought onto the spool ({why}); it stays where it is"
            tell(Happening("warning", f"{text}, and is tried again at the next start"))


def _import(found: pending.Kept, spool: SpoolDirectory, device_id: str) -> None:
    ledger, settings = found.ledger, found.course.settings
    if 0 < ledger.last == ledger.delivered or _is_there(spool, spool.recordings / found.recording_id):
        return
    meta = Manifest(
        found.recording_id, device_id, "", "", found.audio, ledger.packet_frames, settings, spool.next_number()
    )
    first = ledger.delivered + 1
    entries: list[Entry] = [MarkEntry(ledger.delivered, ledger.delivered), *_gaps(ledger, first)]
    # None of these sessions is gone on with; that there were some says that the server took the settings.
    entries += [SessionEntry(session_id, 1, ACKS, 0, 0.0) for session_id in found.course.session_ids]
    card = spool.draft(meta, entries)
    try:
        for start in range(first, ledger.last + 1, _BATCH):
            packets = [ledger.packet(seq) for seq in range(start, min(start + _BATCH, ledger.last + 1))]
            card.append(
                [
                    CardPacket(found.wire(packet.seq), packet.position, 0, delivered=ledger.delivered)
                    for packet in packets
                ],
                [packet.offset - ledger.start_offset for packet in packets],
            )
        card.note([EndEntry(ledger.expected, STOP)])
        card.seal(STOP)
        card.close()
    except (OSError, UnreadableError):
        with contextlib.suppress(OSError):
            card.remove()  # the next one may fit
        raise
    spool.publish(card)


def _is_there(spool: SpoolDirectory, target: Path) -> bool:
    """Whether an earlier try got through, and was cut off before its source was gone."""
    if not target.exists():
        return False
    try:
        spool.load(target)
    except UnreadableError as error:
        spool.set_aside(target, str(error))  # its source is still whole
        return False
    return True


def _gaps(ledger: Ledger, first: int) -> Iterator[GapEntry]:
    """Where each gap is; of those that are delivered only the sum counts, as if they were one in the beginning."""
    ahead = {
        seq: [gap for gap in ledger.gaps_before(seq) if gap.lost_from is None] for seq in range(first, ledger.last + 2)
    }
    before = dict(ledger.lost)
    for gaps in ahead.values():
        for gap in gaps:
            before[gap.cause] -= gap.frames
    for cause, frames in before.items():
        if frames:
            yield GapEntry(first - 1, 0, frames, cause)
    for seq, gaps in ahead.items():
        end = ledger.packet(seq).position if seq <= ledger.last else ledger.expected
        position = end - sum(gap.frames for gap in gaps)
        for gap in gaps:
            yield GapEntry(seq, position, gap.frames, gap.cause)
            position += gap.frames
