"""The forming that knows kinds of items, weights, priorities, deadlines and second tries."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from itertools import islice, takewhile
from typing import Any

from ..future import Done
from ..terms import flushed
from .base import NEVER, NOTHING, Decision
from .plain import Plain
from .ranking import Ranking
from .recounting import Recounting
from .states import Delayed, Group, Route, Waiting

PATIENCE = 1.0  # seconds that an item lets those of higher priority pass without a claim


class Grouped(Recounting):
    """A group for each kind of items: equal keys and equal extra arguments go together.

    Of the groups that are ready, the one with the oldest entry leaves first, so that a busy one
    never starves a rare one. A group without entries is gone at once.

    Priorities: the highest leaves first, of the group that has it, and of equal ones the oldest.
    Nothing starves: while the oldest entry has waited for longer than `PATIENCE`, every other
    batch is taken by age alone. (Ageing by the clock alone would turn a long queue into one
    without priorities, just when they matter.)

    Weights: a batch is full before the entry that would make it too heavy; that one stays in
    front.
    """

    def __init__(
        self,
        intake: deque[Any],
        size: int,
        linger: float | None,
        capacity: int | None,
        max_weight: float | None = None,
    ) -> None:
        super().__init__(intake, size, linger, capacity)
        self.max_weight = max_weight
        self.by_kin: dict[Any, Group] = {}
        self.gone: list[Route] = []  # routes that have no group any more, for the engine to forget
        self._lingering: Ranking[Group] = Ranking()  # by the time of the oldest entry
        self._ready: Ranking[Group] = Ranking()  # by the same; the highest priority comes before
        self._ready_by_age: Ranking[Group] = Ranking()  # used with priorities only
        self._delayed: Ranking[Any] = Ranking()  # entries that run again, by when they may
        self._deadlines: Ranking[Any] = Ranking()  # entries that have one
        self._last = 0  # the number of the youngest entry
        self._front = 0  # and of the one that was put back last
        self._has_priorities = False
        self._is_by_age = False  # the next batch is taken by age, if that is called for
        self._takes_oldest = False  # the decision that was just made is by age

    @classmethod
    def after(cls, plain: Plain) -> Grouped:
        """Take over from `plain`, when the first item comes that it has no notion of."""
        plain.settle_down()
        new = cls(plain.intake, plain.size, plain.linger, plain.capacity)
        for name in (
            "running", "dead", "waiting", "chunks", "chunked", "is_pressed", "is_sealed", "told",
            "hurry",
        ):  # fmt: skip
            setattr(new, name, getattr(plain, name))
        line = plain.line
        boundary = 0
        for entry in list(line.entries):
            if entry._s is line:
                new._admit(entry, line.route)
                new.grouped += 1
            if entry is line.forced:
                boundary = new._last
        for group in new.by_kin.values():
            group.boundary = group.forced = boundary
            group.is_flush = line.is_flush
            new._rate(group)
        return new

    # ---- in ----

    def accept(self) -> deque[Any]:
        if self.is_sealed:
            return self.told
        room = self._room()
        left = self._move(len(self.intake) if room is None else room)
        self.seen = 0 if left or room is None else len(self.intake)
        self.is_pressed = self.seen > self.dead
        return self.told

    def _admit(self, entry: Any, route: Any) -> None:
        del route.users[-1:]  # it is in a group from now on
        self._last += 1
        self._add(entry, route, self._last)

    def _add(self, entry: Any, route: Any, number: int) -> None:
        group = self.by_kin.get(route.kin)
        if group is None:
            group = self.by_kin[route.kin] = Group(route)
        terms = entry._terms
        was_full = self._is_full(group)
        if number < 0:  # it will hide the age of those behind it
            group.since = min(terms.again or entry._t, group.age[0] if group.entries else math.inf)
        group.entries[entry] = number
        if entry._s.__class__ is not Done:  # no handler has cancelled it just now
            entry._s = group
        group.weight += terms.weight
        if number < 0:
            group.entries.move_to_end(entry, last=False)
            group.is_mixed = len(group.entries) > 1
            group.forced += 1  # it has waited before: it does not linger again
        if terms.deadline is not None:
            self.mind(entry)
        if terms.priority and not self._has_priorities:
            self._has_priorities = True
            for other in self.by_kin.values():
                self._rank_all(other)
                self._rate(other)
        elif self._has_priorities:
            self._rank(group, entry, number)
        if (
            number < 0
            or len(group.entries) == 1
            or terms.priority > group.top
            or was_full != self._is_full(group)
        ):
            self._rate(group)

    def put_back(self, entry: Any, route: Any, now: float, after: float) -> None:
        """`entry`, which ran, goes to a later batch: to the front, `after` seconds from `now`."""
        self.running -= 1
        self.grouped += 1
        if after > 0 and self.hurry is None:
            delayed = Delayed(route)
            delayed.mark = self._delayed.put(now + after, entry)
            if entry._s.__class__ is not Done:
                entry._s = delayed
            route.users.append(None)
        else:
            self._bring_in([entry], route)

    def _bring_in(self, entries: list[Any], route: Any) -> None:
        for entry in reversed(entries):
            self._front -= 1
            self._add(entry, route, self._front)

    def break_up(self, chunk: Any, final: Any, value: Any, entries: list[Any]) -> None:
        group = self.by_kin.get(chunk._s.route.kin)
        if group is not None:  # who is older than the chunk comes to the front before it
            since = chunk._s.since
            older = takewhile(lambda pair: pair[0]._t < since, list(group.entries.items()))
            for entry, number in older:
                if group.is_flush and 0 < number <= group.boundary:
                    entry._terms = flushed(entry._terms)
                self._front -= 1
                group.forced += number > group.boundary
                group.entries[entry] = self._front
                group.entries.move_to_end(entry, last=False)
        super().break_up(chunk, final, value, entries)

    def _wake(self, now: float | None) -> None:
        """Put the delayed entries whose time has come, or all, to the front."""
        while (when := self._delayed.rank()) is not None and (now is None or when <= now):
            entry: Any = self._delayed.first()
            if entry._s.__class__ is not Delayed:  # a handler has cancelled it
                self._delayed.pop()
                continue
            route, mark = entry._s.route, entry._s.mark
            self._bring_in([entry], route)
            self._delayed.discard(mark)  # last: an exception from a signal leaves it somewhere
            self.release(route)

    # ---- where a group stands ----

    def _is_full(self, group: Group) -> bool:
        return len(group.entries) >= self.size or (
            self.max_weight is not None and group.weight >= self.max_weight
        )

    def _rate(self, group: Group) -> None:
        """Rank `group` anew, after its oldest entry, its fullness or its top has changed."""
        self._unrate(group)
        if not group.entries:
            self._forget(group)
        elif (
            self.linger == 0.0 or self.hurry is not None or group.forced > 0 or self._is_full(group)
        ):
            self._make_ready(group)
        else:
            group.mark = self._lingering.put(group.age, group)

    def _unrate(self, group: Group) -> None:
        if group.is_ready:
            self._ready.discard(group.mark)
            self._ready_by_age.discard(group.mark_by_age)
            group.is_ready = False
        else:
            self._lingering.discard(group.mark)

    def _make_ready(self, group: Group) -> None:
        group.is_ready = True
        age = group.age
        if self._has_priorities:
            group.top = -self._top(group)[0]
            group.mark_by_age = self._ready_by_age.put(age, group)
        group.mark = self._ready.put((-group.top, age), group)

    def _forget(self, group: Group) -> None:
        self.by_kin.pop(group.route.kin, None)
        if not self.is_used(group.route):
            self.gone.append(group.route)
        if not self.by_kin:
            self._has_priorities = False
            # Empty as they are: a dict keeps the table of its best days, 50 bytes a key.
            self.by_kin.clear()
            self._lingering.clear()
            self._ready.clear()
            self._ready_by_age.clear()

    # ---- priorities ----

    def _rank_all(self, group: Group) -> None:
        group.ranks = [
            (-entry._terms.priority, entry._t, number, entry)
            for entry, number in group.entries.items()
        ]
        heapify(group.ranks)

    def _rank(self, group: Group, entry: Any, number: int) -> None:
        if len(group.ranks) > 2 * len(group.entries) + 64:  # most of them have left
            self._rank_all(group)
        else:
            heappush(group.ranks, (-entry._terms.priority, entry._t, number, entry))

    @staticmethod
    def _top(group: Group) -> Any:
        ranks = group.ranks
        while group.entries.get(ranks[0][3]) != ranks[0][2]:
            heappop(ranks)
        return ranks[0]

    # ---- deadlines ----

    def mind(self, entry: Any) -> None:
        """`entry` has a deadline, and has not started."""
        if entry in self.minded:
            return
        self.minded[entry] = self._deadlines.put(entry._terms.deadline, entry)

    def overdue(self, now: float) -> list[Any]:
        """The entries whose deadline has come, which did not start."""
        found = []
        while (when := self._deadlines.rank()) is not None and when <= now:
            entry = self._deadlines.pop()
            self.minded.pop(entry, None)
            found.append(entry)
        return found

    @property
    def deadline(self) -> float | None:
        when: float | None = self._deadlines.rank()
        return when

    def _forget_about(self, entry: Any) -> None:
        mark = self.minded.pop(entry, None)
        if mark is not None:
            self._deadlines.discard(mark)
        state = entry._s
        route = state.route if state.__class__ in (Waiting, Delayed) else state
        if route.__class__ is Route:
            self.release(route)  # it is in no group

    def release(self, route: Route) -> None:
        del route.users[-1:]
        if not self.is_used(route):
            self.gone.append(route)

    def is_at_rest(self) -> bool:
        """Does nothing wait or run?"""
        return not (self.intake or self.grouped or self.running)

    def is_used(self, route: Route) -> bool:
        """Must equal calls find `route`?"""
        return route.kin is None or bool(route.users) or route.kin in self.by_kin

    # ---- out ----

    def _next(self, now: float) -> Decision:
        if self._delayed:
            self._wake(None if self.hurry is not None else now)
        if self.linger:
            while (age := self._lingering.rank()) is not None and age[0] + self.linger <= now:
                group = self._lingering.pop()
                group.mark = 0
                self._make_ready(group)
        ready = self._choose(now)
        if ready is not None:
            return Decision(self._reason(ready, now), ready)
        when = None
        first = self._lingering.first()
        if first is not None:
            if self.is_pressed and not self.running:
                return Decision("capacity", first)
            when = None if self.linger is None else first.oldest._t + self.linger
        again: float | None = self._delayed.rank()
        if again is not None and (when is None or again < when):
            when = again
        return NOTHING if when is None else Decision(None, None, when)

    def _choose(self, now: float) -> Group | None:
        self._takes_oldest = False
        if self._has_priorities and self._is_by_age:
            group = self._ready_by_age.first()
            if group is not None and now - group.oldest._t > PATIENCE:
                self._takes_oldest = True
                return group
        return self._ready.first()

    def _reason(self, group: Group, now: float) -> str:
        if self._is_full(group):
            return self._what_is_full(group)
        if self.hurry is not None:
            return self.hurry
        if self.linger == 0.0:
            return "idle"
        if self.linger is not None and group.oldest._t + self.linger <= now:
            return "linger"
        return "flush"

    def _what_is_full(self, group: Group) -> str:
        if self.max_weight is None:
            return "size"
        weights = [entry._terms.weight for entry in islice(group.entries, self.size)]
        return "size" if len(weights) == self.size and sum(weights) <= self.max_weight else "weight"

    def _since(self, group: Any) -> float:
        since: float = group.age[0]
        return since

    def _sort_front(self, group: Group) -> None:
        """Bring those that were put back into the order in which they came."""
        group.is_mixed = False
        front = [entry for entry, _ in _put_back(group)]
        front.sort(key=lambda entry: entry._terms.order or (entry._t, 0.0, 0))
        for entry in reversed(front):
            self._front -= 1
            group.entries[entry] = self._front
            group.entries.move_to_end(entry, last=False)
        if self._has_priorities:
            self._rank_all(group)

    def take(self, group: Any, batch: Any) -> None:
        if group.is_mixed:
            self._sort_front(group)
        by_rank = self._has_priorities and not self._takes_oldest
        numbered = self._highest(group) if by_rank else self._oldest(group)
        self._is_by_age = self._has_priorities and not self._is_by_age
        weight = 0.0
        taken: list[Any] = batch.futures
        flushed = group.boundary if group.is_flush else 0
        if flushed or self._front:  # those that were put back know it themselves
            batch.is_flushed = any(
                0 < number <= flushed or entry._terms.is_flushed for number, entry in numbered
            )
        for number, entry in numbered:
            taken.append(entry)
            if entry._s.__class__ is Done:
                taken.pop()
            else:
                entry._s = batch
            del group.entries[entry]
            weight += entry._terms.weight
            group.forced -= number <= group.boundary
            if self.minded:
                self._forget_about(entry)
        group.weight = group.weight - weight if group.entries else 0.0
        group.route.users.append(None)
        group.since = math.inf  # what is left is in order
        self.grouped -= len(taken)
        self.running += len(taken)
        self._rate(group)

    def _oldest(self, group: Group) -> list[tuple[int, Any]]:
        """The entries of the next batch, by age."""
        first = islice(group.entries.items(), self.size)
        if self.max_weight is None:
            return [(number, entry) for entry, number in first]
        found: list[tuple[int, Any]] = []
        weight = 0.0
        for entry, number in first:
            weight += entry._terms.weight
            if weight > self.max_weight:
                break
            found.append((number, entry))
        return found

    def _highest(self, group: Group) -> list[tuple[int, Any]]:
        """The entries of the next batch, by priority, in the order of submission."""
        found: list[tuple[int, Any]] = []
        weight = 0.0
        ranks = group.ranks
        while len(found) < min(self.size, len(group.entries)):
            _, _, number, entry = ranks[0]
            if group.entries.get(entry) != number:
                heappop(ranks)
                continue
            weight += entry._terms.weight
            if self.max_weight is not None and weight > self.max_weight:
                break
            heappop(ranks)
            found.append((number, entry))
        found.sort()
        return found

    def _remove(self, state: Any, entry: Any) -> None:
        if state.__class__ is Delayed:
            self._delayed.discard(state.mark)
            return
        group: Group = state
        was_full, was_oldest = self._is_full(group), entry is group.oldest
        number = group.entries.pop(entry)
        group.weight = group.weight - entry._terms.weight if group.entries else 0.0
        was_forced = number <= group.boundary
        group.forced -= was_forced
        if number < 0 and next(iter(group.entries.values()), 0) >= 0:
            group.since = math.inf  # nobody is left that ran before
        if was_oldest or was_full or was_forced or self._has_priorities:
            self._rate(group)

    def _moved(self) -> list[Any]:
        found = [entry for group in self.by_kin.values() for entry in group.entries]
        return found + self._delayed.things()

    def _clear_moved(self) -> None:
        for group in list(self.by_kin.values()):
            group.entries.clear()
            self._unrate(group)
            self._forget(group)
        self._delayed.clear()
        self._deadlines.clear()
        self.minded.clear()

    # ---- all at once ----

    def force(self, is_flush: bool = True) -> None:
        if is_flush:
            self._wake(None)
        for group in list(self.by_kin.values()):
            if is_flush and self._front:
                for entry, _ in _put_back(group):
                    entry._terms = flushed(entry._terms)
            group.is_flush = is_flush or (group.forced > 0 and group.is_flush)
            group.boundary = self._last
            group.forced = len(group.entries)
            self._rate(group)

    def hasten(self, reason: str | None) -> None:
        if self.hurry != reason:
            super().hasten(reason)
            self._rate_all()

    def configure(self, size: int, linger: float | None, capacity: int | None) -> None:
        super().configure(size, linger, capacity)
        self._rate_all()

    def _rate_all(self) -> None:
        for group in list(self.by_kin.values()):
            self._rate(group)

    def threshold(self, is_free: bool) -> int:
        if is_free or self.is_pressed:
            return len(self.intake) + 1 if self.dead and not self.is_pressed else 1
        room = self._room()
        return NEVER if room is None else room + self.dead + 1


def _put_back(group: Group) -> Iterator[tuple[Any, int]]:
    """The entries of `group` that were put back to its front, with their numbers."""
    return takewhile(lambda pair: pair[1] < 0, group.entries.items())
