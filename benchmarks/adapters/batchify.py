"""batchify, as its users have it."""

from __future__ import annotations

from importlib import metadata
from typing import Any, ClassVar

from batchify import batched
from batchify._version import __version__

from .base import ASYNCIO, BRIDGED, THREADS, Rival


class Batchify(Rival):
    """Without a bound: the hand-written engines have none either."""

    name = "batchify"
    ways = (THREADS, ASYNCIO, BRIDGED)
    version = f"{__version__} (wrapt {metadata.version('wrapt')})"
    options: ClassVar[dict[str, Any]] = {"capacity": None}

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.batched = batched(function, size=size, linger=linger, workers=workers, **self.options)
        self.submit = self.acall = self.batched  # no frame of ours in between

    def map(self, items: Any) -> list[Any]:
        return list(self.batched.map(items))

    async def amap(self, items: Any) -> list[Any]:
        return [result async for result in self.batched.amap(items)]

    def close(self) -> None:
        self.batched.close()

    async def aclose(self) -> None:
        await self.batched.aclose()


class BatchifyDefaultCapacity(Batchify):
    """With the default bound of 10 000 items: a flood fills it, and its callers wait for room."""

    name = "batchify (default capacity)"
    scenarios = ("S1", "S2", "S21")
    options: ClassVar[dict[str, Any]] = {}
