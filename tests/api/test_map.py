"""`map`: results of any iterable, in either order, exact counts, and arguments (contract 3)."""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batchify import BatchFuture, Retry, batched
from tests.api.sources import (
    EMPTY,
    ITERABLES,
    Awaited,
    any_order,
    any_source,
    check,
    check_idle,
    done,
    echo,
)
from tests.limits import LIMIT
from tests.manual import Gated, in_thread, until

# ---- results ----


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
