"""The same for asyncio: an `asyncio.Queue`, an `asyncio.Future` for each item, some tasks.

A call is a plain function that gives the future: `async def` would cost a task for each item
in `asyncio.gather`, more than all the rest. A plain batch function is called on the loop, which
stands still meanwhile: a mark to compare with, where that function costs nothing.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from .base import ASYNCIO, BRIDGED, Rival


class HandWrittenAsyncio(Rival):
    name = "hand-written asyncio"
    ways = (ASYNCIO, BRIDGED)

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.size, self.linger = size, linger
        self.function = function if inspect.iscoroutinefunction(function) else on_loop(function)
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self.tasks = [self.loop.create_task(self.work()) for _ in range(workers)]

    def acall(self, item: Any) -> asyncio.Future[Any]:
        future = self.loop.create_future()
        self.queue.put_nowait((item, future))
        return future

    async def aclose(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def work(self) -> None:
        while True:
            batch = [await self.queue.get()]
            await self.fill(batch)
            await self.run(batch)

    async def fill(self, batch: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        """Wait for company."""
        deadline = self.loop.time() + self.linger
        while len(batch) < self.size:
            try:
                batch.append(self.queue.get_nowait())
            except asyncio.QueueEmpty:
                if self.loop.time() >= deadline:
                    return
                try:
                    async with asyncio.timeout_at(deadline):
                        batch.append(await self.queue.get())
                except TimeoutError:
                    return

    async def run(self, batch: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        batch = [entry for entry in batch if not entry[1].done()]  # some were cancelled
        if not batch:
            return
        try:
            results = await self.function([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)


def on_loop(function: Any) -> Any:
    async def call(items: list[Any]) -> Any:
        return function(items)

    return call
