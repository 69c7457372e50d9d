"""The unmodified aia-v4 server with its faults, one by one (PROTOCOL.md; the trap's number stands beside each).

Nothing here knows of acknowledgements. Everything that is not yet transcribed lives in RAM and dies with the process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any

from edge.receiver import http
from edge.receiver.config import ReceiverConfig, StrictConfig
from edge.receiver.facts import SessionFacts
from edge.receiver.http import Refused
from edge.receiver.kept import KeptRecording, recover_kept
from edge.receiver.recovery import recording_id
from edge.receiver.socket import FINALIZE, Socket
from edge.receiver.strict_session import StrictSession, Verdict

log = logging.getLogger("edge.receiver")


class _Handler:
    """The thread that serves one socket."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.is_replaced = False

    async def urgent(self, patience_s: float) -> None:
        """Return when there is more than packets to see to, or too many of them, or after `patience_s`."""
        socket = self.socket
        seen = 0
        try:
            async with asyncio.timeout(patience_s):
                while not (socket.ended or self.is_replaced or socket.gone.is_set() or socket.is_full):
                    if any(isinstance(message, str) for message in islice(socket.inbox, seen, None)):
                        return
                    seen = len(socket.inbox)
                    socket.news.clear()
                    await socket.news.wait()
        except TimeoutError:
            pass


class StrictBackend:
    """Sessions of a server that is restarted with nothing."""

    def __init__(self, config: ReceiverConfig, strict: StrictConfig) -> None:
        self._config = config
        self._strict = strict
        self._faults = strict.faults
        self._timing = config.timing
        self._chance = random.Random(f"receiver/{strict.seed}")
        self._sessions: dict[str, StrictSession] = {}
        self._handlers: dict[Socket, _Handler] = {}
        self._recordings: dict[str, KeptRecording] = {}
        self._opening = asyncio.Lock()
        self._threads = asyncio.Semaphore(strict.threads)
        self._busy = 0
        self._stalls: set[asyncio.Event] = set()
        self._is_terminating = False
        self._idle = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def recover(self) -> None:
        """There is nothing to go on with; only a packet that was just being written is cut off."""
        await asyncio.to_thread(recover_kept, self._config.out)

    def facts(self) -> list[SessionFacts]:
        """All sessions since the start."""
        return [session.facts() for session in self._sessions.values()]

    async def admit(self) -> Callable[[], None]:
        """One of four threads (5); none after SIGTERM (7); none while a takeover of a half-open socket stalls (10)."""
        for stall in list(self._stalls):
            try:
                async with asyncio.timeout(self._timing.close):
                    await stall.wait()
            except TimeoutError:
                pass
            self._stalls.discard(stall)
        if self._faults.hangs_at_threads:
            await self._threads.acquire()
        if self._is_terminating and self._faults.lingers_after_term:
            await asyncio.Event().wait()
        self._busy += 1
        return self._leave

    def _leave(self) -> None:
        self._busy -= 1
        if self._faults.hangs_at_threads:
            self._threads.release()
        if not self._busy:
            self._idle.set()

    # --- HTTP ---

    async def start(self, settings: dict[str, Any]) -> str:
        """A new session; `recording` only says into which folder it goes."""
        if len(self._sessions) >= self._config.limits.sessions:
            raise Refused(503, "too many sessions")
        name = recording_id(settings.get("recording")) or str(uuid.uuid4())
        async with self._opening:
            kept = self._recordings.get(name)
            try:
                if kept is None:
                    kept = KeptRecording(self._config.out / name)
                    await asyncio.to_thread(kept.open)
                    self._recordings[name] = kept
                chance = random.Random(self._chance.random())
                session = StrictSession(name, kept, self._strict, self._timing, chance, asyncio.to_thread)
                kept.entries.append(session.entry)
                try:
                    await asyncio.to_thread(kept.list_sessions)
                except OSError:
                    kept.entries.remove(session.entry)
                    raise
            except (OSError, ValueError, KeyError) as error:
                log.error("recording %s cannot be opened (%s)", name, type(error).__name__)  # noqa: TRY400
                raise Refused(500, "the folder cannot be written") from None
        self._sessions[session.session_id] = session
        self._spawn(session.transcribe())
        self._spawn(self._heartbeat(session))
        return session.session_id

    async def stop(self, session_id: str) -> None:
        """Success, whatever happens."""
        session = self._sessions.get(session_id)
        if session is not None:
            await self._finalise(session, "stop")

    def status(self, session_id: str) -> dict[str, Any] | None:
        """Finalised sessions exist for ever (8)."""
        session = self._sessions.get(session_id)
        if session is None or (session.is_finalised and not self._faults.remembers_finalised):
            return None
        backlog = {"pending_segments": session.pending_segments, "max_pending": self._strict.max_pending}
        return {"connected": session.registered is not None, "backlog": backlog}

    # --- the socket ---

    async def stream(self, socket: Socket, session_id: str, client_id: str, *, resume: bool) -> None:
        """Attach without asking whether the session is alive (3), and handle until the end; then clean up (1)."""
        session = self._sessions.get(session_id)
        if session is None or (session.is_over and not self._faults.reattach_to_dead):
            socket.close(1011, "Session not found")
            return
        if session.registered is not None:
            if not resume and self._faults.refuses_second_socket:
                socket.close(1008, "Connection already exists")
                return
            self._take_over(session.registered, client_id)
        session.registered = socket
        if session.connections:
            socket.send(http.RESUMED)
        if self._faults.overlaps_piled_pings or not session.connections:
            self._spawn(session.pile_pings())
        session.connections += 1
        socket.send({"type": "hello", "session_id": session_id})
        socket.begin_pings(is_idle_at=lambda: socket.heard_at + self._timing.idle)
        handler = self._handlers[socket] = _Handler(socket)
        try:
            await self._handle(session, handler)
            await asyncio.sleep(self._chance.uniform(*self._strict.cleanup))
        finally:
            del self._handlers[socket]
            if self._faults.takeover_orphans or session.registered is socket:
                session.detach()

    def _take_over(self, old: Socket, client_id: str) -> None:
        """The old handler is told at once; its socket may be half-open, and then closing it takes its time (10)."""
        old.send(http.replaced(client_id))
        old.close(1012, "replaced")
        handler = self._handlers.get(old)
        if handler is not None:
            handler.is_replaced = True
            old.news.set()
        if self._faults.takeover_stalls_http:
            self._stalls.add(old.gone)

    async def _handle(self, session: StrictSession, handler: _Handler) -> None:
        socket = handler.socket
        while True:
            if not socket.inbox and not socket.ended:
                socket.news.clear()
                await socket.news.wait()
            # Packets that no ping has pushed through yet are slow to be handled; a reset takes them along.
            await handler.urgent(self._strict.hold)
            ended = socket.ended
            if ended is not None and not ended.in_order and self._faults.reset_loses_in_flight:
                return
            while socket.inbox and not handler.is_replaced:
                if not await self._message(session, socket, socket.take()):
                    return
            if ended is not None or handler.is_replaced or socket.gone.is_set():
                return

    async def _message(self, session: StrictSession, socket: Socket, message: str | bytes) -> bool:
        """Handle one message; False ends the handler."""
        if isinstance(message, bytes):
            return await self._packet(session, socket, message)
        value = _json(message)
        kind, action = value.get("type"), value.get("action")
        if kind in ("ping", "pong"):
            socket.heard_at = time.monotonic()
            if kind == "ping":
                socket.send({"type": "pong"})
        elif kind == "init":
            session.init(value)
        elif action == "set_processing_state":
            session.is_paused = value.get("paused") is True
        elif action == "stop_stream":
            was_alive = await self._finalise(session, "stop")
            socket.close(1000, FINALIZE if was_alive else "")
            return False
        return True

    async def _packet(self, session: StrictSession, socket: Socket, data: bytes) -> bool:
        verdict = session.packet(data)
        while verdict is Verdict.WAIT:
            await session.room()
            verdict = session.packet(data)
        match verdict:
            case Verdict.CRASH:
                socket.close(1000)
                return False
            case Verdict.REJECTED:
                socket.send(session.backpressure())
            case Verdict.DISCARDED if not self._faults.drops_malformed_silently:
                socket.send({"type": "warning", "event": "packet_refused"})
            case _:
                pass
        return True

    # --- the end of a session ---

    async def _finalise(self, session: StrictSession, by: str) -> bool:
        done = await session.finalise(by)
        if done:
            if session.registered is not None:
                session.registered.close(1000, FINALIZE)
            await self._write_files(session)
        return done

    async def _heartbeat(self, session: StrictSession) -> None:
        await session.heartbeat(lambda: self._write_files(session))

    async def _write_files(self, session: StrictSession) -> None:
        kept = self._recordings[session.recording_id]
        async with self._opening:
            try:
                await asyncio.to_thread(kept.list_sessions)
                await asyncio.to_thread(kept.write_wav)
            except OSError as error:
                log.error("recording %s: files cannot be written (%s)", session.recording_id, error.strerror)  # noqa: TRY400

    # --- the end of the process ---

    async def linger(self) -> None:
        """SIGTERM: open sockets live on, nothing new is served, and what is not cut will be lost (7)."""
        self._is_terminating = True
        if not self._faults.lingers_after_term:
            for session in list(self._sessions.values()):
                await self._finalise(session, "receiver stopped")
            return
        try:
            async with asyncio.timeout(self._timing.linger_after_term):
                while self._busy:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """What is in RAM is lost."""
        await self.abort()

    async def abort(self) -> None:
        """What is in RAM is lost."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
