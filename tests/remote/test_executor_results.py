"""`executor=`: results and errors that come back from other processes."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from batchify import BadResult, BatchAborted, RetryExhausted, batched
from batchify.interpreter import has_gil
from tests import elsewhere
from tests.leaks import locals_of, marks_in
from tests.limits import LIMIT
from tests.manual import until
from tests.remote.executors import processes


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessPoolExecutor]:
    with processes(workers=2)() as executor:
        yield executor


def test_results_of_every_kind(shared: ProcessPoolExecutor) -> None:
    def ended(function: Any, items: list[Any], *args: Any, **options: Any) -> list[Any]:
        f: Any = batched(function, executor=shared, linger=None, **options)
        given = [f(item, *args) for item in items]
        f.flush(LIMIT)
        return [future.exception() or future.result() for future in given]

    assert ended(elsewhere.extra, [1, 2], 3) == [3, 6]
    assert ended(elsewhere.by_item, [1, 2]) == ["1", "2"]
    assert ended(elsewhere.nothing, [1, 2]) == [None, None]
    assert ended(elsewhere.picky, [1, 1, 2], dedupe=True) == [1, 1, 2]
    one, two = ended(elsewhere.raises, [1, KeyError("mine")])
    assert one == 1
    assert isinstance(two, KeyError)
    one, two, three = ended(elsewhere.stream, [0, 3, 1])
    assert one == 0
    assert isinstance(two, ValueError)
    assert isinstance(three, BadResult)
    one, two = ended(elsewhere.stream, [5, 2])
    assert one == -5
    assert isinstance(two, KeyError)
    assert ended(elsewhere.stream, [4]) == [-4]
    (one,) = ended(elsewhere.again, [1])
    assert isinstance(one, RetryExhausted)
    assert isinstance(one.__cause__, ValueError)
    good, bad, more = ended(elsewhere.picky, [1, -1, 2], isolate=True)
    assert (good, more) == (1, 2)
    assert isinstance(bad, ValueError)


def test_an_error_comes_back_as_what_it_was(shared: ProcessPoolExecutor) -> None:
    f = batched(elsewhere.picky, executor=shared, linger=None, size=2)
    errors = [future.exception(LIMIT) for future in (f(-1), f(-2))]
    assert errors[0] is not errors[1]
    for error in errors:
        assert type(error) is ValueError
        assert error.args == ("negative",)
        told = "".join(traceback.format_exception(error))
        assert "in picky" in told  # the line in the other process
        assert "remote.py" not in told
        assert "futures" not in told


def test_a_killed_process_ends_its_batch_only(shared: ProcessPoolExecutor) -> None:
    f = batched(elsewhere.raises, executor=shared, size=1)
    for end in (SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()):
        error = f(end).exception(LIMIT)
        assert isinstance(error, BatchAborted)
        assert type(error.__cause__) is type(end)
    assert f(1).result(LIMIT) == 1


def test_the_causes_of_an_error_are_reported(shared: ProcessPoolExecutor) -> None:
    error = batched(elsewhere.caused, executor=shared)(1).exception(LIMIT)
    assert type(error) is ValueError
    (note,) = error.__notes__
    assert "in caused" in note
    assert note.rstrip().endswith("KeyError")
    assert "deep" not in note.replace('raise KeyError("deep")', "")


def test_a_generator_without_an_end(shared: ProcessPoolExecutor) -> None:
    f = batched(elsewhere.endless, executor=shared, linger=None)
    given = [f(n) for n in (3, 4)]
    f.flush(LIMIT)
    assert [future.result(0) for future in given] == [3, 4]


def test_an_element_that_cannot_be_sent_harms_no_neighbour(shared: ProcessPoolExecutor) -> None:
    f = batched(elsewhere.mixed, executor=shared, linger=None)
    given = [f(n) for n in (1, -1, 2)]
    f.flush(LIMIT)
    assert (given[0].result(0), given[2].result(0)) == (1, 2)
    assert isinstance(given[1].exception(0), BatchAborted)


def test_an_item_that_cannot_be_sent_shows_no_other_item(shared: ProcessPoolExecutor) -> None:
    f = batched(elsewhere.where, executor=shared, linger=None)
    secret: Any = {"secret-item-1": threading.Lock()}
    mine, theirs = f("mine"), f(secret)
    f.flush(LIMIT)
    for future in (mine, theirs):
        error = future.exception(0)
        assert isinstance(error, BatchAborted)
        if not has_gil():  # the caller may look while the worker's frames still exist
            until(lambda error=error: not marks_in(error))
        assert marks_in(error) == set()


def test_results_that_cannot_be_sent_back_are_reported(shared: ProcessPoolExecutor) -> None:
    f = batched(elsewhere.unsendable, executor=shared, size=1)
    error = f("error").exception(LIMIT)
    assert isinstance(error, BatchAborted)
    assert "Unsendable" in str(error)
    assert isinstance(f("results").exception(LIMIT), BatchAborted)
    g = batched(elsewhere.where, executor=shared)
    assert g(1).result(LIMIT)[0] == 1  # the pool works on


def test_on_error_is_called_here(shared: ProcessPoolExecutor) -> None:
    seen: list[Any] = []

    def on_error(failure: Any) -> list[str]:
        seen.append((os.getpid(), threading.current_thread().name, failure))
        return ["instead"] * len(failure.items)

    f: Any = batched(elsewhere.picky, executor=shared, on_error=on_error, name="here")
    assert f(-1).result(LIMIT) == "instead"
    ((process, thread, failure),) = seen
    assert process == os.getpid()
    assert thread.startswith("batchify:here:")
    assert failure.function is elsewhere.picky
    assert type(failure.exception) is ValueError


def test_no_caller_finds_another_callers_item_in_an_error() -> None:
    """No frame of the executor's thread and no entry of its queue keeps the items."""

    def work(items: list[Any]) -> list[Any]:
        started.set()
        assert goes_on.wait(LIMIT)
        raise ValueError("for all")

    started, goes_on = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as executor:
        f = batched(work, executor=executor, linger=None, size=2, workers=2)
        mine, theirs = f("mine"), f("secret-item-1")
        assert started.wait(LIMIT)
        later = [f("secret-item-2"), f("secret-item-3")]
        until(lambda: executor._work_queue.qsize() == 1)
        goes_on.set()
        for future in (mine, theirs):
            error = future.exception(LIMIT)
            assert error is not None
            frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
            assert [frame.f_code.co_name for frame in frames] == ["work"]
            below: Any = frames[0]
            while below is not None:
                if below.f_code is not work.__code__:
                    assert marks_in(locals_of(below)) == set(), below
                below = below.f_back
        del error, frames, below
        for future in later:
            future.exception(LIMIT)


@pytest.mark.parametrize("kind", ["returns", "raises", "yields", "yields and raises"])
def test_nothing_survives_its_calls_without_the_collector(kind: str) -> None:
    class Item:
        pass

    def work(items: list[Any]) -> list[Any]:
        if kind == "raises":
            raise ValueError("for all")
        return items

    def stream(items: list[Any]) -> Iterator[Any]:
        yield from items[:1] if kind == "yields and raises" else items
        if kind == "yields and raises":
            raise ValueError("for the others")

    gc.collect()
    gc.disable()
    try:
        with ThreadPoolExecutor(2) as executor:
            f = batched(stream if "yields" in kind else work, executor=executor, linger=None)
            alive: list[Any] = []
            for _ in range(20):
                items = [Item(), Item()]
                alive += map(weakref.ref, items)
                given = [f(item) for item in items]
                f.flush(LIMIT)
                for future in given:
                    future.exception(LIMIT)
            del items, given, future

            def are_gone() -> bool:
                if not has_gil():  # it goes when the thread that made it wakes up
                    for nap in [executor.submit(time.sleep, 0.001) for _ in range(2)]:
                        nap.result(LIMIT)
                    f(None)
                    f.flush(LIMIT)
                return not any(weak() is not None for weak in alive)

            until(are_gone)
    finally:
        gc.enable()
