"""Measure items on their way through Redis and back, against celery-batches on the same server.

    pip install -r benchmarks/requirements-large.txt     # celery and celery-batches; redis-server
    python -m benchmarks.brokers

Each of two producer processes keeps 2 000 items pending. Two worker processes run them in batches
of at most 500 items, with a linger of 20 ms. Every result is compared with its item. One more
process measures a sequential caller. In a repetition both brokers run, each on a new, empty server.
The function costs nothing, so the figures show what the brokers cost.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from statistics import median
from typing import Any

from tests.redis_server import PROGRAM, RedisServer, redis_server

PRODUCERS, WORKERS, OUTSTANDING = 2, 2, 2000
SEQUENTIAL = 20  # calls of the sequential caller
OURS, THEIRS = "batchify, RedisStreams", "celery-batches"
COMMANDS = {
    OURS: ["-m", "batchify", "worker", "benchmarks.broker_apps:double"],
    THEIRS: ["-m", "celery", "-A", "benchmarks.broker_apps:celery", "worker", "-P", "solo",
             "-l", "ERROR", "--without-gossip", "--without-mingle"],
}  # fmt: skip


def caller(name: str) -> tuple[Callable[[int], Any], Callable[[Any], Any]]:
    """Return the function that submits a row, and the function that gets its result."""
    from . import broker_apps as apps

    if name == OURS:
        return apps.double, lambda future: future.result(120)
    return apps.double_by_celery.delay, lambda result: result.get(timeout=120, interval=0.005)


def flood(name: str, start: int, count: int) -> float:
    """Submit `count` rows from one producer, and return the seconds until the last result."""
    call, get = caller(name)
    began = time.perf_counter()
    for first in range(start, start + count, OUTSTANDING):
        rows = range(first, min(first + OUTSTANDING, start + count))
        outstanding = [call(row) for row in rows]
        assert [get(one) for one in outstanding] == [2 * row for row in rows]
    return time.perf_counter() - began


def sequential(name: str) -> list[float]:
    """Return the latencies of one sequential caller, in seconds."""
    call, get = caller(name)
    assert get(call(0)) == 0
    found = []
    for row in range(SEQUENTIAL):
        began = time.perf_counter()
        assert get(call(row)) == 2 * row
        found.append(time.perf_counter() - began)
    return found


@contextmanager
def workers(name: str, server: RedisServer) -> Iterator[None]:
    """Run the worker processes of one broker."""
    environment = {**os.environ, "BATCHIFY_BENCHMARK_REDIS": server.url}
    running = [
        subprocess.Popen(
            [sys.executable, *COMMANDS[name]], env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(WORKERS)
    ]  # fmt: skip
    try:
        yield
    finally:
        for one in running:
            one.send_signal(signal.SIGTERM)
        for one in running:
            one.wait(60)


def measure(name: str, items: int) -> dict[str, float]:
    """Return items per second, and the median latency of a sequential caller in seconds."""
    with redis_server() as server:
        os.environ["BATCHIFY_BENCHMARK_REDIS"] = server.url
        with workers(name, server), ProcessPoolExecutor(PRODUCERS) as pool:
            calls = pool.submit(sequential, name).result()  # the workers run by then
            each = items // PRODUCERS
            runs = [pool.submit(flood, name, n * each, each) for n in range(PRODUCERS)]
            seconds = max(run.result() for run in runs)
    return {"rate": each * PRODUCERS / seconds, "latency": median(calls)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.brokers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument(
        "--items", type=int, default=20_000, help="celery gets a tenth (default: %(default)s)"
    )
    given = parser.parse_args()
    if PROGRAM is None:
        print("!!! SKIPPED: redis-server is not installed")
        return 0
    names = [OURS]
    try:
        import celery_batches  # noqa: F401
    except ModuleNotFoundError:
        print("!!! SKIPPED: celery-batches is not installed")
    else:
        names.append(THEIRS)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(given.repetitions):
        for name in names:
            items = given.items if name == OURS else given.items // 10
            found[name].append(measure(name, items))
    for name, runs in found.items():
        rates = ", ".join(f"{run['rate']:,.0f}" for run in runs)
        calls = ", ".join(f"{run['latency'] * 1000:.1f}" for run in runs)
        print(f"{name}: {rates} items/s; a sequential call takes {calls} ms")
    if len(names) > 1:
        pairs = list(zip(found[OURS], found[THEIRS], strict=True))
        rate = median(ours["rate"] / theirs["rate"] for ours, theirs in pairs)
        call = median(ours["latency"] / theirs["latency"] for ours, theirs in pairs)
        print(
            f"batchify against celery-batches, medians: {rate:.1f}x as many items/s; "
            f"a sequential call takes {call:.2f}x as long"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
