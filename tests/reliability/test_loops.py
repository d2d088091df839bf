"""Engines of loops that end, and a background loop that cannot start."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

from batchify import Closed, batched
from batchify.engine import background
from batchify.engine.seam import THREADS, ThreadSeam
from tests.asyncio.functions import AsyncGated, both
from tests.limits import LIMIT
from tests.manual import Gated, batched_with, batchify_threads, in_thread, until


def test_many_loops_one_after_another(kind: str) -> None:
    f = both(kind)

    async def main() -> int:
        return await f(1)

    before = batchify_threads()
    for _ in range(50):
        assert asyncio.run(main()) == 2
    assert len(batchify_threads() - before) <= 1
    if kind == "async def":
        assert f._scope().engines() == []
    assert f.stats().succeeded == 50


def test_a_loop_closed_without_its_end_ends_the_items() -> None:
    gated = AsyncGated()
    f = batched(gated, size=1)
    loop = asyncio.new_event_loop()
    futures: list[Any] = []

    async def main() -> None:
        futures.extend(f(n) for n in range(3))

    loop.run_until_complete(main())
    waiter = in_thread(futures[2].result)
    until(lambda: f._scope().engines()[0].watched)
    loop.close()
    with pytest.raises(Closed):
        waiter.result()
    assert [type(x.exception(0)) for x in futures] == [Closed] * 3
    assert f.stats().failed == 3
    assert f(5) is not None
    gated.is_open = True
    f.flush(LIMIT)


def test_calls_that_waited_for_capacity_at_a_close_are_forgotten() -> None:
    gated = Gated()

    def function(items: list[int], table: str) -> list[Any]:
        return gated(items)

    f = batched(function, size=1, capacity=1)

    async def main() -> None:
        runs = f(1, "a")
        waits = f(2, "b")
        gated.wait_started(1)
        closing = in_thread(f.close)
        with pytest.raises(Closed):
            await waits
        gated.open()
        assert await runs == ("done", 1)
        closing.result()

    asyncio.run(main())
    assert f._scope().routes == {}


def test_a_background_loop_that_gets_no_thread() -> None:
    class Refusing(ThreadSeam):
        refusals = 1

        def spawn(self, *args: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise RuntimeError("can't start new thread")
            return THREADS.spawn(*args)

    async def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    f = batched_with(Refusing(), double)
    gc.collect()  # those of other tests
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "_background", None)
        with pytest.raises(RuntimeError, match="new thread"):
            f(1)
        gc.collect()  # an unclosed loop would warn
        assert f(2).result(LIMIT) == 4
        f.close(LIMIT)


def test_a_background_loop_whose_start_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    # A handler raises while `Thread.start` waits: the thread exists, but has not run yet.
    complaints: list[object] = []
    monkeypatch.setattr(threading, "excepthook", complaints.append)
    late: list[threading.Thread] = []

    class Interrupted(ThreadSeam):
        def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:
            if late:
                return THREADS.spawn(target, args, name)
            late.append(threading.Thread(target=target, args=args, name=name, daemon=True))
            raise KeyboardInterrupt

    async def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    f = batched_with(Interrupted(), double)
    gc.collect()  # those of other tests
    monkeypatch.setattr(background, "_background", None)
    with pytest.raises(KeyboardInterrupt):
        f(1)
    late[0].start()
    late[0].join()
    assert not complaints
    assert f(2).result(LIMIT) == 4
    f.close(LIMIT)
