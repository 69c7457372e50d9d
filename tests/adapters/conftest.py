"""The private PulseAudio for the tests of the real ALSA adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.rig.pulse import PulseMicrophone, missing


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], PulseMicrophone]]:
    """Makes microphones of a rate and a number of channels, audible to this process and its children."""
    if reason := missing():
        pytest.skip(reason)
    with ExitStack() as stack:

        def make(rate: int, channels: int) -> PulseMicrophone:
            microphone = stack.enter_context(PulseMicrophone(rate, channels))
            for name, value in microphone.environment.items():
                monkeypatch.setenv(name, value)
            return microphone

        yield make
