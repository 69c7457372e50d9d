"""A second microphone: taken when the first is missing for long, and never given back within a recording."""

from __future__ import annotations

import pytest

from edge.errors import MicrophoneError
from edge.runtime.fallback import FallbackSource
from edge.runtime.ports import SourceInfo
from tests.runtime.fakes import MONO, PACKET, FedSource

ABSENT = MicrophoneError("first is absent", remedy="plug it in")
GONE = MicrophoneError("first is gone")


class Rig:
    """Two microphones and a clock that stands."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.first, self.second = FedSource(patience=0.0), FedSource(patience=0.0)
        self.second.openings.append(SourceInfo("alsa:second", MONO, PACKET, ("note",), "usb 2"))
        self.source = FallbackSource(self.first, self.second, 3.0, lambda: self.now_s)

    def lose_the_first(self) -> None:
        self.first.give(10)
        assert len(self.source.read().data) == 20
        self.first.fail(GONE)
        with pytest.raises(MicrophoneError, match="first is gone"):
            self.source.read()
        self.source.close()


def test_the_first_is_taken_where_it_is_there() -> None:
    rig = Rig()
    assert rig.source.open().name == "fed"
    assert rig.second.opens == 0
    assert (rig.source.can_wait, rig.source.can_return) == (False, True)
    rig.source.close()
    assert rig.first.closes == rig.second.closes == 1


def test_where_it_is_absent_at_the_start_the_second_is_taken_and_that_is_said() -> None:
    rig = Rig()
    rig.first.fail_open = ABSENT
    notes = ("first is absent; alsa:second records until the next recording", "note")
    assert rig.source.open() == SourceInfo("alsa:second", MONO, PACKET, notes, "usb 2")
    given = rig.second.give(10)
    assert rig.source.read().data == given


def test_one_that_is_back_soon_goes_on() -> None:
    rig = Rig()
    rig.source.open()
    rig.lose_the_first()
    rig.first.openings.append(ABSENT)
    rig.now_s += 2.9
    with pytest.raises(MicrophoneError, match="first is absent"):
        rig.source.open()
    rig.now_s += 1.0
    assert rig.source.open().name == "fed"
    assert rig.second.opens == 0
    rig.lose_the_first()  # its time counts anew
    rig.first.fail_open = ABSENT
    with pytest.raises(MicrophoneError):
        rig.source.open()


def test_one_that_stays_away_is_replaced_for_good() -> None:
    rig = Rig()
    rig.source.open()
    rig.lose_the_first()
    rig.first.fail_open = ABSENT
    rig.now_s += 3.0
    assert rig.source.open().name == "alsa:second"
    rig.first.fail_open = None
    rig.second.fail(MicrophoneError("second is gone"))
    with pytest.raises(MicrophoneError, match="second is gone"):
        rig.source.read()
    rig.source.close()
    rig.second.openings.append(SourceInfo("alsa:second", MONO, PACKET))
    assert rig.source.open().name == "alsa:second"
    rig.second.fail_open = MicrophoneError("second is absent")
    with pytest.raises(MicrophoneError, match="second is absent"):
        rig.source.open()


def test_one_that_opens_and_gives_nothing_is_replaced_too() -> None:
    rig = Rig()
    rig.source.open()
    rig.lose_the_first()
    rig.source.open()
    assert rig.source.read().data == b""
    rig.first.fail(GONE)
    rig.now_s += 5.0
    with pytest.raises(MicrophoneError):
        rig.source.read()
    assert rig.source.open().name == "alsa:second"


def test_where_neither_is_there_the_error_is_that_of_the_first_and_both_are_tried_again() -> None:
    rig = Rig()
    rig.first.fail_open = ABSENT
    rig.second.openings.appendleft(MicrophoneError("second is absent"))
    with pytest.raises(MicrophoneError, match="first is absent"):
        rig.source.open()
    rig.first.fail_open = None
    assert rig.source.open().name == "fed"
    rig.lose_the_first()
    rig.source.open()
    rig.first.fail(GONE)
    with pytest.raises(MicrophoneError):
        rig.source.read()
    rig.now_s += 5.0
    rig.second.openings.appendleft(MicrophoneError("second is absent"))
    with pytest.raises(MicrophoneError, match="first is gone"):
        rig.source.open()
    assert rig.source.open().name == "fed"
