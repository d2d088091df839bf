"""A model that serves interactive and background work at once.

One forward pass costs much and an item little, so callers share passes. Interactive requests go
first and are given up when they are late; equal texts are embedded once.

Run it: `python examples/inference.py`
"""

from __future__ import annotations

import asyncio
import time

from batchify import DeadlineExceeded, batched

passes: list[int] = []


@batched(size=32, linger=0.002, dedupe=True)
def embed(texts: list[str]) -> list[tuple[float, ...]]:
    """A stand-in for a model: 5 ms a pass, whatever is in it."""
    passes.append(len(texts))
    time.sleep(0.005)
    return [(float(len(text)), float(sum(map(ord, text)))) for text in texts]


interactive = embed.options(priority=10, deadline=0.5)


async def user(number: int) -> str:
    """A request of somebody who does not wait for ever."""
    try:
        await interactive(f"question {number % 10}")
    except DeadlineExceeded:
        return "late"
    return "answered"


async def background() -> int:
    """A thousand documents, as they come."""
    done = 0
    async for _ in embed.amap([f"document {n}" for n in range(1000)], ordered=False):
        done += 1
    return done


async def main() -> None:
    """Both at once."""
    documents, *users = await asyncio.gather(background(), *(user(n) for n in range(100)))
    assert documents == 1000
    stats = embed.stats()
    assert stats.succeeded + stats.expired == 1100
    print(f"{users.count('answered')} of {len(users)} users answered, {documents} documents done")
    print(f"{len(passes)} passes for {stats.accepted} texts, {stats.deduplicated} of them twins")


if __name__ == "__main__":
    asyncio.run(main())
