"""The faults of the real server, one transcript each, written from PROTOCOL.md; and the same without the fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.receiver.transcript import Transcript

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=[path.stem for path in TRANSCRIPTS])
async def test_transcript(path: Path, tmp_path: Path) -> None:
    await Transcript(path, tmp_path).run()


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 40
