"""Why is it not batching? An answer in words, from the counters."""

from __future__ import annotations

from .stats import Stats

_LEFT = {
    "size": "were full",
    "weight": "reached max_weight",
    "linger": "had lingered long enough",
    "idle": "found a free worker, and linger=0 does not wait for company",
    "capacity": "made room: capacity was used up by partial batches",
    "flush": "were flushed, or sent off by a map that had no more to submit",
    "close": "left because of a close or the end of the process",
}


def explanation(stats: Stats) -> str:
    """What made the batches of `stats` leave, and which option would change it."""
    if not stats.batches:
        waits = f" ({_count(stats.pending, 'item')} pending)" if stats.pending else ""
        return f"No batch has left yet{waits}."
    reason = max(stats.reasons, key=lambda name: stats.reasons[name])
    share = stats.reasons[reason] / stats.batches
    told = (
        f"{_count(stats.batches, 'batch')} had {_count(stats.sizes.mean, 'item')} on average"
        f"{_of_size(stats)}; {share:.0%} of them {_LEFT[reason]}."
    )
    return f"{told} {_advice(stats, reason)}"


def _count(number: float, thing: str) -> str:
    many = "es" if thing.endswith("ch") else "s"
    number = round(number, 1)
    return f"{number:.9g} {thing}{'' if number == 1 else many}"


def _of_size(stats: Stats) -> str:
    return "" if stats.limits is None else f" (size={stats.limits.size})"


def _advice(stats: Stats, reason: str) -> str:
    limits = stats.limits
    mean = stats.sizes.mean
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
    if mean > 1.5:
        more = "a larger" if reason == "linger" else "a"
        return f"Batches grow with the load; {more} linger would make them larger, and later."
    if reason == "linger":
        return (
            f"Items come one by one, further apart than {linger} seconds: callers that wait for "
            "each result before the next call cannot share a batch. More callers at a time, or a "
            "larger linger, would make larger batches."
        )
    return (
        "Items come one by one, and each finds a free worker: submit several before you wait for "
        "results, call from more threads or tasks, or set a linger (seconds to wait for company)."
    )
