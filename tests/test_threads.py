"""The engine for `def`, called from threads: contract 3 and 8."""

from __future__ import annotations

import concurrent.futures
import queue
import sys
import threading
from collections.abc import Iterator
from threading import get_ident
from typing import Any

import pytest

from batchify import Closed, DeadlineExceeded, Deadlock, QueueFull, batched, waits
from batchify.engine import seam
from batchify.engine.seam import ThreadSeam
from batchify.interpreter import has_gil
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until


def test_a_call_gives_the_result_of_its_own_item() -> None:
    @batched
    def double(items: list[int]) -> list[int]:
        return [item * 2 for item in items]

    assert [double(n).result(LIMIT) for n in range(10)] == [n * 2 for n in range(10)]
    assert [f.result(LIMIT) for f in [double(n) for n in range(1000)]] == [
        n * 2 for n in range(1000)
    ]


# ---- how batches form ----


def test_linger_zero_runs_at_once_when_idle_and_batches_items_that_arrive_during_a_batch() -> None:
    gated = Gated()
    f = batched(gated, size=10)
    futures = [f(0)]
    gated.wait_started(1)
    futures += [f(n) for n in range(1, 6)]
    gated.open()
    assert [x.result(LIMIT) for x in futures] == [("done", n) for n in range(6)]
    assert gated.batches == [[0], [1, 2, 3, 4, 5]]
    assert f.stats().reasons["idle"] == 2


def test_a_full_batch_is_dispatched_at_once_and_no_batch_is_larger_than_size() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=4, linger=100)
    futures = [f(n) for n in range(4)]
    assert [x.result(LIMIT) for x in futures] == [("done", n) for n in range(4)]
    assert gated.batches == [[0, 1, 2, 3]]
    assert f.stats().reasons["size"] == 1


def test_linger_counts_from_the_oldest_item() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=10, linger=5)
    f(1)
    for n in (2, 3, 4):
        seam.advance(1.5)
        assert gated.batches == []
        f(n)
    seam.advance(0.4)
    assert gated.batches == []
    seam.advance(0.1)
    until(lambda: gated.batches == [[1, 2, 3, 4]])
    assert f.stats().reasons["linger"] == 1


def test_items_left_over_by_a_full_batch_linger_from_their_own_time() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=3, linger=5)
    f(0)
    seam.advance(4)
    last = [f(n) for n in (1, 2, 3)][-1]
    until(lambda: gated.batches == [[0, 1, 2]])
    seam.rest()
    assert not last.done()
    seam.advance(4.9)
    assert gated.batches == [[0, 1, 2]]
    seam.advance(0.1)
    assert last.result(LIMIT) == ("done", 3)


def test_items_that_came_while_busy_linger_from_their_own_time() -> None:
    seam = ManualSeam()
    gated = Gated()
    f = batched_with(seam, gated, size=3, linger=5)
    for n in range(3):
        f(n)
    gated.wait_started(1)
    seam.now += 10
    late = f(3)
    gated.open()
    seam.rest()
    assert not late.done()
    seam.advance(5)
    assert late.result(LIMIT) == ("done", 3)


def test_linger_none_dispatches_only_when_full_or_flushed() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=3, linger=None)
    f(1), f(2)
    seam.advance(1e9)
    assert gated.batches == []
    f(3)
    until(lambda: gated.batches == [[1, 2, 3]])
    f(4)
    f.flush(LIMIT)
    assert gated.batches == [[1, 2, 3], [4]]
    assert f.stats().reasons["flush"] == 1


def test_more_workers_never_make_smaller_batches() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=8, linger=50, workers=8)
    futures = []
    for n in range(8):
        futures.append(f(n))
        seam.advance(1)
    assert [x.result(LIMIT) for x in futures] == [("done", n) for n in range(8)]
    assert gated.batches == [list(range(8))]


def test_workers_batches_run_at_the_same_time() -> None:
    gated = Gated()
    f = batched(gated, size=1, workers=3)
    futures = [f(n) for n in range(5)]
    gated.wait_started(3)
    assert f.stats().running == 3
    assert f.stats().pending == 2
    assert f.stats().workers == 3
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert sorted(gated.batches) == [[n] for n in range(5)]


def test_an_idle_engine_makes_no_wakeups_and_a_batch_at_most_one() -> None:
    seam = ManualSeam()
    f = batched_with(seam, Gated(is_open=True), size=4, linger=1000, workers=2)
    for n in range(4):
        f(n)
    f.flush(LIMIT)
    seam.rest()
    before = seam.wakeups
    seam.advance(1e6)
    assert seam.wakeups == before


def test_huge_linger_works() -> None:
    f = batched(lambda items: items, size=2, linger=1e300)
    first, second = f(1), f(2)
    assert (first.result(LIMIT), second.result(LIMIT)) == (1, 2)


# ---- extra arguments ----


def test_only_calls_with_equal_extra_arguments_share_a_batch() -> None:
    seen: list[tuple[list[int], str, int]] = []

    @batched(size=10, linger=None)
    def insert(rows: list[int], table: str, *, level: int = 0) -> list[str]:
        seen.append((rows, table, level))
        return [f"{table}{row}{level}" for row in rows]

    futures = [insert(n, "ab"[n % 2], level=n // 4) for n in range(8)]
    insert.flush(LIMIT)
    assert [x.result(0) for x in futures] == [f"{'ab'[n % 2]}{n}{n // 4}" for n in range(8)]
    assert sorted(seen) == [([0, 2], "a", 0), ([1, 3], "b", 0), ([4, 6], "a", 1), ([5, 7], "b", 1)]


def test_unhashable_extra_arguments_are_refused_for_that_caller_only() -> None:
    @batched(linger=None)
    def insert(rows: list[int], table: object) -> list[int]:
        return rows

    good = insert(1, "t")
    with pytest.raises(TypeError, match="hashable"):
        insert(2, [])
    insert.flush(LIMIT)
    assert good.result(0) == 1
    assert insert.stats().rejected == 1


def test_extra_arguments_that_the_function_does_not_take() -> None:
    @batched
    def insert(rows: list[int]) -> list[int]:
        return rows

    with pytest.raises(TypeError, match="no extra arguments"):
        insert(1, 2)
    with pytest.raises(TypeError):
        insert()  # type: ignore[call-arg]
    assert insert(1).result(LIMIT) == 1


def test_partial_batches_that_use_up_the_capacity_are_dispatched_when_a_caller_waits() -> None:
    @batched(size=4, capacity=4, linger=None)
    def f(items: list[int], key: str) -> list[str]:
        return [key + str(item) for item in items]

    futures = [f(n, "abcd"[n]) for n in range(4)]
    blocked = in_thread(f, 9, "a")
    assert blocked.result() is not None
    assert futures[0].result(LIMIT) == "a0"
    assert f.stats().reasons["capacity"] >= 1
    f.flush(LIMIT)
    assert f.stats().succeeded == 5


def test_routes_without_items_are_forgotten() -> None:
    @batched(size=5)
    def f(items: list[int], key: int) -> list[int]:
        return items

    futures = [f(n, n) for n in range(5000)]
    f.flush(LIMIT)
    assert all(x.done() for x in futures)
    engine = f._scope()
    assert engine.routes == {}
    assert engine.forming.by_kin == {}


# ---- capacity ----


def test_blocked_callers_get_capacity_first_come_first_served() -> None:
    gated = Gated()
    f = batched(gated, size=1, capacity=2)
    f(0), f(1)
    gated.wait_started(1)
    blocked = []
    for n in range(2, 7):
        blocked.append(in_thread(f, n))
        until(lambda n=n: f.stats().submitted == n + 1)
    for done in range(5):
        assert [call.is_done() for call in blocked] == [k < done for k in range(5)]
        gated.release()
        assert blocked[done].result() is not None
    gated.open()
    f.flush(LIMIT)
    assert gated.batches == [[n] for n in range(7)]


def test_capacity_is_never_exceeded() -> None:
    f = batched(lambda items: items, size=3, capacity=5, workers=2)
    worst = []

    def work(who: int) -> None:
        for n in range(300):
            f((who, n))
            stats = f.stats()
            worst.append(stats.pending + stats.running)

    calls = [in_thread(work, who) for who in range(6)]
    for call in calls:
        call.result(LIMIT)
    assert max(worst) <= 5
    f.close(LIMIT)
    stats = f.stats()
    assert stats.accepted == stats.succeeded == 1800


def test_submit_nowait_is_refused_when_full() -> None:
    gated = Gated()
    f = batched(gated, size=1, capacity=1)
    first = f.submit_nowait(1)
    with pytest.raises(QueueFull) as caught:
        f.submit_nowait(2)
    assert isinstance(caught.value, queue.Full)
    gated.open()
    assert first.result(LIMIT) == ("done", 1)
    assert f.submit_nowait(3).result(LIMIT) == ("done", 3)
    assert f.stats().rejected == 1
    assert gated.batches == [[1], [3]]


def test_timeout_limits_the_wait_for_capacity_and_the_next_caller_continues() -> None:
    gated = Gated()
    f = batched(gated, size=1, capacity=1)
    f(1)
    impatient = in_thread(f.options(timeout=0.05), 2)
    until(lambda: f.stats().submitted == 2)
    patient = in_thread(f, 3)
    with pytest.raises(QueueFull):
        impatient.result()
    until(lambda: f.stats().submitted == 3)
    gated.release()
    assert patient.result() is not None
    gated.open()
    f.flush(LIMIT)
    assert gated.batches == [[1], [3]]


def test_cancelling_an_item_frees_its_capacity() -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=2)
    f(0)
    gated.wait_started(1)
    waiting = f(1)
    blocked = in_thread(f, 2)
    until(lambda: f.stats().submitted == 3)
    assert waiting.cancel()
    assert blocked.result() is not None
    gated.open()
    f.flush(LIMIT)
    assert gated.batches == [[0], [2]]


def test_a_blocked_caller_is_woken_by_close() -> None:
    gated = Gated()
    f = batched(gated, size=1, capacity=1)
    first = f(1)
    blocked = in_thread(f, 2)
    until(lambda: f.stats().submitted == 2)
    closing = in_thread(f.close)
    with pytest.raises(Closed):
        blocked.result()
    gated.open()
    closing.result()
    assert first.result(0) == ("done", 1)
    assert f.stats().rejected == 1


# ---- cancelling ----


def test_cancel_before_the_start_takes_the_item_out() -> None:
    gated = Gated()
    f = batched(gated, size=10)
    f(0)
    gated.wait_started(1)
    one, two, three = f(1), f(2), f(3)
    assert two.cancel()
    assert two.cancel()
    assert two.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        two.result()
    gated.open()
    assert (one.result(LIMIT), three.result(LIMIT)) == (("done", 1), ("done", 3))
    assert gated.batches == [[0], [1, 3]]
    assert f.stats().cancelled == 1


def test_cancel_after_the_start_is_refused() -> None:
    gated = Gated()
    f = batched(gated)
    future = f(0)
    gated.wait_started(1)
    assert future.running()
    assert not future.cancel()
    gated.open()
    assert future.result(LIMIT) == ("done", 0)
    assert not future.cancel()


def test_a_batch_whose_items_are_all_cancelled_does_not_run() -> None:
    gated = Gated()
    f = batched(gated, size=10)
    f(0)
    gated.wait_started(1)
    futures = [f(n) for n in range(1, 4)]
    assert all(future.cancel() for future in futures)
    gated.open()
    f.flush(LIMIT)
    assert f(4).result(LIMIT) == ("done", 4)
    assert gated.batches == [[0], [4]]


def test_cancelling_while_lingering_frees_a_place_in_the_batch() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=3, linger=5)
    one, two = f(1), f(2)
    seam.rest()
    one.cancel()
    three = f(3)
    seam.rest()
    assert gated.batches == []
    f(4)
    until(lambda: gated.batches == [[2, 3, 4]])
    assert (two.result(LIMIT), three.result(LIMIT)) == (("done", 2), ("done", 3))


# ---- flush, close, start ----


def test_flush_waits_for_what_was_accepted_before_it_only() -> None:
    gated = Gated()
    f = batched(gated, size=2, linger=None)
    one = f(1)
    flushing = in_thread(f.flush)
    gated.wait_started(1)
    later = f(2)
    gated.release()
    flushing.result()
    assert one.done()
    assert not later.done()
    with pytest.raises(TimeoutError):
        f.flush(0.01)
    gated.open()
    assert later.result(LIMIT)


def test_flush_of_an_idle_function_returns_at_once() -> None:
    f = batched(lambda items: items)
    f.flush(LIMIT)
    f(1).result(LIMIT)
    f.flush(LIMIT)


def test_close_runs_accepted_items_then_refuses() -> None:
    gated = Gated(is_open=True)
    f = batched(gated, size=10, linger=None)
    futures = [f(n) for n in range(25)]
    f.close(LIMIT)
    assert [x.result(0) for x in futures] == [("done", n) for n in range(25)]
    for call in (f, f.submit, f.submit_nowait, f.options(timeout=1)):
        with pytest.raises(Closed):
            call(1)
    f.close(LIMIT)
    assert f.stats().rejected == 4
    assert f.stats().reasons["close"] == 1
    assert f.stats().workers == 0


def test_close_with_cancel_ends_items_that_have_not_started() -> None:
    gated = Gated()
    f = batched(gated, size=1)
    running, waiting = f(1), f(2)
    gated.wait_started(1)
    closing = in_thread(lambda: f.close(cancel=True))
    assert isinstance(waiting.exception(LIMIT), Closed)
    gated.open()
    closing.result()
    assert running.result(0) == ("done", 1)
    assert f.stats().failed == 1


def test_close_with_a_timeout_ends_the_remaining_items() -> None:
    gated = Gated()
    f = batched(gated, size=1)
    futures = [f(1), f(2)]
    gated.wait_started(1)
    with pytest.raises(TimeoutError):
        f.close(0.05)
    assert [type(x.exception(0)) for x in futures] == [Closed, Closed]
    gated.open()
    f.start()
    assert f(3).result(LIMIT) == ("done", 3)
    stats = f.stats()
    assert (stats.failed, stats.succeeded, stats.running) == (2, 1, 0)


def test_start_opens_again_and_with_closes() -> None:
    f = batched(lambda items: items)
    f.close()
    f.start()
    assert f(1).result(LIMIT) == 1
    with f as same:
        assert same is f
        future = f(2)
    assert future.result(0) == 2
    with pytest.raises(Closed):
        f(3)
    with f:
        assert f(4).result(LIMIT) == 4


def test_close_from_many_threads_at_once() -> None:
    f = batched(lambda items: items, linger=None)
    future = f(1)
    calls = [in_thread(f.close) for _ in range(8)]
    for call in calls:
        call.result()
    assert future.result(0) == 1


@pytest.fixture
def _threads_alternate() -> Iterator[None]:
    """Switch threads every 20 us, even in the middle of an operation."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_threads_alternate")
def test_every_accepted_item_ends_when_close_races_with_submits() -> None:
    for round_ in range(30):
        size, capacity = [(50, None), (5, 20)][round_ % 2]
        f = batched(lambda items: items, size=size, workers=2, capacity=capacity)
        futures: list[concurrent.futures.Future[int]] = []

        def submit(f=f, futures=futures) -> None:
            with pytest.raises(Closed):
                for n in range(1_000_000):
                    futures.append(f(n))
                    if n % 3000 == 2999:  # else it takes most of the time to run them all
                        futures[-1].result()

        calls = [in_thread(submit) for _ in range(4)]
        until(lambda futures=futures: len(futures) > 50)
        f.close(LIMIT)
        for call in calls:
            call.result()
        assert all(future.done() for future in futures)
        stats = f.stats()
        assert stats.accepted == stats.succeeded == len(futures)
        assert stats.rejected == len(calls)


@pytest.mark.parametrize("options", [{}, {"capacity": 3}, {"key": abs}], ids=str)
def test_a_call_at_any_line_of_a_close(options: dict[str, Any]) -> None:
    """Calls are accepted and run, or refused, also while `close` empties the queue."""
    accepted = refused = 0
    before_test = sys.gettrace()
    while True:
        f = batched(lambda items: items, linger=None, size=3, **options)
        futures = [f(1)]
        calls: list[Any] = []
        left = accepted + refused

        def trace(frame: Any, event: str, _: Any, f=f, calls=calls) -> Any:
            nonlocal left
            if "batchify" in frame.f_code.co_filename and event == "line":
                left -= 1
                if left < 0 and not calls:
                    sys.settrace(None)
                    engine = f._scope().here()
                    before = len(engine.intake)
                    calls.append(in_thread(f, 2))  # it may wait until `close` releases the lock
                    if has_gil() or not engine._lock._is_owned():  # else it does so at once
                        until(
                            lambda: len(engine.intake) != before or not calls[0].thread.is_alive()
                        )
                    return None
            return trace

        sys.settrace(trace)
        try:
            f.close(LIMIT)
        finally:
            sys.settrace(before_test)
        if not calls:
            break
        try:
            futures.append(calls[0].result())
            accepted += 1
        except Closed:
            refused += 1
        assert [future.result(LIMIT) for future in futures] == [1, 2][: len(futures)]
        stats = f.stats()
        assert (stats.accepted, stats.succeeded, stats.failed) == (len(futures), len(futures), 0)
        assert stats.rejected == 2 - len(futures)
    assert accepted > 20
    assert refused > 20


# ---- deadlocks ----


def test_waiting_for_ones_own_function_inside_a_batch() -> None:
    @batched(workers=1)
    def f(items: list[int]) -> list[object]:
        return [f(item - 1).result() if item else "end" for item in items]

    with pytest.raises(Deadlock):
        f(1).result(LIMIT)
    assert f(0).result(LIMIT) == "end"


def test_waiting_for_ones_own_function_is_fine_while_a_worker_is_free() -> None:
    @batched(workers=3, size=1)
    def f(items: list[int]) -> list[object]:
        return [f(item - 1).result() if item else "end" for item in items]

    assert f(2).result(LIMIT) == "end"
    with pytest.raises(Deadlock):
        f(3).result(LIMIT)


def test_a_ring_of_functions() -> None:
    @batched
    def a(items: list[int]) -> list[object]:
        return [b(item - 1).result() if item else "end" for item in items]

    @batched
    def b(items: list[int]) -> list[object]:
        return [a(item - 1).result() if item else "end" for item in items]

    assert a(1).result(LIMIT) == "end"
    with pytest.raises(Deadlock):
        a(2).result(LIMIT)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_worker_that_becomes_free_under_the_look_is_no_deadlock(kind: str) -> None:
    """A batch is about to wait for an item of another function. It reads how many batches run
    there, and before it reads which threads run them, they have ended.
    """
    gated = Gated()
    looking: list[int] = []

    async def coroutine(items: list[Any]) -> list[Any]:
        return gated(items)

    elsewhere: Any = batched(gated if kind == "def" else coroutine)

    @batched
    def f(items: list[int]) -> list[Any]:
        future = elsewhere(items[0])
        looking.append(threading.get_ident())
        return [future.result(LIMIT)]

    class Limits:
        def __init__(self, options: Any) -> None:
            self.options = options

        def __getattr__(self, name: str) -> Any:
            if name == "workers" and looking == [threading.get_ident()]:
                looking.clear()
                gated.open()
                until(lambda: not (engine.batches or getattr(engine, "_tasks", ())))
            return getattr(self.options, name)

    elsewhere(0)
    gated.wait_started(1)
    [engine] = elsewhere._scope().engines()
    engine.options = Limits(engine.options)
    assert f(1).result(LIMIT) == ("done", 1)
    assert not looking


def test_waits_that_were_never_at_once_are_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is about to wait for a running item of another function. Before it checks whether the
    worker there waits, that worker has finished the item, and waits for the first function in
    its next batch."""
    gated = Gated()

    @batched(size=1)
    def elsewhere(items: list[str]) -> list[Any]:
        return [f("end").result()] if items == ["second"] else gated(items)

    @batched(size=1)
    def f(items: list[str]) -> list[Any]:
        if items == ["end"]:
            return items
        future = elsewhere("first")
        gated.wait_started(1)
        looking.append(threading.get_ident())
        asked.set()
        return [future.result()]

    class Notes(dict[Any, Any]):
        def get(self, holder: Any, default: Any = None) -> Any:
            if looking == [threading.get_ident()] and holder != looking[0]:
                looking.clear()
                gated.open()
                until(lambda: holder in self)
            return super().get(holder, default)

    looking: list[int] = []
    asked = threading.Event()
    monkeypatch.setattr(waits, "_waits_for", Notes())
    begun = f("begin")
    assert asked.wait(LIMIT)
    assert elsewhere("second").result(LIMIT) == "end"
    assert begun.result(LIMIT) == ("done", "first")


def test_a_caller_with_capacity_that_is_not_awake_yet_is_no_deadlock() -> None:
    """A batch waited for capacity of another function. The worker there checks whether it may wait
    for that batch, which has got the capacity by now."""
    gated, looked = Gated(), threading.Event()
    waiting: list[int] = []

    class LateBell(seam.ThreadBell):
        def wait(self, timeout: float | None) -> bool:
            rung = super().wait(timeout)
            return rung and (waiting != [threading.get_ident()] or looked.wait(LIMIT))

    class LateSeam(seam.ThreadSeam):
        bell = staticmethod(LateBell)

    def run(items: list[str]) -> list[str]:
        if items == ["second"]:
            with pytest.raises(TimeoutError):  # not Deadlock
                begun.result(0)
            looked.set()
        return gated(items)

    elsewhere = batched_with(LateSeam(), run, size=1, capacity=1)

    @batched
    def f(items: list[str]) -> list[Any]:
        waiting.append(threading.get_ident())
        return [elsewhere(item) for item in items]

    elsewhere("first")
    gated.wait_started(1)
    begun = f("second")
    until(lambda: waiting and waiting[0] in waits._waits_for)
    gated.open()
    assert begun.result(LIMIT).result(LIMIT) == ("done", "second")


def test_submitting_to_ones_own_full_queue() -> None:
    @batched(size=1, capacity=1)
    def f(items: list[int]) -> list[object]:
        return [f(item + 1) for item in items]

    with pytest.raises(Deadlock):
        f(1).result(LIMIT)
    assert f.stats().rejected == 1


def test_a_callback_that_submits_to_its_own_full_queue() -> None:
    gated = Gated()
    f = batched(gated, size=1, capacity=1)
    errors: list[BaseException] = []
    told = threading.Event()

    def callback(_: object) -> None:
        try:
            f(2), f(3)
        except Deadlock as error:
            errors.append(error)
        finally:
            told.set()

    first = f(1)
    first.add_done_callback(callback)
    gated.open()
    assert told.wait(LIMIT)
    assert len(errors) == 1


def test_flush_and_close_inside_a_batch() -> None:
    @batched
    def f(items: list[str]) -> list[object]:
        getattr(f, items[0])()
        return items

    for method in ("flush", "close"):
        with pytest.raises(Deadlock):
            f(method).result(LIMIT)
    assert f("stats").result(LIMIT) == "stats"


def test_the_stop_inside_a_batch_does_not_wait_for_itself() -> None:
    @batched(size=1)
    def f(items: list[int]) -> list[object]:
        f.close(cancel=True)
        return items

    assert f(1).result(LIMIT) == 1
    with pytest.raises(Closed):
        f(2)


def test_close_from_a_callback_never_joins_itself() -> None:
    f = batched(lambda items: items)
    closed = threading.Event()

    def callback(_: object) -> None:
        f.close()
        closed.set()

    f(1).add_done_callback(callback)
    assert closed.wait(LIMIT)


def test_extra_arguments_that_come_and_go_in_many_threads() -> None:
    """Two threads that drop the same extra arguments at once must not end a worker."""

    @batched(workers=4, size=2)
    def f(items: list[int], key: int) -> list[int]:
        return items

    def work(who: int) -> None:
        for n in range(1500):
            future = f(n, n % 3)
            if n % 2:
                future.cancel()

    calls = [in_thread(work, who) for who in range(4)]
    for call in calls:
        call.result(LIMIT)
    f.flush(LIMIT)
    f.close(LIMIT)
    assert f.stats().workers == 0
    assert f._scope().routes == {}


def test_two_starts_at_once_leave_the_collector_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Collector:
        is_on = False  # another caller is starting a thread

        def isenabled(self) -> bool:
            was_on, self.is_on = self.is_on, True  # and has done so before this one continues
            return was_on

        def enable(self) -> None:
            self.is_on = True

        def disable(self) -> None:
            self.is_on = False

    collector = Collector()
    monkeypatch.setattr(seam, "gc", collector)
    seam.THREADS.spawn(lambda: None, (), "a thread").join(LIMIT)
    assert collector.is_on


def test_start_while_no_thread_is_to_be_had() -> None:
    """A call is being submitted when another thread starts the function again."""

    class Refusing(seam.ThreadSeam):
        refusals = 0

        def spawn(self, *args: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise RuntimeError("can't start new thread")
            return seam.THREADS.spawn(*args)

    machine = Refusing()
    f = batched_with(machine, lambda items: items)
    assert f(0).result(LIMIT) == 0
    engine = f._scope().here()
    crowded = engine.crowded

    def start_before(*args: Any) -> Any:
        engine.crowded = crowded
        f.start()
        return crowded(*args)

    f.close(LIMIT)
    machine.refusals, engine.crowded = 2, start_before
    with pytest.raises(RuntimeError, match="new thread"):
        f(1)
    assert machine.refusals == 0
    assert f(2).result(LIMIT) == 2
    assert f.stats().rejected == 1


def test_a_caller_that_looks_while_the_worker_falls_asleep_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The instant of a lost wake-up: the caller has read the queue length at which it must wake a
    worker, and before it compares, the busy worker becomes idle and sleeps."""
    if not has_gil():
        pytest.skip("there the caller reads under the lock: see test_interpreter")
    gated = Gated()
    f = batched(gated, capacity=None)
    futures = [f(0)]
    gated.wait_started(1)
    [engine] = f._scope().engines()
    me, is_armed = threading.get_ident(), True

    def read(self: Any) -> int:
        nonlocal is_armed
        need: int = self.__dict__["need"]
        if is_armed and threading.get_ident() == me:
            is_armed = False
            gated.open()
            until(lambda: engine._idle)
        return need

    def write(self: Any, need: int) -> None:
        self.__dict__["need"] = need

    monkeypatch.setattr(type(engine), "need", property(read, write), raising=False)
    futures.append(f(1))
    assert not is_armed
    assert [future.result(LIMIT) for future in futures] == [("done", 0), ("done", 1)]


@pytest.mark.parametrize("when", ["before it is asked for", "before it is noted"])
def test_a_callback_waits_for_an_item_that_is_ending(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread runs callbacks one after the other, so none of them must be what wakes it."""
    gated = Gated()
    g = batched_with(ThreadSeam(), gated, workers=1)
    other = g(1)
    gated.wait_started(1)
    engine = g._scope()
    waiting: list[int] = []

    def end_it() -> None:
        if get_ident() in waiting:
            waiting.clear()
            gated.open()
            until(lambda: other.done() and not engine.batches)

    class Watched(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            found = super().get(key, default)
            end_it()
            return found

    if when == "before it is noted":
        engine.watched = Watched()
    else:
        real = engine.refuse_to_wait
        monkeypatch.setattr(engine, "refuse_to_wait", lambda: (real(), end_it()))
    got: list[Any] = []

    def callback(_: Any) -> None:
        waiting.append(get_ident())
        got.append(other.result())

    f = batched(lambda items: items)
    gate = f(0)
    gate.add_done_callback(callback)
    gate.result(LIMIT)
    until(lambda: got == [("done", 1)])


def test_a_deadline_of_zero_has_passed_for_an_item_that_arrives_during_a_dispatch() -> None:
    gated = Gated()
    f = batched_with(ThreadSeam(), gated, workers=1)
    f.options(priority=1)("busy")
    gated.wait_started(1)
    engine = f._scope()
    late: list[Any] = []
    real = engine.forming.accept

    def accept() -> Any:
        if not late and get_ident() in engine._worker_idents:
            route, terms = engine.way(gated, "late", (), {}, lambda: f, deadline=0.0)
            late.append(engine._future("late", route))
            late[0]._terms = terms
            engine.intake.append(late[0])
        return real()

    first = f("first")
    engine.forming.accept = accept
    gated.open()
    assert first.result(LIMIT) == ("done", "first")
    assert isinstance(late[0].exception(LIMIT), DeadlineExceeded)
