"""pybatcher: `Batcher(function).handle_request(item)`, here on the caller's loop.

Each batch is an object with a task for the function and one for its timer. size is its
`max_batch_size`, linger its `batch_delay`, which cannot be 0, so a microsecond is used instead. It
limits neither concurrent batches nor pending items. A call is a coroutine around a wrapped
`concurrent.futures.Future`. It would call a `def` on the loop itself, so the adapter runs that in a
pool of `workers` threads.

It is not measured in threads, although it has `submit_request` for them: its loop then runs in
another thread, and if a batch's timer fires while an item is being added, the caller gets
`RuntimeError("Batch already started.")`. That ended two of three runs of S7.
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

logging.getLogger("pybatcher").setLevel(logging.ERROR)  # it warns at every close
# To wake its loop it creates a coroutine per batch, which it never awaits.
warnings.filterwarnings("ignore", "coroutine 'start_task.<locals>.awaiter' was never awaited")


class PyBatcher(Rival):
    name = "pybatcher"
    modes = (ASYNCIO, BRIDGED)
    version = metadata.version("pybatcher")

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)  # starts no thread before it is used
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
