"""The Device: recordings one behind the other, live before stored, and nothing that stops the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edge.core.policy import Policy
from edge.errors import ConfigError, InternalError, MicrophoneError, UnreadableError
from edge.runtime import capture
from edge.runtime.attempts import PROBE_S, RetryPolicy
from edge.runtime.clockwatch import ClockWatch
from edge.runtime.courier import AFTER_BUG_S
from edge.runtime.device import Device
from edge.runtime.happening import Happening
from edge.runtime.recording import Recording
from edge.runtime.uplink import Uplink
from tests.runtime.fakes import MONO, PACKET, FakeClock, FakeServer, FakeSocket, FedSource, Feed, joined, now, simulate

BOUND_S = 10.0


class Rig:
    """A Device to a FakeServer; its sources are FedSources, made one for each start."""

    def __init__(
        self, ring_seconds: float = 20.0, server: FakeServer | None = None, panel: Any = None, attempts: int = 10
    ) -> None:
        self.server = server or FakeServer()
        self.sources: list[FedSource] = []
        self.next_source: Callable[[], FedSource] = FedSource
        self.told: list[Happening] = []
        self.delivered: list[str] = []
        policy = Policy(MONO, PACKET)
        uplink = Uplink(self.server, self.server, policy, RetryPolicy(attempts, 0.01, 0.05), self.told.append, now)
        settings = {"agent": "a", "event": "e"}
        self.clock = FakeClock()
        tell = self.told.append
        clock = ClockWatch(self.clock, tell)
        self.device = Device(self._open, MONO, policy, ring_seconds, settings, uplink, tell, panel, clock=clock)
        self.running: asyncio.Task[None] | None = None

    def _open(self) -> FedSource:
        self.sources.append(self.next_source())
        return self.sources[-1]

    def run(self) -> None:
        def on_delivered(recording: Recording) -> None:
            self.delivered.append(recording.recording_id)

        self.running = asyncio.create_task(self.device.run(on_delivered))

    async def record(self, *blocks: int) -> tuple[Recording, bytes]:
        """A whole recording of such blocks."""
        recording, _ = await self.device.start()
        given = b"".join(self.sources[-1].give(frames) for frames in blocks)
        self.sources[-1].finish()
        assert await self.device.ended() is None
        return recording, given

    def kinds(self) -> list[str]:
        return [happening.kind for happening in self.told]


@asynccontextmanager
async def rigged(rig: Rig) -> Any:
    async with asyncio.timeout(BOUND_S):
        rig.run()
        try:
            yield rig
        finally:
            assert rig.running is not None
            await joined([rig.running])


def stored(recording_id: str, packets: int = 3) -> Feed:
    feed = Feed(recording_id, 10.0)
    feed.talk(packets * PACKET)
    feed.end()
    feed.recording.release = lambda offset: None
    return feed


# --- recording -------------------------------------------------------------------------------------------------------


async def test_a_recording_is_delivered_whole() -> None:
    async with rigged(Rig()) as rig:
        recording, given = await rig.record(1000, 5000, 1)
        assert not rig.device.is_recording
        await rig.device.delivered()
        assert rig.server.audio(recording.recording_id) == given
        assert recording.is_whole
        assert rig.device.ring.kept_frames == 0
        assert rig.delivered == [recording.recording_id]
        assert rig.device.undelivered == ()
        assert rig.kinds()[0] == "recording"
        assert "stopped" in rig.kinds()
        assert rig.kinds()[-1] == "delivered"


async def test_a_second_start_is_refused_and_harms_nothing() -> None:
    async with rigged(Rig()) as rig:
        recording, _ = await rig.device.start()
        with pytest.raises(InternalError):
            await rig.device.start()
        assert rig.device.is_recording
        given = rig.sources[0].give(2000)
        while recording.ledger.expected < 2000:
            await asyncio.sleep(0)
        rig.device.stop()
        assert await rig.device.ended() is None
        await rig.device.delivered()
        assert rig.server.audio(recording.recording_id) == given


async def test_a_start_that_fails_leaves_the_device_ready() -> None:
    async with rigged(Rig()) as rig:

        def absent() -> FedSource:
            source = FedSource()
            source.fail_open = MicrophoneError("no such device")
            return source

        def impossible() -> FedSource:
            raise ConfigError("no such source")

        rig.next_source = absent
        with pytest.raises(MicrophoneError):
            await rig.device.start()
        assert not rig.device.is_recording
        rig.next_source = impossible
        with pytest.raises(ConfigError):
            await rig.device.start()
        assert not rig.device.is_recording
        assert rig.device.undelivered == ()
        assert rig.kinds() == []
        rig.next_source = FedSource
        recording, given = await rig.record(100)
        await rig.device.delivered()
        assert rig.server.audio(recording.recording_id) == given


async def test_a_cancelled_start_ends_by_itself_and_the_device_is_ready() -> None:
    async with rigged(Rig()) as rig:

        def slow() -> FedSource:
            source = FedSource()
            source.hang_open.clear()
            return source

        rig.next_source = slow
        starting = asyncio.create_task(rig.device.start())
        await asyncio.sleep(0)
        await joined([starting])
        rig.sources[0].hang_open.set()
        assert await rig.device.ended() is None
        assert not rig.device.is_recording
        rig.next_source = FedSource
        recording, given = await rig.record(100)
        await rig.device.delivered()
        assert rig.server.audio(recording.recording_id) == given


async def test_the_outcome_of_a_recording_is_there_however_late_one_asks() -> None:
    async with rigged(Rig()) as rig:
        await rig.device.start()
        rig.sources[0].give(10)
        rig.sources[0].fail(MicrophoneError("unplugged"))
        await rig.device.delivered()
        assert not rig.device.is_recording
        for _ in range(2):
            assert str(await rig.device.ended()) == "unplugged"
        assert await Rig().device.ended() is None


async def test_whoever_waited_for_an_old_recording_does_not_touch_the_new_one() -> None:
    async with rigged(Rig()) as rig:
        await rig.device.start()
        first, second = (asyncio.create_task(rig.device.ended()) for _ in range(2))
        await asyncio.sleep(0)
        rig.device.stop()
        await first
        await rig.device.start()
        await second
        assert rig.device.is_recording
        rig.device.stop()
        await rig.device.ended()


async def test_a_new_recording_begins_while_the_one_before_is_still_on_its_way() -> None:
    async with rigged(Rig()) as rig:
        rig.server.is_down = True
        first, given_first = await rig.record(4000, 100)
        second, given_second = await rig.record(3000)
        third, _ = await rig.device.start()
        given_third = rig.sources[-1].give(1700)
        assert rig.device.undelivered == (first, second, third)
        assert rig.device.status().waiting_recordings == 3
        rig.server.is_down = False
        while len(rig.delivered) < 2:
            await asyncio.sleep(0.001)
        assert rig.device.is_recording
        while third.ledger.expected < 1700:
            await asyncio.sleep(0)
        rig.device.stop()
        await rig.device.ended()
        await rig.device.delivered()
        assert rig.delivered == [first.recording_id, second.recording_id, third.recording_id]
        for recording, given in ((first, given_first), (second, given_second), (third, given_third)):
            assert rig.server.audio(recording.recording_id) == given
        assert rig.device.ring.kept_frames == 0
        assert rig.server.most_in_use == 1


async def test_a_file_waits_for_room_that_another_recording_gives_back() -> None:
    async with rigged(Rig(ring_seconds=0.5)) as rig:
        rig.server.is_down = True
        first, given_first = await rig.record(7000)
        rig.next_source = lambda: FedSource(can_wait=True)
        second, _ = await rig.device.start()
        given_second = b"".join(rig.sources[-1].give(1600) for _ in range(20))
        rig.sources[-1].finish()
        rig.server.is_down = False
        await rig.device.ended()
        await rig.device.delivered()
        assert rig.server.audio(first.recording_id) == given_first
        assert rig.server.audio(second.recording_id) == given_second
        assert second.ledger.lost == {}


async def test_a_source_that_hangs_does_not_keep_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "STOP_PATIENCE_S", 0.05)
    async with rigged(Rig()) as rig:
        recording, _ = await rig.device.start()
        given = rig.sources[0].give(1700)
        rig.sources[0].hang()
        while rig.sources[0].reads < 2:
            await asyncio.sleep(0)
        rig.device.stop()
        assert isinstance(await rig.device.ended(), MicrophoneError)
        other, given_other = await rig.record(900)
        rig.sources[0].released.set()
        await rig.device.delivered()
        assert rig.server.audio(recording.recording_id) == given
        assert rig.server.audio(other.recording_id) == given_other


async def test_nothing_recorded_is_nothing_owed() -> None:
    async with rigged(Rig()) as rig:
        recording, _ = await rig.record()
        await rig.device.delivered()
        assert recording.is_whole
        assert rig.delivered == [recording.recording_id]
        assert rig.server.audio(recording.recording_id) == b""


async def test_the_account_adds_up_at_every_moment() -> None:
    # On a slow machine the server is down for any number of attempts; giving up is not what is tested here.
    async with rigged(Rig(ring_seconds=1.0, attempts=1_000_000)) as rig:
        recording, _ = await rig.device.start()
        source = rig.sources[0]

        def balance() -> int:
            account = recording.account()
            return int(account["expected"] - account["delivered"] - account["pending"] - sum(account["lost"].values()))

        total = 0
        for number in range(60):
            source.give(997, lost=number % 7, cause="xrun")
            total += 997 + number % 7
            rig.server.is_down = number % 20 < 12
            if rig.server.is_down:
                for socket in rig.server.sockets:
                    socket.end(1006, "reset")
            while recording.ledger.expected < total:
                await asyncio.sleep(0)
                assert balance() == 0
            status = rig.device.status()
            assert 0 <= status.unhandled <= status.undelivered + 0.001
        rig.server.is_down = False
        source.finish()
        await rig.device.ended()
        await rig.device.delivered()
        assert balance() == 0
        account = recording.account()
        assert account["expected"] == total
        assert account["pending"] == 0
        assert len(rig.server.audio(recording.recording_id)) == 2 * account["delivered"]
        assert sum(frames for _, frames, _ in rig.server.gaps[recording.recording_id]) == sum(account["lost"].values())
        assert rig.server.duplicates >= 0


# --- what was kept ---------------------------------------------------------------------------------------------------


def test_what_is_stored_is_delivered_oldest_first_when_nothing_else_is_owed() -> None:
    async def main() -> None:
        rig = Rig()
        kept = [stored(name) for name in ("one", "two", "three")]
        rig.device.owe_stored(feed.recording for feed in kept)
        rig.run()
        await rig.device.delivered()
        assert rig.delivered == ["one", "two", "three"]
        for feed in kept:
            assert rig.server.audio(feed.recording.recording_id) == feed.given
        assert rig.running is not None
        await joined([rig.running])

    simulate(main())


def test_a_live_recording_goes_before_a_stored_one_that_is_refused() -> None:
    """What is stored keeps; the ring would run over."""

    async def main() -> None:
        rig = Rig()
        rig.server.refuse_recordings.add("old")
        rig.device.owe_stored([stored("old").recording])
        rig.run()
        await asyncio.sleep(5)
        live = stored("live")
        since = now()
        rig.device.owe(live.recording)
        while rig.delivered != ["live"]:
            await asyncio.sleep(0.01)
        assert now() - since < 1.0
        assert [recording.recording_id for recording in rig.device.undelivered] == ["old"]
        rig.server.refuse_recordings.clear()
        await rig.device.delivered()
        assert rig.delivered == ["live", "old"]
        assert rig.running is not None
        await joined([rig.running])

    simulate(main())


def test_a_live_recording_interrupts_a_stored_one_which_goes_on_afterwards() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.close_takes = 0.5
        old = stored("old", 90)
        live = stored("live")

        def on_packet(socket: FakeSocket, seq: int) -> None:
            if rig.server.sessions[socket.session_id] == "old" and seq == 5 and not rig.delivered:
                rig.device.owe(live.recording)

        rig.server.on_packet = on_packet
        rig.device.owe_stored([old.recording, stored("later").recording])
        rig.run()
        await rig.device.delivered()
        assert rig.delivered == ["live", "old", "later"]
        assert rig.server.audio("old") == old.given
        assert rig.server.most_in_use == 1
        assert rig.running is not None
        await joined([rig.running])

    simulate(main())


def test_refused_stored_recordings_take_turns() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.refuse_recordings |= {"a", "b"}
        rig.device.owe_stored(stored(name).recording for name in ("a", "b", "c"))
        rig.run()
        since = now()
        await rig.device.refused()
        assert now() - since < 1.0
        assert rig.delivered == ["c"]
        rig.server.refuse_recordings.remove("a")
        await asyncio.sleep(2 * PROBE_S + 5)
        assert rig.delivered == ["c", "a"]
        rig.server.refuse_recordings.clear()
        await rig.device.delivered()
        assert rig.delivered == ["c", "a", "b"]
        assert now() - since < 5 * PROBE_S
        assert len(rig.server.times) < 20
        assert rig.running is not None
        await joined([rig.running])

    simulate(main())


def mistyped(recording_id: str) -> Recording:
    recording = stored(recording_id).recording
    recording.settings["agent"] = "typo"
    return recording


def test_a_refused_agent_is_replaced_by_the_one_that_the_server_has_taken() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.agents.add("b")
        other = stored("other").recording
        other.settings["agent"] = "b"
        rig.device.owe(stored("live").recording)
        rig.device.owe_stored([mistyped("one"), other, mistyped("two")])
        rig.run()
        refused = asyncio.create_task(rig.device.refused())
        since = now()
        await rig.device.delivered()
        assert now() - since < 1.0
        assert not refused.done()
        assert rig.delivered == ["live", "one", "other", "two"]
        assert [(settings["recording"], settings["agent"]) for settings in rig.server.settings] == [
            ("live", "a"), ("one", "a"), ("other", "b"), ("two", "a"),
        ]  # fmt: skip
        assert rig.kinds().count("corrected") == 2
        assert rig.running is not None
        await joined([refused, rig.running])

    simulate(main())


@pytest.mark.parametrize("why_not", ["nothing taken yet", "another refusal", "taken before", "the same today"])
def test_otherwise_a_refused_recording_keeps_its_agent(why_not: str) -> None:
    """Audio must not go to somebody for whom it was not meant only because a server is out of order."""

    async def main() -> None:
        rig = Rig()
        old = mistyped("old")
        if why_not == "another refusal":
            rig.server.agents.add("typo")
            rig.server.refuse_recordings.add("old")
        elif why_not == "taken before":
            old.session_ids.append("session-0")
        elif why_not == "the same today":
            old.settings["agent"] = "a"
            rig.server.on_packet = lambda socket, seq: rig.server.agents.clear()
        if why_not != "nothing taken yet":
            rig.device.owe(stored("live").recording)
        rig.device.owe_stored([old])
        rig.run()
        await rig.device.refused()
        await asyncio.sleep(3 * PROBE_S)
        assert [recording.recording_id for recording in rig.device.undelivered] == ["old"]
        assert old.settings["agent"] == ("a" if why_not == "the same today" else "typo")
        assert "corrected" not in rig.kinds()
        assert rig.running is not None
        await joined([rig.running])

    simulate(main())


def test_refused_waits_for_a_live_recordings_refusal_too() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.refuse_recordings.add("live")
        rig.device.owe(stored("live").recording)
        rig.device.owe_stored([stored("kept").recording])
        rig.run()
        since = now()
        await rig.device.refused()
        assert now() - since < 1.0
        assert rig.running is not None
        await joined([rig.running])
        assert [recording.recording_id for recording in rig.device.undelivered] == ["live", "kept"]

    simulate(main())


def test_what_cannot_be_read_is_set_aside_and_stops_nothing() -> None:
    async def main() -> None:
        rig = Rig()
        bad, good = stored("bad"), stored("good")

        def unreadable(seq: int) -> bytes:
            raise UnreadableError("the card is broken")

        bad.recording.wire = unreadable
        rig.device.owe_stored([bad.recording, good.recording])
        rig.run()
        await rig.device.delivered()
        assert rig.delivered == ["good"]
        assert rig.device.undelivered == (bad.recording,)
        assert "warning" in rig.kinds()
        assert rig.device.bug is None
        assert rig.running is not None
        await joined([rig.running])

    simulate(main())


@pytest.mark.parametrize("is_live", [True, False])
def test_a_bug_is_told_remembered_and_does_not_end_the_delivery(is_live: bool) -> None:
    async def main() -> None:
        rig = Rig()
        feed = stored("r")
        faults = iter([KeyError("oops"), InternalError("oops")])

        def release(offset: int) -> None:
            for fault in faults:
                raise fault

        feed.recording.release = release
        if is_live:
            rig.device.owe(feed.recording)
        else:
            rig.device.owe_stored([feed.recording])
        rig.run()
        since = now()
        await rig.device.delivered()
        assert AFTER_BUG_S <= now() - since <= 2 * AFTER_BUG_S + 2
        assert rig.server.audio("r") == feed.given
        assert rig.delivered == ["r"]
        assert isinstance(rig.device.bug, InternalError)
        assert "bug" in rig.kinds()
        assert rig.running is not None
        await joined([rig.running])

    simulate(main())


def test_cancelled_it_still_names_everything_that_is_owed() -> None:
    async def main(turns: int) -> None:
        rig = Rig()
        rig.server.close_takes = 0.5
        rig.device.owe(stored("live", 40).recording)
        rig.device.owe_stored(stored(name).recording for name in ("one", "two"))
        rig.run()
        for _ in range(turns):
            await asyncio.sleep(0.002)
        assert rig.running is not None
        await joined([rig.running])
        owed = [recording.recording_id for recording in rig.device.undelivered]
        assert sorted([*owed, *rig.delivered]) == ["live", "one", "two"]
        assert rig.server.in_use == set()

    for turns in range(0, 60, 3):
        simulate(main(turns))


# --- people ----------------------------------------------------------------------------------------------------------


class FakePanel:
    """Remembers what it showed."""

    def __init__(self) -> None:
        self.shown: list[tuple[bool, bool]] = []
        self.error: Exception | None = None

    def show(self, record_lit: bool, safe_lit: bool) -> None:
        if self.error is not None:
            raise self.error
        self.shown.append((record_lit, safe_lit))

    def on_press(self, record: Callable[[], None], retry: Callable[[], None]) -> None:
        """Nobody presses."""

    def close(self) -> None:
        """Nothing to release."""


def test_the_leds_say_what_is_safe_and_a_broken_panel_is_told_once() -> None:
    async def main() -> None:
        panel = FakePanel()
        rig = Rig(panel=panel)
        showing = asyncio.create_task(rig.device.show())
        await asyncio.sleep(2.5)
        assert panel.shown == [(False, True)] * 3
        rig.server.is_down = True
        rig.device.owe(stored("r", 40).recording)
        rig.run()
        panel.shown.clear()
        await asyncio.sleep(4.0)
        assert {safe for _, safe in panel.shown} == {True, False}
        panel.error = RuntimeError("pin")
        await asyncio.wait_for(showing, 5.0)
        assert [happening.kind for happening in rig.told].count("warning") == 1
        assert rig.running is not None
        await joined([rig.running])

    simulate(main())


def test_retry_reaches_the_uplink() -> None:
    async def main() -> None:
        rig = Rig()
        rig.server.refuse_recordings.add("r")
        rig.device.owe(stored("r").recording)
        rig.run()
        await asyncio.sleep(5)
        rig.server.refuse_recordings.clear()
        rig.device.retry_now("button")
        since = now()
        await rig.device.delivered()
        assert now() - since < 1.0
        assert rig.running is not None
        await joined([rig.running])

    simulate(main())
