"""The panel: two buttons and two LEDs through gpiozero, which is imported only when a panel is made.

Each edge of a button arrives in a thread of the pin library. Bouncing is judged here: gpiozero's own debouncing can
drop an edge (its issue 1039), and its Button costs a thread that a plain input does not.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any

from edge.errors import EdgeError

LOCKOUT_S = 0.05  # a contact that has not been at rest for so long is still bouncing


@dataclass(frozen=True, slots=True)
class PanelPins:
    """GPIO numbers (BCM). Buttons close to ground, LEDs light on high."""

    record_button: int = 17
    retry_button: int = 27
    record_led: int = 22
    safe_led: int = 23


def is_fresh(edge_s: float, last_edge_s: float) -> bool:
    """Whether an edge at `edge_s` seconds is a person's doing and not the bouncing after the edge before it."""
    return edge_s - last_edge_s >= LOCKOUT_S


class _Button:
    """One input; calls `pressed` on the leading edge of each press."""

    def __init__(self, gpiozero: Any, pin: int, factory: Any) -> None:
        self.pressed: Callable[[], None] | None = None
        self._last_edge_s = -math.inf
        self._input = gpiozero.DigitalInputDevice(pin, pull_up=True, pin_factory=factory)
        self._input.when_activated = lambda: self._edge(is_press=True)
        self._input.when_deactivated = lambda: self._edge(is_press=False)

    def _edge(self, *, is_press: bool) -> None:
        now_s = time.monotonic()
        is_accepted = is_fresh(now_s, self._last_edge_s)
        self._last_edge_s = now_s
        if is_press and is_accepted and self.pressed is not None:
            self.pressed()

    def close(self) -> None:
        self.pressed = None
        self._input.close()


class GpioPanel:
    """Buttons RECORD and RETRY, LEDs for recording and safe; implements `Panel`.

    Raises EdgeError where the machine has no usable pins: the recorder then runs on commands alone. `factory` is a
    gpiozero pin factory (`MockFactory` in tests and in the demo) and stays the caller's; without one lgpio is tried,
    then RPi.GPIO.
    """

    def __init__(self, pins: PanelPins, factory: Any = None, runtime_directory: str = "") -> None:
        """`runtime_directory` is where lgpio may leave its FIFO (default: what systemd or the session gives)."""
        self._own_factory = None if factory is not None else _working_factory(runtime_directory)
        self._parts: list[Any] = []
        self._leds: list[Any] = []
        self._lit: tuple[bool, bool] | None = None
        factory = factory or self._own_factory
        try:
            import gpiozero

            self._buttons = [self._add(_Button(gpiozero, pin, factory)) for pin in astuple(pins)[:2]]
            self._leds = [
                self._add(gpiozero.DigitalOutputDevice(pin, pin_factory=factory)) for pin in astuple(pins)[2:]
            ]
        except Exception as error:  # gpiozero and its pin libraries have no common base
            self.close()
            raise _unusable(f"the pins cannot be used: {_line(error)}") from error

    def _add(self, part: Any) -> Any:
        self._parts.append(part)
        return part

    def show(self, record_lit: bool, safe_lit: bool) -> None:
        """Set the LEDs."""
        if self._leds and (record_lit, safe_lit) != self._lit:
            self._lit = (record_lit, safe_lit)
            for led, is_lit in zip(self._leds, self._lit, strict=True):
                led.value = is_lit

    def on_press(self, record: Callable[[], None], retry: Callable[[], None]) -> None:
        """Call back on a press, from a thread of the pin library."""
        for button, call in zip(self._buttons, (record, retry), strict=True):
            button.pressed = call

    def close(self) -> None:
        """LEDs off, pins released; may be called twice."""
        self.show(record_lit=False, safe_lit=False)
        for part in self._parts:
            part.close()
        self._parts, self._leds = [], []
        factory, self._own_factory = self._own_factory, None
        if factory is not None:
            factory.close()


def _working_factory(runtime_directory: str) -> Any:
    """The first pin factory that works here. lgpio writes into LG_WD, which it reads when it is imported."""
    os.environ.setdefault("LG_WD", runtime_directory or _runtime_directory())
    reasons = []
    for make in (_lgpio, _rpigpio):
        try:
            return make()
        except Exception as error:  # noqa: BLE001 (absent, no such chip, no permission: each library has its own way to say so)
            reasons.append(_line(error))
    raise _unusable(f"neither lgpio nor RPi.GPIO works here: {', '.join(dict.fromkeys(reasons))}")


def _lgpio() -> Any:
    from gpiozero.pins.lgpio import LGPIOFactory

    return LGPIOFactory()


def _rpigpio() -> Any:
    from gpiozero.pins.rpigpio import RPiGPIOFactory

    return RPiGPIOFactory()


def _runtime_directory() -> str:
    given = os.environ.get("RUNTIME_DIRECTORY", "").split(":")[0]  # systemd gives a list
    return given or os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _unusable(what: str) -> EdgeError:
    return EdgeError(f"no buttons and LEDs: {what}", means="the recorder runs on commands alone")
