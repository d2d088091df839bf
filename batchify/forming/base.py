"""What both formings share: the room, and the ways in and out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ..future import CANCELLED, Done
from .states import Chunk, Route, Waiting

NEVER = 1 << 62  # a length that no intake reaches


class Decision(NamedTuple):
    """`reason` is why `group` leaves now, None when none does; `when` is the time to look again.

    `group` is a `Line`, a `Group`, or a future whose state is a `Chunk`.
    """

    reason: str | None
    group: Any = None
    when: float | None = None


NOTHING = Decision(None)


class Forming:
    """The capacity in use, the intake, and what is accepted and not running.

    Invariants, whenever the engine's lock is free:
    - every entry is in the intake or was moved on, and older ones are never behind younger ones
      of the same kin;
    - `running` + live entries that were moved on + accepted ones in the intake <= `capacity`;
    - `is_pressed`: the intake holds only entries that have no room;
    - `is_sealed`: the intake holds only entries whose calls are on the way in, to be refused.
    """

    def __init__(
        self, intake: deque[Any], size: int, linger: float | None, capacity: int | None
    ) -> None:
        self.intake = intake
        self.size = size
        self.linger = linger
        self.capacity = capacity
        self.running = 0  # items that left with a batch and are not done
        self.dead = 0  # cancelled entries in the intake
        self.waiting = 0  # entries in the intake whose state is Waiting
        self.grouped = 0  # accepted entries that are not in the intake any more, and wait
        self.chunks: deque[Any] = deque()  # futures of many items each, oldest first
        self.chunked = 0  # how many items those are
        self.is_pressed = False
        self.is_sealed = False  # nothing is let in any more: who is in the intake is refused
        self.seen = 0  # how long the intake was when `accept` was through with it
        self.told: deque[Any] = deque()  # who got room, until they are told
        self.hurry: str | None = None  # a reason for everything to leave at once
        self.minded: dict[Any, int] = {}  # entries with a deadline

    @property
    def pending(self) -> int:
        """Accepted items that are not running."""
        is_shut = self.is_pressed or self.is_sealed
        fresh = 0 if is_shut else len(self.intake) - self.dead - self.waiting
        room = self._room()
        return self.grouped + self.chunked + (fresh if room is None else min(fresh, room))

    def _room(self) -> int | None:
        if self.capacity is None:
            return None
        return max(0, self.capacity - self.running - self.grouped - self.chunked)

    def configure(self, size: int, linger: float | None, capacity: int | None) -> None:
        """Go on with other limits, also for what waits."""
        self.size, self.linger, self.capacity = size, linger, capacity

    def hasten(self, reason: str | None) -> None:
        """Let everything leave at once from now on, for `reason`; None ends that."""
        self.hurry = reason

    @property
    def deadline(self) -> float | None:
        """The next deadline."""
        return None

    def overdue(self, now: float) -> list[Any]:
        """The entries whose deadline has come, which did not start."""
        return []

    # ---- in ----

    def accept(self) -> deque[Any]:
        """Let in what there is room for.

        Gives what those who waited are to be told by, to be taken out when they are told.
        """
        raise NotImplementedError

    def is_idle(self) -> bool:
        """Is nothing here, so that neither `accept` nor `next` has anything to do?

        Half of the looks at a queue with one caller find that, at a tenth of the price.
        """
        return False

    def settle_down(self) -> None:
        """Move on all that has room, so that the intake holds the others only."""
        self.accept()

    def _move(self, most: int) -> int:
        """Move up to `most` live entries from the intake on, in order.

        Returns:
            How many more it could have moved. If any, the intake was empty: what is in it now came
            since, and there is capacity for it.
        """
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
                state = state.route
                self.waiting -= 1
            self._admit(entry, state)
            intake.popleft()
            self.grouped += 1
            most -= 1
        return most

    def _admit(self, entry: Any, route: Any) -> None:
        """Put an entry that has room to its like."""
        raise NotImplementedError

    def _dropped(self, entry: Any, before: Any = None) -> None:
        """`entry` is dropped from the intake, where `before` stands in front of it."""

    def can_take(self, count: int) -> bool:
        """Is there room for `count` items more, and does nobody wait for it?"""
        if self.is_pressed or self.is_sealed or self.waiting:
            return False
        room = self._room()
        return room is None or room - (len(self.intake) - self.dead) >= count

    def add_chunk(self, entry: Any) -> None:
        """Accept `entry`, whose state is a `Chunk`, and for which there is room."""
        self.chunks.append(entry)
        self.chunked += entry._s.count

    def break_up(self, chunk: Any, final: Any, value: Any, entries: list[Any]) -> None:
        """End `chunk`, and let its items go one by one, as `entries`, without lingering."""
        route = chunk._s.route
        self.end(chunk, final, value)
        self.grouped += len(entries)
        self._bring_in(entries, route)

    def _bring_in(self, entries: list[Any], route: Any) -> None:
        """Put entries to their like, before those that came later."""
        raise NotImplementedError

    def recount(self, running: int) -> None:
        """Count anew, after an exception from a signal handler broke into a change.

        Args:
            running: how many items left with a batch and are not done.
        """
        self.running = running
        live = dict.fromkeys(entry for entry in self.chunks if entry._s.__class__ is Chunk)
        self.chunks = deque(live)
        self.chunked = sum(entry._s.count for entry in live)
        self._recount_moved()
        intake = self.intake
        if intake and self._is_moved(intake[0]):
            intake.popleft()  # it was moved, but not taken out
        states = [entry._s.__class__ for entry in list(intake)]
        self.dead = states.count(Done)
        self.waiting = states.count(Waiting)

    def _recount_moved(self) -> None:
        raise NotImplementedError

    @staticmethod
    def _is_moved(entry: Any) -> bool:
        return entry._s.__class__ not in (Route, Waiting, Done)

    # ---- out ----

    def end(self, entry: Any, final: Any = CANCELLED, value: Any = None) -> bool | None:
        """Take out an entry that has not started, and give it its final state and value.

        Gives True when it had been accepted; None when a handler has cancelled it meanwhile.
        """
        state = entry._s
        self._forget_about(entry)
        if state.__class__ is Done or entry._s is not state:
            return None
        entry._v = value
        entry._s = final
        if state.__class__ is Route:
            self.dead += 1
        elif state.__class__ is Waiting:
            self.dead += 1
            self.waiting -= 1
            return False
        elif state.__class__ is Chunk:
            self.chunks.remove(entry)
            self.chunked -= state.count
        else:
            self.grouped -= 1
            self._remove(state, entry)
        return True

    def _remove(self, state: Any, entry: Any) -> None:
        """`entry`, which was moved on and had this state, has ended."""
        raise NotImplementedError

    def release(self, route: Any) -> None:
        """A batch of `route` is over."""

    def _forget_about(self, entry: Any) -> None:
        """`entry` is about to end, or to leave."""

    def holds(self, entry: Any) -> bool:
        """Is `entry` in the intake? Looks from the young end."""
        return self._place(entry) is not None

    def withdraw(self, entry: Any) -> bool:
        """Take `entry` out of the intake without a trace; False when it is not there any more."""
        place = self._place(entry)
        if place is None:
            return False
        if entry._s.__class__ is Waiting:
            self.waiting -= 1
        self._forget_about(entry)
        entry._s = CANCELLED
        entry._v = None
        self._dropped(entry, self.intake[place - 1] if place else None)
        del self.intake[place]
        return True

    def drop(self, entry: Any) -> None:
        """Take one out of the sealed intake that has ended there."""
        place = self._place(entry)
        if place is not None:
            self._forget_about(entry)
            del self.intake[place]

    def _place(self, entry: Any) -> int | None:
        intake = self.intake
        for place in range(len(intake) - 1, -1, -1):  # only appends can come in between
            if intake[place] is entry:
                return place
        return None

    def clear(self, end: Callable[[Any], None]) -> None:
        """`end` the accepted entries, once all of them were moved on."""
        for entry in [*self.chunks, *self._moved()]:
            self._forget_about(entry)
            end(entry)
        self.chunks.clear()
        self._clear_moved()
        self.grouped = self.chunked = 0

    def _moved(self) -> list[Any]:
        """The live entries that were moved on."""
        raise NotImplementedError

    def _clear_moved(self) -> None:
        raise NotImplementedError

    def everyone(self) -> list[Any]:
        """All entries, accepted or not, also in the middle of a change: some perhaps twice."""
        return [*self.chunks, *self._moved(), *self.intake]

    def seal(self, turn_away: Callable[[Any], None]) -> None:
        """Let nothing in any more, and `turn_away` the entries that wait for room.

        Who is in the intake then is on the way in, and will be refused; or a start comes first.
        """
        if not (self.is_pressed or self.is_sealed):  # who has room is in front
            room = self._room()
            self._move(len(self.intake) if room is None else room)
        if self.is_pressed or not self.is_sealed:
            self._turn_out(turn_away)
        self.is_sealed = True

    def _turn_out(self, turn_away: Callable[[Any], None]) -> None:
        intake = self.intake
        place = 0
        while place < len(intake):
            entry = intake[place]
            state = entry._s.__class__
            if state is Waiting:
                self._forget_about(entry)
                turn_away(entry)
            elif state is not Done:
                place += 1
                continue
            # Last: an exception from a signal handler leaves it here, or done.
            del intake[place]
        self.dead = self.waiting = 0
        self.is_pressed = False

    def unseal(self) -> None:
        """Let entries in again."""
        self.is_sealed = False

    def entries(self) -> list[Any]:
        """The accepted entries that have not left."""
        found = [*self.chunks, *self._moved()]
        if not (self.is_pressed or self.is_sealed):
            found += [e for e in list(self.intake) if e._s.__class__ is Route]
        return found

    def next(self, now: float) -> Decision:
        """Does a batch leave at `now`?"""
        decision = self._next(now)
        while self.chunks and self.chunks[0]._s.__class__ is not Chunk:
            self.chunks.popleft()  # a finalizer has cancelled it; all will be counted anew
        if not self.chunks:
            return decision
        chunk = self.chunks[0]
        if decision.group is None or chunk._s.since < self._since(decision.group):
            return Decision("size", chunk)
        return decision

    def _next(self, now: float) -> Decision:
        raise NotImplementedError

    def _since(self, group: Any) -> float:
        """When the oldest entry of `group` was submitted, or ran last."""
        raise NotImplementedError

    def take(self, group: Any, batch: Any) -> None:
        """Move the next entries of `group` to `batch.futures`, with the state `batch`."""
        raise NotImplementedError

    def take_chunk(self, batch: Any) -> None:
        """Move the oldest chunk to `batch.futures`, likewise."""
        chunk = self.chunks[0]
        batch.futures.append(chunk)
        state = chunk._s
        if state.__class__ is Chunk:
            chunk._s = batch
            self.chunked -= state.count
            self.running += state.count
        else:  # a finalizer has cancelled it just now
            batch.futures.pop()
        self.chunks.popleft()

    def force(self, is_flush: bool = True) -> None:
        """What is accepted now leaves without lingering.

        Args:
            is_flush: also what waits to run again, and what of it is to run again later.
        """
        raise NotImplementedError

    def threshold(self, is_free: bool) -> int:
        """The length of the intake at which a caller must look.

        Args:
            is_free: somebody could run a batch, and sleeps.
        """
        raise NotImplementedError
