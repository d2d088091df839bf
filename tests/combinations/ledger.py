"""The oracle: `Ledger` has what the function did and what the actors got, which must agree."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

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
)
from tests.combinations.plan import ATTEMPTS, FAULTY, INDIVISIBLE, Plan
from tests.manual import until

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
