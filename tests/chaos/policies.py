"""The functions for all policies: keys, weights, dedupe, retries, handlers, observers, a bad seam.

Some of them raise. What they return depends on the item and the seed only, so that the ledger can
predict it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from batchify import BatchEvent, BatchFailure, ItemTooHeavy, Retry
from batchify.engine.seam import THREADS, Seam, ThreadBell

from .faults import Batch, Script
from .outcomes import (
    BAD,
    EXHAUSTED,
    FALLBACK,
    RAISED,
    RAISES,
    RETRYING,
    ChaosError,
    ItemError,
    Rude,
    answer,
    hash_of,
    mix,
    scatter,
)

if TYPE_CHECKING:
    from .ledger import Ledger
    from .town import Target

KEYS = 5
MAX_WEIGHT = 40
Refuses = Callable[[int], "type[BaseException] | None"]

# ---- functions called by a call: key, weight, dedupe ----


def refuses(ledger: Ledger, last: type[BaseException]) -> Refuses:
    """Decide which items cannot be submitted, with which error; the result leads to `last`."""
    kinds = (ChaosError, MemoryError, Rude, last)
    here = hash_of("refuses")

    def of(n: int) -> type[BaseException] | None:
        roll = scatter(ledger.seed ^ here, n) % 800
        return kinds[roll] if roll < len(kinds) else None

    return of


def asked(
    refuses: Refuses, give: Callable[[int], Any], last: type[BaseException], instead: Any
) -> Callable[[int], Any]:
    """Return a `key`, `weight` or `dedupe`: it returns `give(n)`, raises, or leads to `last`."""

    def of(n: int) -> Any:
        error = refuses(n)
        if error is last:
            return instead
        if error is None or error in (TypeError, ItemTooHeavy):
            return give(n)
        raise error("of the policy")

    return of


def keyed(ledger: Ledger, target: Target) -> dict[str, Any]:
    target.refuses = refuses(ledger, TypeError)
    target.checks.append(lambda items: len({n % KEYS for n in items}) == 1)
    return {"key": asked(target.refuses, lambda n: n % KEYS, TypeError, [])}


def weighed(ledger: Ledger, target: Target) -> dict[str, Any]:
    refused = target.refuses = target.refuses or refuses(ledger, ItemTooHeavy)
    target.checks.append(lambda items: sum(1 + n % 7 for n in items) <= MAX_WEIGHT)
    weight = asked(refused, lambda n: 1 + n % 7, ItemTooHeavy, MAX_WEIGHT + 1)
    return {"weight": weight, "max_weight": MAX_WEIGHT}


def deduped(ledger: Ledger, target: Target) -> dict[str, Any]:
    """Return a key by which four consecutive numbers are equal."""
    target.refuses = refuses(ledger, TypeError)
    target.checks.append(lambda items: len({n >> 2 for n in items}) == len(items))
    target.is_deduped = True
    return {"dedupe": asked(target.refuses, lambda n: n >> 2, TypeError, {})}


# ---- repeated runs: isolate, Retry ----


def isolated(ledger: Ledger, target: Target) -> dict[str, Any]:
    target.most_runs *= 1 + (target.size - 1).bit_length()  # once per level of bisection
    target.is_isolated = True
    return {"isolate": True}


def retried(ledger: Ledger, target: Target) -> dict[str, Any]:
    target.most_runs *= 4
    target.is_retried = True
    return {}


# The delay in seconds, the maximum attempts, and the attempt that has a result.
RETRIES = ((0.0, 2, 2), (0.0, 3, 9), (0.001, 3, 3), (0.004, 4, 9), (0.02, 2, 9), (0.002, 4, 2))


def with_retries(batch: Batch) -> list[Any]:
    """Return the values, with `Retry` instead of some."""
    values = batch.values()
    runs, seed = batch.ledger.runs, batch.seed ^ hash_of("retry")
    again = 0
    for place, n in enumerate(batch.items):
        roll = scatter(seed, n) % 64
        if roll >= len(RETRIES):
            continue
        after, attempts, good = RETRIES[roll]
        run = runs[n]
        if run < good:
            batch.mean(EXHAUSTED if run >= attempts else RETRYING, [n])
            again += run < attempts
            values[place] = Retry(after, attempts, ItemError(n))
    if again:
        batch.ledger.count(batch.ledger.retries, batch.target.index, again)
        batch.ledger.count(batch.ledger.faults, "asks for a further run", again)
    return values


def as_retries(batch: Batch) -> list[Any]:
    return with_retries(batch)


def as_retry_script(batch: Batch) -> Script:
    return Script(with_retries(batch))


def unless_poisoned(batch: Batch) -> list[Any]:
    """Raise if the batch contains an item at fault."""
    _look_for_poison(batch)
    return batch.values()


def retries_unless_poisoned(batch: Batch) -> list[Any]:
    _look_for_poison(batch)
    return with_retries(batch)


def _look_for_poison(batch: Batch) -> None:
    poison = batch.seed % 307
    if any(n % 307 == poison for n in batch.items):
        batch.mean(RAISED)
        raise RAISES[batch.number % len(RAISES)](batch.number)


# ---- on_error ----


def rescue(ledger: Ledger, target: Target, failure: BatchFailure) -> Any:
    """Handle a failed batch: mostly by a fallback, sometimes not at all, sometimes badly."""
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
    fallbacks = [-answer(index, n, 0, ledger.age) for n in items]
    if choice == 4:
        return dict(zip(items, fallbacks, strict=True))
    return iter_of(fallbacks) if choice == 3 else fallbacks


def set_all(array_: bytearray, items: Iterable[int], value: int) -> None:
    for n in items:
        array_[n] = value


def iter_of(values: Sequence[Any]) -> Iterator[Any]:
    yield from values


# ---- observers ----


class Observer:
    """Observes batches, and raises now and then; the engine must count that."""

    def __init__(self, ledger: Ledger, every: int) -> None:
        self.ledger = ledger
        self.every = every
        self.sizes = {target.name: target.size for target in ledger.targets}
        self.told = 0

    def __call__(self, event: BatchEvent) -> None:
        if not 0 < event.size <= self.sizes[event.name] or event.queued < 0 or event.ran < 0:
            self.ledger.complain(f"a wrong event: {event}")
        self.told += 1
        if self.told % self.every == 0:
            self.ledger.count(self.ledger.observed, event.name)
            self.ledger.count(self.ledger.events, "observer that raises")
            raise (ChaosError, SystemExit, Rude)[self.told % 3]("an observer")


# ---- the machine on a bad day ----


class UneasySeam(Seam):
    """A clock that jumps forward, and a machine that often cannot start a thread."""

    bell = staticmethod(ThreadBell)

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.ahead = 0.0
        self.asked = 0
        self._lock = threading.RLock()

    def clock(self) -> float:
        return time.monotonic() + self.ahead

    def jump(self, seconds: float) -> None:
        self.ledger.count(self.ledger.events, f"clock step of {seconds:g} s")
        self.ahead += seconds

    def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:
        with self._lock:
            self.asked += 1
            is_refused = mix(self.ledger.run_seed, self.asked) % 3 == 0
        if is_refused:
            self.ledger.count(self.ledger.events, "thread refused")
            raise RuntimeError("can't start new thread")
        return THREADS.spawn(target, args, name)
