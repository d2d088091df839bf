"""Does the cost of an item grow with anything?

    python -m benchmarks.growth                          # ten minutes; prints a table
    python -m benchmarks.growth --json g.json --svg docs/growth.svg
    python -m benchmarks.growth --axis keys tasks --most 1000

One quantity grows, all others stand still; the table tells the cost of an item, and how it
compares with the cheapest one of the same axis. A cost that does not grow has its line flat.
(It falls where batches grow: `size`, `tasks` and `threads` up to a batch's worth.) Each point is
the median of `--repetitions` runs, and the axis is walked once in each repetition, so that a mood
of the machine does not pass for growth. Where the interpreter itself grows slower, with threads
that wait for its lock and with tasks, the engines written by hand walk the axis, too.

Besides: an idle function wakes nobody up, and ten thousand of them have no thread and take
little memory.
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
from .functions import abare, bare
from .harness import say
from .report import surroundings

LINGER = 0.0  # seconds, as by default
ENOUGH = 100_000  # items that a point is measured with, where the axis does not say how many


def timed(run: Callable[[], Any], items: int) -> float:
    """Microseconds an item."""
    gc.collect()
    gc.freeze()
    try:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / items * 1e6
    finally:
        gc.unfreeze()


# ---- the axes: each gives us an item at one point ----


def items(count: int) -> float:
    """Items, submitted by one thread and collected as they come; the default capacity."""
    call = batched(bare, size=64, workers=2)
    call(0).result()

    def run() -> None:
        left: list[Any] = []
        for item in range(count):
            left.append(call(item))
            if len(left) >= 5000:
                for future in left:
                    future.result()
                left.clear()
        for future in left:
            future.result()

    try:
        return timed(run, count)
    finally:
        call.close()


def threads(count: int, kind: type[Rival] = Batchify) -> float:
    """Threads that submit at the same time, then wait."""
    rival = kind(bare, 64, LINGER, 2)
    each = ENOUGH // count
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
    """Coroutines in a closed loop, each with one call at a time; `async def`, size 64."""
    each = max(5, ENOUGH // count // 4)

    async def caller(rival: Rival, begin: asyncio.Event) -> None:
        await begin.wait()
        for item in range(each):
            await rival.acall(item)

    async def prepared() -> tuple[Rival, asyncio.Event, list[asyncio.Task[None]]]:
        rival, begin = kind(abare, 64, LINGER, 2), asyncio.Event()
        callers = [asyncio.create_task(caller(rival, begin)) for _ in range(count)]
        await asyncio.sleep(0)  # each of them waits
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
    """Keys, each with its own batches, in turn; a batch of 8 for each key and round."""
    call = batched(bare, size=8, workers=2, capacity=None, key=lambda item: item % count)
    total = max(ENOUGH, 8 * count)
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
    """`size`: the most items of a batch, all of them full."""
    call = batched(bare, size=count, workers=2, capacity=None)
    total = ENOUGH // count * count

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


# ---- idle ones ----


def wake_ups(seconds: float = 1.0) -> int:
    """How often the threads of an idle function run, while nothing is submitted."""
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
    """Voluntary context switches of all threads of this process but this one (Linux)."""
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
    """The threads of that many decorated functions, and their bytes each."""

    def new() -> Callable[[list[Any]], list[Any]]:
        def echo(items: list[Any]) -> list[Any]:
            return list(items)

        return echo

    plain = [new() for _ in range(count)]  # their own, and not counted
    gc.collect()
    threads_before = threading.active_count()
    tracemalloc.start()
    try:
        calls = [batched(function) for function in plain]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return threading.active_count() - threads_before, held / len(calls)


# ---- what is told ----


def table(axis: str, points: dict[int, float], by_hand: dict[int, float]) -> str:
    heads = [axis, "µs/item", "to the cheapest"]
    if by_hand:
        heads += ["hand-written", "to its cheapest"]
    lines = ["| " + " | ".join(heads) + " |", "|--:" * len(heads) + "|"]
    for at in points:
        cells = [f"{at:,}"]
        for values in (points, by_hand):
            if values:
                cells += [f"{values[at]:.3g}", f"{values[at] / min(values.values()):.2f}x"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def walked(
    axis: str, places: list[int], repetitions: int
) -> tuple[dict[int, float], dict[int, float]]:
    """The cost of an item at each place, and of the engine written by hand, if it walks there."""
    ways = [AXES[axis][0], BY_HAND.get(axis)]
    samples: list[dict[int, list[float]]] = [{at: [] for at in places} for _ in ways]
    for _, at in itertools.product(range(repetitions), places):
        for measure, taken in zip(ways, samples, strict=True):
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
    parser.add_argument("--axis", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--most", type=int, default=10_000_000, help="the end of every axis")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path, help="where to draw the plots (needs matplotlib)")
    given = parser.parse_args()
    found: dict[str, dict[int, float]] = {}
    by_hand: dict[str, dict[int, float]] = {}
    for axis in given.axis:
        places = [at for at in AXES[axis][1] if at <= given.most]
        found[axis], by_hand[axis] = walked(axis, places, given.repetitions)
        print(table(axis, found[axis], by_hand[axis]), flush=True)
    idle: dict[str, float] = {}
    if Path("/proc/self/task").exists():
        idle["wake-ups a second"] = wake_ups()
    idle["threads of 10 000 functions"], idle["bytes of each"] = decorated()
    for what, number in idle.items():
        print(f"idle: {what}: {number:,.0f}")
    if given.json:
        facts = {**surroundings([]), "growth": found, "by hand": by_hand, "idle": idle}
        given.json.write_text(json.dumps(facts, indent=1) + "\n")
    if given.svg:
        from .chart import draw_growth  # matplotlib is needed for this only

        draw_growth(found, given.svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
