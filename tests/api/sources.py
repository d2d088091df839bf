"""Iterables, batch functions and checks for the tests of `map` and `amap`."""

from __future__ import annotations

import array
import asyncio
import collections
import io
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import pytest

from batchify import Stats
from tests.limits import LIMIT
from tests.manual import in_thread, until


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


def half(items: list[Any]) -> list[Any]:
    return [item if item % 2 == 0 else ValueError(item) for item in items]


def weigh(item: Any) -> float:
    return float(item)
