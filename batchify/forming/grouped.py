"""The forming for calls with extra arguments."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Any

from ..future import Done
from .base import NEVER, NOTHING, Decision, Forming
from .states import Group, Route, Waiting

Mark = tuple[float, int]  # when the oldest entry of a group was submitted; the number of the mark


class Grouped(Forming):
    """A group for each route: only calls with equal extra arguments go together.

    Of the groups that are ready, the one with the oldest entry leaves first, so that a busy one
    never starves a rare one. Heaps of marks find it; a mark is valid while its number is known, and
    holds nothing. A group without entries is gone at once.
    """

    def __init__(
        self, intake: deque[Any], size: int, linger: float | None, capacity: int | None
    ) -> None:
        super().__init__(intake, size, linger, capacity)
        self.by_route: dict[Any, Group] = {}
        self.gone: list[Any] = []  # routes that have no group any more, for the engine to forget
        self._marks = 0
        self._by_mark: dict[int, Group] = {}
        self._oldest: list[Mark] = []
        self._full: list[Mark] = []
        self._forced: list[Mark] = []

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
            self._push(self._full, group)

    def cancel(self, entry: Any) -> bool:
        state = entry._s
        route = state.route if state.__class__ is Waiting else state
        if route.__class__ is Route and route not in self.by_route:
            self.gone.append(route)  # it may have been the only one
        return super().cancel(entry)

    def _shrunk(self, group: Group) -> None:
        if not group.live:
            self._forget(group)
        elif group.entries[0]._s.__class__ is Done:
            self._note(group)

    def _note(self, group: Group) -> None:
        """Put `group` on the heaps by its oldest entry."""
        self._drop_dead_front(group)
        self._by_mark.pop(group.mark, None)
        self._marks += 1
        group.mark = self._marks
        self._by_mark[group.mark] = group
        self._push(self._oldest, group)
        if group.live >= self.size:
            self._push(self._full, group)
        if group.forced is not None:
            self._push(self._forced, group)

    def _push(self, heap: list[Mark], group: Group) -> None:
        if len(heap) > 2 * len(self._by_mark) + 64:  # most of it is stale
            heap[:] = [mark for mark in heap if mark[1] in self._by_mark]
            heapify(heap)
        heappush(heap, (group.entries[0]._t, group.mark))

    def _forget(self, group: Group) -> None:
        self._by_mark.pop(group.mark, None)
        group.entries.clear()
        group.dead = 0
        group.forced = None
        del self.by_route[group.route]
        self.gone.append(group.route)

    def _top(self, heap: list[Mark]) -> Group | None:
        while heap:
            group = self._by_mark.get(heap[0][1])
            if group is not None:
                return group
            heappop(heap)
        return None

    def accept(self) -> deque[Any]:
        """Let in what there is room for.

        Gives what those who waited are to be told by, to be taken out when they are told.
        """
        if self.is_sealed:
            return self.told
        room = self._room()
        self._move(len(self.intake) if room is None else room)
        self.seen = 0 if room is None else len(self.intake)
        self.is_pressed = self.seen > self.dead
        return self.told

    def next(self, now: float) -> Decision:
        """Does a batch leave at `now`?"""
        first = self._top(self._oldest)
        if first is None:
            return NOTHING
        due = None if self.linger is None else first.entries[0]._t + self.linger
        is_full = first.live >= self.size
        if self.hurry is not None:
            return Decision("size" if is_full else self.hurry, first)
        if self.linger == 0.0:
            return Decision("size" if is_full else "idle", first)
        if due is not None and now >= due:
            return Decision("size" if is_full else "linger", first)
        forced, full = self._top(self._forced), self._top(self._full)
        while full is not None and full.live < self.size:  # some were cancelled
            heappop(self._full)
            full = self._top(self._full)
        if full is not None and (forced is None or self._full[0] <= self._forced[0]):
            return Decision("size", full)
        if forced is not None and forced.forced is not None:
            return Decision("flush", forced)
        if self.is_pressed and not self.running:
            return Decision("capacity", first)
        return Decision(None, None, due)

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
            was_forced, group.forced = group.forced, group.entries[-1]
            if was_forced is None:
                self._push(self._forced, group)

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
