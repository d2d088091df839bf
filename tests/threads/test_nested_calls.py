"""Batches that wait for items of their own function."""

from __future__ import annotations

import threading
from typing import Any

from batchify import Deadlock, batched
from tests.gates import eager_switches
from tests.limits import LIMIT
from tests.manual import in_thread


def test_nested_results_of_many_never_hang() -> None:
    def work(items: list[int]) -> list[Any]:
        return [f(item - 1).result() if item else "end" for item in items]

    f = batched(work, size=1, workers=2)

    def call(_: int) -> None:
        for n in range(40):
            try:
                assert f(n % 3).result() == "end"
            except Deadlock:
                assert n % 3

    with eager_switches():
        for thread in [in_thread(call, who) for who in range(6)]:
            thread.result(LIMIT)
    f.close(LIMIT)


def test_all_workers_wait_for_items_of_their_own_function() -> None:
    """They look whether a wait could end at the same instant, and then all wait."""
    together = threading.Barrier(2)

    def work(items: list[int]) -> list[Any]:
        [item] = items
        if not item:
            return ["end"]
        nested = f(item - 1)
        together.wait(LIMIT)
        return [nested.result()]

    f = batched(work, size=1, workers=2)
    with eager_switches():
        for _ in range(150):
            futures = [f(1), f(1)]
            for future in futures:
                try:
                    assert future.result(LIMIT) == "end"
                except Deadlock:
                    continue
            f.flush(LIMIT)
    f.close(LIMIT)
