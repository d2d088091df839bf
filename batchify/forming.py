"""Which items go together, and when: pure, without thread, lock, clock or I/O.

The callers append to the intake, a deque. The forming looks at it when asked, and moves entries
on; its own state is the capacity that is in use. An *entry* is anything with a state `_s` and
the time `_t` of its submission (a future); a state of class `Done` means that it was cancelled
where it lay, and it is dropped when it comes to the front.

    intake ──► (no room: stays there) ──► group ──► batch

Two formings share this: `Plain` has one group and takes straight from the intake as long as
everything in it has room; `Grouped` sorts the entries by their route.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import Any, NamedTuple

from .future import CANCELLED, Done

NEVER = 1 << 62  # a length that no intake reaches


class Route:
    """Where a call goes: an engine, the function to run and the extra arguments.

    It is the state of a pending future, so what waits keeps its engine (and, for a method, the
    instance) alive, and nothing else does.
    """

    __slots__ = ("args", "batched", "engine", "function", "kwargs")
    is_running = False

    def __init__(
        self,
        engine: Any,
        function: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        batched: Any = None,
    ) -> None:
        self.engine = engine
        self.function = function
        self.args = args
        self.kwargs = kwargs or {}
        self.batched = batched  # gives the decorated object, for on_error

    def holders(self, me: Any) -> Any:
        return self.engine.holders(me)


class Waiting:
    """The state of an entry that waits for room; `admitted()` is called when there is some."""

    __slots__ = ("admitted", "route")
    is_running = False

    def __init__(self, route: Route, admitted: Any) -> None:
        self.route = route
        self.admitted = admitted

    @property
    def engine(self) -> Any:
        return self.route.engine

    def holders(self, me: Any) -> Any:
        return self.route.engine.holders(me)


class Group:
    """The accepted entries that may share a batch, oldest first."""

    __slots__ = ("dead", "entries", "forced", "mark", "route")
    is_running = False

    def __init__(self, route: Any = None) -> None:
        self.route = route
        self.entries: deque[Any] = deque()
        self.dead = 0  # cancelled ones among the entries
        self.forced = 0  # how many at the front must leave now
        self.mark = 0  # which mark on the heaps of groups is the valid one

    def __lt__(self, other: Group) -> bool:
        return False  # on a heap, equal marks are marks of the same group

    @property
    def live(self) -> int:
        return len(self.entries) - self.dead

    @property
    def engine(self) -> Any:
        return self.route.engine

    def holders(self, me: Any) -> Any:
        return self.route.engine.holders(me)


class Decision(NamedTuple):
    """`reason` is why `group` leaves now, None when none does; `when` is the time to look again."""

    reason: str | None
    group: Group | None = None
    when: float | None = None


NOTHING = Decision(None)


class Forming:
    """What both formings share: the room, and the ways in and out.

    Invariants, whenever the engine's lock is free:
    - every entry is in the intake or in a group, and older ones are never behind younger ones of
      the same route;
    - `running` + live entries of the groups + accepted ones in the intake <= `capacity`;
    - `is_pressed`: the intake holds only entries that have no room;
    - `is_sealed`: the intake holds only entries whose callers are about to be refused.
    """

    def __init__(
        self, intake: deque[Any], size: int, linger: float | None, capacity: int | None
    ) -> None:
        self.intake = intake
        self.size = size
        self.linger = linger
        self.capacity = capacity
        self.running = 0  # entries that left with a batch and are not done
        self.dead = 0  # cancelled entries in the intake
        self.waiting = 0  # entries in the intake whose state is Waiting
        self.grouped = 0  # live entries in groups
        self.is_pressed = False
        self.is_sealed = False  # nothing is let in any more: who is in the intake is refused
        self.seen = 0  # how long the intake was when `accept` was through with it
        self.hurry: str | None = None  # a reason for everything to leave at once

    @property
    def pending(self) -> int:
        """Accepted, and not running."""
        is_shut = self.is_pressed or self.is_sealed
        fresh = 0 if is_shut else len(self.intake) - self.dead - self.waiting
        room = self._room()
        return self.grouped + (fresh if room is None else min(fresh, room))

    def _room(self) -> int | None:
        if self.capacity is None:
            return None
        return max(0, self.capacity - self.running - self.grouped)

    # ---- in ----

    def _move(self, most: int) -> list[Any]:
        """Move up to `most` live entries from the intake to their groups, in order.

        Gives what those who waited are to be told by.
        """
        intake = self.intake
        told = []
        while most > 0 and intake:
            entry = intake.popleft()
            state = entry._s
            if state.__class__ is Done:
                self.dead -= 1
                continue
            if state.__class__ is Waiting:
                self.waiting -= 1
                told.append(state.admitted)
                state = state.route
            group = self._group(state)
            entry._s = group
            group.entries.append(entry)
            self.grouped += 1
            most -= 1
            self._grown(group, entry)
        return told

    def _group(self, route: Any) -> Group:
        raise NotImplementedError

    def _grown(self, group: Group, entry: Any) -> None:
        """`entry` came into `group`."""

    # ---- out ----

    def cancel(self, entry: Any) -> bool:
        """Take out an entry that has not started; True when it had been accepted."""
        state = entry._s
        entry._s = CANCELLED
        entry._v = None
        if state.__class__ is Group:
            state.dead += 1
            self.grouped -= 1
            self._shrunk(state)
            return True
        self.dead += 1
        if state.__class__ is Waiting:
            self.waiting -= 1
            return False
        return True

    def _shrunk(self, group: Group) -> None:
        """An entry of `group` was cancelled."""

    def is_waiting(self, entry: Any) -> bool:
        """Has `entry`, just appended, no room? Looks from the young end of the intake."""
        return self.is_pressed and self._place(entry) is not None

    def withdraw(self, entry: Any) -> bool:
        """Take `entry` out of the intake without a trace; False when it is not there any more."""
        place = self._place(entry)
        if place is None:
            return False
        del self.intake[place]
        if entry._s.__class__ is Waiting:
            self.waiting -= 1
        entry._s = CANCELLED
        entry._v = None
        return True

    def _place(self, entry: Any) -> int | None:
        intake = self.intake
        for place in range(len(intake) - 1, -1, -1):  # only appends can come in between
            if intake[place] is entry:
                return place
        return None

    def clear(self) -> tuple[list[Any], list[Any]]:
        """Empty it; gives the accepted entries and those that have no room."""
        away = self.turn_away()
        accepted = []
        for group in self.groups():
            accepted += [entry for entry in group.entries if entry._s.__class__ is not Done]
            group.entries.clear()
            group.dead = group.forced = 0
        while self.intake:
            entry = self.intake.popleft()
            if entry._s.__class__ is not Done:
                accepted.append(entry)
        self.dead = self.waiting = self.grouped = 0
        return accepted, away

    def turn_away(self) -> list[Any]:
        """Take out the entries that have no room."""
        if not (self.is_pressed or self.is_sealed):
            return []
        away = []
        while self.intake:
            entry = self.intake.popleft()
            if entry._s.__class__ is not Done:
                away.append(entry)
        self.dead = self.waiting = 0
        self.is_pressed = False
        return away

    def seal(self) -> list[Any]:
        """Let nothing in any more; gives the entries that have no room."""
        away = self.turn_away()
        self._move(len(self.intake))
        self.is_sealed = True
        return away

    def unseal(self) -> None:
        """Let entries in again."""
        self.is_sealed = False

    def groups(self) -> list[Group]:
        raise NotImplementedError

    def entries(self) -> list[Any]:
        """The accepted entries that have not left."""
        found = [e for g in self.groups() for e in g.entries if e._s.__class__ is not Done]
        if not (self.is_pressed or self.is_sealed):
            found += [e for e in list(self.intake) if e._s.__class__ is Route]
        return found

    def _drop_dead_front(self, group: Group) -> None:
        entries = group.entries
        while group.dead and entries and entries[0]._s.__class__ is Done:
            entries.popleft()
            group.dead -= 1
            if group.forced:
                group.forced -= 1

    def _take_from(self, group: Group, batch: Any) -> list[Any]:
        taken: list[Any] = []
        entries = group.entries
        while entries and len(taken) < self.size:
            entry = entries.popleft()
            if group.forced:
                group.forced -= 1
            if entry._s.__class__ is Done:
                group.dead -= 1
            else:
                entry._s = batch
                taken.append(entry)
        self.grouped -= len(taken)
        self.running += len(taken)
        return taken


class Plain(Forming):
    """One group: every item goes with every other."""

    def __init__(
        self, intake: deque[Any], size: int, linger: float | None, capacity: int | None
    ) -> None:
        super().__init__(intake, size, linger, capacity)
        self.group = Group()
        self.fresh = 0  # how many at the front of the intake are accepted and may be taken

    def groups(self) -> list[Group]:
        return [self.group]

    def _group(self, route: Any) -> Group:
        self.group.route = route
        return self.group

    def accept(self) -> list[Any]:
        """Let in what there is room for. Gives what those who waited are to be told by."""
        if self.is_sealed:
            self.fresh = 0
            return []
        intake = self.intake
        group = self.group
        while self.dead and intake and intake[0]._s.__class__ is Done:
            intake.popleft()
            self.dead -= 1
            if group.forced and not group.entries:
                group.forced -= 1
        held = len(intake)
        room = self._room()
        if not self.waiting and (room is None or held - self.dead <= room):
            self.fresh = self.seen = held
            self.is_pressed = False
            return []
        told = self._move(held if room is None else room)
        self.fresh = 0
        # What came in between by lock-free appends went behind those, and has its look to come.
        self.seen = len(intake)
        self.is_pressed = self.seen > self.dead
        return told

    def next(self, now: float) -> Decision:
        """Does a batch leave at `now`?"""
        group = self.group
        self._drop_dead_front(group)
        live = self.grouped + (self.fresh - self.dead if self.fresh else 0)
        if live <= 0:
            group.forced = 0
            if not group.entries:
                group.route = None
            return NOTHING
        if live >= self.size:
            return Decision("size", group)
        if self.hurry is not None:
            return Decision(self.hurry, group)
        if group.forced:
            return Decision("flush", group)
        if self.linger is None:
            return NOTHING
        if self.linger == 0.0:
            return Decision("idle", group)
        oldest = group.entries[0] if group.entries else self.intake[0]
        due = oldest._t + self.linger
        if now >= due:
            return Decision("linger", group)
        return Decision(None, None, due)

    def take(self, group: Group, batch: Any) -> list[Any]:
        """Take the next batch; its entries get the state `batch`."""
        taken = self._take_from(group, batch) if group.entries else []
        if not group.entries:
            group.route = None
        fresh = self.fresh
        if fresh and len(taken) < self.size:
            # The hot path: 64 entries are moved in 4 us; a lock or a call for each would double it.
            popleft = self.intake.popleft
            before = len(taken)
            while fresh and len(taken) < self.size:
                entry = popleft()
                fresh -= 1
                if group.forced:
                    group.forced -= 1
                state = entry._s
                if state.__class__ is Done:
                    self.dead -= 1
                else:
                    entry._s = batch
                    taken.append(entry)
                    batch.route = state
            self.fresh = fresh
            self.running += len(taken) - before
        return taken

    def force(self) -> None:
        """What is accepted now leaves without lingering."""
        self.group.forced = len(self.group.entries) + self.fresh

    def threshold(self, is_free: bool) -> int:
        """The length of the intake at which a caller must look.

        Args:
            is_free: somebody could run a batch, and sleeps.
        """
        if self.is_pressed:
            return 1
        room = self._room()
        crowd = NEVER if room is None else room + self.dead + 1
        if not is_free:
            return crowd
        if self.grouped + self.fresh - self.dead <= 0:
            return min(crowd, len(self.intake) + 1 if self.dead else 1)
        return min(crowd, max(1, self.size - self.grouped + self.dead))


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
