"""`aflush`, `aclose`, and `close` while a loop works: contract 3."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchify import Closed, batched
from tests.asyncio.functions import AsyncGated, both, ticks
from tests.limits import LIMIT
from tests.manual import Gated


def test_aflush_and_aclose(kind: str) -> None:
    f = both(kind, linger=None)

    async def main() -> None:
        futures = [f(n) for n in range(5)]
        await f.aflush(LIMIT)
        assert [x.result() for x in futures] == [0, 2, 4, 6, 8]
        async with f:
            last = f(9)
        assert last.result() == 18
        with pytest.raises(Closed):
            f(1)
        f.start()
        more = f(7)
        await f.aclose()
        assert more.result() == 14

    asyncio.run(main())


def test_aclose_with_cancel_and_with_a_timeout(kind: str) -> None:
    gated: Any = Gated() if kind == "def" else AsyncGated()
    f = batched(gated, size=1)

    async def main() -> None:
        running, waiting = f(1), f(2)
        await ticks(lambda: gated.batches)
        with pytest.raises(TimeoutError):
            await f.aflush(0.01)
        with pytest.raises(TimeoutError):
            await f.aclose(0.01, cancel=True)
        with pytest.raises(Closed):
            await running
        with pytest.raises(Closed):
            await waiting
        gated.is_open = True
        if kind == "def":
            gated.open()

    asyncio.run(main())


def test_close_from_a_thread_while_a_loop_works() -> None:
    f = both("async def", linger=None)

    async def main() -> None:
        futures = [f(n) for n in range(3)]
        await asyncio.to_thread(f.close, LIMIT)
        assert await asyncio.gather(*futures) == [0, 2, 4]

    asyncio.run(main())
