"""The spool's files, in STATE/spool.

    recordings/ID/manifest.json   what it is (core/manifest.py); replaced whole, by a rename
    recordings/ID/journal         what happened to it (core/journal.py); appended
    recordings/ID/000000.seg ...  its audio (core/segment.py); preallocated
    pool/                         segment files that are free, to be overwritten: cheaper for a card than new ones
    quarantine/                   what was damaged, with a reason beside it; never deleted by us
    ballast                       space held back, so that a full card can still be sealed in order

The order of writes makes each prefix of them recoverable: a folder appears with its manifest, a name is durable before
the file is overwritten under it, a segment is complete before the next one begins, and what is freed is delivered.

Everything here may raise OSError. `system` is `os`; tests put a failing one in its place.
"""

from edge.adapters.spool.card import CardRecording
from edge.adapters.spool.directory import BALLAST_BYTES, SEGMENT_BYTES, CardFull, SpoolDirectory
from edge.adapters.spool.segments import SegmentFile

__all__ = ["BALLAST_BYTES", "SEGMENT_BYTES", "CardFull", "CardRecording", "SegmentFile", "SpoolDirectory"]
