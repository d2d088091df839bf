"""Draw the results: bars for scenarios, and lines for `growth`.

    python -m benchmarks --json results.json
    python -m benchmarks.chart results.json docs/speed-threads.svg --scenario S2 S3 S4
    python -m benchmarks.chart results.json docs/speed-asyncio.svg --scenario S1 S3a S4a

As in `demo_chart`, the drawings are narrow cards with large text that follow the reader's colour
scheme. They are also read on phones. Bars are linear and begin at 0.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from xml.sax.saxutils import escape

from .adapters.base import ASYNCIO, BRIDGED, THREADS
from .demo_chart import LEFT, RIGHT, STYLE, WIDTH
from .report import UNITS, Runs, digits, is_ours
from .scenarios import SCENARIOS

# The headings of scenarios; a scenario without one is shown by its name.
WORDS = {
    "S1": "asyncio.gather of all calls",
    "S2": "8 threads submit, then collect",
    "S3": "32 threads, each waits for its result",
    "S3a": "64 coroutines, each awaits its result",
    "S4": "1 thread, one call after the other",
    "S4a": "1 coroutine, one call after the other",
}
MODES = {THREADS: "in threads", ASYNCIO: "on an event loop", BRIDGED: "from a loop to threads"}
AXES = {
    "items": "number of items",
    "threads": "number of threads",
    "tasks": "number of tasks",
    "keys": "number of keys",
    "size": "maximum batch size",
}

FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
BARS, VALUES = 204, RIGHT - 46  # where bars begin, and where the longest one ends
ROW, GROUP, HEAD, PANEL = 20, 36, 56, 118  # heights: of a bar, a heading, the title, a plot

OWN_STYLE = """
    .small { font-size: 13px } .title { font-size: 16px } .group { font-size: 14px }
    .label { font-size: 13px } .ours { font-weight: 600 }
    .floor { fill: #c3c9d2 } .plot { fill: none; stroke: #1f6feb; stroke-width: 2 }
    @media (prefers-color-scheme: dark) {
      .floor { fill: #4a525f } .plot { stroke: #62a8ff }
    }
"""


def draw(found: Mapping[str, Runs], path: Path) -> None:
    """Draw the scenarios of a run into an SVG file."""
    panels = {name: {row: runs.value(row) for row in runs.samples} for name, runs in found.items()}
    path.write_text(bars(panels), encoding="utf-8")


def read(path: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the median of each row of these scenarios, from the JSON of a run."""
    samples: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for sample in json.loads(path.read_text("utf-8"))["samples"]:
        if (rows := samples.get(sample["scenario"])) is not None:
            rows.setdefault(sample["rival"], []).append(sample["value"])
    return {
        name: {row: median(values) for row, values in rows.items()}
        for name, rows in samples.items()
        if rows
    }


def bars(panels: Mapping[str, Mapping[str, float]]) -> str:
    """Return a chart with one bar per row, the smallest first, as an SVG document."""
    chosen = [SCENARIOS[name] for name in panels]
    units = " or ".join(dict.fromkeys(UNITS[one.unit][-1] for one in chosen))
    modes = " and ".join(dict.fromkeys(MODES[one.mode] for one in chosen))
    out: list[str] = []
    facts: list[str] = []
    y = HEAD
    for name, values in panels.items():
        heading = escape(WORDS.get(name, name))
        out.append(f'  <text class="group" x="{LEFT}" y="{y + 24}">{heading}</text>')
        y += GROUP
        for row, value in sorted(values.items(), key=lambda one: one[1]):
            width = max(1.0, value / max(values.values()) * (VALUES - BARS))
            colour = "gained" if is_ours(row) else "floor" if row.startswith("floor") else "call"
            ours = " ours" if row == "batchify" else ""
            out += [
                f'  <text class="label{ours}" x="{LEFT}" y="{y + 13}">{escape(row)}</text>',
                f'  <rect class="{colour}" x="{BARS}" y="{y + 3}" width="{width:.1f}" '
                'height="11" rx="2"/>',
                f'  <text class="label value{ours}" x="{RIGHT}" y="{y + 13}">'
                f"{digits(value)}</text>",
            ]
            facts.append(f"{WORDS.get(name, name)}, {row}: {digits(value)}")
            y += ROW
    return card(f"{units}, {modes}", "median; less is better", out, facts, y + 14, 360)


def draw_growth(found: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Draw the cost of an item, by axis, into an SVG file."""
    out: list[str] = []
    facts: list[str] = []
    y = HEAD
    for axis, points in found.items():
        words = AXES[axis]
        top, bottom = y + 54, y + PANEL - 20
        out.append(f'  <text class="group" x="{LEFT}" y="{y + 24}">{words}</text>')
        low, high = math.log10(min(points)), math.log10(max(points))
        places = []
        for at, value in points.items():
            share = (math.log10(at) - low) / ((high - low) or 1)
            x = LEFT + 18 + share * (RIGHT - LEFT - 36)
            places.append((x, bottom - value / max(points.values()) * (bottom - top), at, value))
        line = " ".join(f"{x:.1f},{h:.1f}" for x, h, *_ in places)
        out += [
            f'  <line class="tick" x1="{LEFT}" x2="{RIGHT}" y1="{bottom}" y2="{bottom}"/>',
            f'  <polyline class="plot" points="{line}"/>',
        ]
        for x, h, at, value in places:
            out += [
                f'  <circle class="gained" cx="{x:.1f}" cy="{h:.1f}" r="3.5"/>',
                f'  <text class="label" text-anchor="middle" x="{x:.1f}" y="{h - 8:.1f}">'
                f"{digits(value)}</text>",
                f'  <text class="small" text-anchor="middle" x="{x:.1f}" y="{bottom + 16}">'
                f"{short(at)}</text>",
            ]
            facts.append(f"{words} {at}: {digits(value)}")
        y += PANEL
    text = card("µs/item", "median; every plot begins at 0", out, facts, y + 14, 440)
    path.write_text(text, encoding="utf-8")


def short(number: int) -> str:
    """Return a round number in a few characters: 10 000 as `10k`."""
    for unit, letter in ((1_000_000, "M"), (1000, "k")):
        if number >= unit:
            return f"{number / unit:g}{letter}"
    return str(number)


def card(title: str, note: str, drawn: list[str], facts: list[str], height: int, width: int) -> str:
    """Return a drawing as an SVG document that pages show `width` pixels wide."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
            f'     width="{width}" height="{height * width / WIDTH:.0f}" role="img"',
            '     aria-labelledby="title desc"',
            f'     font-family="{FONTS}">',
            f'  <title id="title">{escape(title)}</title>',
            f'  <desc id="desc">{escape("; ".join(facts))}</desc>',
            f"  <style>{STYLE}{OWN_STYLE}  </style>",
            f'  <rect class="card" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="12"/>',
            f'  <text class="title" x="{LEFT}" y="28">{escape(title)}</text>',
            f'  <text class="small" x="{LEFT}" y="48">{escape(note)}</text>',
            *drawn,
            "</svg>",
            "",
        ]
    )


def main() -> None:
    """Draw scenarios from the JSON file of a run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("json", type=Path, help="what `python -m benchmarks --json` wrote")
    parser.add_argument("svg", type=Path, help="the SVG file to write")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS),
                        metavar="S", help="the scenarios to draw (default: all)")  # fmt: skip
    given = parser.parse_args()
    panels = read(given.json, given.scenario)
    if not panels:
        parser.error(f"{given.json} has none of the scenarios {', '.join(given.scenario)}")
    given.svg.write_text(bars(panels), encoding="utf-8")


if __name__ == "__main__":
    main()
