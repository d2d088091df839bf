"""OpenTelemetry: a span for each batch, linked to its callers' spans, and metrics.

Spans and metrics never contain items, results or the messages of exceptions: of an error they
contain only the type. Users call `instrument`.

The extra `otel` installs only the OpenTelemetry API; spans and metrics go to the SDK that the
process has set up. Names follow the semantic conventions for messaging, version 1.44.0 (status:
development): a batched function is a destination, and a batch is one `process` operation. Names
that the conventions do not have begin with `batchify.`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import time_ns
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context, attach
    from opentelemetry.metrics import CallbackOptions, Observation
except ModuleNotFoundError as error:
    from .errors import missing_extra

    raise missing_extra("batchify.otel", "otel", error) from None

from ._version import __version__
from .calls import Calls
from .decorator import reset_calls
from .observe import BatchEvent, observe
from .options import kind
from .totals import OUTCOMES, Total, follow, totals
from .tracing import End, Tracer, tracers

__all__ = ["instrument"]

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
Names = frozenset[str] | None  # names of functions; None: all functions
Attributes = dict[str, str | int | float]

# The buckets that the conventions recommend for `messaging.process.duration`.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


def instrument(
    *functions: Any,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Callable[[], None]:
    """Create spans and metrics for the batches of batched functions, from now on.

    Each batch has one span, even if its function is instrumented several times: the last call
    counts. The span is the current one while the batch runs. It has no parent, but a link to the
    span that was current in the call of each of its items.

    Args:
        functions: instrument only these functions, by name; by default all. Functions with the same
            name are treated as one.
        tracer_provider: receives the spans; by default the provider of the process.
        meter_provider: receives the metrics; by default the provider of the process.

    Returns:
        A function that stops the instrumentation. Spans of running batches are still completed.

    Raises:
        TypeError: one of `functions` is not a batched function.
    """
    names = _names_of(functions)
    tracer = _BatchTracer(names, tracer_provider)
    end_metrics = _Metrics.of(meter_provider).report(names)
    tracers.append(tracer)
    reset_calls()

    def stop() -> None:
        with contextlib.suppress(ValueError):  # ended before
            tracers.remove(tracer)
            reset_calls()
            end_metrics()

    return stop


def _names_of(functions: tuple[Any, ...]) -> Names:
    for function in functions:
        if not isinstance(function, Calls):
            raise TypeError(f"functions must be batched functions, got {kind(function)}")
    return frozenset(function._options().name for function in functions) or None


def _attributes(name: str, operation: str) -> Attributes:
    """Return the attributes that the conventions require for every span and metric."""
    return {
        "messaging.system": "batchify",
        "messaging.operation.name": operation,
        "messaging.destination.name": name,
    }


def _error_type(error: BaseException) -> str:
    """Return the full name of the type of `error`, without the module for built-in types."""
    module, name = type(error).__module__, type(error).__qualname__
    return name if module == "builtins" else f"{module}.{name}"


# ---- spans ----


class _BatchTracer(Tracer):
    def __init__(self, names: Names, provider: trace.TracerProvider | None) -> None:
        super().__init__(names)
        self._tracer = trace.get_tracer("batchify", __version__, provider, SCHEMA)

    def origin(self) -> trace.SpanContext | None:
        context = trace.get_current_span().get_span_context()
        return context if context.is_valid else None

    def begin(self, name: str, reason: str, size: int, queued: float, origins: list[Any]) -> End:
        callers = {(one.trace_id, one.span_id): one for one in origins}
        began = time_ns()
        span = self._tracer.start_span(
            f"process {name}",
            context=Context(),  # no parent
            kind=trace.SpanKind.CONSUMER,
            attributes={
                **_attributes(name, "process"),
                "messaging.operation.type": "process",
                "messaging.batch.message_count": size,
                "batchify.batch.reason": reason,
                "batchify.batch.queue_duration": queued,
            },
            links=[trace.Link(one) for one in callers.values()],
            start_time=began,
        )

        def end(event: BatchEvent) -> None:
            if event.error is not None:
                span.set_attribute("error.type", _error_type(event.error))
                span.set_status(trace.Status(trace.StatusCode.ERROR))  # without its message
            span.end(began + round(event.ran * 1e9) if event.ran else None)

        attach(trace.set_span_in_context(span, Context()))  # until the batch ends
        return end


# ---- metrics ----


@dataclass(frozen=True, slots=True)
class _StatsMetric:
    """A metric that is read from `stats()`.

    Attributes:
        metric, unit, description: as exported.
        values: returns the values of a `Total`, by the value of the attribute `key`; a metric
            without such an attribute has one value, under "".
        key: the attribute that distinguishes the values; empty if there is only one value.
        operation: the value of `messaging.operation.name`.
    """

    metric: str
    unit: str
    description: str
    values: Callable[[Total], Mapping[str, int]]
    key: str = ""
    operation: str = "process"


_COUNTERS: tuple[_StatsMetric, ...] = (
    _StatsMetric(
        "messaging.client.sent.messages", "{message}",
        "Number of messages producer attempted to send to the broker.",
        lambda total: {"": total.submitted}, operation="submit",
    ),
    _StatsMetric(
        "batchify.items.ended", "{item}", "Items that ended, by outcome.",
        lambda total: {outcome: getattr(total, outcome) for outcome in (*OUTCOMES, "rejected")},
        "batchify.outcome",
    ),
    _StatsMetric(
        "batchify.items.retried", "{item}", "Retries of items.",
        lambda total: {"": total.retried},
    ),
    _StatsMetric(
        "batchify.items.deduplicated", "{item}", "Items that shared the call of an equal item.",
        lambda total: {"": total.deduplicated},
    ),
    _StatsMetric(
        "batchify.batches.started", "{batch}", "Batches started, by reason.",
        lambda total: total.reasons, "batchify.batch.reason",
    ),
)  # fmt: skip
_GAUGES: tuple[_StatsMetric, ...] = (
    _StatsMetric(
        "batchify.items.pending", "{item}", "Accepted items that have not started.",
        lambda total: {"": total.pending},
    ),
    _StatsMetric(
        "batchify.items.running", "{item}", "Items in running batches.",
        lambda total: {"": total.running},
    ),
    _StatsMetric(
        "batchify.items.capacity", "{item}",
        "Maximum number of pending and running items; absent if unlimited.",
        lambda total: {} if total.capacity is None else {"": total.capacity},
    ),
    _StatsMetric(
        "batchify.workers", "{worker}", "Worker threads; for async functions, running batches.",
        lambda total: {"": total.workers},
    ),
)  # fmt: skip


class _Metrics:
    """The instruments of one provider, created once because the API cannot remove them."""

    _made: ClassVar[WeakKeyDictionary[metrics.MeterProvider, _Metrics]] = WeakKeyDictionary()
    _of_the_process: ClassVar[_Metrics | None] = None

    @classmethod
    def of(cls, provider: metrics.MeterProvider | None) -> _Metrics:
        if provider is None or provider is metrics.get_meter_provider():
            # Not by key, because a proxy replaces the provider until the process sets one.
            if cls._of_the_process is None:
                cls._of_the_process = cls(None)
            return cls._of_the_process
        if provider not in cls._made:
            cls._made[provider] = cls(provider)
        return cls._made[provider]

    def __init__(self, provider: metrics.MeterProvider | None) -> None:
        follow()
        self._reported: list[Names] = []  # one entry per `report`; a batch counts once
        self._end_observing: Callable[[], None] | None = None
        meter = metrics.get_meter("batchify", __version__, provider, SCHEMA)
        self._duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._queued = meter.create_histogram(
            "batchify.batch.queue_duration",
            "s",
            "Time that the oldest item of a batch was queued.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._size = meter.create_histogram(
            "batchify.batch.size",
            "{item}",
            "Items in a batch.",
            explicit_bucket_boundaries_advisory=SIZES,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to the application.",
        )
        for one in _COUNTERS:
            meter.create_observable_counter(
                one.metric, [self._callback(one)], one.unit, one.description
            )
        for one in _GAUGES:
            meter.create_observable_up_down_counter(
                one.metric, [self._callback(one)], one.unit, one.description
            )

    def report(self, names: Names) -> Callable[[], None]:
        """Report the functions with these names; return a function that stops it once."""
        self._reported.append(names)
        if self._end_observing is None:
            self._end_observing = observe(self._record)

        def end() -> None:
            self._reported.remove(names)
            if not self._reported and self._end_observing is not None:
                self._end_observing()
                self._end_observing = None

        return end

    def _reports(self, name: str) -> bool:
        return any(names is None or name in names for names in self._reported.copy())

    def _record(self, event: BatchEvent) -> None:
        if not self._reports(event.name):
            return
        attributes = _attributes(event.name, "process")
        if event.error is not None:
            attributes["error.type"] = _error_type(event.error)
        self._duration.record(event.ran, attributes)
        self._queued.record(event.queued, attributes)
        self._size.record(event.size, attributes)
        self._consumed.add(event.size, attributes)

    def _callback(self, metric: _StatsMetric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(_: CallbackOptions) -> Iterator[Observation]:
            for name, total in totals().items() if self._reported else ():
                if self._reports(name):
                    for which, value in metric.values(total).items():
                        attributes = _attributes(name, metric.operation)
                        if metric.key:
                            attributes[metric.key] = which
                        yield Observation(value, attributes)

        return callback
