"""`f.options(...).map` and `.amap`: the options apply to each call of the mapping."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from batchify import DeadlineExceeded, QueueFull, batched
from batchify.testing import eager, manual_clock


class Gate:
    """A batch function that notes its batches, and runs each when the test opens it."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.started = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        self.started.release()
        self.open.wait()
        return items


def in_a_thread(results: Any) -> tuple[threading.Thread, list[Any]]:
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend(results), daemon=True)
    thread.start()
    return thread, got


SOURCES = [list, iter]
every_source = pytest.mark.parametrize("source", SOURCES)
every_order = pytest.mark.parametrize("ordered", [True, False])


@every_source
@every_order
def test_results_are_those_of_map(source: Any, ordered: bool) -> None:
    f = batched(lambda items: [-item for item in items], size=4)
    for options in ({}, {"timeout": 1}, {"deadline": 3600}, {"priority": 2}):
        got = list(f.options(**options).map(source(range(50)), ordered=ordered, window=10))
        assert (got if ordered else sorted(got, reverse=True)) == [-n for n in range(50)]
    f.close()


def test_arguments_are_checked_as_in_map() -> None:
    view = batched(lambda items: items).options(priority=1)
    with pytest.raises(TypeError, match="window"):
        view.map([1], window="many")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="items must be an iterable"):
        view.map(1)  # type: ignore[arg-type]


@every_source
def test_a_timeout_limits_the_wait_for_capacity(source: Any) -> None:
    gate = Gate()
    f = batched(gate, size=2, capacity=2)
    futures = [f("running"), f("queued")]
    gate.started.acquire()
    results = f.options(timeout=0).map(source(range(3)), return_exceptions=True)
    assert [type(one) for one in results] == [QueueFull] * 3
    with pytest.raises(QueueFull):
        list(f.options(timeout=0).map(source(range(3))))
    gate.open.set()
    assert [future.result() for future in futures] == ["running", "queued"]
    f.close()


@every_source
@every_order
def test_a_deadline_counts_for_each_item(source: Any, ordered: bool) -> None:
    with manual_clock() as clock:
        f = batched(lambda items: items, size=2, linger=60)
        results = f.options(deadline=5).map(
            source(["late"]), ordered=ordered, return_exceptions=True
        )
        thread, got = in_a_thread(results)
        while not f.stats().pending:
            thread.join(0.001)
        clock.advance(5)
        thread.join()
        assert [type(one) for one in got] == [DeadlineExceeded]


def test_a_deadline_begins_with_the_submission_of_its_item() -> None:
    """Items that the window holds back do not expire."""
    with manual_clock() as clock:
        f = batched(lambda items: items, size=1)
        got = []
        for result in f.options(deadline=5).map([1, 2, 3], window=1):
            got.append(result)
            clock.advance(4)
        assert got == [1, 2, 3]


@every_source
def test_a_priority_overtakes_queued_items(source: Any) -> None:
    gate = Gate()
    f = batched(gate, size=2)
    first = f("first")
    gate.started.acquire()
    others = [f("low"), f("low")]
    results: Any = f.options(priority=1).map(source(["high", "high"]))
    thread, got = in_a_thread(results)
    while f.stats().pending < 4:
        thread.join(0.001)
    gate.open.set()
    thread.join()
    assert [future.result() for future in [first, *others]] == ["first", "low", "low"]
    assert got == ["high", "high"]
    assert gate.batches == [["first"], ["high", "high"], ["low", "low"]]
    f.close()


def test_full_batches_of_a_collection_where_the_options_allow_it() -> None:
    """With a timeout, full batches are submitted only if there is capacity."""
    f = batched(lambda items: items, size=4)
    assert list(f.options(timeout=1).map(range(8), window=8)) == list(range(8))
    assert [f.stats().sizes.p50, f.stats().batches] == [4, 2]
    f.close()


def test_leaving_early_cancels() -> None:
    f = batched(lambda items: items, size=2, linger=None)
    results: Any = f.options(priority=1).map([1, 2, 3], window=3)
    assert next(results) == 1
    results.close()
    f.close()
    assert f.stats().accepted == f.stats().succeeded + f.stats().cancelled


def test_eager() -> None:
    f = batched(lambda items: [len(items)] * len(items))
    with eager():
        assert list(f.options(priority=1).map(range(3))) == [1, 1, 1]


def test_methods() -> None:
    class Table:
        @batched
        def insert(self, rows: list[int]) -> list[int]:
            return rows

    table = Table()
    assert list(table.insert.options(priority=1).map(range(3))) == [0, 1, 2]
    table.insert.close()


def test_an_error_of_the_iterable_comes_last() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError

    f = batched(lambda items: items)
    got: list[int] = []
    with pytest.raises(LookupError):
        got.extend(f.options(priority=1).map(broken()))
    assert got == [1]
    f.close()


# ---- amap ----


async def numbers(count: int) -> AsyncIterator[int]:
    for n in range(count):
        yield n


ASYNC_SOURCES = [lambda n: list(range(n)), lambda n: iter(range(n)), numbers]


async def echo(items: list[int]) -> list[int]:
    return items


@pytest.mark.parametrize("source", ASYNC_SOURCES)
@every_order
@pytest.mark.parametrize("function", [echo, lambda items: items])
def test_amap(source: Any, ordered: bool, function: Any) -> None:
    async def main() -> None:
        f = batched(function, size=4)
        for options in ({}, {"timeout": 3600}, {"deadline": 3600}, {"priority": 2}):
            results = f.options(**options).amap(source(20), ordered=ordered, window=5)
            got = [result async for result in results]
            assert (got if ordered else sorted(got)) == list(range(20))
        await f.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("source", ASYNC_SOURCES)
def test_amap_with_a_timeout(source: Any) -> None:
    async def main() -> None:
        gate = Gate()
        f = batched(gate, size=1, capacity=1)
        future = f("running")
        results = f.options(timeout=0.01).amap(source(2), return_exceptions=True)
        assert [type(result) async for result in results] == [QueueFull] * 2
        gate.open.set()
        assert await future == "running"
        await f.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("source", ASYNC_SOURCES)
def test_amap_with_a_deadline(source: Any) -> None:
    async def main() -> None:
        async with manual_clock() as clock:
            f = batched(echo, size=9, linger=60)
            results = f.options(deadline=5).amap(source(2), return_exceptions=True)
            task = asyncio.create_task(anext(results))
            await clock.aadvance(5)
            assert isinstance(await task, DeadlineExceeded)
            await results.aclose()

    asyncio.run(main())
