"""`batchify.testing.manual_clock` on event loops (contract 6)."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from batchify import DeadlineExceeded, Retry, batched
from tests.limits import LIMIT
from tests.manual import in_thread
from tests.testing_helpers import Batches, manual_clock

pytestmark = pytest.mark.usefixtures("patient")


# ---- event loops ----


def test_async_functions_without_a_loop() -> None:
    ran: list[float] = []

    async def run(items: list[Any]) -> list[Any]:
        await asyncio.sleep(0)
        ran.append(clock.now)
        return [Retry(after=0.25) if len(ran) < 2 else item for item in items]

    f: Any = batched(run, linger=0.5)
    with manual_clock() as clock:
        future = f(1)
        clock.advance(0.4)
        assert not future.done()
        late = f.options(deadline=0.1)(2)
        clock.advance(1)
        assert [future.result(0), type(late.exception(0))] == [1, DeadlineExceeded]
        assert ran == [0.5, 0.75]


@pytest.mark.parametrize("is_async", [False, True])
def test_on_a_loop(is_async: bool) -> None:
    async def arun(items: list[Any]) -> list[Any]:
        return run(items)

    def run(items: list[Any]) -> list[Any]:
        ran.append((clock.now, items))
        return items

    ran: list[Any] = []
    told: list[Any] = []
    f: Any = batched(arun if is_async else run, linger=0.5)

    async def caller(item: Any) -> None:
        told.append((await f(item), clock.now))
        told.append((await f(-item), clock.now))

    async def main() -> None:
        tasks = [asyncio.create_task(caller(n)) for n in (1, 2)]
        await clock.aadvance(0.4)
        assert told == []
        await clock.aadvance(0.7)
        assert told == [(1, 0.5), (2, 0.5), (-1, 1.0), (-2, 1.0)]
        assert ran == [(0.5, [1, 2]), (1.0, [-1, -2])]
        assert all(task.done() for task in tasks)

    with manual_clock() as clock:
        asyncio.run(main())


def test_to_and_fro_between_a_loop_and_threads() -> None:
    f = batched(Batches(), linger=0.5)
    at_once = batched(Batches())
    told: list[int] = []

    async def caller() -> None:
        await f(0)
        told.extend([await at_once(n) for n in range(10)])

    async def main() -> None:
        task = asyncio.create_task(caller())
        async with manual_clock() as clock:
            await asyncio.sleep(0)
            await clock.aadvance(0.5)
            assert told == list(range(10))
        await task

    asyncio.run(main())


def test_an_advance_does_not_wait_for_a_batch_that_awaits_something_else() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def run(items: list[Any]) -> list[Any]:
            await gate.wait()
            return items

        f = batched(run, linger=1)
        async with manual_clock(patience=LIMIT) as clock:
            future = f(1)
            began = time.monotonic()
            await clock.aadvance(1)
            assert time.monotonic() - began < LIMIT
            assert future.running()
            gate.set()
            await clock.aadvance(0)
            assert future.result() == 1

    asyncio.run(main())


def test_a_loop_that_polls_does_not_hold_up_the_clock() -> None:
    f = batched(Batches(), linger=1)

    async def poll() -> None:
        while True:
            await asyncio.sleep(0)

    async def main() -> Any:
        polling = asyncio.create_task(poll())
        async with manual_clock(patience=0.01) as clock:
            future = f(1)
            await clock.aadvance(1)
            polling.cancel()
            return await asyncio.wait_for(future, LIMIT)

    assert asyncio.run(main()) == 1


def test_a_loop_in_another_thread() -> None:
    async def run(items: list[Any]) -> list[Any]:
        return items

    f: Any = batched(run, linger=1)
    called, told = threading.Event(), []

    async def main() -> None:
        future = f(1)
        called.set()
        told.append(await future)

    with manual_clock() as clock:
        running = in_thread(lambda: asyncio.run(main()))
        assert called.wait(LIMIT)
        clock.advance(1)
        running.result()
        assert told == [1]


# ---- its end ----


def test_at_the_end_on_a_loop() -> None:
    async def run(items: list[Any]) -> list[Any]:
        await asyncio.sleep(0.01)
        return items

    f: Any = batched(run, linger=5)
    g = batched(Batches(), linger=5)

    async def main() -> None:
        async with manual_clock():
            futures = [f(1), g(2)]
        assert [future.result() for future in futures] == [1, 2]
        with manual_clock():
            futures = [f(3), g(4)]
        assert await asyncio.wait_for(asyncio.gather(*futures), LIMIT) == [3, 4]

    asyncio.run(main())


def test_at_the_end_on_a_loop_that_stands() -> None:
    """As in a fixture: the loop of an async test continues after the clock was closed, or later."""

    async def run(items: list[Any]) -> list[Any]:
        return items

    async def call(item: int) -> Any:
        return f(item)

    f: Any = batched(run, linger=5)
    with asyncio.Runner() as runner:
        with manual_clock():
            future = runner.run(call(1))
        assert not future.done()
        runner.run(asyncio.wait_for(future, LIMIT))
        with manual_clock():
            future = runner.run(call(2))
    assert future.result() == 2
