"""`key`, `weight`, `dedupe`, `isolate`, `on_error` and `Retry`: contract 2, 4, 5 and 8."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import math
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from threading import get_ident
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchify import (
    BadResult,
    BatchAborted,
    BatchifyError,
    Closed,
    ItemTooHeavy,
    MissingResult,
    QueueFull,
    Retry,
    RetryExhausted,
    batched,
)
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, batchify_threads, in_thread, until

NEVER = 3600.0  # seconds that no test waits for
PLAIN = ["def", "async def"]
SHAPES = [*PLAIN, "generator", "async generator", "mapping", "method"]
TROUBLE = [shape for shape in SHAPES if shape != "mapping"]

_made: list[Any] = []


@pytest.fixture(autouse=True)
def books() -> Iterator[None]:
    """Check after each test that the counts of its functions add up and nothing is left."""
    _made.clear()
    yield
    for f in _made:
        balanced(f)
        f.close(LIMIT)
        assert balanced(f).pending == f.stats().running == 0
    _made.clear()


def balanced(f: Any) -> Any:
    """Return the stats, after checking that they add up."""
    stats = f.stats()
    ended = stats.succeeded + stats.failed + stats.cancelled + stats.expired
    assert stats.accepted == ended + stats.pending + stats.running, stats
    return stats


def shaped(shape: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function(items, ...) -> list` as a batch function of another shape."""

    if len(inspect.signature(function).parameters) > 1:
        return _with_extra_arguments(shape, function)

    def plain(items: Any) -> Any:
        return function(items)

    async def coroutine(items: Any) -> Any:
        return function(items)

    def generator(items: Any) -> Any:
        yield from function(items)

    async def async_generator(items: Any) -> Any:
        for result in function(items):
            yield result

    def mapping(items: Any) -> Any:
        return dict(zip(items, function(items), strict=True))

    def method(self: Any, items: Any) -> Any:
        return function(items)

    return {
        "def": plain,
        "async def": coroutine,
        "generator": generator,
        "async generator": async_generator,
        "mapping": mapping,
        "method": method,
    }[shape]


def _with_extra_arguments(shape: str, function: Callable[..., Any]) -> Callable[..., Any]:
    async def coroutine(items: Any, *args: Any, **kwargs: Any) -> Any:
        return function(items, *args, **kwargs)

    return {"def": function, "async def": coroutine}[shape]


def make(shape: str, function: Callable[..., Any], **options: Any) -> Any:
    """Return a batched function of that shape; for a method, that of one instance."""
    decorated: Any = batched(shaped(shape, function), **options)
    if shape == "method":
        holder = type("Holder", (), {"f": decorated})()
        decorated = holder.f
        _made.append(holder.f)
    else:
        _made.append(decorated)
    return decorated


class Runs:
    """A batch function that records its batches; `answer(item)` returns each result or raises."""

    def __init__(self, answer: Callable[[Any], Any] = lambda item: ("done", item)) -> None:
        self.answer = answer
        self.batches: list[list[Any]] = []

    def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(list(items))
        return [self.answer(item) for item in items]

    def runs_of(self, item: Any) -> int:
        return sum(batch.count(item) for batch in self.batches)


class Again:
    """An `answer` that returns `retry` for the first `times` runs, then a result."""

    def __init__(self, times: int, retry: Callable[[], Retry]) -> None:
        self.times = times
        self.retry = retry
        self.seen: Counter[Any] = Counter()

    def __call__(self, item: Any) -> Any:
        self.seen[item] += 1
        return ("done", item) if self.seen[item] >= self.times else self.retry()


def results(futures: list[Any]) -> list[Any]:
    return [future.result(LIMIT) for future in futures]


def errors(futures: list[Any]) -> list[Any]:
    return [future.exception(LIMIT) for future in futures]


def done(items: Any) -> list[Any]:
    return [("done", item) for item in items]


def all_distinct(objects: list[Any]) -> bool:
    return len({id(thing) for thing in objects}) == len(objects)


@pytest.fixture(params=PLAIN)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Any:
    return request.param


# ---- key ----


def test_only_items_of_equal_key_share_a_batch(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, size=100, linger=None, key=lambda n: n % 3)
    futures = [f(n) for n in range(30)]
    f.flush(LIMIT)
    assert results(futures) == done(range(30))
    assert runs.batches == [list(range(first, 30, 3)) for first in range(3)]


def test_each_key_fills_its_own_batch(kind: str) -> None:
    runs = Runs()
    f = make(kind, runs, size=3, linger=None, key=str.lower)
    futures = [f(letter) for letter in "abABab"]
    assert results(futures) == done("abABab")
    assert sorted(runs.batches) == [["a", "A", "a"], ["b", "B", "b"]]
    assert f.stats().reasons["size"] == 2


def test_of_the_keys_the_one_with_the_oldest_item_goes_first() -> None:
    gated = Gated()
    f = batched(gated, size=2, key=lambda item: item[0])
    futures = [f("x0")]
    gated.wait_started(1)
    futures += [f(item) for item in ["a1", "b1", "a2", "c1", "a3", "b2", "a4", "c2"]]
    gated.open()
    results(futures)
    assert gated.batches == [["x0"], ["a1", "a2"], ["b1", "b2"], ["c1", "c2"], ["a3", "a4"]]


def test_a_busy_key_never_starves_a_rare_one() -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=None, key=lambda item: item[0])
    numbers = itertools.count()

    def flood(count: int) -> None:
        for _ in range(count):
            f(("busy", next(numbers)))

    flood(6)
    gated.wait_started(1)  # it contains the first item, alone or with its neighbour
    rare = f(("rare", 0))
    for started in range(1, 5):
        flood(10)
        gated.release()
        gated.wait_started(started + 1)
    assert [("rare", 0)] in gated.batches[:5]  # the five before it were at most five batches
    gated.open()
    assert rare.result(LIMIT) == ("done", ("rare", 0))
    f.flush(LIMIT)


@pytest.mark.deep
def test_many_thousand_keys_leave_nothing_behind() -> None:
    f = batched(lambda items: items, linger=None, capacity=None, key=lambda n: n)
    futures = [f(n) for n in range(30_000)]
    for future in futures[::2]:
        assert future.cancel()
    f.flush(LIMIT)
    assert [future.result(0) for future in futures[1::2]] == list(range(1, 30_000, 2))
    engine: Any = f._scope()
    assert engine.routes == {}
    assert engine.forming.by_kin == {}
    assert balanced(f).cancelled == 15_000
    f.close(LIMIT)


def test_keys_of_items_that_ran_again_leave_nothing_behind() -> None:
    runs = Runs(Again(2, lambda: Retry(after=NEVER)))
    f = make("def", runs, linger=None, capacity=None, key=lambda n: n)
    futures = [f(n) for n in range(300)]
    flushing = in_thread(f.flush, LIMIT)
    until(lambda: f.stats().retried == 300)
    for future in futures[::3]:
        future.cancel()
    f.flush(LIMIT)
    flushing.result()
    engine = f._scope()
    assert engine.routes == {}
    assert engine.forming.by_kin == {}


def test_an_error_of_the_key_function_reaches_its_caller_only(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, key=lambda n: 10 // n)
    before = f(3)
    for call in (f, f.submit, f.submit_nowait, f.options(timeout=1)):
        with pytest.raises(ZeroDivisionError):
            call(0)
    after = f(3.0)
    f.flush(LIMIT)
    assert results([before, after]) == done([3, 3])
    assert (f.stats().rejected, f.stats().accepted, f.stats().failed) == (4, 2, 0)


def test_an_unhashable_key_is_a_type_error_to_that_caller_alone(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, key=lambda n: [n] if n == 13 else "all")
    before = f(1)
    with pytest.raises(TypeError, match="key"):
        f(13)
    after = f(2)
    f.flush(LIMIT)
    assert results([before, after]) == done([1, 2])
    assert runs.batches == [[1, 2]]
    assert f.stats().rejected == 1


def test_on_a_loop_too_the_call_itself_raises_what_key_weight_and_dedupe_raise(kind: str) -> None:
    def picky(item: int) -> int:
        return 10 // item

    async def main() -> None:
        for options in ({"key": picky}, {"weight": picky, "max_weight": 10}, {"dedupe": picky}):
            f = make(kind, Runs(), **options)
            with pytest.raises(ZeroDivisionError):
                f(0)
            with pytest.raises(ZeroDivisionError):
                await f.asubmit(0)
            assert await f(1) == ("done", 1)
            assert f.stats().rejected == 2
            await f.aclose(LIMIT)

    asyncio.run(main())


@pytest.mark.parametrize("shape", PLAIN)
def test_a_key_goes_together_with_extra_arguments(shape: str) -> None:
    seen: list[tuple[list[int], str, int]] = []

    def run(items: list[int], table: str, *, batch: int = 0) -> list[Any]:
        seen.append((list(items), table, batch))
        return items

    f = make(shape, run, linger=None, key=lambda n: n % 2)
    f(1, "a"), f(2, "a"), f(3, "b"), f(5, "a"), f(7, "a", batch=1), f(9, "b")
    f.flush(LIMIT)
    assert seen == [
        ([1, 5], "a", 0), ([2], "a", 0), ([3, 9], "b", 0), ([7], "a", 1),
    ]  # fmt: skip
    with pytest.raises(TypeError):
        f(1, [])


def test_equal_items_of_different_instances_with_equal_keys_stay_apart() -> None:
    seen: list[tuple[str, list[int]]] = []

    class Store:
        def __init__(self, name: str) -> None:
            self.name = name

        @batched(linger=None, key=lambda n: n % 2)
        def save(self, items: list[int]) -> None:
            seen.append((self.name, items))

    one, two = Store("one"), Store("two")
    for n in range(4):
        one.save(n), two.save(n)
    one.save.flush(LIMIT), two.save.flush(LIMIT)
    assert sorted(seen) == [
        ("one", [0, 2]), ("one", [1, 3]), ("two", [0, 2]), ("two", [1, 3]),
    ]  # fmt: skip


def test_when_keys_use_up_the_capacity_the_oldest_batch_is_dispatched() -> None:
    runs = Runs()
    f = make("def", runs, size=4, linger=None, capacity=4, key=lambda n: n)
    futures = [f(n) for n in range(4)]
    assert not any(future.done() for future in futures)
    futures.append(in_thread(f, 4).result())
    assert futures[0].result(LIMIT) == ("done", 0)
    assert f.stats().reasons["capacity"] >= 1
    assert runs.batches[0] == [0]


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 5), st.integers(1, 2))
def test_every_batch_is_of_one_key_and_keeps_its_order(
    keys: list[int], size: int, workers: int
) -> None:
    runs = Runs()
    f = batched(runs, size=size, workers=workers, key=lambda item: item[0])
    items = [(key, n) for n, key in enumerate(keys)]
    assert [future.result(LIMIT) for future in [f(item) for item in items]] == done(items)
    balanced(f)
    f.close(LIMIT)
    assert all(len({key for key, _ in batch}) == 1 for batch in runs.batches)
    assert all(batch == sorted(batch, key=lambda item: item[1]) for batch in runs.batches)
    assert all(len(batch) <= size for batch in runs.batches)
    assert sorted(itertools.chain(*runs.batches)) == sorted(items)


# ---- weight and max_weight ----


def test_a_batch_that_is_heavy_enough_is_dispatched_at_once(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, weight=lambda n: n, max_weight=10)
    futures = [f(4), f(6)]
    assert results(futures) == done([4, 6])
    assert runs.batches == [[4, 6]]
    assert f.stats().reasons["weight"] == 1


def test_an_item_that_does_not_fit_sends_the_batch_off_and_waits_on(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, weight=lambda n: n, max_weight=10)
    first, second = f(6), f(7)
    assert first.result(LIMIT) == ("done", 6)
    assert f.stats().reasons["weight"] == 1
    assert not second.done()
    f.flush(LIMIT)
    assert runs.batches == [[6], [7]]
    assert f.stats().reasons["flush"] == 1


def test_a_heavy_item_that_is_deferred_keeps_its_place_at_the_front() -> None:
    gated = Gated()
    f = batched(gated, weight=lambda item: item[0], max_weight=10)
    futures = [f((1, "first"))]
    gated.wait_started(1)
    futures += [f(item) for item in [(6, "a"), (8, "b"), (2, "c"), (1, "d"), (4, "e")]]
    gated.open()
    results(futures)
    assert gated.batches == [
        [(1, "first")], [(6, "a")], [(8, "b"), (2, "c")], [(1, "d"), (4, "e")],
    ]  # fmt: skip


@given(
    st.lists(st.integers(1, 8), max_size=40),
    st.integers(1, 6),
    st.integers(8, 20),
    st.sampled_from([0.0, None]),
)
def test_the_cap_holds_for_every_batch(
    eighths: list[int], size: int, cap: int, linger: float | None
) -> None:
    runs = Runs()
    f = batched(
        runs, size=size, linger=linger, weight=lambda item: item[1] / 8, max_weight=cap / 8
    )  # eighths add up exactly
    items = list(enumerate(eighths))
    futures = [f(item) for item in items]
    f.flush(LIMIT)
    assert [future.result(0) for future in futures] == done(items)
    balanced(f)
    f.close(LIMIT)
    assert list(itertools.chain(*runs.batches)) == items
    weights = [sum(eighth for _, eighth in batch) for batch in runs.batches]
    assert all(weight <= cap for weight in weights)
    assert all(len(batch) <= size for batch in runs.batches)
    if linger is None:  # no batch is dispatched early
        for batch, weight, following in zip(runs.batches, weights, runs.batches[1:], strict=False):
            assert len(batch) == size or weight + following[0][1] > cap


@given(st.lists(st.tuples(st.integers(1, 8), st.booleans(), st.integers(0, 1)), max_size=30))
def test_the_cap_applies_with_keys_and_to_retries(
    items_: list[tuple[int, bool, int]],
) -> None:
    seen: set[int] = set()

    def answer(item: Any) -> Any:
        number, (_, is_retried, _) = item
        if is_retried and number not in seen:
            seen.add(number)
            return Retry()
        return ("done", item)

    runs = Runs(answer)
    f = batched(
        runs, linger=None, weight=lambda item: item[1][0], max_weight=9, key=lambda i: i[1][2]
    )
    items = list(enumerate(items_))
    futures = [f(item) for item in items]
    f.flush(LIMIT)
    assert [future.result(0) for future in futures] == done(items)
    stats = balanced(f)
    f.close(LIMIT)
    assert stats.retried == sum(is_retried for _, is_retried, _ in items_)
    for batch in runs.batches:
        assert sum(weight for _, (weight, _, _) in batch) <= 9
        assert len({key for _, (_, _, key) in batch}) == 1


@pytest.mark.parametrize("shape", ["def", "async def", "method"])
def test_the_weight_is_asked_once_for_an_item_in_the_callers_thread(shape: str) -> None:
    asked: list[tuple[int, int]] = []

    def weight(item: int) -> int:
        asked.append((item, get_ident()))
        return 3

    runs = Runs(Again(3, Retry))
    f = make(shape, runs, size=4, linger=None, weight=weight, max_weight=10)

    def call(item: int) -> int:
        f(item)
        return get_ident()

    callers = [(item, in_thread(call, item).result()) for item in range(5)]
    f.options(timeout=1)(5), f.submit_nowait(6)
    f.flush(LIMIT)
    assert asked == [*callers, (5, get_ident()), (6, get_ident())]
    assert all(runs.runs_of(item) == 3 for item in range(7))
    assert sorted(f.map(iter([7, 8]))) == [("done", 7), ("done", 8)]
    assert [item for item, _ in asked] == list(range(9))


def test_the_weight_is_asked_once_on_a_loop(kind: str) -> None:
    asked: list[tuple[int, int]] = []

    def weight(item: int) -> int:
        asked.append((item, get_ident()))
        return 3

    async def main() -> None:
        f = make(kind, Runs(), capacity=2, size=2, weight=weight, max_weight=10)
        futures = [f(n) for n in range(4)]  # two of them wait for capacity
        futures.append(await f.asubmit(4))
        assert await asyncio.gather(*futures) == done(range(5))
        assert [result async for result in f.amap([5])] == done([5])
        await f.aclose(LIMIT)

    asyncio.run(main())
    assert asked == [(n, get_ident()) for n in range(6)]


def test_an_item_that_is_too_heavy_is_refused_at_once(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, weight=lambda n: n, max_weight=10)
    light = f(4)
    for heavy in (10.001, 11, 10**400, math.inf):
        with pytest.raises(ItemTooHeavy) as caught:
            f(heavy)
        assert isinstance(caught.value, ValueError)
        assert isinstance(caught.value, BatchifyError)
    assert not light.done()
    exact = f(6)
    assert results([light, exact]) == done([4, 6])
    assert runs.batches == [[4, 6]]
    assert (f.stats().rejected, f.stats().accepted) == (4, 2)


def test_too_heavy_is_raised_even_without_capacity() -> None:
    gated = Gated()
    f = batched(gated, size=1, capacity=1, weight=lambda n: n, max_weight=10)
    first = f(1)
    with pytest.raises(ItemTooHeavy):
        in_thread(f, 11).result()
    gated.open()
    assert first.result(LIMIT) == ("done", 1)


def test_too_heavy_is_raised_by_map_and_on_a_loop_too(kind: str) -> None:
    f = make(kind, Runs(), weight=lambda n: n, max_weight=10)
    with pytest.raises(ItemTooHeavy):
        list(f.map([1, 11]))

    async def main() -> None:
        with pytest.raises(ItemTooHeavy):
            f(11)
        with pytest.raises(ItemTooHeavy):
            await f.asubmit(11)
        assert await f(10) == ("done", 10)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (math.nan, ValueError), (-1, ValueError), (-0.001, ValueError), (-math.inf, ValueError),
        ("3", TypeError), (b"3", TypeError), (True, TypeError), (False, TypeError),
        (None, TypeError), ([], TypeError), (1j, TypeError),
    ],
)  # fmt: skip
def test_a_bad_weight_is_refused_by_the_call(bad: Any, error: type[Exception], kind: str) -> None:
    f = make(kind, Runs(), linger=None, weight=lambda item: item[0], max_weight=10)
    before = f((1,))
    with pytest.raises(error) as caught:
        f((bad,))
    assert not isinstance(caught.value, ItemTooHeavy)
    assert not before.done()
    f.flush(LIMIT)
    assert before.result(0) == ("done", (1,))
    assert (f.stats().rejected, f.stats().accepted) == (1, 1)


def test_weights_of_zero_and_of_other_number_types() -> None:
    from decimal import Decimal
    from fractions import Fraction

    runs = Runs()
    f = make("def", runs, linger=None, weight=lambda item: item, max_weight=1)
    items = [0, 0.0, Fraction(1, 2), Decimal("0.25"), 0, 0.25]
    assert results([f(item) for item in items]) == done(items)
    assert runs.batches == [items]


def test_an_item_that_is_cancelled_weighs_nothing_any_more() -> None:
    runs = Runs()
    f = make("def", runs, linger=None, weight=lambda n: n, max_weight=10)
    heavy = f(7)
    assert heavy.cancel()
    futures = [f(5), f(4)]
    assert runs.batches == []
    futures.append(f(1))
    assert results(futures) == done([5, 4, 1])
    assert runs.batches == [[5, 4, 1]]


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"weight": len}, ValueError, "max_weight"),
        ({"max_weight": 3}, ValueError, "weight"),
        ({"weight": 3, "max_weight": 3}, TypeError, "weight"),
        ({"weight": len, "max_weight": 0}, ValueError, "max_weight"),
        ({"weight": len, "max_weight": -1}, ValueError, "max_weight"),
        ({"weight": len, "max_weight": math.nan}, ValueError, "max_weight"),
        ({"weight": len, "max_weight": True}, TypeError, "max_weight"),
        ({"weight": len, "max_weight": "3"}, TypeError, "max_weight"),
        ({"key": "name"}, TypeError, "key"),
        ({"dedupe": "name"}, TypeError, "dedupe"),
        ({"dedupe": 1}, TypeError, "dedupe"),
        ({"dedupe": None}, TypeError, "dedupe"),
        ({"isolate": 1}, TypeError, "isolate"),
        ({"isolate": None}, TypeError, "isolate"),
        ({"on_error": "log"}, TypeError, "on_error"),
    ],
)
def test_bad_options_are_refused_at_decoration_by_name(
    options: dict[str, Any], error: type[Exception], named: str, kind: str
) -> None:
    with pytest.raises(error, match=named):
        batched(shaped(kind, Runs()), **options)


# ---- dedupe ----


def test_equal_items_reach_the_function_once_and_every_caller_has_a_result(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=True)
    items = [3, 1, 3, 2, 1, 3]
    futures = [f(item) for item in items]
    assert all_distinct(futures)
    f.flush(LIMIT)
    assert results(futures) == done(items)
    assert runs.batches == [[3, 1, 2]]
    stats = f.stats()
    assert (stats.deduplicated, stats.accepted, stats.succeeded) == (3, 6, 6)


def test_a_function_may_decide_which_items_are_equal(shape: str) -> None:
    runs = Runs(str.upper)
    f = make(shape, runs, linger=None, dedupe=str.lower)
    futures = [f(word) for word in ["Bee", "bee", "ant", "BEE", "Ant"]]
    f.flush(LIMIT)
    assert results(futures) == ["BEE", "BEE", "ANT", "BEE", "ANT"]
    assert [[item.lower() for item in batch] for batch in runs.batches] == [["bee", "ant"]]
    assert f.stats().deduplicated == 3


def test_a_function_of_the_item_makes_unhashable_items_equal(kind: str) -> None:
    runs = Runs(lambda item: item["id"])
    f = make(kind, runs, linger=None, dedupe=lambda row: row["id"])
    futures = [f({"id": n % 2}) for n in range(6)]
    f.flush(LIMIT)
    assert results(futures) == [0, 1, 0, 1, 0, 1]
    assert runs.batches == [[{"id": 0}, {"id": 1}]]


def test_without_equal_items_nothing_is_different(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=True)
    futures = [f(n) for n in range(5)]
    f.flush(LIMIT)
    assert results(futures) == done(range(5))
    assert runs.batches == [list(range(5))]
    assert f.stats().deduplicated == 0


def test_without_dedupe_equal_items_all_reach_the_function(kind: str) -> None:
    runs = Runs()
    f = make(kind, runs, linger=None)
    futures = [f(1), f(1)]
    f.flush(LIMIT)
    assert results(futures) == done([1, 1])
    assert runs.batches == [[1, 1]]
    assert f.stats().deduplicated == 0


def test_dedupe_is_no_cache(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, dedupe=True)
    assert [f(7).result(LIMIT) for _ in range(3)] == done([7, 7, 7])
    assert runs.batches == [[7], [7], [7]]
    assert f.stats().deduplicated == 0


def test_equal_items_of_other_kinds_are_run_for_each_kind(kind: str) -> None:
    seen: list[Any] = []

    def run(items: list[int], table: str) -> list[str]:
        seen.append((items, table))
        return [table] * len(items)

    f = make(kind, run, linger=None, dedupe=True)
    futures = [f(1, "a"), f(1, "b"), f(1, "a")]
    f.flush(LIMIT)
    assert results(futures) == ["a", "b", "a"]
    assert seen == [([1], "a"), ([1], "b")]
    assert f.stats().deduplicated == 1


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_cancelling_one_of_equal_items_never_touches_the_others(cancelled: int, shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=True)
    futures = [f(1), f(1), f(1)]
    lost = futures.pop(cancelled)
    assert lost.cancel()
    f.flush(LIMIT)
    assert lost.cancelled()
    assert results(futures) == done([1, 1])
    assert runs.batches == [[1]]
    stats = f.stats()
    assert (stats.cancelled, stats.succeeded, stats.deduplicated) == (1, 2, 1)


@pytest.mark.parametrize("detached", [0, 1])
def test_detaching_one_of_equal_items_on_a_loop_never_touches_the_other(
    detached: int, kind: str
) -> None:
    started, go = threading.Event(), threading.Event()

    def run(items: list[int]) -> list[Any]:
        started.set()
        assert go.wait(LIMIT)
        return done(items)

    async def run_async(items: list[int]) -> list[Any]:
        started.set()
        while not go.is_set():
            await asyncio.sleep(0.001)
        return done(items)

    async def main() -> None:
        f: Any = batched(run if kind == "def" else run_async, size=2, linger=None, dedupe=True)
        futures = [f(1), f(1)]
        while not started.is_set():
            await asyncio.sleep(0.001)
        lost = futures.pop(detached)
        assert lost.cancel()
        assert lost.cancelled()
        assert balanced(f).cancelled == 1
        go.set()
        assert await futures[0] == ("done", 1)
        assert balanced(f).succeeded == 1
        await f.aclose(LIMIT)

    asyncio.run(main())


def test_errors_of_equal_items_are_own_objects(shape: str) -> None:
    def fail(items: list[int]) -> list[Any]:
        raise LookupError("no luck", len(items))

    f = make(shape, fail, linger=None, dedupe=True)
    futures = [f(n) for n in (1, 1, 2, 1)]
    f.flush(LIMIT)
    found = errors(futures)
    assert [(type(error), error.args) for error in found] == [(LookupError, ("no luck", 2))] * 4
    assert all_distinct(found)
    assert f.stats().failed == 4


def test_an_element_that_is_an_error_goes_to_all_equal_items_and_to_no_others(
    shape: str,
) -> None:
    runs = Runs(lambda n: LookupError(n) if n == 1 else ("done", n))
    f = make(shape, runs, linger=None, dedupe=True)
    bad, good = [f(1), f(1), f(1)], [f(2), f(2)]
    f.flush(LIMIT)
    assert [(type(error), error.args) for error in errors(bad)] == [(LookupError, (1,))] * 3
    assert all_distinct(errors(bad))
    assert results(good) == done([2, 2])


def test_a_mapping_that_lacks_an_item_lacks_it_for_all_equal_ones(kind: str) -> None:
    f = make(kind, lambda items: {2: "two"}, linger=None, dedupe=True)
    futures = [f(n) for n in (1, 2, 1, 2)]
    f.flush(LIMIT)
    assert results(futures[1::2]) == ["two", "two"]
    missing = errors(futures[::2])
    assert [type(error) for error in missing] == [MissingResult] * 2
    assert all_distinct(missing)


def test_a_wrong_number_of_results_is_compared_with_the_items_of_the_call(kind: str) -> None:
    f = make(kind, lambda items: [*items, 0], linger=None, dedupe=True)
    futures = [f(n) for n in (1, 1, 2)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [BadResult] * 3
    f = make(kind, lambda items: items * 2, linger=None, dedupe=True)
    futures = [f(n) for n in (1, 1)]  # as many results as callers are wrong, too
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [BadResult] * 2


@pytest.mark.parametrize("shape", ["generator", "async generator"])
def test_equal_items_get_what_is_yielded_as_soon_as_it_is(shape: str) -> None:
    go = threading.Event()

    def slow(items: list[int]) -> Iterator[Any]:
        yield from done(items[:1])
        assert go.wait(LIMIT)
        yield LookupError("second")
        yield from done(items[2:3])

    f = make(shape, slow, linger=None, dedupe=True)
    futures = [f(n) for n in (1, 2, 1, 3, 3, 2, 4)]
    flushing = in_thread(f.flush, LIMIT)
    assert results([futures[0], futures[2]]) == done([1, 1])
    assert not futures[1].done()
    go.set()
    flushing.result()
    second = errors([futures[1], futures[5]])
    assert [type(error) for error in second] == [LookupError] * 2
    assert all_distinct(second)
    assert results(futures[3:5]) == done([3, 3])
    assert type(futures[6].exception(LIMIT)) is BadResult
    assert f.stats().deduplicated == 3


def test_an_unhashable_item_is_a_type_error_to_its_caller_alone(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=True)
    before = f(1)
    with pytest.raises(TypeError, match="dedupe=True needs hashable items, got list"):
        f([1])
    after = f(1)
    f.flush(LIMIT)
    assert results([before, after]) == done([1, 1])
    assert (f.stats().rejected, f.stats().accepted) == (1, 2)


def test_an_error_of_the_dedupe_function_reaches_its_caller_only(kind: str) -> None:
    runs = Runs()
    f = make(kind, runs, linger=None, dedupe=lambda n: {} if n == 5 else 10 // n)
    before = f(1)
    with pytest.raises(ZeroDivisionError):
        f(0)
    with pytest.raises(TypeError):
        f(5)
    f.flush(LIMIT)
    assert before.result(0) == ("done", 1)
    assert f.stats().rejected == 2


class Quarrel:
    """Hashable, and its `__eq__` raises (once the test says so)."""

    error: type[BaseException] = ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise self.error("no comparison")

    def __hash__(self) -> int:
        return 1


class Abort(Quarrel):
    error = KeyboardInterrupt


class Exit(Quarrel):
    error = SystemExit


@pytest.mark.parametrize("quarrel", [Quarrel, Abort, Exit])
def test_an_eq_that_raises_in_the_batch_loses_no_item(quarrel: type[Quarrel], shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=lambda item: item[0])
    futures = [f((quarrel(), n)) for n in range(3)] + [f(("good", 3))]
    f.flush(LIMIT)
    assert all(future.done() for future in futures)
    told = errors(futures[:3])
    assert [type(error) for error in told] == [
        ZeroDivisionError if quarrel is Quarrel else BatchAborted
    ] * 3
    assert all_distinct(told)
    after = f(("good", 4))  # the worker keeps running
    f.flush(LIMIT)
    assert after.result(0) == ("done", ("good", 4))
    balanced(f)


@pytest.mark.parametrize("detail", ["hash", "eq"])
def test_a_hash_or_eq_that_fails_later_loses_no_item(detail: str, kind: str) -> None:
    class Fickle:
        is_good = True

        def __hash__(self) -> int:
            if detail == "hash" and not self.is_good:
                raise LookupError("hash")
            return 1

        def __eq__(self, other: object) -> bool:
            if detail == "eq" and not self.is_good:
                raise LookupError("eq")
            return self is other

    f = make(kind, lambda items: [1] * len(items), linger=None, dedupe=True)
    futures = [f(Fickle()) for _ in range(3)]
    Fickle.is_good = False
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [LookupError] * 3
    Fickle.is_good = True
    after = f(Fickle())
    f.flush(LIMIT)
    assert after.result(0) == 1


def test_equal_items_run_again_together(shape: str) -> None:
    runs = Runs(Again(3, Retry))
    f = make(shape, runs, linger=None, dedupe=True)
    futures = [f(1), f(1), f(2)]
    f.flush(LIMIT)
    assert results(futures) == done([1, 1, 2])
    assert runs.runs_of(1) == 3
    assert f.stats().retried == 6


def test_equal_items_run_again_together_after_a_delay() -> None:
    seam = ManualSeam()
    runs = Runs(Again(3, lambda: Retry(after=10)))
    f = batched_with(seam, runs, size=3, linger=None, dedupe=True)
    futures = [f(1), f(1), f(2)]
    seam.rest()
    seam.advance(10)
    seam.advance(10)
    assert results(futures) == done([1, 1, 2])
    assert runs.batches == [[1, 2]] * 3
    f.close(LIMIT)


def test_equal_items_are_exhausted_each_with_an_error_of_its_own(shape: str) -> None:
    again = Retry(attempts=2, cause=TimeoutError("429"))
    runs = Runs(lambda n: again)
    f = make(shape, runs, linger=None, dedupe=True)
    futures = [f(1), f(1)]
    f.flush(LIMIT)
    told = errors(futures)
    assert [type(error) for error in told] == [RetryExhausted] * 2
    assert all_distinct(told)
    assert all_distinct([error.__cause__ for error in told] + [again.cause])
    assert runs.batches == [[1], [1]]


@pytest.mark.parametrize("options", [{}, {"key": lambda n: 0}], ids=["plain", "key"])
def test_an_equal_item_that_came_later_has_attempts_of_its_own(options: dict[str, Any]) -> None:
    batches: list[list[int]] = []
    late: list[Any] = []

    def run(items: list[int]) -> list[Any]:
        batches.append(list(items))
        if len(batches) == 1:
            late.append(f(1))
        return [Retry(attempts=2)] * len(items)

    f = make("def", run, dedupe=True, **options)
    first = f(1)
    assert isinstance(first.exception(LIMIT), RetryExhausted)
    assert isinstance(late[0].exception(LIMIT), RetryExhausted)
    assert batches == [[1], [1], [1]]  # both were in the second: the last run of one alone
    assert f.stats().retried == 2
    assert f.stats().deduplicated == 1


def test_cancelling_one_of_equal_items_that_wait_to_run_again() -> None:
    runs = Runs(Again(2, lambda: Retry(after=NEVER)))
    f = make("def", runs, size=2, linger=None, dedupe=True)
    futures = [f(1), f(1)]
    until(lambda: f.stats().retried == 2)
    assert futures[0].cancel()
    f.flush(LIMIT)
    assert futures[0].cancelled()
    assert futures[1].result(0) == ("done", 1)


def test_with_isolate_equal_items_are_at_fault_together(shape: str) -> None:
    def run(items: list[int]) -> list[Any]:
        calls.append(list(items))
        if 5 in items:
            raise ValueError(5)
        return done(items)

    calls: list[list[int]] = []
    f = make(shape, run, linger=None, dedupe=True, isolate=True)
    items = [1, 5, 2, 5, 3, 4, 1, 5]
    futures = [f(item) for item in items]
    f.flush(LIMIT)
    bad = [future for item, future in zip(items, futures, strict=True) if item == 5]
    good = [(item, future) for item, future in zip(items, futures, strict=True) if item != 5]
    assert [type(error) for error in errors(bad)] == [ValueError] * 3
    assert all_distinct(errors(bad))
    assert [future.result(0) for _, future in good] == done([item for item, _ in good])
    assert all(len(set(call)) == len(call) for call in calls)
    assert len(calls) <= 1 + 2 * math.log2(5) + 2


def test_with_on_error_equal_items_have_one_replacement(shape: str) -> None:
    seen: list[list[int]] = []

    def handle(failure: Any) -> list[Any]:
        seen.append(failure.items)
        return [("instead", item) for item in failure.items]

    def fail(items: list[int]) -> list[Any]:
        raise ValueError

    f = make(shape, fail, linger=None, dedupe=True, on_error=handle)
    futures = [f(n) for n in (1, 2, 1, 2)]
    f.flush(LIMIT)
    assert results(futures) == [("instead", n) for n in (1, 2, 1, 2)]
    assert seen == [[1, 2]]


def test_size_and_capacity_count_calls_not_groups() -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=3, dedupe=True)
    futures = [f(0)]
    gated.wait_started(1)
    futures += [f(1), f(1)]
    with pytest.raises(QueueFull):
        f.submit_nowait(1)
    gated.release()
    until(lambda: f.stats().succeeded == 1)
    futures.append(f(1))
    gated.open()
    assert results(futures) == done([0, 1, 1, 1])
    assert gated.batches == [[0], [1], [1]]


@given(
    st.lists(st.integers(0, 6), max_size=30),
    st.integers(1, 8),
    st.sampled_from(SHAPES),
    st.sets(st.integers(0, 6), max_size=2),
    st.booleans(),
)
def test_deduplicated_counts_what_the_function_was_spared(
    items: list[int], size: int, shape: str, bad: set[int], is_by_function: bool
) -> None:
    runs = Runs(lambda n: KeyError(n) if n in bad else ("done", n))
    f = make(
        shape, runs, size=size, linger=None, dedupe=(lambda n: str(n)) if is_by_function else True
    )
    futures = [f(item) for item in items]
    f.flush(LIMIT)
    for item, future in zip(items, futures, strict=True):
        if item in bad:
            assert type(future.exception(0)) is KeyError
        else:
            assert future.result(0) == ("done", item)
    assert all_distinct([e for e in errors(futures) if e is not None])
    assert all(len(set(batch)) == len(batch) <= size for batch in runs.batches)
    assert balanced(f).deduplicated == len(items) - sum(map(len, runs.batches))
    f.close(LIMIT)


# ---- isolate ----


class Picky:
    """Raises if a batch has a bad item; the type of the error depends on the item, or is fixed."""

    def __init__(self, bad: Any, *, is_alike: bool = False) -> None:
        self.bad = set(bad)
        self.is_alike = is_alike
        self.calls: list[list[int]] = []

    def __call__(self, items: list[int]) -> list[Any]:
        self.calls.append(list(items))
        for item in items:
            if item in self.bad:
                raise ValueError if self.is_alike else type(f"Bad{item}", (ValueError,), {})
        return done(items)


def most_calls(bad: int, count: int) -> float:
    """Return how many further calls `bad` items at fault among `count` may cost."""
    return 2 * bad * math.log2(count / bad) + 2 * bad if bad else 0


def held_to_fault(picky: Picky, futures: list[Any]) -> None:
    """Check that each item at fault has its own error, and no other item has one."""
    for item, future in enumerate(futures):
        if item in picky.bad:
            assert isinstance(future.exception(LIMIT), ValueError)
        else:
            assert future.result(LIMIT) == ("done", item)
    assert all_distinct([error for error in errors(futures) if error is not None])


@st.composite
def counts_and_bad(draw: Any) -> tuple[int, set[int]]:
    count = draw(st.integers(1, 40))
    return count, draw(st.sets(st.integers(0, count - 1)))


def called_with_bad(shape: str, count: int, bad: set[int]) -> Picky:
    """Return the function after a batch of `count` in which only items at fault got an error."""
    picky = Picky(bad)
    f = make(shape, picky, size=count, linger=None, isolate=True)
    futures = [f(n) for n in range(count)]
    f.flush(LIMIT)
    for n, future in enumerate(futures):
        if n in bad:
            assert type(future.exception(0)).__name__ == f"Bad{n}"
        else:
            assert future.result(0) == ("done", n)
    stats = balanced(f)
    assert (stats.failed, stats.batches) == (len(bad), 1)
    f.close(LIMIT)
    return picky


@pytest.mark.parametrize("shape", SHAPES)
@given(counts_and_bad())
def test_only_callers_at_fault_get_errors(shape: str, batch: tuple[int, set[int]]) -> None:
    called_with_bad(shape, *batch)


@given(counts_and_bad())
@example((10, {0, 5}))
@example((11, {0, 4, 8}))
@example((24, {0, 3, 6, 12, 15, 18}))
def test_few_further_calls_find_the_items_at_fault(batch: tuple[int, set[int]]) -> None:
    count, bad = batch
    assert len(called_with_bad("def", count, bad).calls) - 1 <= most_calls(len(bad), count)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 8, 9, 16, 17, 31, 33, 64])
def test_one_at_fault_at_every_place(count: int) -> None:
    for bad in range(count):
        picky = Picky({bad}, is_alike=True)
        f = make("def", picky, size=count, linger=None, isolate=True)
        futures = [f(n) for n in range(count)]
        f.flush(LIMIT)
        held_to_fault(picky, futures)
        assert len(picky.calls) - 1 <= most_calls(1, count)


@pytest.mark.parametrize("shape", ["generator", "async generator"])
@given(st.data())
def test_a_generator_that_raises_on_the_way_is_halved_from_there(shape: str, data: Any) -> None:
    count = data.draw(st.integers(1, 40))
    bad = data.draw(st.sets(st.integers(0, count - 1)))
    picky = Picky(bad)
    settled: Counter[int] = Counter()

    def lazily(items: list[int]) -> Iterator[Any]:
        picky.calls.append(list(items))
        for item in items:
            if item in bad:
                raise type(f"Bad{item}", (ValueError,), {})
            settled[item] += 1
            yield ("done", item)

    f = make(shape, lazily, size=count, linger=None, isolate=True)
    futures = [f(n) for n in range(count)]
    f.flush(LIMIT)
    held_to_fault(picky, futures)
    assert set(settled) == set(range(count)) - bad
    f.close(LIMIT)


def test_a_batch_that_does_not_raise_is_called_once(shape: str) -> None:
    picky = Picky(())
    f = make(shape, picky, linger=None, isolate=True)
    futures = [f(n) for n in range(20)]
    f.flush(LIMIT)
    assert results(futures) == done(range(20))
    assert len(picky.calls) == 1


def test_without_isolate_all_share_the_error(shape: str) -> None:
    picky = Picky({3})
    f = make(shape, picky, linger=None)
    futures = [f(n) for n in range(8)]
    f.flush(LIMIT)
    assert {type(error).__name__ for error in errors(futures)} == {"Bad3"}
    assert len(picky.calls) == 1


@pytest.mark.parametrize("shape", TROUBLE)
@pytest.mark.parametrize("count", [4, 5, 8, 13, 64])
def test_an_outage_is_recognised_after_seven_calls(count: int, shape: str) -> None:
    picky = Picky(range(count), is_alike=True)
    f = make(shape, picky, size=count, linger=None, isolate=True)
    futures = [f(n) for n in range(count)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [ValueError] * count
    assert all_distinct(errors(futures))
    assert len(picky.calls) == 7
    for parts in (picky.calls[1:3], picky.calls[3:]):
        assert sorted(itertools.chain(*parts)) == list(range(count))


def test_one_good_quarter_or_two_types_of_errors_are_no_outage(shape: str) -> None:
    picky = Picky(set(range(16)) - {4, 5, 6, 7}, is_alike=True)
    f = make(shape, picky, linger=None, isolate=True)
    futures = [f(n) for n in range(16)]
    f.flush(LIMIT)
    held_to_fault(picky, futures)

    class Two(Picky):
        def __call__(self, items: list[int]) -> list[Any]:
            self.calls.append(list(items))
            if set(items) & self.bad:
                raise UnicodeError if min(items) >= 12 else ValueError
            return done(items)

    two = Two({0, 4, 8, 12})
    f = make(shape, two, linger=None, isolate=True)
    futures = [f(n) for n in range(16)]
    f.flush(LIMIT)
    held_to_fault(two, futures)


def test_with_one_bad_item_in_each_quarter_of_one_type_it_is_taken_for_an_outage(
    kind: str,
) -> None:
    picky = Picky({0, 4, 8, 12}, is_alike=True)
    f = make(kind, picky, linger=None, isolate=True)
    futures = [f(n) for n in range(16)]
    f.flush(LIMIT)
    assert len(picky.calls) == 7
    assert [type(error) for error in errors(futures)] == [ValueError] * 16


@pytest.mark.parametrize("shape", ["def", "async def", "method"])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda items: items[:-1], BadResult),
        (lambda items: "text", BadResult),
        (lambda items: 7, BadResult),
        (lambda items: _raise(KeyboardInterrupt()), BatchAborted),
        (lambda items: _raise(asyncio.CancelledError()), BatchAborted),
        (lambda items: [ValueError(item) for item in items], ValueError),
    ],
    ids=["short", "text", "number", "KeyboardInterrupt", "CancelledError", "elements"],
)
def test_a_batch_without_an_item_at_fault_is_not_bisected(
    answer: Callable[[Any], Any], told: type[Exception], shape: str
) -> None:
    calls: list[int] = []

    def run(items: list[int]) -> Any:
        calls.append(len(items))
        return answer(items)

    f = make(shape, run, linger=None, isolate=True)
    futures = [f(n) for n in range(8)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [told] * 8
    assert calls == [8]


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize("shape", ["def", "async def", "method"])
@pytest.mark.parametrize("wrong_half", [0, 1])
def test_a_half_with_a_bad_result_takes_no_innocent_of_the_other_half_along(
    wrong_half: int, shape: str
) -> None:
    """One half comes to a `BadResult`; in the other one item is at fault, and three are not."""
    wrong = set(range(4 * wrong_half, 4 * wrong_half + 4))
    fault = 6 - 4 * wrong_half

    def run(items: list[int]) -> list[Any]:
        if fault in items:
            raise LookupError(fault)
        return [] if set(items) <= wrong else done(items)

    f = make(shape, run, size=8, linger=None, isolate=True)
    futures = [f(n) for n in range(8)]
    f.flush(LIMIT)
    expected = {n: BadResult if n in wrong else type(None) for n in range(8)}
    expected[fault] = LookupError
    assert {n: type(future.exception(0)) for n, future in enumerate(futures)} == expected


def test_isolate_asks_with_fresh_lists_though_the_function_changes_its_own(kind: str) -> None:
    def spoil(items: list[int]) -> list[Any]:
        given = list(items)
        items.clear()
        if 3 in given:
            raise ValueError
        return done(given)

    f = make(kind, spoil, linger=None, isolate=True)
    futures = [f(n) for n in range(8)]
    f.flush(LIMIT)
    assert [future.exception() is None for future in futures] == [n != 3 for n in range(8)]


def test_isolate_for_equal_items_that_are_not_deduplicated(kind: str) -> None:
    picky = Picky({5})
    f = make(kind, picky, linger=None, isolate=True)
    items = [5, 1, 1, 5, 1, 1, 1, 1]
    futures = [f(item) for item in items]
    f.flush(LIMIT)
    assert [future.exception() is None for future in futures] == [item == 1 for item in items]


def test_isolate_with_extra_arguments_and_keys(kind: str) -> None:
    def run(items: list[int], table: str, *, mode: str) -> list[Any]:
        if 6 in items:
            raise ValueError
        return [(table, mode, item) for item in items]

    f = make(kind, run, linger=None, isolate=True, key=lambda n: n % 2)
    futures = [f(n, "t", mode="m") for n in range(12)]
    f.flush(LIMIT)
    for n, future in enumerate(futures):
        if n == 6:
            assert type(future.exception()) is ValueError
        else:
            assert future.result() == ("t", "m", n)


def test_items_cancelled_before_the_start_are_in_no_half(shape: str) -> None:
    picky = Picky({2})
    f = make(shape, picky, linger=None, isolate=True)
    futures = [f(n) for n in range(6)]
    assert futures[2].cancel()
    f.flush(LIMIT)
    assert len(picky.calls) == 1
    assert results(futures[:2] + futures[3:]) == done([0, 1, 3, 4, 5])


def test_isolate_with_items_that_run_again(shape: str) -> None:
    again = Again(2, Retry)
    calls: list[list[int]] = []

    def run(items: list[int]) -> list[Any]:
        calls.append(list(items))
        if 3 in items:
            raise ValueError
        return [again(item) for item in items]

    f = make(shape, run, linger=None, isolate=True)
    futures = [f(n) for n in range(8)]
    f.flush(LIMIT)
    assert type(futures[3].exception(0)) is ValueError
    assert results(futures[:3] + futures[4:]) == done([0, 1, 2, 4, 5, 6, 7])
    assert f.stats().retried == 7


@pytest.mark.parametrize("shape", TROUBLE)
def test_on_error_sees_each_piece_that_still_fails(shape: str) -> None:
    seen: list[tuple[str, list[int]]] = []
    picky = Picky({1, 6})

    def handle(failure: Any) -> Any:
        seen.append((type(failure.exception).__name__, failure.items))
        return ["instead"] if failure.items == [6] else None

    f = make(shape, picky, linger=None, isolate=True, on_error=handle)
    futures = [f(n) for n in range(8)]
    f.flush(LIMIT)
    assert sorted(seen) == [("Bad1", [1]), ("Bad6", [6])]
    assert type(futures[1].exception()).__name__ == "Bad1"
    assert futures[6].result() == "instead"
    assert results([futures[n] for n in (0, 2, 3, 4, 5, 7)]) == done([0, 2, 3, 4, 5, 7])


@pytest.mark.parametrize("shape", TROUBLE)
def test_in_an_outage_on_error_sees_every_item_once(shape: str) -> None:
    seen: list[list[int]] = []
    picky = Picky(range(16), is_alike=True)

    def handle(failure: Any) -> list[Any]:
        seen.append(failure.items)
        return [("instead", item) for item in failure.items]

    f = make(shape, picky, linger=None, isolate=True, on_error=handle)
    futures = [f(n) for n in range(16)]
    f.flush(LIMIT)
    assert results(futures) == [("instead", n) for n in range(16)]
    assert sorted(itertools.chain(*seen)) == list(range(16))
    assert len(picky.calls) == 7


# ---- on_error ----


def fail_with(error: Callable[[], BaseException]) -> Callable[[list[Any]], Any]:
    def fail(items: list[Any]) -> Any:
        raise error()

    return fail


def _yielding(values: Any) -> Iterator[Any]:
    yield from values


REPLACEMENTS: dict[str, Callable[[list[int]], Any]] = {
    "list": lambda items: [("instead", item) for item in items],
    "tuple": lambda items: tuple(("instead", item) for item in items),
    "mapping": lambda items: {item: ("instead", item) for item in reversed(items)},
    "proxy": lambda items: MappingProxyType({item: ("instead", item) for item in items}),
    "generator": lambda items: _yielding([("instead", item) for item in items]),
}


@pytest.mark.parametrize("how", REPLACEMENTS)
@pytest.mark.parametrize("shape", TROUBLE)
def test_callers_get_what_the_handler_returns(how: str, shape: str) -> None:
    f = make(
        shape,
        fail_with(lambda: OSError("down")),
        linger=None,
        on_error=lambda failure: REPLACEMENTS[how](failure.items),
    )
    futures = [f(n) for n in range(5)]
    f.flush(LIMIT)
    assert results(futures) == [("instead", n) for n in range(5)]
    stats = f.stats()
    assert (stats.succeeded, stats.failed) == (5, 0)


@pytest.mark.parametrize("shape", TROUBLE)
def test_a_handler_that_returns_none_lets_the_error_through(shape: str) -> None:
    seen: list[Any] = []
    f = make(shape, fail_with(lambda: OSError("down")), linger=None, on_error=seen.append)
    futures = [f(n) for n in range(5)]
    f.flush(LIMIT)
    told = errors(futures)
    assert [(type(error), error.args) for error in told] == [(OSError, ("down",))] * 5
    assert all_distinct(told)
    assert [failure.items for failure in seen] == [list(range(5))]


@pytest.mark.parametrize(
    "given_back",
    [
        lambda items: items[1:],
        lambda items: [*items, 0],
        lambda items: [],
        lambda items: "abc",
        lambda items: 7,
        lambda items: object(),
    ],
)
def test_a_wrong_number_or_kind_from_the_handler_is_a_bad_result(
    given_back: Callable[[Any], Any], kind: str
) -> None:
    f = make(
        kind, fail_with(OSError), linger=None, on_error=lambda failure: given_back(failure.items)
    )
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [BadResult] * 3
    assert f.stats().failed == 3


def test_elements_from_the_handler_mean_what_they_mean_from_the_function(kind: str) -> None:
    """An exception is raised for its caller alone, a mapping may lack one, a generator end."""
    answers: list[Any] = [
        [LookupError("own"), 1, 2],
        {0: LookupError("own"), 2: 2},
        _yielding([LookupError("own"), 1]),
    ]
    told = [
        [LookupError, 1, 2], [LookupError, MissingResult, 2], [LookupError, 1, BadResult],
    ]  # fmt: skip
    for answer, expected in zip(answers, told, strict=True):
        f = make(kind, fail_with(OSError), linger=None, on_error=lambda failure: answer)
        futures = [f(n) for n in range(3)]
        f.flush(LIMIT)
        assert [
            future.result(0) if future.exception(0) is None else type(future.exception(0))
            for future in futures
        ] == expected


def test_the_handler_may_send_items_to_run_again(kind: str) -> None:
    runs: list[list[int]] = []

    def run(items: list[int]) -> list[Any]:
        runs.append(list(items))
        if len(runs) < 3:
            raise OSError
        return done(items)

    f = make(kind, run, linger=None, on_error=lambda failure: [Retry()] * len(failure.items))
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert results(futures) == done(range(3))
    assert runs == [[0, 1, 2]] * 3
    assert f.stats().retried == 6


def test_a_handler_that_always_says_retry_is_exhausted(kind: str) -> None:
    calls: list[int] = []

    def handle(failure: Any) -> list[Any]:
        calls.append(len(failure.items))
        return [Retry(attempts=2, cause=failure.exception)] * len(failure.items)

    f = make(kind, fail_with(lambda: OSError("down")), linger=None, on_error=handle)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    for error in errors(futures):
        assert type(error) is RetryExhausted
        assert type(error.__cause__) is OSError
    assert calls == [3, 3]


@pytest.mark.parametrize("shape", TROUBLE)
def test_when_the_handler_raises_the_callers_get_the_batchs_error_with_a_note(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(failure: Any) -> Any:
        raise LookupError("secret of the handler", failure.items)

    f = make(shape, fail_with(lambda: OSError("secret")), linger=None, on_error=handle)
    futures = [f(f"item{n}") for n in range(3)]
    f.flush(LIMIT)
    told = errors(futures)
    assert [(type(error), error.args) for error in told] == [(OSError, ("secret",))] * 3
    assert all_distinct(told)
    assert all("LookupError" in "".join(error.__notes__) for error in told)
    assert [record.name for record in caplog.records] == ["batchify"]
    assert "on_error" in caplog.text
    assert "secret" not in caplog.text
    assert "item" not in caplog.text
    assert not any("secret" in note or "item" in note for e in told for note in e.__notes__)
    after = f("item4")
    f.flush(LIMIT)
    assert type(after.exception(0)) is OSError  # the worker keeps running


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_a_handler_that_is_stopped_loses_no_item(error: type[BaseException], kind: str) -> None:
    f = make(kind, fail_with(OSError), linger=None, on_error=lambda failure: _raise(error()))
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert [type(told) for told in errors(futures)] == [OSError] * 3
    after = f(1)
    f.flush(LIMIT)
    assert type(after.exception(0)) is OSError


class AsyncHandler:
    async def __call__(self, failure: Any) -> Any:
        await asyncio.sleep(0)
        return [("instead", item) for item in failure.items]

    async def method(self, failure: Any) -> Any:
        return await self(failure)

    @staticmethod
    async def yielding(failure: Any) -> Any:
        for item in failure.items:
            await asyncio.sleep(0)
            yield ("instead", item)


async def async_handler(failure: Any) -> Any:
    return await AsyncHandler()(failure)


ASYNC_HANDLERS = {
    "function": async_handler,
    "method": AsyncHandler().method,
    "callable": AsyncHandler(),
    "partial": functools.partial(async_handler),
    "async generator": AsyncHandler.yielding,
}


@pytest.mark.parametrize("how", ASYNC_HANDLERS)
@pytest.mark.parametrize("shape", ["async def", "async generator"])
def test_an_async_handler_for_an_async_function(how: str, shape: str) -> None:
    options = {"linger": None, "on_error": ASYNC_HANDLERS[how]}
    f = make(shape, fail_with(OSError), **options)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert results(futures) == [("instead", n) for n in range(3)]

    async def main() -> list[Any]:
        g: Any = batched(shaped(shape, fail_with(OSError)), on_error=ASYNC_HANDLERS[how])
        return await asyncio.gather(*[g(n) for n in range(3)])

    assert asyncio.run(main()) == [("instead", n) for n in range(3)]


@pytest.mark.parametrize("how", ASYNC_HANDLERS)
@pytest.mark.parametrize("shape", ["def", "generator", "method"])
def test_an_async_handler_for_a_def_is_refused_at_decoration(how: str, shape: str) -> None:
    with pytest.raises(TypeError, match="on_error"):
        batched(shaped(shape, fail_with(OSError)), on_error=ASYNC_HANDLERS[how])


def test_an_error_of_an_async_handler_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(failure: Any) -> Any:
        await asyncio.sleep(0)
        raise LookupError("secret")

    f = make("async def", fail_with(OSError), linger=None, on_error=handle)
    futures = [f(n) for n in range(2)]
    f.flush(LIMIT)
    for error in errors(futures):
        assert type(error) is OSError
        assert "LookupError" in "".join(error.__notes__)
    assert [record.name for record in caplog.records] == ["batchify"]


def test_the_failure_describes_the_failed_batch(kind: str) -> None:
    seen: list[Any] = []

    def run(items: list[int], *args: Any, **kwargs: Any) -> Any:
        raise OSError("down")

    plain = shaped(kind, run)
    f: Any = batched(plain, linger=None, on_error=seen.append)
    _made.append(f)
    futures = [f(1, "a", mode="m"), f(2, "a", mode="m"), f(3)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [OSError] * 3
    first, second = seen
    assert (first.items, first.args, first.kwargs) == ([1, 2], ("a",), {"mode": "m"})
    assert (second.items, second.args, second.kwargs) == ([3], (), {})
    for failure in seen:
        assert type(failure.exception) is OSError
        assert failure.exception.args == ("down",)
        assert failure.function is plain
        assert failure.batched is f


def test_on_a_method_function_is_bound_and_batched_is_the_instances() -> None:
    seen: list[Any] = []

    def handle(failure: Any) -> Any:
        seen.append(failure)
        return failure.function([0] * len(failure.items)) if failure.items != [9] else None

    class Store:
        def __init__(self, name: str) -> None:
            self.name = name

        @batched(linger=None, on_error=handle)
        def save(self, items: list[int]) -> list[Any]:
            if any(items):
                raise OSError
            return [(self.name, item) for item in items]

    one, two = Store("one"), Store("two")
    futures = [one.save(1), two.save(2)]
    one.save.flush(LIMIT), two.save.flush(LIMIT)
    assert results(futures) == [("one", 0), ("two", 0)]
    extra = [failure.batched(0) for failure in seen]  # into the instance's own queue
    one.save.flush(LIMIT), two.save.flush(LIMIT)
    assert results(extra) == [("one", 0), ("two", 0)]


def test_the_handler_is_called_before_the_callers_know(kind: str) -> None:
    states: list[list[bool]] = []
    futures: list[Any] = []

    def handle(failure: Any) -> None:
        states.append([future.done() for future in futures])

    f = make(kind, fail_with(OSError), size=3, linger=None, on_error=handle)
    futures += [f(n) for n in range(2)]
    f.flush(LIMIT)
    assert states == [[False, False]]
    assert all(future.done() for future in futures)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda items: items[:-1], BadResult),
        (lambda items: 7, BadResult),
        (lambda items: _raise(KeyboardInterrupt()), BatchAborted),
        (lambda items: _raise(asyncio.CancelledError()), BatchAborted),
        (lambda items: _raise(StopIteration()), RuntimeError),
        (lambda items: [ValueError(), Retry(attempts=1), *items[2:]], None),
        (lambda items: {1: Retry(attempts=1)}, None),
        (lambda items: [Retry(attempts=2)] * len(items), None),
    ],
)
def test_the_handler_sees_what_fails_a_batch_and_no_elements(
    answer: Callable[[Any], Any], told: type[Exception] | None, kind: str
) -> None:
    seen: list[type[Exception]] = []
    f = make(kind, answer, linger=None, on_error=lambda x: seen.append(type(x.exception)))
    futures = [f(n) for n in range(4)]
    f.flush(LIMIT)
    assert all(future.done() for future in futures)
    assert seen == ([] if told is None else [told])


def test_the_handler_may_submit_the_items_elsewhere(kind: str) -> None:
    elsewhere = make(kind, Runs(), size=2, linger=0.001)
    kept: list[Any] = []

    def wait_for_them(failure: Any) -> list[Any]:
        return [future.result(LIMIT) for future in [elsewhere(item) for item in failure.items]]

    def leave_them(failure: Any) -> None:
        kept.extend(elsewhere(item) for item in failure.items)

    f = make("def", fail_with(OSError), linger=None, on_error=wait_for_them)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert results(futures) == done(range(3))
    f = make(kind, fail_with(OSError), linger=None, on_error=leave_them)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [OSError] * 3
    assert results(kept) == done(range(3))


def test_the_handler_may_submit_to_the_function_itself(kind: str) -> None:
    second: list[Any] = []

    def run(items: list[int]) -> list[Any]:
        if any(item > 0 for item in items):
            raise OSError
        return done(items)

    def handle(failure: Any) -> None:
        second.extend(failure.batched(-item) for item in failure.items)

    f = make(kind, run, on_error=handle)
    assert type(f(3).exception(LIMIT)) is OSError
    assert results(second) == done([-3])


def test_an_async_handler_may_await_items_elsewhere() -> None:
    async def main() -> None:
        elsewhere: Any = batched(shaped("async def", Runs()))

        async def handle(failure: Any) -> list[Any]:
            return await asyncio.gather(*[elsewhere(item) for item in failure.items])

        f: Any = batched(shaped("async def", fail_with(OSError)), on_error=handle)
        assert await asyncio.gather(*[f(n) for n in range(3)]) == done(range(3))

    asyncio.run(main())


def test_handlers_run_in_the_failed_batchs_workers_so_they_are_bounded() -> None:
    lock = threading.Lock()
    running: list[int] = []
    most: list[int] = []
    workers: set[int] = set()
    both = threading.Barrier(2)

    def fail(items: list[int]) -> Any:
        workers.add(get_ident())
        raise OSError

    def handle(failure: Any) -> None:
        assert get_ident() in workers
        with lock:
            running.append(1)
            most.append(len(running))
        both.wait(LIMIT)
        with lock:
            running.pop()

    f = make("def", fail, size=1, workers=2, on_error=handle)
    futures = [f(n) for n in range(6)]
    assert [type(error) for error in errors(futures)] == [OSError] * 6
    assert max(most) == 2
    assert f.stats().failed == 6


def test_ten_thousand_failing_batches_make_no_threads() -> None:
    before = batchify_threads()
    most = 0

    def fail(items: list[int]) -> Any:
        raise OSError

    def handle(failure: Any) -> None:
        nonlocal most
        most = max(most, len(batchify_threads() - before))

    f = make("def", fail, size=1, workers=2, on_error=handle)
    found = errors([f(n) for n in range(10_000)])
    assert {type(error) for error in found} == {OSError}
    assert most <= 2
    assert f.stats().failed == 10_000


def test_a_handler_that_changes_its_failure_harms_no_other(kind: str) -> None:
    def handle(failure: Any) -> None:
        failure.items.clear()
        failure.kwargs["table"] = "spoilt"

    seen: list[Any] = []

    def run(items: list[int], table: str) -> Any:
        seen.append(table)
        raise OSError

    f = make(kind, run, linger=None, isolate=True, on_error=handle)
    futures = [f(n, table="t") for n in range(3)]
    f.flush(LIMIT)
    futures.append(f(3, table="t"))
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [OSError] * 4
    assert set(seen) == {"t"}


@pytest.mark.parametrize("shape", ["generator", "async generator"])
def test_of_a_generator_the_handler_sees_the_items_that_have_no_result(shape: str) -> None:
    def run(items: list[int]) -> Iterator[Any]:
        yield from done(items[:2])
        raise OSError

    f = make(shape, run, linger=None, on_error=lambda failure: [("instead", *failure.items)] * 2)
    futures = [f(n) for n in range(4)]
    f.flush(LIMIT)
    assert results(futures) == [*done([0, 1]), ("instead", 2, 3), ("instead", 2, 3)]


# ---- Retry ----


def test_attempts_count_the_first_run(shape: str) -> None:
    runs = Runs(lambda n: Retry() if n == 0 else Retry(attempts=n))
    f = make(shape, runs, size=8, linger=None)
    futures = [f(n) for n in range(6)]
    f.flush(LIMIT)
    told = errors(futures)
    assert [type(error) for error in told] == [RetryExhausted] * 6
    assert all(isinstance(error, BatchifyError) for error in told)
    assert [runs.runs_of(n) for n in range(6)] == [3, 1, 2, 3, 4, 5]
    stats = f.stats()
    assert (stats.retried, stats.failed) == (2 + 0 + 1 + 2 + 3 + 4, 6)


def test_an_item_that_comes_right_in_time_has_its_result(shape: str) -> None:
    runs = Runs(Again(3, Retry))
    f = make(shape, runs, size=3, linger=None)
    futures = [f(n) for n in range(3)]
    assert results(futures) == done(range(3))
    assert runs.batches == [[0, 1, 2]] * 3
    stats = f.stats()
    assert (stats.retried, stats.succeeded, stats.accepted, stats.batches) == (6, 3, 3, 3)


def test_the_neighbours_have_their_results_at_once(shape: str) -> None:
    runs = Runs(lambda n: Retry(after=NEVER) if n == 1 else ("done", n))
    f = make(shape, runs, size=3, linger=None)
    futures = [f(n) for n in range(3)]
    assert results(futures[::2]) == done([0, 2])
    until(lambda: f.stats().retried == 1)
    assert not futures[1].done()
    stats = balanced(f)
    assert (stats.pending, stats.running, stats.succeeded) == (1, 0, 2)
    assert futures[1].cancel()


def test_exhausted_comes_from_the_cause(shape: str) -> None:
    cause = TimeoutError("429")
    f = make(shape, Runs(lambda n: Retry(attempts=2, cause=cause if n else None)), linger=None)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    told = errors(futures)
    assert told[0].__cause__ is None
    for error in told[1:]:
        assert (type(error.__cause__), error.__cause__.args) == (TimeoutError, ("429",))
    assert all_distinct(told)
    assert told[1].__cause__ is not told[2].__cause__


def test_the_last_cause_counts(kind: str) -> None:
    causes = iter([ValueError("first"), LookupError("last")])
    f = make(kind, Runs(lambda n: Retry(attempts=2, cause=next(causes))))
    error = f(1).exception(LIMIT)
    assert type(error.__cause__) is LookupError


@pytest.mark.parametrize("returned", [Retry(), Retry])
def test_a_retry_that_is_no_element_is_a_bad_result(returned: Any, kind: str) -> None:
    f = make(kind, lambda items: returned)
    assert type(f(1).exception(LIMIT)) is BadResult
    assert f.stats().retried == 0


@pytest.mark.parametrize(
    ("given_", "error"),
    [
        ({"after": -1}, ValueError), ({"after": math.nan}, ValueError),
        ({"after": math.inf}, ValueError), ({"after": "1"}, TypeError),
        ({"after": True}, TypeError), ({"after": None}, TypeError),
        ({"attempts": 0}, ValueError), ({"attempts": -1}, ValueError),
        ({"attempts": 1.5}, TypeError), ({"attempts": True}, TypeError),
        ({"attempts": None}, TypeError), ({"cause": "429"}, TypeError),
        ({"cause": ValueError}, TypeError),
    ],
)  # fmt: skip
def test_a_retry_checks_its_arguments_by_name(
    given_: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(given_))):
        Retry(**given_)


def test_a_wrong_retry_in_the_function_fails_the_batch_and_loses_no_item(kind: str) -> None:
    f = make(kind, Runs(lambda n: Retry(attempts=0)))
    assert type(f(1).exception(LIMIT)) is ValueError


def test_the_delay_is_kept_and_holds_no_worker() -> None:
    seam = ManualSeam()
    again = Again(2, lambda: Retry(after=timedelta(seconds=10)))
    runs = Runs(lambda n: again(n) if n == 0 else ("done", n))
    f = batched_with(seam, runs, size=4)
    late = f(0)
    seam.rest()
    assert (balanced(f).pending, f.stats().running) == (1, 0)
    assert results([f(n) for n in range(1, 4)]) == done([1, 2, 3])
    seam.advance(9.9)
    assert runs.runs_of(0) == 1
    seam.advance(0.1)
    assert late.result(LIMIT) == ("done", 0)
    assert runs.runs_of(0) == 2
    f.close(LIMIT)


def test_each_delay_ends_at_its_own_time() -> None:
    seam = ManualSeam()
    seen: Counter[int] = Counter()

    def run(items: list[int]) -> list[Any]:
        seen.update(items)
        return [("done", n) if seen[n] > 1 else Retry(after=n) for n in items]

    f = batched_with(seam, run, size=3, linger=None)
    futures = {n: f(n) for n in (3, 1, 2)}
    seam.rest()
    for n in (1, 2, 3):
        assert not futures[n].done()
        seam.advance(1)
        assert futures[n].result(LIMIT) == ("done", n)
        assert sum(future.done() for future in futures.values()) == n
    f.close(LIMIT)


def test_the_delay_counts_again_for_each_run() -> None:
    seam = ManualSeam()
    runs = Runs(lambda n: Retry(after=5))
    f = batched_with(seam, runs)
    future = f(1)
    seam.rest()
    for ran in (1, 2):
        seam.advance(4.9)
        assert len(runs.batches) == ran
        seam.advance(0.1)
    assert len(runs.batches) == 3
    assert type(future.exception(0)) is RetryExhausted
    f.close(LIMIT)


@pytest.mark.parametrize("linger", [NEVER, None])
def test_retried_items_do_not_linger_again(linger: float | None, kind: str) -> None:
    f = make(kind, Runs(Again(2, lambda: Retry(after=0.001))), size=2, linger=linger)
    assert results([f(1), f(2)]) == done([1, 2])


@pytest.mark.parametrize("end", ["flush", "close", "with", "aflush", "aclose"])
def test_the_delay_is_cut_short(end: str, shape: str) -> None:
    runs = Runs(Again(2, lambda: Retry(after=NEVER)))
    f = make(shape, runs, size=2, linger=None)
    futures = [f(1), f(2)]
    until(lambda: f.stats().retried == 2)
    if end == "with":
        with f:
            pass
    elif end.startswith("a"):
        asyncio.run(getattr(f, end)(LIMIT))
    else:
        getattr(f, end)(LIMIT)
    assert [future.result(0) for future in futures] == done([1, 2])
    assert runs.batches == [[1, 2], [1, 2]]


@pytest.mark.parametrize("end", ["flush", "close"])
@pytest.mark.parametrize("shape", ["def", "generator"])
def test_the_delay_is_cut_short_even_for_items_retried_during_the_flush(
    end: str, shape: str
) -> None:
    """Items accepted before the flush are dispatched now, even if they run and must be retried."""
    gated = Gated()
    again = Again(3, lambda: Retry(after=NEVER))

    def run(items: list[int]) -> list[Any]:
        gated(items)
        return [again(item) for item in items]

    f = make(shape, run, size=1)
    future = f(1)
    gated.wait_started(1)
    ending = in_thread(getattr(f, end))
    in_flush = threading.Event()
    in_flush.wait(0.05)  # no event announces this
    gated.open()
    try:
        assert future.result(LIMIT) == ("done", 1)
        ending.result()
    finally:
        future.cancel()
    assert gated.batches == [[1], [1], [1]]


@pytest.mark.parametrize("shape", ["def", "async def"])
def test_the_end_of_the_process_cuts_the_delay_short(shape: str) -> None:
    script = f"""
from batchify import Retry, batched
seen = []
{"async " if shape == "async def" else ""}def run(items):
    seen.append(items)
    print("run", *items, flush=True)
    return [Retry(after={NEVER})] * len(items) if len(seen) < 3 else items
f = batched(run)
future = f(1)
future.add_done_callback(lambda future: print("ended", future.result(), flush=True))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert ended.stdout.split("\n") == ["run 1"] * 3 + ["ended 1", ""], ended.stderr
    assert ended.returncode == 0


@pytest.mark.parametrize("after", [0.0, 10.0])
@pytest.mark.parametrize("shape", ["def", "generator", "mapping"])
def test_items_retried_together_keep_their_order(after: float, shape: str) -> None:
    seam = ManualSeam()
    runs = Runs(Again(3, lambda: Retry(after=after)))
    f = batched_with(seam, shaped(shape, runs), size=5, linger=None)
    futures = [f(n) for n in range(5)]
    seam.rest()
    seam.advance(after)
    seam.advance(after)
    assert results(futures) == done(range(5))
    assert runs.batches == [[0, 1, 2, 3, 4]] * 3
    f.close(LIMIT)


def test_retried_items_keep_their_order_on_a_loop() -> None:
    for shape in ("async def", "async generator"):
        runs = Runs(Again(3, lambda: Retry(after=0)))
        f = make(shape, runs, size=5, linger=None)
        results([f(n) for n in range(5)])
        assert runs.batches == [[0, 1, 2, 3, 4]] * 3


def test_retried_items_of_a_bisected_batch_keep_their_order(kind: str) -> None:
    again = Again(2, Retry)
    runs: list[list[int]] = []

    def run(items: list[int]) -> list[Any]:
        if 3 in items:
            raise ValueError
        runs.append(list(items))
        return [again(item) for item in items]

    f = make(kind, run, linger=None, isolate=True)
    futures = [f(n) for n in range(8)]
    f.flush(LIMIT)
    assert type(futures[3].exception(0)) is ValueError
    assert runs[-1] == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("options", [{}, {"key": lambda n: n % 1}, {"dedupe": True}], ids=list)
def test_retried_items_go_to_the_front_of_their_kind(options: dict[str, Any]) -> None:
    gated = Gated()
    again = Again(2, Retry)

    def run(items: list[int]) -> list[Any]:
        gated(items)
        return [again(n) if n < 2 else ("done", n) for n in items]

    f = make("def", run, size=3, **options)
    futures = [f(0)]
    gated.wait_started(1)
    futures += [f(n) for n in (2, 1, 3, 4)]
    gated.open()
    assert results(futures) == done([0, 2, 1, 3, 4])
    assert gated.batches == [[0], [0, 2, 1], [1, 3, 4]]


@pytest.mark.parametrize("other", ["another key", "a mapping of the same"])
def test_an_item_that_runs_again_and_again_starves_no_others(other: str) -> None:
    gate = threading.Event()
    runs: list[str] = []

    def run(items: list[str]) -> list[Any]:
        gate.wait(LIMIT)
        runs.append(items[0])
        return [Retry(attempts=100) if item == "again" else item for item in items]

    has_key = other == "another key"
    f = make("def", run, size=2, **({"key": lambda item: item} if has_key else {}))
    busy = f("busy")
    until(lambda: f.stats().running == 1)
    futures = [f("again")]
    if has_key:
        futures += [f("other") for _ in range(4)]
        gate.set()
        assert [future.result(LIMIT) for future in futures[1:]] == ["other"] * 4
    else:
        calls = in_thread(lambda: list(f.map(["other"] * 4)))
        until(lambda: f.stats().accepted == 6)
        gate.set()
        assert calls.result(LIMIT) == ["other"] * 4
    assert busy.result(0) == "busy"
    assert isinstance(futures[0].exception(LIMIT), RetryExhausted)
    assert [place for place, item in enumerate(runs) if item == "other"] == [2, 3]
    assert runs.count("again") == 100


def test_a_retried_item_goes_before_later_ones_also_after_a_delay() -> None:
    seam = ManualSeam()
    gated = Gated()
    again = Again(2, lambda: Retry(after=10))

    def run(items: list[str]) -> list[Any]:
        gated(items)
        return [again(n) if n == "late" else ("done", n) for n in items]

    f = batched_with(seam, run, size=2)
    futures = [f("late")]
    gated.wait_started(1)
    gated.release()
    seam.rest()
    futures.append(f("busy"))
    gated.wait_started(2)
    futures += [f("one"), f("two"), f("three")]
    with seam.changed:
        seam.now += 10
    gated.open()
    assert results(futures) == done(["late", "busy", "one", "two", "three"])
    assert gated.batches == [["late"], ["busy"], ["late", "one"], ["two", "three"]]
    f.close(LIMIT)


def test_an_item_that_waits_for_a_retry_is_unresolved_and_keeps_its_capacity() -> None:
    seam = ManualSeam()
    f = batched_with(seam, Runs(Again(2, lambda: Retry(after=10))), size=1, capacity=1)
    first = f(1)
    seam.rest()
    with pytest.raises(QueueFull):
        f.submit_nowait(2)
    seam.advance(10)
    assert first.result(LIMIT) == ("done", 1)
    second = f.submit_nowait(2)
    seam.rest()
    assert second.cancel()
    assert not f.submit_nowait(1).cancelled()
    f.close(LIMIT)
    balanced(f)


def test_cancelling_an_item_that_waits_to_run_again(shape: str) -> None:
    runs = Runs(lambda n: Retry(after=NEVER))
    f = make(shape, runs, size=2, linger=None, capacity=2)
    futures = [f(1), f(2)]
    until(lambda: f.stats().retried == 2)
    assert futures[0].cancel()
    assert futures[0].cancelled()
    stats = balanced(f)
    assert (stats.cancelled, stats.pending) == (1, 1)
    third = f.submit_nowait(3)  # its capacity is free
    f.close(LIMIT)
    assert runs.runs_of(1) == 1
    assert [type(error) for error in errors([futures[1], third])] == [RetryExhausted] * 2


def test_cancelling_an_item_that_waits_to_run_again_on_a_loop(kind: str) -> None:
    async def main() -> None:
        runs = Runs(lambda n: Retry(after=NEVER))
        f: Any = batched(shaped(kind, runs))
        future = f(1)
        while not f.stats().retried:
            await asyncio.sleep(0.001)
        task = asyncio.ensure_future(asyncio.wait_for(future, None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.cancelled()
        await f.aclose(LIMIT)
        assert runs.batches == [[1]]
        assert balanced(f).cancelled == 1

    asyncio.run(main())


def test_the_stop_ends_items_that_wait_for_a_retry(shape: str) -> None:
    runs = Runs(lambda n: Retry(after=NEVER))
    f = make(shape, runs, size=2, linger=None)
    futures = [f(1), f(2)]
    until(lambda: f.stats().retried == 2)
    f.close(LIMIT, cancel=True)
    assert [type(error) for error in errors(futures)] == [Closed] * 2
    assert all_distinct(errors(futures))
    assert runs.batches == [[1, 2]]
    assert f.stats().failed == 2


@pytest.mark.parametrize("shape", ["def", "generator", "mapping"])
def test_the_stop_ends_running_items_that_ask_for_a_retry(shape: str) -> None:
    gated = Gated()

    def run(items: list[int]) -> list[Any]:
        gated(items)
        return [Retry() if n else ("done", n) for n in items]

    f = make(shape, run, size=2, linger=None)
    futures = [f(0), f(1)]
    gated.wait_started(1)
    waiting = f(2)
    closing = in_thread(lambda: f.close(cancel=True))
    assert type(waiting.exception(LIMIT)) is Closed
    gated.open()
    closing.result()
    assert futures[0].result(0) == ("done", 0)
    assert type(futures[1].exception(0)) is Closed
    assert gated.batches == [[0, 1]]


def test_a_late_close_ends_items_that_wait_for_a_retry() -> None:
    gated = Gated()

    def run(items: list[int]) -> list[Any]:
        gated(items)
        return [Retry()] * len(items)

    f = make("def", run)
    future = f(1)
    gated.wait_started(1)
    with pytest.raises(TimeoutError):
        f.close(0.02)
    assert type(future.exception(0)) is Closed
    gated.open()
    f.start()
    assert type(f(2).exception(LIMIT)) is RetryExhausted
    assert gated.batches == [[1], [2], [2], [2]]


def test_retry_in_map_and_amap(kind: str) -> None:
    runs = Runs(Again(2, Retry))
    f = make(kind, runs, size=8)
    assert list(f.map(range(20))) == done(range(20))
    assert list(f.map(iter(range(20, 25)))) == done(range(20, 25))

    async def main() -> list[Any]:
        return [result async for result in f.amap(range(25, 40))]

    assert asyncio.run(main()) == done(range(25, 40))
    assert f.stats().retried == 40
    assert balanced(f).succeeded == 40


def test_retry_awaited_on_a_loop(shape: str) -> None:
    async def main() -> None:
        f = make(shape, Runs(Again(3, lambda: Retry(after=0.001))), size=4)
        assert await asyncio.gather(*[f(n) for n in range(10)]) == done(range(10))
        with pytest.raises(RetryExhausted):
            g = make(shape, Runs(lambda n: Retry(cause=LookupError())))
            await g(1)
        await f.aclose(LIMIT)
        await g.aclose(LIMIT)

    asyncio.run(main())


def test_each_extra_argument_has_its_own_front(kind: str) -> None:
    seen: list[Any] = []
    again = Again(2, Retry)

    def run(items: list[int], table: str) -> list[Any]:
        seen.append((table, list(items)))
        return [again((table, item)) for item in items]

    f = make(kind, run, linger=None)
    futures = [f(n, table) for table in "ab" for n in range(2)]
    f.flush(LIMIT)
    assert results(futures) == done([(table, n) for table in "ab" for n in range(2)])
    assert sorted(seen) == [(t, [0, 1]) for t in "aabb"]


@pytest.mark.parametrize("detail", ["hash", "eq"])
def test_a_key_that_fails_later_loses_no_retried_item(detail: str, kind: str) -> None:
    class Fickle:
        is_good = True

        def __hash__(self) -> int:
            if detail == "hash" and not self.is_good:
                raise LookupError("hash")
            return 1

        def __eq__(self, other: object) -> bool:
            if detail == "eq" and not self.is_good:
                raise LookupError("eq")
            return self is other

    gated = Gated()
    again = Again(2, Retry)

    def run(items: list[Any]) -> list[Any]:
        gated(items)
        return [again(item) for item in items]

    f = make(kind, run, key=lambda item: item[1])
    futures = [f((0, Fickle()))]
    gated.wait_started(1)
    futures += [f((n, Fickle())) for n in (1, 2)]
    Fickle.is_good = False
    gated.open()
    ended = [future.exception(LIMIT) for future in futures]
    assert ended == [None] * 3 or {type(x) for x in ended} <= {type(None), LookupError}
    Fickle.is_good = True
    assert f((3, Fickle())).result(LIMIT)  # the worker keeps running


# ---- the books ----


@pytest.mark.parametrize("shape", TROUBLE)
def test_the_books_balance_at_any_time(shape: str) -> None:
    """Retries, errors, equal items and cancellations at once, while another thread reads stats."""
    chance = random.Random(7)
    is_over = threading.Event()
    looks: list[int] = []

    def run(items: list[int]) -> list[Any]:
        if any(n % 31 == 0 for n in items):
            raise ValueError
        return [
            Retry(after=0.0001 * (n % 3)) if n % 5 == 0
            else LookupError() if n % 7 == 0
            else ("done", n)
            for n in items
        ]  # fmt: skip

    f = make(
        shape, run, size=8, workers=2, capacity=64, key=lambda n: n % 3, weight=lambda n: 1 + n % 4,
        max_weight=12, dedupe=True, isolate=True,
        on_error=lambda failure: None if failure.items[0] % 2 else [0] * len(failure.items),
    )  # fmt: skip

    def look() -> None:
        while not is_over.is_set():
            stats = balanced(f)
            assert stats.pending + stats.running <= 64
            looks.append(1)

    def work(seed: int) -> list[Any]:
        own = random.Random(seed)
        futures = []
        for _ in range(400):
            future = f(own.randrange(200))
            if own.random() < 0.2:
                future.cancel()
            futures.append(future)
        return futures

    looking = in_thread(look)
    calls = [in_thread(work, chance.randrange(1000)) for _ in range(3)]
    futures = [future for call in calls for future in call.result(LIMIT)]
    f.flush(LIMIT)
    is_over.set()
    looking.result()
    assert looks
    assert all(future.done() for future in futures)
    stats = balanced(f)
    assert (stats.pending, stats.running, stats.accepted) == (0, 0, 1200)
    assert stats.cancelled == sum(future.cancelled() for future in futures)
    failed = [x for x in futures if not x.cancelled() and x.exception(0) is not None]
    assert stats.failed == len(failed)
    assert {type(x.exception(0)) for x in failed} <= {ValueError, LookupError, RetryExhausted}


def test_a_group_is_as_old_as_its_oldest_remaining_item() -> None:
    """One item was requeued in front of an older one, and both were cancelled."""
    seam = ManualSeam()
    let = {item: threading.Event() for item in ("w", "y1", "y2", "x", "y4")}
    began: list[list[str]] = []

    def work(items: list[str]) -> Iterator[Any]:
        began.append(list(items))
        for item in items:
            assert let[item].wait(LIMIT)
            yield Retry() if item == "y1" else item

    f = batched_with(seam, work, size=2, key=lambda item: item[0])
    f("w")
    until(lambda: began == [["w"]])
    first, last = f("y1"), f("y2")
    let["w"].set()
    until(lambda: len(began) == 2)
    seam.now = 3.0
    older = f("y3")
    f.linger = 0  # a changed limit dispatches the queue again
    seam.now = 5.0
    let["y1"].set()
    until(lambda: not first.running())
    assert older.cancel()
    seam.now = 6.0
    f("x")
    seam.now = 8.0
    f("y4")
    f.linger = 0
    assert first.cancel()
    for item in ("x", "y4", "y2"):
        let[item].set()
    f.close(LIMIT)
    assert last.result(0) == "y2"
    assert began == [["w"], ["y1", "y2"], ["x"], ["y4"]]
