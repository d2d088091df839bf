"""`stats` and its `explain` (contract 6)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchify import Retry, batched
from tests.gates import Broken, aecho, balanced, busy, echo, echo_of, gated_of, store_class
from tests.limits import LIMIT
from tests.manual import in_thread, until


def test_a_snapshot_stays_as_it_was(kind: str) -> None:
    f = batched(echo_of(kind), size=1)
    f(1).result(LIMIT)
    before = f.stats()
    seen = (before.batches, before.sizes.count, before.sizes.max, before.reasons["idle"])
    [future.result(LIMIT) for future in [f(n) for n in range(20)]]
    assert (before.batches, before.sizes.count, before.sizes.max, before.reasons["idle"]) == seen
    with pytest.raises((AttributeError, FrozenInstanceError)):
        before.batches = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        before.reasons["idle"] = 3  # type: ignore[index]


def test_nothing_was_counted_yet(kind: str) -> None:
    stats = batched(echo_of(kind)).stats()
    for found in (stats.sizes, stats.queued, stats.ran):
        assert (found.count, found.mean, found.p50, found.p90, found.p99, found.max) == (0,) * 6
    assert set(stats.reasons) == {"size", "weight", "linger", "idle", "capacity", "flush", "close"}


def test_the_distribution_of_sizes() -> None:
    f, gated = busy(size=8)
    futures = [f(n) for n in range(1, 21)]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    sizes = f.stats().sizes
    assert gated.batches == [[0], list(range(1, 9)), list(range(9, 17)), [17, 18, 19, 20]]
    assert (sizes.count, sizes.mean, sizes.p50, sizes.p90, sizes.max) == (4, 5.25, 4, 8, 8)


@pytest.mark.parametrize(
    "options",
    [{}, {"key": bool}, {"dedupe": True}, {"isolate": True}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_stats_are_consistent_when_a_result_is_there(kind: str, options: dict[str, Any]) -> None:
    tried: set[int] = set()

    def work(items: list[int]) -> list[Any]:
        results: list[Any] = []
        for item in items:
            if item % 7 == 5 and item not in tried:
                tried.add(item)
                results.append(Retry())
            elif item % 5 == 3:
                raise Broken
            else:
                results.append(Broken() if item % 6 == 4 else item)
        return results

    async def awork(items: list[int]) -> list[Any]:
        return work(items)

    f = batched(work if kind == "def" else awork, size=4, **options)
    batches = 0
    for n in range(60):
        future = f(n)
        future.exception(LIMIT) if n % 2 else future.exception()
        stats = f.stats()
        assert stats.sizes.count == stats.ran.count == stats.queued.count == stats.batches
        assert sum(stats.reasons.values()) == stats.batches > batches
        assert stats.succeeded + stats.failed == stats.accepted == n + 1
        assert (stats.pending, stats.running) == (0, 0)
        batches = stats.batches
    for n in range(0, 60, 3):
        futures = [f(n // 3), f(n // 3), f(n // 3 + 1)]
        concurrent.futures.wait(futures, LIMIT)
        f.flush(LIMIT)
        stats = f.stats()
        assert stats.sizes.count == stats.ran.count == stats.batches
        assert balanced(stats)


def test_waiters_of_a_retried_item_are_notified_at_its_end_only(kind: str) -> None:
    go, tries = threading.Event(), 0

    def work(items: list[int]) -> list[Any]:
        nonlocal tries
        tries += 1
        return [item if tries > 2 else Retry() for item in items]

    async def awork(items: list[int]) -> list[Any]:
        return work(items)

    def held(items: list[int]) -> list[Any]:
        assert go.wait(LIMIT)
        return work(items)

    f = batched(held if kind == "def" else awork, linger=None)
    told: list[bool] = []
    future = f(1)
    future.add_done_callback(lambda future: told.append(future.done()))
    waiting = in_thread(future.result)
    flushing = in_thread(f.flush, LIMIT)
    go.set()
    assert waiting.result() == 1
    flushing.result()
    assert told == [True]

    async def main() -> None:
        nonlocal tries
        tries = 0
        f.linger = 0
        assert await asyncio.wait_for(asyncio.gather(f(2), f(3)), LIMIT) == [2, 3]

    asyncio.run(main())
    stats = f.stats()
    assert stats.sizes.count == stats.ran.count == stats.batches


def test_stats_count_a_batch_that_a_generator_gives_when_its_last_result_is_there() -> None:
    def work(items: list[int]) -> Iterator[int]:
        yield from items

    f = batched(work, size=3, linger=None)
    for n in range(30):
        futures = [f(k) for k in range(3)]
        assert futures[2].result(LIMIT) == 2
        stats = f.stats()
        assert stats.sizes.count == stats.ran.count == stats.batches == n + 1


def test_stats_are_the_sum_over_loops() -> None:
    f = batched(aecho, size=2, linger=None)

    async def main(count: int) -> None:
        await asyncio.wait_for(asyncio.gather(*(f(n) for n in range(count))), LIMIT)
        inside = f.stats()
        assert inside.sizes.count == inside.ran.count == inside.batches

    for count in (2, 4, 6):
        asyncio.run(main(count))
    futures = [f(n) for n in range(4)]
    concurrent.futures.wait(futures, LIMIT)
    stats = f.stats()
    assert stats.batches == stats.sizes.count == stats.ran.count == stats.queued.count == 8
    assert stats.reasons["size"] == 8
    assert stats.succeeded == stats.accepted == 16
    assert (stats.sizes.mean, stats.sizes.max) == (2, 2)
    assert "size" in stats.explain()


def test_explain_for_each_reason(kind: str) -> None:
    """Why batches were dispatched, and the option that would change it."""
    gated = gated_of(kind, is_open=True)

    def explained(reason: str, f: Any) -> str:
        until(lambda: f.stats().reasons[reason])
        told = f.stats().explain()
        assert isinstance(told, str)
        return told.lower()

    f = batched(gated, size=2, linger=None)
    f(1), f(2)
    assert "full" in (told := explained("size", f))
    assert "larger size" in told
    f = batched(gated, weight=float, max_weight=3, linger=None)
    f(2), f(2)
    assert "max_weight" in explained("weight", f)
    f = batched(gated, linger=0.001)
    f(1)
    assert "linger" in explained("linger", f)
    f = batched(gated)
    f(1).result(LIMIT)
    assert "linger" in explained("idle", f)
    f = batched(gated, size=2, capacity=2, linger=None, key=lambda item: item)
    f(1), f(2)
    blocked = in_thread(f, 3)
    assert "capacity" in explained("capacity", f)
    blocked.result()
    f.flush(LIMIT)
    f = batched(gated, linger=None)
    f(1), f.flush(LIMIT)
    assert "flush" in explained("flush", f)
    f = batched(gated, linger=None)
    f(1), f.close(LIMIT)
    assert "close" in explained("close", f)


LIMITS = st.fixed_dictionaries(
    {
        "size": st.integers(1, 5),
        "linger": st.sampled_from([0, 1e-5, 0.001, 1e300, None]),
        "workers": st.integers(1, 3),
        "capacity": st.sampled_from([None, 5, 10]),
    }
)


@given(LIMITS, st.integers(0, 12), st.booleans())
def test_explain_never_raises(options: dict[str, Any], calls: int, is_async: bool) -> None:
    f = batched(aecho if is_async else echo, **options)
    assert f.stats().explain()
    made = [in_thread(f, n) for n in range(calls)]
    until(lambda: f.stats().submitted == calls)
    assert f.stats().explain()
    while any(not call.is_done() for call in made):
        f.flush(LIMIT)
        assert f.stats().explain()
    f.close(LIMIT)
    assert f.stats().explain()


def test_explain_of_a_method_and_of_what_failed(kind: str) -> None:
    store = store_class(kind, gated_of(kind, is_open=True))()
    assert store.insert.stats().explain()
    store.insert(1).result(LIMIT)
    assert store.insert.stats().explain()
    f = batched(echo_of(kind))
    f.options(deadline=0)(1).exception(LIMIT)
    assert f.stats().explain()
