"""The bench as one picture: a row per scenario, a dot per run, on a scale of time from milliseconds to minutes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

from tests.bench.network.measure import Figures
from tests.bench.network.rows import Row

_COLORS = {"floor": "#9aa0a6", "recorder": "#1a6fb5", "timer only": "#e08a2e"}
_LABELS = {
    "floor": "floor: a bare client in a tight loop",
    "recorder": "recorder",
    "timer only": "recorder, link watch off",
}
_LANES = {"floor": 0.27, "recorder": 0.0, "timer only": -0.27}
_TICKS = {0.001: "1 ms", 0.01: "10 ms", 0.1: "100 ms", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min"}
_WANTED = "#c0392b"


def draw(rows: Sequence[Row], results: Mapping[str, Mapping[str, Figures]], path: Path) -> None:
    """Write it as PNG."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.lines import Line2D

    dice = random.Random(0)
    figure, axes = plt.subplots(figsize=(11.5, 1.8 + 0.72 * len(rows)), dpi=130)
    for number, row in enumerate(rows):
        y = -float(number)
        if number % 2:
            axes.axhspan(y - 0.5, y + 0.5, color="#f4f5f7", zorder=0)
        figures = results[row.key]
        for who, one in figures.items():
            if not one.seconds:
                continue
            lane = y + _LANES[who]
            heights = [lane + dice.uniform(-0.07, 0.07) for _ in one.seconds]
            axes.scatter(one.seconds, heights, s=16, color=_COLORS[who], alpha=0.6, linewidths=0, zorder=3)
            axes.plot([one.median] * 2, [lane - 0.12, lane + 0.12], color=_COLORS[who], linewidth=2.2, zorder=4)
        if row.wanted is not None and figures["recorder"].seconds:
            floor = figures.get("floor")
            limit = row.wanted.limit(floor.median if floor is not None and floor.seconds else None)
            is_met = figures["recorder"].p95 <= limit and not figures["recorder"].problems
            axes.plot([limit] * 2, [y - 0.42, y + 0.42], color=_WANTED, linewidth=1.6, linestyle=(0, (4, 2)), zorder=2)
            said = f"p95 {_text(figures['recorder'].p95)} {'✓' if is_met else '✗'}"
        else:
            said = f"p95 {_text(figures['recorder'].p95)}" if figures["recorder"].seconds else "not measured"
        axes.text(1.01, y, said, transform=axes.get_yaxis_transform(), va="center", fontsize=9.5, color="#333")
    axes.set_xscale("log")
    axes.set_xlim(0.001, 90)
    axes.set_xticks(list(_TICKS), list(_TICKS.values()))
    axes.minorticks_off()
    axes.grid(axis="x", color="#dfe2e6", linewidth=0.8, zorder=1)
    axes.set_ylim(-len(rows) + 0.45, 0.55)
    labels = [f"{row.title}\n{_wanted(row)}" for row in rows]
    axes.set_yticks([-float(number) for number in range(len(rows))], labels, fontsize=9.5)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    shown = [who for who in _LABELS if any(who in figures for figures in results.values())]
    handles = [Line2D([], [], color=_COLORS[who], marker="o", linewidth=0, label=_LABELS[who]) for who in shown]
    handles.append(Line2D([], [], color=_WANTED, linestyle=(0, (4, 2)), label="wanted (p95 of the recorder)"))
    axes.set_title("From the kernel's event to audio handled again", loc="left", fontsize=14, pad=34, weight="bold")
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize=9.5,
                handletextpad=0.4, columnspacing=1.6, borderaxespad=0.3)  # fmt: skip
    note = "a dot is a run, a bar the median; up to 100 ms of the recorder's figures are the wait for its next packet"
    axes.set_xlabel(note, fontsize=9, color="#555")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _wanted(row: Row) -> str:
    return f"wanted: {row.wanted}".replace("<=", "≤") if row.wanted else "reported"


def _text(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


_GOOD, _FAIR, _BAD = "#d8f0dd", "#fdf0cf", "#f8d4d0"
_SOON_S = 1.0
Fates = Mapping[str, Mapping[str, Mapping[str, float | None]]]


def draw_peers(fates: Fates, window_s: float, path: Path) -> None:
    """Who was away for how long, and what is missing: `fates[scenario][client]` has away_s and missing_s."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    scenarios = list(fates)
    clients = list(next(iter(fates.values())))
    clients.sort(key=lambda name: name != "edge recorder")
    figure, axes = plt.subplots(figsize=(2.6 + 1.75 * len(scenarios), 1.5 + 0.72 * len(clients)), dpi=130)
    for column, scenario in enumerate(scenarios):
        for line, client in enumerate(clients):
            away_s, missing_s = fates[scenario][client]["away_s"], fates[scenario][client]["missing_s"] or 0.0
            is_back = away_s is not None
            color = _BAD if not is_back or missing_s > 0.05 else _GOOD if (away_s or 0.0) <= _SOON_S else _FAIR
            axes.add_patch(Rectangle((column + 0.03, -line + 0.05), 0.94, 0.9, color=color, linewidth=0))
            away = f"back after {_text(away_s or 0.0)}" if is_back else f"away > {window_s:.0f} s"
            axes.text(column + 0.5, -line + 0.64, away, ha="center", va="center", fontsize=9.5, weight="bold")
            missing = "nothing missing" if missing_s <= 0.05 else f"{missing_s:.1f} s missing"
            axes.text(column + 0.5, -line + 0.32, missing, ha="center", va="center", fontsize=9, color="#444")
    axes.set_xlim(0, len(scenarios))
    axes.set_ylim(1.0 - len(clients), 1.0)
    axes.set_xticks([column + 0.5 for column in range(len(scenarios))], scenarios, fontsize=9.5)
    axes.set_yticks([-line + 0.5 for line in range(len(clients))], clients, fontsize=10)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("The clients of today, side by side in one network", loc="left", fontsize=13, pad=14, weight="bold")
    axes.set_xlabel(f"from the event to the first audio that arrived; missing: {window_s:.0f} s after it", fontsize=9,
                    color="#555")  # fmt: skip
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
