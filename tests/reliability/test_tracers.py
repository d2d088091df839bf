"""Tracers: the calls that they see, their errors, and the origins that futures keep."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any
from weakref import ref

import pytest

from batchify import batched
from batchify.engine.threads import ThreadEngine
from batchify.interpreter import has_gil
from batchify.tracing import End, Tracer, tracers
from tests.api.spans import Seen, ids, links_of
from tests.limits import LIMIT

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import Sampler


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
    assert told.startswith("f: a tracer raised SystemExit (test_tracers.py:")
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
