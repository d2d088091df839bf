"""`BatchFuture` as a `concurrent.futures.Future`: contract 3."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from itertools import pairwise
from typing import Any

import pytest

from batchify import BatchFuture, batched
from tests.limits import LIMIT
from tests.manual import Gated, in_thread, until


def fail(items: list[Any]) -> list[Any]:
    return [ValueError(item) if item == "bad" else item for item in items]


def test_it_is_a_future_of_concurrent_futures() -> None:
    future = batched(fail)(1)
    assert isinstance(future, BatchFuture)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(LIMIT) == 1
    assert future.exception() is None
    assert future.done()
    assert not future.cancelled()
    assert not future.running()


def test_result_with_a_timeout() -> None:
    gated = Gated()
    future = batched(gated)(1)
    for timeout in (0, 0.01, -1):
        with pytest.raises(TimeoutError):
            future.result(timeout)
        with pytest.raises(TimeoutError):
            future.exception(timeout)
    gated.open()
    assert future.result(LIMIT) == ("done", 1)
    assert future.result(0) == ("done", 1)


def test_many_threads_wait_for_one_future() -> None:
    gated = Gated()
    future = batched(gated)(1)
    calls = [in_thread(future.result) for _ in range(10)]
    gated.wait_started(1)
    gated.open()
    assert [call.result() for call in calls] == [("done", 1)] * 10


@pytest.mark.parametrize("return_when", [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION])
def test_concurrent_futures_wait(return_when: str) -> None:
    gated = Gated()
    slow = batched(gated)(1)
    quick = batched(fail)("bad")
    call = in_thread(lambda: concurrent.futures.wait([slow, quick], 5, return_when=return_when))
    if return_when == ALL_COMPLETED:
        until(quick.done)
        gated.open()
        done, pending = call.result()
        assert (done, pending) == ({slow, quick}, set())
    else:
        done, pending = call.result()
        assert (done, pending) == ({quick}, {slow})
    gated.open()
    assert slow.result(LIMIT) == ("done", 1)
    done, pending = concurrent.futures.wait([slow, quick], LIMIT)  # waiters may be notified later
    assert (done, pending) == ({slow, quick}, set())


def test_concurrent_futures_wait_times_out_and_sees_cancelled_ones() -> None:
    gated = Gated()
    f = batched(gated, size=1)
    first, second = f(1), f(2)
    gated.wait_started(1)
    done, pending = concurrent.futures.wait([first, second], 0.01)
    assert (done, pending) == (set(), {first, second})
    call = in_thread(lambda: concurrent.futures.wait([second], LIMIT))
    until(lambda: "view" in second.__dict__ and second.__dict__["view"].waiters)
    second.cancel()
    assert call.result().done == {second}
    gated.open()
    assert concurrent.futures.wait([first], LIMIT).done == {first}


def test_as_completed_while_batches_end() -> None:
    f = batched(lambda items: items, size=7, workers=2)
    for _ in range(20):
        futures = [f(n) for n in range(100)]
        seen = {future.result() for future in concurrent.futures.as_completed(futures, LIMIT)}
        assert seen == set(range(100))


def test_two_waits_over_the_same_batches_in_opposite_order() -> None:
    f = batched(lambda items: items, size=5, linger=0.001)
    for _ in range(50):
        futures = [f(n) for n in range(20)]
        calls = [
            in_thread(concurrent.futures.wait, order, LIMIT)
            for order in (futures, futures[::-1], futures[::2])
        ]
        assert all(not call.result().not_done for call in calls)


def test_callbacks_run_once_after_the_whole_batch_is_done() -> None:
    gated = Gated()
    f = batched(gated, size=3)
    first = f(0)
    gated.wait_started(1)
    futures = [f(n) for n in range(1, 4)]
    seen: list[Any] = []
    told = threading.Event()
    futures[0].add_done_callback(lambda x: seen.append((x, [y.done() for y in futures])))
    futures[0].add_done_callback(lambda x: told.set())
    gated.open()
    assert told.wait(LIMIT)
    assert seen == [(futures[0], [True, True, True])]
    futures[0].add_done_callback(lambda x: seen.append("at once"))
    assert seen[1:] == ["at once"]
    assert first.done()


def test_callbacks_that_raise_anything_are_logged_by_type(caplog: pytest.LogCaptureFixture) -> None:
    gated = Gated()
    f = batched(gated, size=3)
    f(0)
    gated.wait_started(1)
    futures = [f(n) for n in range(1, 4)]
    told = threading.Event()

    def raising(error: BaseException) -> Any:
        def callback(_: Any) -> None:
            raise error

        return callback

    futures[0].add_done_callback(raising(ValueError("secret")))
    futures[1].add_done_callback(raising(SystemExit("secret")))
    futures[2].add_done_callback(lambda _: told.set())
    gated.open()
    assert told.wait(LIMIT)
    assert [x.result(LIMIT) for x in futures] == [("done", n) for n in (1, 2, 3)]
    assert f(9).result(LIMIT) == ("done", 9)
    assert "ValueError" in caplog.text
    assert "SystemExit" in caplog.text
    assert "secret" not in caplog.text


def test_chains_of_callbacks_do_not_recurse() -> None:
    gated = Gated()
    f = batched(gated, size=10_000, capacity=None)
    f(0)
    gated.wait_started(1)
    futures = [f(n) for n in range(5 * sys.getrecursionlimit())]
    for one, following in pairwise(futures):
        one.add_done_callback(lambda _, following=following: following.cancel())
    assert futures[0].cancel()
    assert all(future.cancelled() for future in futures)
    gated.open()


def test_each_callback_runs_exactly_once_when_added_while_the_batch_ends() -> None:
    f = batched(lambda items: items, size=3)
    counts: list[int] = []
    for n in range(2000):
        future = f(n)
        box: list[int] = []
        for _ in range(3):
            future.add_done_callback(lambda _, box=box: box.append(1))
        future.result(LIMIT)
        counts.append(len(box))
        until(lambda box=box: len(box) == 3)
    f.flush(LIMIT)


def test_it_is_settled_by_its_batch_only() -> None:
    future = batched(fail)(1)
    for refuse in (
        lambda: future.set_result(2),
        lambda: future.set_exception(ValueError()),
        future.set_running_or_notify_cancel,
    ):
        with pytest.raises(concurrent.futures.InvalidStateError):
            refuse()
    assert future.result(LIMIT) == 1


def test_the_repr_shows_the_state_and_never_the_item() -> None:
    gated = Gated()
    f = batched(gated, size=1)
    running, pending, cancelled = f("secret"), f("secret"), f("secret")
    gated.wait_started(1)
    cancelled.cancel()
    assert "running" in repr(running)
    assert "pending" in repr(pending)
    assert "cancelled" in repr(cancelled)
    gated.open()
    pending.result(LIMIT)
    assert "finished" in repr(running)
    failed = batched(fail)("bad")
    failed.exception(LIMIT)
    assert "failed" in repr(failed)
    assert not any("secret" in repr(x) for x in (running, pending, cancelled))


def test_raising_again_and_again_does_not_lengthen_the_traceback() -> None:
    def boom(items: list[Any]) -> list[Any]:
        raise KeyError("it")

    future = batched(boom)(1)
    depths = []
    for _ in range(5):
        with pytest.raises(KeyError) as caught:
            future.result(LIMIT)
        depth, entry = 0, caught.value.__traceback__
        while entry is not None:
            depth, entry = depth + 1, entry.tb_next
        depths.append(depth)
    assert len(set(depths)) == 1
