"""The scenarios: one function each, which returns the time or bytes for all items.

A scenario gets a `Run`: a new rival, already warmed up, and the keys for its callers. It asserts
that every caller got the result of its own item. Scenarios that measure latency return the latency
of every call, in seconds.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .adapters.base import ASYNCIO, BRIDGED, THREADS, Rival
from .functions import Gate

REFERENCES = {
    THREADS: "hand-written threads",
    ASYNCIO: "hand-written asyncio",
    BRIDGED: "hand-written asyncio",
}


class Time(NamedTuple):
    """Seconds on the clock, and of CPU time in all threads of the process."""

    wall: float
    cpu: float


def now() -> Time:
    return Time(time.perf_counter(), time.process_time())


def since(start: Time, end: Time | None = None) -> Time:
    """Return the time from `start` to `end` or, without `end`, until now."""
    wall, cpu = end or now()
    return Time(wall - start.wall, cpu - start.cpu)


@dataclass(frozen=True)
class Run:
    """The rival that a scenario measures, and its items."""

    rival: Rival
    parts: list[range]  # the items of each caller; all items of a run differ
    gate: Gate  # while it is closed, the batch function waits (if the scenario `is_gated`)


@dataclass(frozen=True)
class Scenario:
    """The settings of a scenario."""

    name: str
    about: str
    measure: Callable[[Run], Any]
    mode: str
    callers: int
    each: int  # items of one caller
    size: int = 64
    linger: float = 0.001
    workers: int = 2
    unit: str = "us"
    takes: float = 0.0  # seconds that a call of the batch function sleeps
    is_gated: bool = False

    @property
    def reference(self) -> str:
        """The name of the rival that all others are compared with."""
        return REFERENCES[self.mode]

    def parts(self, scale: float) -> list[range]:
        """Return the items of each caller."""
        each = max(1, round(self.each * scale))
        return [range(n * each, (n + 1) * each) for n in range(self.callers)]

    def admits(self, rival: type[Rival]) -> bool:
        """Return True if this rival takes part."""
        return (
            self.mode in rival.modes
            and self.name not in rival.not_in
            and self.name in (rival.scenarios or (self.name,))
        )


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, mode: str, about: str, **settings: Any) -> Callable[..., Any]:
    """Register a scenario; the report and --help show `about`."""

    def register(measure: Callable[[Run], Any]) -> Callable[[Run], Any]:
        SCENARIOS[name] = Scenario(name, about, measure, mode, **settings)
        return measure

    return register


# ---- floods ----


@scenario(
    "S1", ASYNCIO,
    "One `asyncio.gather` of all calls, `async def`.",
    callers=1, each=100_000,
)  # fmt: skip
async def gather(run: Run) -> Time:
    [keys] = run.parts
    acall = run.rival.acall
    start = now()
    results = await asyncio.gather(*[acall(key) for key in keys])
    taken = since(start)
    expect([results], run.parts)
    return taken


scenario("S1k", ASYNCIO, "The same with a tenth of the calls.", callers=1, each=10_000)(gather)
scenario("S1b", BRIDGED, "The same with a `def`, on threads.", callers=1, each=50_000)(gather)


@scenario(
    "S1t", ASYNCIO,
    "A task for each call, all at once, `async def`.",
    callers=1, each=50_000,
)  # fmt: skip
async def tasks(run: Run) -> Time:
    [keys] = run.parts
    acall = run.rival.acall

    async def caller(key: int) -> Any:
        return await acall(key)

    create_task = asyncio.get_running_loop().create_task
    start = now()
    results = await asyncio.gather(*[create_task(caller(key)) for key in keys])
    taken = since(start)
    expect([results], run.parts)
    return taken


@scenario(
    "S2", THREADS,
    "8 threads submit all their items, then wait for their own results.",
    callers=8, each=50_000,
)  # fmt: skip
def flood(run: Run) -> Time:
    submit = run.rival.submit

    def caller(keys: range) -> list[Any]:
        futures = [submit(key) for key in keys]
        return [future.result() for future in futures]

    return in_threads(caller, run.parts)


scenario("S21", THREADS, "The same with one thread.", callers=1, each=100_000)(flood)


# ---- closed loops ----

CLOSED = "32 threads in a closed loop: each waits for its result before its next call."


@scenario("S3", THREADS, CLOSED, callers=32, each=400, size=32)
def closed_loop(run: Run) -> Time:
    submit = run.rival.submit
    return in_threads(lambda keys: [submit(key).result() for key in keys], run.parts)


scenario(
    "S3u",
    THREADS,
    "The same with size 128: batches are dispatched by linger.",
    callers=32,
    each=400,
    size=128,
)(closed_loop)
scenario(
    "S3s", THREADS, "The same as S3 with a function that sleeps 1 ms.", callers=32, each=100,
    size=32, takes=0.001,
)(closed_loop)  # fmt: skip

CLOSED_ASYNCIO = "64 coroutines in a closed loop, `async def`."


@scenario("S3a", ASYNCIO, CLOSED_ASYNCIO, callers=64, each=1000)
async def closed_loop_asyncio(run: Run) -> Time:
    acall = run.rival.acall

    async def caller(keys: range) -> list[Any]:
        return [await acall(key) for key in keys]

    start = now()
    results = await asyncio.gather(*[caller(keys) for keys in run.parts])
    taken = since(start)
    expect(results, run.parts)
    return taken


scenario(
    "S3au",
    ASYNCIO,
    "The same with size 256: batches are dispatched by linger.",
    callers=64,
    each=200,
    size=256,
)(closed_loop_asyncio)
scenario(
    "S3a0", ASYNCIO, "The same with size 256 and no linger.", callers=64, each=1000, size=256,
    linger=0.0,
)(closed_loop_asyncio)  # fmt: skip
scenario(
    "S3as", ASYNCIO, "The same as S3a with a function that sleeps 1 ms.", callers=64, each=100,
    takes=0.001,
)(closed_loop_asyncio)  # fmt: skip


# ---- one sequential caller ----


# With a linger, a sequential caller would measure nothing but the linger.
@scenario(
    "S4", THREADS,
    "One thread, one call after the other.",
    callers=1, each=3000, linger=0.0,
)  # fmt: skip
def call_by_call(run: Run) -> Time:
    [keys] = run.parts
    submit = run.rival.submit
    start = now()
    results = [submit(key).result() for key in keys]
    taken = since(start)
    expect([results], run.parts)
    return taken


SEQUENTIAL = "One coroutine, one call after the other, `async def`."


@scenario("S4a", ASYNCIO, SEQUENTIAL, callers=1, each=5000, linger=0.0)
async def call_by_call_asyncio(run: Run) -> Time:
    return await closed_loop_asyncio(run)  # type: ignore[no-any-return]


scenario(
    "S4b", BRIDGED, "The same with a `def`, on threads.", callers=1, each=2000, linger=0.0
)(call_by_call_asyncio)  # fmt: skip


# ---- latency ----

RATE = 2000.0  # calls per second; a slow call does not delay the next one
CALLERS = 40


def arrivals(keys: range) -> list[float]:
    """Return when each call of one caller is due: a Poisson process, the same in every run."""
    chance = random.Random(keys.start)
    now = 0.0
    return [now := now + chance.expovariate(RATE / CALLERS) for _ in keys]


@scenario(
    "S5", THREADS,
    "40 threads, 2000 calls a second, linger 5 ms, a function that takes 1 ms: the latency.",
    callers=CALLERS, each=100, linger=0.005, workers=2, takes=0.001, unit="ms",
)  # fmt: skip
def waits(run: Run) -> list[float]:
    submit = run.rival.submit
    taken: list[float] = []
    start = time.perf_counter() + 0.05

    def caller(keys: range) -> list[Any]:
        results = []
        for key, due in zip(keys, arrivals(keys), strict=True):
            time.sleep(max(0.0, start + due - time.perf_counter()))
            results.append(submit(key).result())
            taken.append(time.perf_counter() - start - due)  # counted from when it was due
        return results

    in_threads(caller, run.parts)
    return taken


@scenario(
    "S5a", ASYNCIO,
    "The same with coroutines, `async def`.",
    callers=CALLERS, each=100, linger=0.005, takes=0.001, unit="ms",
)  # fmt: skip
async def waits_asyncio(run: Run) -> list[float]:
    acall = run.rival.acall
    taken: list[float] = []
    start = time.perf_counter() + 0.05

    async def caller(keys: range) -> list[Any]:
        results = []
        for key, due in zip(keys, arrivals(keys), strict=True):
            await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
            results.append(await acall(key))
            taken.append(time.perf_counter() - start - due)
        return results

    expect(await asyncio.gather(*[caller(keys) for keys in run.parts]), run.parts)
    return taken


# ---- bulk ----


@scenario(
    "S7", THREADS,
    "One thread with a list of a million items; a rival without a call for lists submits each.",
    callers=1, each=1_000_000,
)  # fmt: skip
def bulk(run: Run) -> Time:
    [keys] = run.parts
    items = list(keys)
    start = now()
    results = run.rival.map(items)
    taken = since(start)
    expect([results], run.parts)
    return taken


@scenario(
    "S7i", THREADS,
    "One thread with a generator of 100 000 items; `batchify (a list)` makes a list of it first.",
    callers=1, each=100_000,
)  # fmt: skip
def bulk_of_iterator(run: Run) -> Time:
    [keys] = run.parts
    start = now()
    results = run.rival.map(key for key in keys)
    taken = since(start)
    expect([results], run.parts)
    return taken


@scenario(
    "S7a", ASYNCIO,
    "One coroutine with a list of 100 000 items, `async def`.",
    callers=1, each=100_000,
)  # fmt: skip
async def bulk_asyncio(run: Run) -> Time:
    [keys] = run.parts
    items = list(keys)
    start = now()
    results = await run.rival.amap(items)
    taken = since(start)
    expect([results], run.parts)
    return taken


# ---- memory ----

SETTLE = 0.05  # seconds in which the workers take what they can, and stop at the gate


@scenario(
    "S6", THREADS,
    "Bytes per pending item, in threads; the items themselves are not counted.",
    callers=1, each=20_000, unit="bytes", is_gated=True,
)  # fmt: skip
def pending(run: Run) -> float:
    [keys] = run.parts
    items = list(keys)
    futures: list[Any] = [None] * len(items)
    run.gate.clear()
    tracemalloc.start()
    try:
        for place, item in enumerate(items):
            futures[place] = run.rival.submit(item)
        time.sleep(SETTLE)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        run.gate.set()
    expect([[future.result() for future in futures]], run.parts)
    return held


@scenario(
    "S6a", ASYNCIO,
    "Bytes per pending item, on a loop; the items themselves are not counted.",
    callers=1, each=20_000, unit="bytes", is_gated=True,
)  # fmt: skip
async def pending_asyncio(run: Run) -> float:
    [keys] = run.parts
    items = list(keys)
    futures: list[Any] = [None] * len(items)
    run.gate.clear()
    tracemalloc.start()
    try:
        for place, item in enumerate(items):
            # If a rival's call is a coroutine, its task counts: without it nothing is pending.
            futures[place] = asyncio.ensure_future(run.rival.acall(item))
        await asyncio.sleep(SETTLE)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        run.gate.set()
    expect([await asyncio.gather(*futures)], run.parts)
    return held


# ---- shared helpers ----


def expect(results: Sequence[Sequence[Any]], parts: list[range]) -> None:
    """Raise AssertionError if a caller got anything but its own items back."""
    for number, (got, keys) in enumerate(zip(results, parts, strict=True)):
        if list(got) != list(keys):
            wrong = sum(a != b for a, b in zip(got, keys, strict=False))
            raise AssertionError(
                f"caller {number}: {wrong} wrong results among {len(got)} of {len(keys)}"
            )


def in_threads(caller: Callable[[range], list[Any]], parts: list[range]) -> Time:
    """Run `caller` with each part in its own thread; return the time until the last ends."""
    started: list[Time] = []
    ended: list[Time] = []
    results: list[Any] = [None] * len(parts)
    errors: list[BaseException] = []
    # The last thread to arrive runs the action, before any thread continues.
    barrier = threading.Barrier(len(parts), action=lambda: started.append(now()))

    def body(number: int) -> None:
        try:
            barrier.wait()
            results[number] = caller(parts[number])
            ended.append(now())
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=body, args=(number,), daemon=True) for number in range(len(parts))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    expect(results, parts)
    return since(started[0], max(ended))
