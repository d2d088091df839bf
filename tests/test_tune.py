"""`python -m batchify tune`: measures, fits, advises (contract 7)."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import itertools
import json
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchify import batched
from batchify.__main__ import main
from batchify.cli import tune
from batchify.cli.tune import Line, Own, Point, Unfit, advised, called, fitted, measured

HERE = "tests.test_tune"
CHEAP = Own(batch=50e-6, item=1e-6)
given: list[list[Any]] = []


def noted(items: list[Any]) -> list[Any]:
    given.append(items)
    return items


@batched(size=7)
def decorated(items: list[Any]) -> list[Any]:
    given.append(items)
    return items


async def awaited(items: list[Any]) -> list[Any]:
    given.append(items)
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
        given.append(items)
        return items

    @staticmethod
    def insert(items: list[Any]) -> list[Any]:
        given.append(items)
        return items


table = Table()
view = decorated.options(timeout=1)


def boom(n: int) -> int:
    raise ZeroDivisionError


def ticking() -> Callable[[], float]:
    """A clock by which everything takes 0.1 ms, whatever the machine does meanwhile."""
    ticks = itertools.count()
    return lambda: next(ticks) * 1e-4


@pytest.fixture(autouse=True)
def _ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "measured", functools.partial(measured, clock=ticking()))


class Machine:
    """A function with exact costs, and the clock that they are measured by."""

    def __init__(self, fixed: float, per_item: float) -> None:
        self.costs = Line(fixed, per_item, 0.0)
        self.now = 0.0
        self.sizes: list[int] = []

    def __call__(self, items: list[Any]) -> None:
        self.sizes.append(len(items))
        self.now += self.costs.time(len(items))

    def clock(self) -> float:
        return self.now

    def measured(self, sizes: list[int], seconds: float | None = None) -> list[Point]:
        if seconds is None:  # ten rounds
            seconds = 10 * sum(map(self.costs.time, sizes))
        return measured(self, itertools.count(), sizes, seconds, self.clock)


SIZES = [2**n for n in range(11)]


# ---- measuring and fitting ----


@pytest.mark.parametrize("fixed", [0.0, 1e-6, 0.002, 0.3])
@pytest.mark.parametrize("per_item", [0.0, 1e-7, 2e-5, 1e-3])
def test_the_line_is_found(fixed: float, per_item: float) -> None:
    if fixed == per_item == 0.0:
        return
    line = fitted(Machine(fixed, per_item).measured(SIZES))
    assert line.fixed == pytest.approx(fixed, rel=1e-6, abs=1e-9)
    assert line.per_item == pytest.approx(per_item, rel=1e-6, abs=1e-12)
    assert line.off < 1e-6


def test_what_is_no_line_is_told_to_be_off() -> None:
    points = [Point(n, [1e-6 * n * n]) for n in SIZES]
    line = fitted(points)
    assert line.fixed == 0.0
    assert line.per_item > 0.0
    assert line.off > 0.3


def test_an_outlier_does_not_count() -> None:
    points = [Point(n, [0.001 + 1e-5 * n] * 5 + [30.0]) for n in SIZES]
    assert fitted(points).fixed == pytest.approx(0.001)


def test_the_sizes_take_turns_and_a_slow_one_is_the_last() -> None:
    machine = Machine(0.0, 0.01)
    points = machine.measured(SIZES, seconds=10.0)
    assert [point.size for point in points] == SIZES[: SIZES.index(256) + 1]  # 2.56 s
    assert machine.sizes[0] == 1  # ahead of the clock
    assert machine.sizes[1:] == (SIZES[: len(points)] * 100)[: len(machine.sizes) - 1]
    assert 10.0 <= machine.now < 10.0 + 0.01 + 2.56


def test_what_is_too_slow_for_the_time_is_told() -> None:
    with pytest.raises(Unfit, match="--seconds"):
        Machine(1.0, 0.0).measured(SIZES, seconds=0.5)
    assert len(Machine(1.0, 0.0).measured(SIZES, seconds=5.0)) == 6


def test_items_are_not_used_twice() -> None:
    given.clear()
    with called(noted) as call:
        measured(call, itertools.count(), [1, 2, 4], 0.01, ticking())
    everything = list(itertools.chain(*given))
    assert everything == list(range(len(everything)))


@pytest.mark.parametrize("kind", ["generator", "async def", "async generator"])
def test_what_is_measured_is_run_to_its_end(kind: str) -> None:
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
    with called(function) as call:
        assert call([1, 2]) == [1, 2]
    assert ended == [[1, 2]]


# ---- the advice ----


def advice_for(fixed: float, per_item: float, rate: float | None = None, own: Own = CHEAP) -> Any:
    points = Machine(fixed, per_item).measured(SIZES)
    return advised(points, fitted(points), own, rate)


def test_a_fixed_cost_pays() -> None:
    advice = advice_for(0.002, 1e-4)
    assert advice.pays
    assert advice.size == 500  # 10 % of an item's cost are left of the fixed one: 203, rounded up
    assert advice.gain == pytest.approx(0.0021 / ((0.002 + 50e-6) / 500 + 1e-4 + 1e-6))
    assert not advice.is_largest
    assert (advice.linger, advice.workers) == (0.0, 1)


def test_no_fixed_cost_does_not() -> None:
    assert not advice_for(0.0, 1e-3).pays
    assert not advice_for(1e-6, 1e-6).pays


def test_larger_sizes_than_were_tried_are_not_advised() -> None:
    advice = advice_for(0.1, 1e-6)
    assert advice.size == SIZES[-1]
    assert advice.is_largest


def test_a_linger_where_batches_come_out_small() -> None:
    advice = advice_for(0.002, 1e-4, rate=200)
    assert 0 < advice.linger <= 0.002
    assert advice.workers == 1
    busy = advice_for(0.002, 1e-4, rate=15_000)  # 75 % of two workers by the items alone
    assert busy.linger == 0.0
    assert busy.workers == 2


@pytest.mark.parametrize("rate", [1.0, 100.0, 1e4, 1e6])
@pytest.mark.parametrize("fixed", [1e-5, 1e-3, 0.1])
def test_the_workers_keep_up(fixed: float, rate: float) -> None:
    advice = advice_for(fixed, 1e-4, rate=rate)
    each = fixed / advice.size + 1e-4
    assert advice.workers / each >= rate
    assert advice.workers <= math.ceil(1.2 * rate * each)


# ---- the command ----


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    given.clear()
    assert main(["tune", f"{HERE}:noted", "--seconds", "0.05", "--most", "100"]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in printed if line.split() and line.split()[0].isdigit()]
    assert [row[0] for row in rows] == ["1", "2", "4", "8", "16", "32", "64", "100"]
    assert all(row[-1].endswith("x") for row in rows)
    assert any(line.startswith("a call takes") for line in printed)
    assert {len(items) for items in given} == {1, 2, 4, 8, 16, 32, 64, 100}


@pytest.mark.parametrize("target", ["decorated", "awaited", "Table.insert", "table.bulk"])
def test_what_is_called(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    given.clear()
    assert main(["tune", f"{HERE}:{target}", "--seconds", "0.02", "--most", "4"]) == 0
    assert {len(items) for items in given} == {1, 2, 4}
    assert decorated.stats().submitted == 0  # the plain function: no queue


def test_items_from_a_function_and_from_a_file(tmp_path: Path) -> None:
    call = ["tune", f"{HERE}:noted", "--seconds", "0.01", "--most", "4", "--items"]
    given.clear()
    assert main([*call, f"{HERE}:square"]) == 0
    assert list(itertools.chain(*given))[:4] == [0, 1, 4, 9]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"n": n}) for n in range(3)) + "\n")
    given.clear()
    assert main([*call, str(file)]) == 0
    assert list(itertools.chain(*given))[:4] == [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 0}]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["no_such_module:f"], "no_such_module"),
        ([f"{HERE}:nothing"], "nothing"),
        ([HERE], "module:function"),
        ([f"{HERE}:HERE"], "function is needed"),
        ([f"{HERE}:fails", "--seconds", "0.01"], "KeyError on a list of 4"),
        ([f"{HERE}:noted", "--items", "no_such_module:f"], "no_such_module"),
        ([f"{HERE}:noted", "--items", __file__], "JSON"),
        ([f"{HERE}:noted", "--items", f"{HERE}:boom"], "ZeroDivisionError"),
        ([f"{HERE}:noted", "--items", str(Path(__file__).parent)], "module:function"),
        ([f"{HERE}:view"], "function is needed"),
        ([".app:f"], "not found"),
    ],
)
def test_what_cannot_be_measured(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *arguments]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["a:b", "--most", "0"], ["a:b", "--rate", "-1"], ["a:b", "--plot", "x.gif"]],
)
def test_arguments_that_are_wrong(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["tune", *arguments])
    assert ended.value.code == 2


def test_without_rich_it_says_what_to_install(
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
    assert main(["tune", f"{HERE}:noted"]) == 2
    assert 'pip install "batchify-py[tune]"' in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_plot(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"plot.{suffix}"
    call = ["tune", f"{HERE}:noted", "--seconds", "0.01", "--most", "4", "--plot", str(path)]
    if importlib.util.find_spec("matplotlib") is None:
        given.clear()
        assert main(call) == 2
        assert 'pip install "batchify-py[tune]"' in capsys.readouterr().err
        assert not given  # nothing was called in vain
        return
    assert main(call) == 0
    assert path.read_bytes()[:5] == {"svg": b"<?xml", "png": b"\x89PNG\r"}[suffix]


def test_what_is_unfit_is_an_error_with_a_reason() -> None:
    with pytest.raises(Unfit, match="module:function"):
        tune.found("app")
