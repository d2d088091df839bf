"""batchlet: `AsyncBatcher(processor).submit(item)`, for asyncio.

One task selects batches from a deque and starts a task for each. size is the policy's
`max_items`, linger its `max_wait_ms`, workers its `max_concurrent_batches`. Its queue always has a
limit, which is set too high to be reached. A call is a coroutine. A `def` goes through
batchlet's own `threaded`, to a pool with one thread per worker.
"""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

from batchlet import AsyncBatcher, BatchPolicy, threaded

from .base import ASYNCIO, BRIDGED, Rival


class Batchlet(Rival):
    name = "batchlet"
    modes = (ASYNCIO, BRIDGED)
    version = metadata.version("batchlet")
    # For each batch it copies the queue of all waiting items: quadratic.
    not_in = ("S7a",)

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)  # starts no thread before it is used
        if not inspect.iscoroutinefunction(function):
            function = threaded(function, executor=self.pool)
        self.batcher = AsyncBatcher(
            function,
            policy=BatchPolicy(max_items=size),
            max_wait_ms=linger * 1000,
            max_concurrent_batches=workers,
            max_pending_items=10**9,
        )
        self.acall = self.batcher.submit

    async def aclose(self) -> None:
        await self.batcher.aclose()
        self.pool.shutdown()
