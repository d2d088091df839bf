"""What both formings share: the room, and the ways in and out."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from ..future import CANCELLED, Done
from .states import Group, Route, Waiting

NEVER = 1 << 62  # a length that no intake reaches
MANY = 64  # cancelled entries that may lie about before it is worth to sweep


class Decision(NamedTuple):
    """`reason` is why `group` leaves now, None when none does; `when` is the time to look again."""

    reason: str | None
    group: Group | None = None
    when: float | None = None


NOTHING = Decision(None)


class Forming:
    """The capacity in use, the intake and the groups.

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
        self.told: deque[Any] = deque()  # who got room, until they are told
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

    def _move(self, most: int) -> None:
        """Move up to `most` live entries from the intake to their groups, in order."""
        intake = self.intake
        while most > 0 and intake:
            entry = intake[0]  # taken out last: an exception from a signal loses nothing
            state = entry._s
            if state.__class__ is Done:
                intake.popleft()
                self.dead -= 1
                self._dropped(entry)
                continue
            if state.__class__ is Waiting:
                self.told.append(state.admitted)
                group = self._group(state.route)
                self.waiting -= 1
            else:
                group = self._group(state)
            group.entries.append(entry)
            entry._s = group
            intake.popleft()
            self.grouped += 1
            most -= 1
            self._grown(group, entry)

    def recount(self, running: int) -> None:
        """Count anew, after an exception from a signal handler broke into a change.

        Args:
            running: how many entries left with a batch and are not done.
        """
        self.running = running
        intake = self.intake
        for group in self.groups():
            if group.forced is not None:
                group.forced = self._last_live_up_to(group.forced, [*group.entries, *intake])
            live = (entry for entry in group.entries if entry._s.__class__ is not Done)
            group.entries = deque(dict.fromkeys(live))
            group.dead = 0
            for entry in group.entries:
                entry._s = group
        if intake and intake[0]._s.__class__ is Group:
            intake.popleft()  # it was moved, but not taken out
        states = [entry._s.__class__ for entry in list(intake)]
        self.dead = states.count(Done)
        self.waiting = states.count(Waiting)
        self.grouped = sum(len(group.entries) for group in self.groups())

    @staticmethod
    def _last_live_up_to(end: Any, entries: list[Any]) -> Any:
        last = None
        for entry in entries:
            if entry._s.__class__ is not Done:
                last = entry
            if entry is end:
                return last
        return None

    def _group(self, route: Any) -> Group:
        raise NotImplementedError

    def _dropped(self, entry: Any, before: Any = None) -> None:
        """`entry` is dropped from the intake, where `before` stands in front of it."""

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
            if state.dead > MANY and 2 * state.dead > len(state.entries):
                self._sweep(state)
            self._shrunk(state)
            return True
        self.dead += 1
        if state.__class__ is Waiting:
            self.waiting -= 1
            return False
        return True

    @staticmethod
    def _sweep(group: Group) -> None:
        """Drop the cancelled entries of `group`; the one that a flush ends at stays."""
        forced = group.forced
        kept = [e for e in group.entries if e is forced or e._s.__class__ is not Done]
        group.dead = sum(entry._s.__class__ is Done for entry in kept)
        group.entries = deque(kept)

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
        if entry._s.__class__ is Waiting:
            self.waiting -= 1
        entry._s = CANCELLED
        entry._v = None
        self._dropped(entry, self.intake[place - 1] if place else None)
        del self.intake[place]
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
            group.dead = 0
            group.forced = None
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
            if entries.popleft() is group.forced:
                group.forced = None
            group.dead -= 1

    def _take_from(self, group: Group, batch: Any) -> list[Any]:
        taken: list[Any] = []
        entries = group.entries
        while entries and len(taken) < self.size:
            entry = entries.popleft()
            if entry is group.forced:
                group.forced = None
            if entry._s.__class__ is Done:
                group.dead -= 1
            else:
                entry._s = batch
                taken.append(entry)
        self.grouped -= len(taken)
        self.running += len(taken)
        return taken
