"""async-batcher: a subclass of `AsyncBatcher` whose `process_batch` takes a list, for asyncio.

One task fills a batch, with one `asyncio.wait_for(queue.get())` per item, and starts a task for
it. size is its `max_batch_size`, workers its `concurrency`, linger its `max_queue_time`. While a
batch is younger than that, it waits up to the same time again for the next item. The queue has no
limit. A call is a coroutine. A `def` runs in its `executor`, a pool with one thread per worker.
"""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

from async_batcher.batcher import AsyncBatcher

from .base import ASYNCIO, BRIDGED, Rival


class AsyncBatcherRival(Rival):
    name = "async-batcher"
    modes = (ASYNCIO, BRIDGED)
    version = metadata.version("async-batcher")

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)  # starts no thread before it is used
        batcher = OfCoroutine if inspect.iscoroutinefunction(function) else OfFunction
        self.batcher = batcher(
            max_batch_size=size, max_queue_time=linger, concurrency=workers, executor=self.pool
        )
        self.batcher.function = function
        self.acall = self.batcher.process

    async def aclose(self) -> None:
        # Without `force` it would wait for its empty queue for another second. Before it waits
        # there, `asyncio.wait_for` of CPython 3.11 may swallow the cancellation.
        await asyncio.sleep(0.01)
        await self.batcher.stop(force=True)
        self.pool.shutdown()


class OfCoroutine(AsyncBatcher[Any, Any]):
    function: Any

    async def process_batch(self, batch: list[Any]) -> list[Any]:
        return await self.function(batch)


class OfFunction(AsyncBatcher[Any, Any]):
    function: Any

    def process_batch(self, batch: list[Any]) -> list[Any]:
        return self.function(batch)
