"""The benchmark of callers that wait runs; its figures are on the page on when not to batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.limits import LIMIT

ROOT = Path(__file__).parents[2]


def test_the_benchmark_prints_a_row_for_each_setting() -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.waiting",
            "--callers", "4", "--seconds", "0.01", "--repetitions", "1",
            "--kind", "threads, def", "tasks, def", "tasks, async def",
        ],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert sum(line.startswith("### ") for line in lines) == 3 * 2 * 2
    for setting in ("linger=0", "size=4, linger=0.025", "size=64, linger=0.025"):
        assert sum(line.startswith(f"| `{setting}` |") for line in lines) == 3 * 2 * 2
