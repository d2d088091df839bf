"""Items through Redis and back, against celery-batches on the same server.

    pip install -r benchmarks/requirements-large.txt     # celery and celery-batches; redis-server
    python -m benchmarks.brokers

Two producer processes have 2 000 items each outstanding, two worker processes run them in batches
of at most 500 that linger for 20 ms, and every result is compared with its item. Then one caller
waits for each result before its next call. In a repetition the brokers take turns, on a server
that was emptied before. The function costs nothing, so this is what the way costs.
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
ALONE = 20  # calls of the one who waits
OURS, THEIRS = "batchify, RedisStreams", "celery-batches"
COMMANDS = {
    OURS: ["-m", "batchify", "worker", "benchmarks.broker_apps:double"],
    THEIRS: ["-m", "celery", "-A", "benchmarks.broker_apps:celery", "worker", "-P", "solo",
             "-l", "ERROR", "--without-gossip", "--without-mingle"],
}  # fmt: skip


def caller(name: str) -> tuple[Callable[[int], Any], Callable[[Any], Any]]:
    """How one calls, and how one gets the result."""
    from . import broker_apps as apps

    if name == OURS:
        return apps.double, lambda future: future.result(120)
    return apps.double_by_celery.delay, lambda result: result.get(timeout=120, interval=0.005)


def flood(name: str, start: int, count: int) -> float:
    """Items a second, of one producer."""
    call, get = caller(name)
    began = time.perf_counter()
    for first in range(start, start + count, OUTSTANDING):
        rows = range(first, min(first + OUTSTANDING, start + count))
        outstanding = [call(row) for row in rows]
        assert [get(one) for one in outstanding] == [2 * row for row in rows]
    return time.perf_counter() - began


def alone(name: str) -> list[float]:
    """Seconds of each call of who waits for every result."""
    call, get = caller(name)
    assert get(call(0)) == 0
    found = []
    for row in range(ALONE):
        began = time.perf_counter()
        assert get(call(row)) == 2 * row
        found.append(time.perf_counter() - began)
    return found


@contextmanager
def workers(name: str, server: RedisServer) -> Iterator[None]:
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
    with redis_server() as server:
        os.environ["BATCHIFY_BENCHMARK_REDIS"] = server.url
        with workers(name, server), ProcessPoolExecutor(PRODUCERS) as pool:
            calls = pool.submit(alone, name).result()  # the workers are there after this
            each = items // PRODUCERS
            runs = [pool.submit(flood, name, n * each, each) for n in range(PRODUCERS)]
            seconds = max(run.result() for run in runs)
    return {"rate": each * PRODUCERS / seconds, "alone": median(calls)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.brokers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--items", type=int, default=20_000, help="(a tenth of them by celery)")
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
        calls = ", ".join(f"{run['alone'] * 1000:.1f}" for run in runs)
        print(f"{name}: {rates} items/s; a call alone {calls} ms")
    if len(names) > 1:
        pairs = list(zip(found[OURS], found[THEIRS], strict=True))
        rate = median(ours["rate"] / theirs["rate"] for ours, theirs in pairs)
        call = median(ours["alone"] / theirs["alone"] for ours, theirs in pairs)
        print(f"median of the ratios: {rate:.1f}x of its items/s; a call alone {call:.2f}x of its")
    return 0


if __name__ == "__main__":
    sys.exit(main())
