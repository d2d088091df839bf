"""Random combinations of all options, under random traffic, checked by one oracle.

    python -m tests.test_combinations [--examples 20000] [--seed S]
    python -m tests.test_combinations --replay "Plan(...)" [--times 200]

A `Plan` determines everything in a run except the timing of threads. `Ledger` is the oracle: the
batch function records which item got which value, the actors record what they asked for and what
they got, and both must agree. A failing run prints its plan; `--replay` runs it again.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import faulthandler
import functools
import inspect
import logging
import math
import random
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from batchify import (
    BadResult,
    BatchAborted,
    BatchFailure,
    Closed,
    DeadlineExceeded,
    ItemTooHeavy,
    MissingResult,
    QueueFull,
    Retry,
    RetryExhausted,
    batched,
)
from tests.limits import LIMIT
from tests.manual import in_thread, until

ATTEMPTS = 3  # of each Retry
NEVER = 3600.0  # seconds: a deadline that does not come

# The fates of items. The first item of a batch whose fate is in FAULTY makes the batch fail.
DIVISIBLE = ("poison", "abort")  # raises an Exception, or SystemExit
INDIVISIBLE = ("interrupt", "short", "odd")  # KeyboardInterrupt, one result too few, no results
FAULTY = DIVISIBLE + INDIVISIBLE
HARMLESS = ("value", "element", "missing", "again", "later", "hopeless")


# ---- the plan ----


@dataclass(frozen=True)
class Actor:
    """A thread, or an event loop in a thread, and its steps."""

    kind: str
    steps: tuple[tuple[Any, ...], ...]
    leaves: bool  # a loop ends without waiting for its futures


@dataclass(frozen=True)
class Round:
    """Actors at work, until the end; `is_patient`: the end comes when they are through."""

    actors: tuple[Actor, ...]
    changes: tuple[tuple[str, Any], ...]
    is_patient: bool
    end: str


@dataclass(frozen=True)
class Plan:
    """One example."""

    flavour: str
    is_method: bool
    has_table: bool  # an extra argument
    options: dict[str, Any]
    keys: int
    weights: tuple[float, ...]
    max_weight: float
    dedupe: str
    twins: int
    on_error: str
    fates: tuple[str, ...]
    shapes: tuple[str, ...]
    pauses: tuple[float, ...]
    rounds: tuple[Round, ...]

    def of(self, option: str) -> list[Any]:
        """Return every value that an option ever gets."""
        changes = [change for one in self.rounds for change in one.changes]
        return [self.options[option], *(value for name, value in changes if name == option)]


def some(*values: Any) -> Any:
    return st.sampled_from(values)


def few(values: Any, most: int, least: int = 1) -> Any:
    return st.lists(values, min_size=least, max_size=most).map(tuple)


LINGERS = some(0.0, 0.0, 0.004, None)
COUNTS = some(1, 1, 2, 3, 6)
STEPS = st.one_of(
    st.tuples(st.just("call"), COUNTS),
    st.tuples(st.just("nowait"), COUNTS),
    st.tuples(st.just("deadline"), COUNTS, some(0.0, 0.003, NEVER)),
    st.tuples(st.just("priority"), COUNTS, some(-1, 1, 5)),
    st.tuples(st.just("timeout"), COUNTS, some(0.0, 0.003, 5.0)),
    st.tuples(st.just("asubmit"), COUNTS),
    st.tuples(st.just("task"), COUNTS, some(0.0, 0.002, NEVER)),
    st.tuples(st.just("map"), some(1, 4, 9), some(None, 1, 3), st.booleans(), st.booleans()),
    st.tuples(st.just("leave map"), some(4, 9), some(None, 2)),
    st.tuples(st.just("cancel"), COUNTS),
    st.tuples(st.just("wait"), COUNTS),
    st.tuples(st.just("sleep"), some(0.0, 0.002)),
    st.tuples(st.just("flush")),
)
ACTORS = st.builds(Actor, some("thread", "thread", "loop"), few(STEPS, 8), st.booleans())
CHANGES = st.one_of(
    st.tuples(st.just("size"), some(1, 2, 4, 7)),
    st.tuples(st.just("linger"), LINGERS),
    st.tuples(st.just("workers"), some(1, 2, 4)),
    st.tuples(st.just("capacity"), some(None, 4, 7, 12)),
)
ROUNDS = st.builds(
    Round, few(ACTORS, 3), few(CHANGES, 3, 0), st.booleans(),
    some("rest", "close", "cancel", "aclose", "acancel"),
)  # fmt: skip
PLANS = st.builds(
    Plan,
    flavour=some("def", "def", "generator", "async def", "async generator"),
    is_method=st.booleans(),
    has_table=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "size": some(1, 2, 3, 4, 8),
            "linger": LINGERS,
            "workers": some(1, 1, 2, 3),
            "capacity": some(None, 8, 10, 10_000),
            "isolate": st.booleans(),
        }
    ),
    keys=some(0, 0, 2, 3),
    weights=st.one_of(st.just(()), few(some(0, 0.1, 0.2, 0.3, 0.7, 1, 9), 4)),
    max_weight=some(1, 0.7),
    dedupe=some("", "", "equal", "function"),
    twins=some(1, 2, 5),
    on_error=some("", "", "pass", "replace", "raise", "short", "again"),
    fates=few(st.one_of(st.just("value"), some(*HARMLESS), some(*HARMLESS, *FAULTY)), 6),
    shapes=few(some("list", "list", "tuple", "mapping", "none"), 3),
    pauses=few(some(0.0, 0.0, 0.001, 0.003), 3),
    rounds=few(ROUNDS, 2),
)


# ---- items and their outcomes ----


@dataclass(frozen=True)
class Item:
    """An item that equals its twins; without `dedupe` it has none."""

    twin: int
    number: int = field(compare=False)
    key: int = field(compare=False)
    weight: float = field(compare=False)
    fate: str = field(compare=False)


class Poison(Exception):
    """Raised by a call of the batch function, with the number of that call."""


class ElementError(Exception):
    """Returned for one item, with the number of its twins."""


Outcome = tuple[Any, ...]
RETRY: Outcome = ("retry",)
NAMES: dict[type[BaseException], str] = {
    BadResult: "bad",
    MissingResult: "missing",
    RetryExhausted: "exhausted",
    Closed: "closed",
    QueueFull: "full",
    DeadlineExceeded: "expired",
    ItemTooHeavy: "heavy",
    concurrent.futures.CancelledError: "cancelled",
    asyncio.CancelledError: "cancelled",
}
SUCCEEDED = ("value", "fallback", "none")
CATEGORIES = {
    **dict.fromkeys(SUCCEEDED, "succeeded"),
    **dict.fromkeys(("raised", "element", "aborted", "bad", "missing", "exhausted"), "failed"),
    "full": "rejected",
    "heavy": "rejected",
    "expired": "expired",
    "cancelled": "withdrawn",
}


def outcome_of(got: Any) -> Outcome:
    """Return the fate that a result or error indicates."""
    if got is None:
        return ("none",)
    if not isinstance(got, BaseException):
        return tuple(got)
    if isinstance(got, Poison):
        return ("raised", *got.args)
    if isinstance(got, ElementError):
        return ("element", *got.args)
    if isinstance(got, BatchAborted):
        cause = got.__cause__
        return (
            "aborted",
            *(cause.args if isinstance(cause, (SystemExit, KeyboardInterrupt)) else ()),
        )
    return (NAMES.get(type(got), f"strange: {got!r}"),)


@dataclass
class Sent:
    """One item, as its caller knows it."""

    item: Item
    actor: int
    is_loop: bool
    table: str
    way: str
    limit: float | None  # the deadline, priority or timeout that was asked for
    since: float  # when the call began
    future: Any = None
    refused: Outcome | None = None  # raised by the call
    outcome: Outcome | None = None  # if it has no future
    is_cancelled: bool = False  # a cancel was requested
    is_gone: bool = False  # and it had not started
    is_unknown: bool = False  # its outcome cannot be known
    is_watched: bool = False  # a callback was added
    told: list[float] = field(default_factory=list)  # when its callback was called

    def is_over(self) -> bool:
        return self.future is None or bool(self.future.done())

    @property
    def deadline(self) -> float:
        return (
            self.since + self.limit
            if self.way == "deadline" and self.limit is not None
            else math.inf
        )

    @property
    def priority(self) -> float:
        return self.limit if self.way == "priority" and self.limit is not None else 0


@dataclass
class Call:
    """One call of the batch function."""

    number: int
    items: list[Item]
    table: str
    fault: str  # of the first faulty item, or nothing
    cut: int  # the first position that the fault affects
    root: Call  # the call with the whole batch; a later call if `isolate` has bisected it
    meant: dict[int, Outcome] = field(default_factory=dict)  # by the items' numbers
    given: int = 0  # the number of results that a generator has yielded


# ---- the oracle ----


class Ledger:
    """Records the requests and what the function did, and checks that they agree."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.lock = threading.RLock()
        self.complaints: list[str] = []
        self.sent: dict[int, Sent] = {}
        self.loose: list[Outcome] = []  # items whose outcomes came in any order
        self.handlers = 0
        self.calls: list[Call] = []
        self.last_call: dict[int, Call] = {}  # by the item's number
        self.meant: dict[int, list[Outcome]] = defaultdict(list)  # by its twin, in order
        self.active: Counter[Any] = Counter()  # calls that run, on each loop
        self.front: dict[Any, int] = {}  # the latest item that ran, per group and actor
        self.most = {name: top(plan.options[name]) for name in ("size", "workers", "capacity")}
        self.may_close = self.may_cancel = False  # was there a close? One that cancels?
        self.functions: Any = None  # returns the decorated object

    def check(self, fact: Any, text: str) -> None:
        if not fact:
            with self.lock:
                self.complaints.append(text)

    # -- called by the function --

    def begin(self, items: list[Item], table: str) -> Call:
        """Check whether this call of the function is allowed."""
        is_stream = "generator" in self.plan.flavour
        with self.lock:
            fault, place = next(
                ((item.fate, at) for at, item in enumerate(items) if item.fate in FAULTY), ("", 0)
            )
            call = Call(len(self.calls), items, table, fault, place if is_stream else 0, None)  # type: ignore[arg-type]
            befores = [self.last_call.get(item.number) for item in items]
            is_again = [before is not None for before in befores]
            pieces = [
                before is not None
                and bool(before.fault)
                and (self.plan.dedupe or self.meant[item.twin][-1][0] in ("raised", "aborted"))
                for item, before in zip(items, befores, strict=True)
            ]
            call.root = befores[0].root if pieces and pieces[0] and befores[0] else call
            self.calls.append(call)
            self._enter()
            self._check_batch(call, is_again, all(pieces))
            for at, item in enumerate(items):
                self.last_call[item.number] = call
                is_hit = bool(fault) and at >= call.cut
                outcome = self._failure(call) if is_hit else self.own(call, item)
                call.meant[item.number] = outcome
                self.meant[item.twin].append(outcome)
        self.sample()
        return call

    def _check_batch(self, call: Call, is_again: list[bool], is_piece: bool) -> None:
        items, plan, check = call.items, self.plan, self.check
        name = f"call {call.number} of {[item.number for item in items]}"
        check(0 < len(items) <= self.most["size"], f"{name}: more than {self.most['size']}")
        check(not plan.keys or len({item.key for item in items}) == 1, f"{name}: several keys")
        weight = sum(item.weight for item in items)
        check(not plan.weights or weight <= plan.max_weight + 1e-9, f"{name}: weighs {weight}")
        check(len({item.twin for item in items}) == len(items), f"{name}: equal items")
        sents = [self.sent[item.number] for item in items]
        check({sent.table for sent in sents} == {call.table}, f"{name}: extra arguments")
        for sent, again in zip(sents, is_again, strict=True):
            number = sent.item.number
            check(not sent.is_gone, f"{name}: {number} was cancelled before")
            check(sent.refused is None, f"{name}: {number} was refused")
            if not is_piece:
                # Others may start in time, and a busy machine calls the function later.
                is_late = sent.way == "deadline" and sent.limit == 0.0
                check(not is_late, f"{name}: {number} is late")
            if not again or plan.dedupe:
                continue
            before = self.meant[sent.item.twin]
            check(is_piece or before[-1] == RETRY, f"{name}: {number} has run before: {before}")
            check(not is_piece or plan.options["isolate"], f"{name}: called again without isolate")
            check(before.count(RETRY) < ATTEMPTS, f"{name}: {number} runs once too often")
        self._check_order(call, name, sents, is_again)

    def _check_order(self, call: Call, name: str, sents: list[Sent], again: list[bool]) -> None:
        """Check that items of one actor come in the order of submission, except retried ones."""
        if self.plan.dedupe:  # it is unknown which twins of a retried item run again
            return
        fresh = [sent for sent, is_again in zip(sents, again, strict=True) if not is_again]
        in_batch: dict[int, int] = {}
        for sent in fresh:
            number = sent.item.number
            self.check(number > in_batch.get(sent.actor, -1), f"{name}: not in order")
            in_batch[sent.actor] = number
            if max(self.plan.of("workers")) > 1 or "map" in sent.way:
                continue
            kind = (sent.actor, sent.table, sent.item.key, sent.priority)
            self.check(number > self.front.get(kind, -1), f"{name}: {number} was overtaken")
            self.front[kind] = number

    def own(self, call: Call, item: Item) -> Outcome:
        """Return the outcome that an item must get from a call that does not fail."""
        shape = self.shape(call)
        if shape == "none":
            return ("none",)
        if item.fate == "element":
            return ("element", item.twin)
        if item.fate == "missing" and shape == "mapping":
            return ("missing",)
        often = {"again": 1, "later": 2, "hopeless": ATTEMPTS}.get(item.fate, 0)
        if sum(outcome == RETRY for outcome in self.meant[item.twin]) < often:
            return RETRY
        return ("value", item.twin, call.table)

    @staticmethod
    def _failure(call: Call) -> Outcome:
        if call.fault == "poison":
            return ("raised", call.number)
        return ("aborted", call.number) if call.fault in ("abort", "interrupt") else ("bad",)

    def shape(self, call: Call) -> str:
        """Return the results of a call in the form that the plan says."""
        shape = self.plan.shapes[call.number % len(self.plan.shapes)]
        return "list" if "generator" in self.plan.flavour else shape

    def _enter(self) -> None:
        """Count a worker as busy while a call or `on_error` runs."""
        here = running_loop()
        self.active[here] += 1
        self.check(
            self.active[here] <= self.most["workers"], f"{self.active[here]} batches at once"
        )

    def leave(self) -> None:
        with self.lock:
            self.active[running_loop()] -= 1

    def interrupted(self, call: Call) -> None:
        """Note that the loop ended while the call awaited: the missing results are lost."""
        with self.lock:
            for item in call.items[call.given :]:
                self.meant[item.twin].remove(call.meant[item.number])
                self.meant[item.twin].append(("aborted",))
            call.fault = call.root.fault = "interrupt"

    def handle(self, failure: BatchFailure) -> Any:
        """Handle a failed batch: check what failed, and return its fallback."""
        mode = self.plan.on_error
        with self.lock:
            self._enter()
            self.handlers += 1
            got = outcome_of(failure.exception)
            instead = {"replace": "fallback", "short": "bad", "again": "retry"}.get(mode)
            for item in failure.items:
                before = self.meant[item.twin]
                self.check(got in before and (self.plan.dedupe or got == before[-1]),
                           f"on_error sees {got} for {item.number}, after {before}")  # fmt: skip
                if instead is not None:
                    name = (instead, item.twin) if instead == "fallback" else (instead,)
                    before.append(name)
            self.leave()
        if mode == "raise":
            raise ValueError("on_error fails")
        if mode == "replace":
            return {item: ("fallback", item.twin) for item in failure.items}
        if mode == "again":
            return [Retry(attempts=ATTEMPTS) for _ in failure.items]
        return [1] * (len(failure.items) + 1) if mode == "short" else None

    # -- checked at any time --

    def sample(self) -> None:
        function = self.functions()
        for engine in function._scope().engines():
            stats = engine.stats()
            unresolved = stats.pending + stats.running
            self.check(unresolved <= self.most["capacity"], f"{unresolved} unresolved")
        stats = function.stats()
        parts = (stats.succeeded, stats.failed, stats.cancelled, stats.expired)
        counts = (*parts, stats.pending, stats.running)
        self.check(
            stats.accepted == sum(counts) and min(counts) >= 0, f"they do not add up: {stats}"
        )

    # -- checked by callers --

    def check_end(self) -> None:
        """Check at the end that each item ended as meant, and as the counts say."""
        errors: dict[int, BaseException] = {}
        lower: Counter[str] = Counter()
        either = unknown = 0
        for outcome in self.loose:
            category = CATEGORIES.get(outcome[0])
            lower[category or "either"] += 1
        for sent in self.sent.values():
            if sent.is_unknown:
                unknown += 1
                continue
            outcome = sent.refused or sent.outcome
            if sent.future is not None:
                until(lambda sent=sent: len(sent.told) >= 1 or not sent.is_watched)
                error = None if sent.future.cancelled() else sent.future.exception(0)
                if error is not None:
                    self.check(id(error) not in errors, f"{error!r} came to two callers")
                    errors[id(error)] = error
                outcome = self._outcome(sent)
            if outcome is None:
                continue  # among the loose ones
            self._check_outcome(sent, outcome)
            category = CATEGORIES.get(outcome[0])
            if outcome == ("closed",) and sent.refused:
                category = "rejected"
            elif outcome == ("closed",) and sent.future is not None and not sent.is_loop:
                category = "failed"
            lower[category or "either"] += 1
        either = lower.pop("either", 0)
        stats = self.functions().stats()
        gave_up = stats.submitted - stats.accepted - stats.rejected
        total = sum(lower.values()) + either
        self.check(total <= stats.submitted <= total + unknown, f"{total} sent: {stats}")
        for category in ("succeeded", "failed", "expired", "rejected", "withdrawn"):
            found = (
                stats.cancelled + gave_up if category == "withdrawn" else getattr(stats, category)
            )
            least = lower[category]
            self.check(least <= found <= least + either + unknown, f"{least} {category}: {stats}")

    @staticmethod
    def _outcome(sent: Sent) -> Outcome:
        if sent.future.cancelled():
            return ("cancelled",)
        return outcome_of(sent.future.exception(0) or sent.future.result(0))

    def _check_outcome(self, sent: Sent, outcome: Outcome) -> None:
        """Return True if the outcome is what the last call meant, or what the caller requested."""
        item, name = sent.item, f"item {sent.item.number} ({sent.way}) got {outcome}"
        if sent.is_watched:
            self.check(len(sent.told) == 1, f"{name}: told {len(sent.told)} times")
        meant = self.meant[item.twin]
        mine = meant if self.plan.dedupe else meant[-1:]
        # It may still have been queued. (It is unknown which of several twins ran.)
        is_open = not meant or RETRY in mine or bool(self.plan.dedupe)
        kind = outcome[0]
        if kind == "heavy":
            fits = item.weight > self.plan.max_weight and item.number not in self.last_call
        elif kind == "full":
            fits = sent.way in ("nowait", "timeout") and item.number not in self.last_call
        elif kind == "expired":
            fits = is_open and (not sent.told or sent.told[0] >= sent.deadline)
        elif kind == "cancelled":
            fits = sent.is_cancelled and (is_open or sent.is_loop)
        elif kind == "closed":
            # A close without cancel refuses calls that wait for capacity; only loops notice later.
            is_refused = sent.refused is not None or sent.outcome is not None or sent.is_loop
            fits = is_open and (self.may_cancel or (self.may_close and is_refused))
        elif kind == "exhausted":
            fits = meant.count(RETRY) == ATTEMPTS or (bool(self.plan.dedupe) and RETRY in meant)
        else:
            fits = outcome in mine
        self.check(fits, f"{name}, meant was {meant[-8:]}")
        if kind in ("raised", "aborted", "bad") and fits and not self.plan.dedupe:
            self._check_blame(item, name)

    def _check_blame(self, item: Item, name: str) -> None:
        """Check that with `isolate` other items fail only in an outage or a stopped batch."""
        call = self.last_call[item.number]
        if not self.plan.options["isolate"] or item.fate in FAULTY or self.plan.on_error == "short":
            return
        fates = [other.fate for other in call.root.items]
        is_stopped = call.root.fault == "interrupt" or any(fate in INDIVISIBLE for fate in fates)
        self.check(
            is_stopped or sum(fate in FAULTY for fate in fates) >= 4, f"{name}, which is innocent"
        )


# ---- the function under test ----


def running_loop() -> Any:
    with contextlib.suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


def top(value: float | None) -> float:
    return math.inf if value is None else value


def make(plan: Plan, ledger: Ledger) -> Any:
    """Decorate the batch function of a plan; return a function that looks it up."""

    def pause(call: Call) -> float:
        return plan.pauses[call.number % len(plan.pauses)]

    def begin(items: list[Item], table: str) -> Call:
        call = ledger.begin(list(items), table)
        items.clear()  # the list is the function's own
        return call

    def element(call: Call, item: Item) -> Any:
        kind, *rest = call.meant[item.number]
        if kind == "retry":
            return Retry(after=0.002 if item.fate == "later" else 0.0, attempts=ATTEMPTS)
        return (
            ElementError(*rest) if kind == "element" else None if kind == "none" else (kind, *rest)
        )

    def fail(call: Call) -> None:
        if call.fault in ("poison", "abort", "interrupt"):
            kinds = {"poison": Poison, "abort": SystemExit, "interrupt": KeyboardInterrupt}
            raise kinds[call.fault](call.number)

    def give(call: Call) -> Any:
        fail(call)
        shape, items = ledger.shape(call), call.items
        if call.fault:
            return [None] * (len(items) - 1) if call.fault == "short" else "no results"
        if shape == "mapping":
            found = {item: element(call, item) for item in reversed(items)}
            return {item: v for item, v in found.items() if v != ("missing",)}
        if shape == "none":
            return None
        return (tuple if shape == "tuple" else list)(element(call, item) for item in items)

    def as_def(self: Any, items: list[Item], table: str = "") -> Any:
        call = begin(items, table)
        try:
            time.sleep(pause(call))
            return give(call)
        finally:
            ledger.leave()

    def as_generator(self: Any, items: list[Item], table: str = "") -> Iterator[Any]:
        call = begin(items, table)
        try:
            time.sleep(pause(call))
            for item in call.items[: call.cut if call.fault else None]:
                yield element(call, item)
            fail(call)
        finally:
            ledger.leave()

    async def as_async_def(self: Any, items: list[Item], table: str = "") -> Any:
        call = begin(items, table)
        try:
            await asyncio.sleep(pause(call))
            return give(call)
        except asyncio.CancelledError:
            ledger.interrupted(call)
            raise
        finally:
            ledger.leave()

    async def as_async_generator(
        self: Any, items: list[Item], table: str = ""
    ) -> AsyncIterator[Any]:
        call = begin(items, table)
        try:
            for item in call.items[: call.cut if call.fault else None]:
                await asyncio.sleep(pause(call))
                found = element(call, item)
                call.given += 1
                yield found
            fail(call)
        except asyncio.CancelledError:
            ledger.interrupted(call)
            raise
        finally:
            ledger.leave()

    function: Any = {
        "def": as_def,
        "generator": as_generator,
        "async def": as_async_def,
        "async generator": as_async_generator,
    }[plan.flavour]
    return decorate(plan, ledger, function)


def decorate(plan: Plan, ledger: Ledger, function: Any) -> Any:
    async def on_error(failure: BatchFailure) -> Any:
        return ledger.handle(failure)

    is_async = plan.flavour.startswith("async")
    options = dict(plan.options)
    if plan.keys:
        options["key"] = lambda item: item.key
    if plan.weights:
        options.update(weight=lambda item: item.weight, max_weight=plan.max_weight)
    if plan.dedupe:
        options["dedupe"] = True if plan.dedupe == "equal" else lambda item: item.twin
    if plan.on_error:
        options["on_error"] = on_error if is_async and len(plan.fates) % 2 else ledger.handle
    if not plan.has_table:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        function.__signature__ = signature.replace(parameters=parameters[:2])
    if not plan.is_method:
        run = batched(functools.partial(function, None), **options)
        return lambda: run

    class Owner:
        run = batched(function, **options)

    owner = Owner()
    return lambda: owner.run


# ---- the actors ----


class Play:
    """Runs the steps of one actor in its thread."""

    def __init__(self, ledger: Ledger, number: int, actor: Actor) -> None:
        self.ledger = ledger
        self.plan = ledger.plan
        self.number = number
        self.actor = actor
        self.mine: list[Sent] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.leaves = actor.kind == "loop" and actor.leaves

    @property
    def function(self) -> Any:
        return self.ledger.functions()

    def run(self) -> None:
        if self.actor.kind == "loop":
            asyncio.run(self.on_loop())
            return
        for step in self.actor.steps:
            self.step(step)
        concurrent.futures.wait(self.futures(), LIMIT)

    def futures(self) -> list[Any]:
        return [sent.future for sent in self.mine if sent.future is not None]

    # -- one item --

    def new(self, way: str, limit: float | None = None) -> Sent:
        """Return an item that is about to be submitted."""
        plan, ledger = self.plan, self.ledger
        with ledger.lock:
            count = sum(sent.actor == self.number for sent in ledger.sent.values())
            number = self.number * 1000 + count
            twin = number % plan.twins if plan.dedupe else number
            key = number % plan.keys if plan.keys else 0
            weight = plan.weights[number % len(plan.weights)] if plan.weights else 0
            item = Item(twin, number, key, weight, plan.fates[twin % len(plan.fates)])
            table = "ab"[number // 2 % 2] if plan.has_table and "map" not in way else ""
            is_loop = self.actor.kind == "loop"
            sent = Sent(item, self.number, is_loop, table, way, limit, time.monotonic())
            ledger.sent[number] = sent
        self.mine.append(sent)
        return sent

    def submit(self, way: str, limit: float | None = None) -> Sent:
        """Call the function with a new item."""
        sent = self.new(way, limit)
        function = self.function
        if way in ("deadline", "priority", "timeout"):
            function = function.options(**{way: limit})
        if way == "nowait":
            function = function.submit_nowait
        extra = (sent.table,) if sent.table else ()
        try:
            self.keep(sent, function(sent.item, *extra))
        except Exception as error:
            sent.refused = outcome_of(error)
        return sent

    def keep(self, sent: Sent, future: Any) -> None:
        sent.future = future
        if not self.leaves:
            sent.is_watched = True
            future.add_done_callback(functools.partial(self.told, sent))

    def told(self, sent: Sent, future: Any) -> None:
        sent.told.append(time.monotonic())
        self.ledger.check(future.done(), f"{sent.item.number} is told before its end")

    def cancel(self, sent: Sent) -> None:
        future = sent.future
        if future is None or future.done():
            return
        sent.is_cancelled = True
        was_running = future.running()
        # An item that a loop cancels may have started in a worker thread between these two lines.
        is_sure = not (sent.is_loop and not self.plan.flavour.startswith("async"))
        if future.cancel() and is_sure and not (sent.is_loop and was_running):
            sent.is_gone = True

    def last(self, count: int) -> list[Sent]:
        return [sent for sent in self.mine if sent.future is not None][-count:]

    # -- in a thread --

    def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("call" | "nowait" | "deadline" | "priority" | "timeout" as way, count, *limit):
                for _ in range(count):
                    self.submit(way, *limit)
            case ("asubmit" | "task", count, *_):
                for _ in range(count):
                    self.submit("call")
            case ("map" | "leave map", *_):
                self.map(*step)
            case ("cancel", count):
                for sent in self.last(count):
                    self.cancel(sent)
            case ("wait", count):
                for sent in self.last(count):
                    with contextlib.suppress(concurrent.futures.CancelledError):
                        sent.future.exception()
                    is_done = sent.future.done()
                    self.ledger.check(is_done, f"{sent.item.number} has no end after a wait")
            case ("sleep", seconds):
                time.sleep(seconds)
            case ("flush",):
                self.function.flush()

    def source(self, way: str, count: int, is_list: bool) -> tuple[list[Sent], Any]:
        """Return the argument of a map; an iterator numbers each item when it is taken."""
        if is_list:
            sents = [self.new(way) for _ in range(count)]
            return sents, [sent.item for sent in sents]
        sents = []

        def items() -> Iterator[Item]:
            for _ in range(count):
                sents.append(self.new(way))
                yield sents[-1].item

        return sents, items()

    def map(self, way: str, count: int, window: Any, is_list: bool = True, *order: bool) -> None:
        ordered = not order or order[0]
        sents, items = self.source(way, count, is_list)
        results = self.function.map(items, window=window, ordered=ordered, return_exceptions=True)
        if way == "map":
            self.note(sents, list(results), ordered)
            return
        for sent in sents:
            sent.is_unknown = sent.is_cancelled = True
        next(results)
        results.close()

    def note(self, sents: list[Sent], results: list[Any], ordered: bool) -> None:
        """Check the results of a map."""
        outcomes = [outcome_of(result) for result in results]
        self.ledger.check(len(outcomes) == len(sents), f"{len(outcomes)} results of {len(sents)}")
        if ordered:
            for sent, outcome in zip(sents, outcomes, strict=True):
                sent.outcome = outcome
            return
        twins = {sent.item.twin for sent in sents}
        for outcome in outcomes:
            is_mine = outcome[0] not in ("value", "fallback", "element") or outcome[1] in twins
            self.ledger.check(is_mine, f"map gave {outcome}, which belongs to another item")
        with self.ledger.lock:
            self.ledger.loose += outcomes

    # -- on a loop --

    async def on_loop(self) -> None:
        for step in self.actor.steps:
            await self.astep(step)
            await asyncio.sleep(0)
        if self.leaves:
            # A task that the end of the loop cancels cancels its future.
            for sent in self.mine:
                sent.is_cancelled = sent.is_cancelled or sent.way in ("task", "asubmit")
            return
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=LIMIT)
        if futures := self.futures():
            await asyncio.wait(futures, timeout=LIMIT)
        end = time.monotonic() + LIMIT
        # A worker thread stores the outcome of a future before it schedules the loop's callback.
        while not all(sent.told for sent in self.mine if sent.is_watched):
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.001)

    async def astep(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("asubmit", count):
                for _ in range(count):
                    await self.asubmit()
            case ("task", count, seconds):
                tasks = [asyncio.create_task(self.task()) for _ in range(count)]
                self.tasks += tasks
                if seconds != NEVER:
                    await asyncio.sleep(seconds)
                    for task in tasks:
                        task.cancel()
            case ("map" | "leave map", *_):
                await self.amap(*step)
            case ("wait", count):
                if waited := [sent.future for sent in self.last(count)]:
                    await asyncio.gather(*waited, return_exceptions=True)
            case ("sleep", seconds):
                await asyncio.sleep(seconds)
            case ("flush",):
                await self.function.aflush()
            case _:
                self.step(step)

    async def asubmit(self) -> None:
        sent = self.new("asubmit")
        extra = (sent.table,) if sent.table else ()
        try:
            self.keep(sent, await self.function.asubmit(sent.item, *extra))
        except Exception as error:
            sent.refused = outcome_of(error)

    async def task(self) -> None:
        """Await a call in a task that may be cancelled."""
        sent = self.submit("task")
        if sent.future is None:
            return
        sent.is_cancelled = True  # or so it may be
        with contextlib.suppress(Exception):
            await sent.future

    async def amap(
        self, way: str, count: int, window: Any, is_list: bool = True, *order: bool
    ) -> None:
        ordered = not order or order[0]
        sents, items = self.source(way, count, is_list)
        if not is_list:
            items = stream(items)
        results = self.function.amap(items, window=window, ordered=ordered, return_exceptions=True)
        if way == "map":
            self.note(sents, [result async for result in results], ordered)
            return
        for sent in sents:
            sent.is_unknown = sent.is_cancelled = True
        await anext(results)
        await results.aclose()


async def stream(items: Any) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(0)
        yield item


# ---- one run ----


def run(plan: Plan) -> None:
    """Run a plan; raise AssertionError if anything is wrong."""
    faulthandler.dump_traceback_later(2 * LIMIT, file=sys.__stderr__)
    try:
        Run(plan).run()
    except BaseException as error:
        print(f"\nfailed: {error}\nto run it again: {plan!r}\n", file=sys.stderr, flush=True)
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ledger = Ledger(plan)
        self.ledger.functions = make(plan, self.ledger)

    @property
    def function(self) -> Any:
        return self.ledger.functions()

    def run(self) -> None:
        first = 0
        for one in self.plan.rounds:
            self.play(one, first)
            first += len(one.actors)
        self.wait("the last close", self.function.close)
        self.check_nothing_left()
        self.ledger.check_end()
        self.tell()

    def tell(self) -> None:
        complaints = self.ledger.complaints
        assert not complaints, "\n".join(complaints[:10])

    def wait(self, name: str, function: Any) -> None:
        """Call something that must come back."""
        call = in_thread(function)
        call.thread.join(LIMIT)
        if not call.is_done():
            self.hang(name)
        call.result(0)

    def hang(self, name: str) -> None:
        faulthandler.dump_traceback(all_threads=True, file=sys.__stderr__)
        self.tell()
        raise AssertionError(f"{name} hangs")

    def play(self, one: Round, first: int) -> None:
        """Run one round: the actors, changes of settings, and the end."""
        function, ledger = self.function, self.ledger
        function.start()
        plays = [Play(ledger, first + at, actor) for at, actor in enumerate(one.actors)]
        calls = [in_thread(play.run) for play in plays]
        for name, value in one.changes:
            time.sleep(0.001)
            self.wait(f"{name} = {value}", functools.partial(self.change, name, value))
        ends: dict[str, Any] = {
            "rest": self.function.flush,
            "close": function.close,
            "cancel": functools.partial(function.close, cancel=True),
            "aclose": lambda: asyncio.run(function.aclose()),
            "acancel": lambda: asyncio.run(function.aclose(cancel=True)),
        }
        if not one.is_patient:
            self.allow(one.end)
            self.wait(one.end, ends[one.end])
        end = time.monotonic() + LIMIT
        while not all(call.is_done() for call in calls):
            if time.monotonic() > end:
                self.hang("an actor")
            self.wait("stats", ledger.sample)
            time.sleep(0.002)
            if None in self.plan.of("linger"):  # nothing else dispatches a partial batch
                self.wait("a flush", self.function.flush)
        for call in calls:
            call.result()
        self.allow(one.end)  # loops have ended, and their items may still be queued
        self.wait(one.end, ends[one.end])
        if any(actor.leaves for actor in one.actors) and one.end == "rest":
            # A flush does not wait for calls that wait for capacity on an ended loop.
            until(lambda: self.function.flush() or all(map(Sent.is_over, ledger.sent.values())))
        for sent in ledger.sent.values():
            ledger.check(
                sent.is_over(), f"item {sent.item.number} ({sent.way}) has no end: {sent.future}"
            )
        ledger.sample()
        stats = function.stats()
        ledger.check(stats.pending == stats.running == 0, f"after the end: {stats}")
        self.tell()

    def allow(self, end: str) -> None:
        """Allow the outcomes that the end of this round causes."""
        self.ledger.may_close = self.ledger.may_close or end != "rest"
        self.ledger.may_cancel = self.ledger.may_cancel or "cancel" in end

    def change(self, name: str, value: Any) -> None:
        """Set an option, as far as the others allow it."""
        function = self.function
        size, capacity = function.size, function.capacity
        if name == "size":
            is_right = capacity is None or value <= capacity
        else:
            is_right = name != "capacity" or value is None or value >= size
        if is_right and name != "linger":
            self.ledger.most[name] = max(self.ledger.most[name], top(value))
        try:
            setattr(function, name, value)
        except ValueError:
            self.ledger.check(not is_right, f"{name} = {value} was refused")
        else:
            self.ledger.check(is_right, f"{name} = {value} was not refused")
            self.ledger.check(getattr(function, name) == value, f"{name} is not {value}")

    def check_nothing_left(self) -> None:
        """Check that after a close nothing is kept anywhere."""
        for engine in self.function._scope().engines():
            forming = engine.forming
            until(lambda engine=engine: not (engine.batches or engine.watched))
            held = {
                "routes": engine.routes,
                "groups": getattr(forming, "by_kin", None),
                "deadlines": forming.minded,
                "delayed": getattr(forming, "_delayed", None),
                "line": getattr(getattr(forming, "line", None), "entries", None),
                "intake": engine.intake,
                "chunks": forming.chunks,
                "ended": engine._ended,
                "nested": engine._nested,
            }
            for name, things in held.items():
                self.ledger.check(not things, f"{name} are left: {things}")
            counts = ("running", "dead", "waiting", "grouped", "chunked", "pending")
            left = {name: getattr(forming, name) for name in counts if getattr(forming, name)}
            self.ledger.check(not left, f"counts are left: {left}")
        until(lambda: self.function.stats().workers == 0)


# ---- as a test, and by hand ----


def make_test(profile: settings, *more: Phase) -> Any:
    """Return the test, with as many examples as the profile has."""
    how = settings(
        profile,
        deadline=None,
        database=None,  # threads vary: failures may not repeat
        phases=[Phase.generate, *more],
        suppress_health_check=list(HealthCheck),
    )
    return how(given(PLANS)(run))


test_combinations = pytest.mark.timeout(600)(make_test(settings()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--replay", help="a plan, as a failed run prints it")
    parser.add_argument("--times", type=int, default=100, help="how often to replay it")
    parser.add_argument("--shrink", action="store_true", help="look for a smaller plan")
    given_ = parser.parse_args()
    logging.getLogger("batchify").addHandler(logging.NullHandler())
    if given_.replay:
        plan = eval(given_.replay)
        for _ in range(given_.times):
            run(plan)
        return
    print(f"seed {given_.seed}", flush=True)
    began = time.monotonic()
    test = make_test(settings(max_examples=given_.examples), *[Phase.shrink] * given_.shrink)
    seeded(given_.seed)(test)()
    print(f"{given_.examples} examples in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
