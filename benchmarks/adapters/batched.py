"""batched, by mixedbread: much like batchify, with one decorator for threads and one for asyncio.

Both poll: while fewer than `batch_size` items wait, one thread (or task) sleeps for `timeout_ms`,
and then takes what is queued, until it is closed. size is the `batch_size`, linger the `timeout_ms`
(a busy loop if it is 0). It always has one worker. The queue has no limit. For a `def` on a loop,
`acall` of the decorator for threads wraps its future.

In threads a call blocks and returns no future, but a call may pass a list of items. So this adapter
does what one would write: it collects what a thread submits, and passes it on as one list when the
thread asks for its first result. A thread that waits for each result makes one call per item.
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
    modes = (THREADS, ASYNCIO, BRIDGED)
    version = metadata.version("batched")
    # Nothing is pending before a caller asks for a result.
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
        if not self.is_async:  # the one for asyncio cannot be stopped; its task ends with the loop
            self.batched.shutdown()


class Call:
    """The items that one thread has submitted since it last asked for a result."""

    __slots__ = ("batched", "items", "results")

    def __init__(self, batched: Any) -> None:
        self.batched = batched
        self.items: list[Any] = []
        self.results: list[Any] | None = None


class Collected:
    """One item of a call, for the thread that submitted it."""

    __slots__ = ("call", "place")

    def __init__(self, call: Call, place: int) -> None:
        self.call, self.place = call, place

    def result(self) -> Any:
        call = self.call
        if call.results is None:
            call.results = call.batched(call.items)
        return call.results[self.place]
