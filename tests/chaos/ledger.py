"""Record what every item was meant to get, and what it got."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from batchify import BatchAborted, BatchFuture, Closed, Deadlock, QueueFull, RetryExhausted

from . import plan
from .faults import Batch
from .outcomes import (
    ABORTS,
    BASE_ELEMENT,
    CALLED,
    CANCELLED,
    ELEMENT,
    ENDED,
    EXHAUSTED,
    FALLBACK,
    KILLED,
    MAY_CLOSE,
    NONE,
    NOTHING,
    OUTCOMES,
    PLAIN_ERRORS,
    RAISED,
    RAISES,
    RAISES_TYPES,
    REFUSED,
    STOPS,
    SUBMITTED,
    VALUE,
    WRONG,
    ItemError,
    Killed,
    answer,
    mix,
)

if TYPE_CHECKING:
    from .town import Target

MOST_COMPLAINTS = 200


class Ledger:
    """The records of every item of this epoch, a few bytes each.

    When an epoch is over and every item was checked, the next one uses the same ids. So a run can
    take any time in bounded memory. Results and errors contain the epoch.
    """

    def __init__(self, items: int, seed: int, patience: float | None = None) -> None:
        self.run_seed = seed
        self.patience = patience  # seconds that a caller waits for a future; None: no limit
        self.targets: list[Target] = []  # by index
        self.is_over = False
        self.doomed: weakref.WeakSet[Any] = weakref.WeakSet()  # closed without a shutdown
        self.busy: set[Batch] = set()  # batch functions that have not ended
        self.progress = 0
        self.faults: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.broken: list[str] = []
        self.misled: Counter[str] = Counter()  # misrouted, noticed before the end
        self.observed: Counter[str] = Counter()  # errors of observers, by function
        self.retries: Counter[int] = Counter()  # requested by batches, by function
        self.numbers = itertools.count(1)
        self.batches = 0
        self._lock = threading.RLock()
        self.open_epoch(0, items)

    def open_epoch(self, epoch: int, items: int) -> None:
        """Forget all single items. No thread may use them any more."""
        self.items = items
        self.age = epoch & 127
        self.seed = mix(self.run_seed, epoch)
        self.handed = 0  # ids in use
        self.runs = bytearray(items)
        self.meant = bytearray(items)
        self.seen = bytearray(items)
        self.told = bytearray(items)
        self.flags = array("H", bytes(2 * items))
        self.home = bytearray(items)
        self.salt = array("H", bytes(2 * items))
        self.batch_of = array("L", bytes(array("L").itemsize * items))
        draw = random.Random(f"{self.seed} hangs")
        count = max(1, items // plan.ITEMS_PER_HANG)
        self._hangs = {draw.randrange(items) for _ in range(count)}

    def forked(self) -> None:
        """Replace the lock in the child of a fork: another thread may have held it."""
        self._lock = threading.RLock()

    def take(self, count: int) -> range:
        """Return unused ids: fewer, or none, at the end of an epoch."""
        with self._lock:
            first = self.handed
            self.handed = min(self.items, first + count) if not self.is_over else first
            self.progress += 1
            return range(first, self.handed)

    def count(self, counter: Counter[Any], what: Any, times: int = 1) -> None:
        with self._lock:
            counter[what] += times

    def complain(self, text: str) -> None:
        """Record a fault that concerns no single item."""
        with self._lock:
            if len(self.broken) < MOST_COMPLAINTS:
                self.broken.append(text)

    # ---- called by batch functions ----

    def begin(self, target: Target, items: list[int], salt: int = 0) -> Batch:
        """Record the items of a batch that starts, and choose what will happen."""
        number = next(self.numbers)
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
        if not all(check(items) for check in target.checks):
            self.complain(f"{target.name}: these items share no batch: {items}")
        self.batches += 1
        self.progress += 1
        batch = Batch(self, target, list(items), items, number, salt)
        self._draw(batch)
        return batch

    def _draw(self, batch: Batch) -> None:
        pause = batch.draw("pause") % 1000
        if not self._hangs.isdisjoint(batch.items):
            self._hangs.difference_update(batch.items)
            batch.pause = plan.HANG
            self.count(self.faults, "hang of 1 s")
        elif pause < plan.PAUSED:
            batch.pause = plan.LONG_STALL if pause == 0 else plan.STALL
            self.count(self.faults, f"stall of {batch.pause * 1000:g} ms")
        roll = batch.draw("fault")
        if roll % 1000 < plan.FAULTY:
            faults = batch.target.faults
            batch.fault = faults[(roll >> 16) % len(faults)]
            self.count(self.faults, (batch.fault.__doc__ or "").strip("."))

    # ---- called by callers ----

    def submit(
        self,
        target: Target,
        n: int,
        call: Any = None,
        flags: int = 0,
        may: tuple[type[BaseException], ...] = (),
    ) -> Any:
        """Submit one item; return None if the call refused it, which only `may` allows."""
        self.prepare(target, n, flags)
        try:
            if target.is_grouped:
                future = (call or target.call)(n, n % 3, level=n % 2)
            else:
                future = (call or target.call)(n)
        except BaseException as error:
            return self.refused(target, n, error, may)
        if target.refuses is not None and target.refuses(n) is not None:
            self.complain(f"{target.name} took an item that it cannot take")
        return future

    def submit_and_forget(self, target: Target, n: int) -> None:
        """Submit from a batch, a callback or a finalizer; a callback records the outcome."""
        future = self.submit(target, n, may=(Closed, QueueFull, Deadlock))
        if future is None:
            return
        self.flags[n] |= CALLED
        if target.is_async and asyncio.isfuture(future) and future.get_loop() in self.doomed:
            self.flags[n] |= MAY_CLOSE
        # A thread's callback, because the loop may end before it calls.
        BatchFuture.add_done_callback(future, partial(self.tell, n))

    def prepare_all(self, target: Target, ids: range, flags: int = 0) -> None:
        """Call `prepare` for all items of a scene."""
        count, place = len(ids), slice(ids.start, ids.stop)
        self.flags[place] = array("H", (SUBMITTED | target.flags | flags,)) * count
        self.home[place] = bytes((target.index,)) * count
        self.salt[place] = array("H", (target.number,)) * count

    def prepare(self, target: Target, n: int, flags: int = 0) -> None:
        """Record where an item is submitted, before the call."""
        self.flags[n] = SUBMITTED | target.flags | flags
        self.home[n] = target.index
        self.salt[n] = extra_salt(n % 3, n % 2) if target.is_grouped else target.number

    def refused(
        self, target: Target, n: int, error: BaseException, may: tuple[type[BaseException], ...]
    ) -> None:
        """Record that the call raised."""
        self.note(n, REFUSED)
        expected = None if target.refuses is None else target.refuses(n)
        if isinstance(error, may) or (expected is not None and isinstance(error, expected)):
            return
        if isinstance(error, Closed) and self.flags[n] & MAY_CLOSE:
            return
        if target.is_uneasy and type(error) is RuntimeError:  # no thread available
            self.count(self.events, "call refused for want of a thread")
            return
        self.complain(f"{target.name} refused an item: {error!r}")

    def note(self, n: int, outcome: int) -> None:
        """Record how `n` ended; every observer must see the same."""
        before = self.seen[n]
        if before not in (NOTHING, outcome):
            self.count(self.misled, f"{OUTCOMES[before]} became {OUTCOMES[outcome]}")
        self.seen[n] = outcome

    def note_value(self, n: int, value: Any) -> None:
        """Record the result of `n`; nearly all items take the fast path."""
        own = self.age << 56 | n << 24 | self.salt[n] << 8 | self.home[n]  # see `answer`
        if value == own and not self.seen[n]:
            self.seen[n] = VALUE
        else:
            self.note(n, self.outcome_of_value(n, value))

    def look(self, n: int, future: Any) -> None:
        """Record how a future ended, if it did."""
        if not future.done():
            return
        if future.cancelled():
            self.note(n, CANCELLED)
            return
        error = future.exception(0)
        if error is None:
            self.note_value(n, future.result(0))
        else:
            self.note(n, self.outcome_of_error(n, error))

    def tell(self, n: int, future: Any) -> None:
        """Record the end of a future, as its done-callback."""
        self.told[n] += 1
        self.look(n, future)

    def collect(self, pairs: Iterable[tuple[int, Any]], patience: float | None) -> None:
        """Wait for each future in a thread, and record how it ended."""
        errors: dict[int, BaseException] = {}
        for n, future in pairs:
            try:
                value = future.result(patience)
            except BaseException as error:
                if future.done() and not future.cancelled():
                    self._own_object(errors, error)
                self.look(n, future)
            else:
                self.note_value(n, value)
        self.progress += 1

    def _own_object(self, errors: dict[int, BaseException], error: BaseException) -> None:
        if id(error) in errors:
            self.complain(f"two callers got the same {type(error).__name__} object")
        errors[id(error)] = error  # kept, so that no other object gets its id

    # ---- outcomes ----

    def kin(self, n: int) -> Sequence[int]:
        """Return the items whose run may have settled `n`: itself, and its equals with `dedupe`."""
        home = self.home[n]
        if not self.targets[home].is_deduped:
            return (n,)
        first = n & ~3
        last = min(first + 4, self.items)
        return [m for m in range(first, last) if self.home[m] == home and self.flags[m]]

    def outcome_of_value(self, n: int, value: Any) -> int:
        if value is None:
            return NONE
        home, age = self.home[n], self.age
        for m in self.kin(n):
            own = answer(home, m, self.salt[m], age)
            if value == own:
                return VALUE
            if value == -own:
                return FALLBACK
        return WRONG

    def outcome_of_error(self, n: int, error: BaseException) -> int:
        """Return the outcome that an error means; WRONG if it belongs to another batch or item."""
        if type(error) in PLAIN_ERRORS:
            return PLAIN_ERRORS[type(error)]
        found = (self._outcome_of_error(m, error) for m in self.kin(n))
        return next((outcome for outcome in found if outcome != WRONG), WRONG)

    def _outcome_of_error(self, n: int, error: BaseException) -> int:
        number = self.batch_of[n]
        cls, args, cause = type(error), error.args, error.__cause__
        if cls is ItemError:
            return ELEMENT if args == (n,) else WRONG
        if cls is RetryExhausted:
            return EXHAUSTED if type(cause) is ItemError and cause.args == (n,) else WRONG
        if cls is RAISES_TYPES[number % len(RAISES)]:
            return RAISED if args == (number,) else WRONG
        if cls is RuntimeError and type(cause) in STOPS:
            return STOPS[type(cause)] if cause.args == (number,) else WRONG
        if cls is BatchAborted and cause is not None:
            return self._outcome_of_abort(n, number, cause)
        return WRONG

    @staticmethod
    def _outcome_of_abort(n: int, number: int, cause: BaseException) -> int:
        if type(cause) is Killed:
            return KILLED
        if type(cause) in ABORTS:
            if cause.args == (number,):
                return ABORTS[type(cause)]
            if cause.args == ("item", n):
                return BASE_ELEMENT
            if type(cause) is asyncio.CancelledError and not cause.args:
                return ENDED
        return WRONG


def extra_salt(table: int, level: int) -> int:
    """Return what the extra arguments add to an answer."""
    return 1 + table * 2 + level
