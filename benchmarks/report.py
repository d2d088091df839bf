"""From samples to rows, tables and JSON."""

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


@dataclass(frozen=True)
class Row:
    """One rival in one scenario."""

    rival: str
    value: float  # the median
    ratio: float | None  # the median of the ratios inside each repetition; None: no reference
    low: float | None  # the quartiles of these ratios
    high: float | None
    mean_batch: float
    calls: float


def rows(scenario: Scenario, samples: Sequence[Sample]) -> list[Row]:
    """The rivals, best first."""
    found = []
    reference = {s.repetition: s.value for s in samples if s.rival == scenario.reference}
    for name in {sample.rival: None for sample in samples}:
        own = [sample for sample in samples if sample.rival == name]
        ratio = low = high = None
        if reference:
            low, ratio, high = quartiles(s.value / reference[s.repetition] for s in own)
        value = median(s.value for s in own)
        mean_batch = median(s.mean_batch for s in own)
        calls = median(s.calls for s in own)
        found.append(Row(name, value, ratio, low, high, mean_batch, calls))
    return sorted(found, key=lambda row: row.value)


def quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile."""
    values = list(values)
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return low, middle, high


def table(scenario: Scenario, found: Sequence[Row], items: int) -> str:
    """The rows as a Markdown table."""
    unit = {"us": "µs/item", "bytes": "bytes/item"}[scenario.unit]
    lines = [
        f"### {scenario.name}: {scenario.about}",
        "",
        f"{items} items; size {scenario.size}, linger {scenario.linger * 1000:g} ms, "
        f"{scenario.workers} workers",
        "",
        f"| rival | {unit} | ratio to hand-written | quartiles | mean batch | function calls |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in found:
        ratio = spread = "-"
        if row.ratio is not None:
            ratio = f"{digits(row.ratio)}x"
            spread = f"{digits(row.low)} to {digits(row.high)}"
        name = f"**{row.rival}**" if row.rival == "batchify" else row.rival
        lines.append(
            f"| {name} | {digits(row.value)} | {ratio} | {spread} "
            f"| {row.mean_batch:.1f} | {row.calls:.0f} |"
        )
    return "\n".join([*lines, ""])


def digits(number: float) -> str:
    """Three digits that count, never with an exponent."""
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"


def surroundings(rivals: Sequence[type[Rival]]) -> dict[str, Any]:
    """What the numbers depend on."""
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
    """The surroundings in a few lines of Markdown."""
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
    """Everything, down to the single run."""
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
