"""The panel on gpiozero's mock pins."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory

from edge.adapters import gpio
from edge.adapters.gpio import GpioPanel, PanelPins, is_fresh
from edge.errors import EdgeError

PINS = PanelPins()


class Clock:
    """The clock of the adapter, in the test's hands."""

    now_s = 5.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(gpio, "time", clock)
    return clock


@pytest.fixture
def factory() -> Iterator[Any]:
    factory = MockFactory()
    yield factory
    factory.reset()


@pytest.mark.parametrize(("edge", "last", "fresh"), [(1.0, -float("inf"), True), (1.06, 1.0, True), (1.04, 1.0, False)])
def test_an_edge_right_after_another_is_bouncing(edge: float, last: float, fresh: bool) -> None:
    assert is_fresh(edge, last) is fresh


def test_each_button_calls_its_own_on_the_leading_edge(factory: Any, clock: Clock) -> None:
    panel = GpioPanel(PINS, factory)
    presses: list[str] = []
    panel.on_press(lambda: presses.append("record"), lambda: presses.append("retry"))
    factory.pin(PINS.record_button).drive_low()
    assert presses == ["record"]
    clock.now_s += 1
    factory.pin(PINS.record_button).drive_high()
    factory.pin(PINS.retry_button).drive_low()
    assert presses == ["record", "retry"]
    panel.close()


def test_a_bouncing_contact_is_one_press(factory: Any, clock: Clock) -> None:
    panel = GpioPanel(PINS, factory)
    presses: list[float] = []
    panel.on_press(lambda: presses.append(clock.now_s), lambda: None)
    pin = factory.pin(PINS.record_button)
    for _ in range(3):  # held for 0.2 s, bouncing for 10 ms on both edges
        for _ in range(6):
            pin.drive_low()
            clock.now_s += 0.001
            pin.drive_high()
            clock.now_s += 0.001
        pin.drive_low()
        clock.now_s += 0.2
        for _ in range(6):
            pin.drive_high()
            clock.now_s += 0.001
            pin.drive_low()
            clock.now_s += 0.001
        pin.drive_high()
        clock.now_s += 0.2
    assert len(presses) == 3
    panel.close()


def test_a_press_before_anybody_listens_is_nobody_s(factory: Any, clock: Clock) -> None:
    panel = GpioPanel(PINS, factory)
    factory.pin(PINS.record_button).drive_low()
    panel.close()


def test_the_leds_show_and_are_dark_at_the_end(factory: Any) -> None:
    threads = threading.active_count()
    panel = GpioPanel(PINS, factory)
    record, safe = factory.pin(PINS.record_led), factory.pin(PINS.safe_led)
    assert (record.state, safe.state) == (False, False)
    panel.show(record_lit=True, safe_lit=False)
    assert (record.state, safe.state) == (True, False)
    writes = len(record.states)
    panel.show(record_lit=True, safe_lit=False)
    assert len(record.states) == writes
    assert threading.active_count() == threads
    panel.show(record_lit=True, safe_lit=True)
    panel.close()
    panel.close()
    panel.show(record_lit=True, safe_lit=True)
    assert not any(pin.state for pin in (record, safe) if pin.function == "output")
    GpioPanel(PINS, factory).close()  # the pins are free again


def test_pins_in_use_leave_commands_alone_and_nothing_held(factory: Any) -> None:
    panel = GpioPanel(PINS, factory)
    with pytest.raises(EdgeError, match=r"the pins cannot be used: .*the recorder runs on commands alone"):
        GpioPanel(PanelPins(1, 2, 3, PINS.safe_led), factory)
    GpioPanel(PanelPins(1, 2, 3, 4), factory).close()
    panel.close()


def test_a_machine_without_gpio_says_that_commands_remain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent() -> Any:
        raise OSError("no such\nchip")

    monkeypatch.setattr(gpio, "_lgpio", absent)
    monkeypatch.setattr(gpio, "_rpigpio", absent)
    monkeypatch.delenv("LG_WD", raising=False)
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}:/elsewhere")
    with pytest.raises(EdgeError) as caught:
        GpioPanel(PINS)
    assert str(caught.value) == (
        "no buttons and LEDs: neither lgpio nor RPi.GPIO works here: no such chip; the recorder runs on commands alone"
    )
    assert os.environ["LG_WD"] == str(tmp_path)


def test_the_first_library_that_works_is_used_and_closed(factory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise ImportError("No module named 'lgpio'")

    monkeypatch.setenv("LG_WD", "/run/edge")
    monkeypatch.setattr(gpio, "_lgpio", absent)
    monkeypatch.setattr(gpio, "_rpigpio", lambda: factory)
    panel = GpioPanel(PINS, runtime_directory="/tmp/other")
    panel.show(record_lit=True, safe_lit=True)
    panel.close()
    assert os.environ["LG_WD"] == "/run/edge"


def test_the_real_libraries_refuse_this_machine_or_work() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LG_WD", raising=False)
        try:
            GpioPanel(PINS).close()
        except EdgeError as error:
            assert "commands alone" in str(error)
        os.environ.pop("LG_WD", None)
