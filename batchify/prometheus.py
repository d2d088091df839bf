"""Prometheus: export metrics of all batched functions.

Metrics never contain items, results or the messages of exceptions: of an error they contain only
the type. Users call `install`, or register a `BatchifyCollector` themselves.

Counters and gauges are read from `stats()` at each scrape, and summed over functions of the same
name. Histograms and failures count the batches that end after the collector was created.
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

# By the name of the metric: its help text and its value.
_COUNTERS: dict[str, tuple[str, Callable[[Total], int]]] = {
    "batchify_submitted_items": ("Calls, including rejected ones.", lambda t: t.submitted),
    "batchify_retried_items": ("Retries of items.", lambda t: t.retried),
    "batchify_deduplicated_items": (
        "Items that shared the call of an equal item.",
        lambda t: t.deduplicated,
    ),
    "batchify_observer_errors": (
        "Exceptions raised by observers and tracers.",
        lambda t: t.observer_errors,
    ),
}
_GAUGES: dict[str, tuple[str, Callable[[Total], int | None]]] = {
    "batchify_pending_items": (
        "Accepted items that have not started.",
        lambda t: t.pending,
    ),
    "batchify_running_items": ("Items in running batches.", lambda t: t.running),
    "batchify_capacity_items": (
        "Maximum number of pending and running items; absent if unlimited.",
        lambda t: t.capacity,
    ),
    "batchify_workers": (
        "Worker threads; for async functions, running batches.",
        lambda t: t.workers,
    ),
}


def install(registry: CollectorRegistry = REGISTRY) -> Callable[[], None]:
    """Export metrics of all batched functions through `registry`.

    Args:
        registry: by default the global registry of prometheus_client, which its servers export.

    Returns:
        A function that stops the export.

    Raises:
        ValueError: the registry exports these metrics already.
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
    """Collects metrics of all batched functions in this process for a registry."""

    def __init__(self) -> None:
        follow()
        self._sizes = _histogram("batchify_batch_size", "Items in a batch.", SIZES)
        self._ran = _histogram("batchify_batch_duration_seconds", "Run time of a batch.", SECONDS)
        self._queued = _histogram(
            "batchify_batch_queue_seconds",
            "Time that the oldest item of a batch was queued.",
            SECONDS,
        )
        self._failures = Counter(
            "batchify_batch_failures",
            "Failed batches, by type of error.",
            ["function", "error"],
            registry=None,
        )
        self._end_observing = observe(self._count)

    def close(self) -> None:
        """Stop counting batches."""
        self._end_observing()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics for one scrape."""
        yield from _from_stats(totals())
        for metric in (self._sizes, self._ran, self._queued, self._failures):
            yield from metric.collect()

    def describe(self) -> Iterable[Metric]:
        """Return the metrics, whose names the registry uses to refuse a second collector."""
        return self.collect()

    def _count(self, event: BatchEvent) -> None:
        self._sizes.labels(event.name).observe(event.size)
        self._ran.labels(event.name).observe(event.ran)
        self._queued.labels(event.name).observe(event.queued)
        if event.error is not None:
            self._failures.labels(event.name, kind(event.error)).inc()


def _histogram(name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
    return Histogram(name, help_text, ["function"], buckets=buckets, registry=None)


def _from_stats(found: dict[str, Total]) -> Iterator[Metric]:
    items = CounterMetricFamily(
        "batchify_items", "Items, by outcome.", labels=["function", "outcome"]
    )
    batches = CounterMetricFamily(
        "batchify_batches", "Batches started, by reason.", labels=["function", "reason"]
    )
    for name, total in found.items():
        for outcome in (*OUTCOMES, "rejected"):
            items.add_metric([name, outcome], getattr(total, outcome))
        for reason, count in total.reasons.items():
            batches.add_metric([name, reason], count)
    yield items
    yield batches
    for metric, (help_text, count_of) in _COUNTERS.items():
        counter = CounterMetricFamily(metric, help_text, labels=["function"])
        for name, total in found.items():
            counter.add_metric([name], count_of(total))
        yield counter
    for metric, (help_text, value_of) in _GAUGES.items():
        gauge = GaugeMetricFamily(metric, help_text, labels=["function"])
        for name, total in found.items():
            value = value_of(total)
            if value is not None:
                gauge.add_metric([name], value)
        yield gauge
