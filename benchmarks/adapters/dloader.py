"""dloader: a data loader for asyncio that cleans up after itself.

A task at the next tick of the loop takes `max_batch_size` (size) keys, and starts the task for
the next batch if any are left. There is no linger, and no workers: every batch runs beside all
others. Its cache is off, but equal keys that wait at the same time are still merged into one: it
is to be compared with unequal ones only. A plain function is run in a pool of `workers` threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

from dloader import DataLoader

from .base import ASYNCIO, BRIDGED, Rival
from .bridge import awaitable


class DLoader(Rival):
    name = "dloader"
    ways = (ASYNCIO, BRIDGED)
    version = metadata.version("dloader")
    # Each batch is cut off the front of the list of all waiting keys, which is copied: quadratic.
    not_in = ("S7a",)

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)  # has no thread before it is used
        self.loader = DataLoader(awaitable(function, self.pool), max_batch_size=size, cache=False)
        self.acall = self.loader.load  # gives a future
        self.amap = self.loader.load_many

    async def aclose(self) -> None:
        await self.loader.shutdown()
        self.pool.shutdown()
