"""Turn samples into rows, tables and JSON."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from .adapters import Rival
from .harness import Sample
from .scenarios import Scenario

VALUE, CPU = "value", "cpu"  # the fields of `Sample` that can be compared


@dataclass(frozen=True)
class Row:
    """One rival in one scenario. A ratio is the median of the ratios within each repetition."""

    rival: str
    is_ours: bool
    value: float  # the median
    p50: float | None  # for latencies only; `value` is then the 99th percentile
    to_hand: float | None  # to the hand-written batcher; None if it has not run
    low: float | None  # the quartiles of that ratio
    high: float | None
    to_best: float | None  # to the best rival, which is not batchify, a floor or `direct`
    to_floor: float | None
    cpu: float | None  # the median of the CPU time; not for latencies and bytes
    cpu_to_hand: float | None
    mean_batch: float
    calls: float


class Runs:
    """The samples of one scenario, and their ratios."""

    def __init__(self, samples: Sequence[Sample], rivals: Iterable[type[Rival]]) -> None:
        self.classes = {rival.name: rival for rival in rivals}
        self.samples: dict[str, list[Sample]] = {}
        for sample in samples:
            self.samples.setdefault(sample.rival, []).append(sample)

    def value(self, name: str) -> float:
        """Return the median of one rival."""
        return median(sample.value for sample in self.samples[name])

    def ratios(self, name: str, other: str | None, of: str = VALUE) -> list[float]:
        """Return the ratio of two rivals in each repetition, or nothing if one has not run."""
        if other is None or other not in self.samples:
            return []
        values = {sample.repetition: getattr(sample, of) for sample in self.samples[other]}
        return [getattr(sample, of) / values[sample.repetition] for sample in self.samples[name]]

    def ratio(self, name: str, other: str | None, of: str = VALUE) -> float | None:
        """Return the median of these ratios, or None."""
        ratios = self.ratios(name, other, of)
        return median(ratios) if ratios else None

    @property
    def best(self) -> str | None:
        """The best rival."""
        names = [n for n in self.samples if not (is_ours(n) or n == DIRECT or self.is_floor(n))]
        return min(names, key=self.value, default=None)

    @property
    def floor(self) -> str | None:
        return next((name for name in self.samples if self.is_floor(name)), None)

    def is_floor(self, name: str) -> bool:
        return self.classes[name].is_floor


DIRECT = "direct"


def is_ours(name: str) -> bool:
    """Return True if the row is one of batchify."""
    return name.startswith("batchify")


def rows(scenario: Scenario, runs: Runs) -> list[Row]:
    """Return the rows of a scenario, fastest first."""
    found = []
    for name, own in runs.samples.items():
        low = to_hand = high = None
        if ratios := runs.ratios(name, scenario.reference):
            low, to_hand, high = quartiles(ratios)
        has_cpu = own[0].cpu is not None
        found.append(
            Row(
                rival=name,
                is_ours=is_ours(name),
                value=runs.value(name),
                p50=None if own[0].p50 is None else median(s.p50 or 0.0 for s in own),
                to_hand=to_hand,
                low=low,
                high=high,
                to_best=runs.ratio(name, runs.best),
                to_floor=runs.ratio(name, runs.floor),
                cpu=median(s.cpu or 0.0 for s in own) if has_cpu else None,
                cpu_to_hand=runs.ratio(name, scenario.reference, CPU) if has_cpu else None,
                mean_batch=median(s.mean_batch for s in own),
                calls=median(s.calls for s in own),
            )
        )
    return sorted(found, key=lambda row: row.value)


def quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile."""
    values = list(values)
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


UNITS = {"us": ("µs/item",), "bytes": ("bytes/item",), "ms": ("p50 ms", "p99 ms")}


def table(scenario: Scenario, found: Sequence[Row], runs: Runs, items: int) -> str:
    """Return the rows as a Markdown table."""
    columns = [*UNITS[scenario.unit], "to hand-written", "quartiles"]
    if scenario.unit == "us":
        columns += ["CPU µs/item", "CPU to hand-written"]
    columns += [f"to best ({runs.best})", "to floor", "mean batch", "function calls"]
    takes = f", a function that takes {scenario.takes * 1000:g} ms" if scenario.takes else ""
    lines = [
        f"### {scenario.name}: {scenario.about}",
        "",
        f"{items} items; size {scenario.size}, linger {scenario.linger * 1000:g} ms, "
        f"{scenario.workers} workers{takes}",
        "",
        f"| rival | {' | '.join(columns)} |",
        f"|---|{'--:|' * len(columns)}",
    ]
    for row in found:
        cells = [f"**{row.rival}**" if row.is_ours else row.rival]
        if row.p50 is not None:
            cells.append(digits(row.p50))
        spread = "-" if row.low is None else f"{digits(row.low)} to {digits(row.high or 0.0)}"
        cells += [digits(row.value), times(row.to_hand), spread]
        if row.cpu is not None:
            cells += [digits(row.cpu), times(row.cpu_to_hand)]
        cells += [times(row.to_best), times(row.to_floor)]
        cells += [f"{row.mean_batch:.1f}", f"{row.calls:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{digits(ratio)}x"


def digits(number: float) -> str:
    """Return a number with three significant digits and no exponent."""
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"


def surroundings(rivals: Sequence[type[Rival]]) -> dict[str, Any]:
    """Return what the figures depend on: machine, Python, versions, commit."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "system": platform.system(),
            "architecture": platform.machine(),
        },
        "python": {
            "implementation": platform.python_implementation(),
            "version": platform.python_version(),
            "compiler": platform.python_compiler(),
            "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        },
        "versions": {rival.name: rival.version for rival in rivals if "version" in vars(rival)},
        "commit": _commit(),
    }


def heading(facts: dict[str, Any]) -> str:
    """Return these facts as a few lines of Markdown."""
    machine, python = facts["machine"], facts["python"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']} "
        f"{machine['architecture']}; {python['implementation']} {python['version']}; {versions}; "
        f"commit {facts['commit'] or 'unknown'}; {facts['repetitions']} repetitions, "
        f"seed {facts['seed']}.",
        "",
    ]
    for name, why in facts["skipped"].items():
        lines += [f"**SKIPPED**: adapters/{name}.py: {why}", ""]
    return "\n".join(lines)


def as_json(facts: dict[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the facts and every single run."""
    return {**facts, "samples": [asdict(sample) for sample in samples]}


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
