"""`flush`, `close` and `start` from threads: contract 3."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import Iterator

import pytest

from batchify import Closed, batched
from tests.limits import LIMIT
from tests.manual import Gated, in_thread, until


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
