"""`batchify.testing.manual_clock`: times that a test advances (contract 6)."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from batchify import Closed, DeadlineExceeded, Retry, batched
from batchify.testing import ManualClock, eager, unresolved
from tests.limits import LIMIT
from tests.manual import Gated, batchify_threads, until
from tests.testing_helpers import HELD, Batches, Times, manual_clock

pytestmark = pytest.mark.usefixtures("patient")


# ---- what the clock applies to ----


def test_linger() -> None:
    batches = Batches()
    f = batched(batches, linger=0.5)
    assert f(0).result(LIMIT) == 0  # its call has cached the queue on the real clock
    batches.clear()
    with manual_clock() as clock:
        first = f(1)
        clock.advance(0.4)
        second = f(2)
        assert not first.done()
        assert batches == []
        clock.advance(0.1)
        assert [first.done(), second.done()] == [True, True]
        assert batches == [[1, 2]]
        assert clock.now == 0.5
        assert repr(clock) == "<ManualClock at 0.5 s>"
        late = f(3)
        clock.advance(timedelta(hours=1))
        assert late.result(0) == 3
        assert dict(f.stats().reasons)["linger"] == 2
        assert f.stats().queued.max == 0.5
    assert batches == [[1, 2], [3]]


@pytest.mark.parametrize(("linger", "steps"), [(0.2, [0.2]), (0.3, [0.1] * 3), (0.8, [0.7, 0.1])])
def test_sums_of_decimals_are_what_they_seem_to_be(linger: float, steps: list[float]) -> None:
    """In floats, 0.1 + 0.2 is more than 0.3, and 0.1 + 0.7 + 0.1 is less than 0.9."""
    f = batched(Batches(), linger=linger)
    with manual_clock() as clock:
        clock.advance(0.1)
        future = f(1)
        for step in steps:
            assert not future.done()
            clock.advance(step)
        assert future.done()


def test_real_time_moves_nothing() -> None:
    f = batched(Batches(), linger=0.001)
    with manual_clock() as clock:
        future = f(1)
        with pytest.raises(TimeoutError):
            future.result(0.05)
        clock.advance(0.001)
        assert future.result(0) == 1


def test_callers_wait_in_real_time() -> None:
    gated = Gated()
    f = batched(gated, linger=1, name="held")
    with manual_clock(patience=0) as clock:
        f(1)
        clock.advance(1)
        gated.wait_started(1)
        with pytest.raises(TimeoutError):
            f.flush(0.01)
        with pytest.raises(TimeoutError):
            f.close(0.01)
        assert clock.now == 1
        gated.open()


def test_everything_happens_at_its_own_time() -> None:
    times = Times()
    often = times.function("often", linger=0.25)
    rare = times.function("rare", linger=0.6)
    tries: list[float] = []

    def again(items: list[Any]) -> list[Any]:
        tries.append(clock.now)
        return [Retry(after=0.1, attempts=9)] if len(tries) < 4 else items

    f: Any = batched(again, linger=0.3)
    with manual_clock() as clock:
        times.clock = clock
        futures = [rare(1), often(1), f("tried")]
        # A callback that submits anew, each time when the one before is done.
        futures[1].add_done_callback(lambda _: often(2).add_done_callback(lambda _: often(3)))
        clock.advance(1)
        assert times == [("often", 0.25), ("often", 0.5), ("rare", 0.6), ("often", 0.75)]
        assert tries == [0.3, 0.4, 0.5, 0.6]
        assert futures[2].result(0) == "tried"
        assert clock.now == 1


def test_a_batch_that_waits_for_a_later_one() -> None:
    times = Times()
    inner = times.function("inner", linger=0.5)
    outer = batched(lambda items: [inner(item).result() for item in items], linger=0.2)
    with manual_clock(patience=LIMIT) as clock:
        times.clock = clock
        future = outer(1)
        began = time.monotonic()
        clock.advance(0.6)
        assert time.monotonic() - began < LIMIT  # it is known to sleep, so no advance waits for it
        assert not future.done()
        clock.advance(0.1)
        assert future.result(0) == 1
        assert times == [("inner", 0.7)]


def test_deadlines_with_a_free_worker_and_with_a_busy_one() -> None:
    gated = Gated()
    f = batched(gated, size=1, linger=0)
    g = batched(Batches(), linger=5)
    with manual_clock(patience=HELD) as clock:
        f("holds")
        gated.wait_started(1)
        futures = [f.options(deadline=2)("late"), g.options(deadline=2)("late")]
        clock.advance(1.9)
        assert [future.done() for future in futures] == [False, False]
        clock.advance(0.1)
        for future in futures:
            assert isinstance(future.exception(0), DeadlineExceeded)
        gated.open()


def test_the_patience_of_priorities() -> None:
    """While the oldest item has waited for over a second, every other batch is taken by age."""
    gated = Gated()
    f = batched(gated, size=1)
    with manual_clock(patience=0) as clock:
        f("holds")
        gated.wait_started(1)
        f.options(priority=-1)("old")
        for n in range(3):
            f.options(priority=1)(f"high {n}")
        gated.release()
        gated.wait_started(2)
        assert gated.batches[1:] == [["high 0"]]
        clock.advance(1.1)
        gated.open()
        f.flush(LIMIT)
    assert gated.batches[2:4] in ([["old"], ["high 1"]], [["high 1"], ["old"]])
    assert gated.batches[4] == ["high 2"]


# ---- batches that are held ----


def test_a_batch_that_is_let_go_is_waited_for() -> None:
    gated = Gated()
    f = batched(gated, size=1, linger=1)
    with manual_clock(patience=HELD) as clock:
        futures = [f(n) for n in range(3)]
        clock.advance(1)
        assert not any(future.done() for future in futures)
        gated.open()
    with manual_clock(patience=LIMIT) as clock:
        gated.is_open = False
        futures = [f(n) for n in range(3)]
        opening = threading.Timer(HELD, gated.open)
        opening.start()
        clock.advance(0)
        assert all(future.done() for future in futures)


def test_without_patience_batches_have_started() -> None:
    gated = Gated()
    f = batched(gated, linger=1)
    with manual_clock(patience=0) as clock:
        for count in range(1, 6):
            future = f(count)
            clock.advance(1)
            assert future.running()
            gated.release()
            future.result(LIMIT)


def test_without_patience_it_waits_for_items_from_another_batch() -> None:
    gated = Gated()
    goes_on = threading.Event()
    f = batched(gated, linger=1)
    with manual_clock(patience=0) as clock:
        first = f(1)
        first.add_done_callback(lambda _: goes_on.wait(LIMIT))
        clock.advance(1)
        gated.release()
        until(first.done)
        second = f(2)
        threading.Timer(0.05, goes_on.set).start()
        clock.advance(1)
        assert second.running()
        gated.open()


def test_on_an_executor() -> None:
    with ThreadPoolExecutor(1) as pool, manual_clock() as clock:
        f = batched(Batches(), linger=1, executor=pool)
        future = f(1)
        clock.advance(1)
        assert future.result(0) == 1


# ---- the block ----


def test_each_function_has_a_new_queue_in_the_block() -> None:
    batches = Batches()
    f = batched(batches, linger=None)
    before = f(1)
    events: list[Any] = []
    f.observe(events.append)
    with manual_clock() as outer:
        assert f.stats().accepted == 0
        f.linger = 1
        first = f(2)
        with manual_clock() as inner:
            second = f(3)
            outer.advance(0.5)
            assert inner.now == 0
            inner.advance(1)
            assert second.done()
            assert not first.done()
        third = f(4)
        outer.advance(0.5)
        assert first.done()
        assert third.done()
        assert f.stats().batches == 1
    assert not before.done()
    assert f.linger is None
    assert f.stats().pending == 1
    f.flush(LIMIT)
    assert batches == [[3], [2, 4], [1]]
    until(lambda: len(events) >= 3)  # observers are called last
    assert [event.queued for event in events[:2]] == [1, 1]
    assert len(events) == 3


def test_methods_and_options_of_instances() -> None:
    class Table:
        @batched(linger=9, name="insert")
        def insert(self, rows: list[int]) -> list[Any]:
            return [(self, row) for row in rows]

    one, two, three, four = Table(), Table(), Table(), Table()
    events: list[Any] = []
    one.insert.linger = 1
    one.insert.observe(events.append)
    two.insert.close()
    three.insert.linger = 2
    with manual_clock() as clock:
        future = one.insert(5)
        clock.advance(1)
        assert future.result(0) == (one, 5)
        assert [event.queued for event in events] == [1]
        with pytest.raises(Closed):
            two.insert(5)
        Table.insert.linger = 3
        futures = [table.insert(6) for table in (one, three, four)]
        clock.advance(2)
        assert [future.done() for future in futures] == [False] * 3
        clock.advance(1)
        assert [future.result(0) for future in futures] == [(one, 6), (three, 6), (four, 6)]
    assert [table.insert.linger for table in (one, three, four)] == [1, 2, 9]


@pytest.mark.parametrize("is_async", [False, True])
def test_closed_before_and_opened_in_the_block(is_async: bool) -> None:
    async def arun(items: list[Any]) -> list[Any]:
        return items

    f: Any = batched(arun if is_async else Batches(), linger=1)
    f.close()
    with manual_clock() as clock:
        with pytest.raises(Closed):
            f(1)
        f.start()
        future = f(2)
        clock.advance(1)
        assert future.result(0) == 2
    with pytest.raises(Closed):
        f(3)


def test_decorated_in_the_block() -> None:
    with manual_clock() as outer, manual_clock() as inner:
        f = batched(Batches(), linger=0.01)
        future = f(1)
        outer.advance(1)
        assert not future.done()
        inner.advance(1)
        assert future.done()
    assert f(2).result(LIMIT) == 2


def test_blocks_that_end_in_the_order_in_which_they_began() -> None:
    f = batched(Batches(), linger=0.01)
    first, second = manual_clock(), manual_clock()
    with first:
        second.__enter__()
    future = f(1)
    second.advance(1)
    assert future.done()
    second.__exit__()
    assert f(2).result(LIMIT) == 2


def test_an_error_leaves_the_block() -> None:
    f = batched(Batches(), linger=0.01)
    with pytest.raises(ZeroDivisionError), manual_clock() as clock:
        f(1)
        raise ZeroDivisionError
    assert f(2).result(LIMIT) == 2
    with pytest.raises(RuntimeError, match="only inside its block"):
        clock.advance(1)


def test_eager_counts_for_more() -> None:
    f = batched(Batches(), linger=1)
    with manual_clock() as clock:
        lingers = f(1)
        with eager():
            assert f(2).result(0) == 2
        clock.advance(1)
        assert lingers.result(0) == 1


# ---- its end ----


def test_at_the_end_everything_is_run() -> None:
    times = Times()
    last = times.function("last", linger=None)
    tries: list[Any] = []

    def again(items: list[Any]) -> list[Any]:
        tries.append(items)
        last(3)
        return [Retry(after=1e9)] if len(tries) == 1 else items

    async def arun(items: list[Any]) -> list[Any]:
        await asyncio.sleep(0.01)
        return items

    f: Any = batched(again, linger=5)
    g: Any = batched(arun, linger=5)
    before = unresolved()
    threads = batchify_threads()
    with manual_clock() as clock:
        times.clock = clock
        futures = [f(1), g(2)]
    assert [future.result(0) for future in futures] == [1, 2]
    assert times
    assert unresolved() == before
    until(lambda: len(batchify_threads() - threads) <= 1)  # that of the background loop


# ---- refused calls ----


def test_where_it_cannot_be_advanced() -> None:
    clock = manual_clock()
    with pytest.raises(RuntimeError, match="only inside its block"):
        clock.advance(1)

    async def on_a_loop() -> None:
        with pytest.raises(RuntimeError, match=r"await clock\.aadvance"):
            clock.advance(1)
        task = asyncio.create_task(clock.aadvance(1))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="being advanced"):
            await clock.aadvance(1)
        await task

    async def arun(items: list[Any]) -> None:
        await clock.aadvance(1)

    with clock:
        f = batched(lambda items: clock.advance(1))
        for batch in (f, batched(arun)):
            with pytest.raises(RuntimeError, match="a batch cannot advance"):
                batch(1).result(LIMIT)
        asyncio.run(on_a_loop())
        assert clock.now == 1
        with pytest.raises(RuntimeError, match="one block"):
            clock.__enter__()
    with pytest.raises(RuntimeError, match="one block"):
        clock.__enter__()


@pytest.mark.parametrize(("wrong", "error"), [("1", TypeError), (-1, ValueError)])
def test_wrong_arguments(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="patience"):
        manual_clock(patience=wrong)
    with manual_clock() as clock, pytest.raises(error, match="seconds"):
        clock.advance(wrong)
    assert isinstance(clock, ManualClock)
