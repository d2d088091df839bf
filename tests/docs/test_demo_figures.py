"""The demo measures its scenarios in a fair order, and the chart shows what it prints."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest.importorskip("rich")

from batchify.cli import demo
from benchmarks.demo_chart import Row, draw, read
from tests.limits import LIMIT

ROOT = Path(__file__).parents[2]
TABLE = """
callers                  rows  rows/s  gain
per call  1 thread      1,000     100  1.0x      -
batched   1 caller        730   {rate}  {gain}    1.0
"""


def test_no_scenario_always_follows_the_same_one() -> None:
    turns = demo.turns_of(demo.shares(10.0, None))
    scenarios = [turn.scenario for turn in turns]
    each = len(demo.SCENARIOS)
    assert len(scenarios) == each * demo.ROUNDS
    for start in range(0, len(scenarios), each):
        assert set(scenarios[start : start + each]) == set(demo.SCENARIOS)
        assert {turn.number for turn in turns[start : start + each]} == {start // each}
    for scenario in demo.SCENARIOS:
        before = [
            scenarios[place - 1]
            for place in range(1, len(scenarios))
            if scenarios[place] is scenario
        ]
        assert len(set(before)) > 2


def texts(svg: str) -> list[str]:
    """Return all text in an SVG document."""
    return [
        "".join(one.itertext())
        for one in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def test_the_chart_has_every_row_that_the_demo_prints(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "batchify", "demo", "--rows", "12"],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    rows = read(done.stdout)
    assert len(rows) == 6
    assert len({row.kind for row in rows}) == 2
    subprocess.run(
        [sys.executable, "-m", "benchmarks.demo_chart", str(tmp_path / "demo.svg")],
        cwd=ROOT, check=True, input=done.stdout, text=True, timeout=LIMIT,
    )  # fmt: skip
    drawn = (tmp_path / "demo.svg").read_text("utf-8")
    for row in rows:
        assert any(text.startswith(row.callers) for text in texts(drawn))
        assert f"{row.rate:,.0f}" in texts(drawn)


def test_a_loss_is_named_and_drawn_to_the_left_of_the_reference() -> None:
    drawn = draw(read(TABLE.format(rate=73, gain="0.7x")))
    assert "1 caller: a loss" in texts(drawn)
    assert "0.73x" in texts(drawn)
    tree = ET.fromstring(drawn)
    [bar] = [one for one in tree.iter() if one.get("class") == "lost" and one.get("width")]
    [line] = [one for one in tree.iter() if one.get("class") == "line"]
    end = float(bar.attrib["x"]) + float(bar.attrib["width"])
    assert end == pytest.approx(float(line.attrib["x1"]), abs=0.2)


def test_a_gain_within_the_noise_is_none() -> None:
    assert "1 caller: no gain" in texts(draw(read(TABLE.format(rate=104, gain="1.0x"))))


def test_the_chart_of_several_runs_has_the_medians() -> None:
    output = "".join(
        TABLE.format(rate=f"{rate:,}", gain=f"{rate / 100:.1f}x") for rate in (80, 1500, 90)
    )
    assert read(output) == [
        Row("per call", "1 thread", 100, 1.0),
        Row("batched", "1 caller", 90, 0.9),
    ]


def test_output_without_a_table_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo_chart", str(tmp_path / "demo.svg")],
        cwd=ROOT, input="no table\n", text=True, capture_output=True, timeout=LIMIT,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pipe the output" in done.stderr
    assert not (tmp_path / "demo.svg").exists()


def test_the_chart_of_the_docs_is_drawn_by_this_program() -> None:
    """`docs/demo.svg` changes with the program, so redraw it if this fails."""
    kept = (ROOT / "docs" / "demo.svg").read_text("utf-8")
    description = ET.fromstring(kept).findtext("{http://www.w3.org/2000/svg}desc") or ""
    rows = []
    for one in description.split("; "):
        label, figures = one.rsplit(": ", 1)
        kind, callers = label.split(", ", 1)
        rate, gain = figures.removesuffix("x").split(", ")
        rows.append(Row(kind, callers, float(rate.replace(",", "")), float(gain)))
    assert draw(rows) == kept
