"""A loop without batching: `loop.run_in_executor`, with one function call per item.

It has one thread per worker, and no size and no linger.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .base import BRIDGED, Rival


class RunInExecutor(Rival):
    name = "run_in_executor"
    modes = (BRIDGED,)

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)
        self.loop = asyncio.get_running_loop()
        self.one = lambda item: function([item])[0]

    def acall(self, item: Any) -> asyncio.Future[Any]:
        return self.loop.run_in_executor(self.pool, self.one, item)

    async def aclose(self) -> None:
        self.pool.shutdown()
