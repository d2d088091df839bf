"""`map` is lazy: it never has more unresolved items than `window` (contract 3)."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import pytest

from batchify import batched
from tests.api.sources import Source, any_order, any_source, check, check_idle, done, echo
from tests.manual import Gated, in_thread, until


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
