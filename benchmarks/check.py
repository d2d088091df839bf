"""The short check: has batchify become slower, or larger, than it may be?

The limits are the goals of a full run, times 1.5 where it is about time: the runs are short and
the machines noisy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .report import Row

REPETITIONS = 5
RIVALS = ("batchify", "hand-written threads", "hand-written asyncio")


@dataclass(frozen=True)
class Limit:
    """The most that one number of batchify's row may be."""

    scenario: str
    column: str  # of the row: "ratio" or "value"
    most: float
    scale: float  # of the run


LIMITS = (
    Limit("S1", "ratio", 0.85 * 1.5, scale=1.0),  # a shorter run is over in 60 ms: all noise
    Limit("S2", "ratio", 0.12 * 1.5, scale=0.2),
    Limit("S6", "value", 200, scale=0.2),
)
SCALES = {limit.scenario: limit.scale for limit in LIMITS}


def verdicts(found: Mapping[str, Sequence[Row]]) -> tuple[list[str], bool]:
    """A line for each limit, and whether all are kept."""
    lines = []
    is_good = True
    for limit in LIMITS:
        row = next((row for row in found.get(limit.scenario, ()) if row.rival == "batchify"), None)
        number = None if row is None else getattr(row, limit.column)
        if number is None:
            lines.append(f"FAIL {limit.scenario}: batchify has no {limit.column}")
            is_good = False
            continue
        kept = number <= limit.most
        is_good = is_good and kept
        text = f"{number:.3f}x hand-written" if limit.column == "ratio" else f"{number:.0f} bytes"
        lines.append(
            f"{'ok  ' if kept else 'FAIL'} {limit.scenario}: batchify takes {text}, "
            f"the limit is {limit.most:.4g}"
        )
    return lines, is_good
