"""A second microphone for when the first is missing, once somebody has named it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from edge.errors import MicrophoneError
from edge.runtime.ports import Block, Source, SourceInfo

PATIENCE_S = 3.0  # a loose cable is back within this; after a switch the first one has to wait for the next recording


class FallbackSource:
    """`first`, or else `second`; implements `Source`.

    The second is taken where the first is absent at the first opening, or has given nothing for `patience_s` seconds
    since it went away. From then on it is the microphone: the first is not taken again.
    """

    can_wait = False
    can_return = True

    def __init__(
        self,
        first: Source,
        second: Source,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first = first
        self._second = second
        self._source = first
        self._patience_s = patience_s
        self._clock = clock
        self._was_open = False
        self._missing_since_s: float | None = None
        self._mute: MicrophoneError | None = None  # of a first one that could be opened and gave nothing

    def open(self) -> SourceInfo:
        """Open whichever is to be taken now. Raises the MicrophoneError of the first where neither can be opened."""
        if self._source is self._second:
            return self._second.open()
        try:
            if self._mute is not None and self._may_switch:
                raise self._mute
            info = self._first.open()
        except MicrophoneError as error:
            if not self._may_switch:
                raise
            try:
                info = self._second.open()
            except MicrophoneError:
                self._mute = None  # then the first may just as well be tried once more
                raise error from None
            self._source = self._second
            info = replace(info, notes=(f"{error.what}; {info.name} records until the next recording", *info.notes))
        self._was_open = True
        return info

    @property
    def _may_switch(self) -> bool:
        if not self._was_open:
            return True
        return self._missing_since_s is not None and self._clock() - self._missing_since_s >= self._patience_s

    def read(self) -> Block:
        """The next block of the one that is open. Raises MicrophoneError when it is gone."""
        try:
            block = self._source.read()
        except MicrophoneError as error:
            if self._missing_since_s is None:
                self._missing_since_s = self._clock()
            else:
                self._mute = error
            raise
        if block.data:
            self._missing_since_s = self._mute = None
        return block

    def close(self) -> None:
        """Let both go."""
        self._first.close()
        self._second.close()
