"""Callers on event loops, for `async def` and for `def`: contract 3, 4 and 8."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from batchify import BatchAborted, Closed, Deadlock, QueueFull, batched
from batchify.engine import background
from batchify.engine.seam import THREADS, ThreadSeam
from tests.limits import LIMIT
from tests.manual import Gated, batched_with, batchify_threads, in_thread, until


class AsyncGated:
    """An async batch function that records its batches; each waits until the test releases it."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.is_open = is_open
        self.permits = 0

    async def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(list(items))
        while not self.is_open and not self.permits:
            await asyncio.sleep(0)
        if not self.is_open:
            self.permits -= 1
        return [("done", item) for item in items]


async def ticks(fact: Callable[[], Any]) -> None:
    """Run the loop until `fact()` is true."""
    for _ in range(100_000):
        if fact():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not become true in time")


def both(kind: str, **options: Any) -> Any:
    """Return the same function as `def` and as `async def`."""
    if kind == "def":
        return batched(lambda items: [item * 2 for item in items], **options)

    async def double(items: list[int]) -> list[int]:
        return [item * 2 for item in items]

    return batched(double, **options)


@pytest.fixture(params=["def", "async def"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_asyncio_takes_the_future_as_its_own(kind: str) -> None:
    f = both(kind)

    async def main() -> None:
        future = f(1)
        assert asyncio.isfuture(future)
        assert isinstance(future, concurrent.futures.Future)
        assert await future == 2
        assert await future == 2
        assert await asyncio.gather(*(f(n) for n in range(300))) == [n * 2 for n in range(300)]
        done, pending = await asyncio.wait([f(1), f(2)])
        assert {x.result() for x in done} == {2, 4}
        assert not pending
        assert await asyncio.wait_for(f(3), LIMIT) == 6
        assert await asyncio.shield(f(4)) == 8
        assert asyncio.ensure_future(future) is future
        assert [await x for x in asyncio.as_completed([f(5), f(5)])] == [10, 10]
        assert await asyncio.wrap_future(f(6)) == 12

        async def call(n: int) -> int:
            return await f(n)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call(n)) for n in range(50)]
        assert [task.result() for task in tasks] == [n * 2 for n in range(50)]

    asyncio.run(main())


def test_several_tasks_await_one_future(kind: str) -> None:
    f = both(kind)

    async def main() -> None:
        future = f(21)

        async def wait() -> int:
            return await future

        assert await asyncio.gather(*(wait() for _ in range(5))) == [42] * 5

    asyncio.run(main())


def test_loop_callbacks(kind: str) -> None:
    f = both(kind, linger=None)  # not done before the callbacks are added
    seen: list[Any] = []
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    async def main() -> None:
        var.set("mine")
        future = f(1)
        told = asyncio.Event()

        def callback(which: Any) -> None:
            seen.append((which is future, var.get(), asyncio.get_running_loop()))
            told.set()

        def other(_: Any) -> None:
            seen.append("never")

        future.add_done_callback(other)
        future.add_done_callback(callback)
        future.add_done_callback(other)
        assert future.remove_done_callback(other) == 2
        await f.aflush()
        await told.wait()
        future.add_done_callback(callback)
        assert len(seen) == 1  # never at once, as in asyncio
        await ticks(lambda: len(seen) == 2)
        assert seen == [(True, "mine", asyncio.get_running_loop())] * 2

    asyncio.run(main())


def test_a_loop_callback_that_raises_harms_no_other(kind: str) -> None:
    f = both(kind)

    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        futures = [f(n) for n in range(3)]

        def callback(_: Any) -> None:
            raise ValueError("mine")

        futures[0].add_done_callback(callback)
        assert await asyncio.gather(*futures) == [0, 2, 4]
        assert [str(context["exception"]) for context in told] == ["mine"]

    asyncio.run(main())


def test_one_function_serves_threads_and_loops_at_the_same_time(kind: str) -> None:
    f = both(kind, size=7, workers=2)

    def thread(who: int) -> None:
        assert [f(n).result(LIMIT) for n in range(100)] == [n * 2 for n in range(100)]

    def loop(who: int) -> None:
        async def main() -> None:
            for _ in range(5):
                assert await asyncio.gather(*(f(n) for n in range(50))) == [
                    n * 2 for n in range(50)
                ]

        asyncio.run(main())

    calls = [in_thread(work, n) for n in range(3) for work in (thread, loop)]
    for call in calls:
        call.result(LIMIT)
    stats = f.stats()
    assert stats.accepted == stats.succeeded == 3 * 100 + 3 * 250
    assert stats.pending == stats.running == 0


def test_many_loops_one_after_another(kind: str) -> None:
    f = both(kind)

    async def main() -> int:
        return await f(1)

    before = batchify_threads()
    for _ in range(50):
        assert asyncio.run(main()) == 2
    assert len(batchify_threads() - before) <= 1
    if kind == "async def":
        assert f._scope().engines() == []
    assert f.stats().succeeded == 50


def test_a_future_is_awaited_in_another_loop_or_made_in_a_thread(kind: str) -> None:
    f = both(kind)
    made = f(5)

    async def other() -> Any:
        return await made, await made

    assert asyncio.run(other()) == (10, 10)

    async def main() -> None:
        future = f(6)
        assert await asyncio.to_thread(lambda: asyncio.run(wait(future))) == 12
        assert await asyncio.to_thread(future.result, 5) == 12

    async def wait(future: Any) -> Any:
        return await future

    asyncio.run(main())


def test_errors_reach_the_awaiter_and_stopiteration_does_not_hang(kind: str) -> None:
    def fail(items: list[type]) -> list[int]:
        raise items[0]("it")

    async def afail(items: list[type]) -> list[int]:
        raise items[0]("it")

    f: Any = batched(fail) if kind == "def" else batched(afail)

    async def main() -> None:
        with pytest.raises(ValueError, match="it"):
            await f(ValueError)
        with pytest.raises(RuntimeError):
            await f(StopIteration)
        with pytest.raises(BatchAborted) as caught:
            await f(SystemExit)
        assert isinstance(caught.value.__cause__, SystemExit)
        with pytest.raises(BatchAborted):
            await f(asyncio.CancelledError)
        result = await asyncio.gather(f(KeyError), f(KeyError), return_exceptions=True)
        assert [type(error) for error in result] == [KeyError, KeyError]
        assert result[0] is not result[1]

    asyncio.run(main())


# ---- cancelling ----


def test_cancelling_a_task_takes_its_item_out() -> None:
    gated = AsyncGated()
    f = batched(gated, size=10)

    async def main() -> None:
        first = f(0)
        await ticks(lambda: gated.batches)
        tasks = [asyncio.ensure_future(wait(f(n))) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        gated.is_open = True
        assert await first == ("done", 0)
        assert [await tasks[0], await tasks[2]] == [("done", 1), ("done", 3)]
        assert gated.batches == [[0], [1, 3]]
        assert f.stats().cancelled == 1

    async def wait(future: Any) -> Any:
        return await future

    asyncio.run(main())


def test_cancelling_a_running_item_detaches_it_at_once(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated)

    async def main() -> None:
        future, neighbour = f(0), f(1)
        await ticks(lambda: gated.batches)
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await future
        if kind == "def":
            gated.open()
        else:
            gated.is_open = True
        assert await neighbour == ("done", 1)
        assert f.stats().cancelled == 1
        assert f.stats().running == 0

    asyncio.run(main())


def test_shield_keeps_the_item(kind: str) -> None:
    f = both(kind, linger=None)  # nothing is dispatched before the flush

    async def main() -> None:
        future = f(4)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(future), 0.0001)
        await f.aflush()
        assert await future == 8
        other = f(5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other, 0.0001)
        assert other.cancelled()

    asyncio.run(main())


def test_awaiting_in_another_loop_and_being_cancelled_cancels() -> None:
    gated = Gated()
    f = batched(gated, size=1)
    first, second = f(0), f(1)
    gated.wait_started(1)

    async def main() -> None:
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def wait() -> Any:
        return await second

    asyncio.run(main())
    assert second.cancelled()
    gated.open()
    assert first.result(LIMIT) == ("done", 0)


# ---- a full queue never blocks a loop ----


def test_on_a_loop_a_full_queue_never_blocks(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        futures = [f(n) for n in range(20)]  # it ends after the next lines
        await ticks(lambda: gated.batches)
        stats = f.stats()
        assert (stats.accepted, stats.submitted) == (1, 20)
        with pytest.raises(QueueFull):
            f.submit_nowait(99)
        assert futures[7].cancel()
        gated.is_open = True
        if kind == "def":
            gated.open()
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(r) for r in results].count(asyncio.CancelledError) == 1
        assert gated.batches == [[n] for n in range(20) if n != 7]
        stats = f.stats()
        assert (stats.accepted, stats.submitted, stats.rejected) == (19, 21, 1)

    asyncio.run(main())


def test_timeout_for_the_capacity_ends_the_future(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        first = f(0)
        late = f.options(timeout=0.01)(1)
        with pytest.raises(QueueFull):
            await late
        with pytest.raises(QueueFull):
            await f.options(timeout=0.01).asubmit(2)
        gated.is_open = True
        if kind == "def":
            gated.open()
        assert await first == ("done", 0)
        assert await f.options(timeout=LIMIT)(3) == ("done", 3)

    asyncio.run(main())


def test_asubmit_waits_for_capacity(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        first = await f.asubmit(0)
        await ticks(lambda: gated.batches)
        waiting = asyncio.ensure_future(f.asubmit(1))
        given_up = asyncio.ensure_future(f.asubmit(2))
        await ticks(lambda: f.stats().submitted == 3)
        assert not waiting.done()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        gated.is_open = True
        if kind == "def":
            gated.open()
        second = await waiting
        assert await first == ("done", 0)
        assert await second == ("done", 1)
        assert gated.batches == [[0], [1]]

    asyncio.run(main())


def test_asubmit_after_close_and_while_it_waits(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        first = f(0)
        await ticks(lambda: gated.batches)
        waiting = asyncio.ensure_future(f.asubmit(1))
        plain = f(2)
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(f.aclose(LIMIT))
        with pytest.raises(Closed):
            await waiting
        with pytest.raises(Closed):
            await plain
        gated.is_open = True
        if kind == "def":
            gated.open()
        await closing
        assert first.result() == ("done", 0)
        with pytest.raises(Closed):
            await f.asubmit(3)
        with pytest.raises(Closed):
            f(3)

    asyncio.run(main())


# ---- batches of async def ----


def test_linger_zero_takes_what_one_tick_brings() -> None:
    gated = AsyncGated(is_open=True)
    f = batched(gated, size=100)

    async def main() -> None:
        await asyncio.gather(*(f(n) for n in range(10)))

    asyncio.run(main())
    assert gated.batches == [list(range(10))]


def test_an_eager_task_factory_does_not_split_batches() -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("Python >= 3.12")
    gated = AsyncGated(is_open=True)
    f = batched(gated, size=100)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        await asyncio.gather(*(f(n) for n in range(10)))

    asyncio.run(main())
    assert gated.batches == [list(range(10))]


def test_linger_on_a_loop() -> None:
    gated = AsyncGated(is_open=True)
    f = batched(gated, size=3, linger=0.05)

    async def main() -> None:
        futures = [f(n) for n in range(4)]
        assert await futures[0] == ("done", 0)
        assert gated.batches == [[0, 1, 2]]
        assert await futures[3] == ("done", 3)
        assert gated.batches == [[0, 1, 2], [3]]

    asyncio.run(main())
    assert f.stats().reasons["linger"] == 1


def test_workers_bound_the_batches_on_a_loop() -> None:
    running = worst = 0

    async def work(items: list[int]) -> list[int]:
        nonlocal running, worst
        running += 1
        worst = max(worst, running)
        await asyncio.sleep(0.001)
        running -= 1
        return items

    f = batched(work, size=2, workers=3)

    async def main() -> None:
        assert await asyncio.gather(*(f(n) for n in range(40))) == list(range(40))

    asyncio.run(main())
    assert worst == 3


def test_batches_run_in_an_empty_context(kind: str) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="nobody's")

    def look(items: list[int]) -> list[Any]:
        context = contextvars.copy_context()
        others = [one for one in context if not one.name.startswith("batchify.")]
        seen = [(len(others), var.get())] * len(items)
        var.set("the last batch's")
        return seen

    async def alook(items: list[int]) -> list[Any]:
        await asyncio.sleep(0)
        return look(items)

    f: Any = batched(look) if kind == "def" else batched(alook)

    async def main() -> None:
        for who in ("alice", "bob"):
            var.set(who)
            assert await f(1) == (0, "nobody's")

    asyncio.run(main())
    var.set("carol")
    assert [f(1).result(LIMIT) for _ in range(3)] == [(0, "nobody's")] * 3


def test_a_batch_that_leaves_a_variable_behind_delays_no_other() -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var")

    async def work(items: list[int]) -> list[Any]:
        seen = [var.get(-1)]
        var.set(items[0])
        return seen

    f = batched(work, size=1)

    async def main() -> None:
        assert await asyncio.wait_for(asyncio.gather(*map(f, range(5))), LIMIT) == [-1] * 5

    asyncio.run(main())


def test_a_batch_whose_task_was_cancelled_leaves_nothing_of_it_to_the_next() -> None:
    requests: list[int] = []

    async def work(items: list[int]) -> list[int]:
        task = asyncio.current_task()
        assert task is not None
        requests.append(task.cancelling())
        if items == [0]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        async with asyncio.timeout(LIMIT):  # would take an old request for its own end
            await asyncio.sleep(0)
        return items

    f = batched(work)

    async def main() -> None:
        for n in range(3):
            assert await f(n) == n

    asyncio.run(main())
    assert requests == [0, 0, 0]


def test_others_come_to_their_turn_between_two_batches() -> None:
    order: list[str] = []

    async def work(items: list[int]) -> list[int]:
        order.append("batch")
        return items

    f = batched(work, size=1)

    async def other() -> None:
        for _ in range(3):
            order.append("other")
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(f(1), f(2), f(3), other())

    asyncio.run(main())
    between = order[order.index("batch") : len(order) - order[::-1].index("batch")]
    assert between.count("other") >= 2


def test_callers_without_a_loop_use_one_background_loop() -> None:
    seen = set()

    async def where(items: list[int]) -> list[int]:
        seen.add((threading.get_ident(), id(asyncio.get_running_loop())))
        return items

    f, g = batched(where, size=3), batched(where, size=3)
    calls = [in_thread(lambda h=h: [h(n).result(LIMIT) for n in range(10)]) for h in (f, g, f, g)]
    for call in calls:
        call.result()
    assert len(seen) == 1
    assert threading.get_ident() not in {ident for ident, _ in seen}


def test_async_generators_settle_each_item_as_it_comes() -> None:
    go_on: list[int] = []

    @batched(size=3)
    async def stream(items: list[int]) -> AsyncIterator[int]:
        for item in items:
            yield item * 2
            go_on.append(item)
            await asyncio.sleep(0)

    async def main() -> None:
        one, two, three = stream(1), stream(2), stream(3)
        assert await one == 2
        assert not three.done()
        assert await three == 6
        assert await two == 4

    asyncio.run(main())


# ---- deadlocks ----


def test_result_on_the_loop_that_must_run_the_batch() -> None:
    f = both("async def")

    async def main() -> None:
        future = f(1)
        with pytest.raises(Deadlock):
            future.result()
        with pytest.raises(Deadlock):
            future.result(LIMIT)
        with pytest.raises(Deadlock):
            f.flush()
        with pytest.raises(Deadlock):
            f.close()
        assert await future == 2
        assert await f(2) == 4  # it is still open
        f.flush()

    asyncio.run(main())


def test_blocking_forms_work_on_a_loop_where_they_can() -> None:
    f = both("def", linger=None)

    async def main() -> None:
        future = f(1)
        f.flush(LIMIT)
        assert future.result(LIMIT) == 2
        other = f(2)
        f.close(LIMIT)
        assert other.result() == 4

    asyncio.run(main())


def test_awaiting_ones_own_function_inside_a_batch() -> None:
    async def nested(items: list[int]) -> list[Any]:
        return [await f(item - 1) if item else "end" for item in items]

    f: Any = batched(nested, size=1)

    async def main() -> None:
        with pytest.raises(Deadlock):
            await f(1)
        assert await f(0) == "end"

    asyncio.run(main())

    f = batched(nested, size=1, workers=2)

    async def more() -> None:
        assert await f(1) == "end"
        with pytest.raises(Deadlock):
            await f(2)

    asyncio.run(more())


def test_a_ring_of_async_functions() -> None:
    async def one(items: list[int]) -> list[Any]:
        return [await b(item - 1) if item else "end" for item in items]

    async def other(items: list[int]) -> list[Any]:
        return [await a(item - 1) if item else "end" for item in items]

    a: Any = batched(one)
    b: Any = batched(other)

    async def main() -> None:
        assert await a(1) == "end"
        with pytest.raises(Deadlock):
            await a(2)

    asyncio.run(main())


def test_flush_and_close_inside_an_async_batch() -> None:
    async def work(items: list[str]) -> list[Any]:
        await getattr(f, items[0])()
        return items

    f: Any = batched(work)

    async def main() -> None:
        for method in ("aflush", "aclose"):
            with pytest.raises(Deadlock):
                await f(method)

    asyncio.run(main())


# ---- flush and close ----


def test_aflush_and_aclose(kind: str) -> None:
    f = both(kind, linger=None)

    async def main() -> None:
        futures = [f(n) for n in range(5)]
        await f.aflush(LIMIT)
        assert [x.result() for x in futures] == [0, 2, 4, 6, 8]
        async with f:
            last = f(9)
        assert last.result() == 18
        with pytest.raises(Closed):
            f(1)
        f.start()
        more = f(7)
        await f.aclose()
        assert more.result() == 14

    asyncio.run(main())


def test_aclose_with_cancel_and_with_a_timeout(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1)

    async def main() -> None:
        running, waiting = f(1), f(2)
        await ticks(lambda: gated.batches)
        with pytest.raises(TimeoutError):
            await f.aflush(0.01)
        with pytest.raises(TimeoutError):
            await f.aclose(0.01, cancel=True)
        with pytest.raises(Closed):
            await running
        with pytest.raises(Closed):
            await waiting
        gated.is_open = True
        if kind == "def":
            gated.open()

    asyncio.run(main())


def test_close_from_a_thread_while_a_loop_works() -> None:
    f = both("async def", linger=None)

    async def main() -> None:
        futures = [f(n) for n in range(3)]
        await asyncio.to_thread(f.close, LIMIT)
        assert await asyncio.gather(*futures) == [0, 2, 4]

    asyncio.run(main())


# ---- the end of a loop ----


def test_the_end_of_asyncio_run_runs_queued_items() -> None:
    gated = AsyncGated(is_open=True)
    f = batched(gated, size=2, linger=1000)
    futures: list[Any] = []

    async def main() -> None:
        futures.extend(f(n) for n in range(5))

    asyncio.run(main())
    assert [x.result(0) for x in futures] == [("done", n) for n in range(5)]


def test_the_end_of_asyncio_run_cancels_running_batches() -> None:
    gated = AsyncGated()
    f = batched(gated, size=1)
    futures: list[Any] = []

    async def main() -> None:
        futures.append(f(0))
        await ticks(lambda: gated.batches)
        futures.append(f(1))

    with asyncio.Runner() as runner:
        runner.run(main())
        gated.is_open = False
        runner.get_loop().call_soon(
            lambda: runner.get_loop().call_soon(setattr, gated, "is_open", True)
        )
    assert isinstance(futures[0].exception(0), BatchAborted)
    assert futures[1].result(0) == ("done", 1)


def test_a_loop_closed_without_its_end_ends_the_items() -> None:
    gated = AsyncGated()
    f = batched(gated, size=1)
    loop = asyncio.new_event_loop()
    futures: list[Any] = []

    async def main() -> None:
        futures.extend(f(n) for n in range(3))

    loop.run_until_complete(main())
    waiter = in_thread(futures[2].result)
    until(lambda: f._scope().engines()[0].watched)
    loop.close()
    with pytest.raises(Closed):
        waiter.result()
    assert [type(x.exception(0)) for x in futures] == [Closed] * 3
    assert f.stats().failed == 3
    assert f(5) is not None
    gated.is_open = True
    f.flush(LIMIT)


def test_a_loop_that_closes_early_does_not_hurt_the_others() -> None:
    gated = Gated()
    f = batched(gated, size=10)
    f(0)
    gated.wait_started(1)
    loop = asyncio.new_event_loop()

    async def main() -> Any:
        return f(1)

    orphan = loop.run_until_complete(main())
    loop.close()
    mine = f(2)
    gated.open()
    assert mine.result(LIMIT) == ("done", 2)
    assert orphan.result(LIMIT) == ("done", 1)


def test_the_counts_of_a_closed_loop_add_up() -> None:
    gated = AsyncGated()
    f = batched(gated, size=1, capacity=1)
    loop = asyncio.new_event_loop()

    async def main() -> list[Any]:
        return [f(n) for n in range(4)]  # three wait for capacity

    futures = loop.run_until_complete(main())
    loop.close()
    assert [type(future.exception(0)) for future in futures] == [Closed] * 4
    stats = f.stats()
    assert (stats.submitted, stats.accepted, stats.rejected, stats.failed) == (4, 1, 3, 1)


def test_calls_that_waited_for_capacity_at_a_close_are_forgotten() -> None:
    gated = Gated()

    def function(items: list[int], table: str) -> list[Any]:
        return gated(items)

    f = batched(function, size=1, capacity=1)

    async def main() -> None:
        runs = f(1, "a")
        waits = f(2, "b")
        gated.wait_started(1)
        closing = in_thread(f.close)
        with pytest.raises(Closed):
            await waits
        gated.open()
        assert await runs == ("done", 1)
        closing.result()

    asyncio.run(main())
    assert f._scope().routes == {}


def test_a_background_loop_that_gets_no_thread() -> None:
    class Refusing(ThreadSeam):
        refusals = 1

        def spawn(self, *args: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise RuntimeError("can't start new thread")
            return THREADS.spawn(*args)

    async def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    f = batched_with(Refusing(), double)
    gc.collect()  # those of other tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "_background", None)
        with pytest.raises(RuntimeError, match="new thread"):
            f(1)
        gc.collect()  # an unclosed loop would warn
        assert f(2).result(LIMIT) == 4
        f.close(LIMIT)


def test_a_background_loop_whose_start_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    # A handler raises while `Thread.start` waits: the thread exists, but has not run yet.
    complaints: list[object] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    late: list[threading.Thread] = []

    class Interrupted(ThreadSeam):
        def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:
            if late:
                return THREADS.spawn(target, args, name)
            late.append(threading.Thread(target=target, args=args, name=name, daemon=True))
            raise KeyboardInterrupt

    async def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    f = batched_with(Interrupted(), double)
    gc.collect()  # those of other tests
    monkeypatch.setattr(background, "_background", None)
    with pytest.raises(KeyboardInterrupt):
        f(1)
    late[0].start()
    late[0].join()
    assert not complaints
    assert f(2).result(LIMIT) == 4
    f.close(LIMIT)


def test_a_call_that_gave_up_waiting_for_capacity_is_counted_once() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        @batched(size=1, capacity=1)
        async def f(items: list[int]) -> list[int]:
            await gate.wait()
            return items

        first = f(1)
        await asyncio.sleep(0)
        second = f(2)
        assert f.stats().submitted == 2
        assert second.cancel()
        stats = f.stats()
        assert (stats.submitted, stats.accepted, stats.cancelled) == (2, 1, 0)
        gate.set()
        assert await first == 1
        assert await f(3) == 3
        stats = f.stats()
        assert (stats.submitted, stats.accepted, stats.succeeded) == (3, 2, 2)

    asyncio.run(main())


@pytest.mark.parametrize("first", ["a thread", "a batch"])
def test_async_batches_on_the_background_loop_call_each_other(first: str) -> None:
    """The background loop serves callers without a loop, and batches that run on it."""

    @batched(size=2, linger=None)
    async def inner(items: list[int]) -> list[int]:
        return [10 * item for item in items]

    begun, gate = threading.Event(), threading.Event()

    @batched(workers=2)
    async def outer(items: list[int]) -> list[int]:
        if items[0] < 0:
            future = inner(items[0])
            await inner.aflush()
        else:
            begun.set()
            await asyncio.get_running_loop().run_in_executor(None, gate.wait, LIMIT)
            future = inner(items[0])
        return [await future]

    if first == "a thread":
        assert [future.result(LIMIT) for future in [inner(7), inner(8)]] == [70, 80]
    else:
        assert outer(-1).result(LIMIT) == -10
    nested = outer(1)
    assert begun.wait(LIMIT)
    mine = inner(2)  # before the one made on the loop, and in one batch with it
    gate.set()
    assert (mine.result(LIMIT), nested.result(LIMIT)) == (20, 10)
    assert inner.stats().batches == 2


def test_workers_limit_batches_for_callers_without_a_loop() -> None:
    """They call for a task from other threads, while those on the loop look for more."""
    running = most = 0

    @batched(size=1, workers=2)
    async def f(items: list[int]) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(items[0] % 3):
            await asyncio.sleep(0)
        running -= 1
        return items

    def call(first: int) -> None:
        for n in range(first, first + 1000):
            assert f(n).result(LIMIT) == n

    for future in [in_thread(call, 1000 * n) for n in range(4)]:
        future.result(LIMIT)
    assert most == 2
    f.close(LIMIT)
