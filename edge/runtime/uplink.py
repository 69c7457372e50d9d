"""Feeds the session, performs its effects, re-arms one timer; tenacity says when to try again."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from edge.core import events
from edge.core.context import Phase
from edge.core.delivery import Poll
from edge.core.link import Change, LinkDelta, LinkSnapshot
from edge.core.messages import parse
from edge.core.policy import Policy
from edge.core.roam import UNDER_WAY
from edge.core.session import Session, State
from edge.errors import EdgeError, InternalError, ServerRefused, Unreachable
from edge.runtime.attempts import Attempts, RetryPolicy
from edge.runtime.channel import Channel
from edge.runtime.happening import Happening
from edge.runtime.ports import Closed, Dialer, JsonObject, ServerApi, Tokens
from edge.runtime.recording import Recording


def boot_clock() -> float:
    """Seconds of CLOCK_BOOTTIME: runs through suspend, never steps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Uplink:
    """Delivers one recording at a time. Everything here runs in the loop."""

    def __init__(
        self,
        server: ServerApi,
        dial: Dialer,
        policy: Policy,
        retry: RetryPolicy,
        tell: Callable[[Happening], None],
        clock: Callable[[], float] = boot_clock,
        tokens: Tokens | None = None,
    ) -> None:
        self._tokens = tokens
        self._server = server
        self._dial = dial
        self._policy = policy
        self._tell = tell
        self._clock = clock
        self._attempts = Attempts(retry, self._feed, tell, clock, tokens)
        self._recording: Recording | None = None
        self._session: Session | None = None
        self._channel: Channel | None = None
        self._closing: asyncio.Task[None] | None = None
        self._requests: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._moved = asyncio.Event()
        self._moved_outside = asyncio.Event()
        self._movements: asyncio.Future[None] | None = None
        self._broken: asyncio.Future[None] | None = None
        self._at_server: tuple[str, str] | None = None
        self._earlier: tuple[tuple[str, ...], int] = (), 0  # what was there before this delivery of the recording
        self._state = State.DISCONNECTED
        self._better: tuple[str, LinkSnapshot] | None = None  # came up during the attempt under way
        self.gate: Callable[[], Coroutine[Any, Any, None]] | None = None  # each packet waits for it, where there is one

    # --- for the device --------------------------------------------------------------------------------------------

    @property
    def session(self) -> Session | None:
        """The session of the recording under delivery."""
        return self._session

    @property
    def state(self) -> State:
        """What people see of the connection."""
        return self._state

    def supplied(self, recording: Recording) -> None:
        """`recording` has more packets, or has ended."""
        if recording is self._recording:
            self._feed(events.Supplied())

    def clock_changed(self) -> None:
        """The recording under delivery may be stamped by another anchor from here on. To be told at once: the packets
        that follow already are."""
        anchor = self._recording.anchor() if self._recording is not None else None
        if anchor is not None:
            self._feed(events.ClockChanged(anchor))

    def retry_now(self, reason: str) -> None:
        """Try at once instead of waiting; attempts count from 1 again. During an attempt: as soon as that fails. A
        connection that there is, or that is held, is tested."""
        self._feed(events.Doubted(reason))
        self._attempts.wake(reason)

    def try_again(self, reason: str) -> None:
        """What attempts have failed of may be over: do not wait for the next one. Of a connection it says nothing."""
        if self._session is not None and self._session.wants_attempt:
            self._attempts.wake_with_others(reason)

    def doubt(self, reason: str) -> None:
        """Something happened that a connection may not have survived: test it at once, or try at once. One that is held
        is tested when the link is back."""
        if self._session is not None and self._session.phase is not Phase.HELD:
            self._feed(events.Doubted(reason))
            self.try_again(reason)

    @property
    def local_address(self) -> str:
        """The source address of the connection; "" where there is none."""
        return self._channel.local_address if self._channel is not None else ""

    def link_changed(self, delta: LinkDelta, snapshot: LinkSnapshot) -> None:
        """What the kernel says of the link has changed, and is `snapshot` now."""
        change, used = delta.change, self.local_address
        if change is Change.IRRELEVANT:
            return
        self._server.forget_connections()
        phase = self._session.phase if self._session is not None else Phase.DONE
        is_better = change is Change.BETTER
        self._better = (delta.reason, snapshot) if is_better and phase in UNDER_WAY else None
        if not used:
            is_carried, is_kept = is_better, False
        elif is_better and phase is not Phase.HELD and snapshot.is_on_path(used):
            return
        else:
            is_carried, is_kept = snapshot.carries(used), snapshot.has_address(used)
        has_path = snapshot.path is not None
        self._feed(events.LinkChanged(change, delta.reason, is_carried, is_kept, has_path))
        if has_path and not (is_better and phase is Phase.STREAMING):  # that one goes on by itself
            self.try_again(delta.reason)
        if self._better is not None:
            self._attempts.wake_with_others(delta.reason)  # if the attempt fails, the next one comes at once
        if has_path and self._session is not None and self._session.phase is Phase.HELD:
            self._better = (delta.reason, snapshot)  # it may come to life again where the path is not

    def _move_if_better(self) -> None:
        """The attempt that has just succeeded may have begun before there was a better path."""
        better, self._better = self._better, None
        used = self.local_address
        if better is not None and used and not better[1].is_on_path(used):
            self._feed(events.LinkChanged(Change.BETTER, better[0], is_carried=True, is_kept=True, has_path=True))

    async def refused(self) -> None:
        """Wait until the server has refused something that only a person can change."""
        while self._session is None or not isinstance(self._session.failure, ServerRefused):
            self._moved_outside.clear()
            await self._moved_outside.wait()

    async def moved(self) -> None:
        """Wait until anything has happened here."""
        moved = self._movements = self._movements or asyncio.get_running_loop().create_future()
        await asyncio.shield(moved)

    def _has_moved(self) -> None:
        self._moved.set()
        self._moved_outside.set()
        if self._movements is not None:
            self._movements.set_result(None)
            self._movements = None

    async def deliver(self, recording: Recording) -> None:
        """Return when all of `recording` is delivered, however long that takes. Cancel it to keep the rest for
        later."""
        loop = asyncio.get_running_loop()
        self._recording = recording
        policy = replace(self._policy, audio=recording.audio, packet_frames=recording.ledger.packet_frames)
        self._session = session = Session(recording.ledger, policy, recording.anchor(), recording.resume)
        self._at_server, recording.resume = session.at_server, None  # nothing was heard of that one yet
        self._earlier = tuple(recording.session_ids), recording.reconnects
        self._broken = loop.create_future()
        trying = asyncio.create_task(self._attempts.run(session, self._moved), name="attempts")
        try:
            await asyncio.wait([trying, self._broken], return_when=asyncio.FIRST_COMPLETED)
            (self._broken if self._broken.done() else trying).result()
        finally:
            trying.cancel()
            await self._let_go()
            if not self._broken.cancel():
                self._broken.exception()  # known by now, or the cause of what is cancelled anyway
            self._session = self._recording = None
            self._show(State.DISCONNECTED)
            self._has_moved()

    async def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._channel is not None:
            self._closing, self._channel = self._channel.leave(abort=False), None
        leftovers = [*self._requests, *([self._closing] if self._closing else [])]
        for task in self._requests:
            task.cancel()
        if leftovers:
            await asyncio.wait(leftovers)

    # --- the session's shell ---------------------------------------------------------------------------------------

    def _feed(self, event: events.Event | None) -> None:
        """Feed one event (None: the time) to the session and do what it wants."""
        session = self._session
        if session is None or self._broken is None or self._broken.done():
            return
        try:
            self._step(session, event)
        except Exception as error:  # noqa: BLE001  (nobody above could do anything about it)
            self._break(_bug(error))

    def _step(self, session: Session, event: events.Event | None) -> None:
        now = self._clock()
        for effect in session.tick(now) if event is None else session.handle(event, now):
            self._perform(effect, session)
        if self._recording is not None:
            session_ids, reconnects = self._earlier
            self._recording.session_ids[:] = *session_ids, *session.session_ids
            self._recording.reconnects = reconnects + session.reconnects
            self._recording.handled = session.handled
            if session.at_server != self._at_server:
                self._at_server = session.at_server
                if self._at_server is not None:
                    self._recording.on_session(*self._at_server, now)
        self._rearm(session)
        self._has_moved()
        if session.phase is Phase.DONE:
            self._attempts.done()
        self._show(session.state)

    def _break(self, error: EdgeError) -> None:
        """End the delivery under way with `error`: a bug, or packets that cannot be read any more."""
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    def _show(self, state: State) -> None:
        if state is not self._state:
            old, self._state = self._state, state
            failure = self._session.failure if self._session else None
            text = f"{old.value} -> {state.value}" + (f": {failure}" if failure else "")
            if state is State.CONNECTED:
                self._attempts.trouble = {}
            self._tell(Happening("state", text, {"old": old.value, "new": state.value} | self._attempts.trouble))
            if state is State.CONNECTED:
                if self._tokens is not None:
                    self._tokens.accepted()
                asyncio.get_running_loop().call_soon(self._move_if_better)

    def _rearm(self, session: Session) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if session.deadline is not None:
            delay = max(0.0, session.deadline - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._feed, None)

    def _perform(self, effect: events.Effect, session: Session) -> None:
        number = session.attempt
        match effect:
            case events.SendPackets(first, last):
                self._current_recording.sent = max(self._current_recording.sent, last)
                self._current_channel.send((first, last))
            case events.SendText(message, ahead):
                self._current_channel.send(json.dumps(message), ahead=ahead)
            case events.Release(offset):
                self._current_recording.release(offset)
            case events.PollStatus(session_id, poll):
                self._request(lambda: self._poll(session_id, poll, number))
            case events.OpenSocket(session_id):
                self._open(session_id, number)
            case events.CloseSocket(abort):
                self._closing, self._channel = self._current_channel.leave(abort=abort), None
            case events.StartSession():
                self._request(lambda: self._start(self._current_recording.settings, number))
            case events.StopSession(session_id):
                self._request(lambda: self._stop(session_id, number))
            case events.Over(error, why, is_planned):
                self._attempts.ended(error, why, is_planned=is_planned)
            case events.Note(kind, text, message):
                self._tell(Happening(kind, text, message or None))
            case _:
                raise InternalError(f"nobody performs {type(effect).__name__}")

    @property
    def _current_channel(self) -> Channel:
        if self._channel is None:
            raise InternalError("no socket is open")
        return self._channel

    @property
    def _current_recording(self) -> Recording:
        if self._recording is None:
            raise InternalError("no recording is being delivered")
        return self._recording

    def _open(self, session_id: str, number: int) -> None:
        closing = self._closing if self._channel is None else self._channel.leave(abort=True)
        recording = self._current_recording

        def wire(seq: int) -> bytes | None:
            if seq <= recording.ledger.delivered:
                return b""
            return None if recording.ledger.is_lost(seq) else recording.wire(seq)

        self._channel = Channel(wire, lambda what: self._reported(what, number), self._break, recording.load, self.gate)
        self._channel.open(self._dial, session_id, closing)

    def _reported(self, what: bool | JsonObject | Closed | EdgeError, number: int) -> None:
        if what is True:
            self._feed(events.Opened(number))
        elif isinstance(what, Closed):
            self._feed(events.SocketClosed(number, what.code, what.reason))
        elif isinstance(what, EdgeError):
            self._feed(events.Failed(number, what))
        elif isinstance(what, dict):
            self._feed(parse(what, number))

    def _request(self, request: Callable[[], Coroutine[Any, Any, events.Event]]) -> None:
        async def run() -> None:
            try:
                event = await request()
            except Exception as error:  # noqa: BLE001  (as in _feed)
                self._break(_bug(error))
            else:
                self._feed(event)

        task = asyncio.create_task(run(), name="request")
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _start(self, settings: JsonObject, number: int) -> events.Event:
        try:
            return events.Started(number, await self._server.start(settings))
        except Exception as error:  # noqa: BLE001  (see _failure)
            return events.Failed(number, _failure(error))

    async def _stop(self, session_id: str, number: int) -> events.Event:
        try:
            await self._server.stop(session_id)
        except Exception as error:  # noqa: BLE001  (see _failure)
            return events.Failed(number, _failure(error))
        return events.Stopped(number)

    async def _poll(self, session_id: str, poll: Poll | None, number: int) -> events.Event:
        try:
            status = await self._server.status(session_id)
        except Exception as error:  # noqa: BLE001  (see _failure)
            failure = _failure(error)
            if isinstance(failure, Unreachable):
                return events.Polled(number, poll, answered=False, failure=failure)
            self._tell(Happening("refused", str(failure)))
            return events.Polled(number, poll, answered=False)
        return events.Polled(
            number, poll, True, status.exists, status.connected, status.pending_segments, status.max_pending
        )


def _failure(error: Exception) -> EdgeError:
    """What a request failed with. Whatever a library raises there is no reason to lose audio."""
    return error if isinstance(error, EdgeError) else Unreachable(f"a request failed: {type(error).__name__}")


def _bug(error: Exception) -> EdgeError:
    """What broke a delivery. Of an unexpected error the place is told: its text may hold anything."""
    if isinstance(error, EdgeError):
        return error
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return InternalError(f"{type(error).__name__} at {frame.filename.rpartition('/')[2]}:{frame.lineno}")
