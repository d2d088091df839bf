"""The charts of the benchmarks show what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.chart import bars, draw_growth

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    """Return the texts of a drawing, in order."""
    return [one.text or "" for one in ET.fromstring(svg).iter(f"{SVG}text")]


def test_bars_are_sorted_and_in_proportion() -> None:
    svg = bars({"S4": {"batched": 80.0, "batchify": 20.0, "direct": 40.0}})
    assert texts(svg)[2:] == [
        "1 thread, one call after the other",
        *("batchify", "20", "direct", "40", "batched", "80"),
    ]
    drawn = list(ET.fromstring(svg).iter(f"{SVG}rect"))[1:]
    widths = [float(one.get("width", 0)) for one in drawn]
    assert widths == pytest.approx([widths[-1] / 4, widths[-1] / 2, widths[-1]], rel=0.01)
    assert [one.get("class") for one in drawn] == ["gained", "call", "call"]


def test_the_program_draws_medians_of_the_chosen_scenarios(tmp_path: Path) -> None:
    samples = [
        {"scenario": name, "rival": "batchify", "value": value}
        for name in ("S1", "S2")
        for value in (1.0, 9.0, 2.0)
    ]
    results, svg = tmp_path / "results.json", tmp_path / "chart.svg"
    results.write_text(json.dumps({"samples": samples}))
    command = [sys.executable, "-m", "benchmarks.chart", str(results), str(svg), "--scenario"]
    subprocess.run([*command, "S2"], cwd=ROOT, check=True, timeout=60)
    assert texts(svg.read_text("utf-8"))[2:] == ["8 threads submit, then collect", "batchify", "2"]
    failed = subprocess.run([*command, "S4"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert failed.returncode == 2
    assert "has none of the scenarios S4" in failed.stderr


def test_growth_shows_each_point(tmp_path: Path) -> None:
    draw_growth({"items": {1000: 0.5, 1_000_000: 1.0}, "size": {1: 2.0}}, tmp_path / "growth.svg")
    shown = texts((tmp_path / "growth.svg").read_text("utf-8"))
    assert shown[2:] == ["number of items", "0.5", "1k", "1", "1M", "maximum batch size", "2", "1"]
