"""The recorder against servers that do their worst: a Hypothesis machine, checked after every step beside a model.

The quick run is fixed; the long one (marker `long`) is random and prints how to repeat a failure.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edge.core.delivery import AckedDelivery, PlainDelivery
from edge.core.link import Change
from tests.core.simserver import AckServer, Faults, PlainServer
from tests.core.simworld import World, small_policy

SHORT_S = st.sampled_from([0.1, 0.5, 1.0, 2.5])
CAUSE = st.sampled_from(["card", "overflow"])
BEHIND = st.tuples(st.sampled_from(["delivered", "handled"]), st.sampled_from([1, 1, 2, 4, 10])) | st.tuples(
    st.just("captured"), st.sampled_from([0, -1, -3, -8])
)
MANY = st.sampled_from([1, 1, 2, 5, 30, 200])
LONG_S = st.sampled_from([3.0, 6.0, 12.0, 30.0])


class Recorder(RuleBasedStateMachine):
    """One recording; every rule is something that happens to it, and some time."""

    acks = False
    world: World

    @initialize(
        packet_frames=st.sampled_from([20, 8, 24]),
        target_ms=st.sampled_from([2500, 1000, 5000]),
        ring_s=st.sampled_from([20, 60, 180]),
        overlap_up=st.booleans(),
        dead_stop_says_finalize=st.booleans(),
        says_resumed=st.booleans(),
        cleanup_s=st.sampled_from([0.0, 0.5, 1.0]),
        notice_s=st.sampled_from([None, 1.0, 10.0, 60.0]),
    )
    def begin(self, packet_frames: int, target_ms: int, ring_s: int, **faults: Any) -> None:
        policy = small_policy(packet_frames=packet_frames, segment_target_ms=target_ms)
        self.world = World(policy, acks=self.acks, ring_frames=80 * ring_s, faults=Faults(**faults))

    # --- time and sound ---

    @rule(seconds=SHORT_S)
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(seconds=LONG_S)
    def wait_long(self, seconds: float) -> None:
        self.world.run(seconds)

    @precondition(lambda self: self.world.is_recording)
    @rule(before=st.integers(0, 30), frames=st.integers(1, 400), cause=st.sampled_from(["xrun", "microphone"]))
    def lose(self, before: int, frames: int, cause: str) -> None:
        self.world.talk(before)
        self.world.lose(frames, cause)

    @precondition(lambda self: self.world.is_recording)
    @rule(seconds=st.sampled_from([10, 11, 40]))
    def lose_long(self, seconds: int) -> None:
        self.world.lose(80 * seconds, "microphone")

    @precondition(lambda self: self.world.is_recording)
    @rule(lost=st.sampled_from([0, 50, 1000]))
    def stop(self, lost: int) -> None:
        self.world.lose(lost, "microphone")
        self.world.stop()

    @rule(behind=BEHIND, packets=MANY, cause=CAUSE, withheld=st.booleans(), told=st.booleans())
    def give_up(self, behind: tuple[str, int], packets: int, cause: str, withheld: bool, told: bool) -> None:
        """Packets that can never be sent any more."""
        first = self._behind(*behind)
        self.world.give_up(first, first + packets - 1, cause, withheld=withheld, told=told)

    @rule(seconds=SHORT_S, behind=BEHIND, packets=MANY, cause=CAUSE, withheld=st.booleans(), told=st.booleans())
    def give_up_under_way(
        self, seconds: float, behind: tuple[str, int], packets: int, cause: str, withheld: bool, told: bool
    ) -> None:
        """The same, while much is on its way."""
        self._go_on()
        self.world.network.cut()
        self.world.run(seconds)
        self.give_up(behind, packets, cause, withheld, told)
        self.world.network.heal()

    @rule(seconds=st.sampled_from([3.0, 8.0]), behind=BEHIND, packets=MANY, cause=CAUSE)
    def give_up_while_away(self, seconds: float, behind: tuple[str, int], packets: int, cause: str) -> None:
        """The same, while nothing can be sent: a hole in the middle of a session."""
        self._go_on()
        self.world.reset()
        self.world.run(0.5)
        self.world.network.cut()
        self.world.run(seconds)
        self.give_up(behind, packets, cause, withheld=False, told=True)
        self.world.network.heal()

    def _go_on(self) -> None:
        """Most of the time nothing flows; where it can, let it."""
        self.world.retry_now()
        self.world.run(6.0)

    def _behind(self, what: str, packets: int) -> int:
        marks = {
            "delivered": self.world.ledger.delivered,
            "handled": self.world.session.handled,
            "captured": self.world.ledger.last,
        }
        return max(1, marks[what] + packets)

    # --- the network ---

    @rule()
    def reset(self) -> None:
        self.world.reset()

    @rule(seconds=SHORT_S)
    def break_off(self, seconds: float) -> None:
        """Both lose what was on its way, and that is more than usual."""
        self.world.network.cut()
        self.world.run(seconds)
        self.world.reset()
        self.world.network.heal()

    @rule(seconds=SHORT_S)
    def stall(self, seconds: float) -> None:
        self.world.network.cut()
        self.world.run(seconds)
        self.world.network.heal()

    @rule(seconds=st.sampled_from([5.0, 12.0, 45.0, 70.0]), press=st.booleans())
    def black_hole(self, seconds: float, press: bool) -> None:
        self.world.network.cut()
        self.world.run(seconds)
        self.world.network.heal()
        if press:
            self.world.retry_now()

    @rule()
    def retry(self) -> None:
        self.world.retry_now()

    @rule(latency=st.sampled_from([0.0, 0.01, 0.1, 0.4]))
    def latency(self, latency: float) -> None:
        self.world.network.latency = latency

    @rule()
    def lose_answer(self) -> None:
        self.world.faults.loses_next_answer = True

    # --- the link, of which the kernel tells ---

    @rule(seconds=SHORT_S | LONG_S, is_kept=st.booleans(), is_back=st.booleans())
    def link_lost(self, seconds: float, is_kept: bool, is_back: bool) -> None:
        """The cable is out; `is_back`: with the same address, where it was kept."""
        self.world.network.cut()
        self.world.link(Change.LOST, is_kept=is_kept, has_path=False)
        self.world.run(seconds)
        self.world.network.heal()
        self.world.link(Change.FOUND, is_carried=is_back and is_kept, is_kept=is_kept)

    @rule(seconds=SHORT_S, is_kept=st.booleans(), change=st.sampled_from([Change.MOVED, Change.READDRESSED]))
    def link_moved(self, seconds: float, is_kept: bool, change: Change) -> None:
        """What is under way is stuck on the old path, and there is another."""
        self._go_on()
        self.world.run(seconds)
        self.world.network.cut()
        self.world.link(change, is_kept=is_kept)
        self.world.network.heal()

    @rule(seconds=SHORT_S)
    def better_path(self, seconds: float) -> None:
        self._go_on()
        self.world.run(seconds)
        self.world.link(Change.BETTER, is_carried=True)

    @rule(seconds=SHORT_S, is_dead=st.booleans())
    def doubt(self, seconds: float, is_dead: bool) -> None:
        if is_dead:
            self.world.network.cut()
        self.world.doubt()
        self.world.run(seconds)
        self.world.network.heal()

    # --- the recorder's own computer ---

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 20.0]))
    def freeze(self, seconds: float) -> None:
        self.world.freeze()
        self.world.run(seconds)
        self.world.thaw()

    # --- the server ---

    @rule(seconds=st.sampled_from([0.0, 1.0, 8.0]))
    def kill(self, seconds: float) -> None:
        self.world.server.kill()
        self.world.run(seconds)
        self.world.server.restart()

    @rule(seconds=st.sampled_from([0.0, 4.0, 35.0]))
    def terminate(self, seconds: float) -> None:
        self.world.server.terminate()
        self.world.run(seconds)

    @rule(limit=st.sampled_from([4, 20]))
    def max_pending(self, limit: int) -> None:
        self.world.faults.max_pending = limit

    @rule(
        way_in_s=st.sampled_from([0.0, 0.3, 2.0, 6.0]),
        way_out_s=st.sampled_from([0.0, 0.3, 2.0, 4.5]),
        seconds=LONG_S,
    )
    def slow_http(self, way_in_s: float, way_out_s: float, seconds: float) -> None:
        faults = self.world.faults
        faults.http_slow_in_s, faults.http_slow_out_s = way_in_s, way_out_s
        self.world.run(seconds)
        faults.http_slow_in_s = faults.http_slow_out_s = 0.0

    @rule(seconds=LONG_S, breaks=st.booleans())
    def http_dead(self, seconds: float, breaks: bool) -> None:
        self.world.faults.is_http_dead = True
        if breaks:
            self.world.reset()
        self.world.run(seconds)
        self.world.faults.is_http_dead = False

    @rule(seconds=SHORT_S | LONG_S, token=st.booleans())
    def refuse(self, seconds: float, token: bool) -> None:
        faults = self.world.faults
        faults.is_token_bad, faults.is_start_refused = token, not token
        self.world.reset()
        self.world.run(seconds)
        faults.is_token_bad = faults.is_start_refused = False

    # --- what must hold ---

    @invariant()
    def promise(self) -> None:
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.finish()


class PlainRecorder(Recorder):
    """To an unmodified aia-v4 server."""

    @property
    def plain(self) -> PlainServer:
        assert isinstance(self.world.server, PlainServer)
        return self.world.server

    @rule(seconds=st.sampled_from([0.0, 0.2, 2.0, 7.0]))
    def transcription(self, seconds: float) -> None:
        self.world.faults.transcribe_s = seconds

    @rule(seconds=LONG_S)
    def transcription_stuck(self, seconds: float) -> None:
        before = self.world.faults.transcribe_s
        self.world.faults.transcribe_s = 1000.0
        self.world.run(seconds)
        self.world.faults.transcribe_s = before
        self.plain.hurry()

    @rule(before_s=SHORT_S)
    def finalise(self, before_s: float) -> None:
        self.world.run(before_s)
        self.plain.finalise_now()

    @rule()
    def finalise_while_away(self) -> None:
        self.world.reset()
        self.world.run(0.5)
        self.plain.finalise_now()

    @rule(packets=st.integers(1, 12))
    def kill_in_time(self, packets: int) -> None:
        """A crash some packets later, with a cut pending now and then."""
        before, self.world.faults.transcribe_s = self.world.faults.transcribe_s, 5.0
        self.world.run(packets * self.world.policy.packet_s)
        self.world.faults.transcribe_s = before
        self.plain.kill()
        self.plain.restart()


class AckedRecorder(Recorder):
    """To a server with acknowledgements."""

    acks = True

    @rule(is_full=st.booleans())
    def disk(self, is_full: bool) -> None:
        server = self.world.server
        assert isinstance(server, AckServer)
        server.is_disk_full = is_full


class Mortal:
    """A process that may end without a word: another takes over from the card."""

    @precondition(lambda self: self.world.heirs < 3)
    @rule(before_s=SHORT_S, lag_s=st.sampled_from([0.0, 0.3, 1.0, 2.0]), is_same_boot=st.booleans())
    def die(self: Any, before_s: float, lag_s: float, is_same_boot: bool) -> None:
        """The process ends without a word, and another takes over from the card."""
        self._go_on()
        self.world.run(before_s)
        self.world.die(lag_s, is_same_boot=is_same_boot)


class MortalPlainRecorder(Mortal, PlainRecorder):
    """To an unmodified aia-v4 server."""


class MortalAckedRecorder(Mortal, AckedRecorder):
    """To a server with acknowledgements."""


QUICK = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # finds; for a small example run the long one
    suppress_health_check=list(HealthCheck),
)
# CI repeats itself, so that a red run is a change's doing; EDGE_EXAMPLES=3000 searches on at random.
SEARCH = os.environ.get("EDGE_EXAMPLES")
LONG = settings(
    max_examples=int(SEARCH or 400),
    stateful_step_count=50,
    deadline=None,
    derandomize=SEARCH is None,
    print_blob=True,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


MACHINES = [PlainRecorder, AckedRecorder, MortalPlainRecorder, MortalAckedRecorder]


@pytest.mark.parametrize("machine", MACHINES)
def test_recorder_keeps_its_promise(machine: type[Recorder]) -> None:
    run_state_machine_as_test(machine, settings=QUICK if machine is PlainRecorder else settings(QUICK, max_examples=30))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", MACHINES)
def test_recorder_keeps_its_promise_long(machine: type[Recorder]) -> None:
    run_state_machine_as_test(machine, settings=LONG)


# --- the machine can fail: broken recorders, each caught ---


def _free_at_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sent counts as delivered."""
    real = PlainDelivery.sending

    def sending(self: PlainDelivery, seq: int, now: float, *, short: bool) -> None:
        real(self, seq, now, short=short)
        self.delivered = seq

    def sending_acked(self: AckedDelivery, seq: int, now: float, *, short: bool) -> None:
        self.sent = self.delivered = seq

    monkeypatch.setattr(PlainDelivery, "sending", sending)
    monkeypatch.setattr(AckedDelivery, "sending", sending_acked)


def _skip_one_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The follow-on or resumed socket begins one packet too late."""
    real, real_acked = PlainDelivery.detach, AckedDelivery.detach

    def detach(self: PlainDelivery) -> None:
        behind = self.sent - self.resume
        real(self)
        self.sent = self.resume = self.resume + (1 if behind else 0)

    def detach_acked(self: AckedDelivery) -> None:
        behind = self.sent - self.delivered
        real_acked(self)
        if behind:
            self.delivered += 1

    monkeypatch.setattr(PlainDelivery, "detach", detach)
    monkeypatch.setattr(AckedDelivery, "detach", detach_acked)


def _believe_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every socket counts as proven (rule 1 left out)."""
    real = PlainDelivery.attach

    def attach(self: PlainDelivery) -> None:
        real(self)
        self.proven = True

    monkeypatch.setattr(PlainDelivery, "attach", attach)


@pytest.mark.parametrize(
    ("mutant", "machine"),
    [
        (_free_at_send, PlainRecorder),
        (_free_at_send, AckedRecorder),
        (_skip_one_packet, PlainRecorder),
        (_skip_one_packet, AckedRecorder),
        (_believe_the_dead, PlainRecorder),
    ],
)
def test_machine_catches_a_broken_recorder(
    mutant: Any, machine: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=500))
