"""`broker=RedisStreams(...)`: flush, close and cancel."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from batchify import Closed, batched
from tests.limits import LIMIT
from tests.redis_server import PROGRAM
from tests.remote.on_redis import balanced, held, leased, until, working

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    # redis-py relies on the garbage collector to close broken connections.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


def test_flush_and_close_reach_items_that_linger_in_a_worker(broker: Any) -> None:
    @batched(size=100, linger=None, broker=broker())
    def patient(rows: list[int]) -> list[int]:
        return rows

    with working(patient):
        first = [patient(row) for row in range(3)]
        until(lambda: leased(patient._options().broker, patient) == 3)
        assert not any(future.done() for future in first)
        patient.flush(LIMIT)
        assert [future.result(0) for future in first] == [0, 1, 2]
        second = patient(3)
        asyncio.run(patient.aflush(LIMIT))
        assert second.result(0) == 3
        third = patient(4)
        patient.close(LIMIT)
        assert third.result(0) == 4
        with pytest.raises(Closed):
            patient(5)
        patient.start()
        fourth = patient(6)
        patient.flush(LIMIT)
        assert fourth.result(0) == 6


def test_a_flush_reaches_a_worker_that_comes_later(broker: Any) -> None:
    @batched(size=100, linger=None, broker=broker())
    def patient(rows: list[int]) -> list[int]:
        return rows

    future = patient(1)
    until(future.running)
    with pytest.raises(TimeoutError):
        patient.flush(0.2)
    with working(patient):
        assert future.result(LIMIT) == 1


def test_close_that_cancels_does_not_wait_for_capacity_in_the_stream(broker: Any) -> None:
    @batched(broker=broker(max_length=1))
    def same(rows: list[int]) -> list[int]:
        return rows

    sent = same(1)
    until(lambda: held(same._options().broker, same) == 1)
    waits = same(2)
    until(waits.running)
    with pytest.raises(TimeoutError):  # of the one that was sent
        same.close(0.3, cancel=True)
    assert isinstance(sent.exception(0), Closed)
    assert isinstance(waits.exception(0), Closed)
    assert held(same._options().broker, same) == 1
    same.start()
    time.sleep(0.1)
    assert held(same._options().broker, same) == 1


def test_close_without_a_worker(broker: Any) -> None:
    @batched(broker=broker())
    def double(rows: list[int]) -> list[int]:
        return [2 * row for row in rows]

    future = double(1)
    until(future.running)
    with pytest.raises(TimeoutError):
        double.close(0.1)
    assert isinstance(future.exception(0), Closed)
    assert balanced(double)
    with working(double):  # items that were sent run all the same
        until(lambda: held(double._options().broker, double) == 0)


def test_cancel_before_and_after_an_item_is_sent(broker: Any) -> None:
    gate = threading.Event()

    @batched(broker=broker())
    def double(rows: list[int]) -> list[int]:
        gate.wait(LIMIT)
        return [2 * row for row in rows]

    async def detached() -> None:
        future = double(3)
        while not future.running():
            await asyncio.sleep(0.001)
        assert future.cancel()
        assert future.cancelled()

    with working(double):
        future = double(1)
        until(future.running)
        assert not future.cancel()
        asyncio.run(detached())
        gate.set()
        assert future.result(LIMIT) == 2
        double.flush(LIMIT)
    stats = double.stats()
    assert (stats.succeeded, stats.cancelled, stats.running) == (1, 1, 0)
