"""Draw what `python -m batchify demo` measured: rows per second, one call per row and batched.

    python -m batchify demo | python -m benchmarks.demo_chart docs/demo.svg
    for n in 1 2 3 4 5 6 7 8 9; do python -m batchify demo --seconds 20; done |
        python -m benchmarks.demo_chart docs/demo.svg

The input may be the output of several runs. A busy disk changes the rates much from run to run, so
the gains are then medians of the gains within each run, and the rates are these gains times the
median rate of the first row.

The chart is read on phones and in dark mode, so it is written by hand: a narrow drawing with large
text, on a card of its own that follows the reader's colour scheme. The scale is logarithmic. Every
bar begins at the rate of the first row, which is the reference of all gains, so a bar to the left
is a loss.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT = 400, 16, 384  # of the drawing; pages show it at about this width or larger
ROW, GROUP, HEAD = 48, 30, 66  # heights: of a row, of the heading of a group, of the title
NOISE = 0.05  # a gain or loss that is smaller is noise of the disk
NOTE = "python -m batchify demo; x: relative to the first row"
HEADINGS = {"per call": "One call per row", "batched": "Batched"}
LINE = re.compile(
    r"^ *(?P<kind>\S.*?) {2,}(?P<callers>\S.*?) +(?P<rows>[\d,]+) +(?P<rate>[\d,]+) +[\d.,]+x "
)

STYLE = """
    .card { fill: #fbfbfd; stroke: #d5d8e0 }
    text { fill: #1d2430; font-size: 15px; paint-order: stroke; stroke: #fbfbfd; stroke-width: 5px }
    .title { font-size: 17px; font-weight: 600 }
    .small { fill: #56606f; font-size: 13px }
    .group { font-weight: 600 }
    .value { text-anchor: end; font-variant-numeric: tabular-nums }
    .gain { font-weight: 600 }
    .line { stroke: #98a3b3; stroke-width: 1.5 }
    .tick { stroke: #d5d8e0 }
    .call { fill: #6b7685 } .gained { fill: #1f6feb } .lost { fill: #b04a10 }
    @media (prefers-color-scheme: dark) {
      .card { fill: #15181e; stroke: #383f4b }
      text { fill: #e8ecf2; stroke: #15181e }
      .small { fill: #a9b3c1 }
      .line { stroke: #6b7685 }
      .tick { stroke: #2b313b }
      .call { fill: #98a3b3 } .gained { fill: #62a8ff } .lost { fill: #f0914f }
    }
"""


class Row(NamedTuple):
    """One row of the chart.

    Attributes:
        kind: one call per row, or batched.
        callers: the callers, in words.
        rate: rows per second.
        gain: the rate relative to that of the first row.
    """

    kind: str
    callers: str
    rate: float
    gain: float


def read(text: str) -> list[Row]:
    """Return the rows of the chart, from the output of one run of the demo or of several."""
    runs: list[dict[tuple[str, str], float]] = []
    for line in text.splitlines():
        if match := LINE.match(f"{line} "):
            label = match["kind"], match["callers"]
            if not runs or label in runs[-1]:
                runs.append({})
            runs[-1][label] = float(match["rate"].replace(",", ""))
    if not runs:
        return []
    reference = next(iter(runs[0]))
    base = median(run[reference] for run in runs)
    rows = []
    for label in runs[0]:
        gain = float(f"{median(run[label] / run[reference] for run in runs):.4g}")
        rows.append(Row(*label, rate=round(base * gain), gain=gain))
    return rows


def draw(rows: list[Row]) -> str:
    """Return the chart as an SVG document."""
    reference = rows[0]
    low = math.log10(min(row.gain for row in rows) * reference.rate / 2)
    high = math.log10(max(row.gain for row in rows) * reference.rate * 1.2)

    def at(rate: float) -> float:
        return LEFT + (math.log10(rate) - low) / (high - low) * (RIGHT - LEFT)

    groups = len({row.kind for row in rows})
    bottom = HEAD + groups * GROUP + len(rows) * ROW
    height = bottom + 34
    description = "; ".join(
        f"{row.kind}, {row.callers}: {row.rate:,.0f}, {row.gain:g}x" for row in rows
    )
    zero = at(reference.rate)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        f'     width="{WIDTH * 1.15:.0f}" height="{height * 1.15:.0f}" role="img"',
        '     aria-labelledby="title desc"',
        "     font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\">",
        '  <title id="title">Inserts into SQLite, rows per second</title>',
        f'  <desc id="desc">{escape(description)}</desc>',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="card" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="12"/>',
        f'  <text class="title" x="{LEFT}" y="28">Inserts into SQLite, rows per second</text>',
        f'  <text class="small" x="{LEFT}" y="50">{NOTE}</text>',
    ]
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = at(10**power)
        out += [
            f'  <line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{HEAD}" y2="{bottom}"/>',
            f'  <text class="small" text-anchor="middle" x="{x:.1f}" y="{bottom + 20}">'
            f"{10**power:,}</text>",
        ]
    out.append(f'  <line class="line" x1="{zero:.1f}" x2="{zero:.1f}" y1="{HEAD}" y2="{bottom}"/>')
    y, group = HEAD, ""
    for row in rows:
        if row.kind != group:
            group = row.kind
            heading = escape(HEADINGS.get(group, group))
            out.append(f'  <text class="group" x="{LEFT}" y="{y + 22}">{heading}</text>')
            y += GROUP
        out += bar(row, reference, y, at(row.gain * reference.rate), zero)
        y += ROW
    return "\n".join([*out, "</svg>", ""])


def bar(row: Row, reference: Row, y: int, x: float, zero: float) -> list[str]:
    """Return the label and the bar of one row; the bar of the reference is a dot."""
    is_batched = row.kind != reference.kind
    is_loss = is_batched and row.gain < 1 - NOISE
    is_gain = is_batched and row.gain > 1 + NOISE
    colour = "gained" if is_gain else "lost" if is_loss else "call"
    gain = f"{row.gain:.2f}x" if row.gain < 10 else f"{row.gain:,.0f}x"
    label = row.callers
    if is_batched and not is_gain:
        label += ": a loss" if is_loss else ": no gain"
    left, width = min(x, zero), abs(x - zero)
    shape = (
        f'<circle class="{colour}" cx="{x:.1f}" cy="{y + 30}" r="6"/>'
        if width < 6
        else f'<rect class="{colour}" x="{left:.1f}" y="{y + 24}" width="{width:.1f}" '
        'height="12" rx="2"/>'
    )
    return [
        f'  <text x="{LEFT}" y="{y + 16}">{escape(label)}</text>',
        f'  <text class="value" x="{RIGHT - 66}" y="{y + 16}">{row.rate:,.0f}</text>',
        f'  <text class="value gain{" lost" if is_loss else ""}" x="{RIGHT}" y="{y + 16}">'
        f"{gain}</text>",
        f"  {shape}",
    ]


def main() -> int:
    """Read the demo's output from standard input, write the chart, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.demo_chart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("svg", type=Path, metavar="PATH", help="the SVG file to write")
    given = parser.parse_args()
    rows = read(sys.stdin.read())
    if not rows:
        parser.error("standard input has no table: pipe the output of `python -m batchify demo`")
    given.svg.write_text(draw(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
