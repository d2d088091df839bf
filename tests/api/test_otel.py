"""A span for each batch, with links to its callers."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from batchify import BatchEvent, BatchFuture, Closed, batched
from tests import elsewhere
from tests.api.spans import Seen, current_id, ids, links_of, span_id_of
from tests.limits import LIMIT

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace

from batchify.otel import instrument

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
