"""The goals: the largest ratio that batchify may take of what a rival takes in the same run.

A ratio is the median of the ratios within each repetition, so that it holds on other machines too.
Most goals against the hand-written batchers are about CPU time, because the time on the clock of a
sequential caller depends mostly on which core the system wakes a thread. If a rival did not run,
the table says that its goals were not measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .report import CPU, VALUE, Runs, digits
from .scenarios import SCENARIOS

OURS, DEFAULT_CAPACITY = "batchify", "batchify (default capacity)"
FLOOR = "the floor"
THREADS, LOOP = "hand-written threads", "hand-written asyncio"


class Goal(NamedTuple):
    """A row of batchify may take `most` times what `other` takes or, without it, `most` bytes.

    `of` says of what: of the CPU time, or of the value that the scenario measures.
    """

    scenario: str
    most: float
    other: str | None
    of: str = VALUE
    row: str = OURS

    @property
    def kind(self) -> str:
        """Name the compared quantity for the table of goals."""
        if self.of == CPU:
            return "CPU time"
        return {"us": "time", "ms": "latency", "bytes": "bytes"}[SCENARIOS[self.scenario].unit]


GOALS = (
    Goal("S1", 0.75, LOOP, CPU),
    Goal("S1", 0.90, LOOP, CPU, DEFAULT_CAPACITY),
    Goal("S1", 0.90, "aiodataloader"),
    Goal("S1", 0.90, "dloader"),
    Goal("S1", 0.12, "batched"),
    Goal("S1", 1.5, FLOOR),
    Goal("S1b", 1.3, LOOP),
    Goal("S1b", 0.2, "run_in_executor"),
    Goal("S1b", 0.12, "batched"),
    Goal("S1t", 1.05, LOOP),
    Goal("S1t", 1.0, "aiodataloader"),
    Goal("S1t", 1.6, FLOOR),
    Goal("S2", 0.10, THREADS, CPU),
    Goal("S2", 0.08, "batched"),
    Goal("S2", 2.0, FLOOR),
    Goal("S21", 0.07, THREADS, CPU),
    Goal("S21", 0.05, "batched"),
    Goal("S21", 1.4, FLOOR),
    Goal("S3", 0.5, THREADS, CPU),
    Goal("S3", 0.75, "batched"),
    Goal("S3", 1.8, FLOOR),
    Goal("S3s", 0.80, THREADS),
    Goal("S3s", 0.80, "batched"),
    Goal("S3a", 1.0, LOOP, CPU),
    Goal("S3a", 0.85, "aiodataloader"),
    Goal("S3a", 0.85, "strawberry"),
    Goal("S3a", 1.3, FLOOR),
    Goal("S3a0", 0.95, LOOP),
    Goal("S3a0", 1.0, "aiodataloader"),
    Goal("S4", 1.05, THREADS, CPU),  # then 0.85
    Goal("S4a", 1.7, LOOP, CPU),
    Goal("S4a", 0.75, "strawberry"),
    Goal("S4a", 0.02, "batched"),
    Goal("S4a", 1.3, FLOOR),
    Goal("S4b", 0.75, "run_in_executor"),
    Goal("S5", 1.0, THREADS),
    Goal("S5", 1.0, "batched"),
    Goal("S5a", 1.0, LOOP),
    Goal("S5a", 1.0, "batched"),
    Goal("S5a", 1.0, "async-batcher"),
    Goal("S5a", 1.0, "ray.serve.batch"),
    Goal("S6", 130, None),
    Goal("S6", 0.08, THREADS),
    Goal("S6", 0.08, "batched"),
    Goal("S6a", 150, None),
    Goal("S6a", 0.75, LOOP),
    Goal("S7", 0.02, THREADS, CPU),
    Goal("S7", 0.02, "batched"),
    Goal("S7", 10.0, FLOOR),
    Goal("S7i", 2.0, "batchify (a list)", CPU),
)


class Verdict(NamedTuple):
    """The result for a goal; `value` is None if the other row has not run."""

    goal: Goal
    value: float | None

    def is_met(self, slack: float = 1.0) -> bool:
        """Return True if the value was measured and is at most `slack` times the limit."""
        return self.value is not None and self.value <= self.goal.most * slack

    @property
    def texts(self) -> tuple[str, str]:
        """The value and its limit, as text."""
        unit = "x" if self.goal.other else ""
        value = "not measured" if self.value is None else f"{digits(self.value)}{unit}"
        return value, f"{digits(self.goal.most)}{unit}"


def verdicts(found: dict[str, Runs], goals: Iterable[Goal] = GOALS) -> Iterator[Verdict]:
    """Yield the results for the goals of all scenarios that have run."""
    for goal in goals:
        runs = found.get(goal.scenario)
        if runs is None:
            continue
        if goal.row not in runs.samples:
            yield Verdict(goal, None)
        elif goal.other is None:
            yield Verdict(goal, runs.value(goal.row))
        else:
            other = runs.floor if goal.other == FLOOR else goal.other
            yield Verdict(goal, runs.ratio(goal.row, other, goal.of))


def table(found: dict[str, Runs]) -> str:
    """Return the goals as a Markdown table."""
    lines = [
        "### Goals",
        "",
        "| scenario | row | of | compared with | limit | value | |",
        "|---|---|---|---|--:|--:|---|",
    ]
    for verdict in verdicts(found):
        value, most = verdict.texts
        goal = verdict.goal
        mark = "-" if verdict.value is None else "reached" if verdict.is_met() else "**missed**"
        cells = [goal.scenario, goal.row, goal.kind, goal.other or "-", most, value, mark]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])
