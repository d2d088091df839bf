"""Spans and metrics of batches, read from OpenTelemetry's in-memory exporters."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from batchify import BatchEvent, Closed, DeadlineExceeded, Retry, batched
from batchify.engine.threads import ThreadEngine
from batchify.future import BatchFuture
from batchify.interpreter import has_gil
from batchify.testing import eager
from batchify.tracing import End, Tracer, tracers
from tests import elsewhere
from tests.limits import LIMIT
from tests.own_process import in_own_process, output_of_script

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

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


@pytest.fixture
def seen() -> Iterator[Seen]:
    found = Seen()
    stop = found.instrument()
    yield found
    stop()


def links_of(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def ids(*calls: tuple[Any, int]) -> list[int]:
    return [span_id for _, span_id in calls]


def current_id() -> int:
    return trace.get_current_span().get_span_context().span_id


def span_id_of(span: ReadableSpan) -> int:
    return span.get_span_context().span_id  # type: ignore[union-attr]


# ---- one span for each batch ----


def test_a_batch_has_a_span_with_links_to_its_callers(seen: Seen) -> None:
    events: list[BatchEvent] = []
    f = batched(lambda items: items, size=4, linger=None, name="insert")
    f.observe(events.append)
    one = seen.called(lambda: [f(1), f(2)])  # one link for both
    two = seen.called(lambda: f(3))
    f(4)  # in no span: no link
    f.close(LIMIT)
    span = seen.batch()
    assert span.name == "process insert"
    assert span.kind is trace.SpanKind.CONSUMER
    assert span.parent is None
    assert links_of(span) == ids(one, two)
    assert span.status.status_code is trace.StatusCode.UNSET
    attributes = dict(span.attributes or {})
    queued = attributes.pop("batchify.batch.queue_duration")
    assert attributes == {
        "messaging.system": "batchify",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "insert",
        "messaging.batch.message_count": 4,
        "batchify.batch.reason": "size",
    }
    (event,) = events
    assert queued == event.queued
    assert span.end_time - span.start_time == round(event.ran * 1e9)  # type: ignore[operator]
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "batchify"
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"


def test_its_time_is_that_of_the_run(seen: Seen) -> None:

    @batched
    def f(items: list[int]) -> None:
        with seen.tracer.start_as_current_span("query"):
            pass

    f(1).result(LIMIT)
    f.close(LIMIT)
    (query,) = [s for s in seen.exporter.get_finished_spans() if s.name == "query"]
    span = seen.batch()
    assert query.parent is not None
    assert query.parent.span_id == span_id_of(span)
    within = [span.start_time, query.start_time, query.end_time, span.end_time]  # type: ignore[list-item]
    assert within == sorted(within)


class Store:
    @batched(linger=None)
    def method(self, items: list[int]) -> None: ...

    @batched(linger=None)
    @classmethod
    def of_class(cls, items: list[int]) -> None: ...

    @batched(linger=None)
    @staticmethod
    def static(items: list[int]) -> None: ...


STORE = Store()
WAYS: dict[str, Callable[[Any, int], Any]] = {
    "call": lambda f, n: f(n),
    "submit": lambda f, n: f.submit(n),
    "submit_nowait": lambda f, n: f.submit_nowait(n),
    "asubmit": lambda f, n: asyncio.run(f.asubmit(n)),
    "options": lambda f, n: f.options(priority=3, deadline=60)(n),
    "chunks": lambda f, n: f._submit_chunks([[n]]),
}
FUNCTIONS: dict[str, Callable[[], Any]] = {
    "def": lambda: batched(lambda items: None, linger=None),
    "extra": lambda: batched(lambda items, more=None: None, linger=None),
    "dedupe": lambda: batched(lambda items: None, linger=None, dedupe=True),
    "key": lambda: batched(lambda items: None, linger=None, key=str),
    "method": lambda: STORE.method,
    "class": lambda: Store.of_class,
    "static": lambda: Store.static,
}


@pytest.mark.parametrize(
    ("way", "function"),
    [*((way, "def") for way in WAYS), *(("call", function) for function in FUNCTIONS)],
)
def test_every_call_has_its_link(seen: Seen, way: str, function: str) -> None:
    f = FUNCTIONS[function]()
    call = seen.called(lambda: WAYS[way](f, 1))
    call = call if call[0] != [] else seen.called(lambda: f(1))  # no chunks for this one
    f.close(LIMIT)
    f.start()
    assert links_of(seen.batch()) == ids(call)


def test_a_function_that_was_called_before_is_traced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    f = batched(lambda items: items, linger=None, name="f")
    g = batched(lambda items: items, linger=None, name="g")
    f(0), g(0)  # the hot path is in use
    seen = Seen()
    stop = seen.instrument(f)
    f_call, g_call = seen.called(lambda: f(1)), seen.called(lambda: g(1))
    assert f_call[0]._origin is not None
    assert vars(g_call[0]) == {}
    stop()
    after, _ = seen.called(lambda: f(2))
    assert vars(after) == {}, "off again: the future stores no origin"
    if has_gil():
        with monkeypatch.context() as patch:
            patch.setattr(ThreadEngine, "submit", None)  # the general path
            f(3)
    f.close(LIMIT)
    g.close(LIMIT)
    assert seen.batches() == []
    stop()  # once more does nothing


def test_instrumenting_during_a_first_call_misses_no_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = Seen()
    f = batched(lambda items: items, linger=None)
    stops: list[Callable[[], None]] = []
    submitter = ThreadEngine.submitter

    def instrument_after(engine: ThreadEngine, *args: Any) -> Any:
        hot = submitter(engine, *args)
        stops.append(seen.instrument())
        return hot

    monkeypatch.setattr(ThreadEngine, "submitter", instrument_after)
    f(1)
    monkeypatch.undo()
    call = seen.called(lambda: f(2))
    f.close(LIMIT)
    for stop in stops:
        stop()
    assert len(stops) == 1
    assert links_of(seen.batch()) == ids(call)


def test_only_the_functions_that_were_asked_for(seen: Seen) -> None:
    with pytest.raises(TypeError, match="functions must be batched functions, got function"):
        instrument(test_only_the_functions_that_were_asked_for)
    own = Seen()
    f = batched(lambda items: items, name="one")
    g = batched(lambda items: items, name="other")
    stop = own.instrument(f)
    for one in (f, g):
        one(1).result(LIMIT)
        one.close(LIMIT)
    stop()
    assert [span.name for span in own.batches()] == ["process one"]  # the last one counts
    assert [span.name for span in seen.batches()] == ["process other"]
    consumed = "messaging.client.consumed.messages"
    assert [own.values(consumed, name) for name in ("one", "other")] == [{"": 1}, {}]
    assert [seen.values(consumed, name) for name in ("one", "other")] == [{"": 1}, {"": 1}]


# ---- the current span of the batch ----


def test_the_span_is_current_in_whatever_runs_for_the_batch(seen: Seen) -> None:
    current: list[int] = []

    def note(*_: Any) -> None:
        current.append(current_id())

    def stream(items: list[int]) -> Iterator[int]:
        note()
        yield 1
        note()

    def fail(items: list[int]) -> None:
        note()
        raise ValueError

    for f, count in (
        (batched(note), 1),
        (batched(stream), 2),
        (batched(fail, on_error=note), 2),
    ):
        f(0).exception(LIMIT)
        f.close(LIMIT)
        assert current == [span_id_of(seen.batch())] * count
        current.clear()
        seen.exporter.clear()
    assert current_id() == 0


def test_a_call_from_a_batch_links_to_that_batch(seen: Seen) -> None:
    inner = batched(lambda items: items, name="inner")
    outer = batched(lambda items: [inner(item) for item in items], name="outer")
    outer(1).result(LIMIT).result(LIMIT)
    outer.close(LIMIT)
    inner.close(LIMIT)
    spans = {span.name: span for span in seen.batches()}
    assert links_of(spans["process inner"]) == [span_id_of(spans["process outer"])]


def test_async_batches_have_their_own_spans_one_after_the_other(seen: Seen) -> None:
    current: list[int] = []

    @batched(size=2)
    async def f(items: list[int]) -> list[int]:
        await asyncio.sleep(0)
        current.append(current_id())
        return items

    async def caller(number: int) -> int:
        with seen.tracer.start_as_current_span("caller") as span:
            await f(number)
            assert current_id() == span.get_span_context().span_id
            return current_id()

    async def main() -> list[int]:
        return await asyncio.gather(*map(caller, range(6)))

    callers = asyncio.run(main())
    spans = seen.batches()
    assert [span.parent for span in spans] == [None] * 3
    assert [span_id_of(span) for span in spans] == current
    assert [links_of(span) for span in spans] == [callers[:2], callers[2:4], callers[4:]]


def test_async_callers_without_a_loop(seen: Seen) -> None:
    @batched
    async def f(items: list[int]) -> list[int]:
        return [current_id()]

    future, caller = seen.called(lambda: f(1))
    assert [future.result(LIMIT)] == [span_id_of(seen.batch())]
    assert links_of(seen.batch()) == [caller]


def test_an_async_batch_that_is_cancelled(seen: Seen) -> None:
    @batched
    async def f(items: list[int]) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        await asyncio.wait([f(1)])

    asyncio.run(main())
    assert (seen.batch().attributes or {})["error.type"] == "batchify.errors.BatchAborted"


def test_an_async_batch_whose_loop_ends(seen: Seen) -> None:
    @batched(name="f")
    async def f(items: list[int]) -> None:
        await asyncio.Event().wait()

    async def until_it_runs() -> BatchFuture[Any]:
        future = f(1)
        while not future.running():
            await asyncio.sleep(0)
        return future

    loop = asyncio.new_event_loop()
    future = loop.run_until_complete(until_it_runs())
    loop.close()
    del loop
    gc.collect()
    assert isinstance(future.exception(), Closed)
    assert (seen.batch().attributes or {})["error.type"] == "batchify.errors.BatchAborted"


def test_on_an_executor_of_threads(seen: Seen) -> None:
    with ThreadPoolExecutor(1) as pool:
        f = batched(lambda items: [current_id()], executor=pool)
        found = f(1).result(LIMIT)
        f.close(LIMIT)
    assert found == span_id_of(seen.batch())


def test_around_a_batch_in_another_process(seen: Seen) -> None:
    with ProcessPoolExecutor(1) as pool:
        f = batched(elsewhere.where, executor=pool)
        future, caller = seen.called(lambda: f(1))
        assert future.result(LIMIT)[0] == 1
        f.close(LIMIT)
    assert links_of(seen.batch()) == [caller]


# ---- outcomes of items ----


def test_a_batch_that_fails(seen: Seen) -> None:
    class Oops(Exception):
        pass

    @batched(name="f")
    def f(items: list[str]) -> None:
        raise Oops("secret") if "own" in items[0] else ValueError(items)

    assert f("secret").exception(LIMIT)
    assert f("secret, own").exception(LIMIT)
    f.close(LIMIT)
    builtin, own = seen.batches()
    assert (builtin.attributes or {})["error.type"] == "ValueError"
    assert (own.attributes or {})["error.type"] == f"{__name__}.{Oops.__qualname__}"
    for span in (builtin, own):
        assert span.status.status_code is trace.StatusCode.ERROR
        assert span.status.description is None
        assert not span.events
        assert "secret" not in span.to_json()
    data = seen.reader.get_metrics_data()
    assert data is not None
    assert "ValueError" in data.to_json()
    assert "secret" not in data.to_json()


def test_an_item_that_runs_again_is_linked_again(seen: Seen) -> None:
    f = batched(lambda items: [Retry(attempts=2)] * len(items), linger=None)
    call = seen.called(lambda: f(1))
    f.flush(LIMIT)
    f.close(LIMIT)
    assert [links_of(span) for span in seen.batches()] == [ids(call)] * 2


def test_of_a_chunk_too(seen: Seen) -> None:
    tries: list[int] = []

    def f(items: list[int]) -> list[Any]:
        tries.extend(items)
        return [Retry() if item == 2 and tries.count(2) < 2 else item for item in items]

    g = batched(f, size=3)
    results, caller = seen.called(lambda: list(g.map([1, 2, 3])))
    g.close(LIMIT)
    assert results == [1, 2, 3]
    sizes = [(span.attributes or {})["messaging.batch.message_count"] for span in seen.batches()]
    assert sizes == [3, 1]
    assert [links_of(span) for span in seen.batches()] == [[caller]] * 2


def test_items_outside_of_the_batch_are_not_linked(seen: Seen) -> None:
    f = batched(lambda items: items, linger=None)
    cancelled = seen.called(lambda: f(1))
    stays = seen.called(lambda: f(2))
    late = seen.called(lambda: f.options(deadline=0)(3))
    assert cancelled[0].cancel()
    assert isinstance(late[0].exception(LIMIT), DeadlineExceeded)
    f.close(LIMIT)
    assert links_of(seen.batch()) == ids(stays)


def test_the_sdk_bounds_the_links() -> None:
    seen = Seen()
    stop = seen.instrument()
    f = batched(lambda items: items, size=200, linger=None)
    calls = [seen.called(lambda: f(0)) for _ in range(200)]
    f.close(LIMIT)
    stop()
    span = seen.batch()
    assert links_of(span) == ids(*calls)[-128:]
    assert span.dropped_links == 72


def test_eager_calls_are_no_batches(seen: Seen) -> None:
    f = batched(lambda items: items)
    with eager():
        assert seen.called(lambda: f(1))[0].result() == 1
    assert seen.batches() == []


# ---- errors of tracers ----


class Raises(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        raise SystemExit("secret")

    def get_description(self) -> str:
        return ""


class RaisesAtTheEnd(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise SystemExit("secret")


@pytest.mark.parametrize("kind", ["begin", "end"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_tracer_that_raises_harms_no_item(
    kind: str, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen(sampler=Raises()) if kind == "begin" else Seen()
    if kind == "end":
        seen.provider.add_span_processor(RaisesAtTheEnd())

    async def g(items: list[int]) -> list[int]:
        return items

    f = batched(g if is_async else lambda items: items, name="f")
    stop = seen.instrument()
    with caplog.at_level(logging.ERROR, "batchify"):
        for number in range(3):
            assert f(number).result(LIMIT) == number
        f.close(LIMIT)
    stop()
    (told,) = caplog.messages  # once
    assert told.startswith("f: a tracer raised SystemExit (test_otel.py:")
    assert f.stats().observer_errors == 3
    assert f.stats().succeeded == 3


class Origin:
    pass


class Keeps(Tracer):
    """Gives each call a new origin."""

    def __init__(self) -> None:
        super().__init__(None)
        self.given: list[ref[Origin]] = []
        self.began: list[int] = []

    def origin(self) -> Origin:
        origin = Origin()
        self.given.append(ref(origin))
        return origin

    def begin(self, name: str, reason: str, size: int, queued: float, origins: list[Any]) -> End:
        self.began.append(len(origins))
        return lambda event: None


def test_an_origin_goes_with_its_future() -> None:
    tracer = Keeps()
    tracers.append(tracer)
    try:
        f = batched(lambda items: items, linger=None, size=8)
        futures = [f(n) for n in range(4)]
        del futures[0]  # it waits for its batch all the same
        f.close(LIMIT)
        assert tracer.began == [4]
        assert [weak() is not None for weak in tracer.given[1:]] == [True] * 3
        del futures
        gc.collect()
        assert [weak() for weak in tracer.given] == [None] * 4
    finally:
        tracers.remove(tracer)


def test_a_pending_item_keeps_no_span(seen: Seen) -> None:
    f = batched(lambda items: items, linger=None)
    span = seen.tracer.start_span("caller")
    weak = ref(span)
    with trace.use_span(span, end_on_exit=True):
        future: BatchFuture[Any] = f(1)
    seen.exporter.clear()
    del span
    gc.collect()
    assert weak() is None
    f.close(LIMIT)
    assert len(links_of(seen.batch())) == 1
    assert future.result() == 1


def test_tracing_may_begin_and_end_while_calls_are_made() -> None:
    """Every item is done, and after the last stop the hot path is in use again."""
    f = batched(lambda items: items, size=10)
    seen = Seen()
    over = threading.Event()
    results: list[int] = []

    def call() -> None:
        while not over.is_set():
            results.append(f(len(results)).result(LIMIT))

    thread = threading.Thread(target=call)
    thread.start()
    for _ in range(50):
        stop = seen.instrument()
        before = len(results)
        while len(results) < before + 3 and thread.is_alive():
            over.wait(0.0001)
        stop()
    over.set()
    thread.join(LIMIT)
    assert results == list(range(len(results)))
    assert seen.batches()
    assert vars(f(0)) == {}
    f.close(LIMIT)


# ---- metrics ----


def test_metrics_agree_with_stats() -> None:
    """In its own process: the SDK drops further functions once an instrument has 2,000 points."""
    in_own_process("test_otel", "_check_metrics()")


def _check_metrics() -> None:
    seen = Seen()
    seen.instrument()

    @batched(size=2, linger=None, capacity=10, name="told")
    def f(items: list[int]) -> None:
        if 13 in items:
            raise ValueError

    futures = [f(n) for n in (1, 2, 3, 13)]
    for future in futures:
        future.exception(LIMIT)
    f(5).cancel()
    f(6)
    assert seen.values("messaging.client.sent.messages", "told") == {"": 6}
    assert seen.values("batchify.items.pending", "told") == {"": 1}
    assert seen.values("batchify.items.running", "told") == {"": 0}
    assert seen.values("batchify.items.capacity", "told") == {"": 10}
    assert seen.values("batchify.workers", "told") == {"": 1}
    f.close(LIMIT)
    assert seen.values("batchify.items.ended", "told") == {
        "succeeded": 3, "failed": 2, "cancelled": 1, "expired": 0, "rejected": 0,
    }  # fmt: skip
    started = seen.values("batchify.batches.started", "told")
    assert {key: count for key, count in started.items() if count} == {"size": 2, "close": 1}
    assert seen.values("messaging.client.consumed.messages", "told") == {"": 3, "ValueError": 2}
    assert seen.values("batchify.items.retried", "told") == {"": 0}
    assert seen.values("batchify.items.deduplicated", "told") == {"": 0}
    sizes = seen.points("batchify.batch.size", "told")
    assert {key: (point.count, point.sum) for key, point in sizes.items()} == {
        "": (2, 3), "ValueError": (1, 2),
    }  # fmt: skip
    spans = [span.end_time - span.start_time for span in seen.batches()]  # type: ignore[operator]
    ran = seen.points("messaging.process.duration", "told")
    assert sum(point.sum for point in ran.values()) == pytest.approx(sum(spans) / 1e9)
    assert ran[""].explicit_bounds[:2] == (0.005, 0.01)
    queued = seen.points("batchify.batch.queue_duration", "told")
    assert sum(point.count for point in queued.values()) == 3


def test_an_unbounded_function_has_no_capacity(seen: Seen) -> None:
    f = batched(lambda items: items, capacity=None, name="unbounded")
    f(1).result(LIMIT)
    assert seen.values("batchify.items.capacity", "unbounded") == {}
    assert seen.values("batchify.items.pending", "unbounded") == {"": 0}
    f.close(LIMIT)


def test_metrics_end_and_begin_again() -> None:
    """The instruments of a provider stay; a batch counts once, however many instrument."""
    seen = Seen()
    f = batched(lambda items: items, name="instrumented again")

    def call() -> tuple[int | None, int | None]:
        f(1).result(LIMIT)
        f.close(LIMIT)  # until its batch was reported
        f.start()
        told = ("messaging.client.sent.messages", "messaging.client.consumed.messages")
        sent, consumed = (seen.values(metric, "instrumented again").get("") for metric in told)
        return sent, consumed

    stop = seen.instrument()
    assert call() == (1, 1)
    stop()
    assert call() == (None, 1)
    first, second = seen.instrument(), seen.instrument(f)
    assert call() == (3, 2)
    first()
    first()
    assert call() == (4, 3)
    second()
    assert call() == (None, 3)
    f.close(LIMIT)


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "observability.md").read_text("utf-8")
    section = page.partition("## OpenTelemetry")[2].partition("\n## ")[0]
    code = "\n".join(re.findall(r"^```py\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    assert "instrument(" in code
    output_of_script(tmp_path, code)  # in its own process, which has no other functions
