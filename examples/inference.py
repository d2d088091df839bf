"""Serve interactive and background work with one model.

A forward pass has a fixed cost, so callers share passes. Interactive requests have a higher
priority and a deadline. Equal texts of one batch are embedded once.

Run it: `python examples/inference.py`
"""

from __future__ import annotations

import asyncio
import time

from batchify import DeadlineExceeded, batched

passes: list[int] = []


@batched(size=32, linger=0.002, dedupe=True)
def embed(texts: list[str]) -> list[tuple[float, ...]]:
    """Stand in for a model that takes 5 ms per pass."""
    passes.append(len(texts))
    time.sleep(0.005)
    return [(float(len(text)), float(sum(map(ord, text)))) for text in texts]


interactive = embed.options(priority=10, deadline=0.5)


async def user(number: int) -> str:
    """Send an interactive request, which fails if it does not start within its deadline."""
    try:
        await interactive(f"question {number % 10}")
    except DeadlineExceeded:
        return "late"
    return "answered"


async def background() -> int:
    """Embed a thousand documents, in any order."""
    done = 0
    async for _ in embed.amap([f"document {n}" for n in range(1000)], ordered=False):
        done += 1
    return done


async def main() -> None:
    """Run both at the same time."""
    documents, *users = await asyncio.gather(background(), *(user(n) for n in range(100)))
    assert documents == 1000
    stats = embed.stats()
    assert stats.succeeded + stats.expired == 1100
    print(f"{users.count('answered')} of {len(users)} users answered, {documents} documents done")
    print(
        f"{len(passes)} passes for {stats.accepted} texts, {stats.deduplicated} of them duplicates"
    )


if __name__ == "__main__":
    asyncio.run(main())
