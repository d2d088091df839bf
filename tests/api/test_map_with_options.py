"""`map` with the other options, with methods, and among other callers (contract 3)."""

from __future__ import annotations

import collections
import threading
from typing import Any

import pytest

from batchify import Retry, batched
from tests.api.sources import any_order, any_source, check, check_idle, done, echo, run, weigh
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until

# ---- with the other options ----


@any_source
@any_order
@pytest.mark.parametrize("window", [None, 1, 2, 3, 5])
def test_linger_none_ends_without_a_flush(source: Any, ordered: bool, window: Any) -> None:
    f = batched(echo, size=3, linger=None)
    mapping = in_thread(lambda: sorted(f.map(source(range(10)), ordered=ordered, window=window)))
    assert mapping.result() == done(range(10))
    check_idle(f)


@any_source
@any_order
def test_linger_none_with_items_that_run_again(source: Any, ordered: bool) -> None:
    tried: collections.Counter[int] = collections.Counter()

    @batched(size=3, linger=None)
    def f(items: list[int]) -> list[Any]:
        tried.update(items)
        return [item if tried[item] > item % 3 else Retry(attempts=3) for item in items]

    mapping = in_thread(lambda: sorted(f.map(source(range(20)), ordered=ordered)))
    assert mapping.result() == list(range(20))
    stats = check_idle(f)
    assert stats.retried == sum(n % 3 for n in range(20))
    assert (stats.succeeded, stats.accepted, stats.submitted) == (20, 20, 20)


@any_source
def test_items_that_run_again_wait_as_long_as_they_asked_for(source: Any) -> None:
    """Including those of a last batch, which only the mapping flushed."""
    seam = ManualSeam()
    batches = []

    def function(items: list[int]) -> list[Any]:
        batches.append(list(items))
        return [Retry(after=5) for _ in items] if len(batches) == 1 else items

    f = batched_with(seam, function, size=4, linger=None)
    mapping = in_thread(lambda: list(f.map(source(range(3)))))
    until(lambda: f.stats().retried == 3)
    seam.advance(4)
    assert batches == [[0, 1, 2]]
    seam.advance(1)
    assert mapping.result() == [0, 1, 2]
    assert batches == [[0, 1, 2], [0, 1, 2]]


@any_source
def test_a_mapping_does_not_shorten_the_delay_of_retries(source: Any) -> None:
    seam, gated = ManualSeam(), Gated()

    def function(items: list[int]) -> list[Any]:
        gated(items)
        return [Retry(after=5) for _ in items] if len(gated.batches) <= 2 else items

    f = batched_with(seam, function, size=4, linger=None)
    others = [f(n) for n in range(10, 14)]
    gated.wait_started(1)
    mapping = in_thread(lambda: list(f.map(source(range(4)))))
    until(lambda: f.stats().accepted == 8)
    mapping.thread.join(0.02)  # it waits, behind the batch that runs
    gated.release(2)
    until(lambda: f.stats().retried == 8)
    seam.advance(4)
    assert len(gated.batches) == 2
    gated.open()
    seam.advance(1)
    assert mapping.result() == [0, 1, 2, 3]
    assert [future.result(LIMIT) for future in others] == [10, 11, 12, 13]


@any_source
@any_order
def test_key(source: Any, ordered: bool) -> None:
    batches = []

    @batched(size=4, linger=None, key=lambda item: item % 3)
    def f(items: list[int]) -> list[Any]:
        batches.append(list(items))
        return echo(items)

    assert sorted(f.map(source(range(40)), ordered=ordered)) == done(range(40))
    assert all(len({item % 3 for item in batch}) == 1 for batch in batches)
    assert max(map(len, batches)) <= 4


@any_source
@any_order
def test_weight(source: Any, ordered: bool) -> None:
    batches = []

    @batched(size=4, linger=None, weight=weigh, max_weight=30)
    def f(items: list[int]) -> list[Any]:
        batches.append(list(items))
        return echo(items)

    assert sorted(f.map(source(range(30)), ordered=ordered)) == done(range(30))
    assert max(map(sum, batches)) <= 30
    assert max(map(len, batches)) <= 4


@any_source
@any_order
def test_dedupe(source: Any, ordered: bool) -> None:
    batches = []

    @batched(size=4, linger=None, dedupe=True)
    def f(items: list[int]) -> list[Any]:
        batches.append(list(items))
        return echo(items)

    assert sorted(f.map(source([1, 1, 2, 1] * 5), ordered=ordered)) == done([1] * 15 + [2] * 5)
    assert batches == [[1, 2]] * 5
    assert f.stats().deduplicated == 10


@any_source
def test_isolate(source: Any) -> None:
    @batched(size=8, isolate=True)
    def f(items: list[int]) -> list[Any]:
        if 5 in items:
            raise ValueError(items)
        return echo(items)

    got = list(f.map(source(range(16)), return_exceptions=True))
    assert [got[n] for n in range(16) if n != 5] == [("done", n) for n in range(16) if n != 5]
    assert isinstance(got[5], ValueError)
    stats = check_idle(f)
    assert (stats.succeeded, stats.failed) == (15, 1)


@any_source
def test_on_error(source: Any) -> None:
    seen = []

    def fallback(failure: Any) -> list[Any]:
        seen.extend(failure.items)
        assert failure.batched is f
        return [-item for item in failure.items]

    @batched(size=4, on_error=fallback)
    def f(items: list[int]) -> list[int]:
        if 5 in items:
            items.clear()
            raise ValueError
        return items

    got = list(f.map(source(range(12))))
    assert 5 in seen
    assert got == [-n if n in seen else n for n in range(12)]
    assert check_idle(f).failed == 0


@any_source
def test_items_that_do_not_fill_a_batch_keep_their_linger(source: Any) -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=4, linger=5)
    mapping = in_thread(lambda: list(f.map(source(range(6)))))
    until(lambda: f.stats().accepted == 6 and f.stats().succeeded == 4)
    seam.advance(4.9)
    assert gated.batches == [[0, 1, 2, 3]]
    seam.advance(0.2)
    assert mapping.result() == done(range(6))
    assert gated.batches == [[0, 1, 2, 3], [4, 5]]
    reasons = f.stats().reasons
    assert (reasons["size"], reasons["linger"]) == (1, 1)


class Thing:
    __slots__ = ("factor",)

    def __init__(self, factor: int) -> None:
        self.factor = factor

    @batched(size=3)
    def times(self, items: list[int]) -> list[int]:
        return [item * self.factor for item in items]

    @batched(size=3)
    @classmethod
    def named(cls, items: list[int]) -> list[str]:
        return [cls.__name__ + str(item) for item in items]

    @batched(size=3)
    @staticmethod
    def plus(items: list[int]) -> list[int]:
        return [item + 1 for item in items]


def test_methods() -> None:
    for items in (lambda: range(7), lambda: iter(range(7))):
        assert list(Thing(3).times.map(items())) == [n * 3 for n in range(7)]
        assert list(Thing.named.map(items())) == [f"Thing{n}" for n in range(7)]
        assert list(Thing.plus.map(items())) == [n + 1 for n in range(7)]

    async def main() -> None:
        assert [x async for x in Thing(2).times.amap(range(7))] == [n * 2 for n in range(7)]

    run(main())


# ---- among other callers ----


@any_order
def test_many_that_map_and_others_that_call(ordered: bool) -> None:
    sizes: list[int] = []

    @batched(size=4, capacity=6, workers=2)
    def f(items: list[int]) -> list[Any]:
        sizes.append(len(items))
        return echo(items)

    def mapping(start: int) -> list[Any]:
        items: Any = range(start, start + 300)
        return sorted(f.map(items if start % 2000 else iter(items), ordered=ordered))

    def calling(start: int) -> list[Any]:
        return [f(n).result(LIMIT) for n in range(start, start + 50)]

    over = threading.Event()

    def watching() -> None:
        while not over.wait(0.0002):
            stats = f.stats()
            check(stats)
            assert stats.pending + stats.running <= 6

    watch = in_thread(watching)
    maps = [in_thread(mapping, n * 1000) for n in range(4)]
    calls = [in_thread(calling, n * 1000) for n in range(10, 13)]
    assert [m.result() for m in maps] == [done(range(n, n + 300)) for n in range(0, 4000, 1000)]
    assert [c.result() for c in calls] == [
        done(range(n, n + 50)) for n in range(10_000, 13_000, 1000)
    ]
    over.set()
    watch.result()
    assert max(sizes) <= 4
    stats = check_idle(f)
    assert stats.accepted == stats.succeeded == 4 * 300 + 3 * 50


@any_source
def test_a_single_call_is_admitted_beside_a_mapping(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=4)
    items = source(range(1000))
    mapping = in_thread(lambda: list(f.map(items)))
    until(lambda: (s := f.stats()).pending + s.running == 4)
    call = in_thread(lambda: f("single").result(LIMIT))
    until(lambda: f.stats().submitted >= 5)
    gated.release(5)
    assert call.result() == ("done", "single")
    assert len(gated.batches) <= 6
    gated.open()
    assert mapping.result() == done(range(1000))


@any_source
def test_a_mapping_is_admitted_beside_single_calls(source: Any) -> None:
    f = batched(echo, size=2, capacity=4)
    over = threading.Event()

    def calling() -> None:
        while not over.is_set():
            f("single")

    calls = [in_thread(calling) for _ in range(3)]
    try:
        mapping = in_thread(lambda: list(f.map(source(range(200)))))
        assert mapping.result() == done(range(200))
    finally:
        over.set()
    for call in calls:
        call.result()
    f.flush(LIMIT)
    check_idle(f)
