"""Batch functions for callers on event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from batchify import batched


class AsyncGated:
    """An async batch function that records its batches; each waits until the test releases it."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.is_open = is_open
        self.permits = 0

    async def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(list(items))
        while not self.is_open and not self.permits:
            await asyncio.sleep(0)
        if not self.is_open:
            self.permits -= 1
        return [("done", item) for item in items]


async def ticks(fact: Callable[[], Any]) -> None:
    """Run the loop until `fact()` is true."""
    for _ in range(100_000):
        if fact():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not become true in time")


def both(kind: str, **options: Any) -> Any:
    """Return the same function as `def` and as `async def`."""
    if kind == "def":
        return batched(lambda items: [item * 2 for item in items], **options)

    async def double(items: list[int]) -> list[int]:
        return [item * 2 for item in items]

    return batched(double, **options)
