"""The forming for functions whose items all go together."""

from __future__ import annotations

from collections import deque
from typing import Any

from ..future import Done
from .base import MANY, NEVER, NOTHING, Decision, Forming
from .states import Group


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

    def accept(self) -> deque[Any]:
        """Let in what there is room for.

        Gives what those who waited are to be told by, to be taken out when they are told.
        """
        if self.is_sealed:
            self.fresh = 0
            return self.told
        intake = self.intake
        while self.dead and intake and intake[0]._s.__class__ is Done:
            self.dead -= 1
            self._dropped(intake.popleft())
        held = len(intake)
        room = self._room()
        if not self.waiting and (room is None or held - self.dead <= room):
            if self.dead > MANY and 2 * self.dead > held:  # leave the cancelled ones behind
                self._move(held)
                held = len(intake)
            self.fresh = self.seen = held
            self.is_pressed = False
            return self.told
        self._move(held if room is None else room)
        self.fresh = 0
        # What came in between by lock-free appends went behind those, and has its look to come.
        self.seen = len(intake)
        self.is_pressed = self.seen > self.dead
        return self.told

    def next(self, now: float) -> Decision:
        """Does a batch leave at `now`?"""
        group = self.group
        self._drop_dead_front(group)
        live = self.grouped + (self.fresh - self.dead if self.fresh else 0)
        if live <= 0:
            if not group.entries:
                group.route = None
            return NOTHING
        if live >= self.size:
            return Decision("size", group)
        if self.hurry is not None:
            return Decision(self.hurry, group)
        if group.forced is not None:
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
        # The hot path: 64 entries in 3 us; a lock, or a call, for each would double that.
        popleft = self.intake.popleft
        while self.fresh and len(taken) < self.size:
            chunk = [popleft() for _ in range(min(self.fresh, self.size - len(taken)))]
            if batch.route is None:
                batch.route = next((e._s for e in chunk if e._s.__class__ is not Done), None)
            dead = 0
            for entry in chunk:
                if entry._s.__class__ is Done:
                    dead += 1
                else:
                    entry._s = batch
            self.fresh -= len(chunk)
            if group.forced is not None and group.forced in chunk:
                group.forced = None
            if dead:
                self.dead -= dead
                chunk = [entry for entry in chunk if entry._s is batch]
            self.running += len(chunk)
            taken = taken + chunk if taken else chunk
        return taken

    def force(self) -> None:
        """What is accepted now leaves without lingering."""
        if self.fresh:
            self.group.forced = self.intake[self.fresh - 1]
        elif self.group.entries:
            self.group.forced = self.group.entries[-1]

    def _dropped(self, entry: Any, before: Any = None) -> None:
        if entry is self.group.forced:  # the one before it, if it has not left
            last = self.group.entries[-1] if self.group.entries else None
            self.group.forced = last if before is None else before

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
