"""`executor=`: creating executors, and replacing broken ones."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from batchify import BatchAborted, batched
from tests import elsewhere
from tests.limits import LIMIT
from tests.manual import until
from tests.remote.executors import METHODS, processes


def test_nothing_is_made_before_the_first_batch_and_one_for_all() -> None:
    made: list[ThreadPoolExecutor] = []

    def make() -> ThreadPoolExecutor:
        made.append(ThreadPoolExecutor(4))
        return made[-1]

    f = batched(elsewhere.where, size=1, workers=4, executor=make)
    assert not made
    assert len(list(f.map(range(100)))) == 100
    assert len(made) == 1
    f.close()
    f.start()
    f(1).result(LIMIT)
    assert len(made) == 2
    f.close()


def test_a_class_makes_an_executor() -> None:
    f = batched(elsewhere.where, executor=ThreadPoolExecutor)
    assert f(1).result(LIMIT)[1] == os.getpid()
    f.close()


def test_a_factory_that_fails_fails_the_call() -> None:
    fails = True

    def make() -> Any:
        if fails:
            raise OSError("no machine is up")
        return ThreadPoolExecutor(1)

    f = batched(elsewhere.where, executor=make)
    with pytest.raises(OSError, match="no machine"):
        f(1)
    fails = False
    assert f(1).result(LIMIT)[0] == 1
    f.close()
    wrong: Any = lambda: "no executor"
    with pytest.raises(
        TypeError, match="executor must be an executor or return one, but returned str"
    ):
        batched(elsewhere.where, executor=wrong)(1)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_process(method: str) -> None:
    """The callers of its batch get a clear error; the next batch gets a new executor."""
    f = batched(elsewhere.killed, size=1, executor=processes(method))
    before = f("fine").result(LIMIT)
    with pytest.raises(BrokenProcessPool):
        f("kill").result(LIMIT)
    after = f("fine").result(LIMIT)
    assert len({before, after, os.getpid()}) == 3
    f.close()


def test_a_killed_process_of_an_executor_that_was_given() -> None:
    executor = processes()()
    f = batched(elsewhere.killed, size=1, executor=executor)
    for item in ("kill", "fine"):
        with pytest.raises(BrokenProcessPool):
            f(item).result(LIMIT)
    executor.shutdown()


def test_batches_under_way_when_a_process_is_killed_all_end() -> None:
    f = batched(elsewhere.killed, size=1, workers=4, executor=processes(workers=2))
    given = [f("kill" if n % 10 == 3 else "fine") for n in range(40)]
    for future in given:
        error = future.exception(LIMIT)
        assert error is None or isinstance(error, BrokenProcessPool)
    assert f("fine").result(LIMIT)
    f.close()


def test_an_executor_that_was_shut_down() -> None:
    last: list[ThreadPoolExecutor] = []

    def make() -> ThreadPoolExecutor:
        last.append(ThreadPoolExecutor(1))
        return last[-1]

    f = batched(elsewhere.where, executor=make)
    f(1).result(LIMIT)
    last[0].shutdown()
    assert f(2).result(LIMIT)[0] == 2
    g = batched(elsewhere.where, executor=last[0])
    with pytest.raises(RuntimeError, match="shutdown"):
        g(1).result(LIMIT)
    f.close()


def test_a_batch_that_the_executor_cancels() -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        f = batched(elsewhere.where, executor=executor)
        f(0).result(LIMIT)
        executor.submit(gate.wait, LIMIT)
        future = f(1)
        until(future.running)
        until(lambda: executor._work_queue.qsize() == 1)
        executor.shutdown(wait=False, cancel_futures=True)
        gate.set()
        assert isinstance(future.exception(LIMIT), BatchAborted)


def test_a_batch_is_run_once_though_its_submit_raised() -> None:
    """The standard library's pool may queue a task and then fail to start a thread for it."""
    runs: list[Any] = []

    class Thin(ThreadPoolExecutor):
        is_thin = False

        def _adjust_thread_count(self) -> None:
            if self.is_thin:
                raise RuntimeError("can't start new thread")
            super()._adjust_thread_count()

    made: list[Thin] = []

    def make() -> Thin:
        made.append(Thin(2))
        return made[-1]

    def work(items: list[Any]) -> list[Any]:
        runs.append(list(items))
        return items

    gate = threading.Event()
    f = batched(work, executor=make, size=1)
    assert f(1).result(LIMIT) == 1
    made[0].submit(gate.wait, LIMIT)  # it takes nothing from the queue until then
    made[0].is_thin = True
    assert f(2).result(LIMIT) == 2
    given = Thin(2)
    g = batched(work, executor=given, size=1)
    assert g(3).result(LIMIT) == 3
    given.submit(gate.wait, LIMIT)
    given.is_thin = True
    with pytest.raises(RuntimeError, match="start new thread"):
        g(4).result(LIMIT)
    gate.set()
    made[0].shutdown()
    given.shutdown()
    assert runs == [[1], [2], [3]]
    f.close()
