"""Measure the throughput by number of calling threads, with and without the GIL.

    python -m benchmarks.free_threaded                        # with this interpreter
    python -m benchmarks.free_threaded .venv/bin/python .venv-3.13t/bin/python

Each interpreter needs `wrapt`. In a repetition all interpreters run in turn. Four workers run a
function that computes for about 5 µs per item, so that the threads have work to do in parallel. The
table shows items per second, and the ratio to one caller.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from .adapters.base import THREADS
from .adapters.batchify import Batchify
from .adapters.hand_written_threads import HandWrittenThreads
from .functions import open_gate
from .scenarios import Run, flood

CALLERS = (1, 2, 4, 8)
ITEMS = 40_000
RIVALS = (Batchify, HandWrittenThreads)


def work(items: list[int]) -> list[int]:
    """Compute for some microseconds per item, in Python."""
    for item in items:
        x = item
        for _ in range(50):
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
    return items


def measure() -> dict[str, Any]:
    """Return the items per second of each rival, by number of callers."""
    found: dict[str, Any] = {
        "version": platform.python_version(),
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }
    for rival in RIVALS:
        rates = found[rival.name] = []
        for callers in CALLERS:
            batcher = rival(work, 64, 0.001, 4)
            for outcome in [batcher.submit(n) for n in range(-256, 0)]:
                outcome.result()
            each = ITEMS // callers
            parts = [range(n * each, (n + 1) * each) for n in range(callers)]
            rates.append(each * callers / flood(Run(batcher, parts, open_gate(THREADS))).wall)
            batcher.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.free_threaded",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("python", nargs="*", default=[sys.executable], help="the interpreters")
    parser.add_argument("--repetitions", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure()))
        return 0
    samples: dict[str, list[dict[str, Any]]] = {python: [] for python in given.python}
    for _ in range(given.repetitions):
        for python, own in samples.items():
            done = subprocess.run(
                [python, "-m", "benchmarks.free_threaded", "--measure"],
                # Otherwise an extension without support for it would switch the GIL on.
                env={**os.environ, "PYTHON_GIL": "0"} if is_free_threaded(python) else None,
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            own.append(json.loads(done.stdout))
    print(f"| interpreter | engine | {' | '.join(f'{n} callers' for n in CALLERS)} |")
    print(f"|---|---|{'--:|' * len(CALLERS)}")
    for own in samples.values():
        build = f"{own[0]['version']}, {'GIL' if own[0]['gil'] else 'no GIL'}"
        for rival in RIVALS:
            rates = [median(run[rival.name][at] for run in own) for at in range(len(CALLERS))]
            cells = [f"{rate:,.0f}/s ({rate / rates[0]:.2f}x)" for rate in rates]
            print(f"| {build} | {rival.name} | {' | '.join(cells)} |")
    if given.json:
        given.json.write_text(json.dumps(list(samples.values()), indent=1) + "\n")
    return 0


def is_free_threaded(python: str) -> bool:
    """Return True if the interpreter was built without the GIL."""
    code = "import sysconfig; print(sysconfig.get_config_var('Py_GIL_DISABLED') or 0)"
    done = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip() == "1"


if __name__ == "__main__":
    sys.exit(main())
