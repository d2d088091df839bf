"""The consumer and the producer of `RedisStreams`: entries, steps and what they leave behind."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from batchify import batched
from batchify.redis import connection, consumer
from batchify.redis.consumer import RedisConsumer
from batchify.redis.producer import RedisProducer
from batchify.worker import dead_letters
from tests.limits import LIMIT
from tests.redis_server import PROGRAM
from tests.remote.on_redis import held, until, working

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    # redis-py relies on the garbage collector to close broken connections.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


def test_entries_that_cannot_be_read_harm_no_other(broker: Any) -> None:
    @batched(broker=broker(lease=0.3))
    def same(rows: list[int]) -> list[int]:
        return rows

    streams = same._options().broker
    client, keys = streams.client(), streams.keys(same._plain())
    for fields in (
        {"i": "[1]", "n": "abc"}, {"i": "[1]", "n": "1", "d": "soon"}, {"c": b"\xff"},
        {"i": "{}", "n": "1"}, {"i": "[1, 2]", "n": "1"}, {"x": "y"},
    ):  # fmt: skip
        client.xadd(keys.stream, fields)
    client.xadd(keys.flushes, {"to": "x"})
    client.xadd(keys.flushes, {"of": "x"})
    future = same(7)
    until(lambda: same._scope().engine._under_way)
    client.xadd(keys.answers(same._scope().engine.producer._caller), {"abc": "x", "999": "y"})
    with working(same):
        assert future.result(LIMIT) == 7
        until(lambda: held(streams, same) == 0)
        assert same(8).result(LIMIT) == 8
    assert len(dead_letters(same)) == 3  # the others were answered


def test_large_items_and_results_go_in_steps_that_a_server_takes(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    settle, send = RedisConsumer._settle, RedisProducer.send

    def settled(box: Any, pipe: Any, answers: Any) -> None:
        steps.append(sum(len(payload) for _, payload in answers))
        settle(box, pipe, answers)

    def sent(box: Any, letters: Any) -> int:
        count = send(box, letters)
        steps.append(sum(len(letter.payload) for letter in letters[:count]))
        return count

    monkeypatch.setattr(connection, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(RedisConsumer, "_settle", settled)
    monkeypatch.setattr(RedisProducer, "send", sent)

    @batched(size=40, linger=0.05, broker=broker())
    def same(rows: list[str]) -> list[str]:
        return rows

    rows = [str(n) * 3_000 for n in range(10)] * 3 + ["x" * 20_000]  # one is more than a step
    with working(same):
        assert [future.result(LIMIT) for future in [same(row) for row in rows]] == rows
    assert sum(steps) > 2 * sum(map(len, rows))
    assert sorted(steps)[-3] <= 10_000


@pytest.mark.deep
def test_a_flush_reaches_items_that_are_being_sent(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @batched(size=100, linger=None, broker=broker())
    def patient(rows: list[int]) -> list[int]:
        return rows

    producer = patient._scope().engine.producer
    sends, gate, told = threading.Event(), threading.Event(), threading.Event()
    send, flush = producer.send, producer.flush

    def slow_send(letters: Any) -> int:
        sends.set()
        assert gate.wait(LIMIT)
        return int(send(letters))

    def noted_flush() -> None:
        flush()
        told.set()

    monkeypatch.setattr(producer, "send", slow_send)
    monkeypatch.setattr(producer, "flush", noted_flush)
    with working(patient), ThreadPoolExecutor(1) as pool:
        future = patient(1)
        assert sends.wait(LIMIT)
        flushed = pool.submit(patient.flush, LIMIT)
        assert told.wait(LIMIT)  # before the item exists
        gate.set()
        flushed.result(LIMIT)
        assert future.result(0) == 1


def test_callbacks_of_dropped_futures_run_and_leave_nothing(broker: Any) -> None:
    @batched(broker=broker())
    def same(rows: list[int]) -> list[int]:
        return rows

    told: list[int] = []
    with working(same):
        for row in range(20):
            same(row).add_done_callback(lambda future: told.append(future.result()))
        until(lambda: len(told) == 20)
        engine = same._scope().engine
        until(lambda: not engine._ear)
        assert not engine.away
        assert not engine._under_way
    assert sorted(told) == list(range(20))


def test_workers_that_were_killed_long_ago_are_unregistered(
    broker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer, "MAX_IDLE", 0.05)

    @batched(broker=broker(lease=60))
    def same(rows: list[int]) -> list[int]:
        return rows

    streams = same._options().broker
    future = same(1)
    until(lambda: held(streams, same) == 1)
    idle, busy = (streams.consumer(same._plain()) for _ in range(2))
    assert len(busy.take(1, 1)) == 1
    assert idle.take(1, 0.01) == []
    time.sleep(0.1)
    with working(same):
        client, stream = streams.client(), streams.keys(same._plain()).stream

        def names() -> set[str]:
            return {one["name"].decode() for one in client.xinfo_consumers(stream, "workers")}

        until(lambda: idle.name not in names())
        assert busy.name in names()  # its messages are delivered again, not lost
    assert not future.done()
