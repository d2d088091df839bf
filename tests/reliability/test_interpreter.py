"""Differences between interpreters: no GIL, and how the lock-free code works without one.

These tests have a GIL, but the code is told that it has none, so every interpreter runs the code
for free-threaded builds. `tests/interpreters/run 3.13t` tests it on such a build.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from batchify import batched
from batchify.interpreter import has_gil
from batchify.loopfuture import port_of
from tests.limits import LIMIT
from tests.manual import in_thread, until


@pytest.fixture
def _no_gil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert not has_gil()


def engine_of(f: Any) -> Any:
    return f._scope().here()


def passes_the_lock(engine: Any, act: Callable[[], Any]) -> None:
    """Check that `act` ends although the engine's lock is held."""
    with engine._lock:
        in_thread(act).result()


def waits_for_the_lock(engine: Any, act: Callable[[], Any]) -> None:
    """Check that `act` ends only when the engine's lock is free."""
    with engine._lock:
        call = in_thread(act)
        call.thread.join(0.1)  # if it is late, it cannot make the test fail
        assert call.thread.is_alive()
    call.result()


def test_with_a_gil_no_thread_passes_the_lock() -> None:
    if not has_gil():
        pytest.skip("there is no GIL")
    f = batched(lambda items: items, linger=None)
    future = f(0)
    engine = engine_of(f)
    passes_the_lock(engine, lambda: f(1))
    passes_the_lock(engine, lambda: f.submit(2))
    passes_the_lock(engine, lambda: future.add_done_callback(str))
    f.close()


@pytest.mark.usefixtures("_no_gil")
def test_without_a_gil_a_submit_is_one_step() -> None:
    f = batched(lambda items: items, linger=None)
    f(0)
    engine = engine_of(f)
    waits_for_the_lock(engine, lambda: f(1))
    waits_for_the_lock(engine, lambda: f.submit(2))
    f.flush(LIMIT)
    assert f.stats().succeeded == 3


@pytest.mark.usefixtures("_no_gil")
def test_without_a_gil_a_submit_on_a_loop_is_one_step() -> None:
    @batched(linger=None)
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> None:
        futures = [f(n) for n in range(3)]
        engine = engine_of(f)
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with engine._lock:
                held.set()
                go_on.wait(LIMIT)

        holder = in_thread(hold)
        held.wait(LIMIT)
        threading.Timer(0.05, go_on.set).start()
        futures.append(f(3))
        assert go_on.is_set()
        holder.result()
        await f.aflush(LIMIT)
        assert [await future for future in futures] == [0, 1, 2, 3]

    asyncio.run(main())


@pytest.mark.usefixtures("_no_gil")
def test_without_a_gil_a_thread_that_adds_a_waiter_passes_the_lock() -> None:
    f = batched(lambda items: items, linger=None)
    future = f(0)
    told: list[int] = []
    watch = lambda: future.add_done_callback(lambda done: told.append(done.result()))
    waits_for_the_lock(engine_of(f), watch)
    f.flush(LIMIT)
    until(lambda: told == [0])


def test_without_a_gil_a_waiter_may_register_during_notification() -> None:
    """Copying a deque takes the lock of it in several steps there."""
    f = batched(lambda items: items, linger=None)
    future = f(0)
    told: list[int] = []

    class Disturbed(deque[Any]):
        copies = 0

        def copy(self) -> Disturbed:
            Disturbed.copies += 1
            if Disturbed.copies < 3:
                raise RuntimeError("deque mutated during iteration")
            return Disturbed(self)

    future.add_done_callback(lambda done: told.append(done.result()))
    watched = engine_of(f).watched
    watched[future] = Disturbed(watched[future])
    f.flush(LIMIT)
    assert future.result(0) == 0
    until(lambda: told == [0])
    f.close(LIMIT)


@pytest.mark.usefixtures("_no_gil")
def test_without_a_gil_a_thread_that_finds_a_route_passes_the_lock() -> None:
    f = batched(lambda items, extra: items, linger=None)
    f(0, extra=1)
    engine = engine_of(f)
    waits_for_the_lock(engine, lambda: engine._route((("a",),), len, (), {}, lambda: None).users)


@pytest.mark.usefixtures("_no_gil")
def test_without_a_gil_each_post_calls_the_loop() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        calls: list[Any] = []
        loop.call_soon_threadsafe = lambda function: calls.append(function)  # type: ignore
        port = port_of(loop)
        for _ in range(3):
            in_thread(lambda: port.post([], None)).result()
        assert len(calls) == 3

    asyncio.run(main())


@pytest.mark.usefixtures("_no_gil")
def test_without_a_gil_waits_that_could_never_end_are_seen() -> None:
    from batchify import Deadlock

    @batched(workers=1)
    def f(items: list[int]) -> list[object]:
        return [f(item - 1).result() if item else "end" for item in items]

    with pytest.raises(Deadlock):
        f(1).result(LIMIT)
