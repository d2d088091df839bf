"""The exported spans and metrics, for the tests of `batchify.otel`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from batchify.otel import instrument


class Seen:
    """The exported spans and metrics, and the spans of callers."""

    def __init__(self, **options: Any) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.exporter = InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = self.provider.get_tracer("test")

    def instrument(self, *functions: Any) -> Callable[[], None]:
        return instrument(*functions, tracer_provider=self.provider, meter_provider=self.meters)

    def batches(self) -> list[ReadableSpan]:
        found = self.exporter.get_finished_spans()
        return [span for span in found if span.name.startswith("process ")]

    def batch(self) -> ReadableSpan:
        (span,) = self.batches()
        return span

    def called(self, call: Callable[[], Any]) -> tuple[Any, int]:
        """Return the result of `call`, called in a new span, and the id of that span."""
        with self.tracer.start_as_current_span("caller") as span:
            return call(), span.get_span_context().span_id

    def points(self, metric: str, name: str) -> dict[str, Any]:
        """Return the points of a metric for functions of that name, by their other attribute."""
        data = self.reader.get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for one in scope.metrics:
                    for point in one.data.data_points if one.name == metric else ():
                        own = dict(point.attributes)
                        assert own.pop("messaging.system") == "batchify"
                        assert own.pop("messaging.operation.name")
                        if own.pop("messaging.destination.name") == name:
                            found["".join(own.values())] = point
        return found

    def values(self, metric: str, name: str) -> dict[str, int]:
        return {key: point.value for key, point in self.points(metric, name).items()}


def links_of(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def ids(*calls: tuple[Any, int]) -> list[int]:
    return [span_id for _, span_id in calls]


def current_id() -> int:
    return trace.get_current_span().get_span_context().span_id


def span_id_of(span: ReadableSpan) -> int:
    return span.get_span_context().span_id  # type: ignore[union-attr]
