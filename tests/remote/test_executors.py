"""`executor=`: batches in other threads, processes and machines (contract 2, 7 and 8)."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import threading
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from batchify import Deadlock, batched
from tests import elsewhere
from tests.limits import LIMIT
from tests.manual import in_thread
from tests.remote.executors import METHODS, Opaque, output_of, processes

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


def test_a_batch_that_waits_for_its_own_function() -> None:
    """In a thread of the executor's: Deadlock as in a worker, never a hang."""

    def work(items: list[int]) -> list[int]:
        return [f(item - 1).result() if item else 0 for item in items]

    with ThreadPoolExecutor(4) as executor:
        f = batched(work, executor=executor)
        with pytest.raises(Deadlock):
            f(1).result(LIMIT)
        assert f(0).result(LIMIT) == 0


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
