"""`priority`: higher ones are dispatched first, and nothing starves (contract 3)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchify import DeadlineExceeded, batched
from tests.gates import LATER, SOON, busy, busy_on, echo, flat, gated_of
from tests.limits import LIMIT
from tests.manual import ManualSeam, in_thread, until

PATIENCE = 1.0  # seconds for which items of higher priority may overtake an item


def test_higher_priorities_are_dispatched_first_and_equal_ones_in_order_of_submission(
    kind: str,
) -> None:
    f, gated = busy(kind, size=1)
    futures = [f.options(priority=p)((p, n)) for n, p in enumerate((0, 2, 1, 2, 0, 3, 1))]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    ran = [batch[0] for batch in gated.batches[1:]]
    assert ran == [(3, 5), (2, 1), (2, 3), (1, 2), (1, 6), (0, 0), (0, 4)]


def test_calls_without_a_priority_have_priority_zero(kind: str) -> None:
    f, gated = busy(kind, size=1)
    futures = [f.options(priority=-1)("low"), f("none"), f.options(priority=1)("high"), f("too")]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches[1:] == [["high"], ["none"], ["too"], ["low"]]


def test_negative_fractional_and_huge_priorities(kind: str) -> None:
    priorities = [0, -1, 0.5, 10**400, -(10**400), 1e308, -1e308, 2, -0.25]
    f, gated = busy(kind, size=1)
    futures = [f.options(priority=p)(p) for p in priorities]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert [batch[0] for batch in gated.batches[1:]] == sorted(priorities, reverse=True)


def test_the_list_is_in_the_order_of_submission(kind: str) -> None:
    f, gated = busy(kind, size=3)
    futures = [f.options(priority=p)((p, n)) for n, p in enumerate((1, 0, 3, 2, 3, 0))]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches[1:] == [[(3, 2), (2, 3), (3, 4)], [(1, 0), (0, 1), (0, 5)]]
    assert [x.result(0) for x in futures] == [
        ("done", (p, n)) for n, p in enumerate((1, 0, 3, 2, 3, 0))
    ]


@given(
    st.lists(st.sampled_from([0, 0, 1, -1, 2.5, 100]), max_size=14),
    st.integers(1, 5),
    st.sets(st.integers(0, 13)),
)
def test_batches_as_a_sorted_list_would_form_them(
    priorities: list[float], size: int, cancelled: set[int]
) -> None:
    seam = ManualSeam()  # no time passes: nothing grows old
    f, gated = busy_on(seam, size=size)
    futures = {n: f.options(priority=p)(n) for n, p in enumerate(priorities)}
    gone = cancelled & set(futures)
    for n in gone:
        assert futures[n].cancel()
    gated.open()
    f.close(LIMIT)
    line = sorted(set(futures) - gone, key=lambda n: (-priorities[n], n))
    assert gated.batches[1:] == [sorted(line[at : at + size]) for at in range(0, len(line), size)]


@pytest.mark.parametrize(
    ("value", "error"),
    [("high", TypeError), (True, TypeError), (None, TypeError), (1j, TypeError)]
    + [([], TypeError), (math.nan, ValueError)],
    ids=str,
)
def test_bad_priorities_are_refused_by_name(value: Any, error: type[Exception]) -> None:
    f = batched(echo)
    with pytest.raises(error, match="priority"):
        f.options(priority=value)


def test_nothing_starves_under_a_flood_of_higher_ones() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam, size=1)
    started = 1
    for n in range(3):
        f(("old", n))
    seam.now += 1.5 * PATIENCE
    for n in range(20):
        f.options(priority=5)(("new", n))
    for _ in range(6):
        started += 1
        gated.release()
        gated.wait_started(started)
    who = [batch[0][0] for batch in gated.batches[1:7]]
    assert who in (["old", "new"] * 3, ["new", "old"] * 3)
    assert [batch[0] for batch in gated.batches if batch[0] and batch[0][0] == "old"] == [
        ("old", n) for n in range(3)
    ]
    gated.open()
    f.close(LIMIT)


def test_every_item_runs_in_a_lasting_flood() -> None:
    """More items arrive than can be run, and each batch takes a while."""
    seam = ManualSeam()
    f, gated = busy_on(seam, size=2, capacity=None)
    low = [f.options(priority=-10)(("low", n)) for n in range(6)]
    for started in range(2, 12):
        for _ in range(4):
            f.options(priority=started)("high")
        seam.now += 0.75 * PATIENCE
        gated.release()
        gated.wait_started(started)
    gated.release()
    assert all(future.result(LIMIT) for future in low)
    gated.open()
    f.close(LIMIT)


def test_higher_priorities_overtake_an_item_until_its_patience_ends() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam, size=1)
    f("low")
    seam.now += 0.5 * PATIENCE
    for n in range(9):
        f.options(priority=1)(n)
    gated.open()
    f.close(LIMIT)
    assert gated.batches[1:] == [[n] for n in range(9)] + [["low"]]


def test_no_group_of_items_starves_another() -> None:
    seam = ManualSeam()
    f, gated = busy_on(seam, size=2, key=lambda item: item and item[0])
    rare = f(("rare", 0))
    seam.now += 1.5 * PATIENCE
    for n in range(20):
        f.options(priority=5)(("busy", n))
    for started in (2, 3):
        gated.release()
        gated.wait_started(started)
    assert [("rare", 0)] in gated.batches
    gated.open()
    assert rare.result(LIMIT)
    f.close(LIMIT)


def test_priorities_with_keys(kind: str) -> None:
    f, gated = busy(kind, size=2, key=lambda item: item and item[0])
    calls = [("a", 0), ("a", 1), ("b", 0), ("b", 7), ("c", 5), ("a", 6)]
    futures = [f.options(priority=p)((who, p)) for who, p in calls]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches[1:] == [
        [("b", 0), ("b", 7)],  # the highest of all is here, and brings its like
        [("a", 1), ("a", 6)],
        [("c", 5)],
        [("a", 0)],
    ]


def test_priorities_with_weights(kind: str) -> None:
    f, gated = busy(kind, size=10, weight=lambda item: item and item[1], max_weight=10)
    calls = [(0, 6), (1, 4), (2, 7), (1, 3), (2, 2), (0, 1)]
    futures = [f.options(priority=p)((p, weight)) for p, weight in calls]
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    rest = gated.batches[1:]
    assert rest[0] == [(2, 7), (2, 2)]
    assert rest[1] == [(1, 4), (1, 3)]
    assert all(sum(weight for _, weight in batch) <= 10 for batch in rest)
    assert sorted(flat(rest)) == sorted(calls)


def test_priorities_of_one_tick_on_a_loop(kind: str) -> None:
    gated = gated_of(kind)
    f = batched(gated, size=1)

    async def main() -> None:
        first = f(0)
        while not gated.batches:
            await asyncio.sleep(0.001)
        futures = [f.options(priority=p)(p) for p in (1, 3, 2, -1)]
        gated.open()
        await asyncio.wait_for(asyncio.gather(first, *futures), LIMIT)

    asyncio.run(main())
    assert gated.batches == [[0], [3], [2], [1], [-1]]


def test_priorities_on_a_method_and_with_extra_arguments() -> None:
    ran: list[Any] = []
    gate = threading.Event()
    begun = threading.Event()

    class Store:
        @batched(size=1)
        def insert(self, items: list[int], table: str) -> None:
            begun.set()
            assert gate.wait(LIMIT)
            ran.append((items, table))

    store = Store()
    store.insert(0, "a")
    assert begun.wait(LIMIT)
    for n, table in enumerate("abab"):
        store.insert.options(priority=n)(n, table)  # type: ignore[call-arg]
    gate.set()
    store.insert.flush(LIMIT)
    assert ran == [([0], "a"), ([3], "b"), ([2], "a"), ([1], "b"), ([0], "a")]


def test_priority_and_deadline_together(kind: str) -> None:
    f, gated = busy(kind, size=1)
    late = f.options(priority=9, deadline=SOON)(9)
    futures = [f.options(priority=p, deadline=LATER)(p) for p in (1, 2)]
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches == [[0], [2], [1]]


def test_capacity_is_first_come_first_served_whatever_the_priority() -> None:
    f, gated = busy(size=1, capacity=2)
    f(1)
    first = in_thread(f.options(priority=1), 2)
    until(lambda: f.stats().submitted == 3)
    second = in_thread(f.options(priority=9), 3)
    until(lambda: f.stats().submitted == 4)
    gated.release()
    assert first.result() is not None
    assert not second.is_done()
    gated.open()
    assert second.result() is not None
    f.flush(LIMIT)
    assert sorted(gated.batches) == [[0], [1], [2], [3]]
