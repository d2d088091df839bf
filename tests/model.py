"""Compare the engine with a model: random steps, with a full comparison after each one.

    python -m tests.model [--examples 50000] [--steps 100] [--seed N] [--processes 2] [--shrink]

`Model` describes in a page what batchify must do. `Machine` performs the same steps on the real
engine, whose threads run one at a time (`tests.turns`), and compares. A failure is printed as the
steps that lead to it, for `replay`, and with the command that repeats it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from batchify import (
    BadResult,
    BatchAborted,
    Closed,
    DeadlineExceeded,
    Forked,
    ItemTooHeavy,
    MissingResult,
    QueueFull,
    Retry,
    RetryExhausted,
    waits,
)
from batchify.engine import lifecycle
from batchify.interpreter import has_gil
from batchify.options import UNSET
from tests.manual import batched_with
from tests.turns import Turn, Turns

PATIENCE = 1.0  # seconds after which an item of lower priority may no longer be overtaken
ATTEMPTS = 3
TICK = 2.0**-20  # seconds between steps, so that no two events happen at the same time
ENDS = ("succeeded", "failed", "cancelled", "expired")


# ---- the model ----


class Item:
    """One item in the model, together with the engine's future for it."""

    def __init__(self, n: int, now: float) -> None:
        self.n = n
        self.born = now
        self.key = self.twin = 0
        self.weight = 1.0
        self.priority = 0
        self.deadline = math.inf
        self.gives_up = math.inf  # when its call stops waiting for capacity
        self.state = "new"  # waiting, pending, running, done, refused
        self.delayed = -math.inf  # pending, but not dispatched before this time
        self.is_forced = False  # must be dispatched without lingering
        self.is_flushed = False  # and without a delay for a retry
        self.is_again = False  # ran before
        self.tries = 0
        self.batch: Run | None = None
        self.outcome: Any = None  # ("value", value), (type of the error, its args or None)
        self.future: Any = None
        self.call: Turn | None = None  # its call, if that waits for capacity
        self.told = 0

    def tell(self, _: Any) -> None:
        self.told += 1

    def __repr__(self) -> str:
        return f"#{self.n}"

    def order(self) -> tuple[bool, int]:
        return (not self.is_again, self.n)


class Model:
    """What the engine must do, without threads and locks, and without regard to speed."""

    def __init__(self, size: int, linger: float | None, workers: int, capacity: int | None) -> None:
        self.size, self.linger, self.workers, self.capacity = size, linger, workers, capacity
        self.max_weight: float | None = None
        self.dedupes = False
        self.now = 0.0
        self.state = "open"
        self.is_stopping = False
        self.items: list[Item] = []  # items that are not done
        self.batches: list[Run] = []  # batches that occupy a worker
        self.closes: list[Ending] = []
        self.starts = 0  # how often it was reopened
        self.counts: Counter[str] = Counter()
        self.has_priorities = False
        self.had_again = False  # an item was retried: which item has a claim is undefined
        self.claims = 0  # batches in a row dispatched by priority despite an old item's claim

    def of(self, state: str) -> list[Item]:
        return [item for item in self.items if item.state == state]

    # -- submit --

    def submit(self, item: Item, wait: bool) -> type[Exception] | None:
        """Submit an item; return the error if the call refuses it."""
        self.has_priorities |= bool(item.priority)
        if self.state != "open":
            return self.refuse(item, Closed)
        item.state = "waiting"
        self.items.append(item)
        self.admit()
        return self.refuse(item, QueueFull) if item.state == "waiting" and not wait else None

    def refuse(self, item: Item, why: type[Exception]) -> type[Exception]:
        self.counts["rejected"] += 1
        item.state, item.outcome = "refused", (why, None)
        self.items = [other for other in self.items if other is not item]
        return why

    def admit(self) -> None:
        inside = len(self.items) - len(self.of("waiting"))
        for item in self.of("waiting"):
            if self.capacity is None or inside < self.capacity:
                item.state = "pending"
                self.counts["accepted"] += 1
                inside += 1

    # -- settle --

    def end(self, item: Item, how: str, outcome: Any) -> None:
        if item.state == "waiting":
            self.counts["accepted"] += 1
        self.counts[how] += 1
        item.state, item.outcome = "done", outcome
        self.items = [other for other in self.items if other is not item]

    def fail(self, items: list[Item], error: type[Exception]) -> None:
        for item in items:
            self.end(item, "failed", (error, None))

    def settle(self, batch: Run, first: Item, outcome: Any) -> None:
        """Settle one item that the function got, and all equal ones."""
        equal = [one for one in batch.items if one is first or batch.is_twin(one, first)]
        self.counts["deduplicated"] += len(equal) - 1
        for item in equal:
            if item.state != "running" or item.batch is not batch:
                continue
            if not isinstance(outcome, Retry):
                self.end(item, "succeeded" if outcome[0] == "value" else "failed", outcome)
            elif item.tries >= outcome.attempts:
                self.end(item, "failed", (RetryExhausted, None))
            elif self.is_stopping or self.state == "closed":
                self.end(item, "failed", (Closed, None))
            else:
                self.counts["retried"] += 1
                self.had_again = True
                item.state, item.is_again, item.is_forced = "pending", True, True
                item.is_flushed |= batch.is_flushed
                is_urgent = item.is_flushed or self.state != "open"
                item.delayed = -math.inf if is_urgent else self.now + outcome.after

    # -- batches --

    def is_full(self, group: list[Item]) -> bool:
        weight = sum(item.weight for item in group)
        return len(group) >= self.size or (
            self.max_weight is not None and weight >= self.max_weight
        )

    def is_ready(self, group: list[Item]) -> bool:
        return (
            self.linger == 0
            or self.state != "open"
            or self.is_full(group)
            or any(item.is_forced for item in group)
            or (self.linger is not None and group[0].born + self.linger <= self.now)
        )

    def prefix(self, items: list[Item]) -> list[Item]:
        """Return the items that fit into one batch, in the order of submission."""
        taken: list[Item] = []
        for item in items[: self.size]:
            weight = sum(one.weight for one in taken) + item.weight
            if self.max_weight is not None and weight > self.max_weight:
                break
            taken.append(item)
        return sorted(taken, key=Item.order)

    def next_batches(self) -> Iterator[tuple[str, list[Item]]]:
        """Return the batches that may be dispatched next, usually one."""
        groups: dict[int, list[Item]] = {}
        for item in sorted(self.of("pending"), key=Item.order):
            if item.delayed <= self.now:
                groups.setdefault(item.key, []).append(item)
        by_age = sorted(groups.values(), key=lambda group: group[0].n)
        ready = [group for group in by_age if self.is_ready(group)]
        if not ready:
            if by_age and self.of("waiting") and not self.of("running"):
                yield "capacity", self.prefix(by_age[0])
            return
        why = self.why(ready[0])
        has_claim = self.now - ready[0][0].born > PATIENCE
        # The order of groups is not promised if some items were retried.
        is_open = any(item.is_again for group in ready for item in group)
        has_priorities = any(item.priority for group in ready for item in group)
        if not has_priorities or has_claim or is_open:
            yield why, self.prefix(ready[0])
        if self.has_priorities and (is_open or self.had_again or not (has_claim and self.claims)):
            top = max(ready, key=lambda group: max(item.priority for item in group))
            yield self.why(top), self.prefix(self.by_priority(top))
        if is_open:
            for group in ready[1:]:
                yield self.why(group), self.prefix(group)
                yield self.why(group), self.prefix(self.by_priority(group))

    def why(self, group: list[Item]) -> str:
        return "full" if self.is_full(group) else "close" if self.state != "open" else "other"

    @staticmethod
    def by_priority(group: list[Item]) -> list[Item]:
        return sorted(group, key=lambda item: (-item.priority, item.n))

    def run(self, started: list[Run]) -> None:
        """Do everything that is due; `started` are the batches that the engine started."""
        for item in list(self.items):
            if item.state == "waiting" and item.gives_up <= self.now:
                self.refuse(item, QueueFull)
            elif item.state in ("waiting", "pending") and item.deadline <= self.now:
                self.end(item, "expired", (DeadlineExceeded, None))
        self.admit()
        while len(self.batches) < self.workers and (choices := list(self.next_batches())):
            assert started, f"no batch started: {choices}"
            run = started.pop(0)
            why, items = self.match(run, choices)
            is_by_age = items == choices[0][1] or not self.has_priorities
            self.claims = 0 if is_by_age else self.claims + 1
            self.take(run, items, why)
        assert not started, f"{[run.given for run in started]} started, {list(self.items)} wait"
        for ending in list(self.closes):
            ending.check()

    def match(self, run: Run, choices: list[tuple[str, list[Item]]]) -> tuple[str, list[Item]]:
        for why, items in choices:
            once = items
            if self.dedupes:
                once = list({item.twin: item for item in reversed(items)}.values())
                once.sort(key=items.index)
            if once == run.given and is_one_batch(items):
                return why, items
        raise AssertionError(f"{run.given} started, expected one of {choices}")

    def take(self, run: Run, items: list[Item], why: str) -> None:
        self.counts["batches"] += 1
        self.counts[why] += 1
        self.batches.append(run)
        run.items, run.dedupes = items, self.dedupes
        run.is_flushed = any(item.is_flushed for item in items)
        for item in items:
            item.state, item.batch, item.tries = "running", run, item.tries + 1
            item.is_forced = False

    # -- life cycle --

    def flush(self) -> list[Item]:
        inside = [item for item in self.items if item.state != "waiting"]
        for item in inside:
            item.is_forced = item.is_flushed = True
            item.delayed = -math.inf
        for batch in self.batches:
            batch.is_flushed = True
        return inside

    def close(self, cancel: bool, timeout: float | None) -> Ending:
        if self.state != "closed":
            self.state = "closing"
            for item in self.of("waiting"):
                self.refuse(item, Closed)
            for item in self.of("pending"):
                item.delayed = -math.inf
            if cancel:
                self.is_stopping = True
                self.fail(self.of("pending"), Closed)
        ending = Ending(self, list(self.items), timeout)
        if ending.is_over():
            self.close_now()
        else:
            self.closes.append(ending)
        return ending

    def close_now(self, abandon: bool = False) -> None:
        if self.state == "closing":
            self.state = "closed"
            if abandon:
                self.fail(list(self.items), Closed)
                self.batches.clear()

    def fork(self) -> None:
        for item in list(self.items):
            self.end(item, "failed", (Forked, None))
        self.counts.clear()
        self.batches.clear()
        self.closes.clear()
        self.claims = 0
        self.state = "open" if self.state == "open" else "closed"


def is_one_batch(items: list[Item]) -> bool:
    """Return True if these are all items of one batch, to tell batches of equal items apart."""
    known = {id(future): future._s for future in futures_of(items)}
    if len({id(state) for state in known.values()}) > 1:
        return False
    sizes = [len(state.futures) for state in known.values() if hasattr(state, "futures")]
    return len(known) < len(items) or all(size == len(items) for size in sizes)


def futures_of(items: list[Item]) -> list[Any]:
    """Return the known futures, including those of calls that have just got capacity."""
    ended = [item.call for item in items if item.call is not None and item.call.is_done]
    found = [item.future for item in items] + [call.value for call in ended]
    return [future for future in found if future is not None]


class Ending:
    """A flush or close, and what it waits for."""

    def __init__(self, model: Model, items: list[Item], timeout: float | None) -> None:
        self.model = model
        self.starts = model.starts
        self.items = items
        self.end = math.inf if timeout is None else model.now + timeout
        self.is_late = False

    def is_over(self) -> bool:
        return all(item.state == "done" for item in self.items)

    def check(self) -> None:
        """Check whether a close returns now."""
        model = self.model
        if self.is_over() or self.end <= model.now:
            self.is_late = not self.is_over()
            model.closes = [other for other in model.closes if other is not self]
            if self.starts == model.starts:  # else another close is still running
                model.close_now(abandon=self.is_late)


class Run:
    """A call of the batch function, which continues when the machine says so."""

    def __init__(self, n: int, given: list[Item], turn: Any, bell: Any) -> None:
        self.n = n
        self.given = list(given)
        self.turn = turn
        self.bell = bell
        self.answer: Callable[[], Any] | None = None  # how the function ends
        self.yields: list[Any] | None = None  # the first results of a generator
        self.at = 0  # the number of these results
        self.items: list[Item] = []
        self.dedupes = False
        self.is_flushed = False

    def is_twin(self, one: Item, other: Item) -> bool:
        return self.dedupes and one.twin == other.twin

    def values(self) -> list[Any]:
        return [("result", item.n, self.n) for item in self.given]


# ---- how a batch may end: what the function does, and what each of its items gets ----


class Oops(Exception):
    """Raised by the batch function."""


WHOLE: dict[str, Callable[[list[Any]], Any]] = {  # a BadResult for all
    "str": lambda values: "x" * len(values),
    "number": len,
    "set": set,
    "short": lambda values: values[1:],
    "long": lambda values: [*values, None],
    "object": lambda values: object(),
}
RAISED: dict[str, tuple[Callable[[], BaseException], Any]] = {
    "Exception": (lambda: Oops("all"), (Oops, ("all",))),
    "SystemExit": (SystemExit, (BatchAborted, None)),
    "KeyboardInterrupt": (KeyboardInterrupt, (BatchAborted, None)),
    "GeneratorExit": (GeneratorExit, (BatchAborted, None)),
    "CancelledError": (asyncio.CancelledError, (BatchAborted, None)),
    "StopIteration": (StopIteration, (RuntimeError, None)),
}
ELEMENTS: dict[str, tuple[Callable[[], Any], Any]] = {
    "error element": (lambda: Oops("one"), (Oops, ("one",))),
    "exit element": (SystemExit, (BatchAborted, None)),
    "stop element": (StopIteration, (RuntimeError, None)),
    "retry": (lambda: Retry(attempts=ATTEMPTS), None),
    "retry later": (lambda: Retry(after=2 + 1 / 64, attempts=ATTEMPTS), None),
}
FINE = ("list", "tuple", "mapping")
BAD = ("None", "missing", "retry all", *WHOLE, *RAISED, *ELEMENTS)


def raising(error: BaseException) -> Callable[[], Any]:
    def answer() -> Any:
        raise error

    return answer


def answer_of(kind: str, run: Run, place: int) -> tuple[Callable[[], Any], list[Any]]:
    """Return what the function does, and the outcomes of the items that it got."""
    given, values = run.given, run.values()
    count, place = len(given), place % len(given)
    fine: list[Any] = [("value", value) for value in values]
    if kind in WHOLE:
        return (lambda: WHOLE[kind](values)), [(BadResult, None)] * count
    if kind in RAISED:
        error, outcome = RAISED[kind]
        return raising(error()), [outcome] * count
    if kind == "None":
        return (lambda: None), [("value", None)] * count
    if kind == "retry all":
        again: list[Any] = [Retry(attempts=ATTEMPTS)] * count
        return (lambda: again), again
    if kind in ELEMENTS:
        make, outcome = ELEMENTS[kind]
        values[place] = make()
        fine[place] = outcome or values[place]
        return (lambda: values), fine
    if kind == "mapping" or kind == "missing":
        found = dict(zip(reversed(given), reversed(values), strict=True))
        if kind == "missing":
            del found[given[place]]
            fine[place] = (MissingResult, None)
        return (lambda: found), fine
    return (lambda: tuple(values) if kind == "tuple" else values), fine


# ---- the machine ----

HOWS: tuple[dict[str, Any], ...] = (
    {"priority": 1}, {"priority": 1}, {"priority": -2}, {"deadline": 0.5 + 1 / 16},
    {"deadline": 3 + 1 / 16, "priority": 1}, {"deadline": 0}, {"timeout": 1.5 + 1 / 32},
    {"timeout": 0, "priority": 2}, {"timeout": 4 + 1 / 32, "deadline": 2 + 1 / 16},
    {"wait": False}, {"wait": False}, {"wait": False, "deadline": 1 + 1 / 16},
)  # fmt: skip
TIMEOUTS = (None, None, 2 + 1 / 128, 6 + 1 / 128)
CHANGES = (
    ("size", 1), ("size", 2), ("size", 5), ("linger", 0.0), ("linger", 2.0), ("linger", None),
    ("workers", 1), ("workers", 2), ("workers", 3), ("capacity", 3), ("capacity", 6),
    ("capacity", None),
)  # fmt: skip
COUNTED = (
    "accepted", "rejected", "succeeded", "failed", "cancelled", "expired", "retried",
    "deduplicated", "batches",
)  # fmt: skip
USED: Counter[str] = Counter()  # how often each rule was used


class Machine(RuleBasedStateMachine):
    """Performs the same steps on the real engine and on the model, and compares."""

    f: Any = None
    is_sound = False

    @initialize(
        kinds=st.sampled_from(("", "", "key", "args", "weight", "dedupe", "key weight dedupe")),
        size=st.integers(1, 4),
        linger=st.sampled_from((0.0, 0.0, 1.0, 4.0, None)),
        workers=st.integers(1, 3),
        room=st.sampled_from((0, 0, 1, 3, None, UNSET)),
    )
    def set_up(self, **given: Any) -> None:
        self.given = given
        self.seam = Turns()
        self.n = 0
        self.over: list[Item] = []  # finished futures
        self.errors: set[int] = set()  # the ids of these futures' errors
        self.make()

    def make(self) -> None:
        """Create a new decorated function and its model."""
        names = ("kinds", "size", "linger", "workers", "room")
        kinds, size, linger, workers, room = (self.given[name] for name in names)
        self.capacity = room if room is None or room is UNSET else size + room
        capacity = 10_000 if room is UNSET else self.capacity
        self.model = Model(size, linger, workers, capacity)
        self.model.now = self.seam.now
        options: dict[str, Any] = {}
        if "key" in kinds:
            options["key"] = lambda item: 9 // (9 - item.key) and item.key
        if "weight" in kinds:
            options |= {"weight": lambda item: item.weight, "max_weight": 4}
            self.model.max_weight = 4
        if "dedupe" in kinds:
            options["dedupe"] = lambda item: item.twin
            self.model.dedupes = True
        self.f = batched_with(
            self.seam, self.work if kinds == "args" else lambda items: self.work(items),
            size=size, linger=linger, workers=workers, capacity=self.capacity, name="work",
            exit_timeout=0.0, **options,
        )  # fmt: skip
        self.weak: Any = None
        self.items: list[Item] = []  # submitted and not yet seen to end
        self.calls: list[tuple[Turn, Callable[[Turn], bool | None]]] = []  # threads that may block
        self.started: list[Run] = []  # calls of the function that the model does not know of yet
        self.runs: list[Run] = []  # calls of the function that have not ended
        self.is_held = False
        self.age = 0  # steps since the last such call or fork
        self.was_forked = False  # vanished threads leave garbage behind
        self.is_sound = True

    # -- the batch function --

    def work(self, items: list[Item], *_: Any) -> Any:
        run = Run(self.n, items, self.seam.running, self.seam.bell())
        self.n += 1
        self.started.append(run)
        self.runs.append(run)
        run.bell.wait(None)
        if run.yields is not None:
            return self.stream(run)
        self.runs.remove(run)
        items.clear()  # the function may change its list
        assert run.answer is not None
        return run.answer()

    def stream(self, run: Run) -> Iterator[Any]:
        try:
            while True:
                while run.yields:
                    yield run.yields.pop(0)
                if run.answer is not None:
                    yield from run.answer()
                    return
                run.bell.wait(None)
        finally:
            self.runs.remove(run)

    # -- steps --

    def begin(self, name: str) -> None:
        USED[name] += 1
        self.age += 1
        self.is_sound = False
        self.go_to(self.seam.now + TICK)

    def end(self) -> None:
        if not self.is_held:
            self.settle()
        self.compare()
        self.is_sound = True

    def release(self) -> None:
        if self.is_held:
            self.is_held = False
            self.settle()

    def settle(self) -> None:
        """Run the threads until they sleep, then compare everything with the model."""
        self.seam.settle()
        self.model.run(self.started)
        self.calls = [
            (turn, is_over) for turn, is_over in self.calls if not self.see(turn, is_over)
        ]
        self.seam.settle()

    @staticmethod
    def see(turn: Turn, is_over: Callable[[Turn], bool | None]) -> bool:
        expected = is_over(turn)
        assert expected is None or turn.is_done == expected, f"the call is over: {turn.is_done}"
        return turn.is_done

    def go_to(self, when: float) -> None:
        """Advance the clock."""
        while (alarm := self.seam.next_alarm()) is not None and alarm <= when:
            self.release()
            self.seam.now = self.model.now = max(alarm, self.seam.now)
            self.seam.wake_due()
            self.settle()
        self.seam.now = self.model.now = when

    def compare(self) -> None:
        model = self.model
        for item in list(self.items):
            if item.state == "refused":
                self.items.remove(item)
            elif item.future is None:
                continue
            elif item.state == "done":
                self.compare_outcome(item)
                self.items.remove(item)
                self.over.append(item)
            else:
                assert not item.future.done(), f"{item} is done"
                assert item.future.running() == (item.state == "running"), f"{item}"
        if self.f is None:
            self.compare_dropped()
            return
        stats = self.f.stats()
        found = {name: getattr(stats, name) for name in COUNTED}
        assert found == {name: model.counts[name] for name in COUNTED}
        assert stats.pending == len(model.of("pending"))
        assert stats.running == len(model.of("running"))
        assert stats.submitted == stats.accepted + stats.rejected + len(model.of("waiting"))
        reasons = stats.reasons
        assert sum(reasons.values()) == stats.batches
        assert reasons["size"] + reasons["weight"] == model.counts["full"]
        assert reasons["close"] == model.counts["close"]
        assert reasons["capacity"] == model.counts["capacity"]

    def compare_outcome(self, item: Item) -> None:
        kind, what = item.outcome
        future = item.future
        assert future.done(), f"{item} is not done"
        assert not future.running()
        if kind == "cancelled":
            assert future.cancelled()
        elif kind == "value":
            assert future.result(0) == what
        else:
            error = future.exception(0)
            assert type(error) is kind, f"{item} ended in {type(error)}, not in {kind}"
            assert what is None or error.args == what
            assert id(error) not in self.errors, "two callers got the same error"
            self.errors.add(id(error))
        if item.n % 2:
            assert item.told == (kind is not Forked), (
                f"the callback of {item} was called {item.told} times"
            )

    def compare_dropped(self) -> None:
        """Compare after the function was dropped: an engine without work ends, with its threads.

        A thread that sleeps until the end of a linger keeps the engine, because no other object
        may refer to the items any more.
        """
        is_idle = not (self.model.items or self.runs or self.is_held)
        if is_idle and self.seam.next_alarm() is None and not self.was_forked:
            for _ in range(0 if has_gil() else 5):  # one freed object may have kept another
                self.seam.blink()
                self.seam.settle()
            assert self.weak() is None, "the engine outlives its items"
            assert not self.seam.turns, "threads outlive their engine"

    # -- rules --

    def new(self, bits: int) -> Item:
        item = Item(self.n, self.seam.now)
        self.n += 1
        kinds = self.given["kinds"]
        if "key" in kinds or kinds == "args":
            item.key = bits % 3
        if "weight" in kinds:
            item.weight = (1, 1, 2, 3)[bits // 6 % 4]
        item.twin = bits // 3 % 2
        return item

    def submit(self, item: Item, how: dict[str, Any]) -> None:
        how = dict(how)
        wait, timeout = how.pop("wait", True), how.get("timeout")
        item.priority = how.get("priority", 0)
        item.deadline = item.born + how.get("deadline", math.inf)
        item.gives_up = item.born + (math.inf if timeout is None else timeout)
        error = self.model.submit(item, wait and timeout != 0)
        call = self.f.options(**how) if how else self.f
        call = call if wait else call.submit_nowait
        args = (item.key,) if self.given["kinds"] == "args" else ()
        if item.state == "waiting":
            self.items.append(item)
            item.call = self.call(lambda turn: self.came_in(item, turn), call, item, *args)
            return
        raised = future = None
        try:
            future = call(item, *args)
        except (Closed, QueueFull) as refused:
            raised = type(refused)
        assert raised is error, f"the call raised {raised}, expected {error}"
        if raised is not None:
            return
        self.items.append(item)
        self.got(item, future)

    def got(self, item: Item, future: Any) -> None:
        item.future = future
        if item.n % 2:
            future.add_done_callback(item.tell)

    def came_in(self, item: Item, turn: Turn) -> bool:
        """Note whether a call that waits for capacity has ended."""
        if turn.is_done:
            if item.state == "refused":
                assert turn.error is not None
                assert turn.error[0] is item.outcome[0], turn.error
            else:
                assert turn.error is None, turn.error
                self.got(item, turn.value)
            item.call = None
        return item.state != "waiting"

    def call(
        self, is_over: Callable[[Turn], bool | None], function: Any, *args: Any, **kw: Any
    ) -> Turn:
        turn = self.seam.call(lambda: function(*args, **kw))
        self.calls.append((turn, is_over))
        return turn

    is_there = precondition(lambda self: self.f is not None)
    is_old = precondition(lambda self: self.age > 8)
    runs_something = precondition(lambda self: bool(self.runs))

    @is_there
    @rule(bits=st.integers(0, 23))
    def one(self, bits: int) -> None:
        self.begin("submit")
        self.submit(self.new(bits), {})
        self.end()

    @is_there
    @rule(bits=st.integers(0, 23))
    def another(self, bits: int) -> None:
        self.one(bits)

    @is_there
    @rule(bits=st.integers(0, 23), how=st.sampled_from(HOWS))
    def special(self, bits: int, how: dict[str, Any]) -> None:
        self.begin("submit_nowait" if "wait" in how else "submit with options")
        self.submit(self.new(bits), how)
        self.end()

    @is_there
    @rule(count=st.integers(2, 6), bits=st.integers(0, 23))
    def many(self, count: int, bits: int) -> None:
        """Make several calls before any thread runs."""
        self.begin("submit several")
        for n in range(count):
            self.go_to(self.seam.now + TICK)
            self.submit(self.new(bits + n), {})
        self.end()

    @precondition(lambda self: self.f is not None and self.given["kinds"])
    @rule()
    def refused(self) -> None:
        """Submit an item that is too heavy, or for which `key` raises."""
        self.begin("submit what is refused")
        item = self.new(0)
        if "weight" in self.given["kinds"]:
            item.weight, expected = 5, ItemTooHeavy
        elif "key" in self.given["kinds"]:
            item.key, expected = 9, ZeroDivisionError
        elif "args" in self.given["kinds"]:
            item.key, expected = [], TypeError
        else:
            item.twin, expected = [], TypeError
        self.model.counts["rejected"] += 1
        try:
            self.f(item, *((item.key,) if self.given["kinds"] == "args" else ()))
        except expected:
            pass
        else:
            raise AssertionError("it was not refused")
        self.end()

    @precondition(lambda self: bool(self.items))
    @rule(at=st.integers(0, 9))
    def cancel(self, at: int) -> None:
        self.begin("cancel")
        items = [item for item in self.items if item.future is not None]
        if items:
            self.cancel_one(items[at % len(items)])
        self.end()

    def cancel_one(self, item: Item) -> None:
        is_in_time = item.state == "pending"
        if is_in_time:
            self.model.end(item, "cancelled", ("cancelled", None))
            self.model.admit()
        assert item.future.cancel() == is_in_time

    @rule(seconds=st.sampled_from((0.25, 1.0, 3.0)))
    def advance(self, seconds: float) -> None:
        self.begin("advance")
        self.release()
        self.go_to(self.seam.now + seconds)
        self.end()

    # -- batches end --

    @runs_something
    @rule(at=st.integers(0, 2), kind=st.sampled_from(FINE))
    def end_well(self, at: int, kind: str) -> None:
        self.end_run(at, kind, 0)

    @runs_something
    @rule(at=st.integers(0, 2), kind=st.sampled_from(BAD), place=st.integers(0, 3))
    def end_badly(self, at: int, kind: str, place: int) -> None:
        self.end_run(at, kind, place)

    def end_run(self, at: int, kind: str, place: int) -> None:
        self.begin("end a batch: " + kind)
        self.release()
        if self.runs:
            run = self.runs[at % len(self.runs)]
            if run.yields is None:
                run.answer, outcomes = answer_of(kind, run, place)
                self.finish(run, outcomes)
            else:
                self.end_stream(run, place)
        self.end()

    def end_stream(self, run: Run, how: int) -> None:
        """End a generator: early, with an error, with all results, or with too many."""
        left = run.values()[run.at :]
        if how == 0:
            run.answer, outcome = list, (BadResult, None)
        elif how == 1:
            run.answer, outcome = raising(Oops("all")), (Oops, ("all",))
        else:
            run.answer, outcome = (lambda: [*left, None] if how == 2 else left), None
        self.finish(run, [outcome or ("value", value) for value in left])

    def finish(self, run: Run, outcomes: list[Any]) -> None:
        first = run.given[run.at :]
        for item, outcome in zip(first, outcomes, strict=True):
            self.model.settle(run, item, outcome)
        self.model.batches = [other for other in self.model.batches if other is not run]
        self.go_on(run)

    def go_on(self, run: Run) -> None:
        run.bell.ring()
        self.seam.ready.remove(run.turn)
        self.seam.run_turn(run.turn)

    @runs_something
    @rule(at=st.integers(0, 2), count=st.integers(1, 3), kind=st.sampled_from(("", *ELEMENTS)))
    def stream_some(self, at: int, count: int, kind: str) -> None:
        """Yield some results from a batch function that is a generator."""
        self.begin("yield " + (kind or "results"))
        self.release()
        if self.runs:
            run = self.runs[at % len(self.runs)]
            values: list[Any] = run.values()[run.at : run.at + count]
            outcomes = [("value", value) for value in values]
            if kind and values:
                make, outcome = ELEMENTS[kind]
                values[-1] = make()
                outcomes[-1] = outcome or values[-1]
            for item, outcome in zip(run.given[run.at :], outcomes, strict=False):
                self.model.settle(run, item, outcome)
            run.at += len(values)
            run.yields = values
            self.go_on(run)
        self.end()

    # -- life cycle --

    @is_there
    @rule(timeout=st.sampled_from(TIMEOUTS))
    def flush(self, timeout: float | None) -> None:
        self.begin("flush")
        ending = Ending(self.model, self.model.flush(), timeout)

        def is_over(turn: Turn) -> bool:
            is_late = not ending.is_over() and ending.end <= self.seam.now
            if turn.is_done:
                assert (turn.error or (None,))[0] is (TimeoutError if is_late else None), turn.error
            return is_late or ending.is_over()

        self.call(is_over, self.f.flush, timeout)
        self.end()

    @is_there
    @rule(timeout=st.sampled_from(TIMEOUTS), cancel=st.booleans())
    def close(self, timeout: float | None, cancel: bool) -> None:
        self.begin("close(cancel=True)" if cancel else "close")
        self.close_now(timeout, cancel)
        self.end()

    def close_now(self, timeout: float | None, cancel: bool) -> None:
        ending = self.model.close(cancel, timeout)

        def is_over(turn: Turn) -> bool | None:
            if turn.is_done:
                expected = TimeoutError if ending.is_late else None
                assert (turn.error or (None,))[0] is expected, turn.error
            if ending.is_over() and not ending.is_late and self.runs:
                return None  # it may wait for threads that still run functions
            return ending.is_late or ending.is_over()

        self.call(is_over, self.f.close, timeout, cancel=cancel)

    @precondition(lambda self: self.f is not None and self.model.state != "open")
    @rule()
    def start(self) -> None:
        self.begin("start")
        if self.model.state == "closed":
            self.model.state, self.model.is_stopping = "open", False
            self.model.starts += 1
        self.f.start()
        self.end()

    @is_there
    @rule(change=st.sampled_from(CHANGES))
    def configure(self, change: tuple[str, Any]) -> None:
        option, value = change
        self.begin("set " + option)
        size = value if option == "size" else self.model.size
        if option == "capacity" or (option == "size" and self.capacity is not UNSET):
            capacity = value if option == "capacity" else self.model.capacity
            if capacity is not None and size > capacity:
                try:
                    setattr(self.f, option, value)
                except ValueError:
                    self.end()
                    return
                raise AssertionError("it was not refused")
        setattr(self.f, option, value)
        setattr(self.model, option, value)
        if option == "capacity":
            self.capacity = value
        self.model.admit()
        self.end()

    @is_there
    @is_old
    @rule(at=st.integers(0, 5))
    def fork(self, at: int) -> None:
        """Continue as the child of a fork: only the forking thread exists, perhaps in a batch."""
        self.begin("fork")
        self.was_forked = True
        self.age = 0
        run = self.runs[at] if at < len(self.runs) else None
        self.seam.vanish(None if run is None else run.turn)
        scope = self.f._scope()
        waits.forget()
        self.f._self_scopes.forked()
        scope.forked()
        del scope
        self.model.fork()
        self.items = [item for item in self.items if item.future is not None]
        self.calls.clear()
        self.started.clear()
        self.runs = [] if run is None else [run]
        self.end()

    @precondition(lambda self: self.f is not None and not self.calls)
    @is_old
    @rule()
    def drop(self) -> None:
        """Drop the last reference to the decorated function."""
        self.begin("drop")
        self.weak = ref(self.f._scope())
        self.f = None
        self.end()

    @precondition(lambda self: self.f is None)
    @rule()
    def decorate_again(self) -> None:
        self.begin("decorate again")
        self.leave_nothing()
        self.make()
        self.end()

    @precondition(lambda self: not self.is_held)
    @rule()
    def hold(self) -> None:
        """Run no thread for some steps."""
        self.begin("hold")
        self.is_held = True
        self.end()

    @precondition(lambda self: bool(self.items))
    @rule(at=st.integers(0, 9), timeout=st.sampled_from((None, 3 + 1 / 256)))
    def wait_for(self, at: int, timeout: float | None) -> None:
        """Wait for a result in a thread."""
        self.begin("result")
        items = [item for item in self.items if item.future is not None]
        if items:
            item = items[at % len(items)]
            end = math.inf if timeout is None else self.seam.now + timeout

            def is_over(turn: Turn) -> bool:
                return item.state == "done" or end <= self.seam.now

            self.call(is_over, item.future.exception, timeout)
        self.end()

    # -- teardown --

    def leave_nothing(self) -> None:
        """Finish everything."""
        self.release()
        while self.runs:
            run = self.runs[0]
            if run.yields is not None:
                self.end_stream(run, 3)
            else:
                run.answer, outcomes = answer_of("list", run, 0)
                self.finish(run, outcomes)
            self.settle()
        if self.f is not None and self.model.state == "open":
            self.close_now(None, False)
            self.leave_nothing()
            return
        for item in self.model.of("pending"):
            self.cancel_one(item)
        self.settle()
        while (alarm := self.seam.next_alarm()) is not None:
            self.go_to(alarm)
        self.compare()
        left = [*self.model.items, *self.items, *self.calls, *self.runs]
        assert not left, f"{left} is left"
        if self.f is not None:
            assert not self.seam.turns, "threads are left after a close"
            self.weak = ref(self.f._scope())
            self.f = None
        self.compare_dropped()
        self.seam.bury()
        for item in self.over:  # again, because nothing may end twice
            self.errors.clear()
            self.compare_outcome(item)

    def teardown(self) -> None:
        try:
            if self.is_sound:
                self.leave_nothing()
        finally:
            if hasattr(self, "seam"):  # set up
                self.abandon()
                self.seam.bury()

    def abandon(self) -> None:
        """Exclude a broken engine from process exit, because its items may never end."""
        engine = None if self.f is None else self.f._scope()
        self.f = None
        if engine is not None:
            lifecycle.let_go(engine)
            lifecycle._engines.pop(id(engine), None)


# ---- running many examples ----


def replay(given: dict[str, Any], *steps: Any) -> None:
    """Perform these steps, as hypothesis prints them: (name, arguments)."""
    machine = Machine()
    try:
        machine.set_up(**given)
        for name, arguments in steps:
            getattr(machine, name)(**arguments)
    finally:
        machine.teardown()


def run(examples: int, steps: int, seed: int, shrink: bool = False) -> None:
    """Run the machine; a failure is raised with its steps (`shrink`: the fewest steps)."""
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    logger = logging.getLogger("batchify")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        run_state_machine_as_test(seeded(seed)(type("Machine", (Machine,), {})), settings=how)
    finally:
        logger.disabled = was_disabled


CHUNK = 50  # examples per seed: hypothesis keeps all of them in memory


def run_chunk(task: tuple[int, int, int, bool]) -> tuple[Counter[str], float]:
    """Run one chunk; return how often each rule was used, and the CPU seconds."""
    examples, steps, seed, shrink = task
    USED.clear()
    began = time.process_time()
    try:
        run(examples, steps, seed, shrink)
    except BaseException:
        given = f"--examples {examples} --steps {steps} --seed {seed}"
        print(f"failed: python -m tests.model {given} [--shrink]")
        raise
    return Counter(USED), time.process_time() - began


def outcomes(tasks: list[Any], processes: int) -> Iterator[tuple[Counter[str], float]]:
    """Yield the outcome of each chunk, run in this many processes."""
    if processes == 1:
        yield from map(run_chunk, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(run_chunk, tasks)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shrink", action="store_true", help="shorten a failing run")
    given = parser.parse_args(arguments)
    seed = random.randrange(10**6) * 1000 if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    sizes = [min(CHUNK, given.examples - at) for at in range(0, given.examples, CHUNK)]
    tasks = [(size, given.steps, seed + at, given.shrink) for at, size in enumerate(sizes)]
    used: Counter[str] = Counter()
    spent = 0.0
    examples = 0
    began = time.monotonic()
    for rules, seconds in outcomes(tasks, given.processes):
        used += rules
        spent += seconds
        examples = min(examples + CHUNK, given.examples)
        steps = sum(used.values())
        print(f"  {examples} examples, {steps} steps, {spent:.0f} s of a core", flush=True)
    for name, count in sorted(used.items()):
        print(f"  {name:28} {count:9}")
    took = time.monotonic() - began
    print(f"{examples} examples, {sum(used.values())} steps, {took:.0f} s, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
