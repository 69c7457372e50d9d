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
from typing import Any, TypeVar

from edge.receiver import http, recovery
from edge.receiver.config import ReceiverConfig
from edge.receiver.durable_session import Session
from edge.receiver.facts import SessionFacts
from edge.receiver.http import Refused
from edge.receiver.recording import Taken
from edge.receiver.shelf import Shelf, Unreadable
from edge.receiver.socket import FINALIZE, Ended, Message, Socket

log = logging.getLogger("edge.receiver")
STOP, GRACE, FOLLOWED, STOPPED = "stop", "grace", "another session of the recording", "receiver stopped"
DISK_FULL = "the disk takes nothing"
_GOING_AWAY = 1001
_SECOND_SOCKET = 1008
_SESSION_GONE = 1011
_REPLACED = 1012
_TRY_LATER = 1013
_ATTACH_PATIENCE_S = 1.0
_T = TypeVar("_T")


class DurableBackend:
    """Sessions and who may feed them. `recover` comes before the first request."""

    def __init__(self, config: ReceiverConfig) -> None:
        self._config = config
        self._timing = config.timing
        self._sessions: dict[str, Session] = {}
        self._shelf = Shelf(config, self._acknowledge, self._tell_trouble)
        self._tasks: set[asyncio.Task[None]] = set()

    async def recover(self) -> None:
        """Bring what an earlier receiver left into order."""
        torn = await asyncio.to_thread(recovery.recover_all, self._config.out)
        if torn:
            log.warning("%d recordings were not closed in order; they are sound again", torn)

    def facts(self) -> list[SessionFacts]:
        """The sessions that are alive."""
        return [session.facts() for session in self._sessions.values()]

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
        async with self._shelf.door(recording_id):
            for old in self._of(recording_id):
                await self._finalise(old, FOLLOWED, code=_REPLACED, patience=_ATTACH_PATIENCE_S)
            try:
                recording = await self._shelf.open(recording_id)
            except Unreadable:
                raise Refused(503, "the recording's store cannot be read") from None
            session = Session(recording)
            self._sessions[session.session_id] = session
            recording.session_begun(session.session_id)
            self._begin_grace(session)
        return session.session_id

    async def stop(self, session_id: str) -> None:
        """All of it durable, then success; success for a session that is gone as well."""
        session = self._sessions.get(session_id)
        if session is not None and not await self._end(session, STOP):
            raise Refused(503, f"{DISK_FULL}: nothing more can be stored")

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
        if session is None or session.is_ended:
            socket.close(_SESSION_GONE, "Session not found")
            return
        if session.socket is not None:
            if not resume:
                socket.close(_SECOND_SOCKET, "Connection already exists")
                return
            session.socket.send(http.replaced(client_id))
            session.socket.close(_REPLACED, "replaced")
        try:
            await self._attach(session, socket)
            while session.socket is socket:
                message = await socket.receive()
                if isinstance(message, Ended):
                    break
                if not session.hears(socket):
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
        session.cancel_grace()
        # What an older socket brought is made durable first, so that hello does not ask for it again.
        await session.recording.committer.flush(_ATTACH_PATIENCE_S)
        if session.socket is not socket or session.is_ended:
            return
        if session.attachments:
            socket.send(http.RESUMED)
        session.attachments += 1
        next_seq = session.recording.store.durable_next
        socket.send({"type": "hello", "session_id": session.session_id, "acks": True, "next_seq": next_seq})
        session.audio_at = time.monotonic()
        socket.begin_pings(is_idle_at=lambda: socket.heard_at + self._timing.idle)
        self._spawn(session.heartbeat(socket, self._timing))

    async def _binary(self, session: Session, socket: Socket, wire: bytes) -> None:
        recording = session.recording
        taken = recording.packet(session.session_id, wire, in_order=session.acks)
        if taken is Taken.STORED:
            session.audio_at = socket.heard_at
            if recording.store.unsynced_bytes >= self._config.limits.unsynced_bytes:
                await self._unless_gone(socket, recording.committer.room(self._config.limits.unsynced_bytes))
        elif taken is Taken.DUPLICATE:
            session.ack()
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
            if taken is Taken.DUPLICATE:
                session.ack()
            elif taken is not Taken.STORED:
                self._tell_refusal(session, socket, taken)
        elif kind == "init":
            session.acks = session.acks or message.get("acks") is True
            recording.init(session.session_id, message, acks=session.acks)
        elif kind == "clock":
            recording.clock(message, len(text))
        elif message.get("action") == "stop_stream" and not await self._end(session, STOP):
            socket.close(_TRY_LATER, DISK_FULL)

    async def _durable(self, session: Session, socket: Socket) -> bool:
        """True once everything is durable; a client that waits too long loses its socket and tries again later."""
        flushed = await self._unless_gone(socket, session.recording.committer.flush(self._timing.disk_patience))
        if flushed is False:
            socket.close(_TRY_LATER, DISK_FULL)
        return flushed is True

    async def _unless_gone(self, socket: Socket, waiting: Coroutine[Any, Any, _T]) -> _T | None:
        """The result of `waiting`, or None as soon as the socket is gone."""
        task = asyncio.create_task(waiting)
        gone = asyncio.create_task(socket.gone.wait())
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

    def _acknowledge(self, recording_id: str) -> None:
        for session in self._of(recording_id):
            session.ack()

    def _tell_trouble(self, recording_id: str, reason: str | None) -> None:
        event: Message = {"type": "warning", "event": "storage_failed", "reason": reason}
        if reason is None:
            event = {"type": "warning", "event": "storage_recovered"}
        for session in self._of(recording_id):
            if session.socket is not None:
                session.socket.send(event)

    # --- the end of a session ---

    def _begin_grace(self, session: Session) -> None:
        loop = asyncio.get_running_loop()
        session.cancel_grace()
        session.grace_ends = loop.call_later(self._timing.grace, lambda: self._spawn(self._expire(session)))

    async def _expire(self, session: Session) -> None:
        if session.socket is None:
            await self._end(session, GRACE)

    async def _end(self, session: Session, by: str) -> bool:
        """Finalise, and give back the files when nobody else needs them."""
        recording = session.recording
        if not await self._finalise(session, by):
            return False
        async with self._shelf.door(recording.recording_id):
            if not self._of(recording.recording_id):
                await self._shelf.close(recording)
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
        session.cancel_grace()
        recording.session_ended(session.session_id, by)
        await recording.committer.settle(patience)
        self._sessions.pop(session.session_id, None)
        socket = session.socket
        if socket is not None:
            session.ack()
            if code == _REPLACED:
                socket.send(http.replaced("another session"))
            socket.close(code, FINALIZE if code == 1000 else by)
        return True

    def _of(self, recording_id: str) -> list[Session]:
        return [session for session in self._sessions.values() if session.recording.recording_id == recording_id]

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the end of the process ---

    async def linger(self) -> None:
        """Nothing to wait for: `close` makes everything durable."""

    async def close(self) -> None:
        """Everything durable, every session ended, every file closed."""
        sessions = list(self._sessions.values())
        await asyncio.gather(*(self._finalise(session, STOPPED, code=_GOING_AWAY) for session in sessions))
        await self.abort()

    async def abort(self) -> None:
        """End at once, as a crash would: nothing more is made durable or said."""
        for session in self._sessions.values():
            session.cancel_grace()
        for task in list(self._tasks):
            task.cancel()
        await self._shelf.abort()


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
