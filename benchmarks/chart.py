"""Draw the charts: one panel per scenario with one bar per row, and the plots of `growth`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from .report import UNITS, Runs, digits, rows
from .scenarios import SCENARIOS

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullFormatter

# Keep text as text, and make the file depend on nothing but the numbers.
mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "batchify", "font.size": 8})

OURS, FLOOR, OTHERS = "#1f6f8b", "#c9c9c9", "#e0a458"
COLUMNS = 3
BAR_HEIGHT = 0.19  # inches


def draw(found: dict[str, Runs], path: Path) -> None:
    """Draw the scenarios into an SVG file."""
    lines = -(-len(found) // COLUMNS)
    most = max(len(runs.samples) for runs in found.values())
    figure, panels = plt.subplots(
        lines, COLUMNS, figsize=(COLUMNS * 4.2, lines * (most * BAR_HEIGHT + 0.75)), squeeze=False
    )
    for panel in panels.flat[len(found) :]:
        panel.set_axis_off()
    for panel, (name, runs) in zip(panels.flat, found.items(), strict=False):
        scenario = SCENARIOS[name]
        bars = rows(scenario, runs)
        values = [row.value for row in bars]
        names = [row.rival for row in bars]
        colours = [
            OURS if row.is_ours else FLOOR if runs.is_floor(row.rival) else OTHERS for row in bars
        ]
        drawn = panel.barh(names, values, color=colours)
        panel.bar_label(drawn, [digits(value) for value in values], padding=2, fontsize=7)
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlim(min(values) / 2, max(values) * 3)
        panel.invert_yaxis()
        panel.set_ylim(most - 0.4, -0.6)
        panel.tick_params(axis="both", length=0, labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(
            f"{name}: {UNITS[scenario.unit][-1]}, less is better", fontsize=8, loc="left"
        )
    save(figure, path)


def draw_growth(found: dict[str, dict[int, float]], path: Path) -> None:
    """Draw the cost of an item, by axis, into an SVG file."""
    figure, panels = plt.subplots(1, len(found), figsize=(2.6 * len(found), 2.2), squeeze=False)
    for panel, (axis, points) in zip(panels.flat, found.items(), strict=True):
        panel.plot(list(points), list(points.values()), marker="o", color=OURS)
        panel.set_xscale("log")
        panel.set_ylim(0, max(points.values()) * 1.15)
        panel.set_title(f"µs/item by {axis}", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write the figure, without the date."""
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
