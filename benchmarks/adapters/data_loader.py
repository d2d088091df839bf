"""What the rivals that are data loaders share: the same constructor, and the same two calls.

All calls of one tick of the loop go together. There is no linger, and no workers: every batch runs
beside all others. The cache is off. A plain function is run in a pool of `workers` threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .base import ASYNCIO, BRIDGED, Rival
from .bridge import awaitable


class DataLoaderRival(Rival):
    ways = (ASYNCIO, BRIDGED)
    loader_type: Any

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)  # has no thread before it is used
        function = awaitable(function, self.pool)
        self.loader = self.loader_type(function, max_batch_size=size, cache=False)
        self.acall = self.loader.load  # gives a future
        self.amap = self.loader.load_many

    async def aclose(self) -> None:
        self.pool.shutdown()
