"""Prometheus: what all batched functions do, for `pip install "batchify-py[prometheus]"`.

Counters and gauges are what `stats()` tells at the time of the scrape, summed by the functions'
names; histograms and failures are counted as batches end, from the making of the collector on.
Items, results and what exceptions say are never told: an error is its type alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    from .errors import missing_extra

    raise missing_extra("batchify.prometheus", "prometheus", error) from None

from .observe import BatchEvent, observe
from .options import kind
from .totals import OUTCOMES, Total, follow, totals

__all__ = ["BatchifyCollector", "install"]

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# By the name of the metric: what it tells, and its value.
_COUNTERS: dict[str, tuple[str, Callable[[Total], int]]] = {
    "batchify_submitted_items": ("Calls, whatever became of them.", lambda t: t.submitted),
    "batchify_retried_items": ("How often an item went back to run again.", lambda t: t.retried),
    "batchify_deduplicated_items": (
        "Items that shared the place of an equal one.",
        lambda t: t.deduplicated,
    ),
    "batchify_observer_errors": (
        "How often an observer or a tracer raised.",
        lambda t: t.observer_errors,
    ),
}
_GAUGES: dict[str, tuple[str, Callable[[Total], int | None]]] = {
    "batchify_pending_items": (
        "Accepted items whose batch has not started.",
        lambda t: t.pending,
    ),
    "batchify_running_items": ("Items in batches that run.", lambda t: t.running),
    "batchify_capacity_items": (
        "The most unresolved items, pending and running; none where unbounded.",
        lambda t: t.capacity,
    ),
    "batchify_workers": (
        "Worker threads alive; for async functions, batches that run.",
        lambda t: t.workers,
    ),
}


def install(registry: CollectorRegistry = REGISTRY) -> Callable[[], None]:
    """Have `registry` export what all batched functions do.

    Args:
        registry: by default the one of prometheus_client, which its servers export.

    Returns:
        A function that ends it.

    Raises:
        ValueError: the registry exports it already.
    """
    collector = BatchifyCollector()
    try:
        registry.register(collector)
    except BaseException:
        collector.close()
        raise

    def end() -> None:
        with contextlib.suppress(KeyError):  # ended before
            registry.unregister(collector)
        collector.close()

    return end


class BatchifyCollector(Collector):
    """What all batched functions of this process do, for a registry to collect."""

    def __init__(self) -> None:
        follow()
        self._sizes = _histogram("batchify_batch_size", "Items in a batch.", SIZES)
        self._ran = _histogram("batchify_batch_duration_seconds", "How long a batch took.", SECONDS)
        self._queued = _histogram(
            "batchify_batch_queue_seconds",
            "How long the oldest item of a batch had waited when it left.",
            SECONDS,
        )
        self._failures = Counter(
            "batchify_batch_failures",
            "Batches that failed, by the type of the error.",
            ["function", "error"],
            registry=None,
        )
        self._end_observing = observe(self._count)

    def close(self) -> None:
        """Count no more batches."""
        self._end_observing()

    def collect(self) -> Iterator[Metric]:
        """What a scrape gets."""
        yield from _from_stats(totals())
        for metric in (self._sizes, self._ran, self._queued, self._failures):
            yield from metric.collect()

    def describe(self) -> Iterable[Metric]:
        """By what a registry knows the names: it refuses a second collector."""
        return self.collect()

    def _count(self, event: BatchEvent) -> None:
        self._sizes.labels(event.name).observe(event.size)
        self._ran.labels(event.name).observe(event.ran)
        self._queued.labels(event.name).observe(event.queued)
        if event.error is not None:
            self._failures.labels(event.name, kind(event.error)).inc()


def _histogram(name: str, tells: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, tells, ["function"], buckets=buckets, registry=None)


def _from_stats(found: dict[str, Total]) -> Iterator[Metric]:
    items = CounterMetricFamily(
        "batchify_items", "Items, by what they ended in.", labels=["function", "outcome"]
    )
    batches = CounterMetricFamily(
        "batchify_batches", "Batches started, by why they left.", labels=["function", "reason"]
    )
    for name, total in found.items():
        for outcome in (*OUTCOMES, "rejected"):
            items.add_metric([name, outcome], getattr(total, outcome))
        for reason, count in total.reasons.items():
            batches.add_metric([name, reason], count)
    yield items
    yield batches
    for metric, (tells, count_of) in _COUNTERS.items():
        counter = CounterMetricFamily(metric, tells, labels=["function"])
        for name, total in found.items():
            counter.add_metric([name], count_of(total))
        yield counter
    for metric, (tells, value_of) in _GAUGES.items():
        gauge = GaugeMetricFamily(metric, tells, labels=["function"])
        for name, total in found.items():
            value = value_of(total)
            if value is not None:
                gauge.add_metric([name], value)
        yield gauge
