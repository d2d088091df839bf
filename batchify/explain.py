"""Explain in words why batches are as small as they are: `Stats.explain`.

It reads a snapshot of the counters, and nothing else; it never raises.
"""

from __future__ import annotations

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


def explanation(stats: Stats) -> str:
    """Return why the batches of `stats` were dispatched, and which option would change it."""
    if not stats.batches:
        waits = f" ({_count(stats.pending, 'item')} pending)" if stats.pending else ""
        return f"No batch has been dispatched yet{waits}."
    reason = max(stats.reasons, key=lambda name: stats.reasons[name])
    share = stats.reasons[reason] / stats.batches
    why = (
        f"{_count(stats.batches, 'batch')} had {_count(stats.sizes.mean, 'item')} on average"
        f"{_of_size(stats)}; {share:.0%} of them {_DISPATCHED[reason]}."
    )
    return f"{why} {_advice(stats, reason)}"


def _count(number: float, thing: str) -> str:
    many = "es" if thing.endswith("ch") else "s"
    number = round(number, 1)
    return f"{number:.9g} {thing}{'' if number == 1 else many}"


def _of_size(stats: Stats) -> str:
    return "" if stats.limits is None else f" (size={stats.limits.size})"


def _advice(stats: Stats, reason: str) -> str:
    limits = stats.limits
    mean = stats.sizes.mean
    workers = 1 if limits is None else limits.workers
    linger = (
        "linger" if limits is None else f"linger={limits.linger:g}" if limits.linger else "linger"
    )
    if reason == "size":
        return "They cannot be larger: only a larger size would change that."
    if reason == "weight":
        return "Only a larger max_weight, or lighter items, would make larger batches."
    if reason == "capacity":
        return "A larger capacity lets them fill; many keys, or many extra arguments, need more."
    if reason in ("flush", "close"):
        return "Flush and close less often, and batches fill."
    if reason == "idle" and workers > 1:
        return (
            f"With workers={workers}, a free worker takes items that would have joined the next "
            "batch: fewer workers, or a linger, would make larger batches."
        )
    if mean > 1.5:
        more = "a larger" if reason == "linger" else "a"
        return (
            f"Batches grow with the load; {more} linger would make them larger, and results later."
        )
    if reason == "linger":
        return (
            f"Items come one by one, further apart than {linger} seconds. A caller that waits for "
            "each result before its next call cannot share a batch with itself: more callers at "
            "the same time, or a larger linger, would make larger batches."
        )
    return (
        "Items come one by one, and each finds a free worker: submit several before you wait for "
        "results, call from more threads or tasks, or set a linger (how many seconds an item waits "
        "for more items)."
    )
