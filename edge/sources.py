"""From the text of `audio.source` to a Source: what app and client share of the composition."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from edge.core.packet import AudioFormat
from edge.runtime.fallback import FallbackSource
from edge.runtime.ports import Source

Pace = Literal["realtime", "fast"]


def open_source(
    source: str, audio: AudioFormat, period_frames: int, pace: Pace, fallback: str = "", identity: str = ""
) -> Source:
    """The source that `source` names (alsa:DEVICE, wav:PATH, tone:HZ), not yet open; imports only what it needs.

    A microphone may have a `fallback` (alsa:DEVICE), and an `identity` (of `SourceInfo`): then no other one will do.
    """
    kind, _, name = source.partition(":")
    if kind == "alsa":
        from edge.adapters.alsa import AlsaSource

        microphone = AlsaSource(name, audio, period_frames, identity)
        if not fallback:
            return microphone
        return FallbackSource(microphone, AlsaSource(fallback.partition(":")[2], audio, period_frames))
    from edge.adapters.wav import ToneSource, WavSource

    if kind == "wav":
        return WavSource(Path(name), audio, pace)
    return ToneSource(name, audio, pace)


def own_audio(source: str) -> AudioFormat | None:
    """The format that a source brings along; None where it takes the one that is asked for."""
    kind, _, name = source.partition(":")
    if kind != "wav":
        return None
    from edge.adapters.wav import WavSource

    return WavSource(Path(name), None, "fast").audio
