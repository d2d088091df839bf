"""How long threads, queues and engines live: contract 2 and 6."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from typing import Any

import pytest

from batchify import Deadlock, QueueFull, batched
from tests.limits import LIMIT
from tests.manual import Gated, batchify_threads, until


def names() -> set[str]:
    """Return the names of batchify's threads that exist now."""
    return {thread.name for thread in batchify_threads()}


def test_nothing_starts_before_the_first_call() -> None:
    before = batchify_threads()
    functions = [batched(lambda items: items) for _ in range(1000)]
    assert functions[0].stats().workers == 0
    assert batchify_threads() <= before


def test_the_threads_go_when_the_function_goes() -> None:
    f = batched(lambda items: items, workers=2, name="goes")
    assert f(1).result(LIMIT) == 1
    assert "batchify:goes:1" in names()
    del f
    gc.collect()
    until(lambda: "batchify:goes:1" not in names())


def test_the_threads_go_of_a_function_that_was_called_in_its_own_batch() -> None:
    calls: list[Any] = []

    def work(items: list[int]) -> list[int]:
        with contextlib.suppress(Deadlock):
            calls[0]().flush(0.01)
        return items

    f = batched(work, workers=2, name="calls itself")
    calls.append(weakref.ref(f))
    assert f(1).result(LIMIT) == 1
    del f
    until(lambda: gc.collect() is not None and "batchify:calls itself:1" not in names())


def test_lingering_items_run_before_the_threads_end() -> None:
    gated = Gated(is_open=True)
    f = batched(gated, linger=0.05, name="lingers")
    future = f(1)
    del f
    gc.collect()
    assert future.result(LIMIT) == ("done", 1)
    del future
    until(lambda: gc.collect() is not None and "batchify:lingers:1" not in names())


def test_the_queue_of_an_instance_goes_with_it() -> None:
    class Owner:
        @batched(name="owner")
        def method(self, items: list[int]) -> list[int]:
            return items

    for n in range(200):
        owner = Owner()
        assert owner.method(n).result(LIMIT) == n
        del owner
    until(lambda: gc.collect() is not None and "batchify:owner:1" not in names())
    assert Owner.__dict__["method"]._self_scopes._by_owner == {}


def test_many_loops_leave_no_engine_and_no_thread() -> None:
    @batched
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> list[int]:
        return await asyncio.gather(*(f(n) for n in range(3)))

    before = batchify_threads()
    for _ in range(300):
        assert asyncio.run(main()) == [0, 1, 2]
    assert batchify_threads() <= before
    assert f._scope().engines() == []


def test_an_idle_function_keeps_no_item_result_or_error() -> None:
    class Thing:
        pass

    alive: list[weakref.ref[Any]] = []

    def work(items: list[Thing]) -> list[Any]:
        results: list[Any] = [Thing() for _ in items]
        alive.extend(weakref.ref(thing) for thing in [*items, *results])
        results[0] = ValueError(items[0])
        return results

    f = batched(work, size=4)
    for _ in range(50):
        futures = [f(Thing()) for _ in range(8)]
        for future in futures:
            future.exception(LIMIT)
        del futures, future
    f.flush(LIMIT)
    until(lambda: gc.collect() is not None and not any(weak() for weak in alive))


def test_a_loop_closed_in_the_middle_of_a_batch_leaves_nothing() -> None:
    started = asyncio.Event()
    batches: list[weakref.ref[Any]] = []

    class Item:
        pass

    @batched
    async def f(items: list[Item]) -> None:
        batches.append(weakref.ref(items[0]))
        started.set()
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        f(Item())
        await started.wait()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    until(lambda: gc.collect() is not None and batches[0]() is None)


def test_waits_that_time_out_leave_nothing_behind() -> None:
    gated = Gated()
    f = batched(gated)
    future = f(1)
    gated.wait_started(1)
    for _ in range(10):
        with pytest.raises(TimeoutError):
            future.result(0)
        with pytest.raises(TimeoutError):
            future.exception(0.001)
    assert not any(f._scope().watched.values())
    gated.open()
    assert future.result(LIMIT) == ("done", 1)


class Lives:
    """Functions whose engines must be freed without help, after different histories."""

    @staticmethod
    def key() -> Any:
        f = batched(lambda items: items, key=lambda item: item % 3)
        assert [f(n).result(LIMIT) for n in range(5)] == [0, 1, 2, 3, 4]
        return f

    @staticmethod
    def extra_arguments() -> Any:
        f = batched(lambda items, table: items)
        assert [f(n, n % 3).result(LIMIT) for n in range(5)] == [0, 1, 2, 3, 4]
        return f

    @staticmethod
    def full_queue() -> Any:
        gated = Gated()
        f = batched(gated, size=1, capacity=1)
        future = f(1)
        try:
            f.submit_nowait(2)
        except QueueFull:
            gated.open()
        assert future.result(LIMIT) == ("done", 1)
        return f

    @staticmethod
    def error_that_is_kept() -> Any:
        f = batched(lambda items: 1 / 0)
        kept.append(f(1).exception(LIMIT))
        return f


kept: list[Any] = []


@pytest.mark.parametrize(
    "use",
    ["key", "extra_arguments", "full_queue", "error_that_is_kept"],
)
def test_a_closed_engine_goes_without_the_collector(use: str) -> None:
    gc.collect()
    gc.disable()
    try:
        f = getattr(Lives, use)()
        f.close(LIMIT)
        engine = weakref.ref(f._scope())
        del f
        assert engine() is None
    finally:
        gc.enable()
        kept.clear()
