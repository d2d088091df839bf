"""Counters of one engine, and the snapshot that users see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

REASONS = ("size", "weight", "linger", "idle", "capacity", "flush", "close")


class Counts:
    """What an engine counts, under its lock. Everything else is derived when somebody asks."""

    __slots__ = (
        "batches", "cancelled", "failed", "gave_up", "reasons", "rejected", "succeeded",
    )  # fmt: skip

    def __init__(self) -> None:
        self.rejected = 0
        self.gave_up = 0  # cancelled while they waited for room: never accepted, not refused
        self.succeeded = 0
        self.failed = 0
        self.cancelled = 0
        self.batches = 0
        self.reasons: Counter[str] = Counter()


@dataclass(frozen=True, slots=True)
class Stats:
    """An immutable snapshot of what a batched function did since it was made.

    `accepted == succeeded + failed + cancelled + expired + pending + running`, at any time.

    Attributes:
        submitted: calls, whatever became of them.
        accepted: items that had room.
        rejected: items refused by the call (`QueueFull`, `Closed`, bad arguments).
        succeeded, failed, cancelled: items that ended so; `failed` with any error.
        expired: items whose deadline passed first.
        retried: items that went to a later batch.
        deduplicated: items that shared the place of an equal one.
        pending: accepted items whose batch has not started.
        running: items in batches that run, not done yet.
        batches: batches started.
        workers: worker threads alive; for `async def`, batches that run.
        reasons: how many batches left because of each of size, weight, linger, idle, capacity,
            flush, close.
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


def added(parts: Iterable[Stats]) -> Stats:
    """The sum over several engines."""
    parts = list(parts)
    numbers = {
        one.name: sum(getattr(part, one.name) for part in parts)
        for one in fields(Stats)
        if one.name != "reasons"
    }
    reasons = {reason: sum(part.reasons[reason] for part in parts) for reason in REASONS}
    return Stats(**numbers, reasons=MappingProxyType(reasons))
