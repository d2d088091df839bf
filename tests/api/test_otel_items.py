"""The spans of items that fail, are retried, or end outside of the batch."""

from __future__ import annotations

import gc
from typing import Any
from weakref import ref

import pytest

from batchify import BatchFuture, DeadlineExceeded, Retry, batched
from batchify.testing import eager
from tests.api.spans import Seen, ids, links_of
from tests.limits import LIMIT

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace


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
