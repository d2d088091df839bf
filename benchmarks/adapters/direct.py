"""No batching at all: the function is called with a list of one, by the caller itself.

The floor for a function that costs nothing, as here, and the ceiling for one that has a fixed
cost per call: its number of function calls is what batching is about.
"""

from __future__ import annotations

from typing import Any

from .base import ASYNCIO, THREADS, Rival


class Direct(Rival):
    name = "direct"
    ways = (THREADS, ASYNCIO)
    not_in = ("S6", "S6a", "S7", "S7a")  # nothing is pending; who has a list would call with it

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.function = function

    def submit(self, item: Any) -> Ready:
        return Ready(self.function([item])[0])

    async def acall(self, item: Any) -> Any:
        return (await self.function([item]))[0]


class Ready:
    """A result that is there already."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value
