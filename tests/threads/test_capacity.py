"""The capacity, and callers that block for it: contract 3."""

from __future__ import annotations

import queue

import pytest

import batchify
from batchify import Closed, QueueFull, batched
from tests.manual import LIMIT, Gated, batched_with, in_thread, until


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


def test_the_capacity_is_bounded_by_default() -> None:
    f = batched(lambda items: items)
    assert f.capacity == 10_000
    gated = Gated()
    g = batched_with(batchify.engine.seam.THREADS, gated, size=10_000)
    assert g.capacity == 20_000
    for n in range(20_000):
        g.submit_nowait(n)
    with pytest.raises(QueueFull):
        g.submit_nowait(0)
    gated.open()
    g.close(LIMIT)
