"""Batches of `async def` functions: contract 4 and 8."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from batchify import batched
from tests.asyncio.functions import AsyncGated
from tests.limits import LIMIT
from tests.manual import in_thread


def test_linger_zero_takes_what_one_tick_brings() -> None:
    gated = AsyncGated(is_open=True)
    f = batched(gated, size=100)

    async def main() -> None:
        await asyncio.gather(*(f(n) for n in range(10)))

    asyncio.run(main())
    assert gated.batches == [list(range(10))]


def test_an_eager_task_factory_does_not_split_batches() -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("Python >= 3.12")
    gated = AsyncGated(is_open=True)
    f = batched(gated, size=100)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        await asyncio.gather(*(f(n) for n in range(10)))

    asyncio.run(main())
    assert gated.batches == [list(range(10))]


def test_linger_on_a_loop() -> None:
    gated = AsyncGated(is_open=True)
    f = batched(gated, size=3, linger=0.05)

    async def main() -> None:
        futures = [f(n) for n in range(4)]
        assert await futures[0] == ("done", 0)
        assert gated.batches == [[0, 1, 2]]
        assert await futures[3] == ("done", 3)
        assert gated.batches == [[0, 1, 2], [3]]

    asyncio.run(main())
    assert f.stats().reasons["linger"] == 1


def test_workers_bound_the_batches_on_a_loop() -> None:
    running = worst = 0

    async def work(items: list[int]) -> list[int]:
        nonlocal running, worst
        running += 1
        worst = max(worst, running)
        await asyncio.sleep(0.001)
        running -= 1
        return items

    f = batched(work, size=2, workers=3)

    async def main() -> None:
        assert await asyncio.gather(*(f(n) for n in range(40))) == list(range(40))

    asyncio.run(main())
    assert worst == 3


def test_batches_run_in_an_empty_context(kind: str) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="nobody's")

    def look(items: list[int]) -> list[Any]:
        context = contextvars.copy_context()
        others = [one for one in context if not one.name.startswith("batchify.")]
        seen = [(len(others), var.get())] * len(items)
        var.set("the last batch's")
        return seen

    async def alook(items: list[int]) -> list[Any]:
        await asyncio.sleep(0)
        return look(items)

    f: Any = batched(look) if kind == "def" else batched(alook)

    async def main() -> None:
        for who in ("alice", "bob"):
            var.set(who)
            assert await f(1) == (0, "nobody's")

    asyncio.run(main())
    var.set("carol")
    assert [f(1).result(LIMIT) for _ in range(3)] == [(0, "nobody's")] * 3


def test_a_batch_that_leaves_a_variable_behind_delays_no_other() -> None:
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var")

    async def work(items: list[int]) -> list[Any]:
        seen = [var.get(-1)]
        var.set(items[0])
        return seen

    f = batched(work, size=1)

    async def main() -> None:
        assert await asyncio.wait_for(asyncio.gather(*map(f, range(5))), LIMIT) == [-1] * 5

    asyncio.run(main())


def test_a_batch_whose_task_was_cancelled_leaves_nothing_of_it_to_the_next() -> None:
    requests: list[int] = []

    async def work(items: list[int]) -> list[int]:
        task = asyncio.current_task()
        assert task is not None
        requests.append(task.cancelling())
        if items == [0]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        async with asyncio.timeout(LIMIT):  # would take an old request for its own end
            await asyncio.sleep(0)
        return items

    f = batched(work)

    async def main() -> None:
        for n in range(3):
            assert await f(n) == n

    asyncio.run(main())
    assert requests == [0, 0, 0]


def test_others_come_to_their_turn_between_two_batches() -> None:
    order: list[str] = []

    async def work(items: list[int]) -> list[int]:
        order.append("batch")
        return items

    f = batched(work, size=1)

    async def other() -> None:
        for _ in range(3):
            order.append("other")
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(f(1), f(2), f(3), other())

    asyncio.run(main())
    between = order[order.index("batch") : len(order) - order[::-1].index("batch")]
    assert between.count("other") >= 2


def test_callers_without_a_loop_use_one_background_loop() -> None:
    seen = set()

    async def where(items: list[int]) -> list[int]:
        seen.add((threading.get_ident(), id(asyncio.get_running_loop())))
        return items

    f, g = batched(where, size=3), batched(where, size=3)
    calls = [in_thread(lambda h=h: [h(n).result(LIMIT) for n in range(10)]) for h in (f, g, f, g)]
    for call in calls:
        call.result()
    assert len(seen) == 1
    assert threading.get_ident() not in {ident for ident, _ in seen}


def test_async_generators_settle_each_item_as_it_comes() -> None:
    go_on: list[int] = []

    @batched(size=3)
    async def stream(items: list[int]) -> AsyncIterator[int]:
        for item in items:
            yield item * 2
            go_on.append(item)
            await asyncio.sleep(0)

    async def main() -> None:
        one, two, three = stream(1), stream(2), stream(3)
        assert await one == 2
        assert not three.done()
        assert await three == 6
        assert await two == 4

    asyncio.run(main())


def test_workers_limit_batches_for_callers_without_a_loop() -> None:
    """They call for a task from other threads, while those on the loop look for more."""
    running = most = 0

    @batched(size=1, workers=2)
    async def f(items: list[int]) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(items[0] % 3):
            await asyncio.sleep(0)
        running -= 1
        return items

    def call(first: int) -> None:
        for n in range(first, first + 1000):
            assert f(n).result(LIMIT) == n

    for future in [in_thread(call, 1000 * n) for n in range(4)]:
        future.result(LIMIT)
    assert most == 2
    f.close(LIMIT)
