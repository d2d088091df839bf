"""`python -m batchify tune app:insert`: measure a function, and advise on its options.

`measure` calls the function, `advice` fits a line and chooses the options, `plot` draws them; this
module runs these steps and prints the results.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# If rich is missing, `__main__` says what to install.
from rich import box
from rich.console import Console
from rich.table import Table

from .. import batched
from .advice import Advice, Line, Prediction, QueueCost, advise, fit
from .measure import Point, load_function, load_items, measure, open_call
from .plot import check_path, draw
from .target import CommandError
from .units import format_gain, format_time

SINGLE_CALLS = 300
QUEUED_ITEMS = 5000


def run(
    target: str,
    *,
    items: str | None,
    most: int,
    seconds: float,
    rate: float | None,
    callers: int | None,
    plot: Path | None,
) -> int:
    """Measure a function and print the advice.

    Args:
        target: the function, as "module:function".
        items: where the items come from; see `load_items`.
        most: the largest number of items in a call.
        seconds: how long to measure.
        rate: how many items arrive per second, or None.
        callers: how many sequential callers there are, or None.
        plot: the picture to write, or None.

    Returns:
        The exit status: 0, or 2 after a mistake of the user.
    """
    console = Console(highlight=False)
    sizes = [2**n for n in range(most.bit_length()) if 2**n < most] + [most]
    try:
        if plot is not None:
            check_path(plot)
        function, source = load_function(target), load_items(items)
        with open_call(function) as call:
            points = measure(call, source, sizes, seconds, name=target)
        line, queue = fit(points), measure_queue()
        advice = advise(points, line, queue, rate=rate, callers=callers)
        console.print(points_table(points, line, queue))
        for text in verdict(advice, points, line, queue, rate=rate, callers=callers):
            console.print(text, markup=False)
        if plot is not None:
            draw(plot, points, line, queue, advice, target)
            console.print(f"Plot: {plot}", markup=False, soft_wrap=True)
    except CommandError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def measure_queue() -> QueueCost:
    """Measure how long batchify itself takes on this machine."""

    @batched
    def pass_through(items: list[Any]) -> list[Any]:
        return items

    single: list[float] = []
    with pass_through:
        for number in range(SINGLE_CALLS):
            began = time.perf_counter()
            pass_through(number).result()
            single.append(time.perf_counter() - began)
        began = time.perf_counter()
        for future in [pass_through(number) for number in range(QUEUED_ITEMS)]:
            future.result()
        queued = (time.perf_counter() - began) / QUEUED_ITEMS
    return QueueCost(statistics.median(single), queued)


# ---- what is printed ----


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def points_table(points: Sequence[Point], line: Line, queue: QueueCost) -> Table:
    """Return the measured times, and what batches of these sizes would gain."""
    table = _table("size", "calls", "a call takes", "fitted", "per item", "items/s", "gain")
    single = points[0].time / points[0].size
    for point in points:
        gain = queue.gain(single, point.size, point.time)
        table.add_row(
            f"{point.size:,}",
            f"{len(point.times):,}",
            format_time(point.time),
            format_time(line.time(point.size)),
            format_time(point.time / point.size),
            f"{gain / max(single, 1e-12):,.0f}",
            format_gain(gain),
        )
    return table


def predictions_table(predictions: Sequence[Prediction], single: float | None = None) -> Table:
    """Return a table of the predictions.

    Args:
        predictions: with the same rate of arrivals, or the same callers.
        single: the time of a direct call with one item; None for a given rate of arrivals.
    """
    last = ["calls/s"] if single is None else ["items/s", "gain"]
    table = _table("size", "linger", "mean batch", "mean latency", "p99 latency", *last)
    for one in predictions:
        cells = [f"{one.calls:,.0f}"]
        if single is not None:
            cells = [f"{one.rate:,.0f}", format_gain(one.rate * single)]
        table.add_row(
            f"{one.size:,}",
            format_time(one.linger) if one.linger else "0",
            f"{one.batch:,.1f}",
            format_time(one.latency),
            format_time(one.p99),
            *cells,
        )
    return table


def verdict(
    advice: Advice,
    points: Sequence[Point],
    line: Line,
    queue: QueueCost,
    *,
    rate: float | None = None,
    callers: int | None = None,
) -> list[str | Table]:
    """Return the advice as lines and tables."""
    said: list[str | Table] = [
        "gain: items per second in batches of that size, compared with one direct call per item.",
        f"items/s and gain include the time of batchify itself: {format_time(queue.batch)} per "
        f"batch + {format_time(queue.item)} per item.",
        "",
        f"A call takes {format_time(line.fixed)} + {format_time(line.per_item)} per item "
        f"(median error of this fit: {line.error:.0%}).",
    ]
    if callers is not None:
        said += _for_callers(advice, points, line, callers)
    elif rate is not None:
        said += _for_rate(advice, rate)
    if not advice.pays:
        whom = "" if callers is None else f" for {_callers(callers)}"
        return [
            *said,
            f"Batching does not pay{whom}: at best {format_gain(advice.gain)} the items per second "
            "of direct calls. Call the function directly.",
        ]
    workers = f", workers={advice.workers}" if advice.workers > 1 else ""
    said.append(f"Recommended: @batched(size={advice.size}, linger={advice.linger:g}{workers})")
    said.append(
        f"With that it handles up to {format_gain(advice.gain)} the items per second of direct "
        "calls."
    )
    if workers:
        said.append(f"workers={advice.workers}: only if the function may run in parallel.")
    if advice.is_largest and rate is None:
        said.append("Larger batches may gain more: try a larger --most.")
    if rate is None and callers is None:
        said.append(
            "A single caller that waits for each result gains nothing. Add --rate N (items per "
            "second) to see what a linger changes, or --callers N for N callers that each wait for "
            "a result before the next call."
        )
    return said


def _for_rate(advice: Advice, rate: float) -> list[str | Table]:
    plain = advice.predictions[0]
    said: list[str | Table] = [
        f"\nPredicted for {rate:,g} items per second that arrive at random times:",
        predictions_table(advice.predictions),
    ]
    if not advice.pays:
        return [*said, ""]
    if plain.batch < 1.5:
        said.append(
            "With linger=0 most batches have one item, because the function is idle most of the "
            "time. A linger saves calls of the function, but every result comes later."
        )
    else:
        said.append(
            f"With linger=0 batches have {plain.batch:.1f} items on average, because items queue "
            "up while a batch runs. Choose a linger only if fewer calls of the function are worth "
            "the later results."
        )
    return [*said, ""]


def _for_callers(
    advice: Advice, points: Sequence[Point], line: Line, callers: int
) -> list[str | Table]:
    said: list[str | Table] = [
        f"\nPredicted for {_callers(callers)} (one worker):",
        predictions_table(advice.predictions, line.time(1)),
    ]
    if advice.linger:
        said.append(
            f"size={advice.size} is the number of callers: a batch starts as soon as all of them "
            f"have called. The linger, {format_time(advice.linger)}, only counts if one of them "
            "does not call."
        )
    if callers > points[-1].size:
        said.append(f"No call with more than {points[-1].size:,} items was measured.")
    return [*said, ""]


def _callers(callers: int) -> str:
    plural = callers != 1
    return f"{callers:,} caller{'s' * plural} that wait{'s' * (not plural)} for each result"
