"""Observers get an event for each batch (contract 6)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

import batchify
from batchify import BadResult, BatchAborted, batched
from tests.gates import SOON, Broken, busy_on, eager_switches, echo, echo_of, gated_of, store_class
from tests.limits import LIMIT
from tests.manual import ManualSeam, in_thread, until


class Seen:
    """An observer that keeps its events."""

    def __init__(self) -> None:
        self.events: list[batchify.BatchEvent] = []

    def __call__(self, event: batchify.BatchEvent) -> None:
        self.events.append(event)


@pytest.fixture
def everywhere() -> Iterator[Seen]:
    seen = Seen()
    end = batchify.observe(seen)
    yield seen
    end()


def test_an_observer_gets_an_event_for_each_batch(kind: str) -> None:
    seen = Seen()
    gated = gated_of(kind)
    f = batched(gated, size=3, linger=None, name="observed")
    f.observe(seen)
    futures = [f(0)]
    time.sleep(SOON)  # the test measures time
    futures += [f(1), f(2)]
    gated.wait_started(1)
    assert seen.events == []
    time.sleep(SOON)
    gated.open()
    futures.append(f(3))
    concurrent.futures.wait(futures[:3], LIMIT)
    f.flush(LIMIT)
    until(lambda: len(seen.events) == 2)
    first, second = seen.events
    assert isinstance(first, batchify.BatchEvent)
    assert (first.name, first.reason, first.size, first.error) == ("observed", "size", 3, None)
    assert first.queued >= SOON
    assert first.ran >= SOON
    assert (second.name, second.reason, second.size) == ("observed", "flush", 1)
    with pytest.raises((AttributeError, FrozenInstanceError)):
        first.size = 4  # type: ignore[misc]


def test_queued_and_ran_are_seconds_of_the_clock() -> None:
    seam = ManualSeam()
    seen = Seen()
    f, gated = busy_on(seam, size=2)
    f.observe(seen)
    f.options(priority=-1)(1)
    seam.now += 3
    f(2), f(3), f(4)
    seam.now += 4
    gated.release()
    gated.wait_started(2)
    seam.now += 5
    gated.open()
    f.flush(LIMIT)
    until(lambda: len(seen.events) == 3)
    assert [(e.size, e.queued, e.ran) for e in seen.events[:2]] == [(1, 0, 7), (2, 4, 5)]
    assert f.stats().queued.max == max(e.queued for e in seen.events)
    assert f.stats().ran.max == 7
    f.close(LIMIT)


@pytest.mark.parametrize("on_error", [None, lambda failure: None, lambda failure: failure.items])
def test_an_event_has_the_error_of_its_batch(kind: str, on_error: Any) -> None:
    error = Broken("bad")

    def work(items: list[Any]) -> Any:
        if items == ["raise"]:
            raise error
        if items == ["wrong"]:
            return [1, 2, 3]
        return [Broken("one item")]

    async def awork(items: list[Any]) -> Any:
        return work(items)

    seen = Seen()
    f = batched(work if kind == "def" else awork, size=1, on_error=on_error)
    f.observe(seen)
    for item in ("raise", "wrong", "element"):
        f(item).exception(LIMIT)
    until(lambda: len(seen.events) == 3)
    raised, wrong, element = (event.error for event in seen.events)
    if on_error is None or not on_error.__code__.co_names:  # it gave no results instead
        assert isinstance(raised, Broken)
        assert isinstance(wrong, BadResult)
    assert element is None


def test_an_event_of_a_batch_that_was_aborted(kind: str) -> None:
    def work(items: list[Any]) -> Any:
        raise SystemExit(1)

    async def awork(items: list[Any]) -> Any:
        raise SystemExit(1)

    seen = Seen()
    f = batched(work if kind == "def" else awork)
    f.observe(seen)
    assert isinstance(f(1).exception(LIMIT), BatchAborted)
    until(lambda: seen.events)
    assert isinstance(seen.events[0].error, (BatchAborted, SystemExit))


def test_observing_everywhere_and_one_function(kind: str, everywhere: Seen) -> None:
    f = batched(echo_of(kind), name="one")
    g = batched(echo_of(kind), name="two")
    ones = Seen()
    end = f.observe(ones)
    f(1).result(LIMIT), g(1).result(LIMIT)
    until(lambda: sorted(event.name for event in everywhere.events) == ["one", "two"])
    assert [event.name for event in ones.events] == ["one"]
    end()
    end()
    f(2).result(LIMIT)
    until(lambda: len(everywhere.events) == 3)
    assert len(ones.events) == 1


def test_ending_an_observation_ends_no_other() -> None:
    f = batched(echo)
    seen = Seen()
    first, second = f.observe(seen), f.observe(seen)
    f(1).result(LIMIT)
    until(lambda: len(seen.events) == 2)
    first()
    f(2).result(LIMIT)
    until(lambda: len(seen.events) == 3)
    second()
    f(3).result(LIMIT)
    f.close(LIMIT)
    assert len(seen.events) == 3


@pytest.mark.parametrize("value", [None, 1, "observer"], ids=str)
def test_an_observer_must_be_callable(value: Any) -> None:
    f = batched(echo)
    for observe in (f.observe, batchify.observe):
        with pytest.raises(TypeError, match="observer"):
            observe(value)


def test_observers_of_a_method(kind: str, everywhere: Seen) -> None:
    store = store_class(kind, gated_of(kind, is_open=True))
    one, two = store(), store()
    ones, twos, both = Seen(), Seen(), Seen()
    one.insert.observe(ones)
    two.insert(0).result(LIMIT)
    until(lambda: len(everywhere.events) == 1)  # its event may come after its result
    end = two.insert.observe(twos)
    store.insert.observe(both)
    one.insert(1).result(LIMIT), two.insert(2).result(LIMIT), store().insert(3).result(LIMIT)
    until(lambda: len(everywhere.events) == 4)
    until(lambda: (len(ones.events), len(twos.events), len(both.events)) == (1, 1, 3))
    end()
    two.insert(4).result(LIMIT)
    until(lambda: len(both.events) == 4)
    assert len(twos.events) == 1


def test_an_observer_gets_events_of_batches_on_loops(kind: str) -> None:
    seen = Seen()
    f = batched(echo_of(kind), name="looped")
    f.observe(seen)

    async def main() -> None:
        assert await asyncio.wait_for(asyncio.gather(*(f(n) for n in range(3))), LIMIT)

    for _ in range(2):
        asyncio.run(main())
    until(lambda: sum(event.size for event in seen.events) == 6)
    assert {event.name for event in seen.events} == {"looped"}
    assert {event.error for event in seen.events} == {None}


@pytest.mark.parametrize(
    "raised",
    [ValueError("a secret"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
def test_an_observer_that_raises_is_counted_and_logged_once(
    kind: str, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def observer(_: Any) -> None:
        raise raised

    seen = Seen()
    f = batched(echo_of(kind), size=1, name="bothered")
    for one in (observer, seen):
        f.observe(one)
    with caplog.at_level(logging.DEBUG, "batchify"):
        futures = [f(n) for n in range(5)]
        assert [future.result(LIMIT) for future in futures] == list(range(5))
        until(lambda: f.stats().observer_errors == 5)
    assert len(seen.events) == 5
    assert {event.error for event in seen.events} == {None}
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert type(raised).__name__ in told[0]
    assert "secret" not in caplog.text
    assert f.stats().failed == 0
    f.close(LIMIT)


def test_callers_have_their_results_before_a_slow_observer_ends(kind: str) -> None:
    hold, told = threading.Event(), threading.Event()

    def observer(_: Any) -> None:
        told.set()
        assert hold.wait(LIMIT)

    f = batched(echo_of(kind))
    end = f.observe(observer)
    try:
        future = f(1)
        called = threading.Event()
        future.add_done_callback(lambda _: called.set())
        assert future.result(LIMIT) == 1
        assert told.wait(LIMIT)
        assert called.wait(LIMIT)
        stats = f.stats()
        assert (stats.succeeded, stats.batches) == (1, 1)
    finally:
        hold.set()
        end()
    f.close(LIMIT)


def test_awaiting_callers_continue_before_a_slow_observer_ends(kind: str) -> None:
    resumed = threading.Event()
    in_time: list[bool] = []
    f = batched(echo_of(kind))
    f.observe(lambda _: in_time.append(resumed.wait(LIMIT)))

    async def main() -> None:
        assert await f(1) == 1
        resumed.set()

    asyncio.run(main())
    until(lambda: in_time)
    assert in_time == [True]


def test_observers_added_by_many_threads_are_all_called() -> None:
    f = batched(echo)
    observers = [Seen() for _ in range(800)]

    def add(part: list[Seen]) -> None:
        for seen in part:
            f.observe(seen)

    with eager_switches():
        for call in [in_thread(add, observers[at::4]) for at in range(4)]:
            call.result()
    f(1).result(LIMIT)
    f.close(LIMIT)
    assert [len(seen.events) for seen in observers] == [1] * 800


def test_an_observer_may_use_the_function_and_end_itself(kind: str) -> None:
    f = batched(echo_of(kind), size=1)
    made: list[Any] = []

    def observer(event: Any) -> None:
        end()
        f.stats().explain()
        made.append(f(2))

    end = f.observe(observer)
    assert f(1).result(LIMIT) == 1
    until(lambda: made)
    assert made[0].result(LIMIT) == 2
    f.flush(LIMIT)
    assert len(made) == 1
