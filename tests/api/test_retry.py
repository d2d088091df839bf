"""`Retry`: items that run again, and when (contract 5)."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from batchify import BadResult, BatchifyError, Closed, QueueFull, Retry, RetryExhausted, batched
from tests.api.fickle import fickle
from tests.api.shapes import (
    NEVER,
    Again,
    Runs,
    all_distinct,
    balanced,
    done,
    errors,
    make,
    results,
    shaped,
)
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until


def test_attempts_count_the_first_run(shape: str) -> None:
    runs = Runs(lambda n: Retry() if n == 0 else Retry(attempts=n))
    f = make(shape, runs, size=8, linger=None)
    futures = [f(n) for n in range(6)]
    f.flush(LIMIT)
    told = errors(futures)
    assert [type(error) for error in told] == [RetryExhausted] * 6
    assert all(isinstance(error, BatchifyError) for error in told)
    assert [runs.runs_of(n) for n in range(6)] == [3, 1, 2, 3, 4, 5]
    stats = f.stats()
    assert (stats.retried, stats.failed) == (2 + 0 + 1 + 2 + 3 + 4, 6)


def test_an_item_that_comes_right_in_time_has_its_result(shape: str) -> None:
    runs = Runs(Again(3, Retry))
    f = make(shape, runs, size=3, linger=None)
    futures = [f(n) for n in range(3)]
    assert results(futures) == done(range(3))
    assert runs.batches == [[0, 1, 2]] * 3
    stats = f.stats()
    assert (stats.retried, stats.succeeded, stats.accepted, stats.batches) == (6, 3, 3, 3)


def test_the_neighbours_have_their_results_at_once(shape: str) -> None:
    runs = Runs(lambda n: Retry(after=NEVER) if n == 1 else ("done", n))
    f = make(shape, runs, size=3, linger=None)
    futures = [f(n) for n in range(3)]
    assert results(futures[::2]) == done([0, 2])
    until(lambda: f.stats().retried == 1)
    assert not futures[1].done()
    stats = balanced(f)
    assert (stats.pending, stats.running, stats.succeeded) == (1, 0, 2)
    assert futures[1].cancel()


def test_exhausted_comes_from_the_cause(shape: str) -> None:
    cause = TimeoutError("429")
    f = make(shape, Runs(lambda n: Retry(attempts=2, cause=cause if n else None)), linger=None)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    told = errors(futures)
    assert told[0].__cause__ is None
    for error in told[1:]:
        assert (type(error.__cause__), error.__cause__.args) == (TimeoutError, ("429",))
    assert all_distinct(told)
    assert told[1].__cause__ is not told[2].__cause__


def test_the_last_cause_counts(kind: str) -> None:
    causes = iter([ValueError("first"), LookupError("last")])
    f = make(kind, Runs(lambda n: Retry(attempts=2, cause=next(causes))))
    error = f(1).exception(LIMIT)
    assert type(error.__cause__) is LookupError


@pytest.mark.parametrize("returned", [Retry(), Retry])
def test_a_retry_that_is_no_element_is_a_bad_result(returned: Any, kind: str) -> None:
    f = make(kind, lambda items: returned)
    assert type(f(1).exception(LIMIT)) is BadResult
    assert f.stats().retried == 0


@pytest.mark.parametrize(
    ("given_", "error"),
    [
        ({"after": -1}, ValueError), ({"after": math.nan}, ValueError),
        ({"after": math.inf}, ValueError), ({"after": "1"}, TypeError),
        ({"after": True}, TypeError), ({"after": None}, TypeError),
        ({"attempts": 0}, ValueError), ({"attempts": -1}, ValueError),
        ({"attempts": 1.5}, TypeError), ({"attempts": True}, TypeError),
        ({"attempts": None}, TypeError), ({"cause": "429"}, TypeError),
        ({"cause": ValueError}, TypeError),
    ],
)  # fmt: skip
def test_a_retry_checks_its_arguments_by_name(
    given_: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error, match=next(iter(given_))):
        Retry(**given_)


def test_a_wrong_retry_in_the_function_fails_the_batch_and_loses_no_item(kind: str) -> None:
    f = make(kind, Runs(lambda n: Retry(attempts=0)))
    assert type(f(1).exception(LIMIT)) is ValueError


def test_the_delay_is_kept_and_holds_no_worker() -> None:
    seam = ManualSeam()
    again = Again(2, lambda: Retry(after=timedelta(seconds=10)))
    runs = Runs(lambda n: again(n) if n == 0 else ("done", n))
    f = batched_with(seam, runs, size=4)
    late = f(0)
    seam.rest()
    assert (balanced(f).pending, f.stats().running) == (1, 0)
    assert results([f(n) for n in range(1, 4)]) == done([1, 2, 3])
    seam.advance(9.9)
    assert runs.runs_of(0) == 1
    seam.advance(0.1)
    assert late.result(LIMIT) == ("done", 0)
    assert runs.runs_of(0) == 2
    f.close(LIMIT)


def test_each_delay_ends_at_its_own_time() -> None:
    seam = ManualSeam()
    seen: Counter[int] = Counter()

    def run(items: list[int]) -> list[Any]:
        seen.update(items)
        return [("done", n) if seen[n] > 1 else Retry(after=n) for n in items]

    f = batched_with(seam, run, size=3, linger=None)
    futures = {n: f(n) for n in (3, 1, 2)}
    seam.rest()
    for n in (1, 2, 3):
        assert not futures[n].done()
        seam.advance(1)
        assert futures[n].result(LIMIT) == ("done", n)
        assert sum(future.done() for future in futures.values()) == n
    f.close(LIMIT)


def test_the_delay_counts_again_for_each_run() -> None:
    seam = ManualSeam()
    runs = Runs(lambda n: Retry(after=5))
    f = batched_with(seam, runs)
    future = f(1)
    seam.rest()
    for ran in (1, 2):
        seam.advance(4.9)
        assert len(runs.batches) == ran
        seam.advance(0.1)
    assert len(runs.batches) == 3
    assert type(future.exception(0)) is RetryExhausted
    f.close(LIMIT)


@pytest.mark.parametrize("linger", [NEVER, None])
def test_retried_items_do_not_linger_again(linger: float | None, kind: str) -> None:
    f = make(kind, Runs(Again(2, lambda: Retry(after=0.001))), size=2, linger=linger)
    assert results([f(1), f(2)]) == done([1, 2])


@pytest.mark.parametrize("end", ["flush", "close", "with", "aflush", "aclose"])
def test_the_delay_is_cut_short(end: str, shape: str) -> None:
    runs = Runs(Again(2, lambda: Retry(after=NEVER)))
    f = make(shape, runs, size=2, linger=None)
    futures = [f(1), f(2)]
    until(lambda: f.stats().retried == 2)
    if end == "with":
        with f:
            pass
    elif end.startswith("a"):
        asyncio.run(getattr(f, end)(LIMIT))
    else:
        getattr(f, end)(LIMIT)
    assert [future.result(0) for future in futures] == done([1, 2])
    assert runs.batches == [[1, 2], [1, 2]]


@pytest.mark.parametrize("end", ["flush", "close"])
@pytest.mark.parametrize("shape", ["def", "generator"])
def test_the_delay_is_cut_short_even_for_items_retried_during_the_flush(
    end: str, shape: str
) -> None:
    """Items accepted before the flush are dispatched now, even if they run and must be retried."""
    gated = Gated()
    again = Again(3, lambda: Retry(after=NEVER))

    def run(items: list[int]) -> list[Any]:
        gated(items)
        return [again(item) for item in items]

    f = make(shape, run, size=1)
    future = f(1)
    gated.wait_started(1)
    ending = in_thread(getattr(f, end))
    in_flush = threading.Event()
    in_flush.wait(0.05)  # no event announces this
    gated.open()
    try:
        assert future.result(LIMIT) == ("done", 1)
        ending.result()
    finally:
        future.cancel()
    assert gated.batches == [[1], [1], [1]]


@pytest.mark.parametrize("shape", ["def", "async def"])
def test_the_end_of_the_process_cuts_the_delay_short(shape: str) -> None:
    script = f"""
from batchify import Retry, batched
seen = []
{"async " if shape == "async def" else ""}def run(items):
    seen.append(items)
    print("run", *items, flush=True)
    return [Retry(after={NEVER})] * len(items) if len(seen) < 3 else items
f = batched(run)
future = f(1)
future.add_done_callback(lambda future: print("ended", future.result(), flush=True))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert ended.stdout.split("\n") == ["run 1"] * 3 + ["ended 1", ""], ended.stderr
    assert ended.returncode == 0


@pytest.mark.parametrize("after", [0.0, 10.0])
@pytest.mark.parametrize("shape", ["def", "generator", "mapping"])
def test_items_retried_together_keep_their_order(after: float, shape: str) -> None:
    seam = ManualSeam()
    runs = Runs(Again(3, lambda: Retry(after=after)))
    f = batched_with(seam, shaped(shape, runs), size=5, linger=None)
    futures = [f(n) for n in range(5)]
    seam.rest()
    seam.advance(after)
    seam.advance(after)
    assert results(futures) == done(range(5))
    assert runs.batches == [[0, 1, 2, 3, 4]] * 3
    f.close(LIMIT)


def test_retried_items_keep_their_order_on_a_loop() -> None:
    for shape in ("async def", "async generator"):
        runs = Runs(Again(3, lambda: Retry(after=0)))
        f = make(shape, runs, size=5, linger=None)
        results([f(n) for n in range(5)])
        assert runs.batches == [[0, 1, 2, 3, 4]] * 3


def test_retried_items_of_a_bisected_batch_keep_their_order(kind: str) -> None:
    again = Again(2, Retry)
    runs: list[list[int]] = []

    def run(items: list[int]) -> list[Any]:
        if 3 in items:
            raise ValueError
        runs.append(list(items))
        return [again(item) for item in items]

    f = make(kind, run, linger=None, isolate=True)
    futures = [f(n) for n in range(8)]
    f.flush(LIMIT)
    assert type(futures[3].exception(0)) is ValueError
    assert runs[-1] == [0, 1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize("options", [{}, {"key": lambda n: n % 1}, {"dedupe": True}], ids=list)
def test_retried_items_go_to_the_front_of_their_kind(options: dict[str, Any]) -> None:
    gated = Gated()
    again = Again(2, Retry)

    def run(items: list[int]) -> list[Any]:
        gated(items)
        return [again(n) if n < 2 else ("done", n) for n in items]

    f = make("def", run, size=3, **options)
    futures = [f(0)]
    gated.wait_started(1)
    futures += [f(n) for n in (2, 1, 3, 4)]
    gated.open()
    assert results(futures) == done([0, 2, 1, 3, 4])
    assert gated.batches == [[0], [0, 2, 1], [1, 3, 4]]


@pytest.mark.parametrize("other", ["another key", "a mapping of the same"])
def test_an_item_that_runs_again_and_again_starves_no_others(other: str) -> None:
    gate = threading.Event()
    runs: list[str] = []

    def run(items: list[str]) -> list[Any]:
        gate.wait(LIMIT)
        runs.append(items[0])
        return [Retry(attempts=100) if item == "again" else item for item in items]

    has_key = other == "another key"
    f = make("def", run, size=2, **({"key": lambda item: item} if has_key else {}))
    busy = f("busy")
    until(lambda: f.stats().running == 1)
    futures = [f("again")]
    if has_key:
        futures += [f("other") for _ in range(4)]
        gate.set()
        assert [future.result(LIMIT) for future in futures[1:]] == ["other"] * 4
    else:
        calls = in_thread(lambda: list(f.map(["other"] * 4)))
        until(lambda: f.stats().accepted == 6)
        gate.set()
        assert calls.result(LIMIT) == ["other"] * 4
    assert busy.result(0) == "busy"
    assert isinstance(futures[0].exception(LIMIT), RetryExhausted)
    assert [place for place, item in enumerate(runs) if item == "other"] == [2, 3]
    assert runs.count("again") == 100


def test_a_retried_item_goes_before_later_ones_also_after_a_delay() -> None:
    seam = ManualSeam()
    gated = Gated()
    again = Again(2, lambda: Retry(after=10))

    def run(items: list[str]) -> list[Any]:
        gated(items)
        return [again(n) if n == "late" else ("done", n) for n in items]

    f = batched_with(seam, run, size=2)
    futures = [f("late")]
    gated.wait_started(1)
    gated.release()
    seam.rest()
    futures.append(f("busy"))
    gated.wait_started(2)
    futures += [f("one"), f("two"), f("three")]
    with seam.changed:
        seam.now += 10
    gated.open()
    assert results(futures) == done(["late", "busy", "one", "two", "three"])
    assert gated.batches == [["late"], ["busy"], ["late", "one"], ["two", "three"]]
    f.close(LIMIT)


def test_an_item_that_waits_for_a_retry_is_unresolved_and_keeps_its_capacity() -> None:
    seam = ManualSeam()
    f = batched_with(seam, Runs(Again(2, lambda: Retry(after=10))), size=1, capacity=1)
    first = f(1)
    seam.rest()
    with pytest.raises(QueueFull):
        f.submit_nowait(2)
    seam.advance(10)
    assert first.result(LIMIT) == ("done", 1)
    second = f.submit_nowait(2)
    seam.rest()
    assert second.cancel()
    assert not f.submit_nowait(1).cancelled()
    f.close(LIMIT)
    balanced(f)


def test_cancelling_an_item_that_waits_to_run_again(shape: str) -> None:
    runs = Runs(lambda n: Retry(after=NEVER))
    f = make(shape, runs, size=2, linger=None, capacity=2)
    futures = [f(1), f(2)]
    until(lambda: f.stats().retried == 2)
    assert futures[0].cancel()
    assert futures[0].cancelled()
    stats = balanced(f)
    assert (stats.cancelled, stats.pending) == (1, 1)
    third = f.submit_nowait(3)  # its capacity is free
    f.close(LIMIT)
    assert runs.runs_of(1) == 1
    assert [type(error) for error in errors([futures[1], third])] == [RetryExhausted] * 2


def test_cancelling_an_item_that_waits_to_run_again_on_a_loop(kind: str) -> None:
    async def main() -> None:
        runs = Runs(lambda n: Retry(after=NEVER))
        f: Any = batched(shaped(kind, runs))
        future = f(1)
        while not f.stats().retried:
            await asyncio.sleep(0.001)
        task = asyncio.ensure_future(asyncio.wait_for(future, None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert future.cancelled()
        await f.aclose(LIMIT)
        assert runs.batches == [[1]]
        assert balanced(f).cancelled == 1

    asyncio.run(main())


def test_the_stop_ends_items_that_wait_for_a_retry(shape: str) -> None:
    runs = Runs(lambda n: Retry(after=NEVER))
    f = make(shape, runs, size=2, linger=None)
    futures = [f(1), f(2)]
    until(lambda: f.stats().retried == 2)
    f.close(LIMIT, cancel=True)
    assert [type(error) for error in errors(futures)] == [Closed] * 2
    assert all_distinct(errors(futures))
    assert runs.batches == [[1, 2]]
    assert f.stats().failed == 2


@pytest.mark.parametrize("shape", ["def", "generator", "mapping"])
def test_the_stop_ends_running_items_that_ask_for_a_retry(shape: str) -> None:
    gated = Gated()

    def run(items: list[int]) -> list[Any]:
        gated(items)
        return [Retry() if n else ("done", n) for n in items]

    f = make(shape, run, size=2, linger=None)
    futures = [f(0), f(1)]
    gated.wait_started(1)
    waiting = f(2)
    closing = in_thread(lambda: f.close(cancel=True))
    assert type(waiting.exception(LIMIT)) is Closed
    gated.open()
    closing.result()
    assert futures[0].result(0) == ("done", 0)
    assert type(futures[1].exception(0)) is Closed
    assert gated.batches == [[0, 1]]


def test_a_late_close_ends_items_that_wait_for_a_retry() -> None:
    gated = Gated()

    def run(items: list[int]) -> list[Any]:
        gated(items)
        return [Retry()] * len(items)

    f = make("def", run)
    future = f(1)
    gated.wait_started(1)
    with pytest.raises(TimeoutError):
        f.close(0.02)
    assert type(future.exception(0)) is Closed
    gated.open()
    f.start()
    assert type(f(2).exception(LIMIT)) is RetryExhausted
    assert gated.batches == [[1], [2], [2], [2]]


def test_retry_in_map_and_amap(kind: str) -> None:
    runs = Runs(Again(2, Retry))
    f = make(kind, runs, size=8)
    assert list(f.map(range(20))) == done(range(20))
    assert list(f.map(iter(range(20, 25)))) == done(range(20, 25))

    async def main() -> list[Any]:
        return [result async for result in f.amap(range(25, 40))]

    assert asyncio.run(main()) == done(range(25, 40))
    assert f.stats().retried == 40
    assert balanced(f).succeeded == 40


def test_retry_awaited_on_a_loop(shape: str) -> None:
    async def main() -> None:
        f = make(shape, Runs(Again(3, lambda: Retry(after=0.001))), size=4)
        assert await asyncio.gather(*[f(n) for n in range(10)]) == done(range(10))
        with pytest.raises(RetryExhausted):
            g = make(shape, Runs(lambda n: Retry(cause=LookupError())))
            await g(1)
        await f.aclose(LIMIT)
        await g.aclose(LIMIT)

    asyncio.run(main())


def test_each_extra_argument_has_its_own_front(kind: str) -> None:
    seen: list[Any] = []
    again = Again(2, Retry)

    def run(items: list[int], table: str) -> list[Any]:
        seen.append((table, list(items)))
        return [again((table, item)) for item in items]

    f = make(kind, run, linger=None)
    futures = [f(n, table) for table in "ab" for n in range(2)]
    f.flush(LIMIT)
    assert results(futures) == done([(table, n) for table in "ab" for n in range(2)])
    assert sorted(seen) == [(t, [0, 1]) for t in "aabb"]


@pytest.mark.parametrize("detail", ["hash", "eq"])
def test_a_key_that_fails_later_loses_no_retried_item(detail: str, kind: str) -> None:
    Fickle = fickle(detail)
    gated = Gated()
    again = Again(2, Retry)

    def run(items: list[Any]) -> list[Any]:
        gated(items)
        return [again(item) for item in items]

    f = make(kind, run, key=lambda item: item[1])
    futures = [f((0, Fickle()))]
    gated.wait_started(1)
    futures += [f((n, Fickle())) for n in (1, 2)]
    Fickle.is_good = False
    gated.open()
    ended = [future.exception(LIMIT) for future in futures]
    assert ended == [None] * 3 or {type(x) for x in ended} <= {type(None), LookupError}
    Fickle.is_good = True
    assert f((3, Fickle())).result(LIMIT)  # the worker keeps running
