"""The fork matrix: forks at every critical moment, of every kind of function.

    python -m tests.fork_matrix --forks 50

Each cell is a separate process that forks this many times (see `fork_cell`).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

from tests.exit_matrix import COMMAND, PATHS_OF_MODULES, ROOT
from tests.limits import LIMIT

MOMENTS = (
    "idle", "lingering", "mid-batch", "blocked", "lock", "closing", "starting", "batch",
    "callback", "loop",
)  # fmt: skip
KINDS = ("def", "async def", "method")
ALL = list(product(MOMENTS, KINDS))
# For every interpreter: each moment once, each kind at several moments.
SOME = [
    cell
    for place, cell in enumerate(ALL)
    if place % 4 == 1 or cell[0] == "starting" or cell == ("loop", "async def")
]


def run(moment: str, kind: str, forks: int) -> tuple[str, str]:
    """Run a cell with this many forks; return its name and what was wrong."""
    with tempfile.TemporaryDirectory(prefix="fork-") as where:
        env = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join(PATHS_OF_MODULES),
            "FORK_CELL": f"{moment}|{kind}|{forks}",
        }
        try:
            process = subprocess.run(
                [*COMMAND, str(ROOT / "tests" / "fork_cell.py")],
                cwd=where, env=env, capture_output=True, text=True, timeout=LIMIT,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            return f"{moment}-{kind}", f"it hung; {late.stderr!r}"
        is_well = process.stdout == "well\n" and not process.stderr and not process.returncode
        return f"{moment}-{kind}", "" if is_well else f"{process.returncode}: {process.stderr}"


def run_all(
    cells: Iterable[tuple[str, str]], forks: int, jobs: int = 2
) -> Iterator[tuple[str, str]]:
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, *cell, forks) for cell in cells]
        for future in futures:
            yield future.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--forks", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only cells whose name contains this")
    given = parser.parse_args()
    cells = [cell for cell in ALL if given.only in "-".join(cell)]
    began, faults = time.monotonic(), 0
    for cell, fault in run_all(cells, given.forks, given.jobs):
        if fault:
            faults += 1
            print(f"{cell}: {fault}", flush=True)
    print(
        f"{len(cells)} cells x {given.forks} forks on {sys.version.split()[0]}: "
        f"{len(cells) * given.forks} forks, {faults} faults, {time.monotonic() - began:.0f} s"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
