"""Counters of one engine, and the snapshot that users see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from .distribution import Distribution, Recorder, merged

AT_ONCE = 256  # batches that are recorded at a time
REASONS = ("size", "weight", "linger", "idle", "capacity", "flush", "close")
DISTRIBUTIONS = ("sizes", "queued", "ran")


class Counts:
    """What an engine counts, under its lock. Everything else is derived when somebody asks."""

    __slots__ = (
        "_queued", "_ran", "_sizes", "cancelled", "deduplicated", "ended", "expired",
        "failed", "gave_up", "observer_errors", "reasons", "rejected", "retried", "succeeded",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rejected = 0
        self.gave_up = 0  # cancelled while they waited for room: never accepted, not refused
        self.succeeded = 0
        self.failed = 0
        self.cancelled = 0
        self.expired = 0
        self.retried = 0
        self.deduplicated = 0
        self.observer_errors = 0
        # All from the start: others look while it grows.
        self.reasons: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        # Of the batches that ended, since the recorders were brought up to date: their sizes, how
        # long their oldest item was queued, and how long they ran.
        self.ended: list[tuple[int, float, float]] = []
        self._sizes = Recorder(11)
        self._queued = Recorder(6)
        self._ran = Recorder(6)

    def record(self) -> None:
        """Bring the recorders up to date."""
        if self.ended:
            sizes, queued, ran = zip(*self.ended, strict=True)
            self._sizes.add(sizes)
            self._queued.add(queued)
            self._ran.add(ran)
            self.ended.clear()

    def distributions(self) -> dict[str, Distribution]:
        """Of sizes, times in the queue and times of running."""
        self.record()
        return {
            "sizes": self._sizes.distribution(),
            "queued": self._queued.distribution(),
            "ran": self._ran.distribution(),
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """What a batch is formed by, as `explain` needs it."""

    size: int
    linger: float | None
    workers: int
    capacity: int | None
    has_broker: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """An immutable snapshot of what a batched function did since it was made.

    `accepted == succeeded + failed + cancelled + expired + pending + running`, at any time.

    Attributes:
        submitted: calls, whatever became of them.
        accepted: items that had room.
        rejected: items refused by the call (`QueueFull`, `Closed`, bad arguments).
        succeeded: items that ended in a result.
        failed: items that ended in an error, but for `DeadlineExceeded`.
        cancelled: items that were cancelled.
        expired: items whose deadline passed before they started.
        retried: how often an item went back to run again.
        deduplicated: items that shared the place of an equal one.
        pending: accepted items whose batch has not started.
        running: items in batches that run, not done yet.
        batches: batches started.
        workers: worker threads alive; for `async def`, batches that run.
        reasons: how many batches left because of each of size, weight, linger, idle, capacity,
            flush, close.
        sizes: the distribution of the batches' sizes, in items.
        queued: the distribution of the seconds that the oldest item of each batch had waited.
        ran: the distribution of the seconds that each batch took.
        observer_errors: how often an observer, or a tracer, raised.
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
        """Say in a sentence or two why batches left as small as they did, and what would help."""
        from .explain import explanation

        return explanation(self)


def added(parts: Iterable[Stats], limits: Limits | None = None) -> Stats:
    """The sum over several engines."""
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
