"""Batch functions of every shape, and checks of their results and counts."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batchify import Retry, batched
from tests.limits import LIMIT

NEVER = 3600.0  # seconds that no test waits for
PLAIN = ["def", "async def"]
SHAPES = [*PLAIN, "generator", "async generator", "mapping", "method"]
TROUBLE = [shape for shape in SHAPES if shape != "mapping"]
made: list[Any] = []


@pytest.fixture(autouse=True)
def books() -> Iterator[None]:
    """Check after each test that the counts of its functions add up and nothing is left."""
    made.clear()
    yield
    for f in made:
        balanced(f)
        f.close(LIMIT)
        assert balanced(f).pending == f.stats().running == 0
    made.clear()


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
        made.append(holder.f)
    else:
        made.append(decorated)
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


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Any:
    return request.param


def throw(error: BaseException) -> Any:
    raise error
