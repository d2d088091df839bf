"""The hand-written batcher for asyncio: a queue, a future per item, and some tasks.

A call is a `def` that returns the future, because with an `async def` `asyncio.gather` would make a
task per item, which costs more than everything else. If the batch function is a `def`, it is called
on the loop and blocks it. That is fair as a reference only because the function costs nothing.
"""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from .base import ASYNCIO, BRIDGED, Rival


class HandWrittenAsyncio(Rival):
    name = "hand-written asyncio"
    modes = (ASYNCIO, BRIDGED)

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
        """Wait for more items, until the batch is full or the linger is over."""
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
        batch = [entry for entry in batch if not entry[1].done()]  # without cancelled items
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
