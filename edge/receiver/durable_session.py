"""One session of the good server, and the pings of the socket that feeds it."""

from __future__ import annotations

import asyncio
import time
import uuid

from edge.receiver import http
from edge.receiver.config import Timing
from edge.receiver.facts import SessionFacts
from edge.receiver.recording import Recording
from edge.receiver.socket import Socket


class Session:
    """`socket` is the one that is heard; `acks` whether its client knows our extension."""

    def __init__(self, recording: Recording) -> None:
        self.session_id = str(uuid.uuid4())
        self.recording = recording
        self.socket: Socket | None = None
        self.attachments = 0
        self.acks = False
        self.is_ended = False
        self.audio_at = time.monotonic()
        self.grace_ends: asyncio.TimerHandle | None = None
        self.refusals_told: set[str] = set()
        self._frames_before = recording.store.account.stored_frames

    @property
    def audio_ms(self) -> int:
        """Audio that this session brought."""
        account = self.recording.store.account
        frames = account.stored_frames - self._frames_before
        return frames * 1000 // account.audio.rate_hz if account.audio else 0

    def hears(self, socket: Socket) -> bool:
        """True while what comes on `socket` counts."""
        return self.socket is socket and not self.is_ended

    def ack(self) -> None:
        """Tell the client what is durable."""
        if self.acks and self.socket is not None:
            self.socket.ack(self.recording.store.durable_next - 1)

    def cancel_grace(self) -> None:
        """Somebody is there, or nobody needs to be."""
        if self.grace_ends is not None:
            self.grace_ends.cancel()
            self.grace_ends = None

    def facts(self) -> SessionFacts:
        """For whoever runs the receiver in the same process."""
        store = self.recording.store
        entry = store.account.session(self.session_id)
        return SessionFacts(
            self.session_id,
            self.recording.recording_id,
            self.socket is not None,
            self.is_ended,
            store.durable_next - 1,
            entry.packets if entry else 0,
            entry.duplicates_ignored if entry else 0,
        )

    async def heartbeat(self, socket: Socket, timing: Timing) -> None:
        """The pings that only the registered socket gets, for as long as `socket` is that one."""
        now = time.monotonic()
        beat_at, pile_at, warn_at = now + timing.heartbeat, now + timing.piled_ping, now + timing.no_audio
        while True:
            await asyncio.sleep(min(beat_at, pile_at, warn_at) - time.monotonic())
            if self.socket is not socket or self.is_ended or socket.gone.is_set():
                return
            now = time.monotonic()
            if now >= beat_at:
                beat_at += timing.heartbeat
                socket.send(http.ping_t(is_recording=True, audio_ms=self.audio_ms, connected=True))
            if now >= pile_at:
                pile_at += timing.piled_ping
                socket.send(http.ping_piled())
            if now >= warn_at:
                if now >= self.audio_at + timing.no_audio:
                    socket.send(http.NO_AUDIO)
                    warn_at = now
                warn_at = max(warn_at, self.audio_at) + timing.no_audio
