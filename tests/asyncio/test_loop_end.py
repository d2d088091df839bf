"""What happens to items when their event loop ends: contract 6."""

from __future__ import annotations

import asyncio
from typing import Any

from batchify import BatchAborted, Closed, batched
from tests.asyncio.functions import AsyncGated, ticks
from tests.limits import LIMIT
from tests.manual import Gated


def test_the_end_of_asyncio_run_runs_queued_items() -> None:
    gated = AsyncGated(is_open=True)
    f = batched(gated, size=2, linger=1000)
    futures: list[Any] = []

    async def main() -> None:
        futures.extend(f(n) for n in range(5))

    asyncio.run(main())
    assert [x.result(0) for x in futures] == [("done", n) for n in range(5)]


def test_the_end_of_asyncio_run_cancels_running_batches() -> None:
    gated = AsyncGated()
    f = batched(gated, size=1)
    futures: list[Any] = []

    async def main() -> None:
        futures.append(f(0))
        await ticks(lambda: gated.batches)
        futures.append(f(1))

    with asyncio.Runner() as runner:
        runner.run(main())
        gated.is_open = False
        runner.get_loop().call_soon(
            lambda: runner.get_loop().call_soon(setattr, gated, "is_open", True)
        )
    assert isinstance(futures[0].exception(0), BatchAborted)
    assert futures[1].result(0) == ("done", 1)


def test_a_loop_that_closes_early_does_not_hurt_the_others() -> None:
    gated = Gated()
    f = batched(gated, size=10)
    f(0)
    gated.wait_started(1)
    loop = asyncio.new_event_loop()

    async def main() -> Any:
        return f(1)

    orphan = loop.run_until_complete(main())
    loop.close()
    mine = f(2)
    gated.open()
    assert mine.result(LIMIT) == ("done", 2)
    assert orphan.result(LIMIT) == ("done", 1)


def test_the_counts_of_a_closed_loop_add_up() -> None:
    gated = AsyncGated()
    f = batched(gated, size=1, capacity=1)
    loop = asyncio.new_event_loop()

    async def main() -> list[Any]:
        return [f(n) for n in range(4)]  # three wait for capacity

    futures = loop.run_until_complete(main())
    loop.close()
    assert [type(future.exception(0)) for future in futures] == [Closed] * 4
    stats = f.stats()
    assert (stats.submitted, stats.accepted, stats.rejected, stats.failed) == (4, 1, 3, 1)
