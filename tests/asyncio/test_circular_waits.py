"""On event loops, `Deadlock` instead of a wait that can never end: contract 3."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from batchify import Deadlock, batched
from tests.asyncio.functions import both
from tests.limits import LIMIT


def test_result_on_the_loop_that_must_run_the_batch() -> None:
    f = both("async def")

    async def main() -> None:
        future = f(1)
        with pytest.raises(Deadlock):
            future.result()
        with pytest.raises(Deadlock):
            future.result(LIMIT)
        with pytest.raises(Deadlock):
            f.flush()
        with pytest.raises(Deadlock):
            f.close()
        assert await future == 2
        assert await f(2) == 4  # it is still open
        f.flush()

    asyncio.run(main())


def test_blocking_forms_work_on_a_loop_where_they_can() -> None:
    f = both("def", linger=None)

    async def main() -> None:
        future = f(1)
        f.flush(LIMIT)
        assert future.result(LIMIT) == 2
        other = f(2)
        f.close(LIMIT)
        assert other.result() == 4

    asyncio.run(main())


def test_awaiting_ones_own_function_inside_a_batch() -> None:
    async def nested(items: list[int]) -> list[Any]:
        return [await f(item - 1) if item else "end" for item in items]

    f: Any = batched(nested, size=1)

    async def main() -> None:
        with pytest.raises(Deadlock):
            await f(1)
        assert await f(0) == "end"

    asyncio.run(main())

    f = batched(nested, size=1, workers=2)

    async def more() -> None:
        assert await f(1) == "end"
        with pytest.raises(Deadlock):
            await f(2)

    asyncio.run(more())


def test_a_ring_of_async_functions() -> None:
    async def one(items: list[int]) -> list[Any]:
        return [await b(item - 1) if item else "end" for item in items]

    async def other(items: list[int]) -> list[Any]:
        return [await a(item - 1) if item else "end" for item in items]

    a: Any = batched(one)
    b: Any = batched(other)

    async def main() -> None:
        assert await a(1) == "end"
        with pytest.raises(Deadlock):
            await a(2)

    asyncio.run(main())


def test_flush_and_close_inside_an_async_batch() -> None:
    async def work(items: list[str]) -> list[Any]:
        await getattr(f, items[0])()
        return items

    f: Any = batched(work)

    async def main() -> None:
        for method in ("aflush", "aclose"):
            with pytest.raises(Deadlock):
                await f(method)

    asyncio.run(main())


@pytest.mark.parametrize("first", ["a thread", "a batch"])
def test_async_batches_on_the_background_loop_call_each_other(first: str) -> None:
    """The background loop serves callers without a loop, and batches that run on it."""

    @batched(size=2, linger=None)
    async def inner(items: list[int]) -> list[int]:
        return [10 * item for item in items]

    begun, gate = threading.Event(), threading.Event()

    @batched(workers=2)
    async def outer(items: list[int]) -> list[int]:
        if items[0] < 0:
            future = inner(items[0])
            await inner.aflush()
        else:
            begun.set()
            await asyncio.get_running_loop().run_in_executor(None, gate.wait, LIMIT)
            future = inner(items[0])
        return [await future]

    if first == "a thread":
        assert [future.result(LIMIT) for future in [inner(7), inner(8)]] == [70, 80]
    else:
        assert outer(-1).result(LIMIT) == -10
    nested = outer(1)
    assert begun.wait(LIMIT)
    mine = inner(2)  # before the one made on the loop, and in one batch with it
    gate.set()
    assert (mine.result(LIMIT), nested.result(LIMIT)) == (20, 10)
    assert inner.stats().batches == 2
