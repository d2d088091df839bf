"""`executor=`: batches in other threads, processes and machines (contract 2, 7 and 8)."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from batchify import BadResult, BatchAborted, Closed, Deadlock, RetryExhausted, batched
from batchify.interpreter import has_gil
from tests import elsewhere
from tests.limits import LIMIT
from tests.manual import in_thread, until
from tests.test_secrecy import locals_of, marks_in

METHODS = [
    m for m in ("fork", "forkserver", "spawn") if m in multiprocessing.get_all_start_methods()
]


def processes(method: str = "forkserver", workers: int = 1) -> Callable[[], ProcessPoolExecutor]:
    """Return a function that makes a pool."""
    return lambda: ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method))


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessPoolExecutor]:
    with processes(workers=2)() as executor:
        yield executor


class Opaque(futures.Executor):
    """Runs tasks at once, and records them as another machine would get them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        assert not kwargs
        self.calls.append((fn, args))
        function, arguments = pickle.loads(pickle.dumps((fn, args)))
        future: futures.Future[Any] = futures.Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


# ---- executors ----


@pytest.mark.parametrize("method", METHODS)
def test_batches_run_in_processes(method: str) -> None:
    with batched(elsewhere.where, size=4, workers=2, executor=processes(method, 2)) as f:
        elsewhere.caller.set("the test")
        got = list(f.map(range(16)))
    assert [item for item, _, _ in got] == list(range(16))
    assert os.getpid() not in {process for _, process, _ in got}
    assert {context for _, _, context in got} == {"nobody"}


def test_the_payload_is_one_and_opaque() -> None:
    """A cluster that walks the elements of a list finds no list; the function goes by name."""
    executor = Opaque()
    f = batched(elsewhere.extra, executor=executor, linger=None)
    results = [f(n, 10, add=1) for n in range(3)]
    f.flush(LIMIT)
    assert [future.result() for future in results] == [1, 11, 21]
    function, (module, name, payload) = executor.calls[-1]
    assert [args for _, args in executor.calls if args] == [(module, name, payload)]
    assert function.__module__.startswith("batchify.")
    assert (module, name) == ("tests.elsewhere", "extra")
    assert type(payload) is bytes


def test_threads_of_an_executor_are_called_directly() -> None:
    idents: list[int] = []

    def work(items: list[Any]) -> list[Any]:
        idents.append(threading.get_ident())
        return [lambda item=item: item for item in items]  # nothing that can be pickled

    with ThreadPoolExecutor(1, "pool") as executor:
        f = batched(work, executor=executor)
        assert f(7).result(LIMIT)() == 7
        (thread,) = executor._threads
        assert idents == [thread.ident]
        elsewhere.caller.set("the test")
        g = batched(elsewhere.where, executor=executor)
        assert g(1).result(LIMIT) == (1, os.getpid(), "nobody")


def test_a_generator_runs_in_the_executors_threads_and_settles_as_it_yields() -> None:
    names: set[str] = set()
    goes_on = threading.Event()

    def work(items: list[int]) -> Iterator[int]:
        for item in items:
            names.add(threading.current_thread().name)
            if item:
                assert goes_on.wait(LIMIT)
            yield item

    with ThreadPoolExecutor(1, "pool") as executor:
        f = batched(work, executor=executor, linger=None)
        first, second = f(0), f(1)
        flushing = in_thread(lambda: f.flush(LIMIT))
        assert first.result(LIMIT) == 0
        assert not second.done()
        goes_on.set()
        assert second.result(LIMIT) == 1
        flushing.result(LIMIT)
    assert {name.partition("_")[0] for name in names} == {"pool"}


def test_workers_limit_how_many_batches_run_at_once() -> None:
    lock, together, running, most = threading.Lock(), threading.Barrier(3), 0, 0

    def work(items: list[int]) -> list[int]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(LIMIT)
        with lock:
            running -= 1
        return items

    with ThreadPoolExecutor(8) as executor:
        f = batched(work, size=1, workers=3, executor=executor)
        assert list(f.map(range(30))) == list(range(30))
    assert most == 3


@pytest.mark.skipif(importlib.util.find_spec("loky") is None, reason="loky is not installed")
def test_loky() -> None:
    import loky

    f = batched(elsewhere.killed, size=1, executor=lambda: loky.get_reusable_executor(1))
    here = f("fine").result(LIMIT)
    assert here != os.getpid()
    with pytest.raises(futures.BrokenExecutor):
        f("kill").result(LIMIT)
    assert f("fine").result(LIMIT) not in (here, os.getpid())
    f.close()
    assert loky.get_reusable_executor(1).submit(int).result(LIMIT) == 0  # other code still uses it
    loky.get_reusable_executor(1).shutdown()


@pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="Dask is not installed")
def test_dask() -> None:
    """Start a cluster of two processes on this machine that can import the module by its path."""
    script = """
        import os
        from batchify import batched
        from dask.distributed import Client, LocalCluster
        from tests import elsewhere

        if __name__ == "__main__":
            cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
            with cluster, Client(cluster) as client:
                f = batched(
                    elsewhere.where, size=5, workers=4,
                    executor=lambda: client.get_executor(pure=False),
                )
                got = list(f.map(range(100)))
                assert [item for item, _, _ in got] == list(range(100))
                print(os.getpid() in {process for _, process, _ in got}, f.stats().batches)
                g = batched(elsewhere.picky, executor=client.get_executor(pure=False))
                print(type(g(-1).exception()).__name__)
                f.close()
    """
    assert output_of(script) == "False 20\nValueError\n"


# ---- functions and methods ----


def test_what_is_decorated_at_the_top_of_a_module() -> None:
    """The child imports the module, and decorates again, which starts nothing."""
    f = elsewhere.decorated
    f.start()
    assert [item for item, _ in f.map([1, 2, 3])] == [1, 2, 3]
    assert f(1).result(LIMIT)[1] != os.getpid()
    f.close()


def test_a_decorator_below_is_run_too() -> None:
    assert elsewhere.below(1).result(LIMIT)[0] == 2
    elsewhere.below.close()


def test_methods() -> None:
    model = elsewhere.Model(3)
    here = os.getpid()
    for future, value in [
        (model.scaled(2), 6),
        (elsewhere.Model.name(1), "Model"),
        (elsewhere.Stuck.name(1), "Stuck"),
        (elsewhere.Model.above(1), "Model"),
        (elsewhere.Model.static(5), 5),
    ]:
        result, process = future.result(LIMIT)
        assert result == value
        assert process != here
    for name in ("name", "static"):
        getattr(elsewhere.Model, name).close()
    elsewhere.Stuck.name.close()
    elsewhere.Model.above.close()
    model.scaled.close()


def test_an_instance_that_cannot_be_sent_is_reported() -> None:
    with pytest.raises(BatchAborted, match="TypeError while pickling"):
        elsewhere.Stuck().scaled(1).result(LIMIT)


def test_closing_one_instance_leaves_the_executor_to_the_others() -> None:
    one, other = elsewhere.Model(1), elsewhere.Model(2)
    _, process = one.scaled(1).result(LIMIT)
    one.scaled.close()
    assert other.scaled(1).result(LIMIT) == (2, process)
    assert other.private(3).result(LIMIT)[0] == 3
    other.scaled.close()


def lambdas() -> list[Any]:
    def local(items: list[int]) -> list[int]:
        return items

    class Callable_:
        def __call__(self, items: list[int]) -> list[int]:
            return items

    def renamed(items: list[int]) -> list[int]:
        return items

    renamed.__qualname__ = "where"
    renamed.__module__ = "tests.elsewhere"

    def gone(items: list[int]) -> list[int]:
        return items

    gone.__qualname__ = "no_such_function"
    return [lambda items: items, local, Callable_(), renamed, gone, sorted]


@pytest.mark.parametrize("function", lambdas()[:-1], ids=lambda f: type(f).__name__)
def test_what_has_no_name_is_refused_by_the_call(
    function: Any, shared: ProcessPoolExecutor
) -> None:
    f = batched(function, executor=shared)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"executor.*name"):
            f(1)
    assert f.stats().accepted == 0
    with ThreadPoolExecutor(1) as executor:
        assert batched(function, executor=executor)(1).result(LIMIT) == 1


def test_a_function_of_c_goes_by_name(shared: ProcessPoolExecutor) -> None:
    f = batched(sorted, executor=shared, linger=None)
    results = [f(n) for n in (2, 1)]
    f.flush(LIMIT)
    assert [future.result() for future in results] == [1, 2]


@pytest.mark.parametrize("method", METHODS)
def test_a_function_of_the_main_module(method: str) -> None:
    """A forked child has the same `__main__`; in a new process it is another module."""
    script = f"""
        import multiprocessing, os
        from concurrent.futures import ProcessPoolExecutor
        from batchify import batched

        def make():
            return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context({method!r}))

        @batched(executor=make)
        def f(items):
            return [(item, os.getpid()) for item in items]

        if __name__ == "__main__":
            try:
                item, process = f(1).result()
                print(item, process != os.getpid())
            except ValueError as error:
                print(error)
    """
    told = output_of(script)
    if method == "fork":
        assert told == "1 True\n"
    else:
        assert "__main__" in told
        assert told.startswith("executor: ProcessPoolExecutor")


def output_of(script: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


# ---- results and errors ----


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


# ---- creating and replacing executors ----


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


@pytest.mark.parametrize("odd", ["no weak references", "no hash", "odd processes"])
def test_an_executor_of_its_own_kind(odd: str) -> None:
    class Slotted:
        __slots__ = ()

        def submit(self, function: Any, /, *args: Any) -> Any:
            return Opaque().submit(function, *args)

    class Unhashable(Opaque):
        def __eq__(self, other: object) -> bool:
            return NotImplemented

    class Odd(Opaque):
        _processes = 7

    kinds: Any = {"no weak references": Slotted, "no hash": Unhashable, "odd processes": Odd}
    f = batched(elsewhere.extra, executor=kinds[odd]())
    assert f(2, 3).result(LIMIT) == 6
    f._scope().executor_runner.abandon()


# ---- its life ----


def test_processes_go_when_it_is_closed() -> None:
    f = batched(elsewhere.where, executor=processes())
    _, process, _ = f(1).result(LIMIT)
    children = multiprocessing.active_children()
    assert process in {child.pid for child in children}
    f.close()
    gc.collect()
    until(lambda: process not in {child.pid for child in multiprocessing.active_children()})


@pytest.mark.parametrize("pool", ["ProcessPoolExecutor(1)", "ThreadPoolExecutor(1)"])
@pytest.mark.parametrize("is_made", [True, False])
def test_the_exit_of_the_process_runs_accepted_items(pool: str, is_made: bool) -> None:
    """Before the executor is ended, whichever was registered first."""
    told = output_of(f"""
        from batchify import batched
        from tests import elsewhere

        def make():
            from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
            return {pool}

        executor = {"make" if is_made else "make()"}
        f = batched(elsewhere.slow, size=1, executor=executor, exit_timeout=1000)
        if __name__ == "__main__":
            for n in range(5):
                f(0.01).add_done_callback(lambda future: print(future.result(), flush=True))
    """)
    assert told == "0.01\n" * 5


def test_a_batch_that_hangs_in_a_process_does_not_hold_this_one() -> None:
    told = output_of("""
        from batchify import batched
        from tests import elsewhere
        from concurrent.futures import ProcessPoolExecutor

        f = batched(elsewhere.slow, executor=lambda: ProcessPoolExecutor(1), exit_timeout=0.5)
        if __name__ == "__main__":
            future = f(3600.0)
            f(3600.0).add_done_callback(lambda future: print(type(future.exception()).__name__))
    """)
    assert told == "Closed\n"


@pytest.mark.parametrize("how", ["close", "detach"])
def test_a_hung_batch_without_items_does_not_hold_this_process(how: str) -> None:
    told = output_of(f"""
        import asyncio
        from batchify import batched
        from tests import elsewhere
        from concurrent.futures import ProcessPoolExecutor

        f = batched(elsewhere.slow, executor=lambda: ProcessPoolExecutor(1), exit_timeout=0.5)

        async def detach():
            await asyncio.wait_for(f(3600.0), 0.5)

        if __name__ == "__main__":
            try:
                if {how!r} == "close":
                    f(3600.0)
                    f.close(0.5)
                else:
                    asyncio.run(detach())
            except TimeoutError:
                print("left")
    """)
    assert told == "left\n"


@pytest.mark.deep
def test_a_hung_batch_does_not_end_those_of_others() -> None:
    told = output_of("""
        from batchify import batched
        from tests import elsewhere
        from concurrent.futures import ProcessPoolExecutor

        pool = ProcessPoolExecutor(2)
        hung = batched(elsewhere.slow, executor=pool, exit_timeout=0.3)
        good = batched(elsewhere.slow, executor=pool, exit_timeout=1000)
        if __name__ == "__main__":
            hung(3600.0)
            good(1.5).add_done_callback(lambda future: print(future.result(), flush=True))
    """)
    assert told == "1.5\n"


@pytest.mark.deep
@pytest.mark.skipif(importlib.util.find_spec("loky") is None, reason="loky is not installed")
@pytest.mark.parametrize("is_warm", [True, False])
def test_loky_at_the_end_of_the_process(is_warm: bool) -> None:
    told = output_of(f"""
        import loky
        from batchify import batched
        from tests import elsewhere

        f = batched(elsewhere.slow, size=1, executor=lambda: loky.get_reusable_executor(1))
        if __name__ == "__main__":
            if {is_warm}:
                f(0.01).result()
            for n in range(5):
                f(0.01).add_done_callback(lambda future: print(future.result(), flush=True))
    """)
    assert told == "0.01\n" * 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_cannot_use_an_executor_of_its_parent() -> None:
    """The child gets an error that says so, and the parent's executor continues."""
    told = output_of("""
        import os
        from batchify import batched
        from tests import elsewhere
        from concurrent.futures import ProcessPoolExecutor

        f = batched(elsewhere.where, executor=ProcessPoolExecutor(1))
        if __name__ == "__main__":
            f(1).result()
            pid = os.fork()
            if pid == 0:
                print(type(f(2).exception()).__name__, flush=True)
                raise SystemExit
            os.waitpid(pid, 0)
            print(f(3).result()[0])
    """)
    assert told == "RuntimeError\n3\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_its_own() -> None:
    """Run it in a separate process: a fork beside the threads of other tests may hang."""
    told = output_of("""
        import multiprocessing, os
        from concurrent.futures import ProcessPoolExecutor
        from batchify import batched
        from tests import elsewhere

        def call(f):
            f.start()
            item, process = f(7).result()
            f.close()
            return item, process, os.getpid()

        if __name__ == "__main__":
            f = batched(elsewhere.where, executor=elsewhere.pool)
            f(1).result()
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as forked:
                item, parent, child = forked.submit(call, elsewhere.decorated).result()
            print(item, len({parent, child, os.getpid()}), f(2).result()[0])
            f.close()
    """)
    assert told == "7 3 2\n"


def test_a_batch_that_waits_for_its_own_function() -> None:
    """In a thread of the executor's: Deadlock as in a worker, never a hang."""

    def work(items: list[int]) -> list[int]:
        return [f(item - 1).result() if item else 0 for item in items]

    with ThreadPoolExecutor(4) as executor:
        f = batched(work, executor=executor)
        with pytest.raises(Deadlock):
            f(1).result(LIMIT)
        assert f(0).result(LIMIT) == 0


def test_a_close_that_times_out(shared: ProcessPoolExecutor) -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        f = batched(lambda items: gate.wait(LIMIT) and items, executor=executor)
        future = f(1)
        with pytest.raises(TimeoutError):
            f.close(0.01)
        assert isinstance(future.exception(LIMIT), Closed)
        gate.set()


def test_awaited() -> None:
    async def main() -> list[Any]:
        f = batched(elsewhere.extra, executor=processes())
        results = await asyncio.gather(*(f(n, 2) for n in range(10)))
        await f.aclose()
        return results

    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]


# ---- the option ----


@pytest.mark.parametrize("value", [1, "processes", [], object()])
def test_objects_that_are_no_executors(value: Any) -> None:
    with pytest.raises(TypeError, match="executor"):
        batched(elsewhere.where, executor=value)


def test_no_async_function_makes_one() -> None:
    with pytest.raises(TypeError, match="executor"):
        batched(elsewhere.where, executor=elsewhere.awaited)


def test_only_for_def() -> None:
    with pytest.raises(TypeError, match="executor"):
        batched(elsewhere.awaited, executor=ThreadPoolExecutor)


def test_no_pickle_is_loaded_without() -> None:
    told = output_of("""
        import sys
        from batchify import batched
        assert batched(lambda items: items)(1).result() == 1
        print("batchify.remote" in sys.modules)
    """)
    assert told == "False\n"
