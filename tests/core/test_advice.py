"""`python -m batchify tune`: what it measures, what it advises, and how it shows both."""

from __future__ import annotations

import io
import itertools
import math
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from rich.console import Console

from batchify.cli import tune
from batchify.cli.advice import (
    Advice,
    Line,
    QueueCost,
    advise,
    fit,
    predict_arrivals,
    predict_callers,
)
from batchify.cli.measure import Point, measure, open_call
from batchify.cli.target import CommandError
from batchify.cli.units import format_time

CHEAP = QueueCost(batch=50e-6, item=1e-6)


class Machine:
    """A function with exact costs, and the clock that measures them."""

    def __init__(self, fixed: float, per_item: float) -> None:
        self.costs = Line(fixed, per_item, 0.0)
        self.now = 0.0
        self.sizes: list[int] = []

    def __call__(self, items: list[Any]) -> None:
        self.sizes.append(len(items))
        self.now += self.costs.time(len(items))

    def clock(self) -> float:
        return self.now

    def measure(self, sizes: list[int], seconds: float | None = None) -> list[Point]:
        if seconds is None:  # ten rounds
            seconds = 10 * sum(map(self.costs.time, sizes))
        return measure(self, itertools.count(), sizes, seconds, self.clock)


SIZES = [2**n for n in range(11)]


# ---- measuring and fitting ----


@pytest.mark.parametrize("fixed", [0.0, 1e-6, 0.002, 0.3])
@pytest.mark.parametrize("per_item", [0.0, 1e-7, 2e-5, 1e-3])
def test_the_line_is_exact_for_exact_times(fixed: float, per_item: float) -> None:
    if fixed == per_item == 0.0:
        return
    line = fit(Machine(fixed, per_item).measure(SIZES))
    assert line.fixed == pytest.approx(fixed, rel=1e-6, abs=1e-9)
    assert line.per_item == pytest.approx(per_item, rel=1e-6, abs=1e-12)
    assert line.error < 1e-6


def test_the_error_of_a_curve_is_large() -> None:
    points = [Point(n, [1e-6 * n * n]) for n in SIZES]
    line = fit(points)
    assert line.fixed == 0.0
    assert line.per_item > 0.0
    assert line.error > 0.3


def test_outliers_do_not_change_the_line() -> None:
    points = [Point(n, [0.001 + 1e-5 * n] * 5 + [30.0]) for n in SIZES]
    assert fit(points).fixed == pytest.approx(0.001)


def test_the_sizes_take_turns_until_one_is_too_slow() -> None:
    machine = Machine(0.0, 0.01)
    points = machine.measure(SIZES, seconds=10.0)
    assert [point.size for point in points] == SIZES[: SIZES.index(256) + 1]  # 2.56 s
    assert machine.sizes[0] == 1  # not counted
    assert machine.sizes[1:] == (SIZES[: len(points)] * 100)[: len(machine.sizes) - 1]
    assert 10.0 <= machine.now < 10.0 + 0.01 + 2.56


def test_a_function_that_is_too_slow_for_the_time() -> None:
    with pytest.raises(CommandError, match="try --seconds 10"):
        Machine(1.0, 0.0).measure(SIZES, seconds=0.5)
    assert len(Machine(1.0, 0.0).measure(SIZES, seconds=5.0)) == 6


@pytest.mark.parametrize("kind", ["generator", "async def", "async generator"])
def test_coroutines_and_generators_run_to_their_end(kind: str) -> None:
    ended: list[Any] = []

    def stream(items: list[Any]) -> Iterator[Any]:
        yield from items
        ended.append(items)

    async def awork(items: list[Any]) -> list[Any]:
        ended.append(items)
        return items

    async def astream(items: list[Any]) -> AsyncIterator[Any]:
        for item in items:
            yield item
        ended.append(items)

    function: Any = {"generator": stream, "async def": awork, "async generator": astream}[kind]
    with open_call(function) as call:
        assert call([1, 2]) == [1, 2]
    assert ended == [[1, 2]]


# ---- the advice ----


def advice_for(fixed: float, per_item: float, **load: Any) -> Advice:
    points = Machine(fixed, per_item).measure(SIZES)
    return advise(points, fit(points), CHEAP, **load)


def test_batching_pays_for_a_fixed_cost() -> None:
    advice = advice_for(0.002, 1e-4)
    assert advice.pays
    assert advice.size == 500  # 203, from which on the fixed cost is 10 % of an item, rounded up
    assert advice.gain == pytest.approx(0.0021 / ((0.002 + 50e-6) / 500 + 1e-4 + 1e-6))
    assert not advice.is_largest
    assert (advice.linger, advice.workers) == (0.0, 1)


def test_batching_does_not_pay_without_a_fixed_cost() -> None:
    assert not advice_for(0.0, 1e-3).pays
    assert not advice_for(1e-6, 1e-6).pays


def test_the_size_is_not_larger_than_the_largest_that_was_tried() -> None:
    advice = advice_for(0.1, 1e-6)
    assert advice.size == SIZES[-1]
    assert advice.is_largest


@pytest.mark.parametrize("rate", [10, 200, 2000, 15_000])
def test_a_rate_of_arrivals_needs_no_linger(rate: float) -> None:
    advice = advice_for(0.002, 1e-4, rate=rate)
    assert advice.linger == 0.0
    assert advice.workers == (2 if rate == 15_000 else 1)  # 75 % of two by the items alone
    plain, *lingering = advice.predictions
    assert plain.linger == 0.0
    assert [one.linger for one in lingering] == sorted({one.linger for one in lingering})
    assert all(one.calls <= plain.calls * 1.01 for one in lingering)


def test_predictions_for_few_items_per_second() -> None:
    cost = Line(0.002, 1e-4)
    plain = predict_arrivals(cost, 1.0, size=100, linger=0.0, workers=1)
    assert plain.batch == pytest.approx(1.0, abs=0.01)
    assert plain.latency == pytest.approx(0.0021, rel=0.01)
    assert plain.calls == pytest.approx(1.0, rel=0.05)
    lingering = predict_arrivals(cost, 1.0, size=100, linger=0.1, workers=1)
    assert lingering.latency == pytest.approx(0.1 + 0.0021, rel=0.05)


def test_predictions_for_a_long_linger() -> None:
    cost = Line(0.002, 1e-4)
    by_time = predict_arrivals(cost, 1000.0, size=10_000, linger=0.1, workers=1)
    assert by_time.batch == pytest.approx(101, rel=0.02)  # the first item and those of 0.1 s
    by_size = predict_arrivals(cost, 1000.0, size=10, linger=0.1, workers=1)
    assert by_size.batch == pytest.approx(10, abs=0.01)
    assert by_size.latency < 0.02


def test_sequential_callers_alternate_between_two_batches() -> None:
    prediction = predict_callers(Line(0.002, 1e-5), CHEAP, 16, size=64, linger=0.0)
    assert prediction.batch == pytest.approx(8, abs=0.1)  # 1, 15, 1, 15, ...


@pytest.mark.parametrize("callers", [2, 16, 100])
def test_sequential_callers_are_gathered(callers: int) -> None:
    advice = advice_for(0.002, 1e-5, callers=callers)
    plain, gathered = advice.predictions
    assert advice.size == callers
    assert advice.linger == pytest.approx(1.25 * (0.00205 + 1e-5 * callers), rel=0.05)
    assert gathered.batch == callers
    assert gathered.rate > 1.4 * plain.rate
    assert advice.gain == pytest.approx(gathered.rate * 0.00201)


def test_many_sequential_callers_need_no_linger() -> None:
    advice = advice_for(0.002, 1e-4, callers=10_000)
    assert (advice.size, advice.linger) == (500, 0.0)
    assert advice.predictions[0].batch > 480  # of which the first has one item


def test_one_sequential_caller_gains_nothing() -> None:
    advice = advice_for(0.002, 1e-5, callers=1)
    assert advice.gain < 1
    assert not advice.pays


@pytest.mark.parametrize("rate", [1.0, 100.0, 1e4, 1e6])
@pytest.mark.parametrize("fixed", [1e-5, 1e-3, 0.1])
def test_the_workers_keep_up_with_the_rate(fixed: float, rate: float) -> None:
    advice = advice_for(fixed, 1e-4, rate=rate)
    each = fixed / advice.size + 1e-4
    assert advice.workers / each >= rate
    assert advice.workers <= math.ceil(1.2 * rate * each)


# ---- what is printed ----


def printed(
    advice: Advice, points: list[Point], queue: QueueCost = CHEAP, **load: Any
) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the table of measured sizes, and the lines below it."""
    console = Console(width=200, file=io.StringIO())
    console.print(tune.points_table(points, fit(points), queue))
    rows = [line.split() for line in console.file.getvalue().splitlines()[2:]]  # type: ignore[attr-defined]
    console.file = io.StringIO()
    for text in tune.verdict(advice, points, fit(points), queue, **load):
        console.print(text, soft_wrap=True)
    return rows, [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("fixed", [1e-6, 1e-5, 5e-5, 1e-3])
def test_the_gains_agree_with_the_verdict(fixed: float) -> None:
    points = Machine(fixed, 1e-6).measure(SIZES)
    advice = advise(points, fit(points), CHEAP)
    rows, lines = printed(advice, points)
    gains = [float(row[-1].rstrip("x").replace(",", "")) for row in rows]
    assert advice.pays is (max(gains) > 1.25)
    assert advice.gain == pytest.approx(max(gains), rel=0.15)
    assert any("does not pay" in line for line in lines) is not advice.pays
    assert any("Recommended: @batched" in line for line in lines) is advice.pays
    assert gains[0] < 1  # one item per batch: only the queue's own time is added


def test_lingers_are_compared_for_a_rate() -> None:
    points = Machine(0.002, 1e-4).measure(SIZES)
    advice = advise(points, fit(points), CHEAP, rate=200.0)
    _, lines = printed(advice, points, rate=200.0)
    heading = lines.index("Predicted for 200 items per second that arrive at random times:")
    assert lines[heading + 1].split() == [
        "size", "linger", "mean", "batch", "mean", "latency", "p99", "latency", "calls/s",
    ]  # fmt: skip
    rows = [line.split() for line in lines[heading + 3 : heading + 8]]
    assert [row[1] for row in rows] == ["0", "1", "2.1", "5.2", "10"]
    assert "Recommended: @batched(size=500, linger=0)" in lines


def test_the_recipe_for_sequential_callers() -> None:
    points = Machine(0.002, 1e-5).measure(SIZES)
    advice = advise(points, fit(points), CHEAP, callers=16)
    _, lines = printed(advice, points, callers=16)
    assert "Recommended: @batched(size=16, linger=0.0028)" in lines
    advice = advise(points, fit(points), CHEAP, callers=1)
    _, lines = printed(advice, points, callers=1)
    assert any("does not pay for 1 caller" in line for line in lines)
    advice = advise(points, fit(points), CHEAP, callers=2000)
    _, lines = printed(advice, points, callers=2000)
    assert any("No call with more than 1,024 items was measured" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(2.5, "2.5 s"), (0.0025, "2.5 ms"), (2.5e-6, "2.5 µs"), (3e-9, "3 ns")]
)
def test_times_have_units(seconds: float, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert format_time(seconds) == text
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert format_time(seconds) == text.replace("µ", "u")
