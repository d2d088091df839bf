"""The data loader of strawberry-graphql.

A call opens a batch that leaves at the next tick of the loop, or takes the next
`max_batch_size` (size) calls; each batch has a task. There is no linger, and no workers: every
batch runs beside all others. Its cache is off. A plain function is run in a pool of `workers`
threads.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

from strawberry.dataloader import DataLoader

from .base import ASYNCIO, BRIDGED, Rival
from .bridge import awaitable


class Strawberry(Rival):
    name = "strawberry"
    ways = (ASYNCIO, BRIDGED)
    version = metadata.version("strawberry-graphql")

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)  # has no thread before it is used
        self.loader = DataLoader(awaitable(function, self.pool), max_batch_size=size, cache=False)
        self.acall = self.loader.load  # gives a future
        self.amap = self.loader.load_many

    async def aclose(self) -> None:
        self.pool.shutdown()
