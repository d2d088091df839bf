"""The forming for functions whose items all go together."""

from __future__ import annotations

from collections import deque
from itertools import repeat
from typing import Any

from ..future import Done
from .base import NEVER, NOTHING, Decision, Forming
from .states import Line, Route

MANY = 64  # cancelled entries that may lie about before it is worth to sweep


class Plain(Forming):
    """One line: every item goes with every other.

    As long as everything in the intake has room, batches are taken straight from it.
    """

    def __init__(
        self, intake: deque[Any], size: int, linger: float | None, capacity: int | None
    ) -> None:
        super().__init__(intake, size, linger, capacity)
        self.line = Line()
        self._at_once = Decision("idle", self.line)
        self.fresh = 0  # how many at the front of the intake are accepted and may be taken

    def is_idle(self) -> bool:
        if self.intake or self.chunks or self.told or self.line.route is not None:
            return False  # (as long as the line has entries, it has a route)
        self.fresh = self.seen = 0
        self.is_pressed = False
        return True

    def accept(self) -> deque[Any]:
        intake = self.intake
        if not (self.dead or self.waiting or self.is_sealed):  # the usual case
            held = len(intake)
            if (
                not held
                or self.capacity is None
                or held + self.running + self.grouped + self.chunked <= self.capacity
            ):
                self.fresh = self.seen = held
                self.is_pressed = False
                return self.told
        if self.is_sealed:
            self.fresh = 0
            return self.told
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
        left = self._move(held if room is None else room)
        self.fresh = 0
        self.seen = 0 if left or room is None else len(intake)
        self.is_pressed = self.seen > self.dead
        return self.told

    def _admit(self, entry: Any, route: Any) -> None:
        line = self.line
        line.route = route
        line.entries.append(entry)
        if entry._s.__class__ is not Done:  # no handler has cancelled it just now
            entry._s = line

    def _bring_in(self, entries: list[Any], route: Any) -> None:
        line = self.line
        line.route = route
        if line.forced is None:
            line.is_flush = False  # that of a flush before; who is flushed knows it by its terms
        line.entries = deque(sorted([*entries, *line.entries], key=lambda entry: entry._t))
        for entry in entries:  # now: who has the state and is not in the line is lost
            if entry._s.__class__ is not Done:
                entry._s = line
        ends = (entries[-1], line.forced)
        line.forced = next(entry for entry in reversed(line.entries) if entry in ends)

    def _next(self, now: float) -> Decision:
        line = self.line
        if line.dead:
            self._drop_dead_front()
        live = self.grouped + (self.fresh - self.dead if self.fresh else 0)
        if live <= 0:
            if not line.entries:
                line.route = None
            return NOTHING
        if live >= self.size:
            return Decision("size", line)
        if self.hurry is not None:
            return Decision(self.hurry, line)
        if line.forced is not None:
            return Decision("flush", line)
        if self.linger is None:
            return NOTHING
        if self.linger == 0.0:
            return self._at_once
        due = self._since(line) + self.linger
        if now >= due:
            return Decision("linger", line)
        return Decision(None, None, due)

    def _since(self, group: Any) -> float:
        oldest = self.line.entries[0] if self.line.entries else self.intake[0]
        since: float = oldest._t
        return since

    def take(self, group: Any, batch: Any) -> None:
        line = self.line
        if line.forced is not None:
            batch.is_flushed = line.is_flush
        taken: list[Any] = batch.futures
        if line.entries:
            self._take_from_line(batch)
        if not line.entries:
            line.route = None
        # The hot path: 64 entries in 3 us; a lock, or a call, for each would double that.
        while self.fresh and len(taken) < self.size:
            start = len(taken)
            count = min(self.fresh, self.size - start)
            # All of it is C: no signal handler can raise while an entry is neither here nor there.
            taken.extend(map(deque.popleft, repeat(self.intake, count)))
            chunk = taken[start:] if start else taken
            if batch.route is None:  # first: a batch that is found to be lost needs it
                route = chunk[0]._s
                if route.__class__ is not Route:
                    route = next((e._s for e in chunk if e._s.__class__ is Route), None)
                batch.route = route
            dead = 0
            for entry in chunk:
                if entry._s.__class__ is Done:
                    dead += 1
                else:
                    entry._s = batch
            self.fresh -= count
            if line.forced is not None and line.forced in chunk:
                line.forced = None
            if dead:
                self.dead -= dead
                taken[:] = [entry for entry in taken if entry._s is batch]
            self.running += len(taken) - start

    def _take_from_line(self, batch: Any) -> None:
        taken: list[Any] = batch.futures
        line = self.line
        entries = line.entries
        while entries and len(taken) < self.size:
            entry = entries[0]
            if entry is line.forced:
                line.forced = None
            if entry._s.__class__ is Done:
                line.dead -= 1
            else:
                taken.append(entry)
                if entry._s.__class__ is Done:  # a handler has cancelled it just now
                    taken.pop()
                else:
                    entry._s = batch
            entries.popleft()
        self.grouped -= len(taken)
        self.running += len(taken)

    def force(self, is_flush: bool = True) -> None:
        line = self.line
        line.is_flush = is_flush or (line.forced is not None and line.is_flush)
        if self.fresh:
            line.forced = self.intake[self.fresh - 1]
        elif line.entries:
            line.forced = line.entries[-1]

    def settle_down(self) -> None:
        self.accept()
        self._move(self.fresh)
        self.fresh = 0

    # ---- what was cancelled ----

    def _dropped(self, entry: Any, before: Any = None) -> None:
        line = self.line
        if entry is line.forced:  # the one before it, if it has not left
            last = line.entries[-1] if line.entries else None
            line.forced = last if before is None else before

    def _remove(self, state: Any, entry: Any) -> None:
        line = self.line
        line.dead += 1
        if line.dead > MANY and 2 * line.dead > len(line.entries):
            # The one that a flush ends at stays.
            kept = [e for e in line.entries if e is line.forced or e._s.__class__ is not Done]
            line.dead = sum(entry._s.__class__ is Done for entry in kept)
            line.entries = deque(kept)

    def _drop_dead_front(self) -> None:
        line = self.line
        entries = line.entries
        while line.dead and entries and entries[0]._s.__class__ is Done:
            if entries.popleft() is line.forced:
                line.forced = None
            line.dead -= 1

    def _moved(self) -> list[Any]:
        return [entry for entry in self.line.entries if entry._s.__class__ is not Done]

    def _clear_moved(self) -> None:
        line = self.line
        line.entries.clear()
        line.dead = 0
        line.forced = line.route = None  # the route leads to the engine, which has this line

    def _recount_moved(self) -> None:
        line = self.line
        if line.forced is not None:
            line.forced = _last_live_up_to(line.forced, [*line.entries, *self.intake])
        line.entries = deque(dict.fromkeys(self._moved()))
        line.dead = 0
        for entry in line.entries:
            if entry._s.__class__ is not Done:
                entry._s = line
        self.grouped = len(line.entries)

    def threshold(self, is_free: bool) -> int:
        is_empty = self.grouped + self.fresh <= self.dead
        if self.is_pressed or (is_free and is_empty and not self.dead):
            return 1
        crowd = NEVER
        if self.capacity is not None:
            crowd = self._room() + self.dead + 1  # type: ignore[operator]
        if not is_free:
            return crowd
        if is_empty:
            return min(crowd, len(self.intake) + 1)
        return min(crowd, max(1, self.size - self.grouped + self.dead))


def _last_live_up_to(end: Any, entries: list[Any]) -> Any:
    last = None
    for entry in entries:
        if entry._s.__class__ is not Done:
            last = entry
        if entry is end:
            return last
    return None
