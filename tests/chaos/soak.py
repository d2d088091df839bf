"""Measure the memory of a long run, and detect growth.

There are two numbers: the blocks that Python has allocated, and the memory of the process, which
includes free memory that malloc and Python's allocator keep.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import math
import os
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

WARM_UP = 0.2  # of the samples
FEWEST = 8  # samples after that
SHORTEST = 600.0  # seconds that tell anything of an hour
ALLOWED = 5.0  # MiB per hour
ALLOWED_BLOCKS = 5000.0  # per hour, of some 60 bytes
PLAIN_MALLOC = "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0"


def resident() -> float:
    """MiB that this process has in memory."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # no Linux: at least the peak
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def use_plain_malloc() -> None:
    """Start this command anew, with glibc's malloc without a heap and a cache for each thread.

    Threads come and go here by the thousand: which heap holds what for how long is chance. And
    each that stays fills its cache for hours, which counts as in use, with up to 7 pieces of each
    of 64 sizes: with PYTHONMALLOC=malloc, 5 of 23.5 MiB after two and a half minutes.
    """
    if sys.platform == "linux" and os.environ.get("GLIBC_TUNABLES") != PLAIN_MALLOC:
        os.environ["GLIBC_TUNABLES"] = PLAIN_MALLOC
        os.execv(sys.executable, sys.orig_argv)


def trim() -> None:
    """Give back what glibc's malloc holds and nobody uses: two thirds of its heap, after a while.

    Its free pieces lie between those in use, the more the longer threads come and go: that grows
    without anything being kept.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True)
class Slope:
    """A line through samples, by least squares."""

    per_hour: float
    error: float  # its standard error
    seconds: float  # that the samples span
    count: int
    unit: str = "MiB"
    allowed: float = ALLOWED

    @property
    def differs(self) -> bool:
        """Does it differ from 0 (by two standard errors)?"""
        return abs(self.per_hour) > 2 * self.error

    @property
    def is_growth(self) -> bool:
        """Is it a leak: real, more than is allowed, and seen for long enough?"""
        return self.seconds >= SHORTEST and self.differs and self.per_hour > self.allowed

    def __str__(self) -> str:
        verdict = "differs from 0" if self.differs else "does not differ from 0"
        short = "" if self.seconds >= SHORTEST else f"; too short to judge ({self.seconds:.0f} s)"
        return (
            f"slope after warm-up {self.per_hour:+,.2f} {self.unit}/h, "
            f"standard error {self.error:,.2f} "
            f"({self.count} samples): {verdict}{short}"
        )


def slope_of(
    times: Sequence[float],
    values: Sequence[float],
    unit: str = "MiB",
    allowed: float = ALLOWED,
) -> Slope | None:
    """The slope of `values` over `times` (seconds) after the warm-up; None of too few.

    What a sample owes to the one before it makes the standard error larger: memory moves in
    steps, so that neighbours are no independent witnesses.
    """
    first = math.ceil(len(times) * WARM_UP)
    kept = list(zip(times[first:], values[first:], strict=True))
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
    seconds = kept[-1][0] - kept[0][0]
    return Slope(slope * 3600, error * 3600, seconds, count, unit, allowed)


class Soak:
    """Takes a sample at the end of each epoch, when nothing is under way; tells each minute."""

    def __init__(self, every: float = 60.0) -> None:
        self.every = every
        self.began = self.told = time.monotonic()
        # In arrays: what watches must not itself take block after block.
        self.times = array("d")  # s
        self.resident = array("d")  # MiB
        self.blocks = array("d")  # in use

    def note(self) -> None:
        """An epoch has ended, and all counts were asked for: none is still to be summed up."""
        trim()
        self.times.append(time.monotonic() - self.began)
        self.resident.append(resident())
        self.blocks.append(sys.getallocatedblocks())

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
    def slopes(self) -> list[Slope]:
        """Of both numbers, if there are enough samples."""
        found = (
            slope_of(self.times, self.resident),
            slope_of(self.times, self.blocks, "blocks", ALLOWED_BLOCKS),
        )
        return [slope for slope in found if slope is not None]

    def __str__(self) -> str:
        told = "; ".join(map(str, self.slopes)) or "too few samples for a slope"
        return (
            f"{self.resident[0]:.1f} MiB after the first epoch, {self.resident[-1]:.1f} MiB in the "
            f"end; {self.blocks[-1]:,.0f} blocks in use; {told}"
        )
