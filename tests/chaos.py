"""A seeded chaos run: faults everywhere, and a ledger that knows what every item should get.

    python -m tests.chaos [--items 1000000] [--seed N] [--seconds-limit S]

Threads and event loops submit to the same decorated functions. Their batches raise, stall, hang
and give back nonsense; the callers cancel, lose patience, close loops and functions, and leave.
Every item is a number of its own. The batch functions write down how often each was run and
which outcome it was *meant* to get, the callers which one they got. In the end both must agree:

- lost: it was never run, and nobody was told why; or its callback was never called
- duplicated: run twice, told twice, or run although it was cancelled or refused
- hung: its future never ended
- misrouted: it ended otherwise than meant, changed its mind, or came to the wrong function
- broken: `stats()` disagrees, a bound is exceeded, a call failed that must not, a worker died,
  a finalizer raised

The same seed draws the same faults for the same items; the threads add their own weather.
"""

from __future__ import annotations

import argparse
import asyncio
import concurrent.futures
import contextlib
import faulthandler
import gc
import itertools
import logging
import random
import sys
import threading
import time
import traceback
import warnings
from array import array
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakSet

from batchify import (
    BadResult,
    BatchAborted,
    BatchFailure,
    BatchFuture,
    Closed,
    Deadlock,
    MissingResult,
    QueueFull,
    batched,
)

Pairs = list[tuple[int, Any]]  # an item and its future

STALL = 0.002  # seconds
HANG = 1.0
FAULTY = 80  # batches in 1000 that have a fault
PAUSED = 40  # batches in 1000 that stall
ITEMS_PER_HANG = 40_000

# ---- outcomes ----

(
    NOTHING, VALUE, NONE, FALLBACK, RAISED, RUDE, EXITED, INTERRUPTED, GENERATOR_ENDED,
    CANCEL_RAISED, ENDED, STOPPED, STOPPED_ASYNC, BAD, MISSING, ELEMENT, BASE_ELEMENT, CLOSED,
    CANCELLED, FULL, REFUSED, WRONG,
) = range(22)  # fmt: skip
OUTCOMES = (
    "nothing", "its value", "None", "its fallback", "the error raised", "BatchAborted by Rude",
    "BatchAborted by SystemExit", "BatchAborted by KeyboardInterrupt",
    "BatchAborted by GeneratorExit", "BatchAborted by CancelledError",
    "BatchAborted by the loop's end", "RuntimeError by StopIteration",
    "RuntimeError by StopAsyncIteration", "BadResult", "MissingResult", "its own error",
    "BatchAborted by its own SystemExit", "Closed", "a cancellation", "QueueFull", "a refusal",
    "something that is nobody's",
)  # fmt: skip
SUCCESSES = frozenset((VALUE, NONE, FALLBACK))

# What a caller, or the place of an item, allows and demands.
SUBMITTED, MAY_CANCEL, NEVER_RUN, MAY_CLOSE, DROPPED, CALLED, UNKNOWN = (1 << n for n in range(7))


class ChaosError(Exception):
    """What a batch raises."""


class Picky(Exception):
    """An error that `copy.copy` cannot copy."""

    def __init__(self, number: int, *, detail: str) -> None:
        super().__init__(number)
        self.detail = detail


class Rude(BaseException):
    """No Exception, and not one of the standard library's."""


class ItemError(Exception):
    """The error of one item alone."""


RAISES: tuple[Callable[[int], BaseException], ...] = (
    ChaosError, ValueError, KeyError, OSError, TimeoutError, MemoryError,
    concurrent.futures.CancelledError, partial(Picky, detail="kept"),
)  # fmt: skip
RAISES_TYPES = (*RAISES[:-1], Picky)
ABORTS: dict[type[BaseException], int] = {
    SystemExit: EXITED,
    KeyboardInterrupt: INTERRUPTED,
    GeneratorExit: GENERATOR_ENDED,
    asyncio.CancelledError: CANCEL_RAISED,
    Rude: RUDE,
}
STOPS: dict[type[BaseException], int] = {
    StopIteration: STOPPED,
    StopAsyncIteration: STOPPED_ASYNC,
}
PLAIN_ERRORS = {BadResult: BAD, MissingResult: MISSING, Closed: CLOSED, QueueFull: FULL}


def answer(index: int, n: int, salt: int) -> int:
    """The result of item `n`: of one function, one item and one set of extra arguments only."""
    return n << 24 | salt << 8 | index


def mix(seed: int, number: int) -> int:
    """64 bits drawn for `number`, the same in every run with this seed (splitmix64)."""
    mask = (1 << 64) - 1
    z = (seed + number * 0x9E3779B97F4A7C15) & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


# ---- the ledger ----


class Ledger:
    """What is known of every item, a few bytes each."""

    def __init__(self, items: int, seed: int, patience: float | None = None) -> None:
        self.items = items
        self.seed = seed
        self.patience = patience  # seconds that a caller waits for a future; None: for ever
        self.handed = 0  # ids in use
        self.is_over = False
        self.doomed: WeakSet[Any] = WeakSet()  # loops that will be closed without an end
        self.runs = bytearray(items)
        self.meant = bytearray(items)
        self.seen = bytearray(items)
        self.told = bytearray(items)
        self.flags = bytearray(items)
        self.home = bytearray(items)
        self.salt = array("H", bytes(2 * items))
        self.batch_of = array("L", bytes(array("L").itemsize * items))
        self.progress = 0
        self.faults: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.broken: list[str] = []
        self.misled: Counter[str] = Counter()  # misrouted, noticed before the end
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        draw = random.Random(f"{seed} hangs")
        self._hangs = {draw.randrange(items) for _ in range(max(1, items // ITEMS_PER_HANG))}

    def take(self, count: int) -> range:
        """Ids nobody else has; fewer, or none, at the end."""
        with self._lock:
            first = self.handed
            self.handed = min(self.items, first + count) if not self.is_over else first
            self.progress += 1
            return range(first, self.handed)

    def count(self, counter: Counter[str], what: str, times: int = 1) -> None:
        with self._lock:
            counter[what] += times

    def complain(self, text: str) -> None:
        """Something is wrong that is not about one item."""
        with self._lock:
            self.broken.append(text)

    # -- what batch functions do --

    def begin(self, target: Target, items: list[int], salt: int = 0) -> Batch:
        """A batch starts: write down who is run, and draw what will happen."""
        number = next(self._numbers)
        runs, meant, home, batch_of = self.runs, self.meant, self.home, self.batch_of
        index = target.index
        for n in items:
            runs[n] += 1
            meant[n] = VALUE
            batch_of[n] = number
            if home[n] != index:
                self.count(self.misled, f"an item of {home[n]} was run by {target.name}")
        if not 0 < len(items) <= target.size:
            self.complain(f"{target.name} got a batch of {len(items)} items")
        self.progress += 1
        batch = Batch(self, target, list(items), items, number, salt)
        if not self._hangs.isdisjoint(items):
            batch.pause = HANG
            self.count(self.faults, "hang of 1 s")
        elif batch.draw("pause") % 1000 < PAUSED:
            batch.pause = STALL
            self.count(self.faults, "stall of 2 ms")
        roll = batch.draw("fault")
        if roll % 1000 < FAULTY:
            batch.fault = target.faults[(roll >> 16) % len(target.faults)]
            self.count(self.faults, (batch.fault.__doc__ or "").strip("."))
        return batch

    # -- what callers do --

    def submit(
        self,
        target: Target,
        n: int,
        call: Any = None,
        flags: int = 0,
        may: tuple[type[Exception], ...] = (),
    ) -> Any:
        """Submit one item; None when the call refused it, which only `may` may do."""
        self.prepare(target, n, flags)
        try:
            if target.is_grouped:
                return (call or target.call)(n, n % 3, level=n % 2)
            return (call or target.call)(n)
        except (Closed, QueueFull, Deadlock) as error:
            return self.refused(target, n, error, may)

    def prepare(self, target: Target, n: int, flags: int = 0) -> None:
        """Write down what is submitted where, before it is."""
        self.flags[n] = SUBMITTED | target.flags | flags
        self.home[n] = target.index
        self.salt[n] = extra_salt(n % 3, n % 2) if target.is_grouped else target.number

    def refused(
        self, target: Target, n: int, error: Exception, may: tuple[type[Exception], ...]
    ) -> None:
        """The call raised."""
        self.note(n, REFUSED)
        if not isinstance(error, may) and not (
            isinstance(error, Closed) and self.flags[n] & MAY_CLOSE
        ):
            self.complain(f"{target.name} refused an item: {error!r}")

    def note(self, n: int, outcome: int) -> None:
        """Somebody saw how `n` ended: everybody must see the same."""
        before = self.seen[n]
        if before not in (NOTHING, outcome):
            self.count(self.misled, f"{OUTCOMES[before]} became {OUTCOMES[outcome]}")
        self.seen[n] = outcome

    def look(self, n: int, future: Any) -> None:
        """Note how a future ended, if it did."""
        if not future.done():
            return
        if future.cancelled():
            self.note(n, CANCELLED)
            return
        error = future.exception(0)
        if error is None:
            self.note(n, self.outcome_of_value(n, future.result(0)))
        else:
            self.note(n, self.outcome_of_error(n, error))

    def tell(self, n: int, future: Any) -> None:
        """A done-callback."""
        self.told[n] += 1
        self.look(n, future)

    def collect(self, pairs: Iterable[tuple[int, Any]]) -> None:
        """Wait for each future in a thread, and note how it ended."""
        errors: dict[int, BaseException] = {}
        for n, future in pairs:
            try:
                value = future.result(self.patience)
            except BaseException as error:
                if future.done() and not future.cancelled():
                    self._own_object(errors, error)
                self.look(n, future)
            else:
                self.note(n, self.outcome_of_value(n, value))
        self.progress += 1

    def _own_object(self, errors: dict[int, BaseException], error: BaseException) -> None:
        if id(error) in errors:
            self.complain(f"two callers got the same {type(error).__name__} object")
        errors[id(error)] = error  # kept, so that no other object gets its id

    def outcome_of_value(self, n: int, value: Any) -> int:
        own = answer(self.home[n], n, self.salt[n])
        if value == own:
            return VALUE
        if value is None:
            return NONE
        return FALLBACK if value == -own else WRONG

    def outcome_of_error(self, n: int, error: BaseException) -> int:
        """Which outcome an error is; WRONG where it tells of another batch or item."""
        number = self.batch_of[n]
        cls, args = type(error), error.args
        if cls in PLAIN_ERRORS:
            return PLAIN_ERRORS[cls]
        if cls is ItemError:
            return ELEMENT if args == (n,) else WRONG
        if cls is RAISES_TYPES[number % len(RAISES)]:
            return RAISED if args == (number,) else WRONG
        cause = error.__cause__
        if cls is RuntimeError and type(cause) in STOPS:
            return STOPS[type(cause)] if cause.args == (number,) else WRONG
        if cls is BatchAborted and type(cause) in ABORTS:
            if cause.args == (number,):
                return ABORTS[type(cause)]
            if cause.args == ("item", n):
                return BASE_ELEMENT
            if type(cause) is asyncio.CancelledError and not cause.args:
                return ENDED
        return WRONG


def extra_salt(table: int, level: int) -> int:
    """What the extra arguments add to an answer."""
    return 1 + table * 2 + level


# ---- batches and their faults ----


class Batch:
    """One call of a batch function: `items` is our own copy, `given` what the engine gave."""

    __slots__ = ("fault", "given", "items", "ledger", "number", "pause", "salt", "target")

    def __init__(
        self,
        ledger: Ledger,
        target: Target,
        items: list[int],
        given: list[int],
        number: int,
        salt: int,
    ) -> None:
        self.ledger = ledger
        self.target = target
        self.items = items
        self.given = given
        self.number = number
        self.salt = salt
        self.pause = 0.0
        self.fault: Callable[[Batch], Any] | None = None

    def draw(self, what: str) -> int:
        """64 bits for this batch and one purpose."""
        return mix(self.ledger.seed ^ hash_of(what), self.items[0])

    def mean(self, outcome: int, items: Iterable[int] | None = None) -> None:
        """Write down what these items (or all) are to get."""
        meant = self.ledger.meant
        for n in self.items if items is None else items:
            meant[n] = outcome

    def values(self) -> list[Any]:
        index, salt = self.target.index, self.salt
        return [n << 24 | salt << 8 | index for n in self.items]

    def play(self) -> Any:
        """What the batch function gives back, or raises."""
        return self.target.shape(self) if self.fault is None else self.fault(self)

    def error(self) -> tuple[int, BaseException]:
        """Some error to raise, and the outcome that it means."""
        makers: list[tuple[int, Callable[[int], BaseException]]] = [
            (RAISED, RAISES[self.number % len(RAISES)]),
            *((outcome, cls) for cls, outcome in (*ABORTS.items(), *STOPS.items())),
        ]
        outcome, make = makers[self.draw("error") % len(makers)]
        return outcome, make(self.number)

    def cut(self) -> int:
        """A place in the batch, before its end."""
        return self.draw("cut") % len(self.items)


HASHES: dict[str, int] = {}


def hash_of(text: str) -> int:
    """A number for a text, the same in every process."""
    found = HASHES.get(text)
    if found is None:
        found = HASHES[text] = random.Random(text).getrandbits(63)
    return found


Fault = Callable[[Batch], Any]
LIST_FAULTS: list[Fault] = []  # what a function may do that gives all results at once
STREAM_FAULTS: list[Fault] = []  # and a generator function: gives its steps, see `Script`


@dataclass
class Script:
    """What a generator does: yield these, then raise that."""

    elements: list[Any]
    error: BaseException | None = None


def of_lists(fault: Fault) -> Fault:
    LIST_FAULTS.append(fault)
    return fault


def of_streams(fault: Fault) -> Fault:
    STREAM_FAULTS.append(fault)
    return fault


def as_list(batch: Batch) -> list[Any]:
    return batch.values()


def as_mapping(batch: Batch) -> dict[int, Any]:
    return dict(zip(batch.items, batch.values(), strict=True))


def as_script(batch: Batch) -> Script:
    return Script(batch.values())


def raising(outcome: int, make: Callable[[int], BaseException], what: str) -> Fault:
    def fault(batch: Batch) -> Any:
        batch.mean(outcome)
        raise make(batch.number)

    fault.__doc__ = f"raise {what}"
    return fault


@of_lists
def raise_exception(batch: Batch) -> Any:
    """raise an Exception."""
    batch.mean(RAISED)
    raise RAISES[batch.number % len(RAISES)](batch.number)


for _cls, _outcome in (*ABORTS.items(), *STOPS.items()):
    of_lists(raising(_outcome, _cls, _cls.__name__))


@of_lists
def too_short(batch: Batch) -> Any:
    """too short."""
    batch.mean(BAD)
    return batch.values()[: batch.cut()]


@of_lists
def too_long(batch: Batch) -> Any:
    """too long."""
    batch.mean(BAD)
    return [*batch.values(), 0]


@of_lists
def gives_none(batch: Batch) -> None:
    """None."""
    batch.mean(NONE)


@of_lists
def gives_text(batch: Batch) -> Any:
    """a str as long as the batch."""
    batch.mean(BAD)
    return "x" * len(batch.items)


@of_lists
def gives_a_number(batch: Batch) -> Any:
    """an int."""
    batch.mean(BAD)
    return len(batch.items)


@of_lists
def gives_a_set(batch: Batch) -> Any:
    """a set: sized, not ordered."""
    batch.mean(BAD)
    return set(batch.values())


@of_lists
def gives_a_tuple(batch: Batch) -> Any:
    """a tuple (fine)."""
    return tuple(batch.values())


@of_lists
def gives_an_array(batch: Batch) -> Any:
    """an array (fine)."""
    return array("q", batch.values())


@of_lists
def gives_a_mapping(batch: Batch) -> Any:
    """a mapping (fine)."""
    return as_mapping(batch)


@of_lists
def mapping_with_missing(batch: Batch) -> Any:
    """a mapping with missing items."""
    missing = [n for n in batch.items if mix(batch.ledger.seed, n) & 1]
    batch.mean(MISSING, missing)
    found = as_mapping(batch)
    for n in missing:
        del found[n]
    return found


def with_errors(batch: Batch) -> list[Any]:
    values = batch.values()
    for place, n in enumerate(batch.items):
        kind = mix(batch.ledger.seed, n) % 8
        if kind == 0:
            batch.mean(BASE_ELEMENT, [n])
            values[place] = SystemExit("item", n)
        elif kind < 4:
            batch.mean(ELEMENT, [n])
            values[place] = ItemError(n)
    return values


@of_lists
def exceptions_as_elements(batch: Batch) -> Any:
    """exception instances as elements."""
    return with_errors(batch)


@of_lists
def changes_its_list(batch: Batch) -> Any:
    """changes its list."""
    values = batch.values()
    batch.given.reverse()
    del batch.given[batch.cut() :]
    batch.given.extend((-1, -2))
    return values


@of_lists
def submits_elsewhere(batch: Batch) -> Any:
    """submits to another function."""
    inner = batch.ledger.take(1)
    for n in inner:
        submit_and_forget(batch.ledger, batch.target.friend or batch.target, n)
    return batch.values()


@of_lists
def generator_that_raises(batch: Batch) -> Any:
    """gives a generator that raises midway."""
    return run_script(raises_midway(batch))


@of_lists
def generator_that_ends_early(batch: Batch) -> Any:
    """gives a generator that ends early."""
    return run_script(ends_early(batch))


@of_streams
def raises_midway(batch: Batch) -> Script:
    """generator that raises midway."""
    outcome, error = batch.error()
    place = batch.cut()
    batch.mean(outcome, batch.items[place:])
    return Script(batch.values()[:place], error)


@of_streams
def ends_early(batch: Batch) -> Script:
    """generator that ends early."""
    place = batch.cut()
    batch.mean(BAD, batch.items[place:])
    return Script(batch.values()[:place])


@of_streams
def yields_too_much(batch: Batch) -> Script:
    """generator that yields too much."""
    return Script([*batch.values(), 0, 0])


@of_streams
def raises_after_the_last(batch: Batch) -> Script:
    """generator that raises after its last result."""
    return Script(batch.values(), batch.error()[1])


@of_streams
def yields_errors(batch: Batch) -> Script:
    """generator that yields exception instances."""
    return Script(with_errors(batch))


def run_script(script: Script) -> Iterator[Any]:
    yield from script.elements
    if script.error is not None:
        raise script.error


def run_batch(batch: Batch) -> Any:
    """The body of every `def`."""
    if batch.pause:
        time.sleep(batch.pause)
    return batch.play()


async def run_async_batch(batch: Batch) -> Any:
    """The body of every `async def`."""
    if batch.pause or batch.number % 4 == 0:
        try:
            await asyncio.sleep(batch.pause)
        except asyncio.CancelledError:  # the end of asyncio.run
            batch.mean(ENDED)
            raise
    return batch.play()


def stream_batch(batch: Batch) -> Iterator[Any]:
    """The body of every generator function."""
    script = batch.play()
    rest_at = batch.cut() if batch.pause else -1
    for place, element in enumerate(script.elements):
        if place == rest_at:
            time.sleep(batch.pause)
        yield element
    if script.error is not None:
        raise script.error


async def stream_async_batch(batch: Batch) -> AsyncIterator[Any]:
    """The body of every async generator function."""
    script = batch.play()
    rest_at = batch.cut() if batch.pause or batch.number % 4 == 0 else -1
    for place, element in enumerate(script.elements):
        if place == rest_at:
            try:
                await asyncio.sleep(batch.pause)
            except asyncio.CancelledError:
                batch.mean(ENDED, batch.items[place:])
                raise
        yield element
    if script.error is not None:
        raise script.error


def rescue(ledger: Ledger, target: Target, failure: BatchFailure) -> Any:
    """An `on_error`: mostly a fallback, sometimes none, sometimes as bad as the function."""
    items: list[int] = failure.items
    index = target.index
    if failure.args or failure.kwargs or failure.batched is not target.call:
        ledger.complain(f"{target.name}: on_error was told wrong arguments")
    if len({ledger.batch_of[n] for n in items}) != 1 or {ledger.home[n] for n in items} != {index}:
        ledger.complain(f"{target.name}: on_error was given others' items")
    choice = mix(ledger.seed ^ hash_of("rescue"), items[0]) % 8
    ledger.count(ledger.faults, "on_error " + ("fallback" if choice < 5 else f"fault {choice - 4}"))
    if choice == 5:
        return None
    if choice == 6:
        raise ChaosError("the handler itself")
    if choice == 7:
        set_all(ledger.meant, items, BAD)
        return [0] * (len(items) + 1)
    set_all(ledger.meant, items, FALLBACK)
    fallbacks = [-answer(index, n, 0) for n in items]
    if choice == 4:
        return dict(zip(items, fallbacks, strict=True))
    return iter_of(fallbacks) if choice == 3 else fallbacks


def set_all(array_: bytearray, items: Iterable[int], value: int) -> None:
    for n in items:
        array_[n] = value


def iter_of(values: Sequence[Any]) -> Iterator[Any]:
    yield from values


# ---- the functions ----


@dataclass(eq=False)
class Target:
    """One decorated function."""

    index: int
    name: str
    size: int
    most: int = 600  # items that one scene submits at once
    is_async: bool = False
    is_grouped: bool = False
    is_small: bool = False  # its capacity is
    flags: int = 0
    faults: list[Fault] = field(default_factory=lambda: LIST_FAULTS)
    shape: Fault = as_list
    call: Any = None
    owner: Any = None  # makes the instance of a method
    number: int = 0  # of the instance
    friend: Target | None = None  # where its batches submit to

    def now(self, n: int) -> Target:
        """The target for one scene: a method gets an instance of its own."""
        if self.owner is None:
            return self
        number = 1 + n % 65_000
        owned = replace(self, number=number, owner=None)
        owned.call = getattr(self.owner(number), self.name)
        return owned


class Town:
    """All decorated functions of a run."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.all: list[Target] = []
        self._def("plain")
        self._def("crowd", workers=3, size=32, linger=0.001)
        self._def("narrow", workers=2, size=4, capacity=8)
        self._def("slow_narrow", size=8, capacity=8, linger=0.002)
        self._def("doors", workers=2, size=32, linger=0.0005, is_door=True)
        self._def("narrow_doors", workers=2, size=8, capacity=16, is_door=True)
        self._def("by_hand", size=50, linger=None)
        self._def("mapping", workers=2, shape=as_mapping)
        self._def("rescued", workers=2, size=40, rescue=rescue)
        self._grouped("tables", workers=2)
        self._grouped("narrow_tables", size=4, capacity=12, linger=0.002)
        self._def("stream", workers=2, body=stream_batch)
        self._async("co")
        self._async("co_crowd", workers=3, size=16, linger=0.001)
        self._async("co_narrow", workers=2, size=4, capacity=8)
        self._async("co_doors", size=32, linger=0.0005, is_door=True)
        self._async("co_rescued", rescue=rescue, size=40)
        self._async("co_stream", workers=2, body=stream_async_batch)
        self._methods()
        for target in self.all:
            target.friend = self["co" if target.is_async else "plain"]

    def __getitem__(self, name: str) -> Target:
        return next(target for target in self.all if target.name == name)

    def _target(
        self,
        name: str,
        *,
        is_door: bool = False,
        shape: Fault = as_list,
        rescue: Any = None,
        body: Any = None,
        **options: Any,
    ) -> tuple[Target, dict[str, Any]]:
        """A target to be given its call, and the options for it."""
        target = Target(len(self.all), name, options.get("size", 64), shape=shape)
        if is_door:
            target.flags = MAY_CLOSE
        if "capacity" in options:
            target.is_small, target.most = True, 60
        if body in (stream_batch, stream_async_batch):
            target.shape, target.faults = as_script, STREAM_FAULTS
        if rescue is not None:
            options["on_error"] = partial(rescue, self.ledger, target)
        self.all.append(target)
        return target, {"exit_timeout": 2, "name": name, **options}

    def _def(self, name: str, body: Any = run_batch, **more: Any) -> None:
        target, options = self._target(name, body=body, **more)
        begin = self.ledger.begin

        def function(items: list[int]) -> Any:
            return body(begin(target, items))

        target.call = batched(function, **options)

    def _async(self, name: str, body: Any = run_async_batch, **more: Any) -> None:
        target, options = self._target(name, body=body, **more)
        target.is_async = True
        begin = self.ledger.begin

        async def function(items: list[int]) -> Any:
            return await body(begin(target, items))

        async def generator(items: list[int]) -> AsyncIterator[Any]:
            async for element in body(begin(target, items)):
                yield element

        is_stream = body is stream_async_batch
        target.call = batched(generator if is_stream else function, **options)

    def _grouped(self, name: str, **more: Any) -> None:
        target, options = self._target(name, **more)
        target.is_grouped = True
        begin = self.ledger.begin

        def function(items: list[int], table: int, *, level: int) -> Any:
            return run_batch(begin(target, items, extra_salt(table, level)))

        target.call = batched(function, **options)

    def _methods(self) -> None:
        sell, sell_options = self._target("sell", workers=2, size=16)
        ship, ship_options = self._target("ship", size=16, capacity=40)
        ship.is_async = True
        begin = self.ledger.begin

        class Shop:
            def __init__(self, number: int) -> None:
                self.number = number

            @batched(**sell_options)
            def sell(self, items: list[int]) -> Any:
                return run_batch(begin(sell, items, self.number))

            @batched(**ship_options)
            async def ship(self, items: list[int]) -> Any:
                return await run_async_batch(begin(ship, items, self.number))

        sell.owner = ship.owner = Shop


# ---- scenes: what callers do ----


def submit_and_forget(ledger: Ledger, target: Target, n: int) -> None:
    """From a batch, a callback or a finalizer: nobody waits, a callback tells."""
    future = ledger.submit(target, n, may=(Closed, QueueFull, Deadlock))
    if future is None:
        return
    ledger.flags[n] |= CALLED
    if target.is_async and asyncio.isfuture(future) and future.get_loop() in ledger.doomed:
        ledger.flags[n] |= MAY_CLOSE
    # A callback of the thread kind: the loop may have ended before it would call.
    BatchFuture.add_done_callback(future, partial(ledger.tell, n))


class Ghost:
    """Garbage in a cycle, whose finalizer submits: in any thread, at any time."""

    def __init__(self, ledger: Ledger, target: Target, ids: range) -> None:
        self.itself = self
        self.rest = (ledger, target, ids)

    def __del__(self) -> None:
        ledger, target, ids = self.rest
        try:
            for n in ids:
                submit_and_forget(ledger, target, n)
        except BaseException:
            ledger.complain(traceback.format_exc())


class Stage:
    """One scene: who plays, with which function and which items."""

    def __init__(
        self, ledger: Ledger, rng: random.Random, target: Target, ids: range, later: Pairs
    ) -> None:
        self.ledger = ledger
        self.rng = rng
        self.target = target
        self.ids = ids
        self.later = later  # what is looked at after the scene, or after the loop

    def event(self, what: str, times: int = 1) -> None:
        if times:
            self.ledger.count(self.ledger.events, what, times)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def submit_all(
        self, call: Any = None, flags: int = 0, may: tuple[type[Exception], ...] = ()
    ) -> Pairs:
        """Submit the scene's items; those that were refused are left out."""
        pairs: Pairs = []
        ledger, target = self.ledger, self.target
        for n in self.ids:
            future = ledger.submit(target, n, call, flags, may)
            if future is not None:
                pairs.append((n, future))
            elif target.flags & MAY_CLOSE:  # closed: the door opens soon
                time.sleep(0.0005)
                break
        return pairs

    def cancel(self, n: int, future: Any) -> None:
        """Cancel a future, and write down what that promises."""
        is_on_loop = asyncio.isfuture(future)
        was_running = future.running()
        if not future.cancel():
            return
        self.ledger.flags[n] |= MAY_CANCEL
        if not future.cancelled():
            self.ledger.complain("cancel() gave True, cancelled() False")
        if not is_on_loop or (self.target.is_async and not was_running):
            self.ledger.flags[n] |= NEVER_RUN

    def watch(self, pairs: Pairs) -> None:
        """Add a callback to each, which must be told."""
        for n, future in pairs:
            self.ledger.flags[n] |= CALLED
            future.add_done_callback(partial(self.ledger.tell, n))

    def some(self, pairs: Pairs) -> Pairs:
        share = self.rng.random()
        return [pair for pair in pairs if self.rng.random() < share]

    # -- endings --

    def collect(self, pairs: Pairs) -> None:
        self.ledger.collect(pairs)

    async def gather(self, pairs: Pairs) -> None:
        """Wait on the loop in one of asyncio's ways; nothing is cancelled by it."""
        futures = [future for _, future in pairs]
        style = self.rng.randrange(4) if self.ledger.patience is None else 0
        if not futures:
            await asyncio.sleep(0)
        elif style == 0:
            await asyncio.wait(futures, timeout=self.ledger.patience)
        elif style == 1:
            await asyncio.gather(*futures, return_exceptions=True)
        elif style == 2:
            for future in futures:
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await future
        else:
            for soon in asyncio.as_completed(futures):
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await soon
        self.look_at_all(pairs)

    def look_at_all(self, pairs: Pairs) -> None:
        for n, future in pairs:
            self.ledger.look(n, future)
        self.ledger.progress += 1


@dataclass
class Scene:
    play: Callable[[Stage], Any]
    weight: int
    items: tuple[int, int]
    fits: Callable[[Target], bool]


THREAD_SCENES: list[Scene] = []
LOOP_SCENES: list[Scene] = []


def anywhere(_: Target) -> bool:
    return True


def on_small(target: Target) -> bool:
    return target.is_small


def on_open(target: Target) -> bool:
    """It never closes."""
    return not target.flags & MAY_CLOSE


def on_lasting(target: Target) -> bool:
    """It never closes, and `stats()` of it can be asked in the end."""
    return on_open(target) and target.owner is None


def on_doors(target: Target) -> bool:
    return bool(target.flags & MAY_CLOSE)


def in_thread(
    weight: int = 1,
    items: tuple[int, int] = (5, 60),
    fits: Callable[[Target], bool] = anywhere,
) -> Callable[[Any], Any]:
    """A scene for threads."""

    def add(play: Callable[[Stage], None]) -> Callable[[Stage], None]:
        THREAD_SCENES.append(Scene(play, weight, items, fits))
        return play

    return add


def on_loop(
    weight: int = 1,
    items: tuple[int, int] = (5, 60),
    fits: Callable[[Target], bool] = anywhere,
) -> Callable[[Any], Any]:
    """A scene for event loops."""

    def add(play: Any) -> Any:
        LOOP_SCENES.append(Scene(play, weight, items, fits))
        return play

    return add


# -- in threads --


@in_thread(weight=24, items=(100, 800))
def flood(stage: Stage) -> None:
    stage.collect(stage.submit_all())


@in_thread(weight=2, items=(20, 200))
def told(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.watch(pairs)
    stage.collect(pairs)


@in_thread()
def told_late(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.collect(pairs)
    stage.watch(pairs)
    stage.event("callback added when done", len(pairs))


@in_thread(weight=2)
def waited_for(stage: Stage) -> None:
    pairs = stage.submit_all()
    futures = [future for _, future in pairs]
    concurrent.futures.wait(
        futures, stage.ledger.patience, stage.rng.choice(("FIRST_COMPLETED", "ALL_COMPLETED"))
    )
    concurrent.futures.wait(futures, stage.ledger.patience)
    stage.collect(pairs)
    stage.event("concurrent.futures.wait")


@in_thread(weight=2)
def as_completed(stage: Stage) -> None:
    pairs = stage.submit_all()
    futures = [future for _, future in pairs]
    with contextlib.suppress(TimeoutError):
        done = list(concurrent.futures.as_completed(futures, stage.ledger.patience))
        if len(done) != len(futures):
            stage.ledger.complain("as_completed lost a future")
    stage.collect(pairs)
    stage.event("concurrent.futures.as_completed")


@in_thread(weight=3)
def cancelled_before(stage: Stage) -> None:
    pairs = stage.submit_all()
    chosen = stage.some(pairs)
    for n, future in chosen:
        stage.cancel(n, future)
    stage.event("cancel before", len(chosen))
    stage.watch(pairs)
    stage.collect(pairs)


@in_thread(weight=3)
def cancelled_during(stage: Stage) -> None:
    pairs = stage.submit_all()
    time.sleep(stage.rng.random() * 0.003)
    chosen = stage.some(pairs)
    for n, future in chosen:
        stage.cancel(n, future)
    stage.event("cancel during", len(chosen))
    stage.collect(pairs)


@in_thread(weight=2)
def raising_callbacks(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.watch(pairs)
    for _, future in pairs:
        error = stage.rng.choice((ValueError, SystemExit, KeyboardInterrupt, Rude))
        with contextlib.suppress(BaseException):  # it is called at once when it is done
            future.add_done_callback(partial(raise_in_callback, error))
    stage.event("callback that raises", len(pairs))
    stage.collect(pairs)


def raise_in_callback(error: type[BaseException], _: Any) -> None:
    raise error("in a callback")


@in_thread(weight=2, items=(5, 20))
def submitting_callbacks(stage: Stage) -> None:
    pairs = stage.submit_all()
    for _, future in pairs:
        future.add_done_callback(partial(submit_in_callback, stage))
    stage.event("callback that submits", len(pairs))
    stage.collect(pairs)


def submit_in_callback(stage: Stage, _: Any) -> None:
    for n in stage.ledger.take(1):
        submit_and_forget(stage.ledger, stage.target, n)


@in_thread(weight=2)
def impatient(stage: Stage) -> None:
    pairs = stage.submit_all()
    for _, future in pairs:
        try:
            future.result(stage.rng.choice((0, 1e-6, 1e-4, 1e-3)))
        except BaseException:
            stage.event("result(timeout=tiny)")
    stage.collect(pairs)


@in_thread(weight=3, fits=on_small)
def never_waiting(stage: Stage) -> None:
    pairs = stage.submit_all(stage.target.call.submit_nowait, may=(QueueFull,))
    stage.event("QueueFull from submit_nowait", len(stage.ids) - len(pairs))
    stage.collect(pairs)


@in_thread(weight=3, fits=on_small)
def short_of_room(stage: Stage) -> None:
    call = stage.target.call.options(timeout=stage.rng.choice((0, 0.0003, 0.003)))
    pairs = stage.submit_all(call, may=(QueueFull,))
    stage.event("QueueFull from options(timeout=)", len(stage.ids) - len(pairs))
    stage.collect(pairs)


@in_thread(weight=2, items=(20, 200), fits=on_lasting)
def abandoned(stage: Stage) -> None:
    stage.submit_all(flags=DROPPED)
    stage.event("futures dropped", len(stage.ids))


@in_thread(weight=2)
def abandoned_but_told(stage: Stage) -> None:
    stage.watch(stage.submit_all())
    stage.event("futures dropped with a callback", len(stage.ids))


@in_thread()
def haunted(stage: Stage) -> None:
    """Finalizers submit, whenever the garbage collector comes."""
    half = len(stage.ids) // 2
    ghosts, stage.ids = stage.ids[:half], stage.ids[half:]
    target = stage.target.friend
    if target is not None:
        for at in range(0, half, 5):
            Ghost(stage.ledger, target, ghosts[at : at + 5])
    stage.event("finalizer that submits", half)
    stage.collect(stage.submit_all())


@in_thread(weight=2)
def flushed(stage: Stage) -> None:
    pairs = stage.submit_all()
    timeout = stage.rng.choice((None, None, 0.001, 0))
    try:
        stage.target.call.flush(stage.ledger.patience if timeout is None else timeout)
    except TimeoutError:
        stage.event("flush that is late")
    else:
        stage.event("flush")
        if not all(future.done() for _, future in pairs):
            stage.ledger.complain(f"{stage.target.name}: flush returned too early")
    stage.collect(pairs)


@in_thread(weight=2, fits=on_doors)
def closing(stage: Stage) -> None:
    pairs = stage.submit_all()
    close_somehow(stage, pairs)
    stage.collect(pairs)


def close_somehow(stage: Stage, pairs: Pairs = []) -> None:
    """Close in one of the ways; who was accepted is then done."""
    cancel, timeout = stage.rng.choice(((False, None), (True, None), (False, 0.001), (True, 0.0)))
    try:
        stage.target.call.close(timeout, cancel=cancel)
    except TimeoutError:
        stage.event("close that is late")
    else:
        stage.event("close(cancel=True)" if cancel else "close")
    if not all(future.done() for _, future in pairs):
        stage.ledger.complain(f"{stage.target.name}: close({timeout}, {cancel=}) left items")


@in_thread(weight=2)
def awaited_on_a_loop(stage: Stage) -> None:
    """Futures made in a thread, awaited on a loop."""
    pairs = stage.submit_all()

    async def main() -> None:
        tasks = [asyncio.create_task(await_it(future)) for _, future in pairs]
        await asyncio.sleep(0)
        for (n, _), task in zip(pairs, tasks, strict=True):
            if stage.chance(0.2):
                stage.ledger.flags[n] |= MAY_CANCEL
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=stage.ledger.patience)

    asyncio.run(main())
    stage.event("made in a thread, awaited on a loop", len(pairs))
    stage.collect(pairs)


async def await_it(future: Any) -> None:
    """Await a future, whatever comes of it."""
    with contextlib.suppress(Exception):
        await future


# -- on loops --


@on_loop(weight=24, items=(100, 800))
async def gathered(stage: Stage) -> None:
    await stage.gather(stage.submit_all())


@on_loop(weight=2, items=(20, 200))
async def told_on_a_loop(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.watch(pairs)
    await stage.gather(pairs)
    await asyncio.sleep(0)


@on_loop(weight=2)
async def task_group(stage: Stage) -> None:
    pairs = stage.submit_all()
    async with asyncio.timeout(stage.ledger.patience), asyncio.TaskGroup() as group:
        for _, future in pairs:
            group.create_task(await_it(future))
    stage.look_at_all(pairs)


@on_loop(weight=3)
async def cancelled_futures(stage: Stage) -> None:
    pairs = stage.submit_all()
    if stage.chance(0.6):
        await asyncio.sleep(stage.rng.choice((0, 0, 0.001, 0.002)))
    chosen = stage.some(pairs)
    for n, future in chosen:
        stage.cancel(n, future)
    stage.event("cancel on a loop", len(chosen))
    await stage.gather(pairs)


@on_loop(weight=3)
async def cancelled_tasks(stage: Stage) -> None:
    pairs = stage.submit_all()
    tasks = [asyncio.create_task(await_it(future)) for _, future in pairs]
    await asyncio.sleep(stage.rng.choice((0, 0, 0.001)))
    for (n, _), task in zip(pairs, tasks, strict=True):
        if stage.chance(0.4):
            stage.ledger.flags[n] |= MAY_CANCEL
            task.cancel()
            stage.event("awaiting task cancelled")
    await stage.gather(pairs)
    await asyncio.sleep(0)


@on_loop()
async def cancelled_gather(stage: Stage) -> None:
    pairs = stage.submit_all(flags=MAY_CANCEL)
    together = asyncio.gather(*(future for _, future in pairs))
    await asyncio.sleep(stage.rng.choice((0, 0.001)))
    together.cancel()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await together
    stage.event("gather cancelled")
    await stage.gather(pairs)


@on_loop(weight=2)
async def timed(stage: Stage) -> None:
    pairs = stage.submit_all(flags=MAY_CANCEL)
    for _, future in pairs:
        try:
            await asyncio.wait_for(future, stage.rng.choice((0, 1e-5, 1e-4, 1e-3, 1)))
        except (Exception, asyncio.CancelledError):
            stage.event("wait_for in vain")
    await stage.gather(pairs)


@on_loop(weight=2)
async def shielded(stage: Stage) -> None:
    pairs = stage.submit_all()
    for _, future in pairs[:10]:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(asyncio.shield(future), stage.rng.choice((0, 1e-4, 1e-3)))
        stage.event("shield")
    await stage.gather(pairs)


@on_loop(weight=2)
async def raising_loop_callbacks(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.watch(pairs)
    for _, future in pairs:
        error = stage.rng.choice((ValueError, Rude, asyncio.CancelledError))
        future.add_done_callback(partial(raise_in_callback, error))
    stage.event("loop callback that raises", len(pairs))
    await stage.gather(pairs)
    await asyncio.sleep(0)


@on_loop(weight=2, items=(5, 20))
async def submitting_loop_callbacks(stage: Stage) -> None:
    pairs = stage.submit_all()
    for _, future in pairs:
        future.add_done_callback(partial(submit_in_callback, stage))
    stage.event("loop callback that submits", len(pairs))
    await stage.gather(pairs)
    await asyncio.sleep(0)


@on_loop(weight=3, fits=on_small)
async def waiting_for_room(stage: Stage) -> None:
    """`asubmit`, some of them cancelled, some with a limit."""
    ledger, target = stage.ledger, stage.target
    pairs: Pairs = []
    limit = stage.rng.choice((None, None, 0.0005))
    asubmit = (target.call if limit is None else target.call.options(timeout=limit)).asubmit

    async def one(n: int) -> None:
        ledger.prepare(target, n)
        extra = (n % 3,) if target.is_grouped else ()
        more = {"level": n % 2} if target.is_grouped else {}
        try:
            pairs.append((n, await asubmit(n, *extra, **more)))
        except asyncio.CancelledError:
            ledger.flags[n] |= UNKNOWN | MAY_CANCEL  # it may have been run, for nobody
        except (Closed, QueueFull) as error:
            ledger.refused(target, n, error, () if limit is None else (QueueFull,))

    tasks = [asyncio.create_task(one(n)) for n in stage.ids]
    for task in tasks:
        if stage.chance(0.2):
            await asyncio.sleep(0)
            task.cancel()
            stage.event("asubmit cancelled")
    await asyncio.wait(tasks, timeout=ledger.patience)
    await stage.gather(pairs)


@on_loop(weight=2, fits=on_small)
async def short_of_room_on_a_loop(stage: Stage) -> None:
    call = stage.target.call.options(timeout=stage.rng.choice((0, 0.0005, 0.005)))
    pairs = stage.submit_all(call)
    await stage.gather(pairs)
    full = sum(stage.ledger.seen[n] == FULL for n, _ in pairs)
    stage.event("QueueFull through a future", full)


@on_loop(weight=2, fits=on_small)
async def never_waiting_on_a_loop(stage: Stage) -> None:
    pairs = stage.submit_all(stage.target.call.submit_nowait, may=(QueueFull,))
    stage.event("QueueFull from submit_nowait", len(stage.ids) - len(pairs))
    await stage.gather(pairs)


@on_loop(weight=2)
async def made_elsewhere(stage: Stage) -> None:
    """Futures made in a thread, awaited here, some by tasks that are cancelled."""
    pairs = await asyncio.to_thread(stage.submit_all)
    tasks = [asyncio.create_task(await_it(future)) for _, future in pairs]
    await asyncio.sleep(0)
    for (n, _), task in zip(pairs, tasks, strict=True):
        if stage.chance(0.3):
            stage.ledger.flags[n] |= MAY_CANCEL
            task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=stage.ledger.patience)
    stage.event("made in a thread, awaited on a loop", len(pairs))
    await asyncio.to_thread(stage.collect, pairs)


@on_loop(weight=2)
async def looked_at_elsewhere(stage: Stage) -> None:
    """Futures made here, waited for in a thread."""
    pairs = stage.submit_all()
    stage.event("made on a loop, waited for in a thread", len(pairs))
    await asyncio.to_thread(stage.collect, pairs)


@on_loop(weight=2)
async def flushed_on_a_loop(stage: Stage) -> None:
    pairs = stage.submit_all()
    timeout = stage.rng.choice((None, None, 0.001))
    waiting = [n for n, future in pairs if not future.done()] and stage.target.is_small
    try:
        await stage.target.call.aflush(stage.ledger.patience if timeout is None else timeout)
    except TimeoutError:
        stage.event("flush that is late")
    else:
        stage.event("flush")
        if not waiting and not all(future.done() for _, future in pairs):
            stage.ledger.complain(f"{stage.target.name}: aflush returned too early")
    await stage.gather(pairs)


@on_loop(fits=on_doors)
async def closing_on_a_loop(stage: Stage) -> None:
    pairs = stage.submit_all()
    cancel, timeout = stage.rng.choice(((False, None), (True, None), (False, 0.001)))
    try:
        await stage.target.call.aclose(timeout, cancel=cancel)
    except TimeoutError:
        stage.event("close that is late")
    else:
        stage.event("close(cancel=True)" if cancel else "close")
    if not all(future.done() for _, future in pairs):
        stage.ledger.complain(f"{stage.target.name}: aclose({timeout}, {cancel=}) left items")
    await stage.gather(pairs)


@on_loop(weight=2)
async def left_behind(stage: Stage) -> None:
    stage.later += stage.submit_all()
    stage.event("left to the end of the loop", len(stage.ids))


# ---- who plays ----


class Player:
    """A thread that plays scenes, as long as there are items."""

    def __init__(self, town: Town, name: str, scenes: list[Scene]) -> None:
        self.town = town
        self.ledger = town.ledger
        self.rng = random.Random(f"{self.ledger.seed} {name}")
        self.casts = [
            (scene, [target for target in town.all if scene.fits(target)]) for scene in scenes
        ]
        self.weights = [scene.weight for scene in scenes]
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)

    def run(self) -> None:
        try:
            self.play()
        except BaseException:
            self.ledger.complain(traceback.format_exc())

    def play(self) -> None:
        raise NotImplementedError

    def stage(self, later: Pairs) -> tuple[Callable[[Stage], Any], Stage] | None:
        """The next scene; None when there are no more items."""
        ((scene, cast),) = self.rng.choices(self.casts, self.weights)
        target = self.rng.choice(cast)
        most = min(scene.items[1], target.most)
        ids = self.ledger.take(self.rng.randint(min(scene.items[0], most), most))
        if not ids:
            return None
        return scene.play, Stage(self.ledger, self.rng, target.now(ids[0]), ids, later)


class ThreadPlayer(Player):
    def play(self) -> None:
        later: Pairs = []
        while (next_ := self.stage(later)) is not None:
            play, stage = next_
            play(stage)
            del play, stage, next_  # an instance goes here
            self.ledger.collect(later)
            later.clear()


class LoopPlayer(Player):
    """Lives on one event loop after another."""

    def play(self) -> None:
        while self.ledger.handed < self.ledger.items and not self.ledger.is_over:
            later: Pairs = []
            style = self.rng.choice((self.run_to_the_end, self.run_to_the_end, self.just_close))
            style(later)
            self.look_back(later)

    def run_to_the_end(self, later: Pairs) -> None:
        asyncio.run(self.life(later))
        self.ledger.count(self.ledger.events, "asyncio.run that ends")

    def just_close(self, later: Pairs) -> None:
        loop = asyncio.new_event_loop()
        self.ledger.doomed.add(loop)
        try:
            loop.run_until_complete(self.life(later))
        finally:
            for n, _ in later:
                self.ledger.flags[n] |= MAY_CLOSE
            loop.close()
        self.ledger.count(self.ledger.events, "loop.close")

    async def life(self, later: Pairs) -> None:
        await asyncio.gather(*(self.act(later) for _ in range(3)))
        for _ in range(self.rng.randrange(3)):  # some are still there when the loop ends
            if (next_ := self.stage(later)) is not None:
                _, stage = next_
                stage.ids, spare = stage.ids[:40], stage.ids[40:]
                await left_behind(stage)
                stage.ids = spare
                await gathered(stage)

    async def act(self, later: Pairs) -> None:
        for _ in range(self.rng.randint(1, 6)):
            if (next_ := self.stage(later)) is None:
                return
            play, stage = next_
            await play(stage)
            del play, stage, next_

    def look_back(self, later: Pairs) -> None:
        """After the loop: what is left runs in threads, or is over."""
        for n, future in later:
            is_async = self.town.all[self.ledger.home[n]].is_async
            if not is_async:
                self.ledger.collect([(n, future)])
            elif future.done():
                self.ledger.look(n, future)


# ---- the weather ----


class Weather:
    """Two threads: one flushes and looks at the statistics, one opens and closes doors."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.ledger = town.ledger
        self.is_over = threading.Event()
        self.rng = random.Random(f"{self.ledger.seed} weather")
        self.threads = [
            threading.Thread(target=self.run, args=(play,), name=play.__name__, daemon=True)
            for play in (self.watch, self.doors)
        ]

    def run(self, play: Callable[[], None]) -> None:
        while not self.is_over.is_set():
            try:
                play()
            except BaseException:
                self.ledger.complain(traceback.format_exc())

    def watch(self) -> None:
        with contextlib.suppress(TimeoutError):
            self.town["by_hand"].call.flush(0.01)
        for target in self.town.all:
            if target.call is not None:
                check_balance(self.ledger, target)
        if self.rng.random() < 0.02:
            gc.collect()
        self.is_over.wait(0.002)

    def doors(self) -> None:
        for target in self.town.all:
            if target.flags & MAY_CLOSE:
                close_somehow(Stage(self.ledger, self.rng, target, range(0), []))
                self.is_over.wait(self.rng.random() * 0.002)
                target.call.start()
        self.is_over.wait(0.02)

    def end(self) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join(5)
        for target in self.town.all:
            if target.flags & MAY_CLOSE:
                target.call.start()


def check_balance(ledger: Ledger, target: Target) -> Any:
    """What `stats()` promises at any time."""
    s = target.call.stats()
    ended = s.succeeded + s.failed + s.cancelled + s.expired
    if s.accepted != ended + s.pending + s.running or s.submitted < s.accepted + s.rejected:
        ledger.complain(f"{target.name}: unbalanced {s}")
    capacity = target.call.capacity
    if not target.is_async and capacity is not None and s.pending + s.running > capacity:
        ledger.complain(f"{target.name}: over its capacity {s}")
    return s


# ---- the judgement ----


@dataclass
class Report:
    """What a run came to."""

    seed: int
    items: int = 0
    batches: int = 0
    seconds: float = 0.0
    lost: int = 0
    duplicated: int = 0
    hung: int = 0
    misrouted: int = 0
    broken: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.duplicated or self.hung or self.misrouted or self.broken)

    def __str__(self) -> str:
        def table(title: str, rows: Iterable[tuple[str, int]]) -> list[str]:
            return [title, *(f"  {name:<46}{count:>12,}" for name, count in rows), ""]

        lines = table("faults of batches", sorted(self.faults.items()))
        lines += table("what callers did", sorted(self.events.items()))
        lines += table("how items ended", self.outcomes.most_common())
        if self.notes or self.broken:
            lines += table("what is wrong", self.notes.most_common(20))
            lines += self.broken[:10]
        names = ("items", "batches", "lost", "duplicated", "hung", "misrouted")
        lines += table(
            f"seed {self.seed}, {self.seconds:.1f} s, Python {sys.version.split()[0]}",
            [*((name, getattr(self, name)) for name in names), ("broken", len(self.broken))],
        )
        return "\n".join(lines)


class Judge:
    """Compares what was meant with what was seen."""

    def __init__(self, town: Town, report: Report) -> None:
        self.town = town
        self.ledger = town.ledger
        self.report = report
        self.endings: Counter[tuple[int, int]] = Counter()  # by function and outcome

    def judge(self) -> None:
        ledger, report = self.ledger, self.report
        for n in range(ledger.handed):
            if ledger.flags[n]:
                self.judge_item(n)
        for (_, outcome), count in self.endings.items():
            report.outcomes[OUTCOMES[outcome]] += count
        for target in self.town.all:
            if target.call is not None:
                self.judge_stats(target)
        report.misrouted += sum(ledger.misled.values())
        report.notes.update(ledger.misled)
        report.broken = list(ledger.broken)
        report.faults, report.events = ledger.faults, ledger.events
        report.items = ledger.handed
        report.batches = next(ledger._numbers) - 1

    def judge_item(self, n: int) -> None:
        ledger = self.ledger
        flags, runs, seen, told = ledger.flags[n], ledger.runs[n], ledger.seen[n], ledger.told[n]
        final = seen
        if seen == NOTHING and flags & DROPPED:
            final = ledger.meant[n]
        self.endings[ledger.home[n], final] += 1
        if seen == ledger.meant[n] and runs == 1 and told <= 1 and not flags & ~SUBMITTED:
            return
        is_refused = flags & NEVER_RUN or seen in (REFUSED, FULL)
        if runs > 1 or told > 1 or (runs and is_refused):
            self.blame(n, "duplicated")
        elif flags & CALLED and not told:
            self.blame(n, "lost")
        elif seen == NOTHING:
            if flags & DROPPED:
                if not runs:
                    self.blame(n, "lost")
            elif not flags & UNKNOWN:
                self.blame(n, "hung")
        elif not self.is_as_meant(n, flags, runs, seen):
            self.blame(n, "misrouted")

    def is_as_meant(self, n: int, flags: int, runs: int, seen: int) -> bool:
        if seen == CANCELLED:
            return bool(flags & MAY_CANCEL)
        if seen == CLOSED:
            return bool(flags & MAY_CLOSE)
        if seen in (REFUSED, FULL):
            return True
        return runs == 1 and seen == self.ledger.meant[n]

    def blame(self, n: int, fault: str) -> None:
        ledger, report = self.ledger, self.report
        setattr(report, fault, getattr(report, fault) + 1)
        name = self.town.all[ledger.home[n]].name
        meant, seen = OUTCOMES[ledger.meant[n]], OUTCOMES[ledger.seen[n]]
        report.notes[
            f"{fault} in {name}: runs {ledger.runs[n]}, told {ledger.told[n]}, "
            f"meant {meant}, seen {seen}, flags {ledger.flags[n]:b}"
        ] += 1

    def judge_stats(self, target: Target) -> None:
        """`stats()` and the callers must have counted the same."""
        mine: Counter[int] = Counter()
        for (index, outcome), count in self.endings.items():
            if index == target.index:
                mine[outcome] += count
        s = check_balance(self.ledger, target)
        unknown = mine.pop(NOTHING, 0)
        succeeded = sum(count for outcome, count in mine.items() if outcome in SUCCESSES)
        cancelled = mine[CANCELLED]
        turned_away = mine[CLOSED] + mine[FULL] + mine[REFUSED]
        failed = sum(mine.values()) - succeeded - cancelled - turned_away
        gave_up = s.submitted - s.accepted - s.rejected
        facts = {
            "submitted": s.submitted == sum(mine.values()) + unknown,
            "succeeded": 0 <= s.succeeded - succeeded <= unknown,
            "cancelled": 0 <= s.cancelled + gave_up - cancelled <= unknown,
            "failed": failed <= s.failed <= failed + mine[CLOSED] + unknown,
            "rejected": 0 <= s.failed + s.rejected - failed - turned_away <= unknown,
            "at rest": s.pending == s.running == 0,
        }
        wrong = [fact for fact, holds in facts.items() if not holds]
        if wrong:
            seen = {OUTCOMES[outcome]: count for outcome, count in mine.items()}
            self.ledger.complain(f"{target.name}: {wrong} disagree: {s}, seen {seen}, {unknown=}")


# ---- the run ----


@contextlib.contextmanager
def all_ears(ledger: Ledger) -> Iterator[None]:
    """What no caller would hear of is written down: dead workers, finalizers that raise."""

    def unraisable(what: Any) -> None:
        ledger.complain(f"{what.err_msg or 'ignored in'} {what.object!r}: {what.exc_value!r}")

    def thread_died(what: Any) -> None:
        ledger.complain(f"thread {what.thread and what.thread.name} died: {what.exc_value!r}")

    hooks = sys.unraisablehook, threading.excepthook
    sys.unraisablehook, threading.excepthook = unraisable, thread_died
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "coroutine .* was never awaited")
        try:
            yield
        finally:
            gc.collect()
            sys.unraisablehook, threading.excepthook = hooks


@contextlib.contextmanager
def calm(seed: int) -> Iterator[None]:
    """Nothing is printed that is meant to happen, and threads switch as often as the seed says."""
    loggers = [logging.getLogger(name) for name in ("batchify", "asyncio", "concurrent.futures")]
    before = [logger.disabled for logger in loggers]
    interval = sys.getswitchinterval()
    for logger in loggers:
        logger.disabled = True
    sys.setswitchinterval(random.Random(seed).choice((0.005, 0.001, 0.0001, 0.00002)))
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        for logger, was_disabled in zip(loggers, before, strict=True):
            logger.disabled = was_disabled


def watchdog(seconds: float) -> None:
    """Dump all stacks in so many seconds, unless this is called again before."""
    faulthandler.dump_traceback_later(seconds, file=sys.__stderr__)


def wait_for(players: list[Player], ledger: Ledger, stall: float, end: float) -> None:
    """Wait for the players; when nothing goes on any more, dump all stacks and give up."""
    progress, moved = -1, time.monotonic()
    watchdog(stall)
    try:
        while any(player.thread.is_alive() for player in players):
            time.sleep(0.05)
            now = time.monotonic()
            ledger.is_over = ledger.is_over or now > end
            if ledger.progress != progress:
                progress, moved = ledger.progress, now
                watchdog(stall)
            elif now - moved > stall + 1:
                ledger.complain(f"nothing went on for {stall} s")
                return
    finally:
        ledger.is_over = True
        faulthandler.cancel_dump_traceback_later()


def settle_all(town: Town) -> None:
    """What nobody waits for ends too; then everything is closed."""
    ledger = town.ledger
    limit = ledger.patience or 30
    for _ in range(2):  # callbacks submit
        for target in town.all:
            if target.call is not None:
                with contextlib.suppress(TimeoutError):
                    target.call.flush(limit)
    end = time.monotonic() + 2
    while time.monotonic() < end and any(
        ledger.flags[n] & CALLED and not ledger.told[n] for n in range(ledger.handed)
    ):
        time.sleep(0.01)


def close_all(town: Town) -> None:
    for target in town.all:
        if target.call is not None:
            try:
                target.call.close(town.ledger.patience or 30)
            except TimeoutError:
                town.ledger.complain(f"{target.name}: it did not close in time")
            # A close that was late gave up batches of `async def`, which still have to end.
            end = time.monotonic() + (2 * HANG if target.is_async else 0)
            while target.call.stats().workers and time.monotonic() < end:
                time.sleep(0.01)
            if target.call.stats().workers:
                town.ledger.complain(f"{target.name}: workers are left after close")


def run_chaos(
    items: int,
    seed: int,
    *,
    threads: int = 4,
    loops: int = 3,
    seconds: float = float("inf"),
    patience: float | None = None,
    stall: float = 30.0,
) -> Report:
    """One run.

    Args:
        items: how many, in all.
        seed: draws the faults.
        threads, loops: how many of each submit.
        seconds: when to begin no more scenes.
        patience: how long a caller waits for a future; None waits until the watchdog barks.
        stall: seconds without any progress after which the run is given up.
    """
    began = time.monotonic()
    report = Report(seed)
    town = Town(Ledger(items, seed, patience))
    players: list[Player] = [
        *(ThreadPlayer(town, f"thread {n}", THREAD_SCENES) for n in range(threads)),
        *(LoopPlayer(town, f"loop {n}", LOOP_SCENES) for n in range(loops)),
    ]
    weather = Weather(town)
    with calm(seed), all_ears(town.ledger):
        for thread in (*weather.threads, *(player.thread for player in players)):
            thread.start()
        wait_for(players, town.ledger, stall, began + seconds)
        weather.end()
        settle_all(town)
        close_all(town)
    Judge(town, report).judge()
    report.seconds = time.monotonic() - began
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--seconds-limit", type=float, default=float("inf"))
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--loops", type=int, default=3)
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    report = run_chaos(
        given.items, seed, threads=given.threads, loops=given.loops, seconds=given.seconds_limit
    )
    print(report)
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
