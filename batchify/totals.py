"""Sum the counters of all functions of this process by name, for exporters.

The counters of a method are freed together with its instance, but an exported sum must never fall.
So, after the first `follow`, the counts of freed engines are carried over.
Callers are `otel` and `prometheus`.
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
    """The sums over all engines with one name. `Stats` describes the fields."""

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
    capacity: int | None = 0  # of live engines; None if one of them is unbounded
    reasons: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(REASONS, 0)))

    def add(self, stats: Stats) -> None:
        """Add the counts of a live engine."""
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
        """Add the counts of a freed engine, which has no pending items."""
        self._add(counts)
        ends = sum(getattr(counts, outcome) for outcome in OUTCOMES)
        self.submitted += ends + counts.rejected + counts.gave_up

    def _add(self, counted: Stats | Counts) -> None:
        for name in _COUNTED:
            setattr(self, name, getattr(self, name) + getattr(counted, name))
        self.reasons.update(counted.reasons)


# An engine stays in `_tracked` until its counts are in `_carried`. The lock guards this step, and
# whatever reads both. The callback of a weak reference can interrupt any code, even code that holds
# the lock, so it only appends to `_collected`.
_tracked: dict[ref[Any], tuple[str, Counts]] = {}
_carried: dict[str, Total] = {}
_collected: deque[ref[Any]] = deque()
_lock = threading.Lock()
_is_following = False


def follow() -> None:
    """Start to carry over the counts of engines that are freed."""
    global _is_following
    if not _is_following:
        lifecycle.after_fork_in_child(_forget)
        lifecycle.after_register(_track)
        _is_following = True  # two threads may both do this, which is harmless


def totals() -> dict[str, Total]:
    """Return the sums by name, for every function that was called."""
    with _lock:
        _carry_over()
        found = {n: replace(total, reasons=total.reasons.copy()) for n, total in _carried.items()}
        engines: list[Any] = []
        for weak, (name, counts) in _tracked.copy().items():
            engine = weak()
            if engine is not None:
                engines.append(engine)
            else:  # it is being freed now
                found.setdefault(name, Total()).add_collected(counts)
    for engine in engines:  # not under the lock: other code takes an engine's first
        found.setdefault(engine.options.name, Total()).add(engine.stats(is_whole=False))
    _try_carry_over()
    return found


def _track(engine: Any) -> None:
    """Track an engine that was created, or that starts again in a forked child."""
    if hasattr(engine, "counts"):  # else it is an object that creates engines
        _tracked[ref(engine, _note_collected)] = (engine.options.name, engine.counts)


def _note_collected(weak: ref[Any]) -> None:
    _collected.append(weak)
    _try_carry_over()


def _try_carry_over() -> None:
    """Carry over, unless another thread does, or this interrupts code that holds the lock."""
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
    """Drop all counts in the child of a fork: they are the parent's. Engines register again."""
    global _lock
    _lock = threading.Lock()
    _tracked.clear()
    _carried.clear()
    _collected.clear()
