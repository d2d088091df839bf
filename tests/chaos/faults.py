"""One call of a batch function: which faults it has, and the function bodies with these faults."""

from __future__ import annotations

import asyncio
import ctypes
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import get_ident
from typing import TYPE_CHECKING, Any

from ..limits import LIMIT
from .outcomes import (
    ABORTS,
    BAD,
    BASE_ELEMENT,
    ELEMENT,
    ENDED,
    KILLED,
    MISSING,
    NONE,
    RAISED,
    RAISES,
    STOPS,
    ItemError,
    Killed,
    hash_of,
    mix,
)

if TYPE_CHECKING:
    from .ledger import Ledger
    from .town import Target


class Batch:
    """One call of a batch function: `items` is a copy of `given`, the engine's list."""

    __slots__ = (
        "age", "fault", "given", "items", "ledger", "meant", "number", "pause", "salt", "seed",
        "target",
    )  # fmt: skip

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
        # The epoch of its start: an abandoned batch may still run in the next one.
        self.meant = ledger.meant
        self.seed = ledger.seed
        self.age = ledger.age
        self.pause = 0.0
        self.fault: Callable[[Batch], Any] | None = None

    def __enter__(self) -> None:
        self.ledger.busy.add(self)

    def __exit__(self, *_: object) -> None:
        self.ledger.busy.discard(self)

    def draw(self, what: str) -> int:
        """Return 64 random bits for this batch and one purpose."""
        return mix(self.seed ^ hash_of(what), self.items[0])

    def mean(self, outcome: int, items: Iterable[int] | None = None) -> None:
        """Record the outcome that these items, or all, must get."""
        meant = self.meant
        for n in self.items if items is None else items:
            meant[n] = outcome

    def values(self) -> list[Any]:
        common = self.age << 56 | self.salt << 8 | self.target.index  # see `answer`
        return [n << 24 | common for n in self.items]

    def play(self) -> Any:
        """Return or raise what the batch function returns or raises."""
        return self.target.shape(self) if self.fault is None else self.fault(self)

    def error(self) -> tuple[int, BaseException]:
        """Return an error to raise, and the outcome that it means."""
        makers: list[tuple[int, Callable[[int], BaseException]]] = [
            (RAISED, RAISES[self.number % len(RAISES)]),
            *((outcome, cls) for cls, outcome in (*ABORTS.items(), *STOPS.items())),
        ]
        outcome, make = makers[self.draw("error") % len(makers)]
        return outcome, make(self.number)

    def cut(self) -> int:
        """Return a position in the batch, before its end."""
        return self.draw("cut") % len(self.items)


Fault = Callable[[Batch], Any]
LIST_FAULTS: list[Fault] = []  # faults of functions that return all results at once
STREAM_FAULTS: list[Fault] = []  # faults of generator functions; each returns a `Script`


@dataclass
class Script:
    """The steps of a generator: the values to yield, then an error to raise."""

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
    missing = [n for n in batch.items if mix(batch.seed, n) & 1]
    batch.mean(MISSING, missing)
    found = as_mapping(batch)
    for n in missing:
        del found[n]
    return found


def with_errors(batch: Batch) -> list[Any]:
    values = batch.values()
    for place, n in enumerate(batch.items):
        kind = mix(batch.seed, n) % 8
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
def killed_from_outside(batch: Batch) -> Any:
    """killed by an asynchronous exception."""
    # As if from another thread, at an unknown instruction, but certainly in the batch function,
    # which is user code. `tests.interrupts` does the same inside the engine.
    batch.mean(KILLED)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(get_ident()), ctypes.py_object(Killed)
    )
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        pass
    raise AssertionError("no worker was killed")


@of_lists
def submits_elsewhere(batch: Batch) -> Any:
    """submits to another function."""
    for n in batch.ledger.take(1):
        batch.ledger.submit_and_forget(batch.target.friend or batch.target, n)
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


# ---- bodies ----


def run_batch(batch: Batch) -> Any:
    """Run the body of every `def`."""
    with batch:
        if batch.pause:
            time.sleep(batch.pause)
        return batch.play()


async def run_async_batch(batch: Batch) -> Any:
    """Run the body of every `async def`."""
    with batch:
        if batch.pause or batch.number % 4 == 0:
            try:
                await asyncio.sleep(batch.pause)
            except asyncio.CancelledError:  # cancelled at the end of asyncio.run
                batch.mean(ENDED)
                raise
        return batch.play()


def stream_batch(batch: Batch) -> Iterator[Any]:
    """Run the body of every generator function."""
    with batch:
        script = batch.play()
        rest_at = batch.cut() if batch.pause else -1
        for place, element in enumerate(script.elements):
            if place == rest_at:
                time.sleep(batch.pause)
            yield element
        if script.error is not None:
            raise script.error


def stream_async(begin: Callable[[list[int]], Batch]) -> Callable[[list[int]], AsyncIterator[Any]]:
    """Run the body of every async generator function.

    It does not wrap another generator: CPython <= 3.11 cannot close the inner one of a task that is
    destroyed with its loop ("asynchronous generator is already running").
    """

    async def generator(items: list[int]) -> AsyncIterator[Any]:
        batch = begin(items)
        with batch:
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

    return generator
