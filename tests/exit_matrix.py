"""The exit matrix: every way to exit a process x every kind of function x every state of it.

    python -m tests.exit_matrix --repeats 20

Each cell is a separate process (see `exit_cell`), checked by the files in which it records its
items.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import wrapt

from tests.exit_cell import MANY, STATES
from tests.limits import LIMIT

ROOT = Path(__file__).parent.parent
# Exits that run cleanup, with the exit code and the error on stderr.
SERVED = {
    "return": (0, ""),
    "sys.exit": (3, ""),
    "error": (1, "ValueError: this is how it ends"),
    "SIGINT": (-2, "KeyboardInterrupt"),
    "handled SIGTERM": (4, ""),
    "asyncio.run": (0, ""),
    "os.fork": (0, ""),
    "fork": (0, ""),
    "forkserver": (0, ""),
    "spawn": (0, ""),
    "thread": (0, ""),
    "atexit": (0, ""),
}
# Exits without cleanup: the only promises are that the process ends and no item runs twice.
UNSERVED = {"os._exit": (6, ""), "SIGTERM": (-15, "")}
KINDS = ("def", "async def", "method", "two")
# How many child processes a path has; the forkserver counts too.
PROCESSES = {"os.fork": 2, "fork": 2, "spawn": 3, "forkserver": 4}

# Without the search for installed packages, which takes as long as everything else.
PATHS_OF_MODULES = [str(ROOT), str(Path(wrapt.__file__).parent.parent)]
# `-P`: else `tests/asyncio` would hide the standard library's.
COMMAND = [sys.executable, "-S", "-P", "-W", "ignore:This process:DeprecationWarning"]
COUNTED = re.compile(r"RuntimeWarning: (\w+): (\d+) items? ")
UNASKED = re.compile(r"^\w+: \d+ items? failed with Closed.* no caller asked for")


@dataclass(frozen=True)
class Cell:
    """One way to exit, in one state, with one kind of function."""

    path: str
    kind: str
    state: str

    def __str__(self) -> str:
        return f"{self.path}-{self.kind}-{self.state}"

    @property
    def at_least(self) -> int:
        """Return the minimum number of items that it accepts."""
        first = {"idle": 2, "lingering": MANY + 1, "mid-batch": MANY + 2, "full": 6, "hung": 4}
        late = {"thread": 4, "atexit": 6}.get(self.path, 0)
        return first[self.state] + (late if self.state != "hung" else 0)

    @property
    def may_fail_with(self) -> set[str]:
        """Return the errors with which its items may end."""
        ends = {"Closed"} if self.state == "hung" else set()
        is_cancelled = self.path == "asyncio.run" and self.kind in ("async def", "two")
        if is_cancelled and self.state in ("mid-batch", "full", "hung"):
            ends |= {
                "BatchAborted",
                "cancelled",
            }  # `asyncio.run` cancels them
        return ends


ALL = [Cell(*cell) for cell in product([*SERVED, *UNSERVED], KINDS, STATES)]
# For every interpreter: each path, kind and state, with several combinations.
SOME = [cell for place, cell in enumerate(ALL) if place % 7 == 4]


def run(cell: Cell, repeat: int = 0) -> End:
    """Run `cell` in a new directory."""
    with tempfile.TemporaryDirectory(prefix="exit-") as where:
        env = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONSAFEPATH": "1",  # else `tests/asyncio` would be found as `asyncio`
            "PYTHONPATH": os.pathsep.join(PATHS_OF_MODULES),
            "EXIT_CELL": f"{cell.path}|{cell.kind}|{cell.state}|{repeat}",
        }
        command = [*COMMAND, str(ROOT / "tests" / "exit_cell.py")]
        try:
            process = subprocess.run(
                command, cwd=where, env=env, capture_output=True, text=True, timeout=LIMIT
            )
            code, stderr = process.returncode, process.stderr
        except subprocess.TimeoutExpired as late:
            code, stderr = None, f"it hung; {late.stderr!r}"
        return End(cell, code, stderr, Path(where), time.monotonic())


class End:
    """The record of a cell, and how it ended."""

    def __init__(
        self, cell: Cell, code: int | None, stderr: str, where: Path, ended: float
    ) -> None:
        self.cell = cell
        self.code = code
        self.stderr = stderr
        self.files = {path.name: path.read_text() for path in where.iterdir()}
        left = self._lines("left")
        self.seconds = ended - float(left[-1]) if left else 0.0

    def _lines(self, file: str) -> list[str]:
        return self.files.get(file, "").splitlines()

    def faults(self) -> list[str]:
        """Return what is wrong with the cell; an empty list if all is well."""
        faults = [*self._faults_of_process()]
        if self.cell.path in SERVED:
            faults += self._faults_of_items()
        else:
            faults += self._faults_of_files()
        return [f"{self.cell}: {fault}" for fault in faults]

    def _faults_of_process(self) -> Iterator[str]:
        code, error = {**SERVED, **UNSERVED}[self.cell.path]
        if self.code != code:
            yield f"it ended with {self.code} instead of {code}: {self.stderr}"
        told = self.stderr
        if error:
            if told.count("Traceback") != 1 or f"\n{error}\n" not in told:
                yield f"stderr is not only its error: {told}"
            told = told[: told.find("Traceback")] + told.partition(f"\n{error}\n")[2]
        if self.cell.state == "hung":  # a warning is followed by its line of code
            lines = [line for line in told.splitlines() if not line.startswith("  ")]
            lines = [line for line in lines if not COUNTED.search(line)]
            told = "\n".join(line for line in lines if not UNASKED.search(line))
        if told:
            yield f"noise: {told}"

    def _faults_of_items(self) -> Iterator[str]:
        accepted = Counter(self._lines("accepted"))
        done = Counter(self._lines("done"))
        ends = dict(line.split() for line in self._lines("ends"))
        if accepted.total() < self.cell.at_least:
            yield f"only {accepted.total()} items were accepted; {self.files.get('refused')}"
        if twice := [item for item, count in done.items() if count > 1]:
            yield f"run twice: {twice}"
        if unknown := done - accepted:
            yield f"run but never accepted: {unknown}"
        for item in accepted:
            end = ends.get(item, "unknown")
            if end == "result" and not done[item]:
                yield f"{item} has a result but was not run"
            elif end != "result" and end not in self.cell.may_fail_with:
                yield f"{item} ended as {end}"
        dropped = sum(int(count) for _, count in COUNTED.findall(self.stderr))
        closed = list(ends.values()).count("Closed")
        # One of two functions may fail because the other was given up; that is not another loss.
        is_told = 0 < dropped <= closed if self.cell.kind == "two" else dropped == closed
        if not is_told if self.cell.state == "hung" else dropped or closed:
            yield f"{dropped} items were reported as dropped, {closed} ended in Closed"
        if not done["good"]:
            yield "the function that uses a pool, a resolver and a child process was not served"

    def _faults_of_files(self) -> Iterator[str]:
        accepted, done = set(self._lines("accepted")), Counter(self._lines("done"))
        if any(count > 1 for count in done.values()) or not set(done) <= accepted:
            yield f"run twice or never accepted: {done}"
        for file, text in self.files.items():
            if not text.endswith("\n"):
                yield f"{file} ends with an incomplete line"


def run_all(cells: Iterable[Cell], repeats: int = 1, jobs: int = 2) -> Iterator[End]:
    """Run all `cells`, `jobs` at a time."""
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, cell, n) for n in range(repeats) for cell in cells]
        for future in futures:
            yield future.result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only cells whose name contains this")
    given = parser.parse_args()
    cells = [cell for cell in ALL if given.only in str(cell)]
    began, count, processes, faults = time.monotonic(), 0, 0, 0
    seconds: dict[str, list[float]] = {}
    for end in run_all(cells, given.repeats, given.jobs):
        count += 1
        processes += PROCESSES.get(end.cell.path, 1)
        seconds.setdefault(end.cell.state, []).append(end.seconds)
        for fault in end.faults():
            faults += 1
            print(fault, flush=True)
    for state, took in seconds.items():
        took.sort()
        print(f"{state:10} took p50 {took[len(took) // 2]:.2f} s, max {took[-1]:.2f} s to end")
    print(
        f"{len(cells)} cells x {given.repeats} repeats on {sys.version.split()[0]}: {count} ends, "
        f"{processes} processes, {faults} faults, {time.monotonic() - began:.0f} s"
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
