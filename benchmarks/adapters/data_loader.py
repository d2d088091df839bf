"""The base class of the data loaders, which have the same constructor and the same two calls.

All calls of one tick of the loop share batches. There is no linger and no limit on concurrent
batches. The cache is off. A `def` runs in a pool of `workers` threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .base import ASYNCIO, BRIDGED, Rival
from .bridge import awaitable


class DataLoaderRival(Rival):
    modes = (ASYNCIO, BRIDGED)
    loader_type: Any

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)  # starts no thread before it is used
        function = awaitable(function, self.pool)
        self.loader = self.loader_type(function, max_batch_size=size, cache=False)
        self.acall = self.loader.load  # returns a future
        self.amap = self.loader.load_many

    async def aclose(self) -> None:
        self.pool.shutdown()
