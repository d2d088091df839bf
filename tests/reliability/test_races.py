"""Two threads that run into each other at one exact instant: races that were found and fixed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from batchify import batched
from batchify.engine import lifecycle
from tests.limits import LIMIT
from tests.manual import in_thread


def engine_of(f: Any) -> Any:
    return f._scope().here()


def test_a_late_view_notifies_waiters_that_already_have_it() -> None:
    """Two threads look at a future with `concurrent.futures.wait`, while its batch ends."""
    f = batched(lambda items: items, linger=None)
    future = f(1)
    views: list[Any] = []
    told: list[Any] = []

    class Waiter:
        def add_result(self, done: Any) -> None:
            told.append(done)

    def late(poke: Any) -> bool:
        del future._watch  # this once
        # The other thread has the view that is being created here, and waits.
        other: Any = in_thread(lambda: future._view).result()
        with other.condition:
            assert future._state == "PENDING"
            other.waiters.append(Waiter())
        views.append(other)
        f.flush(LIMIT)
        return future._watch(poke)

    future._watch = late  # type: ignore[method-assign]
    assert future._view is views[0]
    assert told == [future]
    assert future._state == "FINISHED"


def test_engines_come_and_go_while_another_thread_reads_all() -> None:
    f = batched(lambda items: items)
    engine = engine_of(f)
    is_over = threading.Event()

    def make() -> None:
        while not is_over.is_set():
            for _ in range(20):  # the earlier ones are gone by then
                engine_of(batched(lambda items: items))

    makers = [in_thread(make) for _ in range(2)]
    try:
        for _ in range(2000):
            assert engine in lifecycle.all_engines()
    finally:
        is_over.set()
    for maker in makers:
        maker.result()


def test_the_counts_of_a_loop_that_closes_while_they_are_added_up() -> None:
    @batched
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> None:
        await f(1)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    scope: Any = f._scope()
    (port,) = scope._engines

    class Lock:
        """The loop is closed and forgotten just before another thread gets the lock."""

        def __enter__(self) -> None:
            scope._lock = lock
            scope.forget(port)
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    lock, scope._lock = scope._lock, Lock()
    assert f.stats().succeeded == 1
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    assert f.stats().succeeded == 1
