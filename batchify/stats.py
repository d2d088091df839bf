"""Count what one engine does, and take snapshots for users.

An engine changes its counters under its lock; everything else is derived when it is read.
Engines use `Counts`; `Calls.stats` returns `Stats`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from .distribution import Distribution, Recorder, merged

AT_ONCE = 256  # batches that are recorded together
REASONS = ("size", "weight", "linger", "idle", "capacity", "flush", "close")
DISTRIBUTIONS = ("sizes", "queued", "ran")


class Counts:
    """The counters of an engine, guarded by its lock."""

    __slots__ = (
        "_queued", "_ran", "_sizes", "cancelled", "deduplicated", "ended", "expired",
        "failed", "gave_up", "observer_errors", "reasons", "rejected", "retried", "succeeded",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rejected = 0
        self.gave_up = 0  # cancelled while they waited for capacity: neither accepted nor rejected
        self.succeeded = 0
        self.failed = 0
        self.cancelled = 0
        self.expired = 0
        self.retried = 0
        self.deduplicated = 0
        self.observer_errors = 0
        # All keys exist from the start, because other threads read it at any time.
        self.reasons: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        # Batches that ended but are not recorded yet: number of items, seconds that the oldest
        # item was queued, and seconds that the batch ran.
        self.ended: list[tuple[int, float, float]] = []
        self._sizes = Recorder()
        self._queued = Recorder()
        self._ran = Recorder()

    def record(self) -> None:
        """Record all batches that have ended."""
        if self.ended:
            sizes, queued, ran = zip(*self.ended, strict=True)
            self._sizes.add(sizes)
            self._queued.add(queued)
            self._ran.add(ran)
            self.ended.clear()

    def distributions(self) -> dict[str, Distribution]:
        """Return the distributions of sizes, queueing times and run times."""
        self.record()
        return {
            "sizes": self._sizes.distribution(),
            "queued": self._queued.distribution(),
            "ran": self._ran.distribution(),
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """The options that determine the size of batches, for `explain`."""

    size: int
    linger: float | None
    workers: int
    capacity: int | None
    has_broker: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """An immutable snapshot of what a batched function has done so far.

    In every snapshot, `accepted == succeeded + failed + cancelled + expired + pending + running`.

    Attributes:
        submitted: Calls, including rejected ones.
        accepted: Items that got into the queue.
        rejected: Items that the call refused: `QueueFull`, `Closed`, wrong arguments.
        succeeded: Items with a result.
        failed: Items with an error, except `DeadlineExceeded`.
        cancelled: Items that were cancelled.
        expired: Items whose deadline passed before they started.
        retried: How many times items were requeued by `Retry`.
        deduplicated: Items that were not passed to the function, because an equal one was.
        pending: Queued items: accepted, but their batch has not started.
        running: Items of running batches that are not done yet.
        batches: Batches that have started.
        workers: Live worker threads; for `async def`, running batches.
        reasons: Number of batches by the reason for their dispatch: "size", "weight", "linger",
            "idle" (a worker was free), "capacity", "flush" and "close".
        sizes: Distribution of the number of items in a batch.
        queued: Distribution of the seconds that the oldest item of a batch had waited.
        ran: Distribution of the seconds that a batch ran.
        observer_errors: How many times an observer or a tracer raised.
    """

    submitted: int = 0
    accepted: int = 0
    rejected: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    retried: int = 0
    deduplicated: int = 0
    pending: int = 0
    running: int = 0
    batches: int = 0
    workers: int = 0
    reasons: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType(dict.fromkeys(REASONS, 0))
    )
    sizes: Distribution = field(default_factory=Distribution)
    queued: Distribution = field(default_factory=Distribution)
    ran: Distribution = field(default_factory=Distribution)
    observer_errors: int = 0
    limits: Limits | None = field(default=None, repr=False, compare=False)

    def explain(self) -> str:
        """Explain in one or two sentences why batches have the size they have, and what changes it.

        Returns:
            The text, in plain English.

        Example:
            >>> from batchify import batched
            >>> @batched(size=2, linger=None)
            ... def double(numbers: list[int]) -> list[int]:
            ...     return [2 * number for number in numbers]
            >>> results = list(double.map([1, 2, 3, 4]))
            >>> print(double.stats().explain())
            2 batches had 2 items on average (size=2); 100% of them were full. ...
        """
        from .explain import explanation

        return explanation(self)


def added(parts: Iterable[Stats], limits: Limits | None = None) -> Stats:
    """Return the sum of the counters of several engines."""
    parts = list(parts)
    special = {"reasons", "limits", *DISTRIBUTIONS}
    sums: dict[str, int] = {
        one.name: sum(getattr(part, one.name) for part in parts)
        for one in fields(Stats)
        if one.name not in special
    }
    reasons = {reason: sum(part.reasons[reason] for part in parts) for reason in REASONS}
    return Stats(
        **sums,
        reasons=MappingProxyType(reasons),
        sizes=merged(part.sizes for part in parts),
        queued=merged(part.queued for part in parts),
        ran=merged(part.ran for part in parts),
        limits=limits,
    )
