"""The forming for calls with extra arguments."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Any

from ..future import Done
from .base import NEVER, NOTHING, Decision, Forming
from .states import Group, Route


class Grouped(Forming):
    """A group for each route: only calls with equal extra arguments go together.

    Of the groups that are ready, the one with the oldest entry leaves first, so that a busy one
    never starves a rare one. A heap of (time of the oldest entry, number) finds it; a mark is
    valid while its number is the group's. A group without entries is gone at once.
    """

    def __init__(
        self, intake: deque[Any], size: int, linger: float | None, capacity: int | None
    ) -> None:
        super().__init__(intake, size, linger, capacity)
        self.by_route: dict[Any, Group] = {}
        self.gone: list[Any] = []  # routes that have no group any more, for the engine to forget
        self._marks = 0
        self._oldest: list[tuple[float, int, Group]] = []
        self._full: list[tuple[float, int, Group]] = []
        self._forced: list[tuple[float, int, Group]] = []

    def groups(self) -> list[Group]:
        return list(self.by_route.values())

    def _group(self, route: Any) -> Group:
        group = self.by_route.get(route)
        if group is None:
            group = self.by_route[route] = Group(route)
        return group

    def _grown(self, group: Group, entry: Any) -> None:
        live = group.live
        if live == 1:
            self._note(group)
        elif live == self.size:
            heappush(self._full, (group.entries[0]._t, group.mark, group))

    def cancel(self, entry: Any) -> bool:
        state = entry._s
        if state.__class__ is Route and state not in self.by_route:
            self.gone.append(state)  # it may have been the only one
        return super().cancel(entry)

    def _shrunk(self, group: Group) -> None:
        if not group.live:
            self._forget(group)
        elif group.entries[0]._s.__class__ is Done:
            self._note(group)

    def _note(self, group: Group) -> None:
        """Put `group` on the heaps by its oldest entry."""
        self._drop_dead_front(group)
        self._marks += 1
        group.mark = self._marks
        mark = (group.entries[0]._t, group.mark, group)
        heappush(self._oldest, mark)
        if group.live >= self.size:
            heappush(self._full, mark)
        if group.forced:
            heappush(self._forced, mark)

    def _forget(self, group: Group) -> None:
        group.mark = 0
        group.entries.clear()
        group.dead = group.forced = 0
        del self.by_route[group.route]
        self.gone.append(group.route)

    @staticmethod
    def _top(heap: list[tuple[float, int, Group]]) -> tuple[float, int, Group] | None:
        while heap and heap[0][1] != heap[0][2].mark:
            heappop(heap)
        return heap[0] if heap else None

    def accept(self) -> list[Any]:
        """Let in what there is room for. Gives what those who waited are to be told by."""
        if self.is_sealed:
            return []
        room = self._room()
        told = self._move(len(self.intake) if room is None else room)
        self.seen = 0 if room is None else len(self.intake)
        self.is_pressed = self.seen > self.dead
        return told

    def next(self, now: float) -> Decision:
        """Does a batch leave at `now`?"""
        oldest = self._top(self._oldest)
        if oldest is None:
            return NOTHING
        first = oldest[2]
        is_full = first.live >= self.size
        if self.hurry is not None:
            return Decision("size" if is_full else self.hurry, first)
        if self.linger == 0.0:
            return Decision("size" if is_full else "idle", first)
        if self.linger is not None and now >= first.entries[0]._t + self.linger:
            return Decision("size" if is_full else "linger", first)
        forced, full = self._top(self._forced), self._top(self._full)
        while full is not None and full[2].live < self.size:  # some were cancelled
            heappop(self._full)
            full = self._top(self._full)
        if full is not None and (forced is None or full[:2] <= forced[:2]):
            return Decision("size", full[2])
        if forced is not None:
            return Decision("flush", forced[2])
        if self.is_pressed and not self.running:
            return Decision("capacity", first)
        return Decision(None, None, None if self.linger is None else oldest[0] + self.linger)

    def take(self, group: Group, batch: Any) -> list[Any]:
        """Take the next batch; its entries get the state `batch`."""
        taken = self._take_from(group, batch)
        if group.live:
            self._note(group)
        else:
            self._forget(group)
        return taken

    def force(self) -> None:
        """What is accepted now leaves without lingering."""
        for group in self.by_route.values():
            group.forced = len(group.entries)
            if group.live:
                heappush(self._forced, (group.entries[0]._t, group.mark, group))

    def recount(self, running: int) -> None:
        super().recount(running)
        for group in self.groups():
            if group.entries:
                self._note(group)
            else:
                self._forget(group)

    def clear(self) -> tuple[list[Any], list[Any]]:
        cleared = super().clear()
        for group in self.groups():
            self._forget(group)
        return cleared

    def threshold(self, is_free: bool) -> int:
        """The length of the intake at which a caller must look."""
        if is_free or self.is_pressed:
            return len(self.intake) + 1 if self.dead and not self.is_pressed else 1
        room = self._room()
        return NEVER if room is None else room + self.dead + 1
