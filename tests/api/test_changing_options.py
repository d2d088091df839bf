"""Options that change at run time apply to queued items (contract 3)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
from datetime import timedelta
from typing import Any

import pytest

from batchify import QueueFull, batched
from tests.gates import LATER, SOON, balanced, busy, echo, echo_of, flat, gated_of, names
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, batchify_threads, in_thread, until


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
