"""`map` when a batch fails, and when an item or the iterable is refused (contract 3)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batchify import (
    BadResult,
    BatchAborted,
    Closed,
    ItemTooHeavy,
    MissingResult,
    Retry,
    RetryExhausted,
    batched,
)
from tests.api.sources import (
    SizedSource,
    Source,
    any_order,
    any_source,
    check_idle,
    done,
    echo,
    half,
    run,
    weigh,
)
from tests.limits import LIMIT

# ---- errors ----


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


# ---- refused items ----


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
