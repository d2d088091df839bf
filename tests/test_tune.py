"""`python -m batchify tune`: measure a function and advise on its options (contract 7)."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import io
import itertools
import json
import math
import re
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from batchify import Retry, batched
from batchify.__main__ import main
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
from batchify.cli.target import CommandError, load
from batchify.cli.units import format_time

HERE = "tests.test_tune"
CHEAP = QueueCost(batch=50e-6, item=1e-6)
batches: list[list[Any]] = []


def recorded(items: list[Any]) -> list[Any]:
    batches.append(items)
    return items


@batched(size=7)
def decorated(items: list[Any]) -> list[Any]:
    batches.append(items)
    return items


async def awaited(items: list[Any]) -> list[Any]:
    batches.append(items)
    return items


def fails(items: list[Any]) -> list[Any]:
    if len(items) > 2:
        raise KeyError("three")
    return items


def square(n: int) -> int:
    return n * n


class Table:
    @batched
    def bulk(self, items: list[Any]) -> list[Any]:
        batches.append(items)
        return items

    def plain(self, items: list[Any]) -> list[Any]:
        return items

    @classmethod
    def make(cls, items: list[Any]) -> list[Any]:
        batches.append(items)
        return items

    @staticmethod
    def insert(items: list[Any]) -> list[Any]:
        batches.append(items)
        return items


table = Table()
view = decorated.options(timeout=1)


def one_too_few(items: list[Any]) -> list[Any]:
    return items[1:]


def one_too_few_from_two_on(items: list[Any]) -> Iterator[Any]:
    yield from items[: max(1, len(items) - 1)]


def too_many(items: list[Any]) -> Iterator[int]:
    return itertools.count()


async def as_set(items: list[Any]) -> set[Any]:
    return {*items}


def without_a_key(items: list[Any]) -> dict[str, Any]:
    return {str(item): item for item in items}


def all_fail(items: list[Any]) -> list[Any]:
    return [ValueError("no") for _ in items]


def one_fails(items: list[Any]) -> list[Any]:
    return [ValueError("no"), *items[1:]] if len(items) > 1 else items


def retried(items: list[Any]) -> list[Any]:
    return [Retry(after=3600) for _ in items]


def mapped(items: list[Any]) -> Iterator[Any]:
    return map(str, items)


def exits(items: list[Any]) -> list[Any]:
    sys.exit(3)


def boom(n: int) -> int:
    raise ZeroDivisionError


def ticking() -> Callable[[], float]:
    """Return a clock that advances by 0.1 ms per reading, however busy the machine is."""
    ticks = itertools.count()
    return lambda: next(ticks) * 1e-4


@pytest.fixture(autouse=True)
def _ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "measure", functools.partial(measure, clock=ticking()))


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


def test_each_call_gets_new_items() -> None:
    batches.clear()
    with open_call(recorded) as call:
        measure(call, itertools.count(), [1, 2, 4], 0.01, ticking())
    everything = list(itertools.chain(*batches))
    assert everything == list(range(len(everything)))


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


# ---- the command ----


def test_the_table_has_a_row_for_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    batches.clear()
    assert main(["tune", f"{HERE}:recorded", "--seconds", "0.05", "--most", "100"]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in printed if line.split() and line.split()[0].isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "16", "32", "64", "100"]
    assert all(row[-1].endswith("x") for row in rows)
    assert any(line.startswith("A call takes") for line in printed)
    assert {len(items) for items in batches} == {1, 2, 4, 8, 16, 32, 64, 100}


@pytest.mark.parametrize(
    "target", ["decorated", "awaited", "Table.insert", "Table.make", "table.bulk"]
)
def test_decorated_functions_and_methods_are_called_directly(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    batches.clear()
    assert main(["tune", f"{HERE}:{target}", "--seconds", "0.02", "--most", "4"]) == 0
    assert {len(items) for items in batches} == {1, 2, 4}
    assert decorated.stats().submitted == 0  # no queue


def test_items_from_a_function_and_from_a_file(tmp_path: Path) -> None:
    call = ["tune", f"{HERE}:recorded", "--seconds", "0.01", "--most", "4", "--items"]
    batches.clear()
    assert main([*call, f"{HERE}:square"]) == 0
    assert list(itertools.chain(*batches))[:4] == [0, 1, 4, 9]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"n": n}) for n in range(3)) + "\n")
    batches.clear()
    assert main([*call, str(file)]) == 0
    assert list(itertools.chain(*batches))[:4] == [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 0}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_module:f"], "no_such_module"),
        ([f"{HERE}:nothing"], "nothing"),
        ([HERE], "expected MODULE:FUNCTION"),
        ([f"{HERE}:HERE"], "expected a function, got str"),
        ([f"{HERE}:fails", "--seconds", "0.01"], "KeyError on a list of 4"),
        ([f"{HERE}:recorded", "--items", "no_such_module:f"], "no_such_module"),
        ([f"{HERE}:recorded", "--items", __file__], "JSON"),
        ([f"{HERE}:recorded", "--items", f"{HERE}:boom"], "ZeroDivisionError"),
        ([f"{HERE}:recorded", "--items", str(Path(__file__).parent)], "is a directory"),
        ([f"{HERE}:view"], "expected a function, got CallOptions"),
        ([".app:f"], "neither a module nor a file"),
        ([f"{HERE}:record"], "has no 'record'; did you mean recorded?"),
        ([f"{HERE}:Table.plain"], f"`table = Table(...)`, and write {HERE}:table.plain"),
        ([f"{HERE}:Table.bulk"], f"`table = Table(...)`, and write {HERE}:table.bulk"),
        ([f"{HERE}:exits"], f"{HERE}:exits raised SystemExit on a list of 1: 3"),
        ([f"{HERE}:recorded", "--items", "none.jsonl"], "no such file: none.jsonl"),
        ([f"{HERE}:recorded", "--items", "none"], "no such file: none"),
        ([f"{HERE}:recorded", "--items", f"{HERE}:HERE"], "must be a function that takes a number"),
        ([f"{HERE}:one_too_few"], "one_too_few returned 0 results for 1 item"),
        ([f"{HERE}:one_too_few_from_two_on"], "returned 1 result for 2 items"),
        ([f"{HERE}:too_many"], "too_many returned 2 results for 1 item"),
        ([f"{HERE}:as_set"], "a set has no order"),
        ([f"{HERE}:without_a_key"], "items are int, keys are str"),
        (
            [f"{HERE}:all_fail"],
            "all_fail failed for every item, the first time with ValueError: no",
        ),
    ],
)
def test_mistakes_have_a_message_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("target", ["one_fails", "retried", "mapped"])
def test_single_failures_are_no_mistake(target: str) -> None:
    assert main(["tune", f"{HERE}:{target}", "--seconds", "0.01", "--most", "4"]) == 0


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


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a:b", "--most", "0"],
        ["a:b", "--rate", "-1"],
        ["a:b", "--callers", "0"],
        ["a:b", "--callers", "2", "--rate", "10"],
        ["a:b", "--plot", "x.gif"],
    ],
)
def test_wrong_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tune", *arguments])
    assert ended.value.code == 2


def test_the_message_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "batchify.cli.tune")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ModuleNotFoundError("no rich", name="rich")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["tune", f"{HERE}:recorded"]) == 2
    assert 'pip install "batchify-py[tune]"' in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_plot_is_an_svg_or_png_file(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"plot.{suffix}"
    call = ["tune", f"{HERE}:recorded", "--seconds", "0.01", "--most", "4", "--plot", str(path)]
    if importlib.util.find_spec("matplotlib") is None:
        batches.clear()
        assert main(call) == 2
        assert 'pip install "batchify-py[tune]"' in capsys.readouterr().err
        assert not batches  # the function is not called in vain
        return
    assert main(call) == 0
    assert path.read_bytes()[:5] == {"svg": b"<?xml", "png": b"\x89PNG\r"}[suffix]


def test_the_plot_shows_gain_and_latency_at_powers_of_two(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.svg"
    call = ["tune", f"{HERE}:recorded", "--seconds", "0.05", "--most", "16", "--plot", str(path)]
    assert main(call) == 0
    texts = re.findall("<!-- (.*) -->", path.read_text("utf-8"))
    assert {"1", "2", "4", "8", "16"} <= set(texts)
    assert {"gain in items per second", "latency of a batch", "items in a batch"} <= set(texts)
    assert not any("mathdefault" in text for text in texts)  # such as 10^0


def test_a_plot_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "plot.svg"
    path.mkdir()
    batches.clear()
    assert main(["tune", f"{HERE}:recorded", "--plot", str(path)]) == 2
    assert f"--plot: cannot write {path}: Is a directory" in capsys.readouterr().err
    assert not batches  # the function is not called in vain


def test_a_target_without_a_function_is_an_error() -> None:
    with pytest.raises(CommandError, match="expected MODULE:FUNCTION"):
        load("app")
