"""pybatcher: `Batcher(function).submit_request(item)`, for threads and asyncio.

It runs the function on an event loop: in a thread of its own, one batch at a time, or on the
caller's loop. size is its `max_batch_size`, linger its `batch_delay`, which cannot be 0: a
microsecond stands for that. It knows no workers, and no bound.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import warnings
from concurrent.futures import Future
from importlib import metadata
from typing import Any

from pybatcher import Batcher

from .base import ASYNCIO, BRIDGED, THREADS, Rival

logging.getLogger("pybatcher").setLevel(logging.ERROR)  # it warns at each close
# To wake its loop it makes a coroutine for each batch, and forgets it.
warnings.filterwarnings("ignore", "coroutine 'start_task.<locals>.awaiter' was never awaited")


class PyBatcher(Rival):
    name = "pybatcher"
    ways = (THREADS, ASYNCIO, BRIDGED)
    version = metadata.version("pybatcher")

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        is_async = asyncio.iscoroutinefunction(function)
        self.batcher = Batcher(
            function,
            batch_delay=max(linger, 1e-6),
            max_batch_size=size,
            loop=asyncio.get_running_loop() if is_async else None,
        )
        self.acall = self.batcher.handle_request

    def submit(self, item: Any) -> Future[Any]:
        return self.batcher.submit_request(item)

    def close(self) -> None:
        self.batcher.close()
        atexit.unregister(self.batcher.close)

    async def aclose(self) -> None:
        self.close()
