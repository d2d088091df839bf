"""How long things live: contract 2 and 6."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

from batchify import batched
from tests.manual import Gated, until


def names() -> list[str]:
    """The threads of batchify that are there now."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batchify:")]


def test_nothing_starts_before_the_first_call() -> None:
    before = set(threading.enumerate())  # some of them may be about to end
    functions = [batched(lambda items: items) for _ in range(1000)]
    assert functions[0].stats().workers == 0
    assert set(threading.enumerate()) <= before


def test_the_threads_go_when_the_function_goes() -> None:
    f = batched(lambda items: items, workers=2, name="goes")
    assert f(1).result(5) == 1
    assert "batchify:goes:1" in names()
    del f
    gc.collect()
    until(lambda: "batchify:goes:1" not in names())


def test_what_lingers_is_run_before_the_threads_go() -> None:
    gated = Gated(is_open=True)
    f = batched(gated, linger=0.05, name="lingers")
    future = f(1)
    del f
    gc.collect()
    assert future.result(5) == ("done", 1)
    del future
    until(lambda: gc.collect() is not None and "batchify:lingers:1" not in names())


def test_the_queue_of_an_instance_goes_with_it() -> None:
    class Owner:
        @batched(name="owner")
        def method(self, items: list[int]) -> list[int]:
            return items

    for n in range(200):
        owner = Owner()
        assert owner.method(n).result(5) == n
        del owner
    until(lambda: gc.collect() is not None and "batchify:owner:1" not in names())
    assert Owner.__dict__["method"]._self_scopes._by_owner == {}


def test_many_loops_leave_no_engine_and_no_thread() -> None:
    @batched
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> list[int]:
        return await asyncio.gather(*(f(n) for n in range(3)))

    before = threading.active_count()
    for _ in range(300):
        assert asyncio.run(main()) == [0, 1, 2]
    assert threading.active_count() <= before
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
            future.exception(5)
        del futures, future
    f.flush(5)
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
