"""Deadlines need no memory and no thread when they are over, and outlive forks and floods."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import random
import threading
import tracemalloc
import weakref
from typing import Any

import pytest

from batchify import DeadlineExceeded, batched
from tests.gates import LATER, SOON, aecho, balanced, busy, echo, echo_of, names
from tests.limits import LIMIT
from tests.manual import Gated, batchify_threads, in_thread, until


class Thing:
    """An item, or a result, that can be watched."""


@pytest.mark.parametrize("asked", [{"deadline": LATER}, {"priority": 3}, {"priority": -1}], ids=str)
def test_a_met_deadline_keeps_no_item_result_or_future(kind: str, asked: dict[str, Any]) -> None:
    alive: list[weakref.ref[Any]] = []

    def work(items: list[Thing]) -> list[Thing]:
        results = [Thing() for _ in items]
        alive.extend(weakref.ref(thing) for thing in [*items, *results])
        return results

    async def awork(items: list[Thing]) -> list[Thing]:
        return work(items)

    f = batched(work if kind == "def" else awork, size=8)
    view = f.options(**asked)
    for _ in range(30):
        futures = [view(Thing()) for _ in range(20)]
        futures.append(f(Thing()))
        alive.extend(weakref.ref(future) for future in futures)
        for future in futures[::2]:
            future.cancel()
        concurrent.futures.wait(futures, LIMIT)
        del futures, future
    f.flush(LIMIT)
    until(lambda: gc.collect() is not None and not any(weak() for weak in alive))


def test_met_deadlines_need_no_memory(kind: str) -> None:
    f = batched(echo_of(kind), size=500)
    view = f.options(deadline=LATER)

    def many() -> None:
        for _ in range(4):
            futures = [view(n) for n in range(1000)]
            futures[-1].result(LIMIT)
            f.flush(LIMIT)

    def held() -> int:
        many()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        # Tables grow to the maximum of waiting items; the memory of calls appears in each round.
        grown = min(-held() + held() for _ in range(3))
    finally:
        tracemalloc.stop()
    assert grown < 100_000  # 25 bytes for each of them


def test_functions_without_deadlines_have_no_thread_for_them() -> None:
    f = batched(echo, name="undated")
    before = batchify_threads()
    views = [f.options(deadline=LATER), f.options(priority=1)]
    assert [f(1).result(LIMIT), f.options(timeout=5)(2).result(LIMIT)] == [1, 2]
    assert views[1](3).result(LIMIT) == 3
    assert [name for name in names() if ":undated:" in name] == ["batchify:undated:1"]
    assert len(batchify_threads() - before) <= 1
    f.close(LIMIT)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("parents", [SOON, 4 * SOON, LATER], ids=str)
def test_deadlines_in_a_forked_child(kind: str, parents: float) -> None:
    """The parent's deadline is pending at the fork; the child sets later ones."""
    from tests.reliability.forks import in_child

    f, gated = busy(kind, size=1)
    mine = f.options(deadline=parents)(1)

    def work() -> Any:
        gated.changed = threading.Condition()  # a thread of the parent may have held the lock
        gated.batches.clear()
        first = f(0)
        gated.wait_started(1)
        late = f.options(deadline=8 * SOON)(2)
        ended = type(late.exception(LIMIT)).__name__
        gated.open()
        return ended, first.result(LIMIT), f.stats().expired

    assert in_child(work) == ("DeadlineExceeded", ("done", 0), 1)
    if parents < LATER:
        assert isinstance(mine.exception(LIMIT), DeadlineExceeded)
    gated.open()
    f.flush(LIMIT)


def test_threads_go_with_the_function_that_had_deadlines() -> None:
    f = batched(echo, name="dated")
    done = f.options(deadline=LATER)(1)
    assert done.result(LIMIT) == 1
    f.options(deadline=LATER)
    del f
    until(lambda: gc.collect() is not None and not [n for n in names() if ":dated:" in n])
    assert done.result(0) == 1


def test_a_pending_deadline_ends_though_only_the_future_is_held() -> None:
    gated = Gated(is_open=True)
    f = batched(gated, linger=None, name="dropped")
    late = f.options(deadline=SOON)(1)
    del f
    gc.collect()
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    assert gated.batches == []
    del late
    until(lambda: gc.collect() is not None and not [n for n in names() if ":dropped:" in n])


def test_a_pending_deadline_on_a_loop_keeps_no_function() -> None:
    """On the loop too, nothing waits for the deadline of a finished item."""

    class Store:
        @batched(size=2)
        async def insert(self, items: list[int], table: str) -> list[int]:
            return items

    async def main() -> None:
        stores = [Store() for _ in range(5)]
        alive: list[weakref.ref[Any]] = [weakref.ref(store) for store in stores]
        for store in stores:
            key = Key()
            alive.append(weakref.ref(key))
            f = batched(aecho, key=key)
            futures = [
                store.insert.options(deadline=LATER)(1, "a"),  # type: ignore[call-arg]
                f.options(deadline=LATER)(2),
            ]
            assert await asyncio.gather(*futures) == [1, 2]
            del f, key, futures
        stores.clear()
        del store
        while any(weak() for weak in alive):
            await asyncio.sleep(0.001)
            gc.collect()

    class Key:
        def __call__(self, item: Any) -> Any:
            return item

    asyncio.run(main())


def test_many_deadlines_from_many_threads(kind: str) -> None:
    f = batched(echo_of(kind), size=5, workers=2, capacity=40)
    ends: list[str] = []

    def work(who: int) -> None:
        rnd = random.Random(who)
        futures = []
        for n in range(200):
            deadline = rnd.choice([0, 1e-4, 1e-3, LATER])
            futures.append((n, deadline, f.options(deadline=deadline)(n)))
        for n, deadline, future in futures:
            error = future.exception(LIMIT)
            if error is None:
                assert future.result(0) == n
                assert deadline
            else:
                assert isinstance(error, DeadlineExceeded)
                assert deadline < LATER
            ends.append("late" if error else "done")

    calls = [in_thread(work, who) for who in range(4)]
    for call in calls:
        call.result(LIMIT)
    f.flush(LIMIT)
    stats = f.stats()
    assert (stats.expired, stats.succeeded) == (ends.count("late"), ends.count("done"))
    assert stats.expired >= 1
    assert balanced(stats)
    assert stats.pending == stats.running == 0
