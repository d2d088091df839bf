"""`key`: only items of equal key share a batch (contract 2)."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchify import Retry, batched
from tests.api.shapes import PLAIN, Runs, balanced, done, make, results
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until

# ---- key ----


def test_only_items_of_equal_key_share_a_batch(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, size=100, linger=None, key=lambda n: n % 3)
    futures = [f(n) for n in range(30)]
    f.flush(LIMIT)
    assert results(futures) == done(range(30))
    assert runs.batches == [list(range(first, 30, 3)) for first in range(3)]


def test_each_key_fills_its_own_batch(kind: str) -> None:
    runs = Runs()
    f = make(kind, runs, size=3, linger=None, key=str.lower)
    futures = [f(letter) for letter in "abABab"]
    assert results(futures) == done("abABab")
    assert sorted(runs.batches) == [["a", "A", "a"], ["b", "B", "b"]]
    assert f.stats().reasons["size"] == 2


def test_of_the_keys_the_one_with_the_oldest_item_goes_first() -> None:
    gated = Gated()
    f = batched(gated, size=2, key=lambda item: item[0])
    futures = [f("x0")]
    gated.wait_started(1)
    futures += [f(item) for item in ["a1", "b1", "a2", "c1", "a3", "b2", "a4", "c2"]]
    gated.open()
    results(futures)
    assert gated.batches == [["x0"], ["a1", "a2"], ["b1", "b2"], ["c1", "c2"], ["a3", "a4"]]


def test_a_busy_key_never_starves_a_rare_one() -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=None, key=lambda item: item[0])
    numbers = itertools.count()

    def flood(count: int) -> None:
        for _ in range(count):
            f(("busy", next(numbers)))

    flood(6)
    gated.wait_started(1)  # it contains the first item, alone or with its neighbour
    rare = f(("rare", 0))
    for started in range(1, 5):
        flood(10)
        gated.release()
        gated.wait_started(started + 1)
    assert [("rare", 0)] in gated.batches[:5]  # the five before it were at most five batches
    gated.open()
    assert rare.result(LIMIT) == ("done", ("rare", 0))
    f.flush(LIMIT)


def test_an_error_of_the_key_function_reaches_its_caller_only(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, key=lambda n: 10 // n)
    before = f(3)
    for call in (f, f.submit, f.submit_nowait, f.options(timeout=1)):
        with pytest.raises(ZeroDivisionError):
            call(0)
    after = f(3.0)
    f.flush(LIMIT)
    assert results([before, after]) == done([3, 3])
    assert (f.stats().rejected, f.stats().accepted, f.stats().failed) == (4, 2, 0)


def test_an_unhashable_key_is_a_type_error_to_that_caller_alone(shape: str) -> None:
    runs = Runs()
    f = make(shape, runs, linger=None, key=lambda n: [n] if n == 13 else "all")
    before = f(1)
    with pytest.raises(TypeError, match="key"):
        f(13)
    after = f(2)
    f.flush(LIMIT)
    assert results([before, after]) == done([1, 2])
    assert runs.batches == [[1, 2]]
    assert f.stats().rejected == 1


def test_on_a_loop_too_the_call_itself_raises_what_key_weight_and_dedupe_raise(kind: str) -> None:
    def picky(item: int) -> int:
        return 10 // item

    async def main() -> None:
        for options in ({"key": picky}, {"weight": picky, "max_weight": 10}, {"dedupe": picky}):
            f = make(kind, Runs(), **options)
            with pytest.raises(ZeroDivisionError):
                f(0)
            with pytest.raises(ZeroDivisionError):
                await f.asubmit(0)
            assert await f(1) == ("done", 1)
            assert f.stats().rejected == 2
            await f.aclose(LIMIT)

    asyncio.run(main())


@pytest.mark.parametrize("shape", PLAIN)
def test_a_key_goes_together_with_extra_arguments(shape: str) -> None:
    seen: list[tuple[list[int], str, int]] = []

    def run(items: list[int], table: str, *, batch: int = 0) -> list[Any]:
        seen.append((list(items), table, batch))
        return items

    f = make(shape, run, linger=None, key=lambda n: n % 2)
    f(1, "a"), f(2, "a"), f(3, "b"), f(5, "a"), f(7, "a", batch=1), f(9, "b")
    f.flush(LIMIT)
    assert seen == [
        ([1, 5], "a", 0), ([2], "a", 0), ([3, 9], "b", 0), ([7], "a", 1),
    ]  # fmt: skip
    with pytest.raises(TypeError):
        f(1, [])


def test_equal_items_of_different_instances_with_equal_keys_stay_apart() -> None:
    seen: list[tuple[str, list[int]]] = []

    class Store:
        def __init__(self, name: str) -> None:
            self.name = name

        @batched(linger=None, key=lambda n: n % 2)
        def save(self, items: list[int]) -> None:
            seen.append((self.name, items))

    one, two = Store("one"), Store("two")
    for n in range(4):
        one.save(n), two.save(n)
    one.save.flush(LIMIT), two.save.flush(LIMIT)
    assert sorted(seen) == [
        ("one", [0, 2]), ("one", [1, 3]), ("two", [0, 2]), ("two", [1, 3]),
    ]  # fmt: skip


def test_when_keys_use_up_the_capacity_the_oldest_batch_is_dispatched() -> None:
    runs = Runs()
    f = make("def", runs, size=4, linger=None, capacity=4, key=lambda n: n)
    futures = [f(n) for n in range(4)]
    assert not any(future.done() for future in futures)
    futures.append(in_thread(f, 4).result())
    assert futures[0].result(LIMIT) == ("done", 0)
    assert f.stats().reasons["capacity"] >= 1
    assert runs.batches[0] == [0]


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 5), st.integers(1, 2))
def test_every_batch_is_of_one_key_and_keeps_its_order(
    keys: list[int], size: int, workers: int
) -> None:
    runs = Runs()
    f = batched(runs, size=size, workers=workers, key=lambda item: item[0])
    items = [(key, n) for n, key in enumerate(keys)]
    assert [future.result(LIMIT) for future in [f(item) for item in items]] == done(items)
    balanced(f)
    f.close(LIMIT)
    assert all(len({key for key, _ in batch}) == 1 for batch in runs.batches)
    assert all(batch == sorted(batch, key=lambda item: item[1]) for batch in runs.batches)
    assert all(len(batch) <= size for batch in runs.batches)
    assert sorted(itertools.chain(*runs.batches)) == sorted(items)


# ---- the books ----


def test_a_group_is_as_old_as_its_oldest_remaining_item() -> None:
    """One item was requeued in front of an older one, and both were cancelled."""
    seam = ManualSeam()
    let = {item: threading.Event() for item in ("w", "y1", "y2", "x", "y4")}
    began: list[list[str]] = []

    def work(items: list[str]) -> Iterator[Any]:
        began.append(list(items))
        for item in items:
            assert let[item].wait(LIMIT)
            yield Retry() if item == "y1" else item

    f = batched_with(seam, work, size=2, key=lambda item: item[0])
    f("w")
    until(lambda: began == [["w"]])
    first, last = f("y1"), f("y2")
    let["w"].set()
    until(lambda: len(began) == 2)
    seam.now = 3.0
    older = f("y3")
    f.linger = 0  # a changed limit dispatches the queue again
    seam.now = 5.0
    let["y1"].set()
    until(lambda: not first.running())
    assert older.cancel()
    seam.now = 6.0
    f("x")
    seam.now = 8.0
    f("y4")
    f.linger = 0
    assert first.cancel()
    for item in ("x", "y4", "y2"):
        let[item].set()
    f.close(LIMIT)
    assert last.result(0) == "y2"
    assert began == [["w"], ["y1", "y2"], ["x"], ["y4"]]
