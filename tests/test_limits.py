"""Deadlines, priorities, options changed at run time, observers, stats: contract 3-8."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import logging
import math
import os
import random
import signal
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchify
from batchify import (
    BadResult,
    BatchAborted,
    BatchifyError,
    Closed,
    DeadlineExceeded,
    Deadlock,
    QueueFull,
    Retry,
    batched,
)
from batchify.distribution import Recorder
from batchify.engine.seam import ThreadSeam
from batchify.stats import REASONS, Stats
from batchify.testing import manual_clock
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, batchify_threads, in_thread, until

SOON = 0.05  # seconds: a deadline that is waited for
LATER = 3600.0  # seconds: one that never comes
PATIENCE = 1.0  # seconds for which items of higher priority may overtake an item


class AsyncGated(Gated):
    """The same as `async def`, on whatever loop."""

    async def __call__(self, items: list[Any]) -> list[Any]:  # type: ignore[override]
        with self.changed:
            self.batches.append(list(items))
            self.changed.notify_all()
        while not self._may_end():
            await asyncio.sleep(0.001)
        return [("done", item) for item in items]

    def _may_end(self) -> bool:
        with self.changed:
            if not self.is_open and self.permits:
                self.permits -= 1
                return True
            return self.is_open


@pytest.fixture(params=["def", "async def"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def gated_of(kind: str, *, is_open: bool = False) -> Gated:
    return Gated(is_open=is_open) if kind == "def" else AsyncGated(is_open=is_open)


def busy(kind: str = "def", **options: Any) -> tuple[Any, Gated]:
    """Return a function whose only worker runs the batch [0]."""
    gated = gated_of(kind)
    f = batched(gated, **options)
    f(0)
    gated.wait_started(1)
    return f, gated


def busy_on(seam: ManualSeam, **options: Any) -> tuple[Any, Gated]:
    """Return the function on a manual clock."""
    gated = Gated()
    f = batched_with(seam, gated, **options)
    f(0)
    gated.wait_started(1)
    return f, gated


def pass_time(seam: ManualSeam, seconds: float) -> None:
    """Advance the clock while a batch runs, once another thread sleeps with a timeout."""

    def alarms() -> list[Any]:
        with seam.changed:
            return [(bell, end) for bell, end in seam.asleep.values() if end is not None]

    until(alarms)
    seam.now += seconds
    for bell, end in alarms():
        if end <= seam.now:
            bell.ring()


def flat(batches: list[list[Any]]) -> list[Any]:
    return [item for batch in batches for item in batch]


def names() -> list[str]:
    """Return batchify's threads that exist now."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batchify:")]


def echo(items: list[Any]) -> list[Any]:
    return list(items)


async def aecho(items: list[Any]) -> list[Any]:
    return list(items)


def echo_of(kind: str) -> Any:
    return echo if kind == "def" else aecho


def balanced(stats: Stats) -> bool:
    ended = stats.succeeded + stats.failed + stats.cancelled + stats.expired
    return stats.accepted == ended + stats.pending + stats.running


@contextlib.contextmanager
def eager_switches() -> Iterator[None]:
    """Switch threads as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# ---- deadlines ----


def test_a_deadline_ends_the_item_on_time_though_every_worker_is_busy(kind: str) -> None:
    f, gated = busy(kind)
    began = time.monotonic()
    late = f.options(deadline=SOON)(1)
    error = late.exception(LIMIT)
    took = time.monotonic() - began
    assert isinstance(error, DeadlineExceeded)
    assert isinstance(error, (BatchifyError, TimeoutError))
    assert took >= SOON
    stats = f.stats()
    assert (stats.expired, stats.failed, stats.pending, stats.running) == (1, 0, 0, 1)
    assert balanced(stats)
    gated.open()
    f.flush(LIMIT)
    assert gated.batches == [[0]]
    assert f.stats().succeeded == 1


def test_each_deadline_counts_not_only_the_first(kind: str) -> None:
    f, gated = busy(kind)
    futures = [f.options(deadline=SOON * part)(part) for part in (3, 1, 2, 1)]
    kept = f.options(deadline=LATER)("kept")
    assert {type(future.exception(LIMIT)) for future in futures} == {DeadlineExceeded}
    assert not kept.done()
    gated.open()
    assert kept.result(LIMIT) == ("done", "kept")
    assert gated.batches == [[0], ["kept"]]
    assert f.stats().expired == 4


def test_a_deadline_is_not_early_and_not_late() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam)
    first, second = f.options(deadline=5)(1), f.options(deadline=7)(2)
    plain = f(3)
    pass_time(seam, 4.99)
    assert not first.done()
    assert f.stats().expired == 0
    pass_time(seam, 0.02)
    assert isinstance(first.exception(LIMIT), DeadlineExceeded)
    assert not second.done()
    pass_time(seam, 2)
    assert isinstance(second.exception(LIMIT), DeadlineExceeded)
    assert not plain.done()
    gated.open()
    assert plain.result(LIMIT) == ("done", 3)
    assert gated.batches == [[0], [3]]


def test_an_earlier_deadline_that_comes_later_is_minded_first() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam)
    late, soon = f.options(deadline=50)(1), f.options(deadline=5)(2)
    pass_time(seam, 5)
    assert isinstance(soon.exception(LIMIT), DeadlineExceeded)
    assert not late.done()
    pass_time(seam, 45)
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    gated.open()


def test_a_deadline_counts_from_the_call_and_comes_while_the_item_lingers() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=10, linger=100)
    view = f.options(deadline=10)
    first = view(1)
    kept = f(2)
    seam.advance(6)
    second = view(3)
    seam.advance(5)
    assert isinstance(first.exception(LIMIT), DeadlineExceeded)
    assert not second.done()
    seam.advance(5)
    assert isinstance(second.exception(LIMIT), DeadlineExceeded)
    assert gated.batches == []
    seam.advance(84)
    assert kept.result(LIMIT) == ("done", 2)
    assert gated.batches == [[2]]


def test_a_deadline_that_is_kept_changes_nothing(kind: str) -> None:
    f = batched(echo_of(kind), size=4, linger=0)
    view = f.options(deadline=LATER)
    assert [future.result(LIMIT) for future in [view(n) for n in range(50)]] == list(range(50))
    stats = f.stats()
    assert (stats.succeeded, stats.expired) == (50, 0)


def test_the_capacity_of_an_expired_item_goes_to_a_blocked_caller_at_once(kind: str) -> None:
    f, gated = busy(kind, size=1, capacity=2)
    late = f.options(deadline=4 * SOON)(1)
    blocked = in_thread(f, 2)
    until(lambda: f.stats().submitted == 3)
    got = blocked.result()
    assert late.done()
    assert isinstance(late.exception(0), DeadlineExceeded)
    gated.open()
    assert got.result(LIMIT) == ("done", 2)
    assert gated.batches == [[0], [2]]


def test_the_neighbours_of_an_expired_item_continue(kind: str) -> None:
    f, gated = busy(kind, size=10)
    before, late, after = f(1), f.options(deadline=SOON)(2), f(3)
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    gated.open()
    assert (before.result(LIMIT), after.result(LIMIT)) == (("done", 1), ("done", 3))
    assert gated.batches == [[0], [1, 3]]


@pytest.mark.parametrize("linger", [0, 30, None])
def test_deadline_zero_never_starts(kind: str, linger: float | None) -> None:
    gated = gated_of(kind, is_open=True)
    f = batched(gated, linger=linger)
    for call in (f.options(deadline=0), f.options(deadline=timedelta(0)).submit_nowait):
        assert isinstance(call(1).exception(LIMIT), DeadlineExceeded)
    assert gated.batches == []
    stats = f.stats()
    assert (stats.expired, stats.pending, stats.batches) == (2, 0, 0)
    other = f(2)
    f.flush(LIMIT)
    assert other.result(0) == ("done", 2)
    assert gated.batches == [[2]]


def test_deadline_zero_never_starts_on_a_loop(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    f = batched(gated)

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await asyncio.wait_for(f.options(deadline=0)(1), LIMIT)
        assert await asyncio.wait_for(f(2), LIMIT) == ("done", 2)

    asyncio.run(main())
    assert gated.batches == [[2]]
    assert f.stats().expired == 3


def test_a_deadline_may_be_a_timedelta(kind: str) -> None:
    f, gated = busy(kind)
    began = time.monotonic()
    late = f.options(deadline=timedelta(seconds=SOON))(1)
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    assert time.monotonic() - began >= SOON
    gated.open()


@pytest.mark.parametrize("huge", [1e300, 10**400, timedelta.max, sys.float_info.max], ids=str)
def test_huge_deadlines_work(kind: str, huge: Any) -> None:
    f, gated = busy(kind)
    patient = f.options(deadline=huge)(1)
    late = f.options(deadline=SOON)(2)
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    gated.open()
    assert patient.result(LIMIT) == ("done", 1)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (-1, ValueError),
        (-1e-9, ValueError),
        (math.nan, ValueError),
        (timedelta(seconds=-1), ValueError),
        ("1", TypeError),
        (True, TypeError),
        (1j, TypeError),
        ([], TypeError),
    ],
    ids=str,
)
def test_bad_deadlines_are_refused_by_name(value: Any, error: type[Exception]) -> None:
    f = batched(echo)
    with pytest.raises(error, match="deadline"):
        f.options(deadline=value)
    assert f.options(deadline=None)(1).result(LIMIT) == 1
    assert f.stats().submitted == 1


def test_a_deadline_ends_a_threads_wait_for_capacity(kind: str) -> None:
    f, gated = busy(kind, size=1, capacity=1)
    blocked = in_thread(f.options(deadline=SOON), 1)
    late = blocked.result()
    assert isinstance(late.exception(0), DeadlineExceeded)
    stats = f.stats()
    assert (stats.expired, stats.pending, stats.running) == (1, 0, 1)
    assert balanced(stats)
    gated.open()
    f.flush(LIMIT)
    assert f(2).result(LIMIT) == ("done", 2)
    assert gated.batches == [[0], [2]]


def test_a_caller_behind_an_expired_one_keeps_its_place(kind: str) -> None:
    f, gated = busy(kind, size=1, capacity=1)
    late = in_thread(f.options(deadline=4 * SOON), 1)
    until(lambda: f.stats().submitted == 2)
    patient = in_thread(f, 2)
    until(lambda: f.stats().submitted == 3)
    assert isinstance(late.result().exception(0), DeadlineExceeded)
    assert not patient.is_done()
    gated.release()
    assert patient.result() is not None
    gated.open()
    f.flush(LIMIT)
    assert gated.batches == [[0], [2]]


@pytest.mark.parametrize("how", ["call", "asubmit"])
def test_a_deadline_ends_the_wait_for_capacity_on_a_loop(kind: str, how: str) -> None:
    gated = gated_of(kind)
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        first = f(0)
        while not gated.batches:
            await asyncio.sleep(0.001)
        view = f.options(deadline=SOON)
        began = time.monotonic()
        if how == "call":
            late = view(1)
        else:
            late = await asyncio.wait_for(view.asubmit(1), LIMIT)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(late, LIMIT)
        assert time.monotonic() - began >= SOON
        assert not first.done()
        gated.open()
        assert await first == ("done", 0)
        assert await f(2) == ("done", 2)

    asyncio.run(main())
    assert gated.batches == [[0], [2]]
    assert f.stats().expired == 1
    assert balanced(f.stats())


def test_timeout_and_deadline_each_have_their_own_error(kind: str) -> None:
    f, gated = busy(kind, size=1, capacity=1)
    with pytest.raises(QueueFull):
        in_thread(f.options(timeout=SOON, deadline=LATER), 1).result()
    late = in_thread(f.options(timeout=LATER, deadline=SOON), 2).result()
    assert isinstance(late.exception(0), DeadlineExceeded)
    with pytest.raises(QueueFull):
        f.options(deadline=SOON).submit_nowait(3)
    gated.open()
    f.flush(LIMIT)
    stats = f.stats()
    assert (stats.rejected, stats.expired, stats.succeeded) == (2, 1, 1)
    assert gated.batches == [[0]]


def test_a_deadline_on_a_method(kind: str) -> None:
    gated = gated_of(kind)

    class Store:
        if kind == "def":

            @batched(size=1)
            def insert(self, items: list[int]) -> list[Any]:
                return gated(items)

        else:

            @batched(size=1)
            async def insert(self, items: list[int]) -> list[Any]:
                return await gated(items)  # type: ignore[misc]

    one, two = Store(), Store()
    one.insert(0)
    gated.wait_started(1)
    late = one.insert.options(deadline=SOON)(1)  # type: ignore[call-arg]
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    assert (one.insert.stats().expired, two.insert.stats().expired) == (1, 0)
    gated.open()
    one.insert.flush(LIMIT)
    assert gated.batches == [[0]]


def test_a_running_item_has_met_its_deadline() -> None:
    seam = ManualSeam()
    gated = Gated()
    f = batched_with(seam, gated, size=2)
    runs = f.options(deadline=5)(1)
    gated.wait_started(1)
    waits = f.options(deadline=6)(2)
    pass_time(seam, 10)
    assert isinstance(waits.exception(LIMIT), DeadlineExceeded)
    assert runs.running()
    gated.open()
    assert runs.result(LIMIT) == ("done", 1)
    assert f.stats().expired == 1


def test_a_running_item_has_met_its_deadline_on_a_loop(kind: str) -> None:
    gated = gated_of(kind)
    f = batched(gated)

    async def main() -> None:
        async with manual_clock(patience=0) as clock:  # it would wait for the end of the batch
            runs = f.options(deadline=5)(1)
            while not gated.batches:
                await asyncio.sleep(0.001)
            await clock.aadvance(10)
            assert not runs.done()
            gated.open()
            assert await runs == ("done", 1)
            assert f.stats().succeeded == 1

    asyncio.run(main())
    assert gated.batches == [[1]]


def test_waiters_of_an_expired_item_are_notified(kind: str) -> None:
    f, gated = busy(kind)
    told = threading.Event()
    late = f.options(deadline=SOON)(1)
    late.add_done_callback(lambda _: told.set())
    flushing = in_thread(f.flush)
    done, _ = concurrent.futures.wait([late], LIMIT)
    assert done == {late}
    assert told.wait(LIMIT)
    assert not flushing.is_done()
    gated.open()
    flushing.result()

    async def main() -> None:
        again = f.options(deadline=0)(2)
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(asyncio.gather(again, f(3)), LIMIT)

    asyncio.run(main())


def test_a_flush_ends_with_the_deadline_of_the_last_item() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam, size=1)
    late = f.options(deadline=5)(1)
    gated.release()
    until(lambda: len(gated.batches) == 2)
    waiting = f.options(deadline=6)(2)
    flushing = in_thread(f.flush)
    pass_time(seam, 6)
    assert isinstance(waiting.exception(LIMIT), DeadlineExceeded)
    gated.release()
    flushing.result()
    assert late.result(0) == ("done", 1)


def test_a_cancelled_item_does_not_expire() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam)
    gone, late = f.options(deadline=5)(1), f.options(deadline=6)(2)
    assert gone.cancel()
    pass_time(seam, 10)
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    assert gone.cancelled()
    gated.open()
    f.flush(LIMIT)
    stats = f.stats()
    assert (stats.cancelled, stats.expired) == (1, 1)
    assert not late.cancel()


@pytest.mark.parametrize(
    "options",
    [{"key": lambda item: item % 2}, {"weight": float, "max_weight": 9}, {"dedupe": True}],
    ids=["key", "weight", "dedupe"],
)
def test_a_deadline_with_other_options(kind: str, options: dict[str, Any]) -> None:
    f, gated = busy(kind, size=3, **options)
    late = [f.options(deadline=SOON)(n) for n in (1, 2, 3)]
    kept = [f(n) for n in (1, 2, 3)]
    assert {type(future.exception(LIMIT)) for future in late} == {DeadlineExceeded}
    gated.open()
    assert [future.result(LIMIT) for future in kept] == [("done", n) for n in (1, 2, 3)]
    assert sorted(flat(gated.batches)) == [0, 1, 2, 3]
    assert f.stats().expired == 3


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


def test_deadlines_after_close_and_start(kind: str) -> None:
    gated = gated_of(kind)
    f = batched(gated, name="again")
    for _ in range(3):
        first = f(0)
        until(lambda: f.stats().running == 1)
        soon, late = f.options(deadline=SOON)(1), f.options(deadline=LATER)(2)
        assert isinstance(soon.exception(LIMIT), DeadlineExceeded)
        pending = f.options(deadline=2 * SOON)(3)
        closing = in_thread(lambda: f.close(cancel=True))
        assert isinstance(late.exception(LIMIT), Closed)
        assert isinstance(pending.exception(LIMIT), (Closed, DeadlineExceeded))
        with pytest.raises(Closed):
            f.options(deadline=SOON)(4)
        gated.release()
        closing.result()
        assert first.result(0) == ("done", 0)
        until(lambda: not [name for name in names() if ":again:" in name])
        f.start()
    assert gated.batches == [[0]] * 3


def test_close_runs_items_with_a_deadline(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    f = batched(gated, linger=None)
    futures = [f.options(deadline=LATER)(n) for n in range(3)]
    f.close(LIMIT)
    assert [future.result(0) for future in futures] == [("done", n) for n in range(3)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("parents", [SOON, 4 * SOON, LATER], ids=str)
def test_deadlines_in_a_forked_child(kind: str, parents: float) -> None:
    """The parent's deadline is pending at the fork; the child sets later ones."""
    from tests.test_fork import in_child

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


class Scarce(ThreadSeam):
    """A machine that cannot start threads whose name ends like this."""

    def __init__(self, ending: str) -> None:
        self.ending = ending

    def spawn(self, target: Any, args: Any, name: str) -> Any:  # type: ignore[override]
        if self.ending and name.endswith(self.ending):
            raise RuntimeError("can't start new thread")
        return ThreadSeam.spawn(target, args, name)


def test_deadlines_count_again_when_there_are_threads_again() -> None:
    seam = Scarce("deadlines")
    gated = Gated()
    f = batched_with(seam, gated, size=1)
    f(0)
    gated.wait_started(1)
    unminded = f.options(deadline=SOON)(1)  # no thread to be had: its call must not fail
    seam.ending = ""
    late = f.options(deadline=2 * SOON)(2)
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    assert isinstance(unminded.exception(LIMIT), DeadlineExceeded)
    gated.open()
    f.flush(LIMIT)
    assert gated.batches == [[0]]


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


# ---- priorities ----


def test_higher_priorities_are_dispatched_first_and_equal_ones_in_order_of_submission(
    kind: str,
) -> None:
    f, gated = busy(kind, size=1)
    futures = [f.options(priority=p)((p, n)) for n, p in enumerate((0, 2, 1, 2, 0, 3, 1))]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    ran = [batch[0] for batch in gated.batches[1:]]
    assert ran == [(3, 5), (2, 1), (2, 3), (1, 2), (1, 6), (0, 0), (0, 4)]


def test_calls_without_a_priority_have_priority_zero(kind: str) -> None:
    f, gated = busy(kind, size=1)
    futures = [f.options(priority=-1)("low"), f("none"), f.options(priority=1)("high"), f("too")]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches[1:] == [["high"], ["none"], ["too"], ["low"]]


def test_negative_fractional_and_huge_priorities(kind: str) -> None:
    priorities = [0, -1, 0.5, 10**400, -(10**400), 1e308, -1e308, 2, -0.25]
    f, gated = busy(kind, size=1)
    futures = [f.options(priority=p)(p) for p in priorities]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert [batch[0] for batch in gated.batches[1:]] == sorted(priorities, reverse=True)


def test_the_list_is_in_the_order_of_submission(kind: str) -> None:
    f, gated = busy(kind, size=3)
    futures = [f.options(priority=p)((p, n)) for n, p in enumerate((1, 0, 3, 2, 3, 0))]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches[1:] == [[(3, 2), (2, 3), (3, 4)], [(1, 0), (0, 1), (0, 5)]]
    assert [x.result(0) for x in futures] == [
        ("done", (p, n)) for n, p in enumerate((1, 0, 3, 2, 3, 0))
    ]


@given(
    st.lists(st.sampled_from([0, 0, 1, -1, 2.5, 100]), max_size=14),
    st.integers(1, 5),
    st.sets(st.integers(0, 13)),
)
def test_batches_as_a_sorted_list_would_form_them(
    priorities: list[float], size: int, cancelled: set[int]
) -> None:
    seam = ManualSeam()  # no time passes: nothing grows old
    f, gated = busy_on(seam, size=size)
    futures = {n: f.options(priority=p)(n) for n, p in enumerate(priorities)}
    gone = cancelled & set(futures)
    for n in gone:
        assert futures[n].cancel()
    gated.open()
    f.close(LIMIT)
    line = sorted(set(futures) - gone, key=lambda n: (-priorities[n], n))
    assert gated.batches[1:] == [sorted(line[at : at + size]) for at in range(0, len(line), size)]


@pytest.mark.parametrize(
    ("value", "error"),
    [("high", TypeError), (True, TypeError), (None, TypeError), (1j, TypeError)]
    + [([], TypeError), (math.nan, ValueError)],
    ids=str,
)
def test_bad_priorities_are_refused_by_name(value: Any, error: type[Exception]) -> None:
    f = batched(echo)
    with pytest.raises(error, match="priority"):
        f.options(priority=value)


def test_nothing_starves_under_a_flood_of_higher_ones() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam, size=1)
    started = 1
    for n in range(3):
        f(("old", n))
    seam.now += 1.5 * PATIENCE
    for n in range(20):
        f.options(priority=5)(("new", n))
    for _ in range(6):
        started += 1
        gated.release()
        gated.wait_started(started)
    who = [batch[0][0] for batch in gated.batches[1:7]]
    assert who in (["old", "new"] * 3, ["new", "old"] * 3)
    assert [batch[0] for batch in gated.batches if batch[0] and batch[0][0] == "old"] == [
        ("old", n) for n in range(3)
    ]
    gated.open()
    f.close(LIMIT)


def test_every_item_runs_in_a_lasting_flood() -> None:
    """More items arrive than can be run, and each batch takes a while."""
    seam = ManualSeam()
    f, gated = busy_on(seam, size=2, capacity=None)
    low = [f.options(priority=-10)(("low", n)) for n in range(6)]
    for started in range(2, 12):
        for _ in range(4):
            f.options(priority=started)("high")
        seam.now += 0.75 * PATIENCE
        gated.release()
        gated.wait_started(started)
    gated.release()
    assert all(future.result(LIMIT) for future in low)
    gated.open()
    f.close(LIMIT)


def test_higher_priorities_overtake_an_item_until_its_patience_ends() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam, size=1)
    f("low")
    seam.now += 0.5 * PATIENCE
    for n in range(9):
        f.options(priority=1)(n)
    gated.open()
    f.close(LIMIT)
    assert gated.batches[1:] == [[n] for n in range(9)] + [["low"]]


def test_no_group_of_items_starves_another() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam, size=2, key=lambda item: item and item[0])
    rare = f(("rare", 0))
    seam.now += 1.5 * PATIENCE
    for n in range(20):
        f.options(priority=5)(("busy", n))
    for started in (2, 3):
        gated.release()
        gated.wait_started(started)
    assert [("rare", 0)] in gated.batches
    gated.open()
    assert rare.result(LIMIT)
    f.close(LIMIT)


def test_priorities_with_keys(kind: str) -> None:
    f, gated = busy(kind, size=2, key=lambda item: item and item[0])
    calls = [("a", 0), ("a", 1), ("b", 0), ("b", 7), ("c", 5), ("a", 6)]
    futures = [f.options(priority=p)((who, p)) for who, p in calls]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches[1:] == [
        [("b", 0), ("b", 7)],  # the highest of all is here, and brings its like
        [("a", 1), ("a", 6)],
        [("c", 5)],
        [("a", 0)],
    ]


def test_priorities_with_weights(kind: str) -> None:
    f, gated = busy(kind, size=10, weight=lambda item: item and item[1], max_weight=10)
    calls = [(0, 6), (1, 4), (2, 7), (1, 3), (2, 2), (0, 1)]
    futures = [f.options(priority=p)((p, weight)) for p, weight in calls]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    rest = gated.batches[1:]
    assert rest[0] == [(2, 7), (2, 2)]
    assert rest[1] == [(1, 4), (1, 3)]
    assert all(sum(weight for _, weight in batch) <= 10 for batch in rest)
    assert sorted(flat(rest)) == sorted(calls)


def test_priorities_of_one_tick_on_a_loop(kind: str) -> None:
    gated = gated_of(kind)
    f = batched(gated, size=1)

    async def main() -> None:
        first = f(0)
        while not gated.batches:
            await asyncio.sleep(0.001)
        futures = [f.options(priority=p)(p) for p in (1, 3, 2, -1)]
        gated.open()
        await asyncio.wait_for(asyncio.gather(first, *futures), LIMIT)

    asyncio.run(main())
    assert gated.batches == [[0], [3], [2], [1], [-1]]


def test_priorities_on_a_method_and_with_extra_arguments() -> None:
    ran: list[Any] = []
    gate = threading.Event()
    begun = threading.Event()

    class Store:
        @batched(size=1)
        def insert(self, items: list[int], table: str) -> None:
            begun.set()
            assert gate.wait(LIMIT)
            ran.append((items, table))

    store = Store()
    store.insert(0, "a")
    assert begun.wait(LIMIT)
    for n, table in enumerate("abab"):
        store.insert.options(priority=n)(n, table)  # type: ignore[call-arg]
    gate.set()
    store.insert.flush(LIMIT)
    assert ran == [([0], "a"), ([3], "b"), ([2], "a"), ([1], "b"), ([0], "a")]


def test_priority_and_deadline_together(kind: str) -> None:
    f, gated = busy(kind, size=1)
    late = f.options(priority=9, deadline=SOON)(9)
    futures = [f.options(priority=p, deadline=LATER)(p) for p in (1, 2)]
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches == [[0], [2], [1]]


def test_capacity_is_first_come_first_served_whatever_the_priority() -> None:
    f, gated = busy(size=1, capacity=2)
    f(1)
    first = in_thread(f.options(priority=1), 2)
    until(lambda: f.stats().submitted == 3)
    second = in_thread(f.options(priority=9), 3)
    until(lambda: f.stats().submitted == 4)
    gated.release()
    assert first.result() is not None
    assert not second.is_done()
    gated.open()
    assert second.result() is not None
    f.flush(LIMIT)
    assert sorted(gated.batches) == [[0], [1], [2], [3]]


# ---- other limits while running ----


def test_a_smaller_size_dispatches_a_full_batch(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    f = batched(gated, size=10, linger=None)
    futures = [f(n) for n in range(5)]
    f.size = 3
    concurrent.futures.wait(futures[:3], LIMIT)
    assert gated.batches == [[0, 1, 2]]
    assert [future.done() for future in futures[3:]] == [False, False]
    assert f.size == 3
    f(5)
    assert futures[4].result(LIMIT) == ("done", 4)
    assert gated.batches == [[0, 1, 2], [3, 4, 5]]
    assert f.stats().reasons["size"] == 2


def test_a_smaller_size_applies_to_items_queued_behind_a_running_batch(kind: str) -> None:
    f, gated = busy(kind, size=10)
    futures = [f(n) for n in range(1, 8)]
    f.size = 3
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_a_larger_size_applies_to_queued_items(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    f = batched(gated, size=3, linger=None)
    futures = [f(n) for n in range(2)]
    f.size = 5
    futures += [f(n) for n in range(2, 5)]
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("options", [{}, {"key": lambda item: item % 2}], ids=["plain", "key"])
def test_a_new_linger_applies_to_queued_items(options: dict[str, Any]) -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=10, linger=100, **options)
    first = f(0)
    seam.advance(5)
    f.linger = 8  # 3 are left
    seam.advance(2.9)
    assert not first.done()
    seam.advance(0.1)
    assert first.result(LIMIT) == ("done", 0)
    second = f(0)
    seam.advance(5)
    f.linger = 20  # 15 are left
    seam.advance(14.9)
    assert not second.done()
    seam.advance(0.1)
    assert second.result(LIMIT) == ("done", 0)
    third = f(0)
    seam.advance(5)
    f.linger = timedelta(seconds=4)  # its batch has ended
    assert third.result(LIMIT) == ("done", 0)
    assert f.linger == 4.0
    f.linger = None
    fourth = f(0)
    seam.advance(1e6)
    assert not fourth.done()
    f.linger = 0
    assert fourth.result(LIMIT) == ("done", 0)
    assert len(gated.batches) == 4


def test_a_shorter_linger_dispatches_on_a_loop(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    f = batched(gated, linger=LATER)

    async def main() -> None:
        for linger in (0, SOON):
            f.linger = LATER
            future = f(1)
            await asyncio.sleep(0)
            assert not future.done()
            f.linger = linger
            assert await asyncio.wait_for(future, LIMIT) == ("done", 1)

    asyncio.run(main())
    f.linger = None
    future = f(2)
    f.linger = SOON
    assert future.result(LIMIT) == ("done", 2)


def test_more_workers_start_other_batches_at_once(kind: str) -> None:
    f, gated = busy(kind, size=1)
    futures = [f(n) for n in range(1, 5)]
    f.workers = 3
    gated.wait_started(3)
    until(lambda: f.stats().running == 3)
    assert len(gated.batches) == 3
    f.workers = 5
    gated.wait_started(5)
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert f.stats().batches == 5


def test_fewer_workers_run_fewer_batches(kind: str) -> None:
    gated = gated_of(kind)
    f = batched(gated, size=1, workers=4)
    futures = [f(n) for n in range(7)]
    gated.wait_started(4)
    f.workers = 1
    gated.release(3)
    until(lambda: f.stats().running == 1)
    assert f.stats().batches == 4  # one is enough, and it runs
    gated.release()
    gated.wait_started(5)
    assert f.stats().running == 1
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert f.stats().batches == 7


def test_with_fewer_workers_threads_leave() -> None:
    gated = Gated()
    f = batched(gated, size=1, workers=4, name="fewer")
    futures = [f(n) for n in range(4)]
    gated.wait_started(4)
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert f.stats().workers == 4
    f.workers = 2  # the sleeping threads are woken
    until(lambda: f.stats().workers == 2)
    until(lambda: len([name for name in names() if ":fewer:" in name]) == 2)
    f.workers = 1
    until(lambda: f.stats().workers == 1)
    assert [f(n).result(LIMIT) for n in range(3)] == [("done", n) for n in range(3)]
    f.close(LIMIT)


def test_with_fewer_workers_the_linger_of_queued_items_continues() -> None:
    """The worker that ends may be the one that would have woken up for the item."""
    seam = ManualSeam()
    gated = Gated()
    f = batched_with(seam, gated, size=1, workers=3)
    futures = [f(n) for n in range(3)]
    gated.wait_started(3)
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    f.linger = 5
    f.size = 10
    waiting = f("waits")
    seam.rest()
    f.workers = 1
    until(lambda: f.stats().workers == 1)
    seam.advance(5)
    assert waiting.result(LIMIT) == ("done", "waits")


@pytest.mark.parametrize("larger", [3, None])
def test_a_larger_capacity_admits_blocked_callers(kind: str, larger: int | None) -> None:
    f, gated = busy(kind, size=1, capacity=1)
    blocked = []
    for n in (1, 2):
        blocked.append(in_thread(f, n))
        until(lambda n=n: f.stats().submitted == n + 1)
    assert not any(call.is_done() for call in blocked)
    f.capacity = larger
    futures = [call.result() for call in blocked]
    assert f.stats().accepted == 3
    with contextlib.nullcontext() if larger is None else pytest.raises(QueueFull):
        f.submit_nowait(3)
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches[:3] == [[0], [1], [2]]


def test_a_larger_capacity_admits_callers_on_a_loop(kind: str) -> None:
    gated = gated_of(kind)
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        first = f(0)
        waiting = f(1)
        asking = asyncio.ensure_future(f.asubmit(2))
        while f.stats().submitted < 3:
            await asyncio.sleep(0)
        assert not asking.done()
        assert f.stats().accepted == 1
        f.capacity = 3
        future = await asyncio.wait_for(asking, LIMIT)
        assert f.stats().accepted == 3
        gated.open()
        await asyncio.wait_for(asyncio.gather(first, waiting, future), LIMIT)

    asyncio.run(main())
    assert gated.batches == [[0], [1], [2]]


@pytest.mark.parametrize("linger", [0, None])
@pytest.mark.parametrize("options", [{}, {"key": bool}], ids=["plain", "key"])
@pytest.mark.parametrize("end", ["flush", "close", "nothing"])
def test_a_smaller_capacity_drops_nothing(
    kind: str, linger: float | None, options: dict[str, Any], end: str
) -> None:
    gated = gated_of(kind)
    f = batched(gated, size=2, linger=linger, capacity=100, **options)
    futures = [f(n) for n in range(1, 11)]
    gated.wait_started(1)
    f.capacity = 2
    stats = f.stats()
    assert (stats.accepted, stats.pending + stats.running) == (10, 10)
    with pytest.raises(QueueFull):
        f.submit_nowait(99)
    ending = in_thread(getattr(f, end)) if end != "nothing" else None
    gated.open()
    if ending is not None:
        ending.result()
        assert all(future.done() for future in futures)
    assert [future.result(LIMIT) for future in futures] == [("done", n) for n in range(1, 11)]
    assert f.stats().accepted == 10
    assert sorted(flat(gated.batches)) == list(range(1, 11))


def test_accepted_items_can_be_cancelled_and_expire_under_a_smaller_capacity(kind: str) -> None:
    f, gated = busy(kind, size=1, capacity=10)
    futures = [f(n) for n in range(1, 5)]
    f.capacity = 1
    assert futures[3].cancel()
    stats = f.stats()
    assert (stats.accepted, stats.cancelled, stats.pending) == (5, 1, 3)
    assert balanced(stats)
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert f.stats().succeeded == 4


def test_new_callers_wait_until_it_is_below_a_smaller_capacity(kind: str) -> None:
    f, gated = busy(kind, size=1, capacity=10)
    futures = [f(n) for n in range(1, 4)]
    f.capacity = 2
    blocked = in_thread(f, 4)
    until(lambda: f.stats().submitted == 5)
    for left in (3, 2):
        gated.release()
        until(lambda left=left: f.stats().pending + f.stats().running == left)
        assert not blocked.is_done()
    gated.release()
    futures.append(blocked.result())
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches == [[n] for n in range(5)]


BAD = [
    ("size", 0, ValueError),
    ("size", -1, ValueError),
    ("size", True, TypeError),
    ("size", 1.0, TypeError),
    ("size", None, TypeError),
    ("linger", -1, ValueError),
    ("linger", math.nan, ValueError),
    ("linger", math.inf, ValueError),
    ("linger", "1", TypeError),
    ("linger", True, TypeError),
    ("workers", 0, ValueError),
    ("workers", True, TypeError),
    ("workers", "2", TypeError),
    ("workers", None, TypeError),
    ("capacity", 0, ValueError),
    ("capacity", 3, ValueError),  # less than the size
    ("capacity", True, TypeError),
    ("capacity", 9.0, TypeError),
    ("size", 11, ValueError),  # more than the capacity
]


@pytest.mark.parametrize(("option", "value", "error"), BAD, ids=str)
@pytest.mark.parametrize("when", ["unused", "used"])
def test_a_value_is_checked_as_at_decoration(
    kind: str, option: str, value: Any, error: type[Exception], when: str
) -> None:
    good: dict[str, Any] = {"size": 4, "linger": 2.0, "workers": 2, "capacity": 10}
    with pytest.raises(error, match=rf"\b{option}\b") if value != 11 else pytest.raises(error):
        batched(echo, **{**good, option: value})
    f = batched(echo_of(kind), **good)
    if when == "used":
        f(0)
        f.flush(LIMIT)
    with pytest.raises(error, match=rf"\b{option}\b"):
        setattr(f, option, value)
    assert {name: getattr(f, name) for name in good} == good


def test_the_default_capacity_follows_size_and_workers(kind: str) -> None:
    f = batched(echo_of(kind))
    assert f.capacity == 10_000
    f.size = 6_000
    assert f.capacity == 12_000
    f.workers = 4
    assert f.capacity == 48_000
    f.size = 1
    assert f.capacity == 10_000
    f.capacity = 7
    f.workers = 9
    assert f.capacity == 7  # the deadline is set now
    with pytest.raises(ValueError, match="size"):
        f.size = 8
    f.capacity = None
    f.size = 8
    assert (f.capacity, f.size) == (None, 8)
    assert f(1).result(LIMIT) == 1


def test_values_that_are_set_before_the_first_call_count_and_start_nothing(kind: str) -> None:
    before = batchify_threads()
    gated = gated_of(kind, is_open=True)
    f = batched(gated)
    f.size, f.linger, f.workers, f.capacity = 2, None, 3, 4
    assert batchify_threads() <= before
    futures = [f(n) for n in range(3)]
    concurrent.futures.wait(futures[:2], LIMIT)
    assert gated.batches == [[0, 1]]
    f.flush(LIMIT)


def test_values_that_are_set_while_closed_count_after_the_start(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    f = batched(gated, linger=None)
    f(0)
    f.close(LIMIT)
    f.size, f.workers = 2, 2
    f.start()
    futures = [f(n) for n in (1, 2, 3)]
    concurrent.futures.wait(futures[:2], LIMIT)
    assert gated.batches == [[0], [1, 2]]
    f.close(LIMIT)


def test_a_smaller_size_counts_for_a_map_that_runs() -> None:
    f, gated = busy(size=10, capacity=100)
    mapping = in_thread(lambda: list(f.map(list(range(1, 41)))))
    until(lambda: f.stats().pending >= 20)
    f.size = 4
    gated.open()
    assert mapping.result() == [("done", n) for n in range(1, 41)]
    assert max(len(batch) for batch in gated.batches) <= 4
    assert flat(gated.batches) == list(range(41))


@pytest.mark.parametrize("priority", [0, 1])  # with one, items are sorted
def test_a_flushed_map_that_a_smaller_size_broke_up_runs_again_without_delay(
    priority: int,
) -> None:
    is_first = True

    def work(items: list[int]) -> list[Any]:
        nonlocal is_first
        gated(items)
        if 1 in items and is_first:
            is_first = False
            return [Retry(after=LATER) if item == 1 else item for item in items]
        return items

    gated = Gated()
    f = batched(work, size=10, linger=0.0, workers=1)
    f.options(priority=priority)(0)
    gated.wait_started(1)
    mapping = in_thread(lambda: list(f.map(list(range(1, 11)))))
    until(lambda: f.stats().pending == 10)
    flush = in_thread(f.flush, LIMIT)
    until(lambda: f._scope().forming.chunks[0]._s.is_flushed)
    f.size = 2
    gated.open()
    assert mapping.result() == list(range(1, 11))
    flush.result()


def test_a_map_that_is_broken_up_is_not_flushed_by_an_earlier_flush() -> None:
    seam = ManualSeam()
    tried: list[float] = []

    def work(items: list[int]) -> list[Any]:
        gated(items)
        if 1 in items:
            tried.append(seam.clock())
        is_first = 1 in items and len(tried) == 1
        return [Retry(after=5.0) if is_first and item == 1 else item for item in items]

    gated = Gated()
    f = batched_with(seam, work, size=10, workers=1)
    f.flush(LIMIT)
    f(0)
    gated.wait_started(1)
    mapping = in_thread(lambda: list(f.map(list(range(1, 11)))))
    until(lambda: f.stats().pending == 10)
    f.size = 2
    gated.open()
    until(lambda: f.stats().retried == 1 and f.stats().pending == 1)
    seam.advance(4.9)
    assert len(tried) == 1
    seam.advance(0.1)
    assert mapping.result() == list(range(1, 11))


# ---- threads and loops ----


def test_limits_are_set_from_inside_a_batch_function(kind: str) -> None:
    seen: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        seen.append(list(items))
        f.size = 2
        f.linger = 0
        f.workers = 2
        f.capacity = 20
        return items

    async def awork(items: list[int]) -> list[int]:
        return work(items)

    f = batched(work if kind == "def" else awork, size=5, linger=None)
    futures = [f(n) for n in range(8)]
    assert [future.result(LIMIT) for future in futures] == list(range(8))
    assert seen[0] == [0, 1, 2, 3, 4]
    assert sorted(flat(seen)) == list(range(8))
    assert max(map(len, seen[1:])) <= 2
    assert (f.size, f.linger, f.workers, f.capacity) == (2, 0.0, 2, 20)


def test_limits_are_set_from_a_done_callback(kind: str) -> None:
    f = batched(echo_of(kind), size=2, linger=None)
    first, second, third = f(1), f(2), None

    def callback(_: Any) -> None:
        f.size = 1

    first.add_done_callback(callback)
    first.result(LIMIT)
    second.result(LIMIT)
    until(lambda: f.size == 1)
    third = f(3)
    assert third.result(LIMIT) == 3


def test_limits_are_set_from_a_loop_and_from_other_threads(kind: str) -> None:
    """Items that wait on a loop notice an option set by a thread, and the reverse."""
    gated = gated_of(kind, is_open=True)
    f = batched(gated, linger=None)

    async def main() -> None:
        future = f(1)
        await asyncio.to_thread(setattr, f, "linger", 0)
        assert await asyncio.wait_for(future, LIMIT) == ("done", 1)
        f.linger = None
        far = await asyncio.to_thread(f, 2)
        f.linger = 0
        assert await asyncio.wait_for(asyncio.to_thread(far.result, LIMIT), LIMIT) == ("done", 2)
        f.linger = None
        near, cap = f(3), f.size
        await asyncio.to_thread(setattr, f, "size", 1)
        assert await asyncio.wait_for(near, LIMIT) == ("done", 3)
        f.size = cap

    asyncio.run(main())


@pytest.mark.timeout(method="thread")  # the test takes the timer that ends other tests
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_limits_are_set_from_a_signal_handler() -> None:
    calls = 0

    def handler(*_: Any) -> None:
        nonlocal calls
        calls += 1
        f.size = 1 + calls % 7
        f.linger = (0, 0.0005)[calls % 2]
        f.workers = 1 + calls % 3
        f.capacity = (None, 10, 200)[calls % 3]
        signal.setitimer(signal.ITIMER_PROF, 0.0005)  # one after the other, even if it is slow

    f = batched(echo, size=5, workers=2, capacity=200)
    # By CPU time, because pytest-timeout uses the timer for real time.
    before = signal.signal(signal.SIGPROF, handler)
    futures: list[Any] = []
    signal.setitimer(signal.ITIMER_PROF, 0.0005)
    try:
        while calls < 50:
            future = f(len(futures))
            futures.append(future)
            if len(futures) % 3 == 0:
                assert future.result(LIMIT) == len(futures) - 1
            elif len(futures) % 100 == 1:
                f.flush(LIMIT)
            f.stats()
    finally:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # first: a handler may be about to set it
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    f.flush(LIMIT)
    assert [future.result(0) for future in futures] == list(range(len(futures)))
    assert f.size == 1 + calls % 7
    assert f.workers == 1 + calls % 3


class Meanwhile:
    """A number whose check runs other code, as a signal handler may at any instant."""

    then: Callable[[], None]

    def __index__(self) -> int:
        self.then()
        return 7


def test_a_handler_that_sets_one_option_while_another_is_being_set() -> None:
    f = batched(echo)
    f(0).result(LIMIT)
    value = Meanwhile()
    workers = 1

    def then() -> None:
        nonlocal workers
        workers += 1
        f.workers = workers

    value.then = then
    f.size = value
    assert workers > 1
    assert (f.size, f.workers) == (7, workers)


def test_threads_that_set_different_options_lose_none() -> None:
    f = batched(echo, size=1, linger=1, workers=1, capacity=10**6)
    f(0)
    f.flush(LIMIT)
    rounds = 300
    gate = threading.Barrier(3)
    lost: list[Any] = []

    def work(option: str) -> None:
        for n in range(1, rounds):
            gate.wait(LIMIT)
            setattr(f, option, n)
            gate.wait(LIMIT)
            if getattr(f, option) != n:
                lost.append((option, n))

    with eager_switches():
        calls = [in_thread(work, option) for option in ("size", "linger", "workers")]
        for call in calls:
            call.result(LIMIT)
    assert lost == []


def store_class(kind: str, gated: Gated, **options: Any) -> Any:
    class Store:
        if kind == "def":

            @batched(**options)
            def insert(self, items: list[Any]) -> list[Any]:
                return gated(items)

        else:

            @batched(**options)
            async def insert(self, items: list[Any]) -> list[Any]:
                return await gated(items)  # type: ignore[misc]

    return Store


def test_a_bound_method_is_set_for_its_instance_alone(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    store = store_class(kind, gated, size=10, linger=None)
    one, two = store(), store()
    ones, twos = [one.insert(n) for n in range(3)], [two.insert(n) for n in range(3)]
    one.insert.size = 3
    concurrent.futures.wait(ones, LIMIT)
    assert gated.batches == [[0, 1, 2]]
    assert not any(future.done() for future in twos)
    assert (one.insert.size, two.insert.size, store.insert.size, store().insert.size) == (
        3, 10, 10, 10,
    )  # fmt: skip
    two.insert.flush(LIMIT)


def test_a_method_is_set_on_the_class_for_all_instances(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    store = store_class(kind, gated, size=10, linger=None)
    one, two = store(), store()
    futures = [who.insert(n) for who in (one, two) for n in range(3)]
    store.insert.size = 3
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches == [[0, 1, 2]] * 2
    new = store()
    assert (one.insert.size, store.insert.size, new.insert.size) == (3, 3, 3)
    later = [new.insert(n) for n in range(3)]
    concurrent.futures.wait(later, LIMIT)
    one.insert.size = 5
    store.insert.size = 7
    assert (one.insert.size, two.insert.size) == (7, 7)


def test_a_class_method_is_set_for_its_class_alone() -> None:
    class Base:
        @batched(size=10, linger=None)
        @classmethod
        def insert(cls, items: list[int]) -> list[int]:
            return items

    class Derived(Base):
        pass

    Base.insert(1), Derived.insert(1)
    Derived.insert.size = 1
    assert Derived.insert(2).result(LIMIT) == 2
    assert (Base.insert.size, Derived.insert.size) == (10, 1)
    Base.insert.flush(LIMIT)


def test_a_value_that_one_instance_must_refuse_is_set_for_none() -> None:
    store = store_class("def", Gated(is_open=True), size=4)
    one, two = store(), store()
    assert [who.insert(1).result(LIMIT) for who in (one, two)] == [("done", 1)] * 2
    one.insert.capacity = 5
    with pytest.raises(ValueError, match="size"):
        store.insert.size = 6
    assert (one.insert.size, two.insert.size, store.insert.size, store().insert.size) == (
        4, 4, 4, 4,
    )  # fmt: skip


def test_limits_that_change_all_the_time(kind: str) -> None:
    """With any limits: nothing hangs, nothing is lost, no batch is too large."""
    largest = 0

    def work(items: list[Any]) -> list[Any]:
        nonlocal largest
        largest = max(largest, len(items))
        return items

    async def awork(items: list[Any]) -> list[Any]:
        return work(items)

    f = batched(work if kind == "def" else awork, size=3, capacity=12)
    over = threading.Event()

    def change() -> None:
        rnd = random.Random(1)
        while not over.is_set():
            f.size = rnd.randint(1, 9)
            f.linger = rnd.choice([0, 0, 0.0005])
            f.workers = rnd.randint(1, 4)
            f.capacity = rnd.choice([9, 12, 50, None])

    def submit(who: int) -> list[Any]:
        return [f.options(priority=n % 2)((who, n)) for n in range(400)]

    changing = in_thread(change)
    calls = [in_thread(submit, who) for who in range(3)]
    futures = [call.result(LIMIT) for call in calls]
    over.set()
    changing.result()
    f.linger = 0
    for who, made in enumerate(futures):
        assert [future.result(LIMIT) for future in made] == [(who, n) for n in range(400)]
    assert largest <= 9
    stats = f.stats()
    assert (stats.accepted, stats.succeeded, stats.rejected) == (1200, 1200, 0)


# ---- batches that wait for items of their own function ----


def test_nested_results_of_many_never_hang() -> None:
    def work(items: list[int]) -> list[Any]:
        return [f(item - 1).result() if item else "end" for item in items]

    f = batched(work, size=1, workers=2)

    def call(_: int) -> None:
        for n in range(40):
            try:
                assert f(n % 3).result() == "end"
            except Deadlock:
                assert n % 3

    with eager_switches():
        for thread in [in_thread(call, who) for who in range(6)]:
            thread.result(LIMIT)
    f.close(LIMIT)


def test_all_workers_wait_for_items_of_their_own_function() -> None:
    """They look whether a wait could end at the same instant, and then all wait."""
    together = threading.Barrier(2)

    def work(items: list[int]) -> list[Any]:
        [item] = items
        if not item:
            return ["end"]
        nested = f(item - 1)
        together.wait(LIMIT)
        return [nested.result()]

    f = batched(work, size=1, workers=2)
    with eager_switches():
        for _ in range(150):
            futures = [f(1), f(1)]
            for future in futures:
                try:
                    assert future.result(LIMIT) == "end"
                except Deadlock:
                    continue
            f.flush(LIMIT)
    f.close(LIMIT)


# ---- observers ----


class Seen:
    """An observer that keeps its events."""

    def __init__(self) -> None:
        self.events: list[batchify.BatchEvent] = []

    def __call__(self, event: batchify.BatchEvent) -> None:
        self.events.append(event)


@pytest.fixture
def everywhere() -> Iterator[Seen]:
    seen = Seen()
    end = batchify.observe(seen)
    yield seen
    end()


def test_an_observer_gets_an_event_for_each_batch(kind: str) -> None:
    seen = Seen()
    gated = gated_of(kind)
    f = batched(gated, size=3, linger=None, name="observed")
    f.observe(seen)
    futures = [f(0)]
    time.sleep(SOON)  # the test measures time
    futures += [f(1), f(2)]
    gated.wait_started(1)
    assert seen.events == []
    time.sleep(SOON)
    gated.open()
    futures.append(f(3))
    concurrent.futures.wait(futures[:3], LIMIT)
    f.flush(LIMIT)
    until(lambda: len(seen.events) == 2)
    first, second = seen.events
    assert isinstance(first, batchify.BatchEvent)
    assert (first.name, first.reason, first.size, first.error) == ("observed", "size", 3, None)
    assert first.queued >= SOON
    assert first.ran >= SOON
    assert (second.name, second.reason, second.size) == ("observed", "flush", 1)
    with pytest.raises((AttributeError, FrozenInstanceError)):
        first.size = 4  # type: ignore[misc]


def test_queued_and_ran_are_seconds_of_the_clock() -> None:
    seam = ManualSeam()
    seen = Seen()
    f, gated = busy_on(seam, size=2)
    f.observe(seen)
    f.options(priority=-1)(1)
    seam.now += 3
    f(2), f(3), f(4)
    seam.now += 4
    gated.release()
    gated.wait_started(2)
    seam.now += 5
    gated.open()
    f.flush(LIMIT)
    until(lambda: len(seen.events) == 3)
    assert [(e.size, e.queued, e.ran) for e in seen.events[:2]] == [(1, 0, 7), (2, 4, 5)]
    assert f.stats().queued.max == max(e.queued for e in seen.events)
    assert f.stats().ran.max == 7
    f.close(LIMIT)


class Broken(Exception):
    pass


@pytest.mark.parametrize("on_error", [None, lambda failure: None, lambda failure: failure.items])
def test_an_event_has_the_error_of_its_batch(kind: str, on_error: Any) -> None:
    error = Broken("bad")

    def work(items: list[Any]) -> Any:
        if items == ["raise"]:
            raise error
        if items == ["wrong"]:
            return [1, 2, 3]
        return [Broken("one item")]

    async def awork(items: list[Any]) -> Any:
        return work(items)

    seen = Seen()
    f = batched(work if kind == "def" else awork, size=1, on_error=on_error)
    f.observe(seen)
    for item in ("raise", "wrong", "element"):
        f(item).exception(LIMIT)
    until(lambda: len(seen.events) == 3)
    raised, wrong, element = (event.error for event in seen.events)
    if on_error is None or not on_error.__code__.co_names:  # it gave no results instead
        assert isinstance(raised, Broken)
        assert isinstance(wrong, BadResult)
    assert element is None


def test_an_event_of_a_batch_that_was_aborted(kind: str) -> None:
    def work(items: list[Any]) -> Any:
        raise SystemExit(1)

    async def awork(items: list[Any]) -> Any:
        raise SystemExit(1)

    seen = Seen()
    f = batched(work if kind == "def" else awork)
    f.observe(seen)
    assert isinstance(f(1).exception(LIMIT), BatchAborted)
    until(lambda: seen.events)
    assert isinstance(seen.events[0].error, (BatchAborted, SystemExit))


def test_observing_everywhere_and_one_function(kind: str, everywhere: Seen) -> None:
    f = batched(echo_of(kind), name="one")
    g = batched(echo_of(kind), name="two")
    ones = Seen()
    end = f.observe(ones)
    f(1).result(LIMIT), g(1).result(LIMIT)
    until(lambda: sorted(event.name for event in everywhere.events) == ["one", "two"])
    assert [event.name for event in ones.events] == ["one"]
    end()
    end()
    f(2).result(LIMIT)
    until(lambda: len(everywhere.events) == 3)
    assert len(ones.events) == 1


def test_ending_an_observation_ends_no_other() -> None:
    f = batched(echo)
    seen = Seen()
    first, second = f.observe(seen), f.observe(seen)
    f(1).result(LIMIT)
    until(lambda: len(seen.events) == 2)
    first()
    f(2).result(LIMIT)
    until(lambda: len(seen.events) == 3)
    second()
    f(3).result(LIMIT)
    f.close(LIMIT)
    assert len(seen.events) == 3


@pytest.mark.parametrize("value", [None, 1, "observer"], ids=str)
def test_an_observer_must_be_callable(value: Any) -> None:
    f = batched(echo)
    for observe in (f.observe, batchify.observe):
        with pytest.raises(TypeError, match="observer"):
            observe(value)


def test_observers_of_a_method(kind: str, everywhere: Seen) -> None:
    store = store_class(kind, gated_of(kind, is_open=True))
    one, two = store(), store()
    ones, twos, both = Seen(), Seen(), Seen()
    one.insert.observe(ones)
    two.insert(0).result(LIMIT)
    until(lambda: len(everywhere.events) == 1)  # its event may come after its result
    end = two.insert.observe(twos)
    store.insert.observe(both)
    one.insert(1).result(LIMIT), two.insert(2).result(LIMIT), store().insert(3).result(LIMIT)
    until(lambda: len(everywhere.events) == 4)
    until(lambda: (len(ones.events), len(twos.events), len(both.events)) == (1, 1, 3))
    end()
    two.insert(4).result(LIMIT)
    until(lambda: len(both.events) == 4)
    assert len(twos.events) == 1


def test_an_observer_gets_events_of_batches_on_loops(kind: str) -> None:
    seen = Seen()
    f = batched(echo_of(kind), name="looped")
    f.observe(seen)

    async def main() -> None:
        assert await asyncio.wait_for(asyncio.gather(*(f(n) for n in range(3))), LIMIT)

    for _ in range(2):
        asyncio.run(main())
    until(lambda: sum(event.size for event in seen.events) == 6)
    assert {event.name for event in seen.events} == {"looped"}
    assert {event.error for event in seen.events} == {None}


@pytest.mark.parametrize(
    "raised",
    [ValueError("a secret"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
def test_an_observer_that_raises_is_counted_and_logged_once(
    kind: str, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def observer(_: Any) -> None:
        raise raised

    seen = Seen()
    f = batched(echo_of(kind), size=1, name="bothered")
    for one in (observer, seen):
        f.observe(one)
    with caplog.at_level(logging.DEBUG, "batchify"):
        futures = [f(n) for n in range(5)]
        assert [future.result(LIMIT) for future in futures] == list(range(5))
        until(lambda: f.stats().observer_errors == 5)
    assert len(seen.events) == 5
    assert {event.error for event in seen.events} == {None}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert type(raised).__name__ in told[0]
    assert "secret" not in caplog.text
    assert f.stats().failed == 0
    f.close(LIMIT)


def test_callers_have_their_results_before_a_slow_observer_ends(kind: str) -> None:
    hold, told = threading.Event(), threading.Event()

    def observer(_: Any) -> None:
        told.set()
        assert hold.wait(LIMIT)

    f = batched(echo_of(kind))
    end = f.observe(observer)
    try:
        future = f(1)
        called = threading.Event()
        future.add_done_callback(lambda _: called.set())
        assert future.result(LIMIT) == 1
        assert told.wait(LIMIT)
        assert called.wait(LIMIT)
        stats = f.stats()
        assert (stats.succeeded, stats.batches) == (1, 1)
    finally:
        hold.set()
        end()
    f.close(LIMIT)


def test_awaiting_callers_continue_before_a_slow_observer_ends(kind: str) -> None:
    resumed = threading.Event()
    in_time: list[bool] = []
    f = batched(echo_of(kind))
    f.observe(lambda _: in_time.append(resumed.wait(LIMIT)))

    async def main() -> None:
        assert await f(1) == 1
        resumed.set()

    asyncio.run(main())
    until(lambda: in_time)
    assert in_time == [True]


def test_observers_added_by_many_threads_are_all_called() -> None:
    f = batched(echo)
    observers = [Seen() for _ in range(800)]

    def add(part: list[Seen]) -> None:
        for seen in part:
            f.observe(seen)

    with eager_switches():
        for call in [in_thread(add, observers[at::4]) for at in range(4)]:
            call.result()
    f(1).result(LIMIT)
    f.close(LIMIT)
    assert [len(seen.events) for seen in observers] == [1] * 800


def test_an_observer_may_use_the_function_and_end_itself(kind: str) -> None:
    f = batched(echo_of(kind), size=1)
    made: list[Any] = []

    def observer(event: Any) -> None:
        end()
        f.stats().explain()
        made.append(f(2))

    end = f.observe(observer)
    assert f(1).result(LIMIT) == 1
    until(lambda: made)
    assert made[0].result(LIMIT) == 2
    f.flush(LIMIT)
    assert len(made) == 1


# ---- stats ----


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


def test_explain_differs_for_each_reason() -> None:
    told = {
        Stats(batches=3, reasons={**dict.fromkeys(REASONS, 0), reason: 3}).explain()
        for reason in REASONS
    }
    assert len(told) == len(REASONS)


def test_explain_counts_in_words_and_figures_that_one_reads() -> None:
    def told(batches: int, items: int) -> str:
        recorder = Recorder()
        recorder.add([items] * batches)
        reasons = {**dict.fromkeys(REASONS, 0), "idle": batches}
        return Stats(
            batches=batches, reasons=reasons, sizes=recorder.distribution(), pending=1
        ).explain()

    assert told(1, 1).startswith("1 batch had 1 item on average")
    assert told(12_345, 4321).startswith("12345 batches had 4321 items on average")
    assert told(0, 0) == "No batch has been dispatched yet (1 item pending)."


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
