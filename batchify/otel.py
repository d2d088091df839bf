"""OpenTelemetry: a span for each batch, linked to its callers' spans, and metrics.

For `pip install "batchify-py[otel]"`, which brings the API alone; spans and metrics go to whatever
SDK the process has set up. Names follow the semantic conventions for messaging, version 1.44.0
(status: development), where they have a name: a batched function is a destination, a batch is one
`process` operation. What has none there begins with `batchify.`.

Items, results and what exceptions say are never told: an error is its type alone.
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
from .decorator import forget_ways
from .observe import BatchEvent, observe
from .options import kind
from .totals import OUTCOMES, Total, follow, totals
from .tracing import End, Tracer, tracers

__all__ = ["instrument"]

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
Names = frozenset[str] | None  # of functions; None: all
Attributes = dict[str, str | int | float]

# As the conventions advise for `messaging.process.duration`.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


def instrument(
    *functions: Any,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Callable[[], None]:
    """Have spans and metrics made of the batches of all functions, from now on.

    A batch has one span, of whoever was the last to instrument its function. It is the current
    span while the batch runs, has no parent, and links to what was the current span in each call
    that the batch has an item of.

    Args:
        functions: only these, by their names; functions that share a name are seen alike.
        tracer_provider, meter_provider: where they go; by default to the process's own.

    Returns:
        A function that ends it. Batches that run then still have their spans.

    Raises:
        TypeError: one of `functions` is not batched.
    """
    names = _names_of(functions)
    tracer = _BatchTracer(names, tracer_provider)
    end_metrics = _Metrics.of(meter_provider).report(names)
    tracers.append(tracer)
    forget_ways()

    def stop() -> None:
        with contextlib.suppress(ValueError):  # ended before
            tracers.remove(tracer)
            forget_ways()
            end_metrics()

    return stop


def _names_of(functions: tuple[Any, ...]) -> Names:
    for function in functions:
        if not isinstance(function, Calls):
            raise TypeError(f"functions must be batched ones, got {kind(function)}")
    return frozenset(function._options().name for function in functions) or None


def _of(name: str, operation: str) -> Attributes:
    """What the conventions ask for on every span and metric of an operation."""
    return {
        "messaging.system": "batchify",
        "messaging.operation.name": operation,
        "messaging.destination.name": name,
    }


def _error_type(error: BaseException) -> str:
    """The full name of its type; that of a builtin is its plain name."""
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
                **_of(name, "process"),
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
                span.set_status(trace.Status(trace.StatusCode.ERROR))  # no text: it tells of items
            span.end(began + round(event.ran * 1e9) if event.ran else None)

        attach(trace.set_span_in_context(span, Context()))  # the batch's context ends with it
        return end


# ---- metrics ----


@dataclass(frozen=True, slots=True)
class _Told:
    """What `stats()` tells of one name, and how it is exported.

    `values` gives each value of a `Total`, by what it is told apart by; for one alone that is "".
    """

    metric: str
    unit: str
    description: str
    values: Callable[[Total], Mapping[str, int]]
    key: str = ""
    operation: str = "process"


_COUNTERS: tuple[_Told, ...] = (
    _Told(
        "messaging.client.sent.messages", "{message}",
        "Number of messages producer attempted to send to the broker.",
        lambda total: {"": total.submitted}, operation="submit",
    ),
    _Told(
        "batchify.items.ended", "{item}", "Items, by what they ended in.",
        lambda total: {outcome: getattr(total, outcome) for outcome in (*OUTCOMES, "rejected")},
        "batchify.outcome",
    ),
    _Told(
        "batchify.items.retried", "{item}", "How often an item went back to run again.",
        lambda total: {"": total.retried},
    ),
    _Told(
        "batchify.items.deduplicated", "{item}", "Items that shared the place of an equal one.",
        lambda total: {"": total.deduplicated},
    ),
    _Told(
        "batchify.batches.started", "{batch}", "Batches, by why they left.",
        lambda total: total.reasons, "batchify.batch.reason",
    ),
)  # fmt: skip
_LEVELS: tuple[_Told, ...] = (
    _Told(
        "batchify.items.pending", "{item}", "Accepted items whose batch has not started.",
        lambda total: {"": total.pending},
    ),
    _Told(
        "batchify.items.running", "{item}", "Items in batches that run.",
        lambda total: {"": total.running},
    ),
    _Told(
        "batchify.items.capacity", "{item}", "The most unresolved items; none where unbounded.",
        lambda total: {} if total.capacity is None else {"": total.capacity},
    ),
    _Told(
        "batchify.workers", "{worker}", "Worker threads; for async functions, batches that run.",
        lambda total: {"": total.workers},
    ),
)  # fmt: skip


class _Metrics:
    """The instruments of one provider: made once, as the API takes no instrument back."""

    _made: ClassVar[WeakKeyDictionary[metrics.MeterProvider, _Metrics]] = WeakKeyDictionary()
    _of_the_process: ClassVar[_Metrics | None] = None

    @classmethod
    def of(cls, provider: metrics.MeterProvider | None) -> _Metrics:
        if provider is None or provider is metrics.get_meter_provider():
            # By no key: until the process sets its provider, a proxy stands for it.
            if cls._of_the_process is None:
                cls._of_the_process = cls(None)
            return cls._of_the_process
        if provider not in cls._made:
            cls._made[provider] = cls(provider)
        return cls._made[provider]

    def __init__(self, provider: metrics.MeterProvider | None) -> None:
        follow()
        self._reported: list[Names] = []  # who is reported; a batch counts once
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
            "How long the oldest item of a batch had waited.",
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
        for told in _COUNTERS:
            meter.create_observable_counter(
                told.metric, [self._callback(told)], told.unit, told.description
            )
        for told in _LEVELS:
            meter.create_observable_up_down_counter(
                told.metric, [self._callback(told)], told.unit, told.description
            )

    def report(self, names: Names) -> Callable[[], None]:
        """Report the functions of these names; gives what ends it, to be called once."""
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
        attributes = _of(event.name, "process")
        if event.error is not None:
            attributes["error.type"] = _error_type(event.error)
        self._duration.record(event.ran, attributes)
        self._queued.record(event.queued, attributes)
        self._size.record(event.size, attributes)
        self._consumed.add(event.size, attributes)

    def _callback(self, told: _Told) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(_: CallbackOptions) -> Iterator[Observation]:
            for name, total in totals().items() if self._reported else ():
                if self._reports(name):
                    for which, value in told.values(total).items():
                        attributes = _of(name, told.operation)
                        if told.key:
                            attributes[told.key] = which
                        yield Observation(value, attributes)

        return callback
