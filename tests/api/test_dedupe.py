"""`dedupe`: equal items reach the function once (contract 2)."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchify import (
    BadResult,
    BatchAborted,
    MissingResult,
    QueueFull,
    Retry,
    RetryExhausted,
    batched,
)
from tests.api.fickle import fickle
from tests.api.shapes import (
    NEVER,
    SHAPES,
    Again,
    Runs,
    all_distinct,
    balanced,
    done,
    errors,
    make,
    results,
)
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until


def test_equal_items_reach_the_function_once_and_every_caller_has_a_result(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=True)
    items = [3, 1, 3, 2, 1, 3]
    futures = [f(item) for item in items]
    assert all_distinct(futures)
    f.flush(LIMIT)
    assert results(futures) == done(items)
    assert runs.batches == [[3, 1, 2]]
    stats = f.stats()
    assert (stats.deduplicated, stats.accepted, stats.succeeded) == (3, 6, 6)


def test_a_function_may_decide_which_items_are_equal(shape: str) -> None:
    runs = Runs(str.upper)
    f = make(shape, runs, linger=None, dedupe=str.lower)
    futures = [f(word) for word in ["Bee", "bee", "ant", "BEE", "Ant"]]
    f.flush(LIMIT)
    assert results(futures) == ["BEE", "BEE", "ANT", "BEE", "ANT"]
    assert [[item.lower() for item in batch] for batch in runs.batches] == [["bee", "ant"]]
    assert f.stats().deduplicated == 3


def test_a_function_of_the_item_makes_unhashable_items_equal(kind: str) -> None:
    runs = Runs(lambda item: item["id"])
    f = make(kind, runs, linger=None, dedupe=lambda row: row["id"])
    futures = [f({"id": n % 2}) for n in range(6)]
    f.flush(LIMIT)
    assert results(futures) == [0, 1, 0, 1, 0, 1]
    assert runs.batches == [[{"id": 0}, {"id": 1}]]


def test_without_equal_items_nothing_is_different(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=True)
    futures = [f(n) for n in range(5)]
    f.flush(LIMIT)
    assert results(futures) == done(range(5))
    assert runs.batches == [list(range(5))]
    assert f.stats().deduplicated == 0


def test_without_dedupe_equal_items_all_reach_the_function(kind: str) -> None:
    runs = Runs()
    f = make(kind, runs, linger=None)
    futures = [f(1), f(1)]
    f.flush(LIMIT)
    assert results(futures) == done([1, 1])
    assert runs.batches == [[1, 1]]
    assert f.stats().deduplicated == 0


def test_dedupe_is_no_cache(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, dedupe=True)
    assert [f(7).result(LIMIT) for _ in range(3)] == done([7, 7, 7])
    assert runs.batches == [[7], [7], [7]]
    assert f.stats().deduplicated == 0


def test_equal_items_of_other_kinds_are_run_for_each_kind(kind: str) -> None:
    seen: list[Any] = []

    def run(items: list[int], table: str) -> list[str]:
        seen.append((items, table))
        return [table] * len(items)

    f = make(kind, run, linger=None, dedupe=True)
    futures = [f(1, "a"), f(1, "b"), f(1, "a")]
    f.flush(LIMIT)
    assert results(futures) == ["a", "b", "a"]
    assert seen == [([1], "a"), ([1], "b")]
    assert f.stats().deduplicated == 1


@pytest.mark.parametrize("cancelled", [0, 1, 2])
def test_cancelling_one_of_equal_items_never_touches_the_others(cancelled: int, shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=True)
    futures = [f(1), f(1), f(1)]
    lost = futures.pop(cancelled)
    assert lost.cancel()
    f.flush(LIMIT)
    assert lost.cancelled()
    assert results(futures) == done([1, 1])
    assert runs.batches == [[1]]
    stats = f.stats()
    assert (stats.cancelled, stats.succeeded, stats.deduplicated) == (1, 2, 1)


@pytest.mark.parametrize("detached", [0, 1])
def test_detaching_one_of_equal_items_on_a_loop_never_touches_the_other(
    detached: int, kind: str
) -> None:
    started, go = threading.Event(), threading.Event()

    def run(items: list[int]) -> list[Any]:
        started.set()
        assert go.wait(LIMIT)
        return done(items)

    async def run_async(items: list[int]) -> list[Any]:
        started.set()
        while not go.is_set():
            await asyncio.sleep(0.001)
        return done(items)

    async def main() -> None:
        f: Any = batched(run if kind == "def" else run_async, size=2, linger=None, dedupe=True)
        futures = [f(1), f(1)]
        while not started.is_set():
            await asyncio.sleep(0.001)
        lost = futures.pop(detached)
        assert lost.cancel()
        assert lost.cancelled()
        assert balanced(f).cancelled == 1
        go.set()
        assert await futures[0] == ("done", 1)
        assert balanced(f).succeeded == 1
        await f.aclose(LIMIT)

    asyncio.run(main())


def test_errors_of_equal_items_are_own_objects(shape: str) -> None:
    def fail(items: list[int]) -> list[Any]:
        raise LookupError("no luck", len(items))

    f = make(shape, fail, linger=None, dedupe=True)
    futures = [f(n) for n in (1, 1, 2, 1)]
    f.flush(LIMIT)
    found = errors(futures)
    assert [(type(error), error.args) for error in found] == [(LookupError, ("no luck", 2))] * 4
    assert all_distinct(found)
    assert f.stats().failed == 4


def test_an_element_that_is_an_error_goes_to_all_equal_items_and_to_no_others(
    shape: str,
) -> None:
    runs = Runs(lambda n: LookupError(n) if n == 1 else ("done", n))
    f = make(shape, runs, linger=None, dedupe=True)
    bad, good = [f(1), f(1), f(1)], [f(2), f(2)]
    f.flush(LIMIT)
    assert [(type(error), error.args) for error in errors(bad)] == [(LookupError, (1,))] * 3
    assert all_distinct(errors(bad))
    assert results(good) == done([2, 2])


def test_a_mapping_that_lacks_an_item_lacks_it_for_all_equal_ones(kind: str) -> None:
    f = make(kind, lambda items: {2: "two"}, linger=None, dedupe=True)
    futures = [f(n) for n in (1, 2, 1, 2)]
    f.flush(LIMIT)
    assert results(futures[1::2]) == ["two", "two"]
    missing = errors(futures[::2])
    assert [type(error) for error in missing] == [MissingResult] * 2
    assert all_distinct(missing)


def test_a_wrong_number_of_results_is_compared_with_the_items_of_the_call(kind: str) -> None:
    f = make(kind, lambda items: [*items, 0], linger=None, dedupe=True)
    futures = [f(n) for n in (1, 1, 2)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [BadResult] * 3
    f = make(kind, lambda items: items * 2, linger=None, dedupe=True)
    futures = [f(n) for n in (1, 1)]  # as many results as callers are wrong, too
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [BadResult] * 2


@pytest.mark.parametrize("shape", ["generator", "async generator"])
def test_equal_items_get_what_is_yielded_as_soon_as_it_is(shape: str) -> None:
    go = threading.Event()

    def slow(items: list[int]) -> Iterator[Any]:
        yield from done(items[:1])
        assert go.wait(LIMIT)
        yield LookupError("second")
        yield from done(items[2:3])

    f = make(shape, slow, linger=None, dedupe=True)
    futures = [f(n) for n in (1, 2, 1, 3, 3, 2, 4)]
    flushing = in_thread(f.flush, LIMIT)
    assert results([futures[0], futures[2]]) == done([1, 1])
    assert not futures[1].done()
    go.set()
    flushing.result()
    second = errors([futures[1], futures[5]])
    assert [type(error) for error in second] == [LookupError] * 2
    assert all_distinct(second)
    assert results(futures[3:5]) == done([3, 3])
    assert type(futures[6].exception(LIMIT)) is BadResult
    assert f.stats().deduplicated == 3


def test_an_unhashable_item_is_a_type_error_to_its_caller_alone(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=True)
    before = f(1)
    with pytest.raises(TypeError, match="dedupe=True needs hashable items, got list"):
        f([1])
    after = f(1)
    f.flush(LIMIT)
    assert results([before, after]) == done([1, 1])
    assert (f.stats().rejected, f.stats().accepted) == (1, 2)


def test_an_error_of_the_dedupe_function_reaches_its_caller_only(kind: str) -> None:
    runs = Runs()
    f = make(kind, runs, linger=None, dedupe=lambda n: {} if n == 5 else 10 // n)
    before = f(1)
    with pytest.raises(ZeroDivisionError):
        f(0)
    with pytest.raises(TypeError):
        f(5)
    f.flush(LIMIT)
    assert before.result(0) == ("done", 1)
    assert f.stats().rejected == 2


class Quarrel:
    """Hashable, and its `__eq__` raises (once the test says so)."""

    error: type[BaseException] = ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise self.error("no comparison")

    def __hash__(self) -> int:
        return 1


class Abort(Quarrel):
    error = KeyboardInterrupt


class Exit(Quarrel):
    error = SystemExit


@pytest.mark.parametrize("quarrel", [Quarrel, Abort, Exit])
def test_an_eq_that_raises_in_the_batch_loses_no_item(quarrel: type[Quarrel], shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, dedupe=lambda item: item[0])
    futures = [f((quarrel(), n)) for n in range(3)] + [f(("good", 3))]
    f.flush(LIMIT)
    assert all(future.done() for future in futures)
    told = errors(futures[:3])
    assert [type(error) for error in told] == [
        ZeroDivisionError if quarrel is Quarrel else BatchAborted
    ] * 3
    assert all_distinct(told)
    after = f(("good", 4))  # the worker keeps running
    f.flush(LIMIT)
    assert after.result(0) == ("done", ("good", 4))
    balanced(f)


@pytest.mark.parametrize("detail", ["hash", "eq"])
def test_a_hash_or_eq_that_fails_later_loses_no_item(detail: str, kind: str) -> None:
    Fickle = fickle(detail)
    f = make(kind, lambda items: [1] * len(items), linger=None, dedupe=True)
    futures = [f(Fickle()) for _ in range(3)]
    Fickle.is_good = False
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [LookupError] * 3
    Fickle.is_good = True
    after = f(Fickle())
    f.flush(LIMIT)
    assert after.result(0) == 1


def test_equal_items_run_again_together(shape: str) -> None:
    runs = Runs(Again(3, Retry))
    f = make(shape, runs, linger=None, dedupe=True)
    futures = [f(1), f(1), f(2)]
    f.flush(LIMIT)
    assert results(futures) == done([1, 1, 2])
    assert runs.runs_of(1) == 3
    assert f.stats().retried == 6


def test_equal_items_run_again_together_after_a_delay() -> None:
    seam = ManualSeam()
    runs = Runs(Again(3, lambda: Retry(after=10)))
    f = batched_with(seam, runs, size=3, linger=None, dedupe=True)
    futures = [f(1), f(1), f(2)]
    seam.rest()
    seam.advance(10)
    seam.advance(10)
    assert results(futures) == done([1, 1, 2])
    assert runs.batches == [[1, 2]] * 3
    f.close(LIMIT)


def test_equal_items_are_exhausted_each_with_an_error_of_its_own(shape: str) -> None:
    again = Retry(attempts=2, cause=TimeoutError("429"))
    runs = Runs(lambda n: again)
    f = make(shape, runs, linger=None, dedupe=True)
    futures = [f(1), f(1)]
    f.flush(LIMIT)
    told = errors(futures)
    assert [type(error) for error in told] == [RetryExhausted] * 2
    assert all_distinct(told)
    assert all_distinct([error.__cause__ for error in told] + [again.cause])
    assert runs.batches == [[1], [1]]


@pytest.mark.parametrize("options", [{}, {"key": lambda n: 0}], ids=["plain", "key"])
def test_an_equal_item_that_came_later_has_attempts_of_its_own(options: dict[str, Any]) -> None:
    batches: list[list[int]] = []
    late: list[Any] = []

    def run(items: list[int]) -> list[Any]:
        batches.append(list(items))
        if len(batches) == 1:
            late.append(f(1))
        return [Retry(attempts=2)] * len(items)

    f = make("def", run, dedupe=True, **options)
    first = f(1)
    assert isinstance(first.exception(LIMIT), RetryExhausted)
    assert isinstance(late[0].exception(LIMIT), RetryExhausted)
    assert batches == [[1], [1], [1]]  # both were in the second: the last run of one alone
    assert f.stats().retried == 2
    assert f.stats().deduplicated == 1


def test_cancelling_one_of_equal_items_that_wait_to_run_again() -> None:
    runs = Runs(Again(2, lambda: Retry(after=NEVER)))
    f = make("def", runs, size=2, linger=None, dedupe=True)
    futures = [f(1), f(1)]
    until(lambda: f.stats().retried == 2)
    assert futures[0].cancel()
    f.flush(LIMIT)
    assert futures[0].cancelled()
    assert futures[1].result(0) == ("done", 1)


def test_with_isolate_equal_items_are_at_fault_together(shape: str) -> None:
    def run(items: list[int]) -> list[Any]:
        calls.append(list(items))
        if 5 in items:
            raise ValueError(5)
        return done(items)

    calls: list[list[int]] = []
    f = make(shape, run, linger=None, dedupe=True, isolate=True)
    items = [1, 5, 2, 5, 3, 4, 1, 5]
    futures = [f(item) for item in items]
    f.flush(LIMIT)
    bad = [future for item, future in zip(items, futures, strict=True) if item == 5]
    good = [(item, future) for item, future in zip(items, futures, strict=True) if item != 5]
    assert [type(error) for error in errors(bad)] == [ValueError] * 3
    assert all_distinct(errors(bad))
    assert [future.result(0) for _, future in good] == done([item for item, _ in good])
    assert all(len(set(call)) == len(call) for call in calls)
    assert len(calls) <= 1 + 2 * math.log2(5) + 2


def test_with_on_error_equal_items_have_one_replacement(shape: str) -> None:
    seen: list[list[int]] = []

    def handle(failure: Any) -> list[Any]:
        seen.append(failure.items)
        return [("instead", item) for item in failure.items]

    def fail(items: list[int]) -> list[Any]:
        raise ValueError

    f = make(shape, fail, linger=None, dedupe=True, on_error=handle)
    futures = [f(n) for n in (1, 2, 1, 2)]
    f.flush(LIMIT)
    assert results(futures) == [("instead", n) for n in (1, 2, 1, 2)]
    assert seen == [[1, 2]]


def test_size_and_capacity_count_calls_not_groups() -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=3, dedupe=True)
    futures = [f(0)]
    gated.wait_started(1)
    futures += [f(1), f(1)]
    with pytest.raises(QueueFull):
        f.submit_nowait(1)
    gated.release()
    until(lambda: f.stats().succeeded == 1)
    futures.append(f(1))
    gated.open()
    assert results(futures) == done([0, 1, 1, 1])
    assert gated.batches == [[0], [1], [1]]


@given(
    st.lists(st.integers(0, 6), max_size=30),
    st.integers(1, 8),
    st.sampled_from(SHAPES),
    st.sets(st.integers(0, 6), max_size=2),
    st.booleans(),
)
def test_deduplicated_counts_what_the_function_was_spared(
    items: list[int], size: int, shape: str, bad: set[int], is_by_function: bool
) -> None:
    runs = Runs(lambda n: KeyError(n) if n in bad else ("done", n))
    f = make(
        shape, runs, size=size, linger=None, dedupe=(lambda n: str(n)) if is_by_function else True
    )
    futures = [f(item) for item in items]
    f.flush(LIMIT)
    for item, future in zip(items, futures, strict=True):
        if item in bad:
            assert type(future.exception(0)) is KeyError
        else:
            assert future.result(0) == ("done", item)
    assert all_distinct([e for e in errors(futures) if e is not None])
    assert all(len(set(batch)) == len(batch) <= size for batch in runs.batches)
    assert balanced(f).deduplicated == len(items) - sum(map(len, runs.batches))
    f.close(LIMIT)
