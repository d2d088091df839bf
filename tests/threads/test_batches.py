"""How the engine for `def` forms batches: contract 3 and 8."""

from __future__ import annotations

import concurrent.futures

from batchify import batched
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, until


def test_a_call_gives_the_result_of_its_own_item() -> None:
    @batched
    def double(items: list[int]) -> list[int]:
        return [item * 2 for item in items]

    assert [double(n).result(LIMIT) for n in range(10)] == [n * 2 for n in range(10)]
    assert [f.result(LIMIT) for f in [double(n) for n in range(1000)]] == [
        n * 2 for n in range(1000)
    ]


def test_linger_zero_runs_at_once_when_idle_and_batches_items_that_arrive_during_a_batch() -> None:
    gated = Gated()
    f = batched(gated, size=10)
    futures = [f(0)]
    gated.wait_started(1)
    futures += [f(n) for n in range(1, 6)]
    gated.open()
    assert [x.result(LIMIT) for x in futures] == [("done", n) for n in range(6)]
    assert gated.batches == [[0], [1, 2, 3, 4, 5]]
    assert f.stats().reasons["idle"] == 2


def test_a_full_batch_is_dispatched_at_once_and_no_batch_is_larger_than_size() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=4, linger=100)
    futures = [f(n) for n in range(4)]
    assert [x.result(LIMIT) for x in futures] == [("done", n) for n in range(4)]
    assert gated.batches == [[0, 1, 2, 3]]
    assert f.stats().reasons["size"] == 1


def test_linger_counts_from_the_oldest_item() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=10, linger=5)
    f(1)
    for n in (2, 3, 4):
        seam.advance(1.5)
        assert gated.batches == []
        f(n)
    seam.advance(0.4)
    assert gated.batches == []
    seam.advance(0.1)
    until(lambda: gated.batches == [[1, 2, 3, 4]])
    assert f.stats().reasons["linger"] == 1


def test_items_left_over_by_a_full_batch_linger_from_their_own_time() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=3, linger=5)
    f(0)
    seam.advance(4)
    last = [f(n) for n in (1, 2, 3)][-1]
    until(lambda: gated.batches == [[0, 1, 2]])
    seam.rest()
    assert not last.done()
    seam.advance(4.9)
    assert gated.batches == [[0, 1, 2]]
    seam.advance(0.1)
    assert last.result(LIMIT) == ("done", 3)


def test_items_that_came_while_busy_linger_from_their_own_time() -> None:
    seam = ManualSeam()
    gated = Gated()
    f = batched_with(seam, gated, size=3, linger=5)
    for n in range(3):
        f(n)
    gated.wait_started(1)
    seam.now += 10
    late = f(3)
    gated.open()
    seam.rest()
    assert not late.done()
    seam.advance(5)
    assert late.result(LIMIT) == ("done", 3)


def test_linger_none_dispatches_only_when_full_or_flushed() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=3, linger=None)
    f(1), f(2)
    seam.advance(1e9)
    assert gated.batches == []
    f(3)
    until(lambda: gated.batches == [[1, 2, 3]])
    f(4)
    f.flush(LIMIT)
    assert gated.batches == [[1, 2, 3], [4]]
    assert f.stats().reasons["flush"] == 1


def test_more_workers_never_make_smaller_batches() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=8, linger=50, workers=8)
    futures = []
    for n in range(8):
        futures.append(f(n))
        seam.advance(1)
    assert [x.result(LIMIT) for x in futures] == [("done", n) for n in range(8)]
    assert gated.batches == [list(range(8))]


def test_workers_batches_run_at_the_same_time() -> None:
    gated = Gated()
    f = batched(gated, size=1, workers=3)
    futures = [f(n) for n in range(5)]
    gated.wait_started(3)
    assert f.stats().running == 3
    assert f.stats().pending == 2
    assert f.stats().workers == 3
    gated.open()
    concurrent.futures.wait(futures, LIMIT)
    assert sorted(gated.batches) == [[n] for n in range(5)]


def test_an_idle_engine_makes_no_wakeups_and_a_batch_at_most_one() -> None:
    seam = ManualSeam()
    f = batched_with(seam, Gated(is_open=True), size=4, linger=1000, workers=2)
    for n in range(4):
        f(n)
    f.flush(LIMIT)
    seam.rest()
    before = seam.wakeups
    seam.advance(1e6)
    assert seam.wakeups == before


def test_huge_linger_works() -> None:
    f = batched(lambda items: items, size=2, linger=1e300)
    first, second = f(1), f(2)
    assert (first.result(LIMIT), second.result(LIMIT)) == (1, 2)
