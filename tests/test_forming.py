"""Which items share a batch, and when it is dispatched: `Plain` and `Grouped` against a model.

No threads and no clock: `Desk` uses a queue as an engine does, and times are numbers. Examples come
first, then a state machine that tries all operations in any order.
"""

from __future__ import annotations

import gc
import itertools
import sys
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from weakref import WeakSet

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from batchify.forming import Decision, Grouped, Plain, Route, Waiting
from batchify.future import RESULT
from batchify.terms import NO_TERMS
from tests.tiers import few

# ---- the stand-in for an engine ----


class Entry:
    """A queued entry: the three fields of a future, and its name and route for the test."""

    __slots__ = ("__weakref__", "_s", "_t", "_terms", "_v", "name", "route")

    def __init__(self, route: Route, name: Any, now: float) -> None:
        self._s: Any = route
        self._t = now
        self._terms = NO_TERMS
        self._v = name
        self.name = name
        self.route = route

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Batch:
    """The state of the entries of a batch."""

    is_running = True

    def __init__(self, route: Any) -> None:
        self.route = route
        self.futures: list[Entry] = []
        self.reason = ""

    def unfinished(self) -> list[Entry]:
        return [entry for entry in self.futures if entry._s is self]


class Desk:
    """An engine without threads: it uses the queue as `Engine` does, in the same order.

    Workers take nothing on their own: one is woken, and then calls `take`. `racing` are submits
    of other threads that come, without the lock, during the next dispatch. Those marked nested
    come from a finalizer or signal handler in the dispatching thread.
    """

    def __init__(
        self,
        kind: type[Plain | Grouped],
        *,
        size: int = 64,
        linger: float | None = 0.0,
        capacity: int | None = None,
        workers: int = 1,
    ) -> None:
        self.intake: deque[Entry] = deque()
        self.forming = kind(self.intake, size, linger, capacity)
        self.workers = workers
        self.now = 0.0
        self.need = 1
        self.is_open = True
        self.is_roused = False
        self.alarm: float | None = None
        self.batches: list[Batch] = []
        self.waited: list[Entry] = []  # all callers that ever had to wait for capacity
        self.told: list[Entry] = []  # those of them that were told that there is capacity
        self.looks = 0
        self.racing: list[tuple[Route, bool]] = []
        self.appended: Callable[[Entry], None] = lambda entry: None
        self.refused: list[Entry] = []  # callers that came too late, after a close
        self._late: list[Entry] = []
        self._nested: list[Entry] = []
        self._depth = 0
        self._numbers = itertools.count()

    @contextmanager
    def lock(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        while not self._depth and (self._late or self._nested):
            self.crowded((self._late or self._nested).pop(0))

    # what callers do

    def submit(self, route: Route, name: Any = None) -> Entry:
        entry, must_look = self._append(route, name)
        if must_look:
            self.crowded(entry)
        return entry

    def submit_nowait(self, route: Route) -> Entry | None:
        entry, must_look = self._append(route)
        return entry if not must_look or self.crowded(entry, wait=False) else None

    def _append(self, route: Route, name: Any = None) -> tuple[Entry, bool]:
        entry = Entry(route, next(self._numbers) if name is None else name, self.now)
        self.intake.append(entry)
        self.appended(entry)
        return entry, len(self.intake) >= self.need

    def crowded(self, entry: Entry, wait: bool = True) -> bool:
        with self.lock():
            if not self.is_open and self.forming.withdraw(entry):
                self.refused.append(entry)
                return False
            self.look()
            if self.forming.is_pressed and self.forming.holds(entry):
                if not wait:
                    assert self.forming.withdraw(entry)
                    return False
                self.waited.append(entry)
                entry._s = Waiting(entry._s, lambda: self.told.append(entry))
                self.forming.waiting += 1
                self.look()
            return True

    def cancel(self, entry: Entry) -> bool:
        with self.lock():
            was_accepted = self.forming.end(entry)
            self.look()
        return was_accepted

    def give_up(self, entry: Entry) -> bool:
        """Stop waiting for capacity."""
        with self.lock():
            return self.forming.withdraw(entry)

    def flush(self) -> None:
        with self.lock():
            self.look()
            self.forming.force()
            self.look()

    def close(self, *, cancel: bool = False) -> tuple[list[Entry], list[Entry]]:
        """Return the accepted entries that will not run, and the refused ones."""
        accepted: list[Entry] = []
        away = self.refused = []
        with self.lock():
            self.look()
            self.is_open = False
            self.need = 0
            self.forming.seal(away.append)
            if cancel:
                self.forming.clear(accepted.append)
            self.forming.hasten("close")
            self.look()
        return accepted, away

    def start(self) -> None:
        with self.lock():
            self.forming.hasten(None)
            self.forming.unseal()
            self.is_open = True
            self.look()

    def recover(self) -> None:
        """Repair a change that an exception interrupted, as the next holder of the lock does."""
        self.is_roused = False
        self.forming.recount(sum(len(batch.unfinished()) for batch in self.batches))
        self.look()

    # dispatch

    @property
    def is_free(self) -> bool:
        return len(self.batches) < self.workers

    def look(self) -> None:
        with self.lock():
            while True:
                self._accept()
                if not self.is_roused and self.is_free:
                    decision = self.forming.next(self.now)
                    self.is_roused = decision.reason is not None
                    self._set_alarm(decision.when)
                if self._has_seen_all():
                    return

    def _accept(self) -> None:
        self.looks += 1
        if self.forming.capacity is not None:
            self.need = 0
        told = self.forming.accept()
        while told:
            told[0]()
            told.popleft()
        racing, self.racing = self.racing, []
        for route, is_nested in racing:
            entry, must_look = self._append(route)
            if must_look:
                (self._nested if is_nested else self._late).append(entry)

    def _set_alarm(self, when: float | None) -> None:
        if when is not None and (self.alarm is None or when < self.alarm):
            self.alarm = when

    def _has_seen_all(self) -> bool:
        is_idle = not self.is_roused and self.is_free
        self.need = self.forming.threshold(is_idle) if self.is_open else 0
        held = len(self.intake)
        return self.need == 0 or held < self.need or held == self.forming.seen

    # what workers do

    def take(self) -> Batch | None:
        """Return the next batch for a worker that is awake; None if it sleeps again."""
        with self.lock():
            self.is_roused = False
            while True:
                self._accept()
                decision = self.forming.next(self.now)
                if decision.group is not None:
                    assert decision.reason is not None
                    batch = Batch(decision.group.route)
                    batch.reason = decision.reason
                    self.forming.take(decision.group, batch)
                    self.batches.append(batch)
                    self.look()
                    return batch
                self._set_alarm(decision.when)
                if self._has_seen_all():
                    return None

    def settle(self, batch: Batch, count: int) -> None:
        """Settle `count` further items of `batch`."""
        with self.lock():
            for entry in batch.unfinished()[:count]:
                entry._s = RESULT
                self.forming.running -= 1
            if self.forming.is_pressed:
                self.look()

    def end(self, batch: Batch) -> None:
        """Settle all of `batch`; its worker is awake now, and calls `take`."""
        self.settle(batch, len(batch.futures))
        self.batches.remove(batch)
        self.forming.release(batch.route)

    # for examples: workers that are always prompt

    def run(self) -> tuple[str, list[Any]] | None:
        """Take a batch and end it; return its reason and the names of its entries."""
        batch = self.take()
        if batch is None:
            return None
        self.end(batch)
        return batch.reason, [entry.name for entry in batch.futures]

    def run_all(self) -> list[tuple[str, list[Any]]]:
        return list(iter(self.run, None))


def decide(desk: Desk, now: float) -> Decision:
    desk.forming.accept()
    return desk.forming.next(now)


def route(*args: Any) -> Route:
    return Route(engine=None, function=None, args=args, key=args)


def busy_desk(kind: Any, *, size: int = 4, linger: float | None = None) -> tuple[Desk, Batch]:
    """Return a desk whose only worker runs a full batch, which uses up the capacity."""
    desk = Desk(kind, size=size, linger=linger, capacity=size)
    for name in range(size):
        desk.submit(A, f"running {name}")
    running = desk.take()
    assert running is not None
    assert len(running.futures) == size
    return desk, running


BOTH = pytest.mark.parametrize("kind", [Plain, Grouped])
A, B, C = route("a"), route("b"), route("c")


# ---- examples: size and linger ----


@BOTH
def test_linger_zero_dispatches_at_once_and_alone(kind: Any) -> None:
    desk = Desk(kind, linger=0.0)
    desk.submit(A, 1)
    assert desk.is_roused
    assert desk.run_all() == [("idle", [1])]


@BOTH
def test_items_that_arrive_while_the_worker_is_busy_form_the_next_batch(kind: Any) -> None:
    desk = Desk(kind, linger=0.0)
    desk.submit(A, 1)
    first = desk.take()
    for name in (2, 3, 4):
        desk.submit(A, name)
    assert not desk.is_roused  # no worker is free
    assert first is not None
    desk.end(first)
    assert desk.run_all() == [("idle", [2, 3, 4])]


@BOTH
def test_a_full_batch_is_dispatched_at_once_and_the_rest_lingers(kind: Any) -> None:
    desk = Desk(kind, size=3, linger=10.0)
    for name in range(7):
        desk.submit(A, name)
    assert desk.run_all() == [("size", [0, 1, 2]), ("size", [3, 4, 5])]


@BOTH
def test_linger_counts_from_the_oldest_item(kind: Any) -> None:
    desk = Desk(kind, size=9, linger=10.0)
    desk.submit(A, 1)
    desk.now = 6.0
    desk.submit(A, 2)
    assert decide(desk, 9.99) == Decision(None, None, 10.0)  # look again at 10
    desk.now = 10.0
    assert desk.run_all() == [("linger", [1, 2])]


@BOTH
def test_the_rest_after_a_full_batch_lingers_from_its_own_time(kind: Any) -> None:
    desk = Desk(kind, size=2, linger=10.0)
    desk.submit(A, 1)
    desk.now = 4.0
    desk.submit(A, 2)
    desk.submit(A, 3)
    assert desk.run_all() == [("size", [1, 2])]
    assert decide(desk, 13.99) == Decision(None, None, 14.0)
    desk.now = 14.0
    assert desk.run_all() == [("linger", [3])]


@BOTH
def test_linger_counts_from_the_oldest_item_even_if_it_had_to_wait_for_capacity(kind: Any) -> None:
    desk, running = busy_desk(kind, linger=10.0)
    desk.submit(A, "waited")
    desk.settle(running, 2)
    desk.now = 4.0
    desk.submit(A, "found room")
    desk.end(running)
    assert decide(desk, 9.99) == Decision(None, None, 10.0)
    desk.now = 10.0
    assert desk.run_all() == [("linger", ["waited", "found room"])]


@BOTH
def test_a_batch_that_was_full_and_is_not_any_more_waits_again(kind: Any) -> None:
    desk, running = busy_desk(kind, size=2)
    desk.submit(A, "a")
    cancelled = desk.submit(A, "cancelled")
    desk.settle(running, 2)
    desk.cancel(cancelled)
    desk.end(running)
    assert desk.run_all() == []
    desk.submit(A, "b")
    assert desk.run_all() == [("size", ["a", "b"])]


@BOTH
def test_linger_none_dispatches_only_when_full(kind: Any) -> None:
    desk = Desk(kind, size=2, linger=None)
    desk.submit(A, 1)
    assert decide(desk, 1e308) == Decision(None, None, None)
    desk.submit(A, 2)
    assert desk.run_all() == [("size", [1, 2])]


@BOTH
def test_hurry_dispatches_everything_in_full_batches(kind: Any) -> None:
    desk = Desk(kind, size=2, linger=None)
    for name in (1, 2, 3):
        desk.submit(A, name)
    desk.close()
    assert desk.run_all() == [("size", [1, 2]), ("close", [3])]


# ---- examples: flush ----


@BOTH
def test_flush_dispatches_queued_items_and_no_later_ones(kind: Any) -> None:
    desk = Desk(kind, size=3, linger=None)
    for name in (1, 2):
        desk.submit(A, name)
    desk.flush()
    assert desk.run_all() == [("flush", [1, 2])]
    desk.submit(A, 3)
    assert desk.run_all() == []


@BOTH
def test_later_items_may_fill_the_batch_of_a_flush(kind: Any) -> None:
    desk = Desk(kind, size=3, linger=None)
    desk.submit(A, 1)
    desk.flush()
    desk.submit(A, 2)
    assert desk.run_all() == [("flush", [1, 2])]


@BOTH
def test_a_flush_of_several_batches_forces_the_last_partial_one_too(kind: Any) -> None:
    desk = Desk(kind, size=2, linger=None)
    for name in range(5):
        desk.submit(A, name)
    desk.flush()
    assert desk.run_all() == [("size", [0, 1]), ("size", [2, 3]), ("flush", [4])]


@BOTH
def test_a_flush_returns_when_its_items_are_cancelled(kind: Any) -> None:
    desk = Desk(kind, size=9, linger=None)
    entries = [desk.submit(A, name) for name in range(3)]
    desk.flush()
    for entry in entries:
        desk.cancel(entry)
    desk.submit(A, "later")
    assert desk.run_all() == []


@BOTH
def test_cancelled_items_of_a_flush_dispatch_no_item_in_their_place(kind: Any) -> None:
    desk, running = busy_desk(kind)
    a, b = desk.submit(A, "a"), desk.submit(A, "b")  # they wait for capacity
    desk.settle(running, 1)  # for a
    desk.give_up(b)
    desk.settle(running, 1)
    c = desk.submit(A, "c")
    desk.flush()
    desk.cancel(c)
    desk.cancel(a)
    desk.submit(A, "later")
    desk.end(running)
    assert desk.run_all() == []


@BOTH
def test_cancelled_items_of_a_flush_dispatch_no_item_behind_them(kind: Any) -> None:
    desk, running = busy_desk(kind)
    desk.settle(running, 3)
    a, b = desk.submit(A, "a"), desk.submit(A, "b")
    desk.flush()
    desk.cancel(b)
    for name in ("later", "later too", "without room"):
        desk.submit(A, name)
    desk.cancel(a)
    desk.end(running)
    assert desk.run_all() == []


def test_an_item_cancelled_after_a_flush_dispatches_no_other() -> None:
    """As the engine does when the item came too late, or no thread can be started."""
    desk = Desk(Plain, size=4, linger=None)
    entry = desk.submit(A, "too late")
    desk.flush()
    assert desk.give_up(entry)
    assert desk.take() is None
    desk.submit(A, "later")
    assert desk.run_all() == []


# ---- examples: capacity ----


@BOTH
def test_callers_without_capacity_wait_and_are_admitted_in_order_of_arrival(kind: Any) -> None:
    desk = Desk(kind, size=2, capacity=2)
    entries = [desk.submit(A, name) for name in range(5)]
    assert desk.waited == entries[2:]
    batch = desk.take()
    assert batch is not None
    assert desk.told == []  # running items still use capacity
    desk.settle(batch, 1)
    assert desk.told == [entries[2]]
    desk.settle(batch, 1)
    assert desk.told == [entries[2], entries[3]]


@BOTH
def test_a_call_that_does_not_wait_leaves_no_trace(kind: Any) -> None:
    desk = Desk(kind, size=2, capacity=2)
    desk.submit(A, 1)
    desk.submit(A, 2)
    assert desk.submit_nowait(A) is None
    assert desk.forming.pending == 2
    assert desk.run_all() == [("size", [1, 2])]
    assert desk.submit_nowait(A) is not None


@BOTH
def test_a_caller_that_gives_up_waiting_is_skipped(kind: Any) -> None:
    desk = Desk(kind, size=1, capacity=1)
    _, impatient, patient = [desk.submit(A, name) for name in ("first", "impatient", "patient")]
    assert desk.give_up(impatient)
    assert desk.run_all() == [("size", ["first"]), ("size", ["patient"])]
    assert desk.told == [patient]
    assert not desk.give_up(patient)  # too late


@BOTH
def test_a_close_admits_no_more_than_the_capacity(kind: Any) -> None:
    """Count the callers that arrive during the dispatch and are about to take the lock."""
    desk = Desk(kind, size=3, linger=None, capacity=2)
    desk.submit(A, 1)
    late: list[Entry] = []
    seal = desk.forming.seal

    def seal_late(turn_away: Any) -> None:
        late.extend(desk._append(A, name)[0] for name in (2, 3))
        seal(turn_away)

    desk.forming.seal = seal_late  # type: ignore[method-assign]
    desk.close()
    assert [desk.crowded(entry) for entry in late] == [True, False]
    assert desk.run_all() == [("close", [1, 2])]


@BOTH
def test_a_cancelled_item_frees_its_capacity_and_is_never_dispatched(kind: Any) -> None:
    desk = Desk(kind, size=2, linger=None, capacity=2)
    first, second, third = [desk.submit(A, name) for name in (1, 2, 3)]
    assert desk.cancel(first)
    assert desk.told == [third]
    assert desk.run_all() == [("size", [2, 3])]
    assert second._s is not first._s


@BOTH
def test_a_batch_whose_items_are_all_cancelled_is_not_dispatched(kind: Any) -> None:
    desk = Desk(kind, size=2, linger=0.0)
    for entry in [desk.submit(A, 1), desk.submit(A, 2)]:
        assert desk.cancel(entry)
    assert desk.is_roused  # a worker was woken before that
    assert desk.take() is None
    assert desk.forming.pending == 0


@BOTH
def test_a_call_cancelled_while_it_waits_for_capacity_was_never_accepted(kind: Any) -> None:
    desk = Desk(kind, size=1, capacity=1)
    desk.submit(A, 1)
    waiting = desk.submit(A, 2)
    assert not desk.cancel(waiting)
    assert desk.run_all() == [("size", [1])]
    assert desk.told == []


@BOTH
def test_closing_refuses_calls_without_capacity_and_keeps_accepted_items(kind: Any) -> None:
    desk = Desk(kind, size=2, linger=None, capacity=2)
    entries = [desk.submit(A, name) for name in range(4)]
    assert desk.close() == ([], entries[2:])
    assert desk.run_all() == [("size", [0, 1])]


@BOTH
def test_closing_with_cancel_returns_entries_that_have_not_started(kind: Any) -> None:
    desk = Desk(kind, size=2, linger=None, capacity=3)
    entries = [desk.submit(A, name) for name in range(5)]
    batch = desk.take()
    assert batch is not None
    assert batch.futures == entries[:2]
    assert desk.close(cancel=True) == ([entries[2]], entries[3:])
    desk.end(batch)
    assert desk.run_all() == []
    desk.start()
    assert desk.submit(A, "again").name == "again"
    assert desk.forming.pending == 1


# ---- examples: which caller must dispatch ----


def test_no_caller_dispatches_between_the_first_item_and_a_full_batch() -> None:
    desk = Desk(Plain, size=64, linger=10.0)
    desk.submit(A)
    after_first = desk.looks
    for _ in range(62):
        desk.submit(A)
    assert desk.looks == after_first
    assert not desk.is_roused
    desk.submit(A)
    assert desk.is_roused


@BOTH
def test_while_all_workers_are_busy_no_caller_dispatches_until_the_capacity_is_used_up(
    kind: Any,
) -> None:
    desk = Desk(kind, size=4, capacity=100)
    desk.submit(A)
    desk.take()
    before = desk.looks
    for _ in range(99):
        desk.submit(A)
    assert desk.looks == before
    desk.submit(A)
    assert len(desk.waited) == 1


# ---- examples: routes ----


def test_plain_takes_all_items_together() -> None:
    desk = Desk(Plain, size=3, linger=None)
    for name, to in enumerate((A, B, C)):
        desk.submit(to, name)
    assert desk.run_all() == [("size", [0, 1, 2])]


def test_grouped_takes_only_items_of_the_same_route_together() -> None:
    desk = Desk(Grouped, size=2, linger=None)
    for name, to in [("a1", A), ("b1", B), ("c1", C), ("b2", B), ("a2", A)]:
        desk.submit(to, name)
    batch = desk.take()
    assert batch is not None
    assert batch.route is A
    desk.end(batch)
    assert [entry.name for entry in batch.futures] == ["a1", "a2"]
    assert desk.run_all() == [("size", ["b1", "b2"])]


def test_a_busy_route_does_not_starve_a_rare_one() -> None:
    desk = Desk(Grouped, size=2, linger=0.0)
    desk.submit(A, "a0")
    busy = desk.take()
    left = []
    for turn in range(1, 5):
        desk.now += 1
        desk.submit(A, f"a{turn}")
        desk.submit(A, f"a{turn}'")
        if turn == 2:
            desk.submit(B, "rare")
        assert busy is not None
        desk.end(busy)
        busy = desk.take()
        assert busy is not None
        left.append([entry.name for entry in busy.futures])
    assert left == [["a1", "a1'"], ["a2", "a2'"], ["rare"], ["a3", "a3'"]]


def test_the_rest_of_a_route_keeps_its_age() -> None:
    desk = Desk(Grouped, size=2, linger=0.0)
    desk.submit(C, "busy")
    busy = desk.take()
    assert busy is not None
    for name, to in [("a1", A), ("a2", A), ("b1", B), ("a3", A)]:
        desk.now += 1
        desk.submit(to, name)
    desk.end(busy)
    assert desk.run_all() == [("size", ["a1", "a2"]), ("idle", ["b1"]), ("idle", ["a3"])]


def test_each_route_lingers_by_its_own_oldest_item() -> None:
    desk = Desk(Grouped, size=9, linger=10.0)
    desk.submit(A, "a")
    desk.now = 3.0
    desk.submit(B, "b")
    desk.now = 10.0
    assert desk.run_all() == [("linger", ["a"])]
    assert desk.alarm is not None
    assert decide(desk, 12.99) == Decision(None, None, 13.0)
    desk.now = 13.0
    assert desk.run_all() == [("linger", ["b"])]


def test_flush_forces_every_route_the_oldest_first() -> None:
    desk = Desk(Grouped, size=9, linger=None)
    for name, to in [("b1", B), ("a1", A), ("b2", B)]:
        desk.now += 1
        desk.submit(to, name)
    desk.flush()
    desk.submit(C, "c")
    assert desk.run_all() == [("flush", ["b1", "b2"]), ("flush", ["a1"])]


def test_when_partial_batches_use_up_the_capacity_and_a_caller_waits_the_oldest_is_dispatched() -> (
    None
):
    desk = Desk(Grouped, size=3, linger=None, capacity=3)
    for name, to in [("a", A), ("b", B), ("c", C)]:
        desk.now += 1
        desk.submit(to, name)
    assert desk.run_all() == []  # full, but no caller waits
    desk.submit(B, "b2")
    assert desk.is_roused
    assert desk.run() == ("capacity", ["a"])
    assert desk.run() is None
    assert [entry.name for entry in desk.told] == ["b2"]


def test_callers_wait_for_the_capacity_of_running_items() -> None:
    desk = Desk(Grouped, size=2, linger=None, capacity=3, workers=2)
    desk.submit(A, "a1")
    desk.submit(A, "a2")
    running = desk.take()
    assert running is not None
    desk.submit(B, "b1")
    desk.submit(C, "without room")
    assert desk.take() is None
    desk.submit(B, "b2")
    desk.end(running)
    assert desk.run() == ("size", ["b1", "b2"])


# ---- examples: an exception in the middle ----


class Interrupt(Exception):
    """Raised by a signal handler, between any two lines."""


def breaks_in(line: int, call: Callable[[], object]) -> bool:
    """Make the call, and raise at the n-th line in the queue; return False if it has fewer."""
    left = line

    def trace(frame: Any, event: str, arg: Any) -> Any:
        nonlocal left
        if not frame.f_globals["__name__"].startswith("batchify.forming"):
            return None
        left -= event == "line"
        if event == "line" and not left:
            raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


CHANGES: dict[str, Callable[[Desk, list[Entry]], object]] = {
    "submit": lambda desk, entries: desk.submit(A, "new"),
    "cancel": lambda desk, entries: desk.cancel(entries[1]),
    "cancel one that waits": lambda desk, entries: desk.cancel(entries[5]),
    "give up": lambda desk, entries: desk.give_up(entries[5]),
    "flush": lambda desk, entries: desk.flush(),
}


@BOTH
@pytest.mark.parametrize("change", CHANGES)
def test_an_exception_in_the_middle_of_a_change_harms_no_other_item(kind: Any, change: str) -> None:
    own = {"cancel": 1, "cancel one that waits": 5, "give up": 5}.get(change)
    others = [name for name in range(8) if name != own]
    for line in itertools.count(1):
        desk = Desk(kind, size=2, linger=None, capacity=4)
        entries = [desk.submit((A, B)[name % 2], name) for name in range(8)]
        assert desk.waited == entries[4:]
        if not breaks_in(line, lambda: CHANGES[change](desk, entries)):
            assert line > 10
            return
        desk.recover()
        left = []
        while desk.forming.entries():
            desk.flush()
            left += [name for _, names in desk.run_all() for name in names if name in others]
        if kind is Plain:
            assert left == others
        for parity in (0, 1):
            assert [n for n in left if n % 2 == parity] == [n for n in others if n % 2 == parity]
        # A second notification is harmless; a missing one means waiting forever.
        told = dict.fromkeys(entry.name for entry in desk.told if entry.name in others)
        assert list(told) == [name for name in others if name >= 4], f"broken at line {line}"
        assert not desk.intake
        assert desk.forming.running == 0


@BOTH
def test_nor_does_a_flush_outlive_it(kind: Any) -> None:
    desk, running = busy_desk(kind)
    a, b = desk.submit(A, "a"), desk.submit(A, "b")
    desk.settle(running, 2)
    desk.flush()
    desk.cancel(b)
    desk.recover()
    desk.cancel(a)
    desk.submit(A, "later")
    desk.end(running)
    assert desk.run_all() == []


# ---- examples: nothing is kept ----


class Thing:
    """An extra argument that a caller may want to be freed."""


def forget(desk: Desk) -> None:
    """Drop the routes that the queue reports as unused, as the engine does."""
    assert isinstance(desk.forming, Grouped)
    desk.forming.gone.clear()


def leave_full(desk: Desk, to: Route) -> None:
    desk.submit(to)
    desk.submit(to)
    while desk.run():
        pass


def leave_by_flush(desk: Desk, to: Route) -> None:
    desk.submit(to)
    desk.flush()
    while desk.run():
        pass


def leave_cancelled(desk: Desk, to: Route) -> None:
    desk.cancel(desk.submit(to))


def leave_full_after_a_cancel(desk: Desk, to: Route) -> None:
    cancelled = desk.submit(to)
    desk.submit(to)
    desk.cancel(cancelled)
    desk.submit(to)
    while desk.run():
        pass


WAYS_OUT = [leave_full, leave_by_flush, leave_cancelled, leave_full_after_a_cancel]


@pytest.mark.deep
def test_a_hundred_thousand_routes_leave_nothing_behind() -> None:
    desk = Desk(Grouped, size=2, linger=0.0)
    things: WeakSet[Thing] = WeakSet()
    for turn in range(100_000):
        thing = Thing()
        things.add(thing)
        desk.submit(route(thing))
        if turn % 100 == 99:
            desk.run_all()
    del thing
    forget(desk)
    assert desk.forming.by_kin == {}
    gc.collect()
    assert len(things) == 0


@pytest.mark.parametrize("linger", [0.0, None])
def test_many_routes_at_the_same_time_leave_no_tables_behind(linger: float | None) -> None:
    def grown() -> int:
        desk = Desk(Grouped, size=2, linger=linger)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(1000):
            desk.submit(route())
        desk.flush()
        desk.run_all()
        forget(desk)
        desk.batches.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        # Without a GIL some memory is freed later, but a leak of the desk repeats each time.
        assert min(grown() for _ in range(3)) < 30_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("linger", [0.0, 10.0, None])
@pytest.mark.parametrize("leave", WAYS_OUT)
def test_a_route_without_items_is_let_go(leave: Any, linger: float | None) -> None:
    desk = Desk(Grouped, size=2, linger=linger)
    things: WeakSet[Thing] = WeakSet()
    for _ in range(50):
        thing = Thing()
        things.add(thing)
        leave(desk, route(thing))
        desk.now += 100
        desk.run_all()
    del thing
    forget(desk)
    assert desk.forming.by_kin == {}
    gc.collect()
    assert len(things) == 0


@pytest.mark.parametrize("linger", few([0.0, 1e9, None]))
@pytest.mark.parametrize("leave", few(WAYS_OUT, 2))
def test_memory_does_not_grow_with_the_batches(leave: Any, linger: float | None) -> None:
    desk = Desk(Grouped, size=2, linger=linger)
    assert growth(lambda count: leave_often(desk, leave, count)) < 100_000


@pytest.mark.parametrize("linger", [1e9, None])
@pytest.mark.parametrize("leave", few(way for way in WAYS_OUT if way is not leave_by_flush))
def test_memory_does_not_grow_while_an_old_item_lingers(leave: Any, linger: float | None) -> None:
    desk = Desk(Grouped, size=2, linger=linger)
    desk.submit(A, "old")
    assert growth(lambda count: leave_often(desk, leave, count)) < 100_000
    assert [entry.name for entry in desk.forming.entries()] == ["old"]


def leave_often(desk: Desk, leave: Any, count: int) -> None:
    for _ in range(count):
        desk.now += 1
        leave(desk, B)
        forget(desk)


def test_memory_does_not_grow_with_the_flushes() -> None:
    desk = Desk(Grouped, size=2, linger=None, workers=0)
    desk.submit(A, "waits for a worker")

    def flushes(count: int) -> None:
        for _ in range(count):
            desk.flush()

    assert growth(flushes) < 100_000


def growth(rounds: Callable[[int], None]) -> int:
    """Return by how many bytes 3000 further rounds make the memory grow."""
    rounds(100)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        rounds(3000)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return after - before


@pytest.mark.parametrize("end", ["leaves", "cancelled", "cancelled while it waits", "cleared"])
def test_the_engine_hears_of_every_route_that_is_gone(end: str) -> None:
    """It keeps one route for equal extra arguments, and must drop it eventually."""
    desk = Desk(Grouped, size=1, capacity=1)
    assert isinstance(desk.forming, Grouped)
    A, B = route("a"), route("b")
    entry = desk.submit(A)
    if end == "leaves":
        desk.run()
    elif end == "cancelled":
        desk.cancel(entry)
    elif end == "cancelled while it waits":
        desk.cancel(desk.submit(B))
        assert B in desk.forming.gone
        return
    else:
        desk.close(cancel=True)
    assert A in desk.forming.gone


# ---- anything in any order, against a model ----


MOVES = [
    *["submit", "submit", "submit", "submit_nowait", "cancel", "cancel_one_that_waits", "give_up"],
    *["flush", "others_submit_while_somebody_looks", "others_submit_while_a_worker_takes"],
    *["worker_takes", "worker_takes", "batch_ends", "batch_ends", "one_item_is_done"],
    *["time_passes", "time_passes", "close", "close_with_cancel", "start"],
    *["take_back", "recover"],
]


class FormingMachine(RuleBasedStateMachine):
    """The model is two lists: accepted entries, and entries that wait for capacity.

    The contract promises every `assert` here, in any order of events.
    """

    kind: ClassVar[type[Plain | Grouped]]

    @initialize(
        size=st.integers(1, 4),
        linger=st.sampled_from([0.0, 0.0, 5.0, 5.0, 5.0, None]),
        room=st.sampled_from([0, 0, 1, 3, None]),
        workers=st.integers(1, 2),
    )
    def begin(self, size: int, linger: float | None, room: int | None, workers: int) -> None:
        capacity = None if room is None else size + room
        self.size, self.linger, self.capacity = size, linger, capacity
        self.desk = Desk(self.kind, size=size, linger=linger, capacity=capacity, workers=workers)
        self.desk.appended = self._appended
        self.routes = [A, B, C]
        self.accepted: list[Entry] = []  # and not running, in order of submission
        self.waiting: list[Entry] = []
        self.running: dict[Batch, int] = {}
        self.forced: set[Entry] = set()
        self.told: list[Entry] = []
        self.fates: dict[Entry, str] = {}
        self.hurries = False

    # the model

    def _appended(self, entry: Entry) -> None:
        self.waiting.append(entry)
        self._admit()

    def _admit(self) -> None:
        while self.waiting and not self._is_full():
            entry = self.waiting.pop(0)
            self.accepted.append(entry)
            if entry in self.desk.waited:
                self.told.append(entry)

    def _is_full(self) -> bool:
        taken = len(self.accepted) + sum(self.running.values())
        return self.capacity is not None and taken >= self.capacity

    def _ends(self, entry: Entry, fate: str) -> None:
        assert entry not in self.fates, "it ended before"
        self.fates[entry] = fate
        for entries in (self.accepted, self.waiting):
            if entry in entries:
                entries.remove(entry)

    def _groups(self) -> list[list[Entry]]:
        """Return the accepted entries that may share a batch, the oldest group first."""
        groups: dict[Any, list[Entry]] = {}
        for entry in self.accepted:
            groups.setdefault(entry.route if self.kind is Grouped else None, []).append(entry)
        return list(groups.values())

    def _reasons(self, group: list[Entry]) -> set[str]:
        """Return why `group` may be dispatched now."""
        if len(group) >= self.size:
            return {"size"}
        reasons = set()
        if self.hurries:
            reasons.add("close")
        if self.forced.intersection(group):
            reasons.add("flush")
        if self.linger == 0.0:
            reasons.add("idle")
        elif self.linger is not None and self.desk.now >= group[0]._t + self.linger:
            reasons.add("linger")
        return reasons

    def _ready(self) -> tuple[list[Entry], set[str]] | None:
        """Return the group that must be dispatched next, and why."""
        groups = self._groups()
        for group in groups:
            if reasons := self._reasons(group):
                return group, reasons
        if groups and self.waiting and not any(self.running.values()):
            return groups[0], {"capacity"}
        return None

    # the moves: each does nothing if it makes no sense; `n` chooses the entry and the amount

    @rule(move=st.sampled_from(MOVES), n=st.integers(0, 11))
    def step(self, move: str, n: int) -> None:
        getattr(self, move)(n)

    def submit(self, n: int) -> None:
        self.time_passes(n // 6)
        if self.desk.is_open:
            self.desk.submit(self.routes[n % 3])

    def submit_nowait(self, n: int) -> None:
        if not self.desk.is_open:
            return
        was_full = self._is_full()
        entry = self.desk.submit_nowait(self.routes[n % 3])
        assert (entry is None) == was_full
        if entry is None:
            self._ends(self.waiting[-1], "refused")

    def cancel(self, n: int) -> None:
        if self.accepted:
            entry = self.accepted[n % len(self.accepted)]
            self._ends(entry, "cancelled")
            assert self.desk.cancel(entry)
            self._admit()

    def cancel_one_that_waits(self, n: int) -> None:
        if waiting := self._blocked():
            entry = waiting[n % len(waiting)]
            self._ends(entry, "cancelled")
            assert not self.desk.cancel(entry)

    def give_up(self, n: int) -> None:
        if waiting := self._blocked():
            entry = waiting[n % len(waiting)]
            self._ends(entry, "refused")
            assert self.desk.give_up(entry)

    def take_back(self, n: int) -> None:
        """Refuse an item that was just admitted, because the engine cannot run it after all."""
        if self.accepted and self.desk.give_up(entry := self.accepted[-1]):
            self._ends(entry, "refused")
            self.desk.look()

    def recover(self, n: int) -> None:
        """Check that recounting changes nothing if nothing was interrupted."""
        self.desk.recover()

    def _blocked(self) -> list[Entry]:
        """Return the waiting entries whose callers know it, without those of finalizers."""
        return [entry for entry in self.waiting if entry in self.desk.waited]

    def flush(self, n: int) -> None:
        self.forced |= set(self.accepted)
        self.desk.flush()

    def others_submit_while_somebody_looks(self, n: int) -> None:
        if self.desk.is_open:
            is_nested = n >= 6
            self.desk.racing = [(self.routes[(n + i) % 3], is_nested) for i in range(1 + n % 4)]
            self.desk.look()

    def others_submit_while_a_worker_takes(self, n: int) -> None:
        if self.desk.is_open and self.desk.is_roused:
            self.desk.racing = [(self.routes[(n + i) % 3], False) for i in range(1 + n % 4)]
            self._take()

    def worker_takes(self, n: int) -> None:
        if self.desk.is_roused:
            self._take()

    def batch_ends(self, n: int) -> None:
        if self.running:
            batch = list(self.running)[n % len(self.running)]
            del self.running[batch]
            self.desk.end(batch)
            self._admit()
            self._take()

    def one_item_is_done(self, n: int) -> None:
        if unfinished := [batch for batch, left in self.running.items() if left]:
            batch = unfinished[n % len(unfinished)]
            self.running[batch] -= 1
            self.desk.settle(batch, 1)
            self._admit()

    def time_passes(self, seconds: int) -> None:
        """Take ready batches with the free workers."""
        desk, end = self.desk, self.desk.now + seconds
        while desk.alarm is not None and desk.alarm <= end:
            desk.now = max(desk.now, desk.alarm)
            desk.alarm = None
            desk.look()
            while desk.is_roused and desk.is_free:
                self._take()
        desk.now = end

    def close(self, n: int) -> None:
        if n or not self.desk.is_open:
            return  # now and then only
        waiting = list(self.waiting)
        self.hurries = True
        assert self.desk.close() == ([], waiting)
        for entry in waiting:
            self._ends(entry, "turned away")

    def close_with_cancel(self, n: int) -> None:
        if n or not self.desk.is_open:
            return
        accepted, waiting = set(self.accepted), list(self.waiting)
        self.hurries = True
        cleared, away = self.desk.close(cancel=True)
        assert len(cleared) == len(accepted)
        assert set(cleared) == accepted
        assert away == waiting
        for entry in cleared + away:
            self._ends(entry, "ended by the close")

    def start(self, n: int) -> None:
        if not self.desk.is_open and not self.accepted:
            self.hurries = False
            self.desk.start()

    def _take(self) -> None:
        expected, groups = self._ready(), self._groups()
        batch = self.desk.take()
        if batch is None:
            assert expected is None, f"nothing left, where {expected} was ready"
            return
        if expected is None:  # an entry that arrived in between made it ready
            expected, groups = self._ready(), self._groups()
        assert expected is not None, f"{batch.futures} left without a reason"
        group, reasons = expected
        if batch.futures[0] is not group[0]:  # of those that are equally old any may be first
            assert batch.futures[0]._t == group[0]._t, "an older one was ready"
            group = next(group for group in groups if group[0] is batch.futures[0])
            reasons = self._reasons(group) or reasons
        assert batch.futures == group[: self.size]
        assert batch.reason in reasons
        assert all(entry._s is batch for entry in batch.futures)
        if self.kind is Grouped:
            assert {entry.route for entry in batch.futures} == {batch.route}
        else:
            assert batch.route in self.routes
        for entry in batch.futures:
            self._ends(entry, "left")
        self.running[batch] = len(batch.futures)

    # invariants

    @invariant()
    def the_room_is_never_exceeded(self) -> None:
        forming = self.desk.forming
        assert forming.running == sum(self.running.values())
        assert forming.pending == len(self.accepted)
        if self.capacity is not None:
            assert forming.pending + forming.running <= self.capacity

    @invariant()
    def nothing_is_lost_and_nothing_comes_twice(self) -> None:
        found = self.desk.forming.entries()
        assert len(found) == len(self.accepted)
        assert set(found) == set(self.accepted)
        if self.kind is Plain:
            assert found == self.accepted

    @invariant()
    def who_waits_for_room_is_told_once_and_in_order(self) -> None:
        assert self.desk.told == self.told

    @invariant()
    def no_ready_batch_is_missed(self) -> None:
        """Check that a free worker sleeps only if nothing is ready, at most until a linger ends."""
        desk = self.desk
        if not desk.is_free or desk.is_roused:
            return
        assert self._ready() is None
        if self.linger is not None and self.accepted:
            assert desk.alarm is not None
            assert desk.alarm <= self.accepted[0]._t + self.linger

    @invariant()
    def there_is_no_group_without_entries(self) -> None:
        if isinstance(self.desk.forming, Grouped):
            groups = self.desk.forming.by_kin.values()
            assert {group.route for group in groups} <= {entry.route for entry in self.accepted}

    def teardown(self) -> None:
        """Check that everything was dispatched at the end."""
        if not hasattr(self, "desk") or sys.exc_info()[0] is not None:
            return  # it did not begin, or a rule failed: one failure is enough
        self.close(0)
        while self.accepted or self.running:
            for batch in list(self.running):
                del self.running[batch]
                self.desk.end(batch)
            self._take()
        assert self.desk.take() is None
        assert self.desk.forming.entries() == []
        assert self.desk.forming.pending == self.desk.forming.running == 0
        assert not self.desk.intake


class PlainMachine(FormingMachine):
    kind = Plain


class GroupedMachine(FormingMachine):
    kind = Grouped


MANY = settings(stateful_step_count=60, report_multiple_bugs=False)

TestPlainAgainstModel = PlainMachine.TestCase
TestPlainAgainstModel.settings = MANY
TestGroupedAgainstModel = GroupedMachine.TestCase
TestGroupedAgainstModel.settings = MANY
