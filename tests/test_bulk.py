"""`map` and `amap`: a whole iterable through a batched function (contract 3)."""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import functools
import gc
import io
import itertools
import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, ClassVar

import pytest

from batchify import (
    BadResult,
    BatchAborted,
    BatchFuture,
    Closed,
    Deadlock,
    ItemTooHeavy,
    MissingResult,
    Retry,
    RetryExhausted,
    Stats,
    batched,
)
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until


def echo(items: list[Any]) -> list[Any]:
    return [("done", item) for item in items]


def done(items: Any) -> list[Any]:
    return [("done", item) for item in items]


def check(stats: Stats) -> None:
    """Check the equation that holds at any time."""
    ended = stats.succeeded + stats.failed + stats.cancelled + stats.expired
    assert stats.accepted == ended + stats.pending + stats.running, stats


def check_idle(f: Any) -> Stats:
    """Check that nothing is left once the running batches have ended."""
    until(lambda: f.stats().running == 0)
    stats: Stats = f.stats()
    assert stats.pending == 0
    check(stats)
    return stats


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Call `asyncio.run` in a new thread, so that a hung loop fails the test."""
    return in_thread(lambda: asyncio.run(asyncio.wait_for(coroutine, LIMIT))).result(LIMIT + 2)


class Source:
    """An iterable that counts the items taken from it."""

    def __init__(self, items: Any, tell: Callable[[], object] = lambda: None) -> None:
        self.items = items
        self.pulled = 0
        self.tell = tell

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.pulled += 1
            self.tell()
            yield item


class SizedSource(Source):
    """A collection that is as lazy."""

    def __len__(self) -> int:
        return len(self.items)

    def __contains__(self, item: object) -> bool:
        return item in self.items


class OnlySized(Source):
    """As `list` is sized and iterable, but no `Collection`."""

    def __len__(self) -> int:
        return len(self.items)


class AsyncSource(Source):
    """An async iterable that counts its items, and lets other tasks run between two items."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self.items:
            self.pulled += 1
            self.tell()
            yield item
            await asyncio.sleep(0)


class OldSequence:
    """Iterable by `__getitem__` alone."""

    def __getitem__(self, at: int) -> int:
        return range(5)[at]


SOURCES = [Source, SizedSource]
any_source = pytest.mark.parametrize("source", SOURCES)
any_order = pytest.mark.parametrize("ordered", [True, False])


class Awaited:
    """An async batch function that records its batches; each waits until the test releases it."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.is_open = is_open

    async def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(list(items))
        while not self.is_open:
            await asyncio.sleep(0.001)
        return done(items)


# ---- results ----


ITERABLES: list[Callable[[], Any]] = [
    lambda: [3, 1, 2] * 5,
    lambda: (3, 1, 2),
    lambda: range(100),
    lambda: range(64),
    lambda: {5, 6, 7},
    lambda: frozenset("abc"),
    lambda: {"a": 1, "b": 2},
    lambda: {"a": 1, "b": 2}.items(),
    lambda: array.array("i", [4, 5, 6]),
    lambda: b"bytes",
    lambda: "text of more than ten",
    lambda: collections.deque(range(9)),
    lambda: (n for n in range(25)),
    lambda: iter([1, 2, 3]),
    lambda: map(str, range(12)),
    lambda: io.StringIO("a line\nanother\nlast"),
    lambda: OldSequence(),
    lambda: Source(range(23)),
    lambda: SizedSource(range(23)),
    lambda: OnlySized(range(23)),
    lambda: [None, None],
    lambda: [[], {}, [1]],
]
EMPTY: list[Callable[[], Any]] = [list, tuple, dict, set, str, lambda: range(0), lambda: iter(())]


@any_order
@pytest.mark.parametrize("items", [*ITERABLES, *EMPTY])
@pytest.mark.parametrize("size", [1, 4, 64])
def test_any_iterable(items: Callable[[], Any], ordered: bool, size: int) -> None:
    f = batched(echo, size=size)
    got = list(f.map(items(), ordered=ordered))
    expected = done(items())
    if ordered:
        assert got == expected
    else:
        assert sorted(got, key=repr) == sorted(expected, key=repr)
    assert f.stats().succeeded == len(expected)
    check_idle(f)


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


def test_of_an_async_function_from_a_thread() -> None:
    function = Awaited(is_open=True)
    f: Any = batched(function, size=4)
    assert list(f.map(range(10))) == done(range(10))
    assert sorted(f.map((n for n in range(10)), ordered=False)) == done(range(10))
    assert max(map(len, function.batches)) <= 4
    check_idle(f)


@any_order
@any_source
def test_a_hundred_thousand_items(source: Any, ordered: bool) -> None:
    sizes: list[int] = []

    @batched(size=100, workers=2)
    def f(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return [item + 1 for item in items]

    got = list(f.map(source(range(100_000)), ordered=ordered))
    assert (got if ordered else sorted(got)) == list(range(1, 100_001))
    assert max(sizes) <= 100
    assert sum(sizes) == 100_000
    stats = check_idle(f)
    assert stats.submitted == stats.accepted == stats.succeeded == 100_000
    assert stats.batches == len(sizes)


def test_full_batches_of_a_collection_take_fewer_futures_than_items() -> None:
    gated = Gated()
    f = batched(gated, size=50)

    def futures() -> int:
        return sum(isinstance(thing, BatchFuture) for thing in gc.get_objects())

    before = futures()
    results = f.map(list(range(2000)), window=1000)
    mapping = in_thread(lambda: list(results))
    gated.wait_started(1)
    until(lambda: (s := f.stats()).running + s.pending >= 800)
    assert futures() - before < 200
    gated.open()
    assert mapping.result() == done(range(2000))
    assert gated.batches == [list(range(at, at + 50)) for at in range(0, 2000, 50)]


def test_the_rest_of_a_mapping_shares_its_batch_with_other_calls() -> None:
    gated = Gated(is_open=True)
    f = batched(gated, size=4, linger=None)
    lonely = f("lonely")
    assert list(f.map(range(6))) == done(range(6))
    assert lonely.result(LIMIT) == ("done", "lonely")
    assert sorted(gated.batches, key=len) == [["lonely", 4, 5], [0, 1, 2, 3]]


def test_items_of_an_iterator_share_batches_with_the_calls_of_others() -> None:
    gated = Gated(is_open=True)
    f = batched(gated, size=4, linger=None)
    lonely = f("lonely")
    assert list(f.map(n for n in range(3))) == done(range(3))
    assert lonely.result(LIMIT) == ("done", "lonely")
    assert gated.batches == [["lonely", 0, 1, 2]]


@any_order
def test_generator_functions_give_each_element_as_soon_as_it_is_yielded(ordered: bool) -> None:
    received = threading.Event()
    in_time: list[bool] = []

    @batched(size=3)
    def f(items: list[int]) -> Iterator[int]:
        for item in items:
            yield item * 2
            if item == 0:
                in_time.append(received.wait(LIMIT))

    got = []
    for result in f.map([0, 1, 2], ordered=ordered):
        got.append(result)
        received.set()
    assert got == [0, 2, 4]
    assert in_time == [True]


@any_source
def test_a_mapping_and_none(source: Any) -> None:
    by_item = batched(lambda items: {item: -item for item in reversed(items)}, size=4)
    assert list(by_item.map(source(range(10)))) == [-n for n in range(10)]
    nothing: Any = batched(lambda items: None, size=4)
    assert list(nothing.map(source(range(10)))) == [None] * 10


@any_source
@any_order
def test_results_that_are_futures_come_as_they_are(source: Any, ordered: bool) -> None:
    """As with `f(item).result()`: a function may return futures of another function."""
    inner = batched(echo, size=4, linger=None)
    outer: Any = batched(lambda items: [inner(item) for item in items], size=4)
    mapping = in_thread(lambda: list(outer.map(source(range(4)), ordered=ordered)))
    try:
        futures = mapping.result(LIMIT)
    finally:
        inner.close()
    assert all(isinstance(future, BatchFuture) for future in futures), futures
    assert sorted(future.result(LIMIT) for future in futures) == done(range(4))


def test_results_that_are_futures_come_as_they_are_in_a_coroutine() -> None:
    async def main() -> None:
        inner = batched(echo)
        outer: Any = batched(lambda items: [inner(item) for item in items], size=4)
        for items in ([1, 2, 3, 4, 5], iter([1, 2, 3])):
            got = [result async for result in outer.amap(items)]
            assert all(isinstance(future, BatchFuture) for future in got), got

    run(main())


@any_source
def test_the_function_may_change_its_list(source: Any) -> None:
    tried: set[int] = set()

    @batched(size=4)
    def f(items: list[int]) -> list[Any]:
        given = list(items)
        items.clear()
        items.append(-1)
        results: list[Any] = [n if n in tried or n % 3 else Retry() for n in given]
        tried.update(given)
        return results

    assert list(f.map(source(range(16)))) == list(range(16))
    assert f.stats().retried == 6


# ---- lazy ----


@any_source
def test_nothing_is_pulled_before_the_first_next(source: Any) -> None:
    items = source(range(100))
    f = batched(echo, size=4)
    results = f.map(items)
    assert items.pulled == 0
    assert (f.stats().submitted, f.stats().workers) == (0, 0)
    assert next(results) == ("done", 0)
    assert items.pulled > 0
    results.close()


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


@any_source
@any_order
@pytest.mark.parametrize("window", [1, 3, 4, 10, 17, 1000])
@pytest.mark.parametrize("size", [1, 4])
def test_never_more_than_window_unresolved(
    source: Any, ordered: bool, window: int, size: int
) -> None:
    resolved = 0
    unresolved: list[int] = []

    @batched(size=size)
    def f(items: list[int]) -> list[Any]:
        nonlocal resolved
        resolved += len(items)
        return echo(items)

    items = source(range(200), lambda: unresolved.append(items.pulled - resolved))
    got = list(f.map(items, ordered=ordered, window=window))
    assert sorted(got) == done(range(200))
    assert max(unresolved) <= window
    check_idle(f)


@any_source
@any_order
def test_the_window_is_used_and_not_exceeded_while_nothing_ends(source: Any, ordered: bool) -> None:
    gated = Gated()
    f = batched(gated, size=3)
    items = source(range(100))
    results = f.map(items, window=9, ordered=ordered)
    first = in_thread(next, results)
    until(lambda: (s := f.stats()).running + s.pending == 9)
    assert items.pulled == 9
    gated.open()
    assert first.result() == ("done", 0)
    assert sorted(results) == done(range(1, 100))


def test_the_consumer_sets_the_pace() -> None:
    items = Source(itertools.count())
    f = batched(echo, size=2)
    results = f.map(items, window=6)
    for n in range(50):
        assert next(results) == ("done", n)
        assert items.pulled <= n + 1 + 6
    results.close()
    check_idle(f)


@any_order
def test_infinite_iterables(ordered: bool) -> None:
    f = batched(echo, size=7)
    with contextlib.closing(f.map(itertools.count(), ordered=ordered, window=50)) as results:
        got = list(itertools.islice(results, 1000))
    assert len(set(got)) == 1000
    assert max(n for _, n in got) < 1050
    check_idle(f)


@any_source
def test_the_default_window_is_the_capacity(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=6)
    items = source(range(50))
    mapping = in_thread(lambda: list(f.map(items)))
    until(lambda: (s := f.stats()).running + s.pending == 6)
    gated.wait_started(1)
    assert items.pulled == 6
    gated.open()
    assert mapping.result() == done(range(50))


def test_without_a_capacity_it_is_lazy_too() -> None:
    f = batched(echo, size=2, capacity=None)
    results = f.map(itertools.count())
    assert [next(results) for _ in range(5)] == done(range(5))
    results.close()
    check_idle(f)


@any_source
@any_order
def test_a_window_larger_than_the_capacity(source: Any, ordered: bool) -> None:
    sizes = []

    @batched(size=4, capacity=5)
    def f(items: list[int]) -> list[Any]:
        stats = f.stats()
        check(stats)
        sizes.append(stats.running + stats.pending)
        return echo(items)

    mapping = in_thread(lambda: sorted(f.map(source(range(100)), window=50, ordered=ordered)))
    assert mapping.result() == done(range(100))
    assert max(sizes) <= 5
    check_idle(f)


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


class Steps:
    """A batch function whose batches end when their first item is released."""

    def __init__(self, *items: int) -> None:
        self.events = {item: threading.Event() for item in items}

    def __call__(self, items: list[int]) -> list[int]:
        assert self.events[items[0]].wait(LIMIT)
        return items


@any_source
def test_as_they_are_done(source: Any) -> None:
    steps = Steps(0, 2, 4)
    f = batched(steps, size=2, workers=3, linger=None)
    results = f.map(source(range(6)), ordered=False)
    steps.events[4].set()
    assert {next(results), next(results)} == {4, 5}
    steps.events[0].set()
    assert {next(results), next(results)} == {0, 1}
    steps.events[2].set()
    assert set(results) == {2, 3}


@any_source
def test_in_order_however_they_are_done(source: Any) -> None:
    steps = Steps(0, 2, 4)
    f = batched(steps, size=2, workers=3, linger=None)
    results = f.map(source(range(6)))
    first = in_thread(next, results)
    steps.events[4].set()
    steps.events[2].set()
    until(lambda: f.stats().succeeded == 4)
    assert not first.is_done()
    steps.events[0].set()
    assert first.result() == 0
    assert list(results) == [1, 2, 3, 4, 5]


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


def half(items: list[Any]) -> list[Any]:
    return [item if item % 2 == 0 else ValueError(item) for item in items]


@any_source
@pytest.mark.parametrize("size", [1, 4])
def test_return_exceptions_gives_them_in_their_place(source: Any, size: int) -> None:
    f = batched(half, size=size)
    got = list(f.map(source(range(10)), return_exceptions=True))
    assert got[::2] == [0, 2, 4, 6, 8]
    assert [(type(error), error.args) for error in got[1::2]] == [
        (ValueError, (n,)) for n in (1, 3, 5, 7, 9)
    ]
    stats = check_idle(f)
    assert (stats.succeeded, stats.failed) == (5, 5)


@any_source
def test_return_exceptions_as_they_are_done(source: Any) -> None:
    f = batched(half, size=4)
    got = list(f.map(source(range(10)), return_exceptions=True, ordered=False))
    assert sorted(x if isinstance(x, int) else x.args[0] for x in got) == list(range(10))
    assert sum(isinstance(x, ValueError) for x in got) == 5


@any_source
@pytest.mark.parametrize("size", [1, 4])
def test_the_first_error_is_raised_and_the_rest_cancelled(source: Any, size: int) -> None:
    ran: list[int] = []
    gate = threading.Event()

    @batched(size=size, capacity=2000)
    def f(items: list[int]) -> list[Any]:
        ran.extend(items)
        if items[0] > 4:
            assert gate.wait(LIMIT)
        return [item if item != 2 else ValueError("two") for item in items]

    items = source(range(1000))
    results = f.map(items)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
    assert f.stats().pending == 0
    pulled = items.pulled
    gate.set()
    stats = check_idle(f)
    assert len(ran) < 1000
    assert stats.cancelled == stats.accepted - len(ran)
    with pytest.raises(StopIteration):
        next(results)
    assert items.pulled == pulled


FAILURES: list[tuple[Callable[[list[int]], Any], type[BaseException]]] = [
    (lambda items: 1 / 0, ZeroDivisionError),
    (lambda items: items[1:], BadResult),
    (lambda items: "text", BadResult),
    (lambda items: sys.exit(), BatchAborted),
    (lambda items: {}, MissingResult),
    (lambda items: next(iter([])), RuntimeError),
    (lambda items: [StopIteration() for _ in items], RuntimeError),
    (lambda items: [KeyboardInterrupt() for _ in items], BatchAborted),
    (lambda items: [Retry(attempts=1) for _ in items], RetryExhausted),
    (lambda items: [Retry(attempts=3) for _ in items], RetryExhausted),
]


@any_source
@any_order
@pytest.mark.parametrize(("function", "error"), FAILURES)
def test_what_fails_as_calls_do(source: Any, ordered: bool, function: Any, error: Any) -> None:
    f = batched(function, size=4)
    got = list(f.map(source(range(10)), ordered=ordered, return_exceptions=True))
    assert [type(x) for x in got] == [error] * 10
    assert len({id(x) for x in got}) == 10, "each item has an error of its own"
    with pytest.raises(error):
        list(f.map(source(range(10)), ordered=ordered))
    f.flush(LIMIT)  # items that were running may have been retried
    stats = check_idle(f)
    assert stats.succeeded == 0


def test_a_generator_function_that_fails_half_way() -> None:
    @batched(size=4, linger=None)
    def f(items: list[int]) -> Iterator[int]:
        yield from items[:2]
        raise LookupError

    for items in (range(8), iter(range(8))):
        got = list(f.map(items, return_exceptions=True))
        assert [x if isinstance(x, int) else type(x) for x in got] == [
            0, 1, LookupError, LookupError, 4, 5, LookupError, LookupError,
        ]  # fmt: skip
    stats = check_idle(f)
    assert (stats.succeeded, stats.failed) == (8, 8)


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


def weigh(item: Any) -> float:
    return float(item)


@any_source
@any_order
def test_an_item_too_heavy_is_its_own_outcome(source: Any, ordered: bool) -> None:
    f = batched(echo, size=4, weight=weigh, max_weight=5)
    got = list(f.map(source([1, 9, 2]), return_exceptions=True, ordered=ordered))
    if ordered:
        assert (got[0], type(got[1]), got[2]) == (("done", 1), ItemTooHeavy, ("done", 2))
    assert sorted(map(repr, filter(lambda x: isinstance(x, tuple), got))) == [
        "('done', 1)",
        "('done', 2)",
    ]
    assert [type(x) for x in got if isinstance(x, Exception)] == [ItemTooHeavy]
    stats = check_idle(f)
    assert (stats.submitted, stats.accepted, stats.rejected) == (3, 2, 1)


@any_source
def test_an_item_too_heavy_is_raised_in_its_turn(source: Any) -> None:
    f = batched(echo, size=4, weight=weigh, max_weight=5)
    results = f.map(source([1, 9, 2]))
    assert next(results) == ("done", 1)
    with pytest.raises(ItemTooHeavy):
        next(results)
    check_idle(f)


@any_source
@pytest.mark.parametrize(
    ("options", "bad", "error"),
    [
        ({"key": lambda item: 1 // item}, 0, ZeroDivisionError),
        ({"key": lambda item: [] if item == 0 else item}, 0, TypeError),
        ({"dedupe": lambda item: 1 / item}, 0, ZeroDivisionError),
        ({"dedupe": True}, [], TypeError),
        ({"weight": lambda item: 1 / item, "max_weight": 9}, 0, ZeroDivisionError),
    ],
)
def test_errors_of_what_looks_at_an_item_are_its_outcome(
    source: Any, options: Any, bad: Any, error: Any
) -> None:
    f = batched(echo, size=4, **options)
    got = list(f.map(source([1, bad, 2, bad, 3]), return_exceptions=True))
    assert [x if isinstance(x, tuple) else type(x) for x in got] == [
        ("done", 1), error, ("done", 2), error, ("done", 3),
    ]  # fmt: skip
    assert f.stats().rejected == 2

    async def main() -> None:
        got = [x async for x in f.amap(source([1, bad]), return_exceptions=True)]
        assert [type(x) for x in got] == [tuple, error]

    run(main())
    check_idle(f)


@any_order
def test_a_closed_function_refuses_every_item(ordered: bool) -> None:
    f = batched(echo, size=2)
    f.close()
    for items in ([1, 2, 3], iter([1, 2, 3])):
        got = list(f.map(items, return_exceptions=True, ordered=ordered))
        assert [type(x) for x in got] == [Closed] * 3
    with pytest.raises(Closed):
        next(f.map([1, 2]))
    f.start()
    assert list(f.map([1, 2])) == done([1, 2])


def test_an_iterable_that_raises() -> None:
    def broken() -> Iterator[int]:
        yield from range(5)
        raise LookupError("the source")

    for source in (broken, lambda: SizedSource(_Broken()), lambda: Source(broken())):
        for ordered in (True, False):
            f = batched(echo, size=2, linger=None)
            results = f.map(source(), ordered=ordered, return_exceptions=True)
            got = []
            with pytest.raises(LookupError, match="the source"):
                for result in results:
                    got.append(result)
            assert len(set(got)) == len(got) <= 5
            check_idle(f)
            with pytest.raises(StopIteration):
                next(results)


class _Broken:
    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[int]:
        yield from range(5)
        raise LookupError("the source")


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


# ---- stopped early ----


def leave_by_break(results: Any) -> None:
    for _ in results:
        break


def leave_by_close(results: Any) -> None:
    next(results)
    results.close()


def leave_by_exception(results: Any) -> None:
    with pytest.raises(LookupError):
        for _ in results:
            raise LookupError


def leave_by_garbage(results: Any) -> None:
    next(results)
    cycle = [results]
    cycle.append(cycle)
    del results, cycle


def test_nothing_comes_after_a_close() -> None:
    f = batched(lambda items: items, size=4)
    results: Any = f.map(list(range(12)))
    assert next(results) == 0
    results.close()
    assert list(results) == []
    unused: Any = f.map(list(range(12)))
    unused.close()
    assert list(unused) == []


LEAVE = [leave_by_break, leave_by_close, leave_by_exception, leave_by_garbage]


@any_source
@any_order
@pytest.mark.parametrize("linger", [0, None, 1000])
@pytest.mark.parametrize("leave", LEAVE)
def test_leaving_early_cancels_what_has_not_started(
    source: Any, ordered: bool, linger: Any, leave: Any
) -> None:
    gated = Gated()
    f = batched(gated, size=2, linger=linger)
    items = source(
        itertools.count() if source is Source else range(500),
        lambda: (
            gated.release() if items.pulled == 12 else None
        ),  # no result before the window is full
    )
    in_thread(lambda: leave(f.map(items, window=12, ordered=ordered))).result()
    gc.collect()
    until(lambda: f.stats().pending == 0)
    gated.wait_started(1)
    started = sum(map(len, gated.batches))
    assert started <= 4  # the released one, and a running one
    gated.open()
    stats = check_idle(f)
    assert stats.succeeded == sum(map(len, gated.batches)) <= 4
    assert stats.cancelled == stats.accepted - stats.succeeded
    assert stats.cancelled
    one = f(1)
    f.flush(LIMIT)
    assert one.result(0) == ("done", 1)


def test_leaving_hurts_no_neighbour() -> None:
    gated = Gated()
    f = batched(gated, size=4)
    results = f.map(n for n in range(100))
    first = in_thread(next, results)
    gated.wait_started(1)
    mine = [f("mine"), f("mine too")]
    gated.release()
    first.result()
    results.close()
    gated.open()
    assert [future.result(LIMIT) for future in mine] == [("done", "mine"), ("done", "mine too")]
    check_idle(f)


def test_closing_before_the_first_next() -> None:
    items = Source(range(5))
    f = batched(echo)
    results = f.map(items)
    results.close()
    assert list(results) == []
    assert (items.pulled, f.stats().submitted) == (0, 0)


@any_source
@any_order
def test_leaving_early_cancels_items_that_were_to_run_again(source: Any, ordered: bool) -> None:
    @batched(size=4, linger=None)
    def f(items: list[int]) -> list[Any]:
        return [item if item % 4 == 0 else Retry(after=1000) for item in items]

    results = f.map(source(range(8)), ordered=ordered, window=4)
    assert next(results) == 0
    until(lambda: f.stats().retried == 3)
    results.close()
    stats = f.stats()
    f.close(cancel=True)
    check(stats)
    assert (stats.pending, stats.succeeded, stats.cancelled) == (0, 1, 3)


@any_source
def test_an_error_cancels_items_that_were_to_run_again(source: Any) -> None:
    @batched(size=4, linger=None)
    def f(items: list[int]) -> list[Any]:
        return [ValueError() if item == 0 else Retry(after=1000) for item in items]

    with pytest.raises(ValueError):
        list(f.map(source(range(8)), window=4))
    stats = f.stats()
    f.close(cancel=True)
    check(stats)
    assert (stats.pending, stats.failed, stats.cancelled) == (0, 1, 3)


@any_source
def test_leaving_early_after_the_size_was_made_smaller(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=4)
    results = f.map(source(range(100)), window=20)
    first = in_thread(next, results)
    gated.wait_started(1)
    until(lambda: (s := f.stats()).pending + s.running == 20)
    f.size = 2
    gated.release()
    assert first.result() == ("done", 0)
    results.close()
    pending = f.stats().pending
    gated.open()
    assert pending == 0
    check_idle(f)
    assert sum(map(len, gated.batches)) <= 8


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


@any_source
@any_order
@pytest.mark.parametrize("window", [None, 1, 2, 3, 5])
def test_linger_none_ends_without_a_flush(source: Any, ordered: bool, window: Any) -> None:
    f = batched(echo, size=3, linger=None)
    mapping = in_thread(lambda: sorted(f.map(source(range(10)), ordered=ordered, window=window)))
    assert mapping.result() == done(range(10))
    check_idle(f)


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


@any_source
@any_order
def test_linger_none_with_items_that_run_again(source: Any, ordered: bool) -> None:
    tried: collections.Counter[int] = collections.Counter()

    @batched(size=3, linger=None)
    def f(items: list[int]) -> list[Any]:
        tried.update(items)
        return [item if tried[item] > item % 3 else Retry(attempts=3) for item in items]

    mapping = in_thread(lambda: sorted(f.map(source(range(20)), ordered=ordered)))
    assert mapping.result() == list(range(20))
    stats = check_idle(f)
    assert stats.retried == sum(n % 3 for n in range(20))
    assert (stats.succeeded, stats.accepted, stats.submitted) == (20, 20, 20)


@any_source
def test_items_that_run_again_wait_as_long_as_they_asked_for(source: Any) -> None:
    """Including those of a last batch, which only the mapping flushed."""
    seam = ManualSeam()
    batches = []

    def function(items: list[int]) -> list[Any]:
        batches.append(list(items))
        return [Retry(after=5) for _ in items] if len(batches) == 1 else items

    f = batched_with(seam, function, size=4, linger=None)
    mapping = in_thread(lambda: list(f.map(source(range(3)))))
    until(lambda: f.stats().retried == 3)
    seam.advance(4)
    assert batches == [[0, 1, 2]]
    seam.advance(1)
    assert mapping.result() == [0, 1, 2]
    assert batches == [[0, 1, 2], [0, 1, 2]]


@any_source
def test_a_mapping_does_not_shorten_the_delay_of_retries(source: Any) -> None:
    seam, gated = ManualSeam(), Gated()

    def function(items: list[int]) -> list[Any]:
        gated(items)
        return [Retry(after=5) for _ in items] if len(gated.batches) <= 2 else items

    f = batched_with(seam, function, size=4, linger=None)
    others = [f(n) for n in range(10, 14)]
    gated.wait_started(1)
    mapping = in_thread(lambda: list(f.map(source(range(4)))))
    until(lambda: f.stats().accepted == 8)
    mapping.thread.join(0.02)  # it waits, behind the batch that runs
    gated.release(2)
    until(lambda: f.stats().retried == 8)
    seam.advance(4)
    assert len(gated.batches) == 2
    gated.open()
    seam.advance(1)
    assert mapping.result() == [0, 1, 2, 3]
    assert [future.result(LIMIT) for future in others] == [10, 11, 12, 13]


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


@any_source
@any_order
def test_key(source: Any, ordered: bool) -> None:
    batches = []

    @batched(size=4, linger=None, key=lambda item: item % 3)
    def f(items: list[int]) -> list[Any]:
        batches.append(list(items))
        return echo(items)

    assert sorted(f.map(source(range(40)), ordered=ordered)) == done(range(40))
    assert all(len({item % 3 for item in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) <= 4


@any_source
@any_order
def test_weight(source: Any, ordered: bool) -> None:
    batches = []

    @batched(size=4, linger=None, weight=weigh, max_weight=30)
    def f(items: list[int]) -> list[Any]:
        batches.append(list(items))
        return echo(items)

    assert sorted(f.map(source(range(30)), ordered=ordered)) == done(range(30))
    assert max(map(sum, batches)) <= 30
    assert max(map(len, batches)) <= 4


@any_source
@any_order
def test_dedupe(source: Any, ordered: bool) -> None:
    batches = []

    @batched(size=4, linger=None, dedupe=True)
    def f(items: list[int]) -> list[Any]:
        batches.append(list(items))
        return echo(items)

    assert sorted(f.map(source([1, 1, 2, 1] * 5), ordered=ordered)) == done([1] * 15 + [2] * 5)
    assert batches == [[1, 2]] * 5
    assert f.stats().deduplicated == 10


@any_source
def test_isolate(source: Any) -> None:
    @batched(size=8, isolate=True)
    def f(items: list[int]) -> list[Any]:
        if 5 in items:
            raise ValueError(items)
        return echo(items)

    got = list(f.map(source(range(16)), return_exceptions=True))
    assert [got[n] for n in range(16) if n != 5] == [("done", n) for n in range(16) if n != 5]
    assert isinstance(got[5], ValueError)
    stats = check_idle(f)
    assert (stats.succeeded, stats.failed) == (15, 1)


@any_source
def test_on_error(source: Any) -> None:
    seen = []

    def fallback(failure: Any) -> list[Any]:
        seen.extend(failure.items)
        assert failure.batched is f
        return [-item for item in failure.items]

    @batched(size=4, on_error=fallback)
    def f(items: list[int]) -> list[int]:
        if 5 in items:
            items.clear()
            raise ValueError
        return items

    got = list(f.map(source(range(12))))
    assert 5 in seen
    assert got == [-n if n in seen else n for n in range(12)]
    assert check_idle(f).failed == 0


@any_source
def test_items_that_do_not_fill_a_batch_keep_their_linger(source: Any) -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=4, linger=5)
    mapping = in_thread(lambda: list(f.map(source(range(6)))))
    until(lambda: f.stats().accepted == 6 and f.stats().succeeded == 4)
    seam.advance(4.9)
    assert gated.batches == [[0, 1, 2, 3]]
    seam.advance(0.2)
    assert mapping.result() == done(range(6))
    assert gated.batches == [[0, 1, 2, 3], [4, 5]]
    reasons = f.stats().reasons
    assert (reasons["size"], reasons["linger"]) == (1, 1)


class Thing:
    __slots__ = ("factor",)

    def __init__(self, factor: int) -> None:
        self.factor = factor

    @batched(size=3)
    def times(self, items: list[int]) -> list[int]:
        return [item * self.factor for item in items]

    @batched(size=3)
    @classmethod
    def named(cls, items: list[int]) -> list[str]:
        return [cls.__name__ + str(item) for item in items]

    @batched(size=3)
    @staticmethod
    def plus(items: list[int]) -> list[int]:
        return [item + 1 for item in items]


def test_methods() -> None:
    for items in (lambda: range(7), lambda: iter(range(7))):
        assert list(Thing(3).times.map(items())) == [n * 3 for n in range(7)]
        assert list(Thing.named.map(items())) == [f"Thing{n}" for n in range(7)]
        assert list(Thing.plus.map(items())) == [n + 1 for n in range(7)]

    async def main() -> None:
        assert [x async for x in Thing(2).times.amap(range(7))] == [n * 2 for n in range(7)]

    run(main())


# ---- among other callers ----


@any_order
def test_many_that_map_and_others_that_call(ordered: bool) -> None:
    sizes: list[int] = []

    @batched(size=4, capacity=6, workers=2)
    def f(items: list[int]) -> list[Any]:
        sizes.append(len(items))
        return echo(items)

    def mapping(start: int) -> list[Any]:
        items: Any = range(start, start + 300)
        return sorted(f.map(items if start % 2000 else iter(items), ordered=ordered))

    def calling(start: int) -> list[Any]:
        return [f(n).result(LIMIT) for n in range(start, start + 50)]

    over = threading.Event()

    def watching() -> None:
        while not over.wait(0.0002):
            stats = f.stats()
            check(stats)
            assert stats.pending + stats.running <= 6

    watch = in_thread(watching)
    maps = [in_thread(mapping, n * 1000) for n in range(4)]
    calls = [in_thread(calling, n * 1000) for n in range(10, 13)]
    assert [m.result() for m in maps] == [done(range(n, n + 300)) for n in range(0, 4000, 1000)]
    assert [c.result() for c in calls] == [
        done(range(n, n + 50)) for n in range(10_000, 13_000, 1000)
    ]
    over.set()
    watch.result()
    assert max(sizes) <= 4
    stats = check_idle(f)
    assert stats.accepted == stats.succeeded == 4 * 300 + 3 * 50


@any_source
def test_a_single_call_is_admitted_beside_a_mapping(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=4)
    items = source(range(1000))
    mapping = in_thread(lambda: list(f.map(items)))
    until(lambda: (s := f.stats()).pending + s.running == 4)
    call = in_thread(lambda: f("single").result(LIMIT))
    until(lambda: f.stats().submitted >= 5)
    gated.release(5)
    assert call.result() == ("done", "single")
    assert len(gated.batches) <= 6
    gated.open()
    assert mapping.result() == done(range(1000))


@any_source
def test_a_mapping_is_admitted_beside_single_calls(source: Any) -> None:
    f = batched(echo, size=2, capacity=4)
    over = threading.Event()

    def calling() -> None:
        while not over.is_set():
            f("single")

    calls = [in_thread(calling) for _ in range(3)]
    try:
        mapping = in_thread(lambda: list(f.map(source(range(200)))))
        assert mapping.result() == done(range(200))
    finally:
        over.set()
    for call in calls:
        call.result()
    f.flush(LIMIT)
    check_idle(f)


# ---- close, flush and other limits in the middle ----


def outcomes(results: Any) -> list[Any]:
    """Return results unchanged, and errors as their types."""
    return [type(x) if isinstance(x, Exception) else x for x in results]


@any_source
def test_close_in_the_middle_runs_accepted_items(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=2)
    mapping = in_thread(
        lambda: outcomes(f.map(source(range(20)), window=6, return_exceptions=True))
    )
    gated.wait_started(1)
    until(lambda: (s := f.stats()).pending + s.running == 6)
    closing = in_thread(f.close)
    until(lambda: _is_closed(f))
    gated.open()
    closing.result()
    assert mapping.result() == done(range(6)) + [Closed] * 14
    stats = check_idle(f)
    assert (stats.accepted - stats.cancelled, stats.succeeded, stats.failed) == (6, 6, 0)


def _is_closed(f: Any) -> bool:
    """Check by a trial submit, which is cancelled if it was accepted too early."""
    before = f.stats().rejected
    try:
        f.submit_nowait("late").cancel()
    except Closed:
        assert f.stats().rejected > before
        return True
    return False


@any_source
@any_order
def test_close_with_cancel_in_the_middle(source: Any, ordered: bool) -> None:
    gated = Gated()
    f = batched(gated, size=2)
    mapping = in_thread(
        lambda: outcomes(
            f.map(source(range(20)), window=6, return_exceptions=True, ordered=ordered)
        )
    )
    gated.wait_started(1)
    until(lambda: (s := f.stats()).pending + s.running == 6)
    ran = len(gated.batches[0])
    closing = in_thread(lambda: f.close(cancel=True))
    until(lambda: f.stats().pending == 0)
    gated.open()
    closing.result()
    got = mapping.result()
    assert sorted(got, key=repr) == sorted(done(range(ran)) + [Closed] * (20 - ran), key=repr)
    assert not ordered or got[:ran] == done(range(ran))
    stats = check_idle(f)
    assert (stats.accepted, stats.succeeded, stats.failed) == (6, ran, 6 - ran)


@any_source
def test_close_with_cancel_raises_closed_in_the_mapping(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=2)
    mapping = in_thread(lambda: list(f.map(source(range(20)), window=6)))
    gated.wait_started(1)
    closing = in_thread(lambda: f.close(cancel=True))
    until(lambda: f.stats().pending == 0)
    gated.open()
    closing.result()
    with pytest.raises(Closed):
        mapping.result()
    check_idle(f)


@any_source
@any_order
def test_close_in_the_middle_keeps_what_was_settled(source: Any, ordered: bool) -> None:
    gate, started = threading.Event(), threading.Event()

    @batched(size=4, linger=None)
    def f(items: list[int]) -> Iterator[Any]:
        yield items[0]
        yield ValueError(items[1])
        started.set()
        gate.wait(LIMIT)
        yield from items[2:]

    mapping = in_thread(
        lambda: outcomes(f.map(source(range(12)), return_exceptions=True, ordered=ordered))
    )
    assert started.wait(LIMIT)
    until(lambda: (s := f.stats()).succeeded == s.failed == 1 and s.accepted == 12)
    with pytest.raises(TimeoutError):
        f.close(0.01)
    got = mapping.result()
    gate.set()
    assert sorted(map(str, got)) == sorted(map(str, [0, ValueError] + [Closed] * 10))
    assert not ordered or got[:2] == [0, ValueError]
    stats = f.stats()
    check(stats)
    assert (stats.succeeded, stats.failed, stats.pending) == (1, 11, 0)


@any_source
def test_aclose_in_the_middle_keeps_what_was_settled(source: Any) -> None:
    async def main() -> None:
        started = asyncio.Event()

        @batched(size=4, linger=None)
        async def f(items: list[int]) -> AsyncIterator[Any]:
            yield items[0]
            yield ValueError(items[1])
            started.set()
            await asyncio.sleep(LIMIT)

        async def consume() -> list[Any]:
            return outcomes([x async for x in f.amap(source(range(12)), return_exceptions=True)])

        task = asyncio.create_task(consume())
        await started.wait()
        while f.stats().accepted < 12:
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            await f.aclose(0.01)
        assert await task == [0, ValueError] + [Closed] * 10
        stats = f.stats()
        check(stats)
        assert (stats.succeeded, stats.failed, stats.pending) == (1, 11, 0)

    run(main())


@any_source
def test_close_waits_for_items_that_run_again(source: Any) -> None:
    """As it does for those of calls: the safe stop loses nothing."""
    gated, tried = Gated(), set()

    @batched(size=3)
    def f(items: list[int]) -> list[Any]:
        gated(items)
        again = [item for item in items if item not in tried]
        tried.update(items)
        return [Retry() if item in again else ("done", item) for item in items]

    mapping = in_thread(lambda: outcomes(f.map(source(range(3)), return_exceptions=True)))
    gated.wait_started(1)
    until(lambda: f.stats().accepted == 3)
    closing = in_thread(f.close)
    until(lambda: _is_closed(f))
    f.size = 1  # they run again one by one
    started = 1
    while f.stats().retried < 3:
        gated.release()
        started += 1
        gated.wait_started(started)
    closing.thread.join(0.05)
    is_early = closing.is_done()
    gated.open()
    closing.result()
    assert mapping.result() == done(range(3))
    assert not is_early, "close returned before its items were resolved"
    stats = check_idle(f)
    assert (stats.succeeded, stats.failed, stats.retried) == (3, 0, 3)


@any_source
def test_flush_waits_for_items_that_run_again(source: Any) -> None:
    gated, tried = Gated(), set()

    @batched(size=4, linger=None)
    def f(items: list[int]) -> list[Any]:
        gated(items)
        again = [item for item in items if item not in tried]
        tried.update(items)
        return [Retry() if item in again else ("done", item) for item in items]

    mapping = in_thread(lambda: list(f.map(source(range(4)))))
    gated.wait_started(1)
    flush = in_thread(f.flush)
    flush.thread.join(0.02)  # it has looked
    assert not flush.is_done()
    gated.release()
    gated.wait_started(2)
    flush.thread.join(0.05)
    is_early = flush.is_done()
    gated.open()
    flush.result()
    assert mapping.result() == done(range(4))
    assert not is_early, "flush returned before its items were resolved"


@any_source
def test_flush_in_the_middle(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=4)
    mapping = in_thread(lambda: list(f.map(source(range(30)), window=10)))
    gated.wait_started(1)
    until(lambda: (s := f.stats()).pending + s.running in (8, 10))
    before = f.stats().accepted
    flush = in_thread(f.flush)
    flush.thread.join(0.02)
    assert not flush.is_done()
    gated.open()
    flush.result()
    assert f.stats().succeeded >= before
    assert mapping.result() == done(range(30))


@any_source
def test_flush_waits_for_all_when_the_size_is_made_smaller(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=4)
    mapping = in_thread(lambda: list(f.map(source(range(12)), window=12)))
    gated.wait_started(1)
    until(lambda: f.stats().accepted == 12)
    flush = in_thread(f.flush)
    flush.thread.join(0.02)  # it has looked
    f.size = 2
    started = len(gated.batches)
    gated.release()
    gated.wait_started(started + 1)
    flush.thread.join(0.05)
    is_early = flush.is_done()
    gated.open()
    flush.result()
    assert mapping.result() == done(range(12))
    assert not is_early, "flush returned before its items were resolved"


@any_source
def test_close_waits_for_all_when_the_size_is_made_smaller(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=4)
    mapping = in_thread(lambda: outcomes(f.map(source(range(12)), return_exceptions=True)))
    gated.wait_started(1)
    until(lambda: f.stats().accepted == 12)
    closing = in_thread(f.close)
    until(lambda: _is_closed(f))
    f.size = 2
    gated.release()
    gated.wait_started(2)
    closing.thread.join(0.05)
    gated.open()
    closing.result()
    assert mapping.result() == done(range(12))
    stats = check_idle(f)
    assert (stats.succeeded, stats.failed) == (12, 0)


@any_source
@any_order
def test_a_smaller_size_applies_to_queued_items(source: Any, ordered: bool) -> None:
    gated = Gated()
    f = batched(gated, size=8)
    mapping = in_thread(lambda: sorted(f.map(source(range(64)), window=32, ordered=ordered)))
    gated.wait_started(1)
    until(lambda: (s := f.stats()).pending + s.running == 32)
    f.size = 3
    check(f.stats())
    gated.open()
    assert mapping.result() == done(range(64))
    assert max(map(len, gated.batches[1:])) <= 3
    assert [item for batch in gated.batches for item in batch] == list(range(64))
    stats = check_idle(f)
    assert stats.accepted == stats.succeeded == stats.submitted == 64


@any_source
def test_a_larger_size_applies_to_new_items(source: Any) -> None:
    f = batched(echo, size=2, linger=None)
    sizes: list[int] = []
    f.observe(lambda event: sizes.append(event.size))
    results = f.map(source(range(100)), window=20)
    assert next(results) == ("done", 0)
    f.size = 10
    assert list(results) == done(range(1, 100))
    f.flush(LIMIT)
    until(lambda: sum(sizes) == 100)
    assert max(sizes) == 10


@any_source
def test_a_smaller_capacity_applies_to_new_items(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=20)
    mapping = in_thread(lambda: list(f.map(source(range(60)))))
    until(lambda: (s := f.stats()).pending + s.running == 20)
    f.capacity = 4
    gated.open()
    assert mapping.result() == done(range(60))
    check_idle(f)


# ---- counts ----


@any_source
@any_order
def test_exact_counts(source: Any, ordered: bool) -> None:
    tried: set[int] = set()

    @batched(size=8, workers=2)
    def f(items: list[int]) -> list[Any]:
        results: list[Any] = []
        for item in items:
            if item % 5 == 0:
                results.append(ValueError(item))
            elif item % 7 == 0 and item not in tried:
                results.append(Retry())
            else:
                results.append(item)
        tried.update(items)
        return results

    over = threading.Event()

    def watching() -> None:
        while not over.wait(0.0002):
            check(f.stats())

    watch = in_thread(watching)
    got = list(f.map(source(range(700)), return_exceptions=True, ordered=ordered))
    over.set()
    watch.result()
    assert len(got) == 700
    stats = check_idle(f)
    again = sum(n % 5 != 0 and n % 7 == 0 for n in range(700))
    assert (stats.submitted, stats.accepted, stats.rejected) == (700, 700, 0)
    assert (stats.succeeded, stats.failed, stats.retried) == (560, 140, again)
    assert (stats.cancelled, stats.expired) == (0, 0)
    until(lambda: round(f.stats().sizes.mean * f.stats().sizes.count) == 700 + again)
    assert f.stats().sizes.max <= 8
    assert f.stats().sizes.count == f.stats().batches == sum(f.stats().reasons.values())


def test_observers_hear_of_each_batch_of_a_mapping() -> None:
    events: list[Any] = []
    f = batched(echo, size=4, linger=None)
    f.observe(events.append)
    list(f.map(range(10)))
    until(lambda: len(events) == 3)
    assert sorted(event.size for event in events) == [2, 4, 4]
    assert sorted(event.reason for event in events) == ["flush", "size", "size"]


def test_a_window_smaller_than_a_batch_is_no_full_batch() -> None:
    """Such a batch is not dispatched because of `size`."""
    f = batched(echo, size=8, linger=None)
    assert list(f.map(range(8), window=2)) == done(range(8))
    assert f.stats().reasons["size"] == 0


# ---- waits that could never end ----


@any_source
@any_order
def test_inside_a_batch_of_the_same_function(source: Any, ordered: bool) -> None:
    @batched(size=2)
    def f(items: list[Any]) -> list[Any]:
        if items == ["outer"]:
            return [list(f.map(source(range(5)), ordered=ordered))]
        return items

    with pytest.raises(Deadlock):
        f("outer").result(LIMIT)
    check_idle(f)
    assert f(1).result(LIMIT) == 1


@any_source
@any_order
def test_inside_a_batch_of_the_same_function_with_another_worker(
    source: Any, ordered: bool
) -> None:
    @batched(size=2, workers=2)
    def f(items: list[Any]) -> list[Any]:
        if items == ["outer"]:
            return [sorted(f.map(source(range(5)), ordered=ordered))]
        return items

    assert f("outer").result(LIMIT) == [0, 1, 2, 3, 4]


@any_source
@any_order
def test_inside_a_batch_of_another_function(source: Any, ordered: bool) -> None:
    inner = batched(echo, size=2)
    outer: Any = batched(
        lambda items: [sorted(inner.map(source(range(item)), ordered=ordered)) for item in items]
    )
    assert list(outer.map(range(8))) == [done(range(n)) for n in range(8)]
    check_idle(inner)


@pytest.mark.parametrize("is_async", [False, True], ids=["map", "amap"])
def test_unordered_where_a_later_one_can_end(is_async: bool) -> None:
    """The first waits for the mapping batch, which another one can release: no Deadlock."""
    waits = threading.Event()

    @batched(size=1, workers=2)
    def inner(items: list[str]) -> list[Any]:
        if items == ["first"]:
            future = outer("more")
            waits.set()
            return [future.result()]
        assert waits.wait(LIMIT)
        time.sleep(0.1)  # so that it does wait
        return items

    def work(items: list[str]) -> list[Any]:
        if items == ["more"]:
            return items
        return [next(iter(inner.map(["first", "second"], ordered=False)))]

    async def awork(items: list[str]) -> list[Any]:
        if items == ["more"]:
            return items
        async with contextlib.aclosing(inner.amap(["first", "second"], ordered=False)) as results:
            return [await anext(results)]

    outer: Any = batched(awork if is_async else work, size=1)
    assert outer("map").result(LIMIT) == "second"
    assert inner.stats().failed == 0
    inner.close()
    assert inner.stats().failed == 0


@any_source
@any_order
def test_on_a_thread_with_a_running_loop(source: Any, ordered: bool) -> None:
    f = batched(echo, size=4, capacity=10)

    async def main() -> None:
        got = sorted(f.map(source(range(100)), ordered=ordered, window=25))
        assert got == done(range(100))
        results = f.map(itertools.count())
        next(results)
        results.close()
        assert f.stats().pending == 0

    run(main())
    check_idle(f)


@any_source
@any_order
def test_of_an_async_function_on_its_own_loop(source: Any, ordered: bool) -> None:
    async def main() -> None:
        f: Any = batched(Awaited(is_open=True), size=4)
        with pytest.raises(Deadlock):
            list(f.map(source(range(10)), ordered=ordered))
        assert f.stats().pending == 0
        assert sorted([x async for x in f.amap(range(10))]) == done(range(10))

    run(main())


@pytest.mark.parametrize("source", ["range(5)", "iter(range(5))", "slow()"])
@any_order
def test_amap_inside_a_batch_of_the_same_async_function(source: str, ordered: bool) -> None:
    """Run in a separate process, because a spinning loop could not be stopped."""
    script = f"""
        import asyncio, faulthandler
        from batchify import Deadlock, batched

        faulthandler.dump_traceback_later(3, exit=True)

        async def slow():
            for n in range(5):
                yield n
                await asyncio.sleep(0)

        @batched(size=2)
        async def f(items):
            if items == ["outer"]:
                return [[x async for x in f.amap({source}, ordered={ordered})]]
            return items

        async def main():
            try:
                await f("outer")
            except Deadlock:
                print("Deadlock", f.stats().pending)

        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.stdout == "Deadlock 0\n", ended.stderr


@any_order
def test_amap_inside_an_async_batch_of_another_function(ordered: bool) -> None:
    async def main() -> None:
        inner: Any = batched(Awaited(is_open=True), size=2)

        @batched
        async def outer(items: list[int]) -> list[Any]:
            return [
                sorted([x async for x in inner.amap(range(item), ordered=ordered)])
                for item in items
            ]

        got = [x async for x in outer.amap(range(8))]
        assert got == [done(range(n)) for n in range(8)]

    run(main())


def test_from_many_loops_and_threads_at_once() -> None:
    f = batched(echo, size=4, capacity=12)

    async def main(items: Any) -> list[Any]:
        return [x async for x in f.amap(items)]

    calls = [in_thread(lambda: asyncio.run(main(range(200)))) for _ in range(3)]
    calls.append(in_thread(lambda: asyncio.run(main(AsyncSource(range(200))))))
    calls.append(in_thread(lambda: list(f.map(range(200)))))
    for call in calls:
        assert call.result() == done(range(200))
    stats = check_idle(f)
    assert stats.accepted == stats.succeeded == 1000


# ---- a machine without threads to spare ----


class NoThreads(ManualSeam):
    def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:
        raise RuntimeError("can't start new thread")


@any_source
def test_when_no_thread_can_be_started(source: Any) -> None:
    f = batched_with(NoThreads(), echo, size=2)
    with pytest.raises(RuntimeError, match="new thread"):
        f(1)
    with pytest.raises(RuntimeError, match="new thread"):
        list(f.map(source(range(5))))
    stats = f.stats()
    check(stats)
    assert (stats.pending, stats.running) == (0, 0)
    got = f.map(source(range(5)), return_exceptions=True)
    assert [type(x) for x in got] == [RuntimeError] * 5
    assert f.stats().pending == 0


# ---- progress ----


@any_order
def test_any_wrapper_shows_progress(ordered: bool) -> None:
    seen: list[Any] = []
    totals: list[int | None] = []

    def wrapper(iterable: Any) -> Iterator[Any]:
        totals.append(len(iterable) if hasattr(iterable, "__len__") else None)
        for thing in iterable:
            seen.append(thing)
            yield thing

    f = batched(echo, size=4)
    for items, total in [
        (range(10), 10),
        (set(range(10)), 10),
        (SizedSource(range(10)), 10),
        (OnlySized(range(10)), 10),
        (iter(range(10)), None),
        (Source(range(10)), None),
    ]:
        got = list(f.map(items, ordered=ordered, progress=wrapper))
        assert sorted(got) == done(range(10))
        assert seen == got
        assert totals.pop() == total, type(items)
        seen.clear()


def test_a_wrapper_is_lazy_and_leaving_early_cancels() -> None:
    gated = Gated()
    gated.release()
    f = batched(gated, size=2)
    items = Source(itertools.count())
    results = f.map(items, window=10, progress=lambda iterable: (x for x in iterable))
    assert items.pulled == 0
    assert next(results) == ("done", 0)
    del results
    gc.collect()
    pending = f.stats().pending
    gated.open()
    assert pending == 0
    check_idle(f)


@any_source
def test_a_wrapper_that_raises(source: Any) -> None:
    def wrapper(iterable: Any) -> Iterator[Any]:
        yield next(iter(iterable))
        raise LookupError

    gated = Gated()
    gated.release()
    f = batched(gated, size=2)
    results = f.map(source(range(20)), window=10, progress=wrapper)
    assert next(results) == ("done", 0)
    with pytest.raises(LookupError):
        next(results)
    pending = f.stats().pending
    gated.open()
    assert pending == 0


def test_a_bar_by_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    f = batched(echo, size=4)
    assert list(f.map(range(10), progress=True)) == done(range(10))
    assert "10/10" in capsys.readouterr().err
    assert list(f.map(iter(range(10)), progress=True, ordered=False)) != []
    assert "10it" in capsys.readouterr().err
    results = f.map(itertools.count(), progress=True)
    next(results)
    results.close()
    check_idle(f)


@any_order
def test_a_bar_by_tqdm_in_a_coroutine(capsys: pytest.CaptureFixture[str], ordered: bool) -> None:
    pytest.importorskip("tqdm")

    async def main() -> None:
        f = batched(echo, size=4)
        for items, shown in [
            (range(10), "10/10"),
            (iter(range(10)), "10it"),
            (AsyncSource(range(10)), "10it"),
        ]:
            got = [x async for x in f.amap(items, progress=True, ordered=ordered)]
            assert sorted(got) == done(range(10))
            assert shown in capsys.readouterr().err
        results = f.amap(itertools.count(), progress=True)
        await anext(results)
        await results.aclose()
        assert f.stats().pending == 0

    run(main())


def test_a_wrapper_of_async_iterables() -> None:
    totals = []

    async def wrapper(iterable: Any) -> AsyncIterator[Any]:
        totals.append(len(iterable) if hasattr(iterable, "__len__") else None)
        async for thing in iterable:
            yield thing

    async def main() -> None:
        f = batched(echo, size=4)
        for items in (range(10), AsyncSource(range(10))):
            assert [x async for x in f.amap(items, progress=wrapper)] == done(range(10))
        assert totals == [10, None]

    run(main())


class PlainBar:
    """As tqdm's own class: for plain iterables, and closed at the end, however that comes."""

    made: ClassVar[list[PlainBar]] = []

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable
        self.total = len(iterable) if hasattr(iterable, "__len__") else None
        self.shown = 0
        self.is_closed = False
        self.made.append(self)

    def __iter__(self) -> Iterator[Any]:
        try:
            for thing in self.iterable:
                yield thing
                self.shown += 1
        finally:
            self.is_closed = True


@any_order
def test_a_wrapper_of_plain_iterables_in_a_coroutine(ordered: bool) -> None:
    async def main() -> None:
        f = batched(echo, size=4)
        for items, total in [(range(10), 10), (iter(range(10)), None), (AsyncSource([]), None)]:
            got = [x async for x in f.amap(items, progress=PlainBar, ordered=ordered)]
            bar = PlainBar.made.pop()
            assert sorted(got) == done(range(bar.shown))
            assert (bar.total, bar.is_closed) == (total, True)
        got = [x async for x in f.amap(AsyncSource(range(10)), progress=PlainBar)]
        assert got == done(range(10))
        assert PlainBar.made.pop().shown == 10

    run(main())


def test_wrappers_of_plain_iterables_that_others_made(capsys: pytest.CaptureFixture[str]) -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    rich = pytest.importorskip("rich.progress")
    f = batched(echo, size=4)

    async def main(wrapper: Any) -> list[Any]:
        return [x async for x in f.amap(range(10), progress=wrapper)]

    for wrapper, shown in [(tqdm, "10/10"), (rich.track, "100%")]:
        assert list(f.map(range(10), progress=wrapper)) == done(range(10))
        assert shown in "".join(capsys.readouterr())
        assert run(main(wrapper)) == done(range(10))
        assert shown in "".join(capsys.readouterr())


@pytest.mark.parametrize("leave", ["close", "raise", "end"])
def test_leaving_a_plain_wrapper_early_in_a_coroutine(leave: str) -> None:
    def wrapper(iterable: Any) -> Iterator[Any]:
        bar = iter(PlainBar(iterable))
        try:
            yield next(bar)
            if leave == "raise":
                raise LookupError
        finally:
            bar.close()  # type: ignore[attr-defined]

    async def main() -> None:
        awaited = Awaited(is_open=True)
        f = batched(awaited, size=2)
        results = f.amap(AsyncSource(itertools.count()), window=10, progress=wrapper)
        assert await anext(results) == ("done", 0)
        if leave == "close":
            await results.aclose()
        elif leave == "raise":
            with pytest.raises(LookupError):
                await anext(results)
        else:
            assert [x async for x in results] == []
        assert PlainBar.made.pop().is_closed
        assert f.stats().pending == 0

    run(main())


def test_an_error_goes_by_a_plain_wrapper_in_a_coroutine() -> None:
    async def main() -> None:
        f = batched(lambda items: [LookupError() if item else item for item in items])
        results = f.amap(range(3), progress=PlainBar)
        assert await anext(results) == 0
        with pytest.raises(LookupError):
            await anext(results)
        assert PlainBar.made.pop().is_closed

    run(main())


def test_without_tqdm_it_continues_without_a_bar(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tqdm"] + ["tqdm.auto"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    f = batched(echo, size=4)
    with caplog.at_level(logging.DEBUG):
        assert list(f.map(range(10), progress=True)) == done(range(10))
    assert capsys.readouterr().err == ""
    assert all(record.name == "batchify" for record in caplog.records)

    async def main() -> None:
        assert [x async for x in f.amap(range(10), progress=True)] == done(range(10))

    run(main())


# ---- arguments ----


@pytest.mark.parametrize("name", ["map", "amap"])
@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"ordered": 1}, TypeError, "ordered"),
        ({"ordered": None}, TypeError, "ordered"),
        ({"window": 0}, ValueError, "window"),
        ({"window": -1}, ValueError, "window"),
        ({"window": 1.0}, TypeError, "window"),
        ({"window": True}, TypeError, "window"),
        ({"window": "1"}, TypeError, "window"),
        ({"return_exceptions": 0}, TypeError, "return_exceptions"),
        ({"return_exceptions": "yes"}, TypeError, "return_exceptions"),
        ({"progress": 1}, TypeError, "progress"),
        ({"progress": None}, TypeError, "progress"),
        ({"progress": "tqdm"}, TypeError, "progress"),
        ({"chunk": 1}, TypeError, "chunk"),
        ({"items": 5}, TypeError, "items"),
        ({"items": None}, TypeError, "items"),
        ({"items": object()}, TypeError, "items"),
    ],
)
def test_wrong_arguments_are_raised_by_the_call(
    name: str, arguments: Any, error: Any, match: str
) -> None:
    f = batched(echo)
    with pytest.raises(error, match=match):
        getattr(f, name)(**{"items": [1], **arguments})
    assert f.stats().submitted == 0


def test_items_that_are_async_are_no_items_of_map() -> None:
    f = batched(echo)
    with pytest.raises(TypeError, match="items"):
        f.map(AsyncOnly())


class AsyncOnly:
    def __aiter__(self) -> Any:
        raise AssertionError


def test_only_items_goes_by_place() -> None:
    f = batched(echo)
    with pytest.raises(TypeError):
        f.map([1], True)
    with pytest.raises(TypeError):
        f.amap([1], True)


def test_other_parameters_of_the_function_keep_their_defaults() -> None:
    @batched(size=2)
    def f(items: list[int], factor: int = 2) -> list[int]:
        return [item * factor for item in items]

    assert list(f.map(range(5))) == [0, 2, 4, 6, 8]
    assert list(f.map(iter(range(5)))) == [0, 2, 4, 6, 8]


def test_partial_functions() -> None:
    f = batched(functools.partial(lambda factor, items: [n * factor for n in items], 3), size=2)
    assert list(f.map(range(5))) == [0, 3, 6, 9, 12]
