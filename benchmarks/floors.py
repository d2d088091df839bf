"""Floors: the minimum that any batcher must do, and nothing else.

They handle no errors and no cancellation, and have no capacity and no linger. They are not meant
for use: they show how fast a batcher could be at best. Each names its scenarios.
"""

from __future__ import annotations

import asyncio
import threading
import time
from _thread import allocate_lock
from asyncio import _get_running_loop as running_loop
from collections import deque
from collections.abc import Iterable
from contextvars import Context
from typing import Any

from .adapters.base import ASYNCIO, THREADS, Rival


class _Slot:
    """Holds an item, and later its result."""

    __slots__ = ("floor", "is_done", "value")

    def result(self) -> Any:
        if not self.is_done:
            self.floor.drain(self)
        return self.value


class DequeAndSlices(Rival):
    """Callers that fill a batch or wait for a result call the function; no thread is woken."""

    name = "floor: deque and slices"
    modes = (THREADS,)
    scenarios = ("S2", "S21", "S4", "S7")
    is_floor = True

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.function, self.size = function, size
        self.queue: deque[_Slot] = deque()

    def submit(self, item: Any) -> _Slot:
        slot = _Slot()
        slot.value = item
        slot.floor = self
        slot.is_done = False
        queue = self.queue
        queue.append(slot)
        if len(queue) >= self.size:
            self.run()
        return slot

    def run(self) -> None:
        take = self.queue.popleft
        batch = []
        try:
            for _ in range(self.size):
                batch.append(take())
        except IndexError:  # other threads take items too
            pass
        if batch:
            results = self.function([slot.value for slot in batch])
            for slot, result in zip(batch, results, strict=True):
                slot.value = result
                slot.is_done = True

    def drain(self, slot: _Slot) -> None:
        while self.queue:
            self.run()
        while not slot.is_done:  # another thread runs its batch
            time.sleep(0)

    def map(self, items: Iterable[Any]) -> list[Any]:
        items, size, function = list(items), self.size, self.function
        results: list[Any] = []
        for start in range(0, len(items), size):
            results += function(items[start : start + size])
        return results


class _Sleeper:
    """A raw lock that the worker releases."""

    __slots__ = ("lock", "value")

    def result(self) -> Any:
        self.lock.acquire()
        return self.value


class SleepWakePairs(Rival):
    """A thread that takes what is queued, and wakes each caller with a raw lock."""

    name = "floor: sleep/wake pairs"
    modes = (THREADS,)
    scenarios = ("S3", "S3u", "S3s")
    is_floor = True

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.function, self.size = function, size
        self.queue: deque[_Sleeper | None] = deque()
        self.is_asleep = allocate_lock()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def submit(self, item: Any) -> _Sleeper:
        sleeper = _Sleeper()
        sleeper.value = item
        sleeper.lock = lock = allocate_lock()
        lock.acquire()
        self.queue.append(sleeper)
        self.ring()
        return sleeper

    def ring(self) -> None:
        if self.is_asleep.locked():
            try:
                self.is_asleep.release()
            except RuntimeError:  # another caller released it first
                return

    def close(self) -> None:
        self.queue.append(None)
        self.ring()
        self.thread.join()

    def work(self) -> None:
        queue, size, is_asleep = self.queue, self.size, self.is_asleep
        while True:
            while queue:
                batch: list[Any] = [queue.popleft() for _ in range(min(size, len(queue)))]
                if batch[-1] is None:
                    return
                results = self.function([sleeper.value for sleeper in batch])
                for sleeper, result in zip(batch, results, strict=True):
                    sleeper.value = result
                    sleeper.lock.release()
            is_asleep.acquire(False)
            if not queue:  # a caller that appended before the lock was taken did not ring
                is_asleep.acquire()


class _MinimalFuture:
    """The part of a future that `await` and `asyncio.gather` use."""

    __slots__ = ("_asyncio_future_blocking", "_loop", "callback", "context", "is_done", "value")

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def done(self) -> bool:
        return self.is_done

    def cancelled(self) -> bool:
        return False

    def exception(self) -> None:
        return None

    def result(self) -> Any:
        return self.value

    def add_done_callback(self, callback: Any, *, context: Context | None = None) -> None:
        self.callback = callback
        self.context = context

    def __await__(self) -> Any:
        if not self.is_done:
            self._asyncio_future_blocking = True
            yield self
        return self.value


class LoopFutures(Rival):
    """Minimal futures, one task per batch, and one loop handle that wakes a whole batch."""

    name = "floor: loop futures"
    modes = (ASYNCIO,)
    scenarios = ("S1", "S1k", "S3a", "S3a0", "S4a")
    is_floor = True

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.function, self.size = function, size
        self.loop = asyncio.get_running_loop()
        self.queue: list[_MinimalFuture] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def acall(self, item: Any) -> _MinimalFuture:
        future = _MinimalFuture()
        future._loop = running_loop()
        future._asyncio_future_blocking = False
        future.callback = future.context = None
        future.is_done = False
        future.value = item
        queue = self.queue
        queue.append(future)
        if len(queue) == 1:
            task = self.loop.create_task(self.work())
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        return future

    async def work(self) -> None:
        while self.queue:
            batch = self.queue[: self.size]
            del self.queue[: self.size]
            results = await self.function([future.value for future in batch])
            for future, result in zip(batch, results, strict=True):
                future.value = result
                future.is_done = True
            self.loop.call_soon(wake, batch)


def wake(batch: list[_MinimalFuture]) -> None:
    for future in batch:
        if future.context is not None:
            future.context.run(future.callback, future)
        elif future.callback is not None:
            future.callback(future)


class BareTasks(Rival):
    """Tasks that await nothing: what asyncio takes for one task per call."""

    name = "floor: bare tasks"
    modes = (ASYNCIO,)
    scenarios = ("S1t",)
    is_floor = True

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.function = function
        self.calls = 0

    async def acall(self, item: Any) -> Any:
        self.calls += 1
        return item

    async def aclose(self) -> None:
        return
