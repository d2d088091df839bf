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

WARM_UP = 0.2  # share of the samples
FEWEST = 8  # samples after that
SHORTEST = 600.0  # seconds needed to extrapolate to an hour
ALLOWED = 5.0  # MiB per hour
ALLOWED_BLOCKS = 5000.0  # per hour, of about 60 bytes each
PLAIN_MALLOC = "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0"


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:  # not Linux: at least the peak
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def use_plain_malloc() -> None:
    """Restart this command with glibc's malloc set to use no heap and no cache per thread.

    Thousands of threads start and end here, so the heap that holds a block, and for how long, is
    random. And each long-lived thread fills its cache for hours, with up to 7 blocks of each of 64
    sizes, which count as in use: with PYTHONMALLOC=malloc, 5 of 23.5 MiB after two and a half
    minutes.
    """
    if sys.platform == "linux" and os.environ.get("GLIBC_TUNABLES") != PLAIN_MALLOC:
        os.environ["GLIBC_TUNABLES"] = PLAIN_MALLOC
        os.execv(sys.executable, sys.orig_argv)


def trim() -> None:
    """Return free memory of glibc's malloc to the system: two thirds of its heap, after a while.

    Free blocks lie between used ones, and their number grows while threads start and end, although
    no object is kept.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


@dataclass(frozen=True)
class Slope:
    """A least-squares line through samples."""

    per_hour: float
    error: float  # its standard error
    seconds: float  # seconds that the samples span
    count: int
    unit: str = "MiB"
    allowed: float = ALLOWED

    @property
    def differs(self) -> bool:
        """Return True if the slope differs from 0 by two standard errors."""
        return abs(self.per_hour) > 2 * self.error

    @property
    def is_growth(self) -> bool:
        """Return True if this is a leak: significant, above the limit, and measured long enough."""
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
    """Return the slope of `values` over `times` (seconds) after the warm-up; None for too few.

    The correlation of neighbouring samples makes the standard error larger, because memory changes
    in steps and neighbours are not independent.
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
    """Takes a sample at the end of each epoch, when nothing runs; prints one line per minute."""

    def __init__(self, every: float = 60.0) -> None:
        self.every = every
        self.began = self.told = time.monotonic()
        # Arrays, so that the measurement itself does not allocate many blocks.
        self.times = array("d")  # s
        self.resident = array("d")  # MiB
        self.blocks = array("d")  # in use

    def note(self) -> None:
        """Take a sample after an epoch, when all counts were read and summed up."""
        trim()
        self.times.append(time.monotonic() - self.began)
        self.resident.append(resident())
        self.blocks.append(sys.getallocatedblocks())

    def tell(self, items: int) -> None:
        """Print the progress if a minute has passed; `items` is the number so far."""
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
        """Return the slopes of both numbers, if there are enough samples."""
        found = (
            slope_of(self.times, self.resident),
            slope_of(self.times, self.blocks, "blocks", ALLOWED_BLOCKS),
        )
        return [slope for slope in found if slope is not None]

    def __str__(self) -> str:
        told = "; ".join(map(str, self.slopes)) or "too few samples for a slope"
        return (
            f"{self.resident[0]:.1f} MiB after the first epoch, {self.resident[-1]:.1f} MiB at the "
            f"end; {self.blocks[-1]:,.0f} blocks in use; {told}"
        )
