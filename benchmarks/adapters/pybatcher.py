"""pybatcher: `Batcher(function).handle_request(item)`, here on the caller's loop.

Each batch is an object with a task for the function and one for its timer. size is its
`max_batch_size`, linger its `batch_delay`, which cannot be 0: a microsecond stands for that. It
knows no workers (every batch runs beside all others), and no bound. A call is a coroutine around
a wrapped `concurrent.futures.Future`. It would call a plain function on the loop itself, so that
is run in a pool of `workers` threads.

Not in threads, though it has a `submit_request` for them: its loop is then in another thread, and
when a batch's timer fires while an item is being added, the caller gets `RuntimeError("Batch
already started.")`. That ended two of three runs of S7.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

from pybatcher import Batcher

from .base import ASYNCIO, BRIDGED, Rival
from .bridge import awaitable

logging.getLogger("pybatcher").setLevel(logging.ERROR)  # it warns at each close
# To wake its loop it makes a coroutine for each batch, and forgets it.
warnings.filterwarnings("ignore", "coroutine 'start_task.<locals>.awaiter' was never awaited")


class PyBatcher(Rival):
    name = "pybatcher"
    ways = (ASYNCIO, BRIDGED)
    version = metadata.version("pybatcher")

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)  # has no thread before it is used
        self.batcher = Batcher(
            awaitable(function, self.pool),
            batch_delay=max(linger, 1e-6),
            max_batch_size=size,
            loop=asyncio.get_running_loop(),
        )
        self.acall = self.batcher.handle_request

    async def aclose(self) -> None:
        self.batcher.close()
        self.pool.shutdown()
