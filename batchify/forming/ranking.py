"""A priority queue from which anything can be taken out."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Ranking(Generic[T]):
    """The one of lowest rank comes first, of equal ranks the one that was put first.

    A binary heap of (rank, number), and what has which number: what was taken out is skipped
    when its number comes up, and holds nothing until then.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int]] = []
        self._things: dict[int, T] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._things)

    def put(self, rank: Any, thing: T) -> int:
        """Put `thing` in; gives the number to `discard` it by."""
        heap = self._heap
        if len(heap) > 2 * len(self._things) + 64:  # most of it is stale
            heap[:] = [mark for mark in heap if mark[1] in self._things]
            heapify(heap)
        self._number += 1
        self._things[self._number] = thing
        heappush(heap, (rank, self._number))
        return self._number

    def discard(self, number: int) -> None:
        """Take out what was put in as `number`, if it is there."""
        self._things.pop(number, None)

    def first(self) -> T | None:
        """The one of lowest rank."""
        top = self._top()
        return None if top is None else self._things[top[1]]

    def rank(self) -> Any:
        """The lowest rank; None when there is nothing."""
        top = self._top()
        return None if top is None else top[0]

    def pop(self) -> T:
        """Take out the one of lowest rank."""
        top = self._top()
        assert top is not None
        return self._things.pop(top[1])

    def things(self) -> list[T]:
        """All, in no order."""
        return list(self._things.values())

    def ranked(self) -> list[tuple[Any, T]]:
        """All with their ranks, in order."""
        things = self._things
        return [(rank, things[number]) for rank, number in sorted(self._heap) if number in things]

    def clear(self) -> None:
        """Take out everything."""
        self._heap.clear()
        self._things.clear()

    def _top(self) -> tuple[Any, int] | None:
        heap = self._heap
        while heap and heap[0][1] not in self._things:
            heappop(heap)
        return heap[0] if heap else None
