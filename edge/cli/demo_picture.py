"""A demo as a picture: what was captured and what was delivered, over time, with the outages."""

from __future__ import annotations

import logging
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from edge.cli.demo_story import Actor, Story

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CAPTURED, _DELIVERED, _MEMORY = "#1f4e79", "#2e8b57", "#e0912f"
_GONE, _THERE, _BUTTON = "#c0392b", "#bcd9c5", "#7b4fa0"
_SESSIONS = ("#c9d7e8", "#9fb8d4")
_BUTTONS, _SESSION, _RECEIVER, _LABELS = range(4)  # rows of the strip at the top
_NARROW_S = 4.5  # a session shorter than this has no room for its name


def draw(path: Path, story: Story, title: str) -> None:
    """Write it as PNG. Raises OSError."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # what it says of its caches helps nobody here
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    strip, curves, memory = figure.subplots(3, 1, sharex=True, height_ratios=[1.2, 3, 1])
    figure.suptitle(title, fontsize=13, fontweight="bold")
    begin = story.samples[0].at if story.samples else 0.0
    end = story.samples[-1].at if story.samples else 1.0
    _strip(strip, story, begin, end)
    _curves(curves, memory, story)
    memory.set_xlabel("time since the demo began (s)")
    memory.set_xlim(begin - 1, end + 1)
    for axes in (strip, curves, memory):
        axes.spines[["top", "right"]].set_visible(False)
        if axes is not strip:
            axes.grid(alpha=0.3)
            for outage in story.outages:
                axes.axvspan(outage.start, outage.end or end, color=_GONE, alpha=0.1, linewidth=0)
    figure.savefig(path)


def _curves(curves: Axes, memory: Axes, story: Story) -> None:
    at = [sample.at for sample in story.samples]
    captured = [sample.captured for sample in story.samples]
    delivered = [sample.delivered for sample in story.samples]
    waiting = [sample.captured - sample.delivered for sample in story.samples]
    curves.fill_between(at, delivered, captured, color=_MEMORY, alpha=0.35, linewidth=0, label="waiting in memory")
    curves.plot(at, captured, color=_CAPTURED, linewidth=2, label="captured")
    curves.plot(at, delivered, color=_DELIVERED, linewidth=2, label="delivered: durably stored by the receiver")
    curves.set_ylabel("audio (s)")
    curves.set_ylim(0, max([*captured, 1.0]) * 1.05)
    curves.legend(loc="upper left", framealpha=0.95)
    memory.fill_between(at, 0, waiting, color=_MEMORY, alpha=0.6, linewidth=0)
    memory.plot(at, waiting, color=_MEMORY, linewidth=1.5)
    memory.set_ylabel("waiting in\nmemory (s)")
    memory.set_ylim(0, max([*waiting, 1.0]) * 1.15)


def _strip(axes: Axes, story: Story, begin: float, end: float) -> None:
    """Outages, sessions and buttons, one above the other."""
    axes.set_ylim(0, 4.6)
    axes.set_yticks([_BUTTONS + 0.5, _SESSION + 0.5, _RECEIVER + 0.5], labels=["button", "session", "receiver"])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.broken_barh([(begin, end - begin)], (_RECEIVER + 0.15, 0.7), color=_THERE)
    for outage in story.outages:
        length = (outage.end or end) - outage.start
        axes.broken_barh([(outage.start, length)], (_RECEIVER + 0.15, 0.7), color=_GONE)
        text = f"{outage.label}\n{length:.0f} s"
        axes.text(outage.start + length / 2, _LABELS + 0.1, text, ha="center", va="bottom", color=_GONE, fontsize=9)
    spans = [(name, list(group)) for name, group in groupby(story.samples, lambda sample: sample.session) if name]
    for number, (name, group) in enumerate(spans):
        start, length = group[0].at, group[-1].at - group[0].at
        axes.broken_barh([(start, length)], (_SESSION + 0.15, 0.7), color=_SESSIONS[number % 2])
        if length > _NARROW_S:
            axes.text(start + 0.3, _SESSION + 0.5, f"{number + 1}: {name}", va="center", fontsize=9)
    for event in story.events:
        if event.actor is Actor.BUTTON:
            axes.plot(event.at, _BUTTONS + 0.5, marker="v", color=_BUTTON, markersize=7)
            name = event.text.partition(" ")[0]
            # Towards the middle: at the edges there is no room.
            is_early = event.at < (begin + end) / 2
            side, shift = ("left", 0.5) if is_early else ("right", -0.5)
            axes.text(event.at + shift, _BUTTONS + 0.5, name, ha=side, va="center", color=_BUTTON, fontsize=9)
