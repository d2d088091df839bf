"""`close` shuts down the executor that batchify created, and waits for its threads or processes."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from batchify import Closed, batched
from tests import elsewhere

ROOT = Path(__file__).parents[2]


class Recorder(Executor):
    """Runs tasks at once, and records when it is shut down."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.log.append(f"shutdown(wait={wait})")


ENDED = ["shutdown(wait=True)"]


def recorded(**options: Any) -> tuple[Any, list[str]]:
    log: list[str] = []
    return batched(elsewhere.where, executor=lambda: Recorder(log), **options), log


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# ---- which executors are shut down ----


def test_close_shuts_down_what_was_made() -> None:
    f, log = recorded()
    assert f(1).result()[0] == 1
    assert log == []
    f.close()
    assert log == ENDED
    f.close()
    assert log == ENDED


def test_aclose_does_too() -> None:
    async def main() -> None:
        f, log = recorded()
        assert (await f(1))[0] == 1
        await f.aclose()
        assert log == ENDED

    asyncio.run(main())


def test_the_next_call_after_a_start_makes_another() -> None:
    f, log = recorded()
    for n in range(3):
        f.start()
        assert f(n).result()[0] == n
        f.close()
    assert log == 3 * ENDED


def test_a_given_executor_is_not_shut_down() -> None:
    log: list[str] = []
    f = batched(elsewhere.where, executor=Recorder(log))
    f(1).result()
    f.close()
    assert log == []


def test_an_executor_that_others_hold_is_not_shut_down() -> None:
    """A factory that always returns the same executor, or keeps a reference to it."""
    log: list[str] = []
    shared = Recorder(log)
    f = batched(elsewhere.where, executor=lambda: shared)
    g = batched(elsewhere.where, executor=functools.cache(lambda: Recorder(log)))
    for one in (f, g):
        one(1).result()
        one.close()
        one.start()
        one(2).result()
        one.close()
    assert log == []


def test_what_has_no_shutdown() -> None:
    class Bare:
        def submit(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
            return Recorder([]).submit(fn, *args)

    f = batched(elsewhere.where, executor=Bare)
    f(1).result()
    f.close()


def test_a_shutdown_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Recorder):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            raise OSError("secret")

    f = batched(elsewhere.where, executor=lambda: Broken([]), name="insert")
    f(1).result()
    f.close()
    (record,) = caplog.records
    assert record.getMessage() == "insert: the executor cannot be shut down: OSError"


def test_nothing_is_made_for_a_close_or_after_it() -> None:
    made: list[str] = []

    def make() -> Executor:
        made.append("made")
        return Recorder([])

    f = batched(elsewhere.where, executor=make)
    f.close()
    for _ in range(2):
        with pytest.raises(Closed):
            f(1)
    assert made == []
    f.start()
    f(1).result()
    f.close()
    with pytest.raises(Closed):
        f(1)
    assert made == ["made"]


class Model:
    log: ClassVar[list[str]] = []

    def __init__(self, factor: int) -> None:
        self.factor = factor

    @batched(executor=lambda: Recorder(Model.log))
    def scaled(self, items: list[int]) -> list[int]:
        return [item * self.factor for item in items]

    @batched(executor=lambda: Recorder(Model.log))
    @classmethod
    def named(cls, items: list[int]) -> list[str]:
        return [cls.__name__ for _ in items]


def test_of_a_method_it_is_for_all_instances() -> None:
    """Closed on the class, it ends."""
    Model.log.clear()
    one, other = Model(2), Model(3)
    assert one.scaled(1).result() == 2
    one.scaled.close()
    assert Model.log == []
    assert other.scaled(1).result() == 3
    Model.scaled.close()
    assert Model.log == ENDED
    assert other.scaled(2).result() == 6
    other.scaled.close()
    Model.scaled.close()


def test_of_a_class_method() -> None:
    Model.log.clear()
    assert Model.named(1).result() == "Model"
    Model.named.close()
    assert Model.log == ENDED


# ---- waiting for it ----


class Slow(Recorder):
    """A shutdown that ends when the test releases it."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(log)
        self.goes_on = threading.Event()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.log.append("begun")
        self.goes_on.wait()
        self.log.append("ended")


def slow() -> tuple[Any, list[str], list[Any]]:
    log: list[str] = []
    events: list[Any] = []

    def make() -> Slow:
        executor = Slow(log)
        events.append(executor.goes_on)
        return executor

    return batched(elsewhere.where, executor=make), log, events


def test_a_timeout_limits_the_wait_for_it() -> None:
    f, log, events = slow()
    f(1).result()
    f.close(0.01)
    assert "ended" not in log
    events[0].set()
    f.close()
    assert log == ["begun", "ended"]


def test_aclose_does_not_block_the_loop() -> None:
    async def main() -> None:
        f, log, events = slow()
        await f(1)
        closing = asyncio.create_task(f.aclose())
        while log != ["begun"]:
            await asyncio.sleep(0)
        assert not closing.done()
        events[0].set()
        await closing
        assert log == ["begun", "ended"]

    asyncio.run(main())


def test_several_loops_and_threads_that_close_all_wait() -> None:
    f, log, events = slow()
    f(1).result()
    ended: list[bool] = []
    ready = threading.Barrier(5)

    def close() -> None:
        ready.wait()
        f.close()
        ended.append("ended" in log)

    def aclose() -> None:
        ready.wait()
        asyncio.run(f.aclose())
        ended.append("ended" in log)

    threads = [threading.Thread(target=target) for target in (close, aclose, close, aclose)]
    for thread in threads:
        thread.start()
    ready.wait()
    events[0].set()
    for thread in threads:
        thread.join()
    assert ended == [True] * 4


def test_threads_have_ended() -> None:
    threads: list[threading.Thread] = []

    def function(items: list[int]) -> list[int]:
        threads.append(threading.current_thread())
        return items

    f = batched(function, executor=lambda: ThreadPoolExecutor(2), size=1, workers=2)
    assert list(f.map(range(10))) == list(range(10))
    f.close()
    assert not any(thread.is_alive() for thread in threads)


def test_processes_have_ended() -> None:
    f = batched(elsewhere.where, executor=lambda: ProcessPoolExecutor(1))
    process = f(1).result()[1]
    f.close()
    assert not alive(process)


def test_processes_have_ended_after_aclose() -> None:
    async def main() -> None:
        f = batched(elsewhere.where, executor=lambda: ProcessPoolExecutor(1))
        process = (await f(1))[1]
        await f.aclose()
        assert not alive(process)

    asyncio.run(main())


@pytest.mark.parametrize("cancel", [True, False])
@pytest.mark.parametrize("where", ["observer", "callback"])
def test_close_from_inside_waits_for_nothing_of_its_own(where: str, cancel: bool) -> None:
    closed = threading.Event()

    def close(_: object) -> None:
        f.close(cancel=cancel)
        closed.set()

    f = batched(elsewhere.where, linger=None, executor=lambda: ThreadPoolExecutor(1))
    if where == "observer":
        f.observe(close)
    future = f(1)
    if where == "callback":
        future.add_done_callback(close)
    f.flush()
    closed.wait()
    f.close()


def test_close_in_a_batch_that_runs_on_its_executor() -> None:
    def function(items: list[int]) -> list[int]:
        f.close(cancel=True)
        return items

    f = batched(function, executor=lambda: ThreadPoolExecutor(1))
    assert f(1).result() == 1
    f.close()


# ---- the process that closed it can go ----


def output_of(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.deep
@pytest.mark.parametrize("how", ["f.close()", "asyncio.run(f.aclose())"])
def test_no_process_stays_behind_a_hard_exit(how: str) -> None:
    for _ in range(5):
        told = output_of(f"""
            import asyncio, os
            from concurrent.futures import ProcessPoolExecutor
            from batchify import batched
            from tests import elsewhere

            f = batched(elsewhere.where, size=1, workers=2, executor=lambda: ProcessPoolExecutor(2))
            print(*{{process for _, process, _ in f.map(range(20))}}, flush=True)
            {how}
            os._exit(0)
        """)
        processes = [int(one) for one in told.split()]
        assert processes
        assert not any(map(alive, processes))


@pytest.mark.deep
def test_no_noise_at_exit() -> None:
    for _ in range(5):
        told = output_of("""
            from concurrent.futures import ProcessPoolExecutor
            from batchify import batched
            from tests import elsewhere

            f = batched(elsewhere.where, executor=lambda: ProcessPoolExecutor(2))
            f(1).result()
            f.close()
            print("closed")
        """)
        assert told == "closed\n"


# ---- calls that the executor refuses ----


def local() -> Any:
    def function(items: list[int]) -> list[int]:
        return items

    return function


def fails() -> Any:
    raise OSError("no machine is up")


@pytest.mark.parametrize(
    ("function", "executor", "error", "message"),
    [
        (local(), lambda: Recorder([]), ValueError, "is inside another function"),
        (
            elsewhere.where,
            lambda: "text",
            TypeError,
            "executor must be an executor or return one, but returned str",
        ),
        (elsewhere.where, fails, OSError, "no machine is up"),
    ],
)
def test_refused_calls_are_counted(
    function: Any, executor: Any, error: type[Exception], message: str
) -> None:
    f = batched(function, executor=executor)
    for call in (f, f.submit, f.submit_nowait, f.options(priority=1)):
        with pytest.raises(error, match=message):
            call(1)
    results = list(f.map([1, 2], return_exceptions=True))
    assert [type(one) for one in results] == [error] * 2
    stats = f.stats()
    assert (stats.submitted, stats.rejected, stats.accepted) == (6, 6, 0)

    async def main() -> None:
        with pytest.raises(error, match=message):
            await f(1)
        with pytest.raises(error, match=message):
            await f.asubmit(1)

    asyncio.run(main())
    assert f.stats().rejected == 8
    f.close()


def test_a_factory_that_raises_is_called_once_for_a_call() -> None:
    calls: list[str] = []

    def make() -> Executor:
        calls.append("call")
        if len(calls) < 3:
            raise OSError("no machine is up")
        return Recorder([])

    f = batched(elsewhere.where, executor=make)
    for count in (1, 2):
        with pytest.raises(OSError, match="no machine"):
            f(1)
        assert len(calls) == count
    assert f(1).result()[0] == 1
    assert f(2).result()[0] == 2
    assert len(calls) == 3
    f.close()


def test_a_factory_that_raises_later_is_called_once_for_a_batch() -> None:
    """After a start, say: the batch fails, and the next one asks again."""
    calls: list[str] = []

    def make() -> Executor:
        calls.append("call")
        if len(calls) == 2:
            raise OSError("no machine is up")
        return Recorder([])

    f = batched(elsewhere.where, linger=None, executor=make)
    future = f(0)
    f.flush()
    assert future.result()[0] == 0
    f.close()
    f.start()
    futures = [f(n) for n in range(3)]
    f.flush()
    assert [type(future.exception()) for future in futures] == [OSError] * 3
    assert len(calls) == 2
    assert next(f.map([1]))[0] == 1
    assert len(calls) == 3
    f.close()
