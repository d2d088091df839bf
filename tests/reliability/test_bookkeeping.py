"""Counts add up under a storm of calls, and groups leave nothing behind."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from batchify import Retry, RetryExhausted, batched
from tests.api.shapes import (
    NEVER,
    TROUBLE,
    Again,
    Runs,
    balanced,
    books,  # noqa: F401 (it checks the counts after each test)
    make,
)
from tests.limits import LIMIT
from tests.manual import in_thread, until

# ---- key ----


@pytest.mark.deep
def test_many_thousand_keys_leave_nothing_behind() -> None:
    f = batched(lambda items: items, linger=None, capacity=None, key=lambda n: n)
    futures = [f(n) for n in range(30_000)]
    for future in futures[::2]:
        assert future.cancel()
    f.flush(LIMIT)
    assert [future.result(0) for future in futures[1::2]] == list(range(1, 30_000, 2))
    engine: Any = f._scope()
    assert engine.routes == {}
    assert engine.forming.by_kin == {}
    assert balanced(f).cancelled == 15_000
    f.close(LIMIT)


def test_keys_of_items_that_ran_again_leave_nothing_behind() -> None:
    runs = Runs(Again(2, lambda: Retry(after=NEVER)))
    f = make("def", runs, linger=None, capacity=None, key=lambda n: n)
    futures = [f(n) for n in range(300)]
    flushing = in_thread(f.flush, LIMIT)
    until(lambda: f.stats().retried == 300)
    for future in futures[::3]:
        future.cancel()
    f.flush(LIMIT)
    flushing.result()
    engine = f._scope()
    assert engine.routes == {}
    assert engine.forming.by_kin == {}


# ---- the books ----


@pytest.mark.parametrize("shape", TROUBLE)
def test_the_books_balance_at_any_time(shape: str) -> None:
    """Retries, errors, equal items and cancellations at once, while another thread reads stats."""
    chance = random.Random(7)
    is_over = threading.Event()
    looks: list[int] = []

    def run(items: list[int]) -> list[Any]:
        if any(n % 31 == 0 for n in items):
            raise ValueError
        return [
            Retry(after=0.0001 * (n % 3)) if n % 5 == 0
            else LookupError() if n % 7 == 0
            else ("done", n)
            for n in items
        ]  # fmt: skip

    f = make(
        shape, run, size=8, workers=2, capacity=64, key=lambda n: n % 3, weight=lambda n: 1 + n % 4,
        max_weight=12, dedupe=True, isolate=True,
        on_error=lambda failure: None if failure.items[0] % 2 else [0] * len(failure.items),
    )  # fmt: skip

    def look() -> None:
        while not is_over.is_set():
            stats = balanced(f)
            assert stats.pending + stats.running <= 64
            looks.append(1)

    def work(seed: int) -> list[Any]:
        own = random.Random(seed)
        futures = []
        for _ in range(400):
            future = f(own.randrange(200))
            if own.random() < 0.2:
                future.cancel()
            futures.append(future)
        return futures

    looking = in_thread(look)
    calls = [in_thread(work, chance.randrange(1000)) for _ in range(3)]
    futures = [future for call in calls for future in call.result(LIMIT)]
    f.flush(LIMIT)
    is_over.set()
    looking.result()
    assert looks
    assert all(future.done() for future in futures)
    stats = balanced(f)
    assert (stats.pending, stats.running, stats.accepted) == (0, 0, 1200)
    assert stats.cancelled == sum(future.cancelled() for future in futures)
    failed = [x for x in futures if not x.cancelled() and x.exception(0) is not None]
    assert stats.failed == len(failed)
    assert {type(x.exception(0)) for x in failed} <= {ValueError, LookupError, RetryExhausted}
