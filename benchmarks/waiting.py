"""Measure callers that each wait for their result before their next call, with and without linger.

    python -m benchmarks.waiting                                # four minutes; prints four tables
    python -m benchmarks.waiting --callers 32 --repetitions 9

With `linger=0`, a worker that becomes free takes the items that are queued. If 16 callers wait for
their results, that is one item: the other 15 callers are still waiting for the batch that has just
ended. So batches of 1 and of 15 items alternate. `size` = the number of callers and a `linger` that
is longer than a batch collect all 16 items. Without the matching `size`, every batch waits for the
whole `linger`; the table shows that too, and what happens if some of the callers stop.

The batch function sleeps, so a busy machine changes the figures little. In a repetition every
setting runs once, in random order, with a new batched function. The table has medians; the ratios
are medians of the ratios within each repetition. CPU time is that of the whole process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from batchify import Batched, batched

from .harness import say

FACTOR = 1.25  # the linger, in durations of a batch
FULL = 0.020  # seconds that a batch with an item of every caller takes

Drive = Callable[[Batched[int, [], int], int, float], list[float]]


@dataclass(frozen=True)
class Cost:
    """What a call of the batch function costs.

    Attributes:
        name: the heading of its table.
        fixed: seconds for each batch.
        per_item: seconds for each item of the batch.
    """

    name: str
    fixed: float
    per_item: float

    def of(self, items: int) -> float:
        """Return the seconds that a batch of this many items takes."""
        return self.fixed + self.per_item * items


@dataclass(frozen=True)
class Result:
    """What one run measured.

    Attributes:
        rate: calls per second.
        sizes: the sizes of the batches, in order.
        p50: the median latency of a call, in seconds.
        p99: the 99th percentile of the latency, in seconds.
        cpu: seconds of CPU time per call.
    """

    rate: float
    sizes: list[int]
    p50: float
    p99: float
    cpu: float


def costs(callers: int) -> list[Cost]:
    """Return the two kinds of function; both take `FULL` seconds for a batch of all callers."""
    half = FULL / 2
    return [
        Cost(f"every batch takes {FULL * 1000:g} ms", FULL, 0.0),
        Cost(
            f"a batch takes {half * 1000:g} ms + {half / callers * 1000:.3g} ms per item",
            half,
            half / callers,
        ),
    ]


def settings(callers: int) -> dict[str, dict[str, Any]]:
    """Return the options of each setting."""
    linger = FACTOR * FULL
    return {
        "linger=0": {"size": 64},
        f"size={callers}, linger={linger:g}": {"size": callers, "linger": linger},
        f"size=64, linger={linger:g}": {"size": 64, "linger": linger},
    }


# ---- the callers ----


def in_threads(function: Batched[int, [], int], callers: int, end: float) -> list[float]:
    """Call from threads until `end`, and return the latency of every call in seconds."""
    ready = threading.Barrier(callers)

    def caller(number: int) -> list[float]:
        found: list[float] = []
        ready.wait()
        while not found or time.perf_counter() < end:
            began = time.perf_counter()
            assert function(number).result() == number
            found.append(time.perf_counter() - began)
        return found

    with ThreadPoolExecutor(callers) as pool:
        return [one for own in pool.map(caller, range(callers)) for one in own]


def on_loop(function: Batched[int, [], int], callers: int, end: float) -> list[float]:
    """Call from tasks of one event loop until `end`, and return the latency of every call."""

    async def caller(number: int) -> list[float]:
        found: list[float] = []
        while not found or time.perf_counter() < end:
            began = time.perf_counter()
            assert await function(number) == number
            found.append(time.perf_counter() - began)
        return found

    async def main() -> list[list[float]]:
        return await asyncio.gather(*[caller(number) for number in range(callers)])

    return [one for own in asyncio.run(main()) for one in own]


# ---- measuring ----


def run(drive: Drive, is_async: bool, cost: Cost, options: dict[str, Any], callers: int,
        seconds: float) -> Result:  # fmt: skip
    """Run one setting with a new batched function.

    Args:
        drive: calls the function from threads or from tasks.
        is_async: whether the batch function is an `async def`.
        cost: what a batch costs.
        options: the options of the decorator.
        callers: how many callers there are.
        seconds: how long the run lasts.
    """
    sizes: list[int] = []

    def sleep(items: list[int]) -> list[int]:
        sizes.append(len(items))
        time.sleep(cost.of(len(items)))
        return items

    async def asleep(items: list[int]) -> list[int]:
        sizes.append(len(items))
        await asyncio.sleep(cost.of(len(items)))
        return items

    function: Batched[int, [], int] = batched(asleep if is_async else sleep, **options)
    cpu, began = time.process_time(), time.perf_counter()
    latencies = drive(function, callers, began + seconds)
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    function.close()
    cuts = quantiles(latencies, n=100)
    calls = len(latencies)
    return Result(calls / took, sizes, cuts[49], cuts[98], cpu / calls)


DRIVES: dict[str, tuple[Drive, bool]] = {
    "threads, def": (in_threads, False),
    "tasks, def": (on_loop, False),
    "tasks, async def": (on_loop, True),
}


def table(heading: str, found: dict[str, list[Result]]) -> str:
    """Return one Markdown table; the first setting is the reference of the ratios."""
    reference = next(iter(found.values()))
    lines = [
        f"### {heading}",
        "",
        "| setting | calls/s | ratio | batch sizes | p50 ms | p99 ms | CPU µs per call |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    for name, runs in found.items():
        ratio = median(a.rate / b.rate for a, b in zip(runs, reference, strict=True))
        sizes = runs[-1].sizes
        middle = len(sizes) // 2
        lines.append(
            f"| `{name}` | {median(r.rate for r in runs):,.0f} | {ratio:.2f}x "
            f"| {', '.join(map(str, sizes[middle : middle + 6]))} "
            f"| {median(r.p50 for r in runs) * 1000:.1f} "
            f"| {median(r.p99 for r in runs) * 1000:.1f} "
            f"| {median(r.cpu for r in runs) * 1e6:.0f} |"
        )
    return "\n".join([*lines, ""])


def main() -> int:
    """Run what the command line asks for, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.waiting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--callers", type=int, default=16, help="default: %(default)s")
    parser.add_argument(
        "--kind", nargs="+", choices=DRIVES, default=["threads, def"], metavar="KIND",
        help=f"of callers and function: {'; '.join(DRIVES)} (default: the first)",
    )  # fmt: skip
    parser.add_argument("--repetitions", type=int, default=9, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="length of one run (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every run to this file")
    given = parser.parse_args()
    order = random.Random(given.seed)
    say(f"seed {given.seed}\n")
    everything: dict[str, dict[str, list[Result]]] = {}
    for kind in given.kind:
        drive, is_async = DRIVES[kind]
        for cost in costs(given.callers):
            for callers in (given.callers, given.callers * 3 // 4):
                of_size = settings(given.callers)
                found: dict[str, list[Result]] = {name: [] for name in of_size}
                for _ in range(given.repetitions):
                    for name in order.sample(list(of_size), len(of_size)):
                        options = of_size[name]
                        found[name].append(
                            run(drive, is_async, cost, options, callers, given.seconds)
                        )
                heading = f"{callers} callers ({kind}); {cost.name}"
                everything[heading] = found
                print(table(heading, found), flush=True)
    if given.json:
        given.json.write_text(json.dumps(everything, default=vars, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
