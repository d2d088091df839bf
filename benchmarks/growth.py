"""Measure whether the cost of an item grows with the number of items, threads, tasks or keys.

    python -m benchmarks.growth                          # ten minutes; prints tables
    python -m benchmarks.growth --json g.json --svg docs/growth.svg
    python -m benchmarks.growth --axis keys tasks --most 1000

On each axis one quantity grows and all others stay the same. The table shows the cost of an item,
and its ratio to the lowest cost on the axis. If the cost does not grow, all ratios are near 1. (It
falls where batches grow: with `size`, and with `tasks` and `threads` until they fill a batch.) Each
point is the median of `--repetitions` runs. A repetition measures all points of an axis once, so
that a slow phase of the machine does not look like growth. More threads and more tasks also slow
down the interpreter itself, so the hand-written batchers are measured on these two axes too.

The program also checks idle functions: how often they wake up, and how many threads and how much
memory ten thousand of them take.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from batchify import batched

from .adapters.base import Rival
from .adapters.batchify import Batchify
from .adapters.hand_written_asyncio import HandWrittenAsyncio
from .adapters.hand_written_threads import HandWrittenThreads
from .chart import draw_growth
from .functions import abare, bare
from .harness import say
from .report import surroundings

LINGER = 0.0  # seconds; the default
ITEMS = 100_000  # items per point, unless the axis sets their number


def timed(run: Callable[[], Any], items: int) -> float:
    """Return the microseconds per item that `run` takes."""
    gc.collect()
    gc.freeze()
    try:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / items * 1e6
    finally:
        gc.unfreeze()


# ---- the axes: each function returns microseconds per item at one point ----


def items(count: int) -> float:
    """Measure with this many items, which one thread submits and collects; default capacity."""
    call = batched(bare, size=64, workers=2)
    call(0).result()

    def run() -> None:
        pending: list[Any] = []
        for item in range(count):
            pending.append(call(item))
            if len(pending) >= 5000:
                for future in pending:
                    future.result()
                pending.clear()
        for future in pending:
            future.result()

    try:
        return timed(run, count)
    finally:
        call.close()


def threads(count: int, kind: type[Rival] = Batchify) -> float:
    """Measure with this many threads, which submit all items and then wait."""
    rival = kind(bare, 64, LINGER, 2)
    each = ITEMS // count
    barrier = threading.Barrier(count + 1)

    def caller() -> None:
        barrier.wait()
        for future in [rival.submit(item) for item in range(each)]:
            future.result()

    callers = [threading.Thread(target=caller) for _ in range(count)]
    for one in callers:
        one.start()

    def run() -> None:
        barrier.wait()
        for one in callers:
            one.join()

    try:
        return timed(run, each * count)
    finally:
        rival.close()


def tasks(count: int, kind: type[Rival] = Batchify) -> float:
    """Measure with this many coroutines, each with one call at a time; `async def`, size 64."""
    each = max(5, ITEMS // count // 4)

    async def caller(rival: Rival, begin: asyncio.Event) -> None:
        await begin.wait()
        for item in range(each):
            await rival.acall(item)

    async def prepared() -> tuple[Rival, asyncio.Event, list[asyncio.Task[None]]]:
        rival, begin = kind(abare, 64, LINGER, 2), asyncio.Event()
        callers = [asyncio.create_task(caller(rival, begin)) for _ in range(count)]
        await asyncio.sleep(0)  # now each of them waits
        return rival, begin, callers

    async def all_called(begin: asyncio.Event, callers: list[asyncio.Task[None]]) -> None:
        begin.set()
        await asyncio.gather(*callers)

    with asyncio.Runner() as runner:
        rival, begin, callers = runner.run(prepared())
        seconds = timed(lambda: runner.run(all_called(begin, callers)), each * count)
        runner.run(rival.aclose())
        return seconds


def keys(count: int) -> float:
    """Measure with this many keys, in turn, with a batch of 8 items per key and round."""
    call = batched(bare, size=8, workers=2, capacity=None, key=lambda item: item % count)
    total = max(ITEMS, 8 * count)
    rounds = max(1, total // (8 * count))
    order = [key + count * n for _ in range(rounds) for key in range(count) for n in range(8)]

    def run() -> None:
        for start in range(0, len(order), 5000):
            for future in [call(item) for item in order[start : start + 5000]]:
                future.result()

    try:
        return timed(run, len(order))
    finally:
        call.close()


def size(count: int) -> float:
    """Measure with this maximum batch size; all batches are full."""
    call = batched(bare, size=count, workers=2, capacity=None)
    total = ITEMS // count * count

    def run() -> None:
        for future in [call(item) for item in range(total)]:
            future.result()

    try:
        return timed(run, total)
    finally:
        call.close()


AXES: dict[str, tuple[Callable[[int], float], list[int]]] = {
    "items": (items, [1_000, 10_000, 100_000, 1_000_000, 10_000_000]),
    "threads": (threads, [1, 4, 16, 64, 256]),
    "tasks": (tasks, [1, 10, 100, 1_000, 10_000]),
    "keys": (keys, [1, 10, 100, 1_000, 10_000, 100_000]),
    "size": (size, [1, 10, 100, 1_000, 10_000]),
}
BY_HAND: dict[str, Callable[[int], float]] = {
    "threads": partial(threads, kind=HandWrittenThreads),
    "tasks": partial(tasks, kind=HandWrittenAsyncio),
}


# ---- idle functions ----


def wake_ups(seconds: float = 1.0) -> int:
    """Return how often the threads of an idle function wake up within this time."""
    call = batched(bare, size=64, linger=0.001, workers=2)
    for future in [call(item) for item in range(1000)]:
        future.result()
    time.sleep(0.2)
    before = switches()
    time.sleep(seconds)
    found = switches() - before
    call.close()
    return found


def switches() -> int:
    """Return the voluntary context switches of all other threads of this process (Linux)."""
    own = threading.get_native_id()
    total = 0
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) == own:
            continue
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                total += int(line.split()[1])
    return total


def decorated(count: int = 10_000) -> tuple[int, float]:
    """Decorate this many functions, and return the threads they started and the bytes of each."""

    def new() -> Callable[[list[Any]], list[Any]]:
        def echo(items: list[Any]) -> list[Any]:
            return list(items)

        return echo

    plain = [new() for _ in range(count)]  # their memory is not counted
    gc.collect()
    threads_before = threading.active_count()
    tracemalloc.start()
    try:
        calls = [batched(function) for function in plain]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return threading.active_count() - threads_before, held / len(calls)


# ---- the report ----


def table(axis: str, points: dict[int, float], by_hand: dict[int, float]) -> str:
    """Return the costs on one axis as a Markdown table."""
    heads = [axis, "µs/item", "to the lowest"]
    if by_hand:
        heads += ["hand-written", "to its lowest"]
    lines = ["| " + " | ".join(heads) + " |", "|--:" * len(heads) + "|"]
    for at in points:
        cells = [f"{at:,}"]
        for values in (points, by_hand):
            if values:
                cells += [f"{values[at]:.3g}", f"{values[at] / min(values.values()):.2f}x"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def measured(
    axis: str, places: list[int], repetitions: int
) -> tuple[dict[int, float], dict[int, float]]:
    """Return the cost of an item at each point, of batchify and of the hand-written batcher.

    The second mapping is empty if the hand-written batcher is not measured on this axis.
    """
    measures = [AXES[axis][0], BY_HAND.get(axis)]
    samples: list[dict[int, list[float]]] = [{at: [] for at in places} for _ in measures]
    for _, at in itertools.product(range(repetitions), places):
        for measure, taken in zip(measures, samples, strict=True):
            if measure is not None:
                taken[at].append(measure(at))
                say(f"{axis} {at}: {taken[at][-1]:.3g}\n")
    ours, by_hand = ({at: median(taken[at]) for at in places if taken[at]} for taken in samples)
    return ours, by_hand


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--axis", nargs="+", choices=AXES, default=list(AXES), help="default: all")
    parser.add_argument(
        "--most",
        type=int,
        default=10_000_000,
        help="the largest value on any axis (default: %(default)s)",
    )
    parser.add_argument("--repetitions", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--svg", type=Path, help="draw the plots into this file")
    given = parser.parse_args()
    found: dict[str, dict[int, float]] = {}
    by_hand: dict[str, dict[int, float]] = {}
    for axis in given.axis:
        places = [at for at in AXES[axis][1] if at <= given.most]
        found[axis], by_hand[axis] = measured(axis, places, given.repetitions)
        print(table(axis, found[axis], by_hand[axis]), flush=True)
    idle: dict[str, float] = {}
    if Path("/proc/self/task").exists():
        idle["wake-ups per second"] = wake_ups()
    idle["threads of 10 000 functions"], idle["bytes per function"] = decorated()
    for what, number in idle.items():
        print(f"idle: {what}: {number:,.0f}")
    if given.json:
        facts = {**surroundings([]), "growth": found, "by hand": by_hand, "idle": idle}
        given.json.write_text(json.dumps(facts, indent=1) + "\n")
    if given.svg:
        draw_growth(found, given.svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
