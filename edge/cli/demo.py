"""`edge demo`: the whole path on one machine, live, with cut connections; then an audit that can fail."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge.adapters.state import StateDirectory
from edge.cli import demo_source, output
from edge.cli.demo_audit import Verdict, audit
from edge.cli.demo_course import FULL, QUICK, Course, play
from edge.cli.demo_interruption import Interruption
from edge.cli.demo_picture import draw
from edge.cli.demo_screen import Screen
from edge.cli.demo_stage import Settings, Stage
from edge.cli.demo_story import Story
from edge.errors import ConfigError, EdgeError, ExitCode

HELP = (
    "Record on this machine for about a minute, with a cut network and a killed receiver, and show that nothing is "
    "missing. Exit code 0 only if every frame of the source was received once."
)
_SABOTAGE_AFTER_S = 2.0  # into the noise
_PACKETS_A_SECOND = 10
_NO_SPEECH = "tests/data/speech.wav is not here (it comes with a checkout): a tone stands for speech"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `edge demo`."""
    parser.add_argument("--sabotage", choices=("drop",), help="withhold one packet: the audit must fail")
    parser.add_argument("--out", type=Path, metavar="DIR", help="what it leaves (default: out/demo-TIME)")
    parser.add_argument("--quick", action="store_true", help="the same in half a minute")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    for name in ("aiohttp", "gpiozero", "matplotlib"):  # needed later: better said now
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)
    out: Path = args.out or Path("out") / time.strftime("demo-%Y%m%d-%H%M%S")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise ConfigError(f"{out} is not empty", remedy="give another folder with --out")
    except OSError as error:
        raise ConfigError(f"{out} cannot be used: {error.strerror}", remedy="give a folder with --out") from None
    try:
        with Interruption() as interruption:
            return _demonstrate(_Demo(out, QUICK if args.quick else FULL, args.sabotage is not None, interruption))
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # a hang-up: the terminal may be gone
            output.complain(f"interrupted before the verdict; what there was by then is in {out}")
        raise


def _demonstrate(demo: _Demo) -> int:
    # Held outside of the folder: a signal while it is made or removed must not leave it behind.
    with demo.interruption.held(), tempfile.TemporaryDirectory(prefix="edge-demo-") as private:
        asyncio.run(demo.go(Path(private)))
    return demo.report()


@dataclass(slots=True)
class _Demo:
    """One run: what goes in, and what came out."""

    out: Path
    course: Course
    is_sabotaged: bool
    interruption: Interruption
    console: Console = field(default_factory=Console)
    story: Story = field(default_factory=Story)
    failure: EdgeError | None = None
    account: dict[str, Any] | None = None
    emitted: int = 0
    was_live: bool = False

    @property
    def source(self) -> Path:
        """What is recorded."""
        return self.out / "source.wav"

    async def go(self, private: Path) -> None:
        """All of it but the report."""
        withheld = self._prepare_source()
        settings = Settings(
            self.out.resolve(),
            private,
            self.source.resolve(),
            self.course.grace_s,
            self.course.first_delay_s,
            withheld if self.is_sabotaged else None,
        )
        screen = Screen(self.console, self.story, self.course.total_s)
        self.was_live = screen.is_live
        with StateDirectory(private / "state") as state:
            async with Stage(settings, state, self.story) as stage:
                following = asyncio.create_task(screen.follow(stage), name="screen")
                # A task of its own: an interruption ends the play, never the clean-up behind it.
                playing = asyncio.create_task(play(stage, self.course), name="play")
                self.interruption.ends(playing)
                await asyncio.wait([playing])
                following.cancel()
                await asyncio.wait([following])
                if not playing.cancelled():
                    try:
                        playing.result()
                    except EdgeError as error:
                        self.failure = error
            self.emitted = stage.emitted
            self.account = stage.recording.account() if stage.recording else None

    def _prepare_source(self) -> int:
        """Write the source; returns the number of a packet that only noise is in."""
        spoken = demo_source.speech()
        if not spoken:
            self.console.print(_NO_SPEECH, highlight=False, soft_wrap=True)
            spoken = demo_source.tone(self.course.speech_s)
        spoken = spoken[: int(self.course.speech_s * demo_source.RATE_HZ) * demo_source.FRAME_BYTES]
        demo_source.write(self.source, spoken, self.course.source_s)
        spoken_s = len(spoken) / demo_source.FRAME_BYTES / demo_source.RATE_HZ
        return int((spoken_s + _SABOTAGE_AFTER_S) * _PACKETS_A_SECOND)

    # --- afterwards --------------------------------------------------------------------------------------------------

    def report(self) -> int:
        """Audit, account, picture and files; returns the exit code."""
        verdict = self._judge()
        if self.was_live:  # the screen is gone, and with it the events
            for event in self.story.events:
                self.console.print(str(event), markup=False, highlight=False, soft_wrap=True)
        if self.account is not None:
            self.console.print(_table(self.account))
        self._leave(verdict)
        style, word = ("bold green", "WHOLE") if verdict.is_whole else ("bold red", "FAILED")
        self.console.print(f"[{style}]{word}[/]", end=": ")
        self.console.print(verdict.line, markup=False, highlight=False, soft_wrap=True)
        return ExitCode.WHOLE if verdict.is_whole else ExitCode.INTERNAL

    def _judge(self) -> Verdict:
        if self.failure is not None:
            return Verdict(False, str(self.failure))
        found = list((self.out / "received").glob("*/audio.wav"))
        if len(found) != 1:
            return Verdict(False, f"{len(found)} recordings were received instead of one")
        shutil.copyfile(found[0], self.out / "received.wav")
        receiver = None
        with contextlib.suppress(OSError, ValueError):
            receiver = json.loads(found[0].with_name("account.json").read_bytes())
        return audit(self.source, self.emitted, found[0], self.account, receiver)

    def _leave(self, verdict: Verdict) -> None:
        """Events and picture as files, and where everything is."""
        events = "".join(f"{event}\n" for event in self.story.events)
        (self.out / "events.txt").write_text(events, encoding="utf-8")
        captured = self.story.samples[-1].captured if self.story.samples else 0.0
        title = (
            f"edge demo: {captured:.1f} s recorded, {'nothing lost' if verdict.is_whole else 'and the audit FAILED'}"
        )
        draw(self.out / "timeline.png", self.story, title)
        for name, text in _FILES.items():
            if (self.out / name).exists():
                self.console.print(f"{self.out / name}", f"({text})", markup=False, highlight=False, soft_wrap=True)


_FILES = {
    "timeline.png": "captured and delivered over time",
    "received.wav": "what the receiver got: listen to it",
    "source.wav": "what was recorded, and more of it",
    "received": "the receiver's folder, with its account",
}


def _table(account: dict[str, Any]) -> Table:
    """The recorder's account."""
    table = Table(title="the recorder's account", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(justify="right")
    rate = account["rate"]
    lost = sum(account["lost"].values())
    rows = (
        ("expected by the clock", account["expected"]),
        ("delivered", account["delivered"]),
        ("pending", account["pending"]),
        ("lost", lost),
        ("resent after a cut", account["resent"]),
    )
    for name, frames in rows:
        table.add_row(name, f"{frames / rate:.3f} s", f"{frames} frames")
    table.add_row("sessions", str(len(account["sessions"])), " ".join(one[:8] for one in account["sessions"]))
    table.add_row("reconnects", str(account["reconnects"]), "")
    return table
