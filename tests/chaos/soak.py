"""The memory of a long run: samples of it, and whether it grows."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from batchify.engine import lifecycle

WARM_UP = 0.2  # of the samples
FEWEST = 8  # samples after that
SHORTEST = 600.0  # seconds that tell anything of an hour
ALLOWED = 5.0  # MiB per hour


def resident() -> float:
    """MiB that this process has in memory."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # no Linux: at least the peak
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def trim() -> None:
    """Give back what glibc's malloc holds and nobody uses: two thirds of its heaps, after a while.

    Its free pieces lie between those in use, the more the longer threads come and go: that grows
    without anything being kept.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def buckets() -> int:
    """In how many buckets the distributions of `stats()` count: the only thing that may grow."""
    counts = [engine.counts for engine in lifecycle.all_engines() if hasattr(engine, "counts")]
    return sum(len(r._buckets) for one in counts for r in (one._sizes, one._queued, one._ran))


@dataclass(frozen=True)
class Slope:
    """A line through samples, by least squares."""

    per_hour: float
    error: float  # its standard error
    seconds: float  # that the samples span
    count: int

    @property
    def differs(self) -> bool:
        """Does it differ from 0 (by two standard errors)?"""
        return abs(self.per_hour) > 2 * self.error

    @property
    def is_growth(self) -> bool:
        """Is it a leak: real, more than is allowed, and seen for long enough?"""
        return self.seconds >= SHORTEST and self.differs and self.per_hour > ALLOWED

    def __str__(self) -> str:
        verdict = "differs from 0" if self.differs else "does not differ from 0"
        short = "" if self.seconds >= SHORTEST else f"; too short to judge ({self.seconds:.0f} s)"
        return (
            f"slope after warm-up {self.per_hour:+.2f} MiB/h, standard error {self.error:.2f} "
            f"({self.count} samples): {verdict}{short}"
        )


def slope_of(samples: Sequence[tuple[float, float]]) -> Slope | None:
    """The slope of (seconds, MiB) after the warm-up; None of too few.

    What a sample owes to the one before it makes the standard error larger: memory moves in
    steps, so that neighbours are no independent witnesses.
    """
    kept = samples[math.ceil(len(samples) * WARM_UP) :]
    count = len(kept)
    if count < FEWEST:
        return None
    mean_t = sum(t for t, _ in kept) / count
    mean_y = sum(y for _, y in kept) / count
    spread = sum((t - mean_t) ** 2 for t, _ in kept)
    if not spread:
        return None
    slope = sum((t - mean_t) * (y - mean_y) for t, y in kept) / spread
    rest = [y - mean_y - slope * (t - mean_t) for t, y in kept]
    squares = sum(r * r for r in rest)
    error = math.sqrt(squares / (count - 2) / spread)
    if squares:
        owed = sum(a * b for a, b in itertools.pairwise(rest)) / squares
        owed = min(max(owed, 0.0), 0.95)
        error *= math.sqrt((1 + owed) / (1 - owed))
    return Slope(slope * 3600, error * 3600, kept[-1][0] - kept[0][0], count)


class Soak:
    """Takes a sample at the end of each epoch, when nothing is under way; tells each minute."""

    def __init__(self, every: float = 60.0) -> None:
        self.every = every
        self.began = self.told = time.monotonic()
        self.samples: list[tuple[float, float]] = []
        self.blocks: list[int] = []  # that Python's allocator has given out, at each sample
        self.buckets: list[int] = []

    def note(self) -> None:
        """An epoch has ended."""
        trim()
        self.blocks.append(sys.getallocatedblocks())
        self.buckets.append(buckets())
        self.samples.append((time.monotonic() - self.began, resident()))

    def tell(self, items: int) -> None:
        """Print how far it is, if it is time to; `items` are those so far."""
        now = time.monotonic()
        if now - self.told >= self.every:
            self.told = now
            print(self.line(items, now - self.began), flush=True)

    @staticmethod
    def line(items: int, seconds: float) -> str:
        rate = items / seconds if seconds else 0.0
        return f"{seconds / 60:6.1f} min {items:>14,} items {rate:>9,.0f}/s {resident():>8.1f} MiB"

    @property
    def slope(self) -> Slope | None:
        return slope_of(self.samples)

    def __str__(self) -> str:
        slope = self.slope
        first, last = self.samples[0][1], self.samples[-1][1]
        told = "too few samples for a slope" if slope is None else str(slope)
        begin = min(math.ceil(len(self.blocks) * WARM_UP), len(self.blocks) - 1)
        return (
            f"{first:.1f} MiB after the first epoch, {last:.1f} MiB in the end; {told}; "
            f"blocks in use {self.blocks[begin]:,} after warm-up, {self.blocks[-1]:,} in the end; "
            f"buckets of stats() {self.buckets[begin]:,} and {self.buckets[-1]:,}"
        )
