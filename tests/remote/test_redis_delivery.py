"""`broker=RedisStreams(...)`: items reach workers, and results and errors reach callers."""

from __future__ import annotations

import asyncio
import ctypes
import json
import pickle
import sys
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from batchify import (
    BadResult,
    BatchAborted,
    ItemTooHeavy,
    MissingResult,
    Retry,
    RetryExhausted,
    batched,
    observe,
)
from tests.limits import LIMIT
from tests.redis_server import PROGRAM
from tests.remote.on_redis import balanced, held, until, working

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    # redis-py relies on the garbage collector to close broken connections.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


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
    assert "test_redis_delivery.py" in errors["raises"].__notes__[0]  # type: ignore[union-attr]


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
