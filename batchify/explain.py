"""Explain in words why batches have the size they have, and what would change it.

It reads one snapshot of the counters and never raises. The caller is `Stats.explain`.
"""

from __future__ import annotations

from .logs import plural
from .stats import Stats

_DISPATCHED = {
    "size": "were full",
    "weight": "reached max_weight",
    "linger": "had lingered long enough",
    "idle": "were dispatched at once, because a worker was free and linger=0 does not wait",
    "capacity": "were dispatched because partial batches had used up the capacity",
    "flush": "were dispatched by a flush, or by a map that had no more items",
    "close": "were dispatched by a close, or by the end of the process",
}
_SMALL = 1.5  # items in a batch, below which items are said to come one by one


def explanation(stats: Stats) -> str:
    """Return why the batches of `stats` were dispatched, and which option would change it."""
    if stats.limits is not None and stats.limits.has_broker:
        return _with_broker(stats)
    if not stats.batches:
        pending = f" ({_count(stats.pending, 'item')} pending)" if stats.pending else ""
        return f"No batch has been dispatched yet{pending}."
    reason = max(stats.reasons, key=lambda name: stats.reasons[name])
    share = stats.reasons[reason] / stats.batches
    # Batches that still run are in `batches`, but not in `sizes`.
    sizes = (
        f"{_count(stats.batches, 'batch')} had {_count(stats.sizes.mean, 'item')} on average"
        if stats.sizes.count
        else f"{_count(stats.batches, 'batch')} started and none has finished yet"
    )
    why = f"{sizes}{_limit(stats)}; {share:.0%} of them {_DISPATCHED[reason]}."
    return f"{why} {_advice(stats, reason)}"


def _with_broker(stats: Stats) -> str:
    """Explain the caller's side of a broker, where a batch is only what was sent at a time."""
    answered = stats.succeeded + stats.failed + stats.expired
    waiting = stats.pending + stats.running
    if not stats.accepted:
        return "No item has been submitted yet."
    if not answered and waiting:
        return (
            f"{_count(waiting, 'item')} submitted, and no worker has answered yet. Start one with "
            "`python -m batchify worker MODULE:FUNCTION`, or look in the log for a broker that "
            "cannot be reached."
        )
    outcomes = {
        "succeeded": stats.succeeded,
        "failed": stats.failed,
        "expired": stats.expired,
        "cancelled": stats.cancelled,
        "without an answer yet": waiting,
    }
    counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items() if count)
    return (
        f"{_count(stats.accepted, 'item')} submitted: {counts}. The workers form the batches; an "
        "observer in a worker process sees their sizes."
    )


def _count(number: float, thing: str) -> str:
    """Return "1 item", "2.5 items" or "3 batches"."""
    number = round(number, 1)
    return f"{number:.9g} {plural(number, thing)}"


def _limit(stats: Stats) -> str:
    return "" if stats.limits is None else f" (size={stats.limits.size})"


def _advice(stats: Stats, reason: str) -> str:
    """Return which option would make larger batches than those dispatched for this reason."""
    limits = stats.limits
    workers = 1 if limits is None else limits.workers
    linger = (
        "linger" if limits is None else f"linger={limits.linger:g}" if limits.linger else "linger"
    )
    if reason == "size":
        return "Only a larger size would make larger batches."
    if reason == "weight":
        return "Only a larger max_weight, or lighter items, would make larger batches."
    if reason == "capacity":
        return (
            "Only a larger capacity would make larger batches: each key, and each set of extra "
            "arguments, has a partial batch that uses a part of it."
        )
    if reason in ("flush", "close"):
        return "Fewer calls of flush and close would make larger batches."
    if reason == "idle" and workers > 1:
        return (
            f"With workers={workers}, a free worker takes items that would have joined the next "
            "batch: fewer workers, or a linger, would make larger batches."
        )
    if not stats.sizes.count or stats.sizes.mean > _SMALL:
        more = "a larger" if reason == "linger" else "a"
        return (
            f"Batches grow with the load. {more.capitalize()} linger would make them larger, and "
            "results later."
        )
    if reason == "linger":
        return (
            f"Items come one by one, further apart than {linger} seconds. A caller that waits for "
            "each result before its next call cannot share a batch with itself: more callers at "
            "the same time, or a larger linger, would make larger batches."
        )
    return (
        "Items come one by one, and each finds a free worker: submit several before you wait for "
        "results, or call from more threads or tasks. A linger (how many seconds an item waits for "
        "more items) helps only if there are several callers."
    )
