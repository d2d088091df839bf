"""batchify, with the options that its users have."""

from __future__ import annotations

from importlib import metadata
from typing import Any, ClassVar

from batchify import batched
from batchify._version import __version__

from .base import ASYNCIO, BRIDGED, THREADS, Rival


class Batchify(Rival):
    """Without a limit on pending items, like the hand-written batchers."""

    name = "batchify"
    modes = (THREADS, ASYNCIO, BRIDGED)
    version = f"{__version__} (wrapt {metadata.version('wrapt')})"
    options: ClassVar[dict[str, Any]] = {"capacity": None}

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.batched = batched(function, size=size, linger=linger, workers=workers, **self.options)
        self.submit = self.acall = self.batched  # no extra call in between

    def map(self, items: Any) -> list[Any]:
        return list(self.batched.map(items))

    async def amap(self, items: Any) -> list[Any]:
        return [result async for result in self.batched.amap(items)]

    def close(self) -> None:
        self.batched.close()

    async def aclose(self) -> None:
        await self.batched.aclose()


class BatchifyDefaultCapacity(Batchify):
    """With the default `capacity` of 10 000 items: callers that submit more wait for space."""

    name = "batchify (default capacity)"
    scenarios = ("S1", "S2", "S21")
    options: ClassVar[dict[str, Any]] = {}


class BatchifyList(Batchify):
    """Makes a list of an iterator before it maps it."""

    name = "batchify (a list)"
    scenarios = ("S7i",)

    def map(self, items: Any) -> list[Any]:
        return super().map(list(items))
