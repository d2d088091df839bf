"""Cancelling on event loops: contract 3."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchify import batched
from tests.asyncio.functions import AsyncGated, both, ticks
from tests.limits import LIMIT
from tests.manual import Gated


def test_cancelling_a_task_takes_its_item_out() -> None:
    gated = AsyncGated()
    f = batched(gated, size=10)

    async def main() -> None:
        first = f(0)
        await ticks(lambda: gated.batches)
        tasks = [asyncio.ensure_future(wait(f(n))) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[1]
        gated.is_open = True
        assert await first == ("done", 0)
        assert [await tasks[0], await tasks[2]] == [("done", 1), ("done", 3)]
        assert gated.batches == [[0], [1, 3]]
        assert f.stats().cancelled == 1

    async def wait(future: Any) -> Any:
        return await future

    asyncio.run(main())


def test_cancelling_a_running_item_detaches_it_at_once(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated)

    async def main() -> None:
        future, neighbour = f(0), f(1)
        await ticks(lambda: gated.batches)
        assert future.cancel()
        assert future.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await future
        if kind == "def":
            gated.open()
        else:
            gated.is_open = True
        assert await neighbour == ("done", 1)
        assert f.stats().cancelled == 1
        assert f.stats().running == 0

    asyncio.run(main())


def test_shield_keeps_the_item(kind: str) -> None:
    f = both(kind, linger=None)  # nothing is dispatched before the flush

    async def main() -> None:
        future = f(4)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(future), 0.0001)
        await f.aflush()
        assert await future == 8
        other = f(5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other, 0.0001)
        assert other.cancelled()

    asyncio.run(main())


def test_awaiting_in_another_loop_and_being_cancelled_cancels() -> None:
    gated = Gated()
    f = batched(gated, size=1)
    first, second = f(0), f(1)
    gated.wait_started(1)

    async def main() -> None:
        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def wait() -> Any:
        return await second

    asyncio.run(main())
    assert second.cancelled()
    gated.open()
    assert first.result(LIMIT) == ("done", 0)
