"""A caller that leaves `map` early cancels what has not started (contract 3)."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import pytest

from batchify import Retry, batched
from tests.api.sources import Source, any_order, any_source, check, check_idle, echo
from tests.limits import LIMIT
from tests.manual import Gated, in_thread, until


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
