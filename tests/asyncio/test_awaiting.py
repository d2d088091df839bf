"""Futures on event loops, for `async def` and for `def`: contract 3 and 4."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
from typing import Any

import pytest

from batchify import BatchAborted, batched
from tests.asyncio.functions import both, ticks
from tests.limits import LIMIT
from tests.manual import in_thread


def test_asyncio_takes_the_future_as_its_own(kind: str) -> None:
    f = both(kind)

    async def main() -> None:
        future = f(1)
        assert asyncio.isfuture(future)
        assert isinstance(future, concurrent.futures.Future)
        assert await future == 2
        assert await future == 2
        assert await asyncio.gather(*(f(n) for n in range(300))) == [n * 2 for n in range(300)]
        done, pending = await asyncio.wait([f(1), f(2)])
        assert {x.result() for x in done} == {2, 4}
        assert not pending
        assert await asyncio.wait_for(f(3), LIMIT) == 6
        assert await asyncio.shield(f(4)) == 8
        assert asyncio.ensure_future(future) is future
        assert [await x for x in asyncio.as_completed([f(5), f(5)])] == [10, 10]
        assert await asyncio.wrap_future(f(6)) == 12

        async def call(n: int) -> int:
            return await f(n)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call(n)) for n in range(50)]
        assert [task.result() for task in tasks] == [n * 2 for n in range(50)]

    asyncio.run(main())


def test_several_tasks_await_one_future(kind: str) -> None:
    f = both(kind)

    async def main() -> None:
        future = f(21)

        async def wait() -> int:
            return await future

        assert await asyncio.gather(*(wait() for _ in range(5))) == [42] * 5

    asyncio.run(main())


def test_loop_callbacks(kind: str) -> None:
    f = both(kind, linger=None)  # not done before the callbacks are added
    seen: list[Any] = []
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    async def main() -> None:
        var.set("mine")
        future = f(1)
        told = asyncio.Event()

        def callback(which: Any) -> None:
            seen.append((which is future, var.get(), asyncio.get_running_loop()))
            told.set()

        def other(_: Any) -> None:
            seen.append("never")

        future.add_done_callback(other)
        future.add_done_callback(callback)
        future.add_done_callback(other)
        assert future.remove_done_callback(other) == 2
        await f.aflush()
        await told.wait()
        future.add_done_callback(callback)
        assert len(seen) == 1  # never at once, as in asyncio
        await ticks(lambda: len(seen) == 2)
        assert seen == [(True, "mine", asyncio.get_running_loop())] * 2

    asyncio.run(main())


def test_a_loop_callback_that_raises_harms_no_other(kind: str) -> None:
    f = both(kind)

    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        futures = [f(n) for n in range(3)]

        def callback(_: Any) -> None:
            raise ValueError("mine")

        futures[0].add_done_callback(callback)
        assert await asyncio.gather(*futures) == [0, 2, 4]
        assert [str(context["exception"]) for context in told] == ["mine"]

    asyncio.run(main())


def test_one_function_serves_threads_and_loops_at_the_same_time(kind: str) -> None:
    f = both(kind, size=7, workers=2)

    def thread(who: int) -> None:
        assert [f(n).result(LIMIT) for n in range(100)] == [n * 2 for n in range(100)]

    def loop(who: int) -> None:
        async def main() -> None:
            for _ in range(5):
                assert await asyncio.gather(*(f(n) for n in range(50))) == [
                    n * 2 for n in range(50)
                ]

        asyncio.run(main())

    calls = [in_thread(work, n) for n in range(3) for work in (thread, loop)]
    for call in calls:
        call.result(LIMIT)
    stats = f.stats()
    assert stats.accepted == stats.succeeded == 3 * 100 + 3 * 250
    assert stats.pending == stats.running == 0


def test_a_future_is_awaited_in_another_loop_or_made_in_a_thread(kind: str) -> None:
    f = both(kind)
    made = f(5)

    async def other() -> Any:
        return await made, await made

    assert asyncio.run(other()) == (10, 10)

    async def main() -> None:
        future = f(6)
        assert await asyncio.to_thread(lambda: asyncio.run(wait(future))) == 12
        assert await asyncio.to_thread(future.result, 5) == 12

    async def wait(future: Any) -> Any:
        return await future

    asyncio.run(main())


def test_errors_reach_the_awaiter_and_stopiteration_does_not_hang(kind: str) -> None:
    def fail(items: list[type]) -> list[int]:
        raise items[0]("it")

    async def afail(items: list[type]) -> list[int]:
        raise items[0]("it")

    f: Any = batched(fail) if kind == "def" else batched(afail)

    async def main() -> None:
        with pytest.raises(ValueError, match="it"):
            await f(ValueError)
        with pytest.raises(RuntimeError):
            await f(StopIteration)
        with pytest.raises(BatchAborted) as caught:
            await f(SystemExit)
        assert isinstance(caught.value.__cause__, SystemExit)
        with pytest.raises(BatchAborted):
            await f(asyncio.CancelledError)
        result = await asyncio.gather(f(KeyError), f(KeyError), return_exceptions=True)
        assert [type(error) for error in result] == [KeyError, KeyError]
        assert result[0] is not result[1]

    asyncio.run(main())
