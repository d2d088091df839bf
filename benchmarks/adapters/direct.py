"""No batching: the caller calls the function with a list of one item.

Nothing is faster with a function that costs nothing, as here, and nothing is slower with a function
that has a fixed cost per call, because this makes one call per item.
"""

from __future__ import annotations

from typing import Any

from .base import ASYNCIO, THREADS, Rival


class Direct(Rival):
    name = "direct"
    modes = (THREADS, ASYNCIO)
    # Nothing is ever pending; and a caller with a list would call the function with that list.
    not_in = ("S6", "S6a", "S7", "S7a", "S7i")

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.function = function

    def submit(self, item: Any) -> Ready:
        return Ready(self.function([item])[0])

    async def acall(self, item: Any) -> Any:
        return (await self.function([item]))[0]


class Ready:
    """A result that is already known."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value
