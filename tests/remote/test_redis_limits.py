"""`broker=RedisStreams(...)`: capacity, deadlines and slow batches."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from batchify import DeadlineExceeded, QueueFull, Retry, batched
from tests.limits import LIMIT
from tests.redis_server import PROGRAM
from tests.remote.on_redis import held, until, working

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    # redis-py relies on the garbage collector to close broken connections.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


NEVER = 3600.0  # seconds


@pytest.mark.deep
def test_deadlines_hold_in_the_queue_of_the_broker(broker: Any) -> None:
    ran: list[int] = []

    @batched(broker=broker())
    def same(rows: list[int]) -> list[int]:
        ran.extend(rows)
        return rows

    streams = same._options().broker
    late = same.options(deadline=4)(1)
    in_time = same.options(deadline=3600, priority=2)(2)
    until(lambda: held(streams, same) == 2)
    time.sleep(4.1)
    with working(same):
        assert isinstance(late.exception(LIMIT), DeadlineExceeded)
        assert in_time.result(LIMIT) == 2
    assert ran == [2]


def test_a_full_queue_and_a_full_stream(broker: Any) -> None:
    @batched(size=2, capacity=4, broker=broker(max_length=3))
    def same(rows: list[int]) -> list[int]:
        return rows

    futures = [same(row) for row in range(4)]
    with pytest.raises(QueueFull):
        same.submit_nowait(4)
    until(lambda: held(same._options().broker, same) == 3)
    time.sleep(0.1)
    assert held(same._options().broker, same) == 3
    with working(same):
        assert [future.result(LIMIT) for future in futures] == [0, 1, 2, 3]
        assert list(same.map(range(50))) == list(range(50))


@pytest.mark.deep
@pytest.mark.parametrize("what", ["a retry", "a long batch"])
def test_a_slow_batch_does_not_stop_the_others(broker: Any, what: str) -> None:
    gate = threading.Event()

    @batched(size=2, workers=3, broker=broker(lease=0.6))
    def mixed(rows: list[int]) -> list[Any]:
        if rows[0] == 0 and what == "a long batch":
            gate.wait(LIMIT)
        return [Retry(after=NEVER) if row == 0 and not gate.is_set() else row for row in rows]

    streams = mixed._options().broker
    left = [mixed(row) for row in (100, 101)]
    until(lambda: held(streams, mixed) == 2)
    assert len(streams.consumer(mixed._plain()).take(2, 1)) == 2  # by a worker that disappears
    with working(mixed):
        slow = mixed(0)
        assert [future.result(LIMIT) for future in left] == [100, 101]
        assert [mixed(row).result(LIMIT) for row in range(1, 9)] == list(range(1, 9))
        assert not slow.done()
        gate.set()
        if what == "a long batch":
            assert slow.result(LIMIT) == 0
