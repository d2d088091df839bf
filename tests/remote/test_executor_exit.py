"""`executor=`: close, the exit of the process, and forks."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

from batchify import Closed, batched
from tests import elsewhere
from tests.limits import LIMIT
from tests.manual import until
from tests.remote.executors import output_of, processes


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessPoolExecutor]:
    with processes(workers=2)() as executor:
        yield executor


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


def test_a_close_that_times_out(shared: ProcessPoolExecutor) -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        f = batched(lambda items: gate.wait(LIMIT) and items, executor=executor)
        future = f(1)
        with pytest.raises(TimeoutError):
            f.close(0.01)
        assert isinstance(future.exception(LIMIT), Closed)
        gate.set()
