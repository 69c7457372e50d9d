"""The good server: what it has taken it keeps, and it says so. See PROTOCOL.md, "Our extension".

A recording has at most one live session, a session at most one live socket; what any other socket says is not heard.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from edge.receiver import http, recovery
from edge.receiver.config import ReceiverConfig
from edge.receiver.facts import SessionFacts
from edge.receiver.http import Refused
from edge.receiver.recording import Recording, Taken
from edge.receiver.socket import FINALIZE, Ended, Message, Socket

log = logging.getLogger("edge.receiver")
STOP, GRACE, FOLLOWED, STOPPED = "stop", "grace", "another session of the recording", "receiver stopped"
_T = TypeVar("_T")
_WRITERS = 4
_SESSION_GONE = 1011
_REPLACED = 1012
_TRY_LATER = 1013
_GOING_AWAY = 1001


class Session:
    """One session; `socket` is the one that is heard."""

    def __init__(self, recording: Recording) -> None:
        self.session_id = str(uuid.uuid4())
        self.recording = recording
        self.socket: Socket | None = None
        self.attachments = 0
        self.acks = False
        self.is_ended = False
        self._frames_before = recording.store.account.stored_frames
        self.audio_at = time.monotonic()
        self.grace_ends: asyncio.TimerHandle | None = None
        self.refusals_told: set[str] = set()

    @property
    def audio_ms(self) -> int:
        """Audio that this session brought."""
        account = self.recording.store.account
        frames = account.stored_frames - self._frames_before
        return frames * 1000 // account.audio.rate_hz if account.audio else 0


class DurableBackend:
    """Sessions, their recordings and who may feed them. `recover` comes before the first request."""

    def __init__(self, config: ReceiverConfig) -> None:
        self._config = config
        self._timing = config.timing
        self._executor = ThreadPoolExecutor(_WRITERS, thread_name_prefix="commit")
        self._sessions: dict[str, Session] = {}
        self._recordings: dict[str, Recording] = {}
        self._doors: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    async def recover(self) -> None:
        """Bring what an earlier receiver left into order."""
        torn = await asyncio.get_running_loop().run_in_executor(None, recovery.recover_all, self._config.out)
        if torn:
            log.warning("%d recordings were not closed in order; they are sound again", torn)

    async def linger(self) -> None:
        """Nothing to wait for: `close` makes everything durable."""

    def facts(self) -> list[SessionFacts]:
        """The sessions that are alive."""
        return [_facts(session) for session in self._sessions.values()]

    async def admit(self) -> Callable[[], None]:
        """Everybody at once: bounds are elsewhere."""
        return lambda: None

    # --- HTTP ---

    async def start(self, settings: dict[str, Any]) -> str:
        """A session for the recording that the client names, else for one of its own."""
        named = settings.get("recording")
        recording_id = recovery.recording_id(named)
        if recording_id is None:
            if named is not None:
                raise Refused(400, "recording is no UUID")
            recording_id = str(uuid.uuid4())
        if len(self._sessions) >= self._config.limits.sessions:
            raise Refused(503, "too many sessions")
        async with self._door(recording_id):
            for old in self._of(recording_id):
                await self._finalise(old, FOLLOWED, code=_REPLACED, patience=1.0)
            session = Session(await self._open(recording_id))
            self._sessions[session.session_id] = session
            session.recording.session_begun(session.session_id)
            self._begin_grace(session)
        return session.session_id

    async def stop(self, session_id: str) -> None:
        """All of it durable, then success; success for a session that is gone as well."""
        session = self._sessions.get(session_id)
        if session is not None and not await self._end(session, STOP):
            raise Refused(503, "the disk takes nothing: nothing more can be stored")

    def status(self, session_id: str) -> dict[str, Any] | None:
        """Nothing is ever pending: what is acknowledged is stored."""
        session = self._sessions.get(session_id)
        if session is None:
            return None
        return {"connected": session.socket is not None, "backlog": {"pending_segments": 0, "max_pending": 20}}

    # --- the socket ---

    async def stream(self, socket: Socket, session_id: str, client_id: str, *, resume: bool) -> None:
        """Attach `socket` to its session and hear it until it ends or another one takes over."""
        session = self._sessions.get(session_id)
        if session is None:
            socket.close(_SESSION_GONE, "Session not found")
            return
        if session.socket is not None:
            if not resume:
                socket.close(1008, "Connection already exists")
                return
            session.socket.send(http.replaced(client_id))
            session.socket.close(_REPLACED, "replaced")
        await self._attach(session, socket)
        try:
            while session.socket is socket:
                message = await socket.receive()
                if isinstance(message, Ended):
                    break
                if session.socket is not socket:
                    break
                if session.is_ended:
                    continue
                socket.heard_at = time.monotonic()
                if isinstance(message, bytes):
                    await self._binary(session, socket, message)
                else:
                    await self._text(session, socket, message)
        finally:
            if session.socket is socket:
                session.socket = None
                if not session.is_ended:
                    self._begin_grace(session)

    async def _attach(self, session: Session, socket: Socket) -> None:
        session.socket = socket
        if session.grace_ends is not None:
            session.grace_ends.cancel()
        # What an older socket brought is made durable first, so that hello does not ask for it again.
        await session.recording.committer.flush(min(1.0, self._timing.disk_patience))
        if session.socket is not socket:
            return
        if session.attachments:
            socket.send(http.RESUMED)
        session.attachments += 1
        store = session.recording.store
        hello = {"type": "hello", "session_id": session.session_id, "acks": True, "next_seq": store.durable_next}
        socket.send(hello)
        session.audio_at = time.monotonic()
        socket.begin_pings(is_idle_at=lambda: socket.heard_at + self._timing.idle)
        self._spawn(self._heartbeat(session, socket))

    async def _binary(self, session: Session, socket: Socket, wire: bytes) -> None:
        recording = session.recording
        taken = recording.packet(session.session_id, wire, in_order=session.acks)
        if taken is Taken.STORED:
            session.audio_at = socket.heard_at
            if recording.store.unsynced_bytes >= self._config.limits.unsynced_bytes:
                await self._unless_gone(socket, recording.committer.room(self._config.limits.unsynced_bytes))
        elif taken is Taken.DUPLICATE:
            socket.ack(recording.store.durable_next - 1)
        else:
            self._tell_refusal(session, socket, taken)

    async def _text(self, session: Session, socket: Socket, text: str) -> None:
        message = _json(text)
        kind = message.get("type")
        recording = session.recording
        if kind == "ping":
            # Without acks the pong is all that a client gets, so it comes once everything before it is durable.
            if session.acks or await self._durable(session, socket):
                socket.send({"type": "pong"})
        elif kind == "gap" and session.acks:
            taken = recording.gap(message)
            if taken not in (Taken.STORED, Taken.DUPLICATE):
                self._tell_refusal(session, socket, taken)
        elif kind == "init":
            session.acks = session.acks or message.get("acks") is True
            recording.init(session.session_id, message, acks=session.acks)
        elif kind == "clock":
            recording.clock(message, len(text))
        elif message.get("action") == "stop_stream" and not await self._end(session, STOP):
            socket.close(_TRY_LATER, "the disk takes nothing")

    async def _durable(self, session: Session, socket: Socket) -> bool:
        """True once everything is durable; a client that waits too long loses its socket and tries again later."""
        flushed = await self._unless_gone(socket, session.recording.committer.flush(self._timing.disk_patience))
        if flushed is False:
            socket.close(_TRY_LATER, "the disk takes nothing")
        return flushed is True

    async def _unless_gone(self, socket: Socket, waiting: Coroutine[Any, Any, _T]) -> _T | None:
        """The result of `waiting`, or None as soon as the socket is gone."""
        task = asyncio.ensure_future(waiting)
        gone = asyncio.ensure_future(socket.gone.wait())
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            gone.cancel()

    def _tell_refusal(self, session: Session, socket: Socket, reason: Taken) -> None:
        if reason not in session.refusals_told:
            session.refusals_told.add(reason)
            log.warning("session %s: refused: %s", session.session_id, reason)
            socket.send({"type": "warning", "event": "packet_refused", "reason": reason})

    async def _heartbeat(self, session: Session, socket: Socket) -> None:
        timing = self._timing
        now = time.monotonic()
        beat_at, pile_at, warn_at = now + timing.heartbeat, now + timing.piled_ping, now + timing.no_audio
        while True:
            await asyncio.sleep(min(beat_at, pile_at, warn_at) - time.monotonic())
            if session.socket is not socket or session.is_ended or socket.gone.is_set():
                return
            now = time.monotonic()
            if now >= beat_at:
                beat_at += timing.heartbeat
                socket.send(http.ping_t(is_recording=True, audio_ms=session.audio_ms, connected=True))
            if now >= pile_at:
                pile_at += timing.piled_ping
                socket.send(http.ping_piled())
            if now >= warn_at:
                if now >= session.audio_at + timing.no_audio:
                    socket.send(http.NO_AUDIO)
                    warn_at = now
                warn_at = max(warn_at, session.audio_at) + timing.no_audio

    # --- the end of a session ---

    def _begin_grace(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        session.grace_ends = loop.call_later(self._timing.grace, lambda: self._spawn(self._expire(session)))

    async def _expire(self, session: Session) -> None:
        if session.socket is None:
            await self._end(session, GRACE)

    async def _end(self, session: Session, by: str) -> bool:
        """Finalise, and give back the files when nobody else needs them."""
        recording = session.recording
        if not await self._finalise(session, by):
            return False
        async with self._door(recording.recording_id):
            if self._recordings.get(recording.recording_id) is recording and not self._of(recording.recording_id):
                await recording.committer.abort()
                del self._recordings[recording.recording_id]
        return True

    async def _finalise(self, session: Session, by: str, code: int = 1000, patience: float | None = None) -> bool:
        """Make everything durable, acknowledge it and end the session. False where the disk does not let a stop."""
        recording = session.recording
        patience = self._timing.disk_patience if patience is None else patience
        if not await recording.committer.flush(patience) and by == STOP:
            return False
        if session.is_ended:
            return True
        session.is_ended = True
        if session.grace_ends is not None:
            session.grace_ends.cancel()
        recording.session_ended(session.session_id, by)
        await recording.committer.settle(patience)
        self._sessions.pop(session.session_id, None)
        socket = session.socket
        if socket is not None:
            if session.acks:
                socket.ack(recording.store.durable_next - 1)
            if code == _REPLACED:
                socket.send(http.replaced("another session"))
            socket.close(code, FINALIZE if code == 1000 else by)
        return True

    def _door(self, recording_id: str) -> asyncio.Lock:
        """Held while a recording's store is opened or closed."""
        return self._doors.setdefault(recording_id, asyncio.Lock())

    def _of(self, recording_id: str) -> list[Session]:
        return [session for session in self._sessions.values() if session.recording.recording_id == recording_id]

    # --- recordings ---

    async def _open(self, recording_id: str) -> Recording:
        known = self._recordings.get(recording_id)
        if known is not None:
            return known
        try:
            store = await asyncio.get_running_loop().run_in_executor(
                self._executor, recovery.load, self._config.out / recording_id, recording_id
            )
        except (OSError, ValueError, KeyError) as error:
            log.error("recording %s cannot be opened (%s)", recording_id, error)  # noqa: TRY400
            raise Refused(503, "the recording's store cannot be read") from None
        recording = self._recordings[recording_id] = Recording(
            store,
            self._executor,
            self._timing,
            self._config.limits,
            lambda: self._acknowledge(recording_id),
            lambda reason: self._trouble(recording_id, reason),
        )
        return recording

    def _acknowledge(self, recording_id: str) -> None:
        for session in self._of(recording_id):
            if session.acks and session.socket is not None:
                session.socket.ack(session.recording.store.durable_next - 1)

    def _trouble(self, recording_id: str, reason: str | None) -> None:
        event: Message = {"type": "warning", "event": "storage_failed", "reason": reason}
        if reason is None:
            event = {"type": "warning", "event": "storage_recovered"}
        for session in self._of(recording_id):
            if session.socket is not None:
                session.socket.send(event)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Everything durable, every session ended, every file closed."""
        sessions = list(self._sessions.values())
        await asyncio.gather(*(self._finalise(session, STOPPED, code=_GOING_AWAY) for session in sessions))
        await self.abort()

    async def abort(self) -> None:
        """End at once, as a crash would: nothing more is made durable or said."""
        for task in list(self._tasks):
            task.cancel()
        for recording in list(self._recordings.values()):
            await recording.committer.abort()
        self._recordings.clear()
        self._executor.shutdown(wait=True)


def _facts(session: Session) -> SessionFacts:
    store = session.recording.store
    entry = store.account.session(session.session_id)
    return SessionFacts(
        session.session_id,
        session.recording.recording_id,
        session.socket is not None,
        session.is_ended,
        store.durable_next - 1,
        entry.packets if entry else 0,
        entry.duplicates_ignored if entry else 0,
    )


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
