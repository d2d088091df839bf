"""`weight` and `max_weight`: no batch is heavier (contract 2)."""

from __future__ import annotations

import asyncio
import itertools
import math
from threading import get_ident
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchify import BatchifyError, ItemTooHeavy, Retry, batched
from tests.api.shapes import Again, Runs, balanced, done, make, results, shaped
from tests.limits import LIMIT
from tests.manual import Gated, in_thread


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
