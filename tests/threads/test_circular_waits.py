"""In threads, `Deadlock` instead of a wait that can never end: contract 3."""

from __future__ import annotations

import threading

import pytest

from batchify import Deadlock, batched
from tests.limits import LIMIT
from tests.manual import Gated


def test_waiting_for_ones_own_function_inside_a_batch() -> None:
    @batched(workers=1)
    def f(items: list[int]) -> list[object]:
        return [f(item - 1).result() if item else "end" for item in items]

    with pytest.raises(Deadlock):
        f(1).result(LIMIT)
    assert f(0).result(LIMIT) == "end"


def test_waiting_for_ones_own_function_is_fine_while_a_worker_is_free() -> None:
    @batched(workers=3, size=1)
    def f(items: list[int]) -> list[object]:
        return [f(item - 1).result() if item else "end" for item in items]

    assert f(2).result(LIMIT) == "end"
    with pytest.raises(Deadlock):
        f(3).result(LIMIT)


def test_a_ring_of_functions() -> None:
    @batched
    def a(items: list[int]) -> list[object]:
        return [b(item - 1).result() if item else "end" for item in items]

    @batched
    def b(items: list[int]) -> list[object]:
        return [a(item - 1).result() if item else "end" for item in items]

    assert a(1).result(LIMIT) == "end"
    with pytest.raises(Deadlock):
        a(2).result(LIMIT)


def test_submitting_to_ones_own_full_queue() -> None:
    @batched(size=1, capacity=1)
    def f(items: list[int]) -> list[object]:
        return [f(item + 1) for item in items]

    with pytest.raises(Deadlock):
        f(1).result(LIMIT)
    assert f.stats().rejected == 1


def test_a_callback_that_submits_to_its_own_full_queue() -> None:
    gated = Gated()
    f = batched(gated, size=1, capacity=1)
    errors: list[BaseException] = []
    told = threading.Event()

    def callback(_: object) -> None:
        try:
            f(2), f(3)
        except Deadlock as error:
            errors.append(error)
        finally:
            told.set()

    first = f(1)
    first.add_done_callback(callback)
    gated.open()
    assert told.wait(LIMIT)
    assert len(errors) == 1


def test_flush_and_close_inside_a_batch() -> None:
    @batched
    def f(items: list[str]) -> list[object]:
        getattr(f, items[0])()
        return items

    for method in ("flush", "close"):
        with pytest.raises(Deadlock):
            f(method).result(LIMIT)
    assert f("stats").result(LIMIT) == "stats"
