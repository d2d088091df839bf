"""`batchify.testing.eager`: every call runs at once (contract 6 and 8)."""

from __future__ import annotations

import asyncio
import gc
import threading
import traceback
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from batchify import (
    BadResult,
    BatchAborted,
    Closed,
    ItemTooHeavy,
    MissingResult,
    Retry,
    RetryExhausted,
    batched,
)
from batchify.testing import eager
from tests.limits import LIMIT
from tests.manual import batchify_threads, in_thread
from tests.testing_helpers import NEVER, Batches, awork, where


def test_calls_run_at_once_as_batches_of_one() -> None:
    batches = Batches()
    f = batched(batches, size=100, linger=None)
    before = batchify_threads()
    with eager():
        futures = [f(n) for n in range(3)]
        assert [future.done() for future in futures] == [True] * 3
        assert [future.result(0) for future in futures] == [0, 1, 2]
        assert f.submit(3).result(0) == f.submit_nowait(3).result(0) == 3
        assert f.options(timeout=1, deadline=0, priority=4)(5).result(0) == 5
        assert list(f.map(range(6, 9))) == [6, 7, 8]
    assert batches == [[0], [1], [2], [3], [3], [5], [6], [7], [8]]
    assert batchify_threads() <= before
    later = f(9)
    assert not later.done()
    f.flush(LIMIT)
    assert later.result() == 9


def test_a_function_that_was_called_before_and_after() -> None:
    """Calls do not take the short path to their queue in the block."""
    batches = Batches()
    f = batched(batches, size=2, linger=NEVER)
    first = f(1)
    with eager():
        with eager():
            assert f(2).result(0) == 2
        assert f(3).result(0) == 3
        assert not first.done()
    second = f(4)
    assert [first.result(LIMIT), second.result(LIMIT)] == [1, 4]
    assert batches == [[2], [3], [1, 4]]
    with eager():
        assert f(5).result(0) == 5
    f.close()


def test_it_ends_with_an_error_too() -> None:
    f = batched(Batches(), linger=None)
    with pytest.raises(ZeroDivisionError), eager():
        f(1).result(0)
        raise ZeroDivisionError
    future = f(2)
    assert not future.done()
    assert future.cancel()


def test_in_the_callers_thread_and_an_empty_context() -> None:
    def work(items: list[Any]) -> list[Any]:
        return [(threading.get_ident(), where.get())] * len(items)

    f = batched(work)
    with eager():
        where.set("here")
        assert f(1).result(0) == (threading.get_ident(), "nowhere")
        mine, theirs = f(1), in_thread(lambda: f(1).result(0)).result(LIMIT)
        assert theirs != mine.result(0)  # it holds for all threads


def test_results_mean_the_same_from_another_process() -> None:
    def mapping(items: list[Any]) -> dict[Any, Any]:
        return {item: -item for item in items if item != 2}

    def stream(items: list[Any]) -> Iterator[Any]:
        for item in items:
            if item == 2:
                return
            yield item

    def raises(items: list[Any]) -> Any:
        raise items[0]

    with eager():
        assert batched(lambda items: None)(1).result(0) is None
        assert batched(mapping)(1).result(0) == -1
        assert isinstance(batched(mapping)(2).exception(0), MissingResult)
        assert batched(stream)(1).result(0) == 1
        assert isinstance(batched(stream)(2).exception(0), BadResult)
        assert isinstance(batched(lambda items: [1, 2])(1).exception(0), BadResult)
        assert isinstance(batched(lambda items: items)(KeyError(1)).exception(0), KeyError)
        error = batched(raises)(ValueError("mine")).exception(0)
        assert type(error) is ValueError
        assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["raises"]
        assert isinstance(batched(raises)(SystemExit(1)).exception(0), BatchAborted)


def test_on_error_and_retry() -> None:
    tries: list[Any] = []

    def again(items: list[Any]) -> list[Any]:
        tries.append(items[0])
        return [Retry(after=NEVER)] if len(tries) < 3 else items

    def picky(items: list[Any]) -> list[Any]:
        raise ValueError

    def instead(failure: Any) -> list[Any]:
        assert failure.items == [7]
        assert failure.batched is f
        return ["instead"]

    f: Any = batched(picky, on_error=instead)
    with eager():
        assert batched(again)(1).result(0) == 1
        assert len(tries) == 3
        never = batched(lambda items: [Retry(attempts=2)])(1).exception(0)
        assert isinstance(never, RetryExhausted)
        assert f(7).result(0) == "instead"


def test_arguments_are_checked() -> None:
    def more(items: list[Any], table: Any) -> list[Any]:
        return [(item, table) for item in items]

    f: Any = batched(lambda items: items)
    heavy = batched(lambda items: items, weight=len, max_weight=2)
    keyed: Any = batched(lambda items: items, key=lambda item: item)
    with eager():
        assert batched(more)(1, "users").result(0) == (1, "users")
        assert batched(more)(1, table="users").result(0) == (1, "users")
        for call in (lambda: f(1, 2), lambda: batched(more)(1, []), lambda: keyed([])):
            with pytest.raises(TypeError):
                call()
        with pytest.raises(ItemTooHeavy):
            heavy("abc")
        f.close()
        with pytest.raises(Closed):
            f(1)
        f.start()
        assert f(1).result(0) == 1


def test_methods() -> None:
    class Table:
        def __init__(self, name: str) -> None:
            self.name = name

        @batched(linger=None)
        def insert(self, rows: list[int]) -> list[tuple[str, int]]:
            return [(self.name, row) for row in rows]

        @classmethod
        @batched(linger=None)
        def of(cls, rows: list[int]) -> list[str]:
            return [cls.__name__ for _ in rows]

    table = Table("users")
    table.insert(0)
    with eager():
        assert table.insert(1).result(0) == ("users", 1)
        assert Table.of(1).result(0) == "Table"
    table.insert.close(cancel=True)


def test_a_function_that_calls_itself_or_another() -> None:
    def down(items: list[int]) -> list[int]:
        return [f(item - 1).result(0) + 1 if item else 0 for item in items]

    f: Any = batched(down)
    with eager():
        assert f(20).result(0) == 20


@pytest.mark.parametrize("kind", ["returns", "raises", "yields"])
@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_survives_its_call_without_the_collector(kind: str, is_async: bool) -> None:
    class Item:
        pass

    def work(items: list[Any]) -> list[Any]:
        if kind == "raises":
            raise ValueError
        return [None]

    async def awork(items: list[Any]) -> list[Any]:
        return work(items)

    def stream(items: list[Any]) -> Iterator[Any]:
        yield None

    f: Any = batched(stream if kind == "yields" else awork if is_async else work)
    gc.collect()
    gc.disable()
    try:
        with eager():
            item = Item()
            weak = weakref.ref(item)
            f(item).exception(0)
            del item
            assert weak() is None
    finally:
        gc.enable()


# ---- async def ----


async def astream(items: list[int]) -> AsyncIterator[int]:
    for item in items:
        await asyncio.sleep(0)
        yield item


@pytest.mark.parametrize("is_on_loop", [False, True])
def test_async_functions_are_run_to_their_end(is_on_loop: bool) -> None:
    f = batched(awork, linger=None)
    g = batched(astream, linger=None)

    def check() -> list[Any]:
        where.set("here")
        futures = [f(1), g(2), f(KeyError(3))]
        assert [future.done() for future in futures] == [True] * 3
        assert futures[0].result(0) == ("nowhere", 1)
        assert futures[1].result(0) == 2
        error = futures[2].exception(0)
        assert type(error) is KeyError
        assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["awork"]
        return futures

    async def main() -> None:
        first, second, failed = check()
        assert await first == ("nowhere", 1)
        assert await asyncio.gather(second, f(4)) == [2, ("nowhere", 4)]
        assert await asyncio.wait_for(await f.asubmit(5), LIMIT) == ("nowhere", 5)
        assert [x async for x in f.amap([6, 7])] == [("nowhere", 6), ("nowhere", 7)]
        with pytest.raises(KeyError):
            await failed

    before = batchify_threads()
    with eager():
        if is_on_loop:
            asyncio.run(main())
        else:
            check()
    assert batchify_threads() <= before


def test_the_current_loop_of_the_thread_stays() -> None:
    def main() -> bool:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        with eager():
            batched(awork)(1).result(0)
        is_same = asyncio.get_event_loop() is loop
        loop.close()
        asyncio.set_event_loop(None)
        return is_same

    assert in_thread(main).result(LIMIT)
