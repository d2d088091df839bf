"""What remains of functions and instances that are gone, counted in a process of their own."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import tracemalloc
import weakref
from typing import Any

import pytest

from batchify import batched
from tests.limits import LIMIT
from tests.manual import Gated, batchify_threads, until
from tests.own_process import in_own_process


def names() -> set[str]:
    """Return the names of batchify's threads that exist now."""
    return {thread.name for thread in batchify_threads()}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_a_dropped_function_runs_what_it_accepted_and_leaves_no_thread(is_async: bool) -> None:
    in_own_process("reliability.test_lifetime_processes", f"_drop({is_async})")


def _drop(is_async: bool) -> None:
    """Turn off the garbage collector."""
    gc.disable()
    before = threading.active_count(), descriptors()
    gated = Gated()

    async def awork(items: list[Any]) -> list[Any]:
        await asyncio.get_running_loop().run_in_executor(None, gated, items)
        return items

    f = batched(awork if is_async else gated, workers=2, linger=0.001, name="dropped")
    futures = [f(n) for n in range(5)]
    gated.wait_started(1)
    weak = weakref.ref(f)
    del f
    assert weak() is None
    gated.open()
    assert [future.exception(LIMIT) for future in futures] == [None] * 5
    del futures
    until(lambda: not batchify_threads())
    until(lambda: descriptors() <= before[1])
    if not is_async:  # else the thread of the default executor stays, and is not ours
        assert threading.active_count() == before[0]


@pytest.mark.deep
@pytest.mark.parametrize("slots", [False, True], ids=["weakly referenced", "slots"])
def test_thousands_of_instances_come_and_go(slots: bool) -> None:
    in_own_process("reliability.test_lifetime_processes", f"_come_and_go({slots})")


def _come_and_go(slots: bool) -> None:
    class Owner:
        if slots:
            __slots__ = ()
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

        @batched(name="of an instance")
        def method(self, items: list[int]) -> list[int]:
            return items

    def use(count: int) -> None:
        for n in range(count):
            assert Owner().method(n).result(LIMIT) == n

    def is_idle() -> bool:
        return "batchify:of an instance:1" not in names()

    use(200)
    until(is_idle)
    before = descriptors()
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        use(500)
        until(is_idle)
        first = tracemalloc.get_traced_memory()[0]
        use(1500)
        until(is_idle)
        grown = tracemalloc.get_traced_memory()[0] - first
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown < 60_000, grown  # 30 bytes each: caches
    assert descriptors() <= before
    assert Owner.__dict__["method"]._self_scopes._by_owner == {}


@pytest.mark.deep
def test_memory_is_flat_over_many_calls() -> None:
    in_own_process("reliability.test_lifetime_processes", "_call_many()")


def _call_many() -> None:
    f = batched(lambda items: [KeyError(n) if n % 2 else n for n in items], size=500)
    calls = 50_000

    def use(count: int) -> None:
        for _ in f.map(range(count), return_exceptions=True):
            pass
        for future in [f(n) for n in range(count // 10)]:
            future.exception(LIMIT)

    use(5_000)
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        use(calls // 10)
        first = tracemalloc.get_traced_memory()[0]
        use(calls)
        f.flush()
        grown = tracemalloc.get_traced_memory()[0] - first
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown < 4 * calls, grown  # the distributions of sizes and times fill up
