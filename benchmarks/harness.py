"""How things are measured.

* In a repetition every rival runs once, in random order, each with a fresh instance: what
  drifts on the machine drifts for all.
* Before each run the heap is collected and frozen, so that nobody pays for what others (or the
  imports) left in it. The collector stays on: what an engine makes it do is part of its cost.
* A run that hangs is ended by a watchdog, which prints all stacks and exits.
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
from .scenarios import Run, Scenario

SCALES = {"us": 1e6, "ms": 1e3, "bytes": 1.0}


@dataclass(frozen=True)
class Sample:
    """One run of one rival."""

    scenario: str
    rival: str
    repetition: int
    position: int  # in the random order of the repetition
    value: float  # per item, in the scenario's unit; where callers' waits are measured: p99
    items: int
    calls: int  # of the function
    mean_batch: float
    p50: float | None = None  # where callers' waits are measured


def compare(
    scenario: Scenario,
    rivals: Sequence[type[Rival]],
    repetitions: int,
    scale: float,
    order: random.Random,
    watchdog: float,
) -> list[Sample]:
    """Run all rivals of a scenario against each other, and tell on stderr how it goes."""
    samples = []
    rivals = [rival for rival in rivals if scenario.admits(rival)]
    for repetition in range(repetitions):
        say(f"{scenario.name} {repetition + 1}/{repetitions}:")
        for position, rival in enumerate(order.sample(rivals, len(rivals))):
            say(f" {rival.name}")  # before it runs: after a hang, the last name is whose it was
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
    """One run, with a fresh instance."""
    sizes: list[int] = []
    parts = scenario.parts(scale)
    items = sum(map(len, parts))
    gc.collect()
    gc.freeze()
    faulthandler.dump_traceback_later(watchdog, exit=True)
    try:
        if scenario.way == THREADS:
            total = _in_threads(scenario, rival, parts, sizes)
        else:
            total = asyncio.run(_on_loop(scenario, rival, parts, sizes))
        if sum(sizes) != items and not rival.is_floor:
            raise AssertionError(f"the function got {sum(sizes)} items instead of {items}")
    except BaseException as error:
        error.add_note(f"{scenario.name}, {rival.name}, repetition {repetition + 1}")
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()
        gc.unfreeze()
    factor = SCALES[scenario.unit]
    p50 = None
    if isinstance(total, list):
        cuts = quantiles(total, n=100)
        p50, value = cuts[49] * factor, cuts[98] * factor
    else:
        value = total / items * factor
    mean_batch = fmean(sizes) if sizes else 0.0
    return Sample(
        scenario.name, rival.name, repetition, position, value, items, len(sizes), mean_batch, p50
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
    gate = open_gate(scenario.way)
    function = echo(scenario.way, sizes, scenario.takes)
    if scenario.is_gated:
        function = gated(scenario.way, function, gate)
    return Run(rival(function, scenario.size, scenario.linger, scenario.workers), parts, gate)


def _warm_up(scenario: Scenario) -> range:
    """Calls before the clock starts, enough for all workers to start. Keys used only here."""
    return range(-scenario.size * scenario.workers, 0)


def say(text: str) -> None:
    """Tell how it goes, beside the report."""
    print(text, end="", file=sys.stderr, flush=True)
