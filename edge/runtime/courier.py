"""In which order recordings are delivered, and what becomes of one that cannot be.

The live recording has a way of its own. What is stored waits until nothing live is owed; only to a server with
acknowledgements it goes out beside the live one, and gives way to it (DESIGN.md, decision 4).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from edge.core.link import LinkDelta, LinkSnapshot
from edge.core.resume import ACKS
from edge.core.session import Session, State
from edge.errors import EdgeError, InternalError, StartRefused, UnreadableError
from edge.runtime.attempts import PROBE_S
from edge.runtime.happening import Happening
from edge.runtime.ports import JsonObject
from edge.runtime.recording import Recording
from edge.runtime.uplink import Uplink
from edge.runtime.wake import Wake

AFTER_BUG_S = 5.0  # a bug that repeats itself must not keep the machine busy
_OWN = ("recording", "predecessor")  # settings that are the recording's, not the configuration's
GIVE_WAY_S = 0.25  # so much live audio may wait for its confirmation before the stored gives way to it


class Way(Protocol):
    """A way to a server: `Uplink`, or `NoServer`. What each of these means stands there."""

    @property
    def session(self) -> Session | None:
        """Of the recording under delivery."""

    @property
    def state(self) -> State:
        """Of the connection."""

    def supplied(self, recording: Recording) -> None:
        """`recording` has more."""

    def clock_changed(self) -> None:
        """Stamps change."""

    def retry_now(self, reason: str) -> None:
        """Do not wait."""

    def try_again(self, reason: str) -> None:
        """Do not wait, if it waits."""

    def doubt(self, reason: str) -> None:
        """Test the connection."""

    @property
    def local_address(self) -> str:
        """Of the connection."""

    def link_changed(self, delta: LinkDelta, snapshot: LinkSnapshot) -> None:
        """The link is another."""

    async def refused(self) -> None:
        """Wait for a refusal."""

    async def moved(self) -> None:
        """Wait for anything."""

    async def deliver(self, recording: Recording) -> None:
        """Return when it is delivered."""


class Courier:
    """Owns the queues. `uplink` is the live recordings' way; `aside` a second one, for what is stored, where a server
    may have two. Everything here runs in the loop."""

    def __init__(
        self, uplink: Way, settings: JsonObject, tell: Callable[[Happening], None], aside: Uplink | None = None
    ) -> None:
        self.uplink = uplink
        self.bug: EdgeError | None = None
        self.under_delivery: Recording | None = None
        self._aside = aside
        self._settings = settings
        self._tell = tell
        self._besides: Recording | None = None
        self._owed: deque[Recording] = deque()
        self._stored: deque[Recording] = deque()
        self._set_aside: list[Recording] = []
        self._refused: set[str] = set()
        self._are_settings_taken = False
        self._has_work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._has_live = asyncio.Event()
        self._is_stored_turn = False
        self._has_turned = asyncio.Event()
        self._wake = Wake()
        self._wake_beside = Wake()
        if aside is not None:
            aside.gate = self._give_way

    def retry_now(self, reason: str) -> None:
        """Try the connection at once."""
        self._wake.now(reason)
        self._wake_beside.now(reason)
        self.uplink.retry_now(reason)
        if self._aside is not None:
            self._aside.retry_now(reason)

    def try_again(self, reason: str) -> None:
        """What attempts have failed of may be over: do not wait for the next one."""
        self._wake.now(reason)
        self._wake_beside.now(reason)
        self.uplink.try_again(reason)
        if self._aside is not None:
            self._aside.try_again(reason)

    def doubt(self, reason: str) -> None:
        """Something happened that a connection may not have survived: test it at once."""
        self.uplink.doubt(reason)
        if self._aside is not None:
            self._aside.doubt(reason)

    def link_changed(self, delta: LinkDelta, snapshot: LinkSnapshot) -> None:
        """The way to the server has changed."""
        self.uplink.link_changed(delta, snapshot)
        if self._aside is not None:
            self._aside.link_changed(delta, snapshot)

    def clock_changed(self) -> None:
        """What is under delivery may be stamped by another clock from here on."""
        self.uplink.clock_changed()
        if self._aside is not None:
            self._aside.clock_changed()

    def supplied(self) -> None:
        """The live recording has more, or has ended."""
        if self.under_delivery is not None:
            self.uplink.supplied(self.under_delivery)

    def owe(self, recording: Recording) -> None:
        """Deliver `recording`, which lives in the ring, after those before it."""
        self._owed.append(recording)
        self._has_live.set()
        self._work()

    def owe_stored(self, recordings: Iterable[Recording]) -> None:
        """Deliver what an earlier run left, whenever nothing in the ring is owed: that would run over, this keeps."""
        self._stored.extend(recordings)
        if self._stored:
            self._work()

    def _work(self) -> None:
        self._is_idle.clear()
        self._has_work.set()

    async def delivered(self) -> None:
        """Wait until nothing is owed but what cannot be read."""
        await self._is_idle.wait()

    async def refused(self) -> None:
        """Wait until the server has refused all that could be delivered next: a person has to do something."""
        while True:
            await self.uplink.refused()
            if not self._may_turn:
                return
            self._has_turned.clear()
            await self._has_turned.wait()

    @property
    def undelivered(self) -> tuple[Recording, ...]:
        """What is owed, the one under delivery first."""
        current = tuple(recording for recording in (self.under_delivery, self._besides) if recording is not None)
        return (*current, *self._owed, *self._stored, *self._set_aside)

    async def run(self, on_delivered: Callable[[Recording], None]) -> None:
        """Deliver until cancelled: what is in the ring, oldest first; then what is stored.

        A bug ends one way to deliver, not the delivery: `bug` remembers it, and a new session goes on from what is
        delivered for certain.
        """
        beside = asyncio.create_task(self._beside(on_delivered), name="deliver beside")
        try:
            await self._deliver(on_delivered)
        finally:
            beside.cancel()
            await asyncio.wait([beside])

    async def _deliver(self, on_delivered: Callable[[Recording], None]) -> None:
        while True:
            while not (self._owed or (self._stored and self._besides is None)):  # that one is older, and comes back
                if self._besides is None:
                    self._is_idle.set()
                self._has_work.clear()
                await self._has_work.wait()
            is_stored = self._is_stored_turn = not self._owed
            queue = self._stored if is_stored else self._owed
            recording = self.under_delivery = queue.popleft()
            self._has_turned.set()
            try:
                is_delivered = await (self._deliver_stored(recording) if is_stored else self._deliver_live(recording))
            except UnreadableError as error:
                self._tell(Happening("warning", str(error)))
                self._set_aside.append(recording)
                is_delivered = False
            except Exception as error:  # noqa: BLE001  (a bug must not end the delivery of all that follows)
                await self._stumbled(error)
                queue.appendleft(recording)
                is_delivered = False
            self.under_delivery = None
            if is_delivered:
                self._refused.clear()
                self._finished(recording, on_delivered)

    def _finished(self, recording: Recording, on_delivered: Callable[[Recording], None]) -> None:
        on_delivered(recording)
        self._tell(Happening("delivered", f"recording {recording.recording_id} is delivered"))

    async def _deliver_live(self, recording: Recording) -> bool:
        if not self._owed:
            self._has_live.clear()
        await self.uplink.deliver(recording)
        self._are_settings_taken = self._are_settings_taken or bool(recording.session_ids)
        return True

    async def _deliver_stored(self, recording: Recording) -> bool:
        """False where it made way: for a live recording, or, refused, for another, or other settings, that may fare
        better."""
        self._has_live.clear()
        delivering = asyncio.create_task(self.uplink.deliver(recording), name="deliver stored")
        is_wanted = asyncio.create_task(self._has_live.wait())
        turn = asyncio.create_task(self._turn(recording))
        try:
            await asyncio.wait([delivering, is_wanted, turn], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (delivering, is_wanted, turn):
                task.cancel()
            await asyncio.wait([delivering, is_wanted, turn])
        if not delivering.cancelled():
            delivering.result()
            return True
        self.under_delivery = None
        if turn.cancelled():
            self._stored.appendleft(recording)
        elif turn.result():
            self._correct(recording)
            self._stored.appendleft(recording)
        else:
            self._stored.append(recording)
        return False

    async def _turn(self, recording: Recording) -> bool:
        """Return when a refused recording should let another one try: at once those that were not refused yet.

        True where the same one should try again, with the settings of today.
        """
        await self.uplink.refused()
        if self._is_correctable:
            return True
        self._refused.add(recording.recording_id)
        while not self._may_turn:
            await self._wake.sleep(PROBE_S)
            if self._stored:
                break
        return False

    @property
    def _may_turn(self) -> bool:
        is_other_new = any(other.recording_id not in self._refused for other in self._stored)
        return self._is_stored_turn and (is_other_new or self._is_correctable)

    @property
    def _is_correctable(self) -> bool:
        """Whether what the server refuses now is an agent or event that was mistyped when the recording was made.

        Only where it has taken today's: else it may be the server that is wrong, and the audio would go to somebody
        for whom it is not meant. And never where it once took the old ones.
        """
        recording, session = self.under_delivery, self.uplink.session
        return (
            self._is_stored_turn
            and self._are_settings_taken
            and session is not None
            and isinstance(session.failure, StartRefused)
            and recording is not None
            and not recording.session_ids
            and recording.settings != self._settings_of(recording)
        )

    def _settings_of(self, recording: Recording) -> JsonObject:
        own = {key: value for key, value in recording.settings.items() if key in _OWN}
        return {**self._settings, **own}

    def _correct(self, recording: Recording) -> None:
        old, new = recording.settings, self._settings_of(recording)
        recording.settings = new
        self._tell(
            Happening(
                "corrected",
                f"the server does not take recording {recording.recording_id} for {_addressee(old)}; it is sent for "
                f"{_addressee(new)}, as configured now",
            )
        )

    async def _stumbled(self, error: Exception) -> None:
        self.bug = error if isinstance(error, EdgeError) else InternalError(f"{type(error).__name__}")
        self._tell(Happening("bug", f"{self.bug}; this is our bug; delivery begins anew in {AFTER_BUG_S:g} s"))
        await self._wake.sleep(AFTER_BUG_S)

    # --- beside the live recording ---------------------------------------------------------------------------------

    @property
    def _may_go_beside(self) -> bool:
        session = self.uplink.session
        if self._is_stored_turn or session is None or self.uplink.state is not State.CONNECTED:
            return False
        return session.at_server is not None and session.at_server[1] == ACKS

    async def _beside(self, on_delivered: Callable[[Recording], None]) -> None:
        if self._aside is None:
            return
        while True:
            while not (self._may_go_beside and self._stored):
                await self.uplink.moved()
            recording = self._besides = self._stored.popleft()
            delivering = asyncio.create_task(self._aside.deliver(recording), name="deliver beside")
            alone = asyncio.create_task(self._until_alone(self._aside))
            try:
                await asyncio.wait([delivering, alone], return_when=asyncio.FIRST_COMPLETED)
            finally:
                is_refused = alone.done() and self._may_go_beside
                delivering.cancel()
                alone.cancel()
                await asyncio.wait([delivering, alone])
                self._besides = None
                error = None if delivering.cancelled() else delivering.exception()
                if delivering.cancelled() or error is not None:
                    # Whatever it is, the main way meets it again, and knows what to do.
                    self._stored.appendleft(recording)
                else:
                    self._finished(recording, on_delivered)
                self._has_work.set()
            if error is not None:
                await self._wake_beside.sleep(AFTER_BUG_S)
            elif is_refused:
                await self._wake_beside.sleep(PROBE_S)

    async def _until_alone(self, aside: Uplink) -> None:
        """Return when the live recording has no connection with acks any more, or the stored one is refused."""
        refused = asyncio.create_task(aside.refused())
        try:
            while self._may_go_beside and not refused.done():
                moved = asyncio.create_task(self.uplink.moved())
                await asyncio.wait([moved, refused], return_when=asyncio.FIRST_COMPLETED)
                moved.cancel()
        finally:
            refused.cancel()

    async def _give_way(self) -> None:
        """Return when the live recording is confirmed but for a moment: it goes first."""
        while self._may_go_beside and self._live_unhandled_s > GIVE_WAY_S:
            await self.uplink.moved()

    @property
    def _live_unhandled_s(self) -> float:
        recording, session = self.under_delivery, self.uplink.session
        if recording is None or session is None:
            return 0.0
        ledger = recording.ledger
        return (ledger.last - session.handled) * ledger.packet_frames / recording.audio.rate_hz


def _addressee(settings: JsonObject) -> str:
    return f"agent {settings.get('agent')!r}, event {settings.get('event')!r}"
