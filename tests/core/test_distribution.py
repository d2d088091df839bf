"""The quantiles of many numbers, in bounded memory."""

from __future__ import annotations

import gc
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchify import distribution
from batchify.distribution import Recorder, merged

EXACT = st.floats(1e-7, 1e5)


@given(st.lists(EXACT | st.just(0.0), min_size=1, max_size=200))
def test_quantiles_are_nearly_exact(numbers: list[float]) -> None:
    recorder = Recorder()
    for at in range(0, len(numbers), 7):
        recorder.add(numbers[at : at + 7])
    found = recorder.distribution()
    line = sorted(numbers)
    assert found.count == len(line)
    assert found.max == line[-1]
    assert found.mean == pytest.approx(sum(line) / len(line))
    for percent, quantile in ((50, found.p50), (90, found.p90), (99, found.p99)):
        exact = line[-(-percent * len(line) // 100) - 1]
        assert quantile == pytest.approx(exact, rel=0.008)
    assert found.p50 <= found.p90 <= found.p99 <= found.max


@given(st.lists(st.integers(0, 256), min_size=1, max_size=200))
def test_small_integers_have_exact_quantiles(sizes: list[int]) -> None:
    recorder = Recorder()
    recorder.add(sizes)
    found, line = recorder.distribution(), sorted(sizes)
    for percent, quantile in ((50, found.p50), (90, found.p90), (99, found.p99)):
        assert quantile == line[-(-percent * len(line) // 100) - 1]


@given(st.lists(st.lists(EXACT, max_size=30), max_size=5))
def test_merged_distributions_are_those_of_all_numbers(parts: list[list[float]]) -> None:
    recorders = [Recorder() for _ in parts]
    together = Recorder()
    for recorder, part in zip(recorders, parts, strict=True):
        recorder.add(part)
        together.add(part)
    found = merged(recorder.distribution() for recorder in recorders)
    whole = together.distribution()
    for name in ("count", "max", "p50", "p90", "p99"):
        assert getattr(found, name) == getattr(whole, name)
    assert found.mean == pytest.approx(whole.mean)


def test_a_distribution_needs_bounded_memory() -> None:
    """And little: each of 4,000 buckets needs 10 bytes."""
    recorder = Recorder()
    rnd = random.Random(1)

    def fill() -> None:
        for _ in range(100):
            recorder.add([10 ** rnd.uniform(-6, 3.5) for _ in range(300)])

    def held() -> int:
        gc.collect()  # and the memory that CPython keeps for reuse
        taken = tracemalloc.take_snapshot()
        own = taken.filter_traces([tracemalloc.Filter(True, distribution.__file__)])
        return sum(trace.size for trace in own.traces)

    tracemalloc.start()
    try:
        fill()
        first = held()
        fill()
        assert 40_000 < first < 60_000
        assert held() - first < 10_000
    finally:
        tracemalloc.stop()
    assert recorder.distribution().count == 60_000


def test_no_quantile_is_larger_than_the_largest_number() -> None:
    """The next 32-bit float of this one is 1.0."""
    recorder = Recorder()
    recorder.add([0.99999999])
    found = recorder.distribution()
    assert found.p50 == found.max == 0.99999999
