"""`edge spool deliver`: the Device without its microphone, until nothing is owed."""

from __future__ import annotations

import argparse
import asyncio
import signal
from dataclasses import replace

from edge import app
from edge.adapters.state import StateDirectory
from edge.cli import spool_find
from edge.cli.options import load_config
from edge.cli.screen import Screen
from edge.config import Loaded
from edge.errors import ConfigError, EdgeError, ExitCode, ServerRefused

_LINE_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(args: argparse.Namespace) -> int:
    """Deliver; returns the exit code."""
    path = spool_find.state_path(args.state)
    loaded = _without_microphone(load_config(args))
    if not loaded.config.server.url:
        raise ConfigError("no server is configured", "everything stays on the card", "set server.url, or give --server")
    screen = Screen()
    for note in loaded.notes:
        screen.say(note)
    with StateDirectory(path) as state:
        built = app.build(loaded, state, screen.tell)
        return asyncio.run(_Delivery(built, screen, args.drain_timeout).go())


def _without_microphone(loaded: Loaded) -> Loaded:
    """Nothing is recorded: whatever the source is, it may be absent, or a file that is gone."""
    audio = replace(loaded.config.audio, source="tone:440", fallback="")
    return replace(loaded, config=replace(loaded.config, audio=audio))


class _Delivery:
    """The course of one command."""

    def __init__(self, built: app.App, screen: Screen, limit_s: float | None) -> None:
        self._app = built
        self._device = built.device
        self._screen = screen
        self._limit_s = limit_s
        self._enough = asyncio.Event()

    async def go(self) -> int:
        """Deliver, account."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._enough.set)
        loop.add_signal_handler(signal.SIGUSR1, self._device.retry_now, "asked for")
        self._app.owe_kept()
        owed = self._device.undelivered
        before = [recording.audio.seconds(sum(recording.ledger.lost.values())) for recording in owed]
        self._screen.say(
            f"{self._owed_s():.1f} s are owed, in {len(owed)} of the recordings" if owed else "nothing is owed"
        )
        delivering = asyncio.create_task(self._device.run(), name="deliver")
        tasks = [delivering, asyncio.create_task(self._show(), name="live line")]
        failure: EdgeError | None = None
        try:
            await self._drain(delivering)
        finally:
            session = self._device.uplink.session
            failure = session.failure if session else None
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            bugs = [bug for task in tasks if not task.cancelled() and (bug := task.exception())]
            self._screen.clear()
            await self._app.keep_rest()
            await self._app.close()
        if bugs:
            raise bugs[0]
        lost_s = sum(recording.audio.seconds(sum(recording.ledger.lost.values())) for recording in owed) - sum(before)
        lost = f"; {lost_s:.1f} s could not be read any more and are lost (card)" if lost_s else ""
        left_s = self._owed_s()
        if owed:
            self._screen.say(f"{f'{left_s:.1f} s are still owed' if left_s else 'nothing is owed any more'}{lost}")
        if self._device.bug is not None:
            return ExitCode.INTERNAL
        if left_s:
            return ExitCode.REFUSED if isinstance(failure, ServerRefused) else ExitCode.PENDING
        return ExitCode.LOST if lost_s else ExitCode.WHOLE

    def _owed_s(self) -> float:
        return sum(owed.audio.seconds(owed.ledger.kept_frames) for owed in self._device.undelivered)

    async def _drain(self, delivering: asyncio.Task[None]) -> None:
        waits = [
            asyncio.create_task(self._device.delivered()),
            asyncio.create_task(self._enough.wait()),
            asyncio.create_task(self._device.refused()),
        ]
        await asyncio.wait([*waits, delivering], timeout=self._limit_s, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _show(self) -> None:
        while True:
            count = len(self._device.undelivered)
            self._screen.line(f"sending  {self._owed_s():.1f} s of {count} owed  {self._device.uplink.state.value}")
            await asyncio.sleep(_LINE_S)  # the rhythm of a display
