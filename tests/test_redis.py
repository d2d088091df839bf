"""`broker=RedisStreams(...)` on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batchify import (
    BadResult,
    BatchAborted,
    Closed,
    DeadLetter,
    DeadlineExceeded,
    Forked,
    ItemTooHeavy,
    MissingResult,
    QueueFull,
    Retry,
    RetryExhausted,
    batched,
    observe,
)
from batchify.redis import RedisStreams, connection, consumer
from batchify.redis.consumer import RedisConsumer
from batchify.redis.producer import RedisProducer
from batchify.testing import eager
from batchify.worker import Worker, dead_letters
from tests.limits import LIMIT
from tests.redis_server import PROGRAM, RedisServer, redis_server

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    # redis-py relies on the garbage collector to close broken connections.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

ROOT = Path(__file__).parent.parent
NEVER = 3600.0  # seconds


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as found:
        yield found


@pytest.fixture
def broker(server: RedisServer) -> Callable[..., RedisStreams]:
    """Provide a broker with a separate stream for each test."""
    name = uuid.uuid4().hex

    def make(**options: Any) -> RedisStreams:
        return RedisStreams(server.url, **{"stream": name, "lease": 1.0, **options})

    return make


@contextlib.contextmanager
def working(*functions: Any, workers: int | None = None) -> Iterator[list[Worker]]:
    """Run workers in threads of this process."""
    made = [Worker(function, workers) for function in functions]
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(worker.run) for worker in made]
        try:
            yield made
        finally:
            for worker in made:
                worker.stop()
            for run in runs:
                assert run.result(LIMIT)


def leased(broker: RedisStreams, function: Any) -> int:
    client, keys = broker.client(), broker.keys(function._plain())
    if not client.exists(keys.stream) or not client.xinfo_groups(keys.stream):
        return 0
    found: Any = client.xpending(keys.stream, "workers")
    return int(found["pending"])


def held(broker: RedisStreams, function: Any) -> int:
    return int(broker.client().xlen(broker.keys(function._plain()).stream))


def until(fact: Callable[[], Any], limit: float = LIMIT) -> None:
    end = time.monotonic() + limit
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)


def balanced(function: Any) -> bool:
    s = function.stats()
    return bool(
        s.accepted == s.succeeded + s.failed + s.cancelled + s.expired + s.pending + s.running
    )


# ---- there and back ----


def test_callers_of_all_kinds_get_their_own_results(broker: Any) -> None:
    @batched(size=50, linger=0.001, broker=broker())
    def double(rows: list[int]) -> list[int]:
        return [2 * row for row in rows]

    async def main(start: int) -> list[int]:
        return list(await asyncio.gather(*(double(row) for row in range(start, start + 300))))

    with working(double, double), ThreadPoolExecutor(4) as pool:
        loops = [pool.submit(asyncio.run, main(1000 * n)) for n in (1, 2)]
        assert list(double.map(range(300))) == [2 * row for row in range(300)]
        for n, loop in zip((1, 2), loops, strict=True):
            assert loop.result(LIMIT) == [2 * row for row in range(1000 * n, 1000 * n + 300)]
    stats = double.stats()
    assert (stats.accepted, stats.succeeded, stats.running) == (900, 900, 0)
    assert balanced(double)
    assert held(double._options().broker, double) == 0


def test_an_async_function_runs_on_a_loop_of_the_worker(broker: Any) -> None:
    @batched(size=50, broker=broker())
    async def double(rows: list[int]) -> list[int]:
        await asyncio.sleep(0.001)
        return [2 * row for row in rows]

    async def main() -> list[int]:
        return list(await asyncio.gather(*(double(row) for row in range(200))))

    with working(double):
        assert asyncio.run(main()) == [2 * row for row in range(200)]
        assert double(7).result(LIMIT) == 14


def test_extra_arguments_kinds_weights_and_equals(broker: Any) -> None:
    batches: list[tuple[list[Any], str]] = []

    @batched(
        size=10, linger=0.05, key=lambda row: row % 2, weight=lambda row: row, max_weight=20,
        dedupe=True, broker=broker(),
    )  # fmt: skip
    def shown(rows: list[int], how: str = "") -> list[str]:
        batches.append((rows, how))
        return [f"{row}{how}" for row in rows]

    with working(shown):
        with pytest.raises(ItemTooHeavy):
            shown(21)
        with pytest.raises(TypeError, match="hashable"):
            shown(1, [])
        futures = [shown(row, how="!") for row in (1, 2, 3, 4, 4)]
        assert [future.result(LIMIT) for future in futures] == ["1!", "2!", "3!", "4!", "4!"]
        assert shown(5).result(LIMIT) == "5"
    assert all(len({row % 2 for row in rows}) == 1 for rows, _ in batches)
    assert all(sum(rows) <= 20 for rows, _ in batches)
    assert all(len(set(rows)) == len(rows) for rows, _ in batches)
    stats = shown.stats()
    assert (stats.rejected, stats.accepted) == (2, 6)


def test_the_outcome_of_a_batch_reaches_its_callers(broker: Any) -> None:
    outcomes: dict[str, Callable[[list[str]], Any]] = {
        "none": lambda rows: None,
        "mapping": lambda rows: {},
        "short": lambda rows: [],
        "raises": lambda rows: 1 / 0,
        "key": lambda rows: {}["a"],
        "os": lambda rows: open("/nowhere/at/all"),
        "exit": lambda rows: sys.exit(3),
        "element": lambda rows: [LookupError(row) for row in rows],
        "retry": lambda rows: [Retry(attempts=2) for row in rows],
        "unsendable": lambda rows: [object() for row in rows],
        "nested": lambda rows: [{"a": [1, None, True, 2.5, "ü"]} for row in rows],
    }

    @batched(size=1, broker=broker())
    def play(rows: list[str]) -> Any:
        return outcomes[rows[0]](rows)

    with working(play):
        errors = {name: play(name).exception(LIMIT) for name in outcomes}
        assert play("none").result(LIMIT) is None
        assert play("nested").result(LIMIT) == {"a": [1, None, True, 2.5, "ü"]}
    kinds = {name: type(error) for name, error in errors.items()}
    assert kinds == {
        "none": type(None), "nested": type(None), "mapping": MissingResult, "short": BadResult,
        "raises": ZeroDivisionError, "key": KeyError, "os": FileNotFoundError,
        "exit": BatchAborted, "element": LookupError, "retry": RetryExhausted,
        "unsendable": BatchAborted,
    }  # fmt: skip
    assert str(errors["raises"]) == "division by zero"
    assert errors["os"].errno == 2  # type: ignore[union-attr]
    assert errors["element"].args == ("element",)  # type: ignore[union-attr]
    assert isinstance(errors["exit"].__cause__, SystemExit)  # type: ignore[union-attr]
    assert "test_redis.py" in errors["raises"].__notes__[0]  # type: ignore[union-attr]


class Sour(Exception):
    def __init__(self, row: int, *, why: str) -> None:
        super().__init__(row)
        self.why = why


def test_errors_of_ones_own_keep_their_type_without_being_called(broker: Any) -> None:
    class Local(Exception):
        pass

    @batched(broker=broker())
    def play(rows: list[int]) -> list[Any]:
        return [Sour(row, why="odd") if row % 2 else Local(row) for row in rows]

    with working(play):
        odd = play(1).exception(LIMIT)
        assert type(odd) is Sour
        assert odd.args == (1,)
        assert odd.why == "odd"
        unknown = play(2).exception(LIMIT)
        assert type(unknown) is BatchAborted
        assert "Local" in str(unknown)


def test_on_error_and_observers_belong_to_the_worker(broker: Any) -> None:
    seen: list[Any] = []
    events: list[Any] = []

    def handle(failure: Any) -> Any:
        seen.append((failure.items, failure.batched))
        return [-1 for _ in failure.items]

    @batched(broker=broker(), on_error=handle, name="handled")
    def play(rows: list[int]) -> list[int]:
        raise ValueError

    end = play.observe(events.append)
    with working(play):
        assert play(1).result(LIMIT) == -1
        until(lambda: events)
    end()
    assert [items for items, _ in seen] == [[1]]
    assert seen[0][1] is play  # items that a handler submits are as safe as others
    assert [(event.name, event.size) for event in events] == [("handled", 1)]


def test_pickle_and_other_serializers_are_asked_for_by_name(broker: Any) -> None:
    class Loud:
        @staticmethod
        def dumps(value: Any) -> str:
            return json.dumps(value).upper()

        @staticmethod
        def loads(data: bytes) -> Any:
            return json.loads(data.lower())

    @batched(broker=broker(serializer="pickle"))
    def same(rows: list[Any]) -> list[Any]:
        return [ValueError(row) if row == 3 else row for row in rows]

    @batched(broker=broker(serializer=Loud, stream=uuid.uuid4().hex))
    def loud(rows: list[Any]) -> list[Any]:
        return rows

    with working(same, loud):
        assert same({(1, 2), (3, 4)}).result(LIMIT) == {(1, 2), (3, 4)}
        error = same(3).exception(LIMIT)
        assert (type(error), error.args) == (ValueError, (3,))  # type: ignore[union-attr]
        with pytest.raises((AttributeError, pickle.PicklingError)):  # the latter from 3.14 on
            same(lambda: 1)
        assert loud("Quiet").result(LIMIT) == "quiet"


# ---- entries from other programs, and failing workers ----


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


def test_the_reply_listener_survives_a_kill(broker: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Killed(BaseException): ...

    @batched(broker=broker(), name="heard")
    def same(rows: list[int]) -> list[int]:
        return rows

    future = same(7)
    (ear,) = [one for one in threading.enumerate() if one.name == "batchify:heard:answers"]
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    set_exception(ctypes.c_ulong(ear.ident or 0), ctypes.py_object(Killed))
    until(lambda: "heard: a thread of batchify was hit by Killed (" in caplog.text)
    with working(same):
        assert future.result(LIMIT) == 7


def test_errors_that_cannot_be_encoded_are_reported_by_type(broker: Any) -> None:
    endless: list[Any] = []
    endless.append(endless)
    errors = [ValueError(endless), ValueError(10**5000)]

    def refuse(row: int) -> int:
        if row == 2 and threading.current_thread() is not threading.main_thread():
            raise ValueError(endless)  # in the worker
        return 0

    @batched(size=1, broker=broker(), key=refuse)
    def play(rows: list[int]) -> list[int]:
        raise errors[rows[0]]

    with working(play):
        for row in range(3):
            error = play(row).exception(LIMIT)
            assert type(error) is BatchAborted
            assert "ValueError" in str(error)


@pytest.mark.deep
def test_errors_of_the_server_contain_no_items(broker: Any) -> None:
    with redis_server() as full:

        @batched(broker=RedisStreams(full.url, stream="full", send_timeout=0.2))
        def same(rows: list[str]) -> list[str]:
            return rows

        client = same._options().broker.client()
        client.config_set("min-replicas-to-write", 1)
        error = same("SECRET").exception(LIMIT)
        assert "NOREPLICAS" in str(error).upper() or "replicas" in str(error)
        assert "SECRET" not in str(error) + repr(error.args)  # type: ignore[union-attr]
        client.config_set("min-replicas-to-write", 0)
        with working(same):
            client.config_set("min-replicas-to-write", 1)
            future = same("a")
            time.sleep(0.1)
            client.config_set("min-replicas-to-write", 0)
            assert future.result(LIMIT) == "a"


@pytest.mark.deep
def test_a_server_that_is_emptied_or_made_a_replica_ends_no_worker() -> None:
    with redis_server() as server, redis_server() as other:

        @batched(broker=RedisStreams(server.url, stream="moved", lease=1))
        def same(rows: list[int]) -> list[int]:
            return rows

        client = same._options().broker.client()
        with working(same):
            assert same(1).result(LIMIT) == 1
            client.flushall()
            assert same(2).result(LIMIT) == 2
            client.replicaof("127.0.0.1", str(other.port))
            time.sleep(0.7)
            client.replicaof("NO", "ONE")
            assert same(3).result(LIMIT) == 3


# ---- refused arguments ----


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


def test_an_item_that_cannot_be_encoded_is_refused_by_the_call(broker: Any) -> None:
    @batched(broker=broker())
    def same(rows: list[Any]) -> list[Any]:
        return rows

    with pytest.raises(TypeError):
        same(object())
    stats = same.stats()
    assert (stats.submitted, stats.rejected, stats.accepted) == (1, 1, 0)


def test_options_and_methods_that_a_broker_refuses() -> None:
    streams = RedisStreams("redis://127.0.0.1:1")
    with ThreadPoolExecutor() as pool, pytest.raises(TypeError, match="executor and broker"):
        batched(broker=streams, executor=pool)
    with pytest.raises(TypeError, match="broker"):
        batched(broker="redis://127.0.0.1")

    class Table:
        @batched(broker=streams)
        def insert(self, rows: list[int]) -> None: ...

        @batched(broker=streams)
        @classmethod
        def insert_all(cls, rows: list[int]) -> None: ...

    with pytest.raises(TypeError, match="instance or class"):
        Table().insert(1)
    with pytest.raises(TypeError, match="instance or class"):
        Table.insert_all(1)
    with pytest.raises(ValueError, match="name"):
        batched(lambda rows: rows, broker=streams)(1)
    with pytest.raises(TypeError, match="broker"):
        Worker(batched(lambda rows: rows))
    with pytest.raises(TypeError, match="broker"):
        Worker(len)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"url": 1}, TypeError),
        ({"url": "http://somewhere"}, ValueError),
        ({"url": "redis://127.0.0.1?protocol=3"}, ValueError),
        ({"url": "redis://127.0.0.1?decode_responses=True"}, ValueError),
        ({"lease": 0}, ValueError),
        ({"lease": "1"}, TypeError),
        ({"max_deliveries": 0}, ValueError),
        ({"max_deliveries": True}, TypeError),
        ({"serializer": "yaml"}, ValueError),
        ({"serializer": 1}, TypeError),
        ({"max_length": 0}, ValueError),
        ({"send_timeout": -1}, ValueError),
        ({"answers_expire": 0}, ValueError),
        ({"stream": ""}, ValueError),
        ({"stream": b"a"}, TypeError),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], error: type[Exception]) -> None:
    option = next(iter(wrong))
    with pytest.raises(error, match="URL" if option == "url" and error is ValueError else option):
        RedisStreams(**{"url": "redis://127.0.0.1", **wrong})


def test_a_password_is_shown_nowhere() -> None:
    streams = RedisStreams("redis://me:secret@127.0.0.1:1")
    assert "secret" not in repr(streams) + str(streams)


# ---- life ----


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


def test_a_callback_may_submit_and_wait_for_others(broker: Any) -> None:
    @batched(broker=broker())
    def same(rows: list[int]) -> list[int]:
        return rows

    chain: list[int] = []
    over = threading.Event()

    def on(future: Any) -> None:
        chain.append(future.result())
        if len(chain) < 5:
            same(len(chain)).add_done_callback(on)
        else:
            over.set()

    with working(same):
        same(0).add_done_callback(on)
        assert over.wait(LIMIT)
    assert chain == [0, 1, 2, 3, 4]


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


def test_eager_needs_no_server() -> None:
    @batched(broker=RedisStreams("redis://127.0.0.1:1", stream="nothing"))
    def double(rows: list[int]) -> list[int]:
        return [2 * row for row in rows]

    with eager():
        assert double(1).result(0) == 2


def test_a_missing_server_is_reported_in_the_end() -> None:
    @batched(broker=RedisStreams("redis://127.0.0.1:1", stream="nothing", send_timeout=0.1))
    def double(rows: list[int]) -> list[int]:
        return rows

    error = double(1).exception(LIMIT)
    assert type(error).__module__ == "redis.exceptions"
    assert type(error).__name__ == "ConnectionError"
    assert balanced(double)


def test_a_wrong_password_is_reported_at_once() -> None:
    with redis_server("--requirepass", "right") as locked:
        wrong = RedisStreams(locked.url.replace("//", "//:wrong@"), stream="locked")
        right = RedisStreams(locked.url.replace("//", "//:right@"), stream="locked")

        @batched(broker=wrong)
        def refused(rows: list[int]) -> list[int]:
            return rows

        @batched(broker=right)
        def same(rows: list[int]) -> list[int]:
            return rows

        assert type(refused(1).exception(LIMIT)).__name__ == "AuthenticationError"
        with working(same):
            assert same(1).result(LIMIT) == 1


def test_tls(tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    cert = str(tmp_path / "cert.pem")
    plain = RedisServer(str(tmp_path))
    port = str(plain.port)
    secure = RedisServer(
        str(tmp_path), "--port", "0", "--tls-port", port, "--tls-cert-file", cert,
        "--tls-key-file", str(tmp_path / "key.pem"), "--tls-ca-cert-file", cert,
        "--tls-auth-clients", "no", port=plain.port,
    )  # fmt: skip
    secure.start()
    try:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}"

        @batched(broker=RedisStreams(url, stream="secure"))
        def double(rows: list[int]) -> list[int]:
            return [2 * row for row in rows]

        with working(double):
            assert double(4).result(LIMIT) == 8
    finally:
        secure.stop(kill=True)


# ---- the server goes ----


@pytest.mark.deep
@pytest.mark.parametrize("keeps", [True, False], ids=["with its file", "without anything"])
def test_the_server_is_started_anew(keeps: bool) -> None:
    arguments = ("--appendonly", "yes", "--appendfsync", "always") if keeps else ()
    with redis_server(*arguments) as server:

        @batched(
            size=20,
            broker=RedisStreams(server.url, stream="anew", lease=2, send_timeout=LIMIT),
        )
        def double(rows: list[int]) -> list[int]:
            return [2 * row for row in rows]

        before = [double(row) for row in range(50)]
        until(lambda: all(future.running() for future in before))
        server.stop(kill=True)
        during = [double(row) for row in range(50, 100)]
        time.sleep(0.2)
        server.start()
        with working(double):
            futures = before + during
            assert [future.result(LIMIT) for future in futures] == [2 * row for row in range(100)]
            server.stop(kill=True)
            after = [double(row) for row in range(100, 120)]
            server.start()
            assert [future.result(LIMIT) for future in after] == [
                2 * row for row in range(100, 120)
            ]
    assert balanced(double)


# ---- processes ----


class Workers:
    """Worker processes of one function of `tests.redis_app`."""

    def __init__(self, url: str, target: str, log: Path, lease: float = 1.0) -> None:
        self.command = [sys.executable, "-m", "batchify", "worker", f"tests.redis_app:{target}"]
        self.environment = {
            **os.environ, "BATCHIFY_TEST_REDIS": url, "BATCHIFY_TEST_LOG": str(log),
            "BATCHIFY_TEST_LEASE": str(lease), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        one = subprocess.Popen(
            [*self.command, *arguments], env=self.environment, cwd=ROOT, stderr=subprocess.PIPE
        )
        assert one.stderr is not None
        lines = iter(one.stderr.readline, b"")
        assert any(line.rstrip().endswith(b": ready") for line in lines)
        self.running.append(one)
        return one

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.running:
            one.kill()
            one.wait(LIMIT)
            if one.stderr is not None:
                one.stderr.close()


def called_by(url: str, target: str) -> Any:
    """Return the function of the app, in this process, with that server."""
    from tests import redis_app

    found = getattr(redis_app, target)
    streams = RedisStreams(url, lease=1.0, stream=f"batchify:tests.redis_app.{target}")
    return batched(found._plain(), size=100, broker=streams)


def test_worker_processes_and_a_graceful_stop(server: RedisServer, tmp_path: Path) -> None:
    call = called_by(server.url, "slow")
    with Workers(server.url, "slow", tmp_path / "log") as workers:
        one = workers.start("--workers", "2")
        futures = [call(row) for row in range(300)]
        until(lambda: any(future.done() for future in futures))
        one.send_signal(signal.SIGTERM)  # in the middle of batches
        assert one.wait(LIMIT) == 0
        assert leased(call._options().broker, call) == 0
        groups: Any = (
            call._options()
            .broker.client()
            .xinfo_consumers(call._options().broker.keys(call._plain()).stream, "workers")
        )
        assert groups == []
        workers.start()
        assert [future.result(LIMIT) for future in futures] == [2 * row for row in range(300)]
    ran = Counter((tmp_path / "log").read_text().split())
    assert set(ran.values()) == {1}


def producer(url: str, start: int, count: int) -> list[Any]:
    call = called_by(url, "slow")
    return list(call.map(range(start, start + count), window=2000, return_exceptions=True))


def kill_at_random(workers: Workers, log: Path, rng: random.Random, kills: int) -> int:
    """Kill a worker after every few hundred items, so that there is progress on any machine."""
    killed, ran = 0, 0
    while killed < kills:
        ran += rng.randint(100, 400)
        until(lambda: log.exists() and len(log.read_text().split()) >= ran)
        time.sleep(rng.uniform(0, 0.06))  # not always at the same instant of a batch
        victim = workers.running.pop(rng.randrange(len(workers.running)))
        victim.kill()
        victim.wait(LIMIT)
        assert victim.stderr is not None
        victim.stderr.close()
        killed += 1
        workers.start()
    return killed


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_killed_workers_lose_nothing(server: RedisServer, tmp_path: Path) -> None:
    """Three callers, two workers, `kill -9` in the middle of batches.

    By hand with 36 000 items: BATCHIFY_TEST_ITEMS=36000 pytest tests/test_redis.py -k killed
    """
    items = int(os.environ.get("BATCHIFY_TEST_ITEMS", "6000"))
    log = tmp_path / "log"
    each = items // 3
    with (
        Workers(server.url, "slow", log, lease=1.5) as workers,
        ProcessPoolExecutor(3) as callers,
        ThreadPoolExecutor(1) as pool,
    ):
        workers.start()
        workers.start()
        calls = [callers.submit(producer, server.url, n * each, each) for n in range(3)]
        killer = pool.submit(kill_at_random, workers, log, random.Random(7), 4)
        for n, call in enumerate(calls):
            assert call.result(LIMIT) == [2 * row for row in range(n * each, (n + 1) * each)]
        killed = killer.result(LIMIT)
    ran = Counter(log.read_text().split())
    assert len(ran) == items  # nothing lost
    twice = sum(count - 1 for count in ran.values())
    print(f"{items} items, {killed} workers killed, {twice} items run twice")
    assert killed == 4
    assert twice <= killed * 100  # at most the killed batches


@pytest.mark.deep
def test_an_item_that_kills_its_workers_is_buried_alone(
    server: RedisServer, tmp_path: Path
) -> None:
    call = called_by(server.url, "deadly")
    is_over = threading.Event()

    def look_after(workers: Workers) -> int:
        """Restart workers that die, as a supervisor does."""
        deaths = 0
        while not is_over.wait(0.01):
            if workers.running[-1].poll() is not None:
                deaths += 1
                workers.start()
        return deaths

    with Workers(server.url, "deadly", tmp_path / "log", lease=1.0) as workers:
        futures = {row: call(row) for row in range(60)}
        until(lambda: held(call._options().broker, call) == 60)
        workers.start()
        with ThreadPoolExecutor(1) as pool:
            deaths = pool.submit(look_after, workers)
            errors = {row: future.exception(LIMIT) for row, future in futures.items()}
            is_over.set()
            assert deaths.result(LIMIT) == 4  # max_deliveries
        assert {row for row, error in errors.items() if error} == {13}
        assert type(errors[13]) is DeadLetter
        command = [sys.executable, "-m", "batchify", "dead", "tests.redis_app:deadly"]

        def dead(*arguments: str, status: int = 0) -> str:
            done = subprocess.run(
                [*command, *arguments], env=workers.environment, cwd=ROOT, capture_output=True,
                text=True,
            )  # fmt: skip
            assert done.returncode == status
            return done.stdout

        listed = dead().split()
        assert listed[-4:] == ["delivered", "4", "times", "[13]"]
        assert dead("--whole") == dead()
        assert dead("--requeue", "1-1", status=1) == "0 requeued\n"
        assert len(dead_letters(call)) == 1
        assert dead("--requeue", listed[0]) == "1 requeued\n"
        assert len(dead_letters(call)) == 0
        until(lambda: workers.running[-1].poll() is not None)  # it kills the next one
        assert held(call._options().broker, call) == 1
        assert dead("--delete") == "0 deleted\n"


@pytest.mark.deep
def test_a_lease_is_renewed_while_the_batch_runs(broker: Any) -> None:
    runs: list[int] = []

    @batched(size=1, broker=broker(lease=2.0))
    def slow(rows: list[int]) -> list[int]:
        runs.extend(rows)
        time.sleep(5.0)
        return rows

    with working(slow, slow):
        assert slow(1).result(LIMIT) == 1
    assert runs == [1]


def test_items_of_lost_workers_run_again_in_shrinking_batches(broker: Any) -> None:
    sizes: list[int] = []

    @batched(size=64, broker=broker(lease=2.0))
    def same(rows: list[int]) -> list[int]:
        sizes.append(len(rows))
        return rows

    streams = same._options().broker
    futures = [same(row) for row in range(64)]
    until(lambda: held(streams, same) == 64)
    lost = streams.consumer(same._plain())  # a worker that takes all items and then disappears
    assert len(lost.take(64, 1)) == 64
    lost.stop()
    time.sleep(2.1)
    with working(same):
        assert [future.result(LIMIT) for future in futures] == list(range(64))
    # A free worker may take a part of a chunk before the rest of the chunk has arrived.
    assert sum(sizes) == 64
    assert max(sizes) <= 8


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


def test_answers_for_a_caller_that_is_gone_expire(server: RedisServer, tmp_path: Path) -> None:
    code = (
        "import os; from tests.redis_app import broker, double; double(1)\n"
        "stream = broker.keys(double._plain()).stream\n"
        "while not broker.client().xlen(stream): pass\n"
        "os._exit(0)"
    )
    with Workers(server.url, "double", tmp_path / "log") as workers:
        subprocess.run(
            [sys.executable, "-c", code],
            env=workers.environment,
            cwd=ROOT,
            check=True,
            timeout=LIMIT,
        )
        workers.start()
        call = called_by(server.url, "double")
        client = call._options().broker.client()
        pattern = "{batchify:tests.redis_app.double}:answers:*"
        until(lambda: list(client.scan_iter(pattern)))
        for key in client.scan_iter(pattern):
            assert 0 < client.pttl(key) <= 60_000


def test_a_process_that_ends_has_sent_its_items(server: RedisServer, tmp_path: Path) -> None:
    code = "from tests.redis_app import adouble\nfor n in range(1000): adouble(n)"
    log = tmp_path / "log"
    with Workers(server.url, "adouble", log) as workers:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], env=workers.environment, cwd=ROOT,
            check=True, timeout=LIMIT, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == ("", "")
        workers.start()
        until(lambda: log.exists() and len(log.read_text().split()) == 1000)


@pytest.mark.parametrize("max_length", [1000, None])
def test_a_forked_child_sends_its_own(broker: Any, max_length: int | None) -> None:
    @batched(broker=broker(max_length=max_length))
    def double(rows: list[int]) -> list[int]:
        return [2 * row for row in rows]

    before = double(1)
    until(before.running)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = "?"
        try:
            is_forked = isinstance(before.exception(0), Forked)
            told = f"{is_forked} {double(5).result()}"
        except BaseException as error:
            told = repr(error)
        finally:
            os.write(theirs, told.encode())
            os._exit(0)
    with working(double):
        assert before.result(LIMIT) == 2
        assert os.read(ours, 1000) == b"True 10"
    os.waitpid(pid, 0)
    os.close(ours)
    os.close(theirs)


def test_the_main_script_is_found_by_its_name(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import os\nfrom batchify import batched\nfrom batchify.redis import RedisStreams\n"
        "@batched(broker=RedisStreams(os.environ['BATCHIFY_TEST_REDIS']))\n"
        "def triple(rows):\n    return [3 * row for row in rows]\n"
        "if __name__ == '__main__':\n    print(triple(5).result())\n"
    )
    environment = {**os.environ, "BATCHIFY_TEST_REDIS": server.url, "PYTHONPATH": str(ROOT)}
    worker = subprocess.Popen(
        [sys.executable, "-m", "batchify", "worker", "script:triple"],
        env=environment, cwd=tmp_path, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "script.py"], env=environment, cwd=tmp_path, check=True, timeout=LIMIT,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout == "15\n"
        worker.send_signal(signal.SIGINT)
        assert worker.wait(LIMIT) == 0
    finally:
        worker.kill()
        worker.communicate()


def test_observers_and_tracers_see_batches_in_the_worker(broker: Any) -> None:
    events: list[Any] = []

    @batched(broker=broker(), name="observed")
    def same(rows: list[int]) -> list[int]:
        return rows

    end = observe(events.append)
    try:
        with working(same):
            assert same(1).result(LIMIT) == 1
            until(lambda: events)
    finally:
        end()
    assert [event.name for event in events] == ["observed"]
