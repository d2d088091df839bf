"""The goals of the benchmarks compare what they say, in CPU time where they say so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks import check
from benchmarks.adapters.batchify import Batchify, BatchifyDefaultCapacity
from benchmarks.adapters.hand_written_asyncio import HandWrittenAsyncio
from benchmarks.functions import abare
from benchmarks.goals import DEFAULT_CAPACITY, GOALS, LOOP, OURS, Goal, table, verdicts
from benchmarks.harness import Sample
from benchmarks.report import CPU, Runs
from benchmarks.scenarios import SCENARIOS, Time, in_threads, now, since
from tests.limits import LIMIT

ROOT = Path(__file__).parents[2]
RIVALS = (Batchify, BatchifyDefaultCapacity, HandWrittenAsyncio)


def runs(**of_rivals: list[tuple[float, float]]) -> Runs:
    """Return runs with these pairs of time and CPU time, one for each repetition."""
    names = {"ours": OURS, "default": DEFAULT_CAPACITY, "hand": LOOP}
    samples = [
        Sample("S1", names[rival], repetition, 0, value, 100, 10, 10.0, cpu=cpu)
        for rival, pairs in of_rivals.items()
        for repetition, (value, cpu) in enumerate(pairs)
    ]
    return Runs(samples, RIVALS)


def test_a_goal_is_about_time_or_cpu_time_of_its_row() -> None:
    found = runs(ours=[(8, 2), (9, 3)], default=[(6, 6), (6, 6)], hand=[(4, 4), (3, 3)])
    goals = [
        Goal("S1", 1.0, LOOP),
        Goal("S1", 1.0, LOOP, CPU),
        Goal("S1", 1.0, LOOP, CPU, DEFAULT_CAPACITY),
        Goal("S1", 1.0, "not installed", CPU),
        Goal("S2", 1.0, LOOP, CPU),
    ]
    got = list(verdicts({"S1": found}, goals))
    assert [verdict.value for verdict in got] == [2.5, 0.75, 1.75, None]
    assert [verdict.is_met() for verdict in got] == [False, True, False, False]


def test_the_table_says_what_is_compared() -> None:
    lines = table({"S1": runs(ours=[(8, 2)], hand=[(4, 4)])}).splitlines()
    assert "| S1 | batchify | CPU time | hand-written asyncio | 0.75x | 0.5x | reached |" in lines
    assert (
        "| S1 | batchify (default capacity) | CPU time | hand-written asyncio | 0.9x "
        "| not measured | - |"
    ) in lines
    assert "| S1 | batchify | time | aiodataloader | 0.9x | not measured | - |" in lines


@pytest.mark.parametrize("goal", GOALS, ids=str)
def test_each_goal_can_be_measured(goal: Goal) -> None:
    scenario = SCENARIOS[goal.scenario]
    assert goal.other is not None or scenario.unit == "bytes"
    assert goal.of != CPU or scenario.unit == "us"
    assert goal.kind


def test_the_limits_of_the_short_check_replace_goals() -> None:
    goals = {goal._replace(most=0.0): goal for goal in GOALS}
    for limit in check.NOT_YET:
        assert goals[limit._replace(most=0.0)].most < limit.most
        assert limit.scenario in check.SCALES
    assert len({limit._replace(most=0.0) for limit in check.NOT_YET}) == len(check.NOT_YET)


def test_the_short_check_names_the_row_and_the_kind() -> None:
    lines, is_good = check.check({"S1": runs(ours=[(9, 2)], default=[(9, 10)], hand=[(4, 4)])})
    assert not is_good
    assert lines == [
        "ok   S1: batchify takes 0.5x of the CPU time of hand-written asyncio, "
        "the limit is 0.9x, times 1.5 because the run is short",
        "FAIL S1: batchify (default capacity) takes 2.5x of the CPU time of hand-written asyncio, "
        "the limit is 1.6x, times 1.5 because the run is short",
    ]


# ---- measuring ----


def test_cpu_time_is_that_of_all_threads() -> None:
    def work(keys: range) -> list[int]:
        start = now()
        while since(start).cpu < 0.02:
            pass
        return list(keys)

    start = now()
    taken = in_threads(work, [range(3), range(3, 6)])
    assert 0.02 <= taken.cpu <= since(start).cpu
    assert since(Time(1.0, 2.0), Time(4.0, 2.5)) == (3.0, 0.5)


class Measured(NamedTuple):
    """What a run of the program has written."""

    text: str
    samples: list[dict[str, float | str | None]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    results = tmp_path_factory.mktemp("results") / "results.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "--scenario", "S1", "S7i", "S6", "S5a",
            "--rival", "batchify", "batchify (a list)", "batchify (default capacity)",
            "hand-written asyncio", "hand-written threads",
            "--repetitions", "1", "--scale", "0.02", "--json", str(results),
        ],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    return Measured(done.stdout, json.loads(results.read_text())["samples"])


def test_each_row_of_a_throughput_has_its_cpu_time(measured: Measured) -> None:
    for sample in measured.samples:
        if sample["scenario"] in ("S1", "S7i"):
            assert isinstance(sample["cpu"], float)
            assert sample["cpu"] > 0
        else:
            assert sample["cpu"] is None
    tables = [line for line in measured.text.splitlines() if line.startswith("| rival |")]
    assert ["CPU µs/item | CPU to hand-written" in line for line in tables] == [
        *(True, True, False, False)
    ]


def test_every_line_of_a_table_has_the_same_number_of_cells(measured: Measured) -> None:
    for part in measured.text.split("\n\n"):
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_the_map_of_an_iterator_is_compared_with_that_of_a_list(measured: Measured) -> None:
    assert "| S7i | batchify | CPU time | batchify (a list) | 2x | " in measured.text
    rows = {sample["rival"] for sample in measured.samples if sample["scenario"] == "S7i"}
    assert rows == {"batchify", "batchify (a list)", "hand-written threads"}


def test_a_gather_past_the_default_capacity_has_a_goal(measured: Measured) -> None:
    line = "| S1 | batchify (default capacity) | CPU time | hand-written asyncio | 0.9x | "
    assert line in measured.text
    scenario = SCENARIOS["S1"]
    rival = BatchifyDefaultCapacity(abare, scenario.size, scenario.linger, scenario.workers)
    assert scenario.each > rival.batched.capacity
