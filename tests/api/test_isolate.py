"""`isolate`: only callers at fault get errors (contract 2)."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchify import BadResult, BatchAborted, Retry
from tests.api.shapes import (
    SHAPES,
    TROUBLE,
    Again,
    all_distinct,
    balanced,
    done,
    errors,
    make,
    results,
    throw,
)
from tests.limits import LIMIT


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
        (lambda items: throw(KeyboardInterrupt()), BatchAborted),
        (lambda items: throw(asyncio.CancelledError()), BatchAborted),
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
