"""A flush of `map` applies to its own items only, also after the size was made smaller."""

from __future__ import annotations

from typing import Any

import pytest

from batchify import Retry, batched
from tests.gates import LATER
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until


@pytest.mark.parametrize("priority", [0, 1])  # with one, items are sorted
def test_a_flushed_map_that_a_smaller_size_broke_up_runs_again_without_delay(
    priority: int,
) -> None:
    is_first = True

    def work(items: list[int]) -> list[Any]:
        nonlocal is_first
        gated(items)
        if 1 in items and is_first:
            is_first = False
            return [Retry(after=LATER) if item == 1 else item for item in items]
        return items

    gated = Gated()
    f = batched(work, size=10, linger=0.0, workers=1)
    f.options(priority=priority)(0)
    gated.wait_started(1)
    mapping = in_thread(lambda: list(f.map(list(range(1, 11)))))
    until(lambda: f.stats().pending == 10)
    flush = in_thread(f.flush, LIMIT)
    until(lambda: f._scope().forming.chunks[0]._s.is_flushed)
    f.size = 2
    gated.open()
    assert mapping.result() == list(range(1, 11))
    flush.result()


def test_a_map_that_is_broken_up_is_not_flushed_by_an_earlier_flush() -> None:
    seam = ManualSeam()
    tried: list[float] = []

    def work(items: list[int]) -> list[Any]:
        gated(items)
        if 1 in items:
            tried.append(seam.clock())
        is_first = 1 in items and len(tried) == 1
        return [Retry(after=5.0) if is_first and item == 1 else item for item in items]

    gated = Gated()
    f = batched_with(seam, work, size=10, workers=1)
    f.flush(LIMIT)
    f(0)
    gated.wait_started(1)
    mapping = in_thread(lambda: list(f.map(list(range(1, 11)))))
    until(lambda: f.stats().pending == 10)
    f.size = 2
    gated.open()
    until(lambda: f.stats().retried == 1 and f.stats().pending == 1)
    seam.advance(4.9)
    assert len(tried) == 1
    seam.advance(0.1)
    assert mapping.result() == list(range(1, 11))
