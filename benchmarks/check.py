"""Check briefly that batchify has not become too slow or too large.

The limits are the goals of a full run. Limits on time are multiplied by 1.5, because the runs are
short and the machines noisy. The check compares only with the hand-written batchers and with other
rows of batchify, so that no other package is needed. If a goal is not reached yet, its limit is the
largest value of the full runs, so that it does not get worse.
"""

from __future__ import annotations

from .goals import DEFAULT_CAPACITY, GOALS, LOOP, OURS, THREADS, Goal, verdicts
from .report import CPU, Runs

REPETITIONS = 5
RIVALS = (OURS, DEFAULT_CAPACITY, "batchify (a list)", THREADS, LOOP)
NOT_YET = (
    Goal("S1", 0.9, LOOP, CPU),
    Goal("S1", 1.6, LOOP, CPU, DEFAULT_CAPACITY),
    Goal("S2", 0.12, THREADS, CPU),
    Goal("S3a", 1.6, LOOP, CPU),
    Goal("S4", 2.5, THREADS, CPU),
    Goal("S4a", 4.0, LOOP, CPU),
    Goal("S6a", 165, None),
    Goal("S6a", 0.80, LOOP),
    Goal("S7", 0.04, THREADS, CPU),
    Goal("S7i", 20.0, "batchify (a list)", CPU),
)
# A shorter S1 would take 60 ms, which is only noise.
SCALES = {
    "S1": 1.0,
    "S2": 0.2,
    "S3a": 0.5,
    "S4": 1.0,
    "S4a": 1.0,
    "S6": 0.2,
    "S6a": 0.2,
    "S7": 0.1,
    "S7i": 1.0,
}
SLACK = 1.5


def check(found: dict[str, Runs]) -> tuple[list[str], bool]:
    """Return a line per goal, and whether all limits are met."""
    lines = []
    is_good = True
    replaced = {goal._replace(most=0.0): goal for goal in NOT_YET}
    goals = [
        replaced.get(goal._replace(most=0.0), goal)
        for goal in GOALS
        if goal.other is None or goal.other in RIVALS
    ]
    for verdict in verdicts(found, goals):
        goal = verdict.goal
        is_exact = goal.scenario in ("S6", "S6a")
        is_met = verdict.is_met(1.0 if is_exact else SLACK)
        is_good = is_good and is_met
        value, most = verdict.texts
        of = f" of the {goal.kind} of {goal.other}" if goal.other else f" {goal.kind}"
        slack = "" if is_exact else f", times {SLACK} because the run is short"
        lines.append(
            f"{'ok  ' if is_met else 'FAIL'} {goal.scenario}: {goal.row} takes {value}{of}, "
            f"the limit is {most}{slack}"
        )
    return lines, is_good
