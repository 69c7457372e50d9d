"""What a demo shows while it runs: one screen of 80 by 24 on a terminal, plain event lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from edge.cli.demo_stage import RING_S, Stage
from edge.cli.demo_story import Actor, Event, Story
from edge.core.session import State
from edge.runtime.device import Status

_TICK_S = 0.125
_BAR = 24
_HOLD = 3  # of so many levels the loudest is shown; they are taken when there is something to measure
_LEVEL_FLOOR_DBFS = -60.0
_STYLES = {Actor.DEMO: "bold yellow", Actor.BUTTON: "bold magenta", Actor.RECORDER: "bold cyan"}


@dataclass(frozen=True, slots=True)
class _Glyphs:
    on: str = "●"
    off: str = "○"
    full: str = "█"
    empty: str = "░"


_ASCII = _Glyphs("*", "o", "#", ".")


class Screen:
    """Draws `stage` eight times a second, or prints the events of `story` as they come; either way it takes samples."""

    def __init__(self, console: Console, story: Story, total_s: float) -> None:
        self._console = console
        self._story = story
        self._total_s = total_s
        self._levels: deque[float] = deque(maxlen=_HOLD)
        self.is_live = sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal
        self._glyphs = _ASCII if console.options.ascii_only else _Glyphs()
        if not self.is_live:
            story.on_event = self._print

    def _print(self, event: Event) -> None:
        self._console.print(str(event), markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _live(self) -> Iterator[Live | None]:
        if not self.is_live:
            yield None
            return
        with Live(console=self._console, screen=True, auto_refresh=False, redirect_stderr=False) as live:
            yield live

    async def follow(self, stage: Stage) -> None:
        """Until cancelled, or until the terminal is gone (a hang-up): then nobody looks any more."""
        with contextlib.suppress(asyncio.CancelledError, OSError), self._live() as live:
            while True:
                status = stage.status()
                if live is not None:
                    live.update(self.draw(status, stage), refresh=True)
                await asyncio.sleep(_TICK_S)  # the rhythm of a display

    # --- the picture -------------------------------------------------------------------------------------------------

    def draw(self, status: Status, stage: Stage) -> RenderableType:
        """The whole screen."""
        layout = Layout()
        layout.split_column(
            Layout(self._head(), size=1),
            Layout(Panel(Text(self._story.now), title="now", title_align="left", border_style="yellow"), size=4),
            Layout(Panel(self._recorder(status, stage), title="the recorder", title_align="left"), size=9),
            Layout(self._events(), name="events"),
        )
        return layout

    def _head(self) -> RenderableType:
        clock = self._story.clock
        row = Table.grid(expand=True, padding=(0, 1))
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True)
        bar = ProgressBar(total=self._total_s, completed=min(clock, self._total_s))
        row.add_row(Text("edge demo", "bold"), bar, f"{clock:3.0f} of about {self._total_s:.0f} s  Ctrl-C ends it")
        return row

    def _recorder(self, status: Status, stage: Stage) -> RenderableType:
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="bold", min_width=8, no_wrap=True)
        rows.add_column(no_wrap=True)
        rows.add_row("panel", self._panel(stage))
        if status.ring_used:
            self._levels.append(status.level_dbfs)
        dbfs = max(self._levels, default=_LEVEL_FLOOR_DBFS)
        level = (dbfs - _LEVEL_FLOOR_DBFS) / -_LEVEL_FLOOR_DBFS if status.is_recording else 0.0
        loudness = f"{dbfs:4.0f} dBFS" if status.is_recording else ""
        rows.add_row("level", self._bar(level, "green") + Text(f"  {loudness}"))
        share = status.ring_used / status.ring_size
        rows.add_row("memory", self._bar(share, "yellow") + Text(f"  {status.ring_used:.1f} of {RING_S:.0f} s used"))
        rows.add_row("audio", self._audio(stage, status))
        rows.add_row("receiver", self._receiver())
        ids = stage.sessions
        rows.add_row("session", f"{ids[-1]}, number {len(ids)} of this recording" if ids else "none yet")
        state = status.state.value + (f" ({status.failure})" if status.failure else "")
        if status.state is not State.CONNECTED and self._story.attempt:
            state += f"; {self._story.attempt}"
        rows.add_row("state", Text(state, "green" if status.state is State.CONNECTED else "yellow"))
        return rows

    def _panel(self, stage: Stage) -> Text:
        text = Text()
        for name, is_lit, colour in zip(("REC", "SAFE"), stage.leds(), ("red", "green"), strict=True):
            glyph = self._glyphs.on if is_lit else self._glyphs.off
            text.append(f"{glyph} ", f"bold {colour}" if is_lit else "dim").append(f"{name:<4}  ")
        text.append("   ")
        for name in ("RECORD", "RETRY"):
            text.append(f"[{name}]", "bold reverse magenta" if stage.pressed == name else "dim").append("  ")
        return text

    def _audio(self, stage: Stage, status: Status) -> Text:
        recording = stage.recording
        if recording is None:
            return Text("nothing yet")
        ledger, seconds = recording.ledger, recording.audio.seconds
        lost = seconds(sum(ledger.lost.values()))
        captured, delivered = seconds(ledger.expected), seconds(ledger.delivered_frames)
        text = Text(f"captured {captured:.1f}   delivered {delivered:.1f}   ")
        text.append(f"unconfirmed {status.unhandled:.1f}", "bold yellow" if status.unhandled > 1 else "")
        return text.append("   ").append(f"lost {lost:.1f} s", "bold red" if lost else "")

    def _receiver(self) -> Text:
        if not self._story.is_cut:
            return Text("within reach", "green")
        outage = self._story.outages[-1]
        return Text(f"OUT OF REACH for {self._story.clock - outage.start:.0f} s: {outage.label}", "bold red")

    def _bar(self, share: float, colour: str) -> Text:
        full = max(0, min(_BAR, round(share * _BAR)))
        return Text(self._glyphs.full * full, colour).append(self._glyphs.empty * (_BAR - full), "dim")

    def _events(self) -> RenderableType:
        rows = Table.grid(padding=(0, 2))
        rows.add_column(no_wrap=True, style="dim", min_width=7)
        rows.add_column(no_wrap=True, min_width=8)
        rows.add_column(no_wrap=True, overflow="ellipsis")
        room = max(1, self._console.height - 1 - 4 - 9 - 2)
        for event in self._story.events[-room:]:
            rows.add_row(f"{event.at:5.1f} s", Text(event.actor, _STYLES[event.actor]), Text(event.text))
        return Panel(Group(rows), title="events", title_align="left")
