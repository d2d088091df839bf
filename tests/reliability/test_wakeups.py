"""Contracts of docs/reliability.md on threads that cannot start, wake-ups and clocks that jump."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from batchify import BatchAborted, batched
from batchify.engine.seam import ThreadBell, ThreadSeam
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until

# ---- C-08: start before accept ----


class Refusing(ThreadSeam):
    """A machine that cannot start threads for a while."""

    def __init__(self) -> None:
        self.has_threads = False

    def spawn(self, *args: Any) -> Any:  # type: ignore[override]
        if not self.has_threads:
            raise RuntimeError("can't start new thread")
        return ThreadSeam.spawn(*args)


@pytest.mark.parametrize(
    "options", [{}, {"key": bool}, {"linger": None}, {"linger": 60.0}], ids=str
)
def test_a_call_that_finds_no_thread_raises_and_leaves_no_item(options: dict[str, Any]) -> None:
    seam = Refusing()
    ran: list[int] = []
    f = batched_with(seam, lambda items: ran.extend(items), **options)
    for n in range(3):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            f(n)
    assert f.stats().rejected == f.stats().submitted == 3
    assert f.stats().accepted == f.stats().pending == 0
    f.flush(LIMIT)
    seam.has_threads = True
    future = f(3)
    f.flush(LIMIT)
    assert future.result(LIMIT) is None
    assert ran == [3]
    f.close(LIMIT)
    seam.has_threads = False
    f.start()
    with pytest.raises(RuntimeError, match="can't start new thread"):
        f(4)
    f.close(LIMIT)


def test_a_close_that_finds_no_thread_raises_and_leaves_it_open() -> None:
    seam = Refusing()
    seam.has_threads = True
    ran: list[int] = []
    f = batched_with(seam, lambda items: ran.extend(items), linger=60.0)
    future = f(1)
    [engine] = f._scope().engines()
    until(lambda: engine._idle)
    engine._threads.clear()  # as if its thread had been lost
    engine._idle.clear()
    engine._alarms.clear()
    seam.has_threads = False
    for wait in (f.close, f.flush):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            wait(LIMIT)
    assert f.stats().pending == 1
    seam.has_threads = True
    f.close(LIMIT)
    assert future.result(0) is None
    assert ran == [1]


# ---- C-45: one wake-up for a batch and a loop ----


@pytest.mark.parametrize("count", [10, 10_000])
def test_a_loop_is_woken_once_for_a_batch(count: int) -> None:
    gated = Gated()
    f = batched(gated, size=count, linger=None, capacity=None)

    async def main() -> int:
        loop = asyncio.get_running_loop()
        futures = [f(n) for n in range(count)]
        wakes = 0
        threadsafe = loop.call_soon_threadsafe

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal wakes
            wakes += 1
            return threadsafe(*args, **kwargs)

        loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        gated.release()
        assert await asyncio.gather(*futures) == [("done", n) for n in range(count)]
        return wakes

    assert asyncio.run(main()) == 1


# ---- C-62: a clock that jumps, as after a suspend ----


def test_a_jump_of_the_clock_dispatches_late_items_once() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, linger=5.0, workers=2)
    late = [f(n) for n in range(3)]
    seam.advance(1_000_000.0)
    assert [future.done() for future in late] == [True] * 3
    young = f(3)  # a stale timer would dispatch it at once
    seam.advance(4.9)
    assert not young.running()
    assert not young.done()
    seam.advance(0.2)
    assert young.done()
    assert gated.batches == [[0, 1, 2], [3]]


# ---- C-70: one call gets capacity, one thread wakes up ----


def test_one_free_slot_wakes_one_of_five_hundred_blocked_callers() -> None:
    rung: list[Any] = []

    class CountedBell(ThreadBell):
        __slots__ = ()

        def ring(self, _: object = None) -> None:
            rung.append(self)
            super().ring()

    class Counting(ThreadSeam):
        bell = staticmethod(CountedBell)

    gated = Gated()
    f = batched_with(Counting(), gated, size=1, capacity=1)
    f(0)
    gated.wait_started(1)
    blocked = []
    threading.stack_size(256 * 1024)
    try:
        for n in range(1, 501):
            blocked.append(in_thread(f, n))
            until(lambda n=n: f.stats().submitted == n + 1)
    finally:
        threading.stack_size(0)
    [engine] = f._scope().engines()
    workers = set(engine._threads)
    rung.clear()
    gated.release()
    gated.wait_started(2)
    assert blocked[0].result() is not None
    assert len([bell for bell in rung if bell not in workers]) == 1
    assert not any(call.is_done() for call in blocked[1:])
    gated.open()
    for call in blocked:
        call.result()
    f.flush(LIMIT)
    assert [item for [item] in gated.batches] == list(range(501))  # in the order of blocking


# ---- C-72: a function that always takes its worker down, or would ----


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_a_function_that_always_raises_the_worst_keeps_its_one_worker(error: Any) -> None:
    threads: set[int] = set()

    def work(items: list[int]) -> None:
        threads.add(threading.get_ident())
        raise error

    f = batched(work, size=1)
    for n in range(300):
        assert isinstance(f(n).exception(LIMIT), BatchAborted)
    assert len(threads) == f.stats().workers == 1
    assert f.stats().failed == 300
