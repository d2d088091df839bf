"""Choose `size`, `linger` and `workers` from measured times, and predict what they lead to.

Pure: no I/O and no clock, so the same times give the same advice. The caller is the command `tune`.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .measure import Point

# The chosen size leaves at most this share of an item's cost to the fixed cost of its batch.
FIXED_SHARE = 0.1
# A smaller gain does not pay: machines differ by that much from one minute to the next.
MIN_GAIN = 1.25
# Workers are chosen so that full batches keep them busy for at most 1 / HEADROOM of the time.
HEADROOM = 1.2
# Lingers that are compared, as multiples of the time of a call with one item, rounded.
LINGERS = (0.5, 1.0, 2.5, 5.0)
# With sequential callers, a linger of this many batch times gives all of them time to call again.
GATHERING = 1.25
ARRIVALS = 20_000  # items of a prediction
# With more callers than this many times the size, the queue fills batches anyway.
MAX_CALLERS_PER_SIZE = 4
MIN_BATCHES = 20  # batches of a prediction with sequential callers


# ---- the cost of a call ----


@dataclass(frozen=True)
class Line:
    """`time = fixed + per_item * n`, in seconds.

    Attributes:
        fixed: the part that does not depend on the number of items.
        per_item: the part that each item adds.
        error: the median relative difference between the line and the measured times.
    """

    fixed: float
    per_item: float
    error: float = 0.0

    def time(self, size: float) -> float:
        """Return the time of a call with `size` items."""
        return self.fixed + self.per_item * size


@dataclass(frozen=True)
class QueueCost:
    """The time that batchify itself takes, in seconds.

    Attributes:
        batch: for a batch of one item, from the call to its result.
        item: for each further item.
    """

    batch: float
    item: float

    def of_a_batch(self, line: Line) -> Line:
        """Return the time from the start of a batch to its results.

        The time per item is not in it: the callers spend it, while a batch runs.
        """
        return Line(line.fixed + self.batch, line.per_item)

    def gain(self, single: float, size: float, time: float) -> float:
        """Return how many times as many items per second batches handle as direct calls.

        Args:
            single: the time of a direct call with one item.
            size: the number of items in a batch.
            time: the time of a direct call with that many.
        """
        return single * size / max(self.latency(size, time), 1e-12)

    def latency(self, size: float, time: float) -> float:
        """Return the time from the call of the first item of a batch to the results.

        Args:
            size: the number of items in the batch.
            time: the time of a direct call with that many.
        """
        return time + self.batch + self.item * size


def fit(points: Sequence[Point]) -> Line:
    """Return the line through the median times, by least squares of the relative errors.

    Small and large sizes have the same weight, although their times differ by orders of magnitude.
    If the fixed part would be negative, the line goes through zero.
    """
    if len(points) == 1:
        return Line(0.0, points[0].time / points[0].size)
    weighted = [(1 / max(point.time, 1e-12) ** 2, point.size, point.time) for point in points]
    total = sum(weight for weight, _, _ in weighted)
    mean_size = sum(weight * size for weight, size, _ in weighted) / total
    mean_time = sum(weight * time for weight, _, time in weighted) / total
    variance = sum(weight * (size - mean_size) ** 2 for weight, size, _ in weighted)
    covariance = sum(
        weight * (size - mean_size) * (time - mean_time) for weight, size, time in weighted
    )
    per_item = max(0.0, covariance / variance)
    fixed = mean_time - per_item * mean_size
    if fixed < 0:
        fixed = 0.0
        per_item = sum(weight * size * time for weight, size, time in weighted) / sum(
            weight * size**2 for weight, size, _ in weighted
        )
    line = Line(fixed, per_item)
    error = statistics.median(abs(line.time(p.size) / max(p.time, 1e-12) - 1) for p in points)
    return Line(fixed, per_item, error)


# ---- predictions ----


@dataclass(frozen=True)
class Prediction:
    """What a size and a linger lead to. Times are in seconds.

    Attributes:
        size: the maximum batch size.
        linger: how long the oldest item waits for more items.
        batch: the mean number of items in a batch.
        latency: the mean time from the call to the result.
        p99: the time that 99 % of the calls do not exceed.
        rate: results per second.
        calls: calls of the function per second.
    """

    size: int
    linger: float
    batch: float
    latency: float
    p99: float
    rate: float
    calls: float


def predict_arrivals(
    cost: Line, rate: float, *, size: int, linger: float, workers: int
) -> Prediction:
    """Simulate items that arrive independently of each other (a Poisson process).

    Args:
        cost: the time of a batch including the queue.
        rate: how many items arrive per second.
        size: the maximum batch size.
        linger: seconds that the oldest item waits for more items.
        workers: how many batches run at the same time.
    """
    gaps = random.Random(0)
    arrivals: list[float] = []
    now = 0.0
    for _ in range(ARRIVALS):
        now += gaps.expovariate(rate)
        arrivals.append(now)
    idle_from = [0.0] * workers
    sizes: list[int] = []
    latencies: list[float] = []
    done = 0
    while done < ARRIVALS:
        full = arrivals[done + size - 1] if done + size <= ARRIVALS else math.inf
        start = max(heapq.heappop(idle_from), min(arrivals[done] + linger, full))
        batch_end = bisect_right(arrivals, start, done + 1, min(done + size, ARRIVALS))
        end = start + cost.time(batch_end - done)
        heapq.heappush(idle_from, end)
        sizes.append(batch_end - done)
        latencies += [end - arrival for arrival in arrivals[done:batch_end]]
        done = batch_end
    return _prediction(size, linger, sizes, latencies, max(idle_from))


def predict_callers(
    line: Line, queue: QueueCost, callers: int, *, size: int, linger: float
) -> Prediction:
    """Simulate callers that wait for each result before the next call, with one worker.

    Args:
        line: the time of a direct call.
        queue: the time that batchify takes.
        callers: how many callers there are.
        size: the maximum batch size.
        linger: seconds that the oldest item waits for more items.
    """
    cost = queue.of_a_batch(line)
    waiting = [queue.item * number for number in range(callers)]  # a heap of submission times
    sizes: list[int] = []
    latencies: list[float] = []
    idle_from = 0.0
    while len(latencies) < ARRIVALS or len(sizes) < MIN_BATCHES:
        first = [heapq.heappop(waiting) for _ in range(min(size, callers))]
        full = first[-1] if len(first) == size else math.inf
        start = max(idle_from, min(first[0] + linger, full))
        count = bisect_right(first, start, 1)
        for submission in first[count:]:
            heapq.heappush(waiting, submission)
        idle_from = start + cost.time(count)
        for number, submission in enumerate(first[:count], 1):
            # The callers get their results and call again one after the other.
            heapq.heappush(waiting, idle_from + queue.item * number)
            latencies.append(idle_from - submission)
        sizes.append(count)
    return _prediction(size, linger, sizes, latencies, idle_from)


def _prediction(
    size: int, linger: float, sizes: list[int], latencies: list[float], seconds: float
) -> Prediction:
    latencies.sort()
    return Prediction(
        size,
        linger,
        batch=statistics.fmean(sizes),
        latency=statistics.fmean(latencies),
        p99=latencies[math.ceil(0.99 * len(latencies)) - 1],
        rate=len(latencies) / seconds,
        calls=len(sizes) / seconds,
    )


# ---- the advice ----


@dataclass(frozen=True)
class Advice:
    """The options for the decorator.

    Attributes:
        size: the maximum batch size.
        linger: seconds.
        workers: how many are needed for the rate of arrivals; 1 if it is not known.
        gain: how many times as many items per second as direct calls, one item each.
        is_largest: the chosen size is the largest that was tried, and a larger one may gain more.
        predictions: what was compared: lingers for a rate of arrivals, or two ways to batch the
            items of sequential callers.
    """

    size: int
    linger: float
    workers: int
    gain: float
    is_largest: bool
    predictions: tuple[Prediction, ...] = ()

    @property
    def pays(self) -> bool:
        """Whether the gain is worth a queue."""
        return self.gain >= MIN_GAIN


def advise(
    points: Sequence[Point],
    line: Line,
    queue: QueueCost,
    *,
    rate: float | None = None,
    callers: int | None = None,
) -> Advice:
    """Choose the options for a function.

    With `linger=0` a batch consists of the items that arrived while the one before it ran, so that
    batches grow with the load. Therefore `linger` stays 0, except for sequential callers: they
    arrive in two groups, and each group misses the other's batch. A batch that waits for all
    callers is faster then.

    Args:
        points: the measured times.
        line: the line through them.
        queue: the time that batchify takes.
        rate: how many items arrive per second, if known.
        callers: how many callers wait for each result before the next call, if known.
    """
    largest = points[-1].size
    single = line.time(1)
    fixed, per_item = line.fixed + queue.batch, line.per_item + queue.item
    size = max(1, math.ceil(fixed / (FIXED_SHARE * max(per_item, 1e-12))))
    size = _round(min(largest, size), largest)
    gain = queue.gain(single, size, line.time(size))
    is_largest = size == largest and fixed > 2 * FIXED_SHARE * per_item * size
    plain = Advice(size, 0.0, 1, gain, is_largest)
    if callers is not None:
        return _for_callers(plain, line, queue, callers)
    return plain if rate is None else _for_rate(plain, line, queue, rate)


def _for_rate(plain: Advice, line: Line, queue: QueueCost, rate: float) -> Advice:
    """Choose the number of workers, and predict what a linger would change."""
    workers = max(1, math.ceil(HEADROOM * rate * line.time(plain.size) / plain.size))
    cost = queue.of_a_batch(line)
    lingers = [0.0, *sorted({round_linger(factor * line.time(1)) for factor in LINGERS})]
    predictions = tuple(
        predict_arrivals(cost, rate, size=plain.size, linger=linger, workers=workers)
        for linger in lingers
    )
    return replace(plain, workers=workers, predictions=predictions)


def _for_callers(plain: Advice, line: Line, queue: QueueCost, callers: int) -> Advice:
    """Choose between batches that wait for all callers, and batches of what is queued."""
    found = [predict_callers(line, queue, callers, size=plain.size, linger=0.0)]
    if 1 < callers <= MAX_CALLERS_PER_SIZE * plain.size:
        linger = round_linger(GATHERING * queue.of_a_batch(line).time(callers))
        found.append(predict_callers(line, queue, callers, size=callers, linger=linger))
    best = max(found, key=lambda one: one.rate * (1.1 if one.linger == 0 else 1.0))
    return Advice(
        best.size,
        best.linger,
        1,
        best.rate * line.time(1),
        plain.is_largest and best is found[0] and callers > plain.size,
        tuple(found),
    )


def _round(size: int, largest: int) -> int:
    """Return 1, 2 or 5 times a power of ten that is at least `size`, or `largest`."""
    if size <= 1 or size >= largest:
        return max(1, size)
    power: int = 10 ** math.floor(math.log10(size))
    return min(largest, *(digit * power for digit in (1, 2, 5, 10) if digit * power >= size))


def round_linger(seconds: float) -> float:
    """Return `seconds` with two digits."""
    return float(f"{seconds:.1e}")
