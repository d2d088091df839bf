"""`deadline`: an item that has not started in time fails (contract 3)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from batchify import BatchifyError, Closed, DeadlineExceeded, QueueFull, batched
from batchify.testing import manual_clock
from tests.gates import (
    LATER,
    SOON,
    balanced,
    busy,
    busy_on,
    echo,
    echo_of,
    flat,
    gated_of,
    names,
    pass_time,
)
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until


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
