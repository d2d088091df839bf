"""Create the error messages for unknown arguments, which suggest the right argument.

This module is imported only when such an error is raised.
Callers are the decorator, `options()`, `map` and `amap`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

# The options of the decorator, in the order of the documentation.
MEANINGS = {
    "size": "the maximum number of items in a batch",
    "linger": "the maximum time in seconds that an item waits for its batch to fill",
    "workers": "the maximum number of batches that run at the same time",
    "capacity": "the maximum number of pending items",
    "key": "a function of an item: only items with equal keys share a batch",
    "weight": "a function of an item that returns a number",
    "max_weight": "the maximum sum of the weights of a batch",
    "dedupe": "equal items of a batch are passed to the function once",
    "isolate": "a batch that raises is split until only the items at fault fail",
    "on_error": "a function that is called with each failed batch",
    "executor": "where batches run instead of in batchify's own threads",
    "broker": "a durable queue that several processes share",
    "exit_timeout": "the maximum time in seconds that process exit waits for items",
    "name": "the name in thread names, logs and metrics",
}

# What other libraries call these options.
SYNONYMS = {
    "size": (
        "batch_size", "batchsize", "bulk_size", "chunk_size", "chunksize", "limit", "max_batch",
        "max_batch_size", "max_items", "max_size", "maxsize", "page_size",
    ),
    "linger": (
        "batch_timeout", "batch_wait_timeout", "batch_wait_timeout_s", "batch_window", "delay",
        "flush_interval", "interval", "linger_ms", "max_delay", "max_latency", "max_latency_ms",
        "max_queue_delay", "max_wait", "max_wait_ms", "max_wait_time", "timeout", "timeout_ms",
        "wait", "wait_ms", "wait_time", "window",
    ),
    "workers": (
        "concurrency", "max_concurrency", "max_concurrent_batches", "max_threads", "max_workers",
        "n_jobs", "n_workers", "num_workers", "parallelism", "pool_size", "threads",
    ),
    "capacity": (
        "backlog", "buffer_size", "max_buffer", "max_inflight", "max_pending", "max_queue",
        "max_queue_size", "queue_size",
    ),
    "key": ("batch_key", "group_by", "groupby", "group_key", "key_fn", "partition_key"),
    "weight": ("cost", "cost_fn", "weight_fn"),
    "max_weight": ("max_bytes", "max_cost", "max_tokens"),
    "dedupe": ("dedup", "deduplicate", "unique"),
    "isolate": ("bisect", "bisect_on_error", "split_on_error"),
    "on_error": ("error_callback", "error_handler", "on_exception", "on_failure"),
    "executor": ("pool", "process_pool", "thread_pool"),
    "broker": ("backend", "broker_url", "queue"),
    "exit_timeout": ("close_timeout", "grace_period", "shutdown_timeout"),
}  # fmt: skip

_RETRY = (
    "a result Retry() runs one item again; to repeat whole batches, decorate the function with "
    "tenacity or stamina first"
)

# Hints for names that are not options of the decorator.
ANSWERS = {
    "caller_runs": "it was removed, because it saved nothing; leave it out",
    "deadline": "it belongs to a call: write f.options(deadline=...)(item)",
    "priority": "it belongs to a call: write f.options(priority=...)(item)",
    "attempts": _RETRY,
    "max_retries": _RETRY,
    "retries": _RETRY,
    "retry": _RETRY,
    **{
        synonym: f"write {option}=..., {MEANINGS[option]}"
        for option, synonyms in SYNONYMS.items()
        for synonym in synonyms
    },
    "timeout": (
        f"write linger=..., {MEANINGS['linger']}; "
        "f.options(timeout=...) and f(item).result(timeout) limit other waits"
    ),
}

MAP_ARGUMENTS = ("ordered", "window", "return_exceptions", "progress")
CALL_OPTIONS = ("timeout", "deadline", "priority")

# Hints for `f.options(...)`.
CALL_ANSWERS = {option: f"write {option}=... in the decorator" for option in MEANINGS}


def unknown_argument(
    call: str, given: Iterable[str], known: Iterable[str], answers: Mapping[str, str] | None = None
) -> TypeError:
    """Return the error for the first of the arguments `given`, which `call` does not have.

    Args:
        call: The call as the user wrote it, such as `insert_users.options()`.
        given: The names that `call` does not have.
        known: The names that it has.
        answers: Hints by name: what to write instead.
    """
    name = next(iter(given))
    known = list(known)
    hint = (answers or {}).get(name)
    if hint is None:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"it takes {', '.join(known)}"
    return TypeError(f"{call} has no argument {name!r}: {hint}")


def unknown_option(given: Iterable[str]) -> TypeError:
    """Return the error for an option that the decorator does not have."""
    return unknown_argument("batched()", given, MEANINGS, ANSWERS)


def unknown_call_option(name: str, given: Iterable[str]) -> TypeError:
    """Return the error for an option that a call of the function `name` does not have."""
    return unknown_argument(f"{name}.options()", given, CALL_OPTIONS, CALL_ANSWERS)
