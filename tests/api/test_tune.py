"""`python -m batchify tune`: measure a function and advise on its options (contract 7)."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchify import Retry, batched
from batchify.__main__ import main
from batchify.cli import tune
from batchify.cli.measure import measure, open_call
from batchify.cli.target import CommandError, load

HERE = "tests.api.test_tune"


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


# ---- measuring and fitting ----


def test_each_call_gets_new_items() -> None:
    batches.clear()
    with open_call(recorded) as call:
        measure(call, itertools.count(), [1, 2, 4], 0.01, ticking())
    everything = list(itertools.chain(*batches))
    assert everything == list(range(len(everything)))


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
