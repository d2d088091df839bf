"""Record the distribution of many numbers in bounded memory.

Quantiles are a few percent off at most; count, mean and maximum are exact.
`stats` records sizes and times of batches.
"""

from __future__ import annotations

import math
import operator
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from typing import TypeAlias

# The lower bounds of the buckets in ascending order, and how many numbers are in each bucket: 16
# bytes per bucket. A dict takes 90 bytes in several small objects, which live as long as the
# function and keep otherwise free memory pages from being returned to the system.
_Buckets: TypeAlias = "tuple[array[float], array[int]]"


def _buckets_of(counts: Mapping[float, int]) -> _Buckets:
    lows = array("d", sorted(counts))
    return lows, array("Q", map(counts.__getitem__, lows))


def _counts_of(buckets: _Buckets) -> Counter[float]:
    return Counter(dict(zip(*buckets, strict=True)))


_EMPTY = _buckets_of({})


class Recorder:
    """Count numbers in buckets that are wider for larger numbers (HdrHistogram, G. Tene 2012).

    A bucket keeps the first `bits` binary digits of a number. So a quantile is off by at most
    2**(1-bits) of its value, and small integers are exact. Each power of two in use needs
    2**(bits-1) buckets: with 6 bits, times from a microsecond to an hour need about a thousand.

    Numbers are added a few hundred at a time, because the loop over them runs in C.
    """

    __slots__ = ("_buckets", "_digits", "_max", "_total")

    def __init__(self, bits: int) -> None:
        self._digits = float(1 << bits)
        self._buckets = _EMPTY  # replaced as a whole, as a signal handler may raise at any instant
        self._total = 0.0
        self._max = 0.0

    def add(self, numbers: Sequence[float]) -> None:
        """Count `numbers`, all >= 0."""
        if not numbers:
            return
        mantissas, exponents = zip(*map(math.frexp, numbers), strict=True)
        digits = map(int, map(operator.mul, mantissas, repeat(self._digits)))
        rounded = map(operator.truediv, digits, repeat(self._digits))
        counts = _counts_of(self._buckets)
        counts.update(map(math.ldexp, rounded, exponents))
        self._buckets = _buckets_of(counts)
        self._total += math.fsum(numbers)
        self._max = max(self._max, *numbers)

    def distribution(self) -> Distribution:
        """Return the distribution of all numbers counted so far."""
        return Distribution(self._buckets, self._total, self._max)


class Distribution:
    """An immutable snapshot of how numbers are distributed.

    Without numbers, all attributes are 0.

    Attributes:
        count: How many numbers there are.
        mean: Their mean.
        max: The largest number, exactly.
        p50: The median, a few percent off at most.
        p90: The number that 90 % of them do not exceed, a few percent off at most.
        p99: The number that 99 % of them do not exceed, a few percent off at most.
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
            The number, a few percent off at most; 0 without numbers.
        """
        rank = share * self.count
        seen = 0
        for low, count in zip(*self._buckets, strict=True):
            seen += count
            if seen >= rank:
                return low
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
    counts: Counter[float] = Counter()
    total = largest = 0.0
    for part in parts:
        counts.update(_counts_of(part._buckets))
        total += part._total
        largest = max(largest, part.max)
    return Distribution(_buckets_of(counts), total, largest)
