"""`amap`, where it differs from `map`: in coroutines and with async iterables (contract 3)."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from batchify import BatchFuture, Retry, batched
from tests.api.sources import (
    EMPTY,
    ITERABLES,
    SOURCES,
    AsyncSource,
    Awaited,
    SizedSource,
    Source,
    any_order,
    any_source,
    check,
    check_idle,
    done,
    echo,
    half,
    run,
)
from tests.limits import LIMIT
from tests.manual import Gated, in_thread

# ---- results ----


@any_order
@pytest.mark.parametrize("is_async", [False, True])
def test_any_iterable_in_a_coroutine(ordered: bool, is_async: bool) -> None:
    async def main() -> None:
        f: Any = batched(Awaited(is_open=True) if is_async else echo, size=4)
        for items in [*ITERABLES, *EMPTY]:
            got = [result async for result in f.amap(items(), ordered=ordered)]
            expected = done(items())
            if ordered:
                assert got == expected
            else:
                assert sorted(got, key=repr) == sorted(expected, key=repr)
        got = [result async for result in f.amap(AsyncSource(range(23)), ordered=ordered)]
        assert sorted(got) == done(range(23))
        assert [result async for result in f.amap(AsyncSource([]), ordered=ordered)] == []
        assert f.stats().pending == 0

    run(main())


def test_results_that_are_futures_come_as_they_are_in_a_coroutine() -> None:
    async def main() -> None:
        inner = batched(echo)
        outer: Any = batched(lambda items: [inner(item) for item in items], size=4)
        for items in ([1, 2, 3, 4, 5], iter([1, 2, 3])):
            got = [result async for result in outer.amap(items)]
            assert all(isinstance(future, BatchFuture) for future in got), got

    run(main())


# ---- lazy ----


def test_nothing_is_pulled_before_the_first_anext() -> None:
    async def main() -> None:
        for items in (Source(range(100)), SizedSource(range(100)), AsyncSource(range(100))):
            f = batched(echo, size=4)
            results = f.amap(items, window=10)
            await asyncio.sleep(0.01)
            assert items.pulled == 0
            assert f.stats().submitted == 0
            assert await anext(results) == ("done", 0)
            assert 0 < items.pulled <= 21
            await results.aclose()

    run(main())


def test_amap_never_has_more_than_window_unresolved() -> None:
    async def main(source: Any, ordered: bool, window: int, function: Any) -> None:
        held: list[int] = []
        f: Any = batched(function, size=4, workers=2)

        def look() -> None:
            stats = f.stats()
            check(stats)
            held.append(stats.running + stats.pending)

        items = source(range(100), look)
        got = [result async for result in f.amap(items, ordered=ordered, window=window)]
        assert sorted(got) == done(range(100))
        assert max(held) <= window
        assert f.stats().pending == 0

    for source in (Source, SizedSource, AsyncSource):
        for ordered in (True, False):
            for window in (1, 3, 10):
                for function in (echo, Awaited(is_open=True)):
                    run(main(source, ordered, window, function))


# ---- in order, or as they are done ----


@pytest.mark.parametrize("source", [*SOURCES, AsyncSource])
def test_as_they_are_done_in_a_coroutine(source: Any) -> None:
    async def main() -> None:
        gates = {item: asyncio.Event() for item in (0, 2, 4)}

        async def function(items: list[int]) -> list[int]:
            await gates[items[0]].wait()
            return items

        f: Any = batched(function, size=2, workers=3, linger=1)
        results = f.amap(source(range(6)), ordered=False)
        for first in (4, 0, 2):
            gates[first].set()
            assert {await anext(results), await anext(results)} == {first, first + 1}
        assert [result async for result in results] == []

    run(main())


# ---- errors ----


@any_source
def test_errors_in_a_coroutine(source: Any) -> None:
    async def main() -> None:
        f = batched(half, size=4)
        got = [x async for x in f.amap(source(range(10)), return_exceptions=True)]
        assert [x if isinstance(x, int) else x.args[0] for x in got] == list(range(10))
        got = []
        with pytest.raises(ValueError, match="1"):
            async for x in f.amap(source(range(1000))):
                got.append(x)
        assert got == [0]
        assert f.stats().pending == 0

    run(main())


# ---- refused items ----


@any_order
def test_an_async_iterable_that_raises(ordered: bool) -> None:
    async def broken() -> AsyncIterator[int]:
        for n in range(5):
            yield n
            await asyncio.sleep(0)
        raise LookupError("the source")

    async def main() -> None:
        f = batched(echo, size=2, linger=None)
        got = []
        with pytest.raises(LookupError, match="the source"):
            async for result in f.amap(broken(), ordered=ordered, return_exceptions=True):
                got.append(result)
        assert len(set(got)) == len(got) <= 5
        assert f.stats().pending == 0

    run(main())


# ---- stopped early, in a coroutine ----


ASYNC_SOURCES = [Source, SizedSource, AsyncSource]


async def aleave_by_aclose(results: Any) -> None:
    await anext(results)
    await results.aclose()


async def aleave_by_break(results: Any) -> None:
    async for _ in results:
        break
    await results.aclose()


async def aleave_by_exception(results: Any) -> None:
    with pytest.raises(LookupError):
        async with contextlib.aclosing(results):
            async for _ in results:
                raise LookupError


async def aleave_by_garbage(results: Any) -> None:
    await anext(results)
    del results


async def aleave_by_cancellation(results: Any) -> None:
    async def consume() -> None:
        async for _ in results:
            came.set()

    came = asyncio.Event()
    task = asyncio.create_task(consume())
    await came.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


ALEAVE = [
    aleave_by_aclose,
    aleave_by_break,
    aleave_by_exception,
    aleave_by_garbage,
    aleave_by_cancellation,
]


@pytest.mark.parametrize("source", ASYNC_SOURCES)
@any_order
@pytest.mark.parametrize("linger", [0, None])
@pytest.mark.parametrize("leave", ALEAVE)
def test_leaving_early_in_a_coroutine(source: Any, ordered: bool, linger: Any, leave: Any) -> None:
    async def main() -> None:
        before = asyncio.all_tasks()
        gated = Gated()
        gated.release()
        f = batched(gated, size=2, linger=linger)
        await leave(f.amap(source(range(500)), window=12, ordered=ordered))
        gc.collect()
        await asyncio.sleep(0.002)  # first, because the close of the iterator may not have begun
        while f.stats().pending or not asyncio.all_tasks() <= before:
            await asyncio.sleep(0.002)
        stats = f.stats()
        assert stats.pending == 0
        check(stats)
        gated.open()
        await f.aflush(LIMIT)
        assert sum(map(len, gated.batches)) <= 4
        stats = f.stats()
        assert (stats.pending, stats.running) == (0, 0)
        check(stats)

    run(main())


@any_order
@pytest.mark.parametrize("leave", ALEAVE)
def test_leaving_early_with_an_async_function(ordered: bool, leave: Any) -> None:
    async def main() -> None:
        for source in ASYNC_SOURCES:
            function = Awaited(is_open=True)
            f: Any = batched(function, size=2)
            await leave(f.amap(source(itertools.repeat(1, 500)) if source is not SizedSource
                               else source([1] * 500), window=12, ordered=ordered))  # fmt: skip
            gc.collect()
            while f.stats().pending:
                await asyncio.sleep(0.002)
            check(f.stats())

    run(main())


def test_a_task_that_is_cancelled_twice_leaves_nothing() -> None:
    """Stopped a second time while its source is closing."""

    async def main() -> None:
        leaving, may_leave = asyncio.Event(), asyncio.Event()

        async def source() -> AsyncIterator[int]:
            try:
                for n in range(10):
                    yield n
                await asyncio.sleep(LIMIT)
            finally:
                leaving.set()
                await may_leave.wait()

        async def consume() -> None:
            async for _ in f.amap(source()):
                pass

        gated = Gated()
        f = batched(gated, size=2)
        task = asyncio.create_task(consume())
        while f.stats().accepted < 10:
            await asyncio.sleep(0.001)
        task.cancel()
        await leaving.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_leave.set()
        await asyncio.sleep(0)
        pending = f.stats().pending
        gated.open()
        assert pending == 0

    run(main())


def test_a_loop_that_ends_leaves_nothing() -> None:
    gated = Gated()
    gated.release()
    f = batched(gated, size=2)

    async def main() -> None:
        results = f.amap(AsyncSource(range(100)), window=20)
        globals()["_kept"] = results
        await anext(results)

    try:
        in_thread(lambda: asyncio.run(main())).result()
        assert f.stats().pending == 0
    finally:
        gated.open()
        del globals()["_kept"]
    check_idle(f)


# ---- slow async sources ----


@any_order
@pytest.mark.parametrize("linger", [0, None])
@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("is_async", [False, True])
def test_results_come_while_the_source_waits(
    ordered: bool, linger: Any, window: Any, is_async: bool
) -> None:
    async def main() -> None:
        came = asyncio.Event()

        async def source() -> AsyncIterator[int]:
            for n in range(5):
                yield n
                await came.wait()  # for the result of this one
                came.clear()

        f: Any = batched(Awaited(is_open=True) if is_async else echo, size=10, linger=linger)
        got = []
        async for result in f.amap(source(), ordered=ordered, window=window):
            got.append(result)
            came.set()
        assert got == done(range(5))

    run(main())


def test_a_slow_consumer_does_not_hold_up_the_source() -> None:
    async def main() -> None:
        f = batched(echo, size=2)
        items = AsyncSource(range(100))
        results = f.amap(items, window=10)
        await anext(results)
        for _ in range(200):
            await asyncio.sleep(0)
        assert 9 <= items.pulled <= 13  # one may wait for capacity
        await results.aclose()

    run(main())


# ---- with the other options ----


@any_order
@pytest.mark.parametrize("is_async", [False, True])
def test_linger_none_ends_without_a_flush_in_a_coroutine(ordered: bool, is_async: bool) -> None:
    async def main() -> None:
        for window in (None, 1, 2, 3, 5):
            for source in ASYNC_SOURCES:
                function: Any = Awaited(is_open=True) if is_async else echo
                f = batched(function, size=3, linger=None)
                results = f.amap(source(range(10)), ordered=ordered, window=window)
                assert sorted([result async for result in results]) == done(range(10))

    run(main())


def test_items_that_run_again_in_a_coroutine() -> None:
    async def main(source: Any, ordered: bool, is_async: bool) -> None:
        tried: collections.Counter[int] = collections.Counter()

        def function(items: list[int]) -> list[Any]:
            tried.update(items)
            return [item if tried[item] > item % 3 else Retry(attempts=3) for item in items]

        async def afunction(items: list[int]) -> list[Any]:
            return function(items)

        f: Any = batched(afunction if is_async else function, size=3, linger=None)
        got = [x async for x in f.amap(source(range(20)), ordered=ordered)]
        assert sorted(got) == list(range(20))
        assert not ordered or got == sorted(got)
        stats = f.stats()
        assert (stats.succeeded, stats.accepted, stats.pending) == (20, 20, 0)

    for source in ASYNC_SOURCES:
        for ordered in (True, False):
            for is_async in (True, False):
                run(main(source, ordered, is_async))
