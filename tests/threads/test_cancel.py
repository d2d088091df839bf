"""Cancelling items before and after they start: contract 3."""

from __future__ import annotations

import concurrent.futures

import pytest

from batchify import batched
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, until


def test_cancel_before_the_start_takes_the_item_out() -> None:
    gated = Gated()
    f = batched(gated, size=10)
    f(0)
    gated.wait_started(1)
    one, two, three = f(1), f(2), f(3)
    assert two.cancel()
    assert two.cancel()
    assert two.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        two.result()
    gated.open()
    assert (one.result(LIMIT), three.result(LIMIT)) == (("done", 1), ("done", 3))
    assert gated.batches == [[0], [1, 3]]
    assert f.stats().cancelled == 1


def test_cancel_after_the_start_is_refused() -> None:
    gated = Gated()
    f = batched(gated)
    future = f(0)
    gated.wait_started(1)
    assert future.running()
    assert not future.cancel()
    gated.open()
    assert future.result(LIMIT) == ("done", 0)
    assert not future.cancel()


def test_a_batch_whose_items_are_all_cancelled_does_not_run() -> None:
    gated = Gated()
    f = batched(gated, size=10)
    f(0)
    gated.wait_started(1)
    futures = [f(n) for n in range(1, 4)]
    assert all(future.cancel() for future in futures)
    gated.open()
    f.flush(LIMIT)
    assert f(4).result(LIMIT) == ("done", 4)
    assert gated.batches == [[0], [4]]


def test_cancelling_while_lingering_frees_a_place_in_the_batch() -> None:
    seam = ManualSeam()
    gated = Gated(is_open=True)
    f = batched_with(seam, gated, size=3, linger=5)
    one, two = f(1), f(2)
    seam.rest()
    one.cancel()
    three = f(3)
    seam.rest()
    assert gated.batches == []
    f(4)
    until(lambda: gated.batches == [[2, 3, 4]])
    assert (two.result(LIMIT), three.result(LIMIT)) == (("done", 2), ("done", 3))
