"""What the functions of this process did, by name, with what went with instances that are gone.

The counters of an engine go with it, as those of an instance's method do. Whoever exports them must
not see a sum fall, so what a gone engine counted is carried over, from the first `follow` on.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ref

from .engine import lifecycle
from .stats import REASONS, Counts, Stats

OUTCOMES = ("succeeded", "failed", "cancelled", "expired")
_COUNTED = (*OUTCOMES, "rejected", "retried", "deduplicated", "observer_errors")


@dataclass(slots=True)
class Total:
    """The sums over all engines of one name; what each means is told by `Stats`."""

    submitted: int = 0
    rejected: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    retried: int = 0
    deduplicated: int = 0
    observer_errors: int = 0
    pending: int = 0
    running: int = 0
    workers: int = 0
    capacity: int | None = 0  # of those that live; None when one of them is unbounded
    reasons: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))

    def add(self, stats: Stats) -> None:
        """Count an engine that lives."""
        self._add(stats)
        self.submitted += stats.submitted
        self.pending += stats.pending
        self.running += stats.running
        self.workers += stats.workers
        capacity = None if stats.limits is None else stats.limits.capacity
        if capacity is None or self.capacity is None:
            self.capacity = None
        else:
            self.capacity += capacity

    def add_collected(self, counts: Counts) -> None:
        """Count an engine that is gone: nothing of it waits or runs."""
        self._add(counts)
        ends = sum(getattr(counts, outcome) for outcome in OUTCOMES)
        self.submitted += ends + counts.rejected + counts.gave_up

    def _add(self, counted: Stats | Counts) -> None:
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(counted, name))
        self.reasons.update(counted.reasons)


# An engine is in `_tracked` until its counts are in `_carried`; that step, and who reads both, is
# under the lock. A weak reference dies anywhere, also below who holds it: so it only leaves a note.
_tracked: dict[ref[Any], tuple[str, Counts]] = {}
_carried: dict[str, Total] = {}
_collected: deque[ref[Any]] = deque()
_lock = threading.Lock()
_is_following = False


def follow() -> None:
    """Carry over from now on what engines that go have counted."""
    global _is_following
    if not _is_following:
        lifecycle.after_fork_in_child(_forget)
        lifecycle.after_register(_track)
        _is_following = True  # who comes meanwhile does it twice, which is no harm


def totals() -> dict[str, Total]:
    """The sums by name, of every function that was called."""
    with _lock:
        _carry_over()
        found = {n: replace(total, reasons=total.reasons.copy()) for n, total in _carried.items()}
        engines: list[Any] = []
        for weak, (name, counts) in _tracked.copy().items():
            engine = weak()
            if engine is not None:
                engines.append(engine)
            else:  # it is going just now
                found.setdefault(name, Total()).add_collected(counts)
    for engine in engines:  # without the lock: theirs are taken first elsewhere
        found.setdefault(engine.options.name, Total()).add(engine.stats(is_whole=False))
    _try_carry_over()
    return found


def _track(engine: Any) -> None:
    """An engine was made, or starts anew in a forked child."""
    if hasattr(engine, "counts"):  # else it makes engines
        _tracked[ref(engine, _note_collected)] = (engine.options.name, engine.counts)


def _note_collected(weak: ref[Any]) -> None:
    _collected.append(weak)
    _try_carry_over()


def _try_carry_over() -> None:
    """Carry over, unless somebody else is about to, or this came below who reads."""
    while _collected and _lock.acquire(blocking=False):
        try:
            _carry_over()
        finally:
            _lock.release()


def _carry_over() -> None:
    while _collected:
        known = _tracked.pop(_collected.popleft(), None)
        if known is not None:
            name, counts = known
            _carried.setdefault(name, Total()).add_collected(counts)


def _forget() -> None:
    """In the child of a fork: what was counted is the parent's. Its engines are met anew."""
    global _lock
    _lock = threading.Lock()
    _tracked.clear()
    _carried.clear()
    _collected.clear()
