"""Count the instructions that an item costs on one thread. The load of the machine does not matter.

    python -m benchmarks.instructions             # count, print the table, compare with the record
    python -m benchmarks.instructions --record    # write the record for this Python version
    python -m benchmarks.instructions --row loop  # count one path only

valgrind's callgrind runs each path with n and with 2n items. The difference, divided by n, is the
cost of one item without the cost of starting. It is divided by the instructions of a
`concurrent.futures.Future`, counted in the same job, so that the ratio depends as little as
possible on how the interpreter was built. The program exits with 1 if a ratio exceeds the recorded
one by more than 5 % (`instructions.json`, by Python version). It says so if there is no record.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from batchify import batched
from batchify.decorator import Batched
from batchify.engine.batch import Batch
from batchify.engine.seam import THREADS, Seam

from .adapters.hand_written_asyncio import HandWrittenAsyncio
from .functions import abare, bare

RECORD = Path(__file__).with_suffix(".json")
ALLOWED = 1.05
FUTURE = "future"


# ---- the paths ----


def future(count: int) -> None:
    """Create a `concurrent.futures.Future`, start it, set its result and get it."""
    for number in range(count):
        stock: Future[int] = Future()
        stock.set_running_or_notify_cancel()
        stock.set_result(number)
        stock.result()


class Stepped(Seam):
    """A seam without threads: `step` does the work of the workers, in the caller's thread."""

    clock, bell = staticmethod(THREADS.clock), staticmethod(THREADS.bell)

    def __init__(self) -> None:
        self.workers: list[Any] = []

    def spawn(self, target: Any, args: Any, name: str) -> Any:
        self.workers.append(args[-2:])
        return None

    def step(self) -> None:
        """Run all batches that are ready, as a worker does."""
        for weak, bell in self.workers:
            engine = weak()
            step = engine.next(bell)
            while isinstance(step, Batch):
                engine.execute(step)
                step = engine.next(bell)


def stepped() -> tuple[Any, Stepped]:
    """Return a batched function and its seam."""
    seam = Stepped()
    usual: Any = batched(bare, size=64, capacity=None)
    return Batched(bare, usual._options(), seam), seam


def threads(count: int, at_once: int = 64) -> None:
    """Submit `at_once` items to a `def`, run their batch as a worker does, and get the results."""
    call, seam = stepped()
    for start in range(0, count, at_once):
        futures = [call(item) for item in range(start, start + at_once)]
        seam.step()
        for future in futures:
            future.result(0)
    os._exit(0)  # the exit hook would wait for threads that do not exist


def threads_alone(count: int) -> None:
    """Do the same with one batch per item."""
    threads(count, 1)


def on_loop(run: Callable[[Any, int], Any], count: int, **options: Any) -> None:
    """Run a coroutine function with a batched `async def` and the number of items."""
    call = batched(abare, size=64, capacity=None, workers=2, **options)
    asyncio.run(run(call, count))


def loop(count: int) -> None:
    """Call an `async def` for all items in one `gather`."""

    async def run(call: Any, count: int) -> None:
        await asyncio.gather(*[call(item) for item in range(count)])

    on_loop(run, count, linger=0.001)


def loop_closed(count: int) -> None:
    """Call an `async def` from 64 coroutines, each with one call at a time."""

    async def run(call: Any, count: int) -> None:
        async def caller() -> None:
            for item in range(count // 64):
                await call(item)

        await asyncio.gather(*[caller() for _ in range(64)])

    on_loop(run, count, linger=0.0)


def loop_alone(count: int) -> None:
    """Call an `async def` from one coroutine, one call after the other."""

    async def run(call: Any, count: int) -> None:
        for item in range(count):
            await call(item)

    on_loop(run, count, linger=0.0)


def asyncio_queue(count: int) -> None:
    """Call the hand-written batcher for asyncio for all items in one `gather`."""

    async def run() -> None:
        rival = HandWrittenAsyncio(abare, 64, 0.001, 2)
        await asyncio.gather(*[rival.acall(item) for item in range(count)])
        await rival.aclose()

    asyncio.run(run())


ROWS: dict[str, tuple[Callable[[int], None], int]] = {  # with the number of items
    FUTURE: (future, 640),
    "asyncio queue": (asyncio_queue, 640),
    "threads": (threads, 640),
    "threads alone": (threads_alone, 150),
    "loop": (loop, 640),
    "loop closed": (loop_closed, 640),
    "loop alone": (loop_alone, 150),
}


# ---- counting ----


def counted_in_children(rows: list[str]) -> None:
    """Run each row with n and with 2n items, each in a forked child, and print which is which.

    With forks all of them begin with the same heap, and the interpreter starts only once, which
    takes longer than a row.
    """
    gc.disable()
    for row in rows:
        function, items = ROWS[row]
        for count in (items, 2 * items):
            child = os.fork()
            if child == 0:
                function(count)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            assert status == 0, row
            print(child, row, count, sep=",", flush=True)


def instructions_of(rows: list[str]) -> dict[str, float]:
    """Return the instructions per item, for each row."""
    with tempfile.TemporaryDirectory() as folder:
        # Avoid what differs between runs or between checkouts.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [
                "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/%p", "-q",
                sys.executable, "-m", "benchmarks.instructions", "--children", *rows,
            ],
            env=environment, check=True, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        totals: dict[str, list[tuple[int, int]]] = {}
        for line in done.stdout.splitlines():
            child, row, count = line.split(",")
            totals.setdefault(row, []).append((int(count), total(Path(folder) / child)))
    return {
        row: (more - less) / (most - least) for row, [(least, less), (most, more)] in totals.items()
    }


def total(out: Path) -> int:
    """Return the instructions of one process, from the file that callgrind wrote."""
    for line in out.read_text(errors="replace").splitlines():
        if line.startswith(("summary:", "totals:")):
            return int(line.split()[1])
    raise AssertionError(f"{out} has no total")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--row",
        nargs="+",
        choices=ROWS,
        default=list(ROWS),
        help="count these paths (default: all)",
    )
    parser.add_argument("--record", action="store_true", help="write the record for this Python")
    parser.add_argument("--children", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.children:
        counted_in_children(given.children)
        return 0
    if shutil.which("valgrind") is None:
        print("!!! valgrind is not installed; it is needed to count instructions", file=sys.stderr)
        return 2
    rows = [FUTURE, *(row for row in given.row if row != FUTURE)]
    counted = instructions_of(rows)
    version = ".".join(platform.python_version_tuple()[:2])
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    before: dict[str, float] = record.get(version, {})
    is_good = True
    print(f"| path | instructions/item | to `concurrent.futures.Future` ({version}) | record |")
    print("|---|--:|--:|--:|")
    ratios = {row: counted[row] / counted[FUTURE] for row in rows}
    for row in rows:
        was = before.get(row)
        is_met = was is None or given.record or ratios[row] <= was * ALLOWED
        is_good = is_good and is_met
        recorded = "-" if was is None else f"{was:.4f}x"
        print(
            f"| {row} | {counted[row]:,.0f} | {ratios[row]:.4f}x | {recorded}"
            f"{'' if is_met else ' **exceeded by more than 5 %**'} |"
        )
    if given.record:
        record[version] = {**before, **{row: round(ratio, 4) for row, ratio in ratios.items()}}
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    elif not before:
        print(f"no record for Python {version}: nothing to compare with", file=sys.stderr)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
