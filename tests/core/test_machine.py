"""The recorder against servers that do their worst: a Hypothesis machine, checked after every step beside a plain model.

The quick run is fixed; the long one (marker `long`) is random and prints how to repeat a failure.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from tests.core.simserver import AckServer, Faults, PlainServer
from tests.core.simworld import World, small_policy

SHORT_S = st.sampled_from([0.1, 0.5, 1.0, 2.5])
LONG_S = st.sampled_from([3.0, 6.0, 12.0, 30.0])


class Recorder(RuleBasedStateMachine):
    """One recording; every rule is something that happens to it, and some time."""

    acks: bool | None = None

    @initialize(
        acks=st.booleans(),
        packet_frames=st.sampled_from([20, 8, 24]),
        target_ms=st.sampled_from([2500, 1000, 5000]),
        ring_s=st.sampled_from([20, 60, 180]),
        overlap_up=st.booleans(),
        dead_stop_says_finalize=st.booleans(),
        says_resumed=st.booleans(),
        cleanup_s=st.sampled_from([0.0, 0.5, 1.0]),
    )
    def begin(self, acks: bool, packet_frames: int, target_ms: int, ring_s: int, cleanup_s: float, **faults: bool) -> None:
        policy = small_policy(packet_frames=packet_frames, segment_target_ms=target_ms)
        self.world = World(
            policy,
            acks=acks if self.acks is None else self.acks,
            ring_frames=80 * ring_s,
            faults=Faults(cleanup_s=cleanup_s, **faults),
        )

    @property
    def plain(self) -> bool:
        return isinstance(self.world.server, PlainServer)

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
    @rule()
    def stop(self) -> None:
        self.world.stop()

    # --- the network ---

    @rule()
    def reset(self) -> None:
        wire = self.world._wire
        if wire is not None:
            wire.reset()

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
    def cut(self) -> None:
        self.world.network.cut()

    @precondition(lambda self: not self.world.network.is_up)
    @rule()
    def heal(self) -> None:
        self.world.network.heal()

    @rule()
    def retry(self) -> None:
        self.world.retry_now()

    @rule(latency=st.sampled_from([0.0, 0.01, 0.1, 0.4]))
    def latency(self, latency: float) -> None:
        self.world.network.latency = latency

    @rule()
    def lose_answer(self) -> None:
        self.world.faults.loses_next_answer = True

    # --- the recorder's own machine ---

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

    @precondition(lambda self: not self.world.server.is_alive)
    @rule()
    def restart(self) -> None:
        self.world.server.restart()

    @rule(seconds=st.sampled_from([0.0, 0.2, 2.0, 7.0, 1000.0]))
    def transcription(self, seconds: float) -> None:
        self.world.faults.transcribe_s = seconds

    @rule(limit=st.sampled_from([2, 4, 20]))
    def max_pending(self, limit: int) -> None:
        self.world.faults.max_pending = limit

    @rule(is_dead=st.booleans())
    def http(self, is_dead: bool) -> None:
        self.world.faults.is_http_dead = is_dead

    @rule(is_bad=st.booleans())
    def token(self, is_bad: bool) -> None:
        self.world.faults.is_token_bad = is_bad

    @rule(is_refused=st.booleans())
    def refuse_start(self, is_refused: bool) -> None:
        self.world.faults.is_start_refused = is_refused

    @precondition(lambda self: self.plain)
    @rule()
    def finalise(self) -> None:
        server = self.world.server
        assert isinstance(server, PlainServer)
        server.finalise_now()

    @precondition(lambda self: not self.plain)
    @rule(is_full=st.booleans())
    def disk(self, is_full: bool) -> None:
        server = self.world.server
        assert isinstance(server, AckServer)
        server.is_disk_full = is_full

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

    acks = False


class AckedRecorder(Recorder):
    """To a server with acknowledgements."""

    acks = True


QUICK: dict[str, Any] = {
    "max_examples": 60,
    "stateful_step_count": 25,
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
}


@pytest.mark.parametrize("machine", [PlainRecorder, AckedRecorder])
def test_recorder_keeps_its_promise(machine: type[Recorder]) -> None:
    run_state_machine_as_test(machine, settings=settings(**QUICK))


@pytest.mark.long
@pytest.mark.parametrize("machine", [PlainRecorder, AckedRecorder])
def test_recorder_keeps_its_promise_long(machine: type[Recorder]) -> None:
    changes = {"max_examples": 3000, "stateful_step_count": 50, "derandomize": False, "print_blob": True}
    run_state_machine_as_test(machine, settings=settings(**{**QUICK, **changes}))
