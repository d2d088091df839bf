"""A full queue never blocks an event loop: contract 3."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchify import Closed, QueueFull, batched
from tests.asyncio.functions import AsyncGated, ticks
from tests.limits import LIMIT
from tests.manual import Gated


def test_on_a_loop_a_full_queue_never_blocks(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        futures = [f(n) for n in range(20)]  # it ends after the next lines
        await ticks(lambda: gated.batches)
        stats = f.stats()
        assert (stats.accepted, stats.submitted) == (1, 20)
        with pytest.raises(QueueFull):
            f.submit_nowait(99)
        assert futures[7].cancel()
        gated.is_open = True
        if kind == "def":
            gated.open()
        results = await asyncio.gather(*futures, return_exceptions=True)
        assert [type(r) for r in results].count(asyncio.CancelledError) == 1
        assert gated.batches == [[n] for n in range(20) if n != 7]
        stats = f.stats()
        assert (stats.accepted, stats.submitted, stats.rejected) == (19, 21, 1)

    asyncio.run(main())


def test_timeout_for_the_capacity_ends_the_future(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        first = f(0)
        late = f.options(timeout=0.01)(1)
        with pytest.raises(QueueFull):
            await late
        with pytest.raises(QueueFull):
            await f.options(timeout=0.01).asubmit(2)
        gated.is_open = True
        if kind == "def":
            gated.open()
        assert await first == ("done", 0)
        assert await f.options(timeout=LIMIT)(3) == ("done", 3)

    asyncio.run(main())


def test_asubmit_waits_for_capacity(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        first = await f.asubmit(0)
        await ticks(lambda: gated.batches)
        waiting = asyncio.ensure_future(f.asubmit(1))
        given_up = asyncio.ensure_future(f.asubmit(2))
        await ticks(lambda: f.stats().submitted == 3)
        assert not waiting.done()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        gated.is_open = True
        if kind == "def":
            gated.open()
        second = await waiting
        assert await first == ("done", 0)
        assert await second == ("done", 1)
        assert gated.batches == [[0], [1]]

    asyncio.run(main())


def test_asubmit_after_close_and_while_it_waits(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1, capacity=1)

    async def main() -> None:
        first = f(0)
        await ticks(lambda: gated.batches)
        waiting = asyncio.ensure_future(f.asubmit(1))
        plain = f(2)
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(f.aclose(LIMIT))
        with pytest.raises(Closed):
            await waiting
        with pytest.raises(Closed):
            await plain
        gated.is_open = True
        if kind == "def":
            gated.open()
        await closing
        assert first.result() == ("done", 0)
        with pytest.raises(Closed):
            await f.asubmit(3)
        with pytest.raises(Closed):
            f(3)

    asyncio.run(main())


def test_a_call_that_gave_up_waiting_for_capacity_is_counted_once() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        @batched(size=1, capacity=1)
        async def f(items: list[int]) -> list[int]:
            await gate.wait()
            return items

        first = f(1)
        await asyncio.sleep(0)
        second = f(2)
        assert f.stats().submitted == 2
        assert second.cancel()
        stats = f.stats()
        assert (stats.submitted, stats.accepted, stats.cancelled) == (2, 1, 0)
        gate.set()
        assert await first == 1
        assert await f(3) == 3
        stats = f.stats()
        assert (stats.submitted, stats.accepted, stats.succeeded) == (3, 2, 2)

    asyncio.run(main())
