"""`edge record`: one recording, from start to the last delivered packet."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable

from edge import app
from edge.adapters.state import StateDirectory, default_state_path
from edge.cli import output
from edge.cli.options import add_config_options, folder, load_config
from edge.cli.screen import Screen
from edge.errors import EdgeError, ExitCode, ServerRefused
from edge.runtime.device import Device
from edge.runtime.noserver import KEPT
from edge.runtime.ports import JsonObject, Panel

HELP = (
    "Record from SOURCE until N seconds, its end or Ctrl-C; then deliver all. A second Ctrl-C keeps the rest for "
    "later; SIGTERM, or a terminal that goes away, delivers for connection.shutdown_drain seconds at most."
)
_LINE_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `edge record`."""
    add_config_options(parser)
    parser.add_argument("--pace", choices=("realtime", "fast"), default="realtime", help="how fast a file is read")
    parser.add_argument("--seconds", type=positive, metavar="N", help="stop after N seconds of audio")
    parser.add_argument("--state", type=folder, metavar="DIR", help="state directory (one recorder at a time)")
    parser.add_argument(
        "--drain-timeout", type=positive, metavar="S", help="after the end, deliver for S seconds at most (no limit)"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="a line for each attempt to connect, and what cut a wait for one short"
    )
    parser.add_argument("--json", action="store_true", help="last line of stdout: the account, in frames")


def positive(text: str) -> float:
    """An option's seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    loaded = load_config(args)
    screen = Screen(is_verbose=args.verbose)
    for note in loaded.notes:
        screen.say(note)
    with StateDirectory(args.state or default_state_path()) as state:
        panel = app.open_panel(loaded.config, screen.tell)
        try:
            built = app.build(loaded, state, screen.tell, args.pace, panel)
            return asyncio.run(_Run(args, built, screen, panel).go())
        finally:
            if panel is not None:
                panel.close()


class _Run:
    """The course of one command."""

    def __init__(self, args: argparse.Namespace, built: app.App, screen: Screen, panel: Panel | None) -> None:
        self._args = args
        self._panel = panel
        self._app = built
        self._device: Device = built.device
        self._screen = screen
        self._interrupts = 0
        self._is_terminated = False
        self._enough = asyncio.Event()

    async def go(self) -> int:
        """Record, deliver, account."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        loop.add_signal_handler(signal.SIGTERM, self._terminated, loop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: it goes on without the terminal
            loop.add_signal_handler(signal.SIGHUP, self._terminated, loop)
        loop.add_signal_handler(signal.SIGUSR1, self._device.retry_now, "asked for")
        if self._panel is not None:
            self._panel.on_press(
                _in(loop, self._device.stop), _in(loop, lambda: self._device.retry_now("RETRY was pressed"))
            )
        seconds = self._args.seconds
        limit = None if seconds is None else max(1, round(seconds * self._device.audio.rate_hz))
        delivering = asyncio.create_task(self._device.run(), name="deliver")
        tasks = [
            delivering,
            asyncio.create_task(self._show(), name="live line"),
            asyncio.create_task(self._device.show(), name="panel"),
        ]
        failure: EdgeError | None = None
        unkept: dict[str, tuple[int, str]] = {}
        try:
            self._app.go_on()
            recording, _ = await self._device.start(limit)
            self._app.owe_kept()
            error = await self._device.ended()
            if error is not None:
                self._screen.say(str(error))
            await self._drain(delivering)
        finally:
            session = self._device.uplink.session
            failure = session.failure if session else None
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            bugs = [bug for task in tasks if not task.cancelled() and (bug := task.exception())]
            self._screen.clear()
            unkept = await self._keep_rest()
            await self._app.close()
            for number in _SIGNALS:  # all is done: nothing is left that one Ctrl-C more could end, but the exit code
                loop.remove_signal_handler(number)
                signal.signal(number, signal.SIG_IGN)
        if bugs:
            raise bugs[0]
        account = recording.account()
        if recording.recording_id in unkept:
            frames = unkept[recording.recording_id][0]
            cause = app.FROM_CARD if self._app.store.policy.has_audio else app.FROM_MEMORY
            lost: dict[str, int] = account["lost"]
            lost[cause] = lost.get(cause, 0) + frames
            account["pending"] -= frames
        self._report(account)
        is_owed = not self._device.is_local and any(
            not owed.is_whole and owed.ledger.card_frames for owed in self._device.undelivered
        )
        return _exit_code(account, self._device.bug or error, failure, is_owed)

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self._device.is_recording and self._interrupts == 1:
            what_follows = (
                "" if self._device.is_local else "; what is left will be delivered (again: keep it for later)"
            )
            self._screen.say(f"stopping{what_follows}")
            self._device.stop()
        else:
            self._device.stop()
            self._enough.set()

    def _terminated(self, loop: asyncio.AbstractEventLoop) -> None:
        """Whoever sends SIGTERM does not wait for ever: systemd kills after a while, a machine is switched off.

        SIGHUP comes from a terminal that is gone, such as a broken SSH connection: what is in memory must not go too.
        """
        if self._is_terminated:
            self._enough.set()
            return
        self._is_terminated = True
        self._interrupts += 1
        drain_s = self._app.shutdown_drain_s
        what_follows = (
            "" if self._device.is_local else f"; what is not delivered within {drain_s:g} s is kept for later"
        )
        self._screen.say(f"stopping{what_follows}")
        self._device.stop()
        loop.call_later(drain_s, self._enough.set)

    async def _drain(self, delivering: asyncio.Task[None]) -> None:
        """Until nothing is owed, or somebody or something says that it is enough for now."""
        if self._device.is_local:
            return  # the rest is a matter of the card
        waits = [
            asyncio.create_task(self._device.delivered()),
            asyncio.create_task(self._enough.wait()),
            asyncio.create_task(self._device.refused()),
        ]
        await asyncio.wait([*waits, delivering], timeout=self._args.drain_timeout, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _show(self) -> None:
        while True:
            self._screen.show(self._device.status())
            await asyncio.sleep(_LINE_S)  # the rhythm of a display

    async def _keep_rest(self) -> dict[str, tuple[int, str]]:
        unkept = await self._app.keep_rest()
        for recording in self._device.undelivered:
            if recording.recording_id in unkept:
                frames, why = unkept[recording.recording_id]
                seconds = recording.audio.seconds(frames)
                self._screen.say(f"{seconds:.1f} s of audio are lost: they cannot be kept on the card ({why})")
        return unkept

    def _report(self, account: JsonObject) -> None:
        if self._args.json:
            try:
                print(json.dumps(account), flush=True)
            except OSError as error:  # nobody there, or a full disk: the exit code is still that of the audio
                output.is_broken(sys.stdout)
                self._screen.say(f"the account cannot be written to stdout ({error.strerror}); in short it is:")
            else:
                return
        seconds = self._device.audio.seconds
        causes = "".join(f", {seconds(frames):.3f} s lost ({cause})" for cause, frames in account["lost"].items())
        self._screen.say(
            f"{seconds(account['expected']):.3f} s: {seconds(account['delivered']):.3f} s delivered, "
            f"{seconds(account['pending']):.3f} s kept for later{causes}"
            + (f" ({KEPT})" if self._device.is_local else "")
        )


def _in(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> Callable[[], None]:
    """`function`, callable from a thread of the pin library."""

    def call() -> None:
        with contextlib.suppress(RuntimeError):  # pressed while the command ends
            loop.call_soon_threadsafe(function)

    return call


def _exit_code(account: JsonObject, error: EdgeError | None, failure: EdgeError | None, is_owed: bool) -> int:
    """The gravest that applies: our bug, refused, pending, no microphone, lost."""
    if error is not None and error.exit_code is ExitCode.INTERNAL:
        return ExitCode.INTERNAL
    if is_owed:
        return ExitCode.REFUSED if isinstance(failure, ServerRefused) else ExitCode.PENDING
    if error is not None:
        return error.exit_code
    return ExitCode.LOST if account["lost"] else ExitCode.WHOLE
