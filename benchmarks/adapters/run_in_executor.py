"""What one writes on a loop without batching: `loop.run_in_executor`, a call for each item.

As many threads as there are workers; no size and no linger.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .base import BRIDGED, Rival


class RunInExecutor(Rival):
    name = "run_in_executor"
    ways = (BRIDGED,)

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)
        self.loop = asyncio.get_running_loop()
        self.one = lambda item: function([item])[0]

    def acall(self, item: Any) -> asyncio.Future[Any]:
        return self.loop.run_in_executor(self.pool, self.one, item)

    async def aclose(self) -> None:
        self.pool.shutdown()
