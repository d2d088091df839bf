"""Measure the rivals.

* In a repetition every rival runs once, in random order, each with a new instance, so that a drift
  of the machine affects all of them alike.
* Before each run the heap is collected and frozen, so that no run pays for the garbage of another,
  or of the imports. The collector stays on, because the work it gets is part of a rival's cost.
* A watchdog aborts a run that hangs: it prints all stacks and exits.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles
from typing import Any

from .adapters.base import THREADS, Rival
from .functions import echo, gated, open_gate
from .scenarios import Run, Scenario, Time

SCALES = {"us": 1e6, "ms": 1e3, "bytes": 1.0}


@dataclass(frozen=True)
class Sample:
    """One run of one rival."""

    scenario: str
    rival: str
    repetition: int
    position: int  # within the random order of the repetition
    value: float  # per item, in the scenario's unit; for latencies, the 99th percentile
    items: int
    calls: int  # of the batch function
    mean_batch: float
    p50: float | None = None  # for latencies only
    cpu: float | None = None  # the CPU time per item, not for latencies and bytes


def compare(
    scenario: Scenario,
    rivals: Sequence[type[Rival]],
    repetitions: int,
    scale: float,
    order: random.Random,
    watchdog: float,
) -> list[Sample]:
    """Run all rivals of a scenario, and report progress on stderr."""
    samples = []
    rivals = [rival for rival in rivals if scenario.admits(rival)]
    for repetition in range(repetitions):
        say(f"{scenario.name} {repetition + 1}/{repetitions}:")
        for position, rival in enumerate(order.sample(rivals, len(rivals))):
            say(f" {rival.name}")  # before the run: if it hangs, the last name shows which one
            sample = measure(scenario, rival, repetition, position, scale, watchdog)
            say(f" {sample.value:.4g},")
            samples.append(sample)
        say("\n")
    return samples


def measure(
    scenario: Scenario,
    rival: type[Rival],
    repetition: int,
    position: int,
    scale: float,
    watchdog: float,
) -> Sample:
    """Run one rival once, with a new instance."""
    sizes: list[int] = []
    parts = scenario.parts(scale)
    items = sum(map(len, parts))
    gc.collect()
    gc.freeze()
    faulthandler.dump_traceback_later(watchdog, exit=True)
    try:
        if scenario.mode == THREADS:
            total = _in_threads(scenario, rival, parts, sizes)
        else:
            total = asyncio.run(_on_loop(scenario, rival, parts, sizes))
        if sum(sizes) != items and not rival.is_floor:
            raise AssertionError(f"the batch function got {sum(sizes)} items, expected {items}")
    except BaseException as error:
        error.add_note(f"{scenario.name}, {rival.name}, repetition {repetition + 1}")
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        gc.unfreeze()
    factor = SCALES[scenario.unit]
    p50 = cpu = None
    if isinstance(total, list):
        cuts = quantiles(total, n=100)
        p50, value = cuts[49] * factor, cuts[98] * factor
    elif isinstance(total, Time):
        value, cpu = total.wall / items * factor, total.cpu / items * factor
    else:
        value = total / items * factor
    mean_batch = fmean(sizes) if sizes else 0.0
    return Sample(
        scenario=scenario.name,
        rival=rival.name,
        repetition=repetition,
        position=position,
        value=value,
        items=items,
        calls=len(sizes),
        mean_batch=mean_batch,
        p50=p50,
        cpu=cpu,
    )


def _in_threads(
    scenario: Scenario, rival: type[Rival], parts: list[range], sizes: list[int]
) -> Any:
    run = _open(scenario, rival, parts, sizes)
    try:
        for outcome in [run.rival.submit(key) for key in _warm_up(scenario)]:
            outcome.result()
        sizes.clear()
        return scenario.measure(run)
    finally:
        run.rival.close()


async def _on_loop(
    scenario: Scenario, rival: type[Rival], parts: list[range], sizes: list[int]
) -> Any:
    run = _open(scenario, rival, parts, sizes)
    try:
        await asyncio.gather(*[run.rival.acall(key) for key in _warm_up(scenario)])
        sizes.clear()
        return await scenario.measure(run)
    finally:
        await run.rival.aclose()


def _open(scenario: Scenario, rival: type[Rival], parts: list[range], sizes: list[int]) -> Run:
    gate = open_gate(scenario.mode)
    function = echo(scenario.mode, sizes, scenario.takes)
    if scenario.is_gated:
        function = gated(scenario.mode, function, gate)
    return Run(rival(function, scenario.size, scenario.linger, scenario.workers), parts, gate)


def _warm_up(scenario: Scenario) -> range:
    """Return the keys of the untimed calls, enough to start all workers."""
    return range(-scenario.size * scenario.workers, 0)


def say(text: str) -> None:
    """Print progress to stderr, apart from the report."""
    print(text, end="", file=sys.stderr, flush=True)
