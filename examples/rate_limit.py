"""Compare four ways to respect an API's limit of one call per 100 ms.

Calls arrive at random. Each request takes 20 ms and accepts any number of items. The four batch
functions take turns in every round, and see the same arrivals.

Run it: `python examples/rate_limit.py` (needs aiolimiter). The figures in the documentation are
from `python examples/rate_limit.py --seconds 5 --rounds 5`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from statistics import mean, median, quantiles

from aiolimiter import AsyncLimiter

from batchify import Batched, batched

PERIOD = 0.1  # seconds for each call of the API
REQUEST = 0.02  # seconds that the API takes to answer
RATES = 200, 20  # items per second


@dataclass
class API:
    """A stand-in for the service; records when it was called."""

    calls: list[float] = field(default_factory=list)

    async def embed(self, texts: list[str]) -> list[int]:
        """Answer with one number for each text."""
        self.calls.append(asyncio.get_running_loop().time())
        await asyncio.sleep(REQUEST)
        return [len(text) for text in texts]


def limit_before(api: API) -> Batched[..., int]:
    """Wait for the limiter, then call."""
    limiter = AsyncLimiter(1, PERIOD)

    @batched(size=64)
    async def embed(texts: list[str]) -> list[int]:
        await limiter.acquire()
        return await api.embed(texts)

    return embed


def limit_before_with_linger(api: API) -> Batched[..., int]:
    """Do the same, with a linger of one period."""
    limiter = AsyncLimiter(1, PERIOD)

    @batched(size=64, linger=PERIOD)
    async def embed(texts: list[str]) -> list[int]:
        await limiter.acquire()
        return await api.embed(texts)

    return embed


def limit_after(api: API) -> Batched[..., int]:
    """Yield the results, then wait for the limiter."""
    limiter = AsyncLimiter(1, PERIOD)

    @batched(size=64)
    async def embed(texts: list[str]) -> AsyncIterator[int]:
        for result in await api.embed(texts):
            yield result
        await limiter.acquire()

    return embed


def wait_out_the_period(api: API) -> Batched[..., int]:
    """Yield the results, then sleep until the period of this call is over."""

    @batched(size=64)
    async def embed(texts: list[str]) -> AsyncIterator[int]:
        loop = asyncio.get_running_loop()
        next_call = loop.time() + PERIOD
        for result in await api.embed(texts):
            yield result
        await asyncio.sleep(next_call - loop.time())

    return embed


BASELINE = "limiter before the call"
VARIANTS: dict[str, Callable[[API], Batched[..., int]]] = {
    BASELINE: limit_before,
    "the same, linger=0.1": limit_before_with_linger,
    "limiter after the results": limit_after,
    "sleep out the period": wait_out_the_period,
}


@dataclass(frozen=True)
class Run:
    """The result of one variant with one series of arrivals; times in milliseconds."""

    mean: float
    p99: float
    items_per_call: float
    least_gap: float


async def run(variant: str, rate: int, seconds: float, seed: int) -> Run:
    """Submit items at random instants, `rate` per second on average."""
    api = API()
    embed = VARIANTS[variant](api)
    loop = asyncio.get_running_loop()
    chance = random.Random(seed)
    latencies: list[float] = []

    async def call(text: str, at: float) -> None:
        assert await embed(text) == len(text)
        latencies.append(loop.time() - at)

    at, end = loop.time(), loop.time() + seconds
    async with asyncio.TaskGroup() as callers:
        while (at := at + chance.expovariate(rate)) < end:
            await asyncio.sleep(at - loop.time())
            callers.create_task(call("x" * chance.randrange(100), at))
    await embed.aclose()
    gaps = [later - earlier for earlier, later in zip(api.calls, api.calls[1:], strict=False)]
    return Run(
        mean(latencies) * 1000,
        quantiles(latencies, n=100, method="inclusive")[-1] * 1000,
        len(latencies) / len(api.calls),
        min(gaps) * 1000,
    )


def main() -> None:
    """Run all variants in turns, and print the median of the rounds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=1, help="length of a run (1)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each variant runs (3)")
    options = parser.parse_args()
    for rate in RATES:
        rounds = [
            {
                variant: asyncio.run(run(variant, rate, options.seconds, seed))
                for variant in VARIANTS
            }
            for seed in range(options.rounds)
        ]
        print(f"{rate} items/s, one call per {PERIOD * 1000:.0f} ms")
        for variant in VARIANTS:
            runs = [turn[variant] for turn in rounds]
            gain = median(turn[BASELINE].mean / turn[variant].mean for turn in rounds)
            print(
                f"  {variant:<26} latency: mean {median(one.mean for one in runs):4.0f} ms, "
                f"p99 {median(one.p99 for one in runs):4.0f} ms ({gain:.2f}x as fast); "
                f"{median(one.items_per_call for one in runs):4.1f} items per call, "
                f"calls at least {min(one.least_gap for one in runs):.0f} ms apart"
            )


if __name__ == "__main__":
    main()
