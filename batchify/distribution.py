"""Record the distribution of many numbers in bounded memory.

Quantiles are 0.8 % off at most; count, mean and maximum are exact. `stats` records the sizes and
times of batches.

A number is in the bucket of the upper 16 bits of the 32-bit float next to it: its exponent and its
first 8 binary digits. These bits are in the order of the numbers, and are read by a cast of the
memory, so that no bytecode runs per number.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import fsum
from typing import TypeAlias

_UPPER = 1 if sys.byteorder == "little" else 0  # the place of the upper half of a float

# The buckets in ascending order, and how many numbers are in each: 10 bytes per bucket. A dict
# takes 90 bytes in several small objects, which live as long as the function and keep otherwise
# free memory pages from being returned to the system.
_Buckets: TypeAlias = "tuple[array[int], array[int]]"


def _buckets_of(counts: Mapping[int, int]) -> _Buckets:
    buckets = array("H", sorted(counts))
    return buckets, array("Q", map(counts.__getitem__, buckets))


def _counts_of(buckets: _Buckets) -> Counter[int]:
    return Counter(dict(zip(*buckets, strict=True)))


def _smallest(bucket: int) -> float:
    """Return the smallest number of a bucket."""
    number: float = struct.unpack(">f", struct.pack(">Hxx", bucket))[0]
    return number


_EMPTY = _buckets_of({})
_MANY = 4096  # numbers, 8 KB


class Recorder:
    """Count numbers >= 0 in buckets that are wider for larger numbers (HdrHistogram, G. Tene 2012).

    A bucket is 1/128 to 1/256 of its numbers wide, and integers up to 256 have one each. Each power
    of two in use needs 128 buckets: times from a microsecond to an hour need some 4,000.

    Numbers are added a few hundred at a time, and buckets are updated a few thousand at a time,
    because the work per call is larger than per number.
    """

    __slots__ = ("_counted", "_max", "_total")

    def __init__(self) -> None:
        # The buckets, and those of numbers that are not counted there yet. They are replaced
        # together, as a signal handler may raise at any instant.
        self._counted = _EMPTY, array("H")
        self._total = 0.0
        self._max = 0.0

    def add(self, numbers: Sequence[float]) -> None:
        """Count `numbers`, all >= 0."""
        if not numbers:
            return
        recent = self._counted[1]
        recent.extend(memoryview(array("f", numbers)).cast("B").cast("H")[_UPPER::2])
        if len(recent) >= _MANY:
            self._count_recent()
        self._total += fsum(numbers)
        self._max = max(self._max, *numbers)

    def _count_recent(self) -> _Buckets:
        buckets, recent = self._counted
        if recent:
            counts = _counts_of(buckets)
            counts.update(recent)
            buckets = _buckets_of(counts)
            self._counted = buckets, array("H")
        return buckets

    def distribution(self) -> Distribution:
        """Return the distribution of all numbers counted so far."""
        return Distribution(self._count_recent(), self._total, self._max)


class Distribution:
    """An immutable snapshot of how numbers are distributed.

    Without numbers, all attributes are 0.

    Attributes:
        count: How many numbers there are.
        mean: Their mean.
        max: The largest number, exactly.
        p50: The median, 0.8 % off at most.
        p90: The number that 90 % of them do not exceed, 0.8 % off at most.
        p99: The number that 99 % of them do not exceed, 0.8 % off at most.
    """

    __slots__ = ("_buckets", "_total", "count", "max")

    def __init__(
        self, buckets: _Buckets = _EMPTY, total: float = 0.0, largest: float = 0.0
    ) -> None:
        self._buckets = buckets
        self._total = total
        self.count = sum(buckets[1])
        self.max = largest

    @property
    def mean(self) -> float:
        """The mean; 0 without numbers."""
        return self._total / self.count if self.count else 0.0

    @property
    def p50(self) -> float:
        """The median."""
        return self.quantile(0.50)

    @property
    def p90(self) -> float:
        """The number that 90 % do not exceed."""
        return self.quantile(0.90)

    @property
    def p99(self) -> float:
        """The number that 99 % do not exceed."""
        return self.quantile(0.99)

    def quantile(self, share: float) -> float:
        """Return the number that a share of all numbers does not exceed.

        Args:
            share: Between 0 and 1; 0.95 returns the 95th percentile.

        Returns:
            The number, 0.8 % off at most; 0 without numbers.
        """
        rank = share * self.count
        seen = 0
        for bucket, count in zip(*self._buckets, strict=True):
            seen += count
            if seen >= rank:
                return min(_smallest(bucket), self.max)  # a float32 may be rounded up
        return 0.0

    def __repr__(self) -> str:
        return (
            f"Distribution(count={self.count}, mean={self.mean:.3g}, p50={self.p50:.3g}, "
            f"p90={self.p90:.3g}, p99={self.p99:.3g}, max={self.max:.3g})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Distribution):
            return NotImplemented
        return (self._buckets, self._total, self.max) == (other._buckets, other._total, other.max)

    def __hash__(self) -> int:
        return hash((self.count, self._total, self.max))


def merged(parts: Iterable[Distribution]) -> Distribution:
    """Return the distribution of all numbers of `parts`."""
    counts: Counter[int] = Counter()
    total = largest = 0.0
    for part in parts:
        counts.update(_counts_of(part._buckets))
        total += part._total
        largest = max(largest, part.max)
    return Distribution(_buckets_of(counts), total, largest)
