"""If an iterable raises, `map` yields the results of the items before it, then the error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from batchify import batched

COUNT = 7  # items before the error


class Broken(Exception):
    pass


class Collection:
    """Sized, so that whole batches are submitted at a time."""

    def __len__(self) -> int:
        return COUNT + 5

    def __contains__(self, item: object) -> bool:
        return False

    def __iter__(self) -> Iterator[int]:
        return generator()


class Counting:
    """An iterator that could continue after its error."""

    def __init__(self) -> None:
        self.calls = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.calls += 1
        if self.calls == COUNT + 1:
            raise Broken
        return self.calls - 1


def generator() -> Iterator[int]:
    yield from range(COUNT)
    raise Broken


async def agenerator() -> AsyncIterator[int]:
    for n in range(COUNT):
        yield n
    raise Broken


SOURCES: list[Callable[[], Any]] = [Collection, Counting, generator]

every_source = pytest.mark.parametrize("source", SOURCES)
every_order = pytest.mark.parametrize("ordered", [True, False])
every_window = pytest.mark.parametrize("window", [None, 1, 3, 100])
every_linger = pytest.mark.parametrize("linger", [0.0, None])
every_choice = pytest.mark.parametrize("return_exceptions", [True, False])


def double(items: list[int]) -> list[int]:
    return [2 * item for item in items]


async def adouble(items: list[int]) -> list[int]:
    return double(items)


EXPECTED = [2 * n for n in range(COUNT)]


@every_source
@every_order
@every_window
@every_linger
@every_choice
def test_map(
    source: Any, ordered: bool, window: int | None, linger: float | None, return_exceptions: bool
) -> None:
    f = batched(double, size=2, linger=linger)
    results = f.map(source(), ordered=ordered, window=window, return_exceptions=return_exceptions)
    got: list[Any] = []
    with pytest.raises(Broken):
        got.extend(results)
    assert (got if ordered else sorted(got)) == EXPECTED
    assert next(iter(results), "over") == "over"
    stats = f.stats()
    assert (stats.succeeded, stats.cancelled, stats.pending) == (COUNT, 0, 0)
    f.close()


@pytest.mark.parametrize("source", [*SOURCES, agenerator])
@every_order
@every_window
@every_linger
@every_choice
@pytest.mark.parametrize("function", [double, adouble])
def test_amap(
    source: Any,
    ordered: bool,
    window: int | None,
    linger: float | None,
    return_exceptions: bool,
    function: Any,
) -> None:
    async def main() -> None:
        f = batched(function, size=2, linger=linger)
        got: list[Any] = []
        results = f.amap(
            source(), ordered=ordered, window=window, return_exceptions=return_exceptions
        )
        with pytest.raises(Broken):
            async for result in results:
                got.append(result)
        assert (got if ordered else sorted(got)) == EXPECTED
        stats = f.stats()
        assert (stats.succeeded, stats.cancelled, stats.pending) == (COUNT, 0, 0)
        await f.aclose()

    asyncio.run(main())


@every_source
@every_order
def test_the_error_of_an_item_before_it_comes_first(source: Any, ordered: bool) -> None:
    def picky(items: list[int]) -> list[Any]:
        return [ValueError("item") if item == 3 else item for item in items]

    f = batched(picky, size=2)
    with pytest.raises(ValueError, match="item"):
        list(f.map(source(), ordered=ordered))
    got: list[Any] = []
    with pytest.raises(Broken):
        got.extend(f.map(source(), ordered=ordered, return_exceptions=True))
    assert len(got) == COUNT
    assert sum(isinstance(one, ValueError) for one in got) == 1
    f.close()


class BrokenStart:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __iter__(self) -> Iterator[int]:
        raise self.error


class BrokenAsyncStart:
    def __aiter__(self) -> AsyncIterator[int]:
        raise Broken


def test_an_iterable_that_cannot_start() -> None:
    """Its own error, also if that is a TypeError."""
    f = batched(double)
    for error in (Broken("mine"), TypeError("mine")):
        with pytest.raises(type(error), match="mine"):
            list(f.map(BrokenStart(error)))

    async def main() -> None:
        with pytest.raises(Broken):
            async for _ in f.amap(BrokenAsyncStart()):
                raise AssertionError

    asyncio.run(main())
    assert f.stats().submitted == 0
    with pytest.raises(TypeError, match="items must be an iterable, got int"):
        number: Any = 1
        f.map(number)


def test_a_base_exception_is_raised_at_once() -> None:
    """Ctrl-C in the iterable must not wait for results."""

    def interrupted() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    f = batched(double, linger=None)
    with pytest.raises(KeyboardInterrupt):
        list(f.map(interrupted()))
    assert f.stats().cancelled == 1
    f.close()


def test_leaving_before_the_error() -> None:
    f = batched(double, size=2)
    results: Any = f.map(Collection())
    assert next(results) == 0
    results.close()
    assert list(results) == []
    f.close()
