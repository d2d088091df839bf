"""batched, of mixedbread: the closest relative, a decorator for threads and one for asyncio.

Both poll: one thread (or task) sleeps `timeout_ms` while fewer than `batch_size` items wait, then
takes what there is, and does so until it is closed. size is the `batch_size`, linger the
`timeout_ms` (a busy loop when it is 0); there is one worker, whatever `workers` says. No bound.
With a plain function on a loop, `acall` of the one for threads wraps its future.

In threads a call blocks, and there is no future; but a list is taken as many items. So, as one
would write it by hand: what a thread submits is collected, and goes out as one list when it asks
for its first result. A thread that waits for each result makes a call for each.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import batched

from .base import ASYNCIO, BRIDGED, THREADS, Rival


class Batched(Rival):
    name = "batched"
    ways = (THREADS, ASYNCIO, BRIDGED)
    version = metadata.version("batched")
    # Nothing is pending before a result is asked for.
    not_in = ("S6",)

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.is_async = inspect.iscoroutinefunction(function)
        decorator = batched.aio.dynamically if self.is_async else batched.dynamically
        self.batched = decorator(batch_size=size, timeout_ms=linger * 1000)(function)
        self.acall = self.batched if self.is_async else self.batched.acall
        self.own = threading.local()

    def submit(self, item: Any) -> Collected:
        call = getattr(self.own, "call", None)
        if call is None or call.results is not None:
            call = self.own.call = Call(self.batched)
        call.items.append(item)
        return Collected(call, len(call.items) - 1)

    def map(self, items: Iterable[Any]) -> list[Any]:
        return self.batched(list(items))

    async def amap(self, items: Iterable[Any]) -> list[Any]:
        return await self.acall(list(items))

    def close(self) -> None:
        self.batched.shutdown()

    async def aclose(self) -> None:
        if not self.is_async:  # else it cannot be stopped: its task ends with the loop
            self.batched.shutdown()


class Call:
    """What one thread has submitted since it last asked for a result."""

    __slots__ = ("batched", "items", "results")

    def __init__(self, batched: Any) -> None:
        self.batched = batched
        self.items: list[Any] = []
        self.results: list[Any] | None = None


class Collected:
    """A place in a call; for the thread that submitted it."""

    __slots__ = ("call", "place")

    def __init__(self, call: Call, place: int) -> None:
        self.call, self.place = call, place

    def result(self) -> Any:
        call = self.call
        if call.results is None:
            call.results = call.batched(call.items)
        return call.results[self.place]
