"""`python -m batchify tune app:insert`: which size and linger suit a function, if any.

Top down: what is called and with what, the measuring, the line through the figures, the advice,
the showing.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where rich is missing, `__main__` says what to install.
from rich import box
from rich.console import Console
from rich.table import Table

from .. import batched
from .target import Unfit, found, kind_of

MOST_OF_A_TURN = 0.25  # of all the time: a size whose call takes longer is not doubled any more
# The share of the fixed cost that may be left in an item's: what a larger batch could still gain.
LEFT_OVER = 0.1
# Less than this times as fast an item is no gain: so much do machines differ with their mood.
WORTH_IT = 1.25


# ---- what is called, and with what ----


def plain(thing: Any) -> Callable[..., Any]:
    """The function that takes a list, also of a decorated one."""
    is_batched = hasattr(type(thing), "submit_nowait")  # or a method of an instance
    function = getattr(thing, "batch", None) if is_batched else thing
    if not callable(function):
        raise Unfit(f"a function is needed, got {kind_of(thing)}")
    return function  # type: ignore[no-any-return]


def items_of(source: str | None) -> Iterator[Any]:
    """Items without end: those of `source` again and again, or numbers.

    Args:
        source: a file of JSON, one item a line, or `module:function`, which is called with a
            number and gives an item.

    Raises:
        Unfit: there is no such thing, or nothing in it.
    """
    if source is None:
        return itertools.count()
    path = Path(source)
    if path.is_file():
        try:
            items = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line]
        except ValueError as error:
            raise Unfit(f"{source}: one item of JSON a line is needed: {error}") from error
        if not items:
            raise Unfit(f"{source} has no items")
        return itertools.cycle(items)
    return map(plain(found(source)), itertools.count())


@contextmanager
def called(function: Callable[..., Any]) -> Generator[Callable[[list[Any]], Any], None, None]:
    """Calls the function, to the end of what it gives: awaits it, and exhausts generators."""
    with asyncio.Runner() as runner:

        async def to_the_end(given: Any) -> Any:
            if isinstance(given, AsyncGenerator):
                return [element async for element in given]
            return await given

        def call(items: list[Any]) -> Any:
            given = Context().run(function, items)
            if inspect.isawaitable(given) or isinstance(given, AsyncGenerator):
                given = runner.run(to_the_end(given))
            return list(given) if isinstance(given, Generator) else given

        yield call


# ---- measuring ----


@dataclass
class Point:
    """What calls with `size` items took, in seconds."""

    size: int
    times: list[float]

    @property
    def time(self) -> float:
        """Their median."""
        return statistics.median(self.times)


def measured(
    call: Callable[[list[Any]], Any],
    items: Iterator[Any],
    sizes: Sequence[int],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Point]:
    """Call with lists of every size in turn, until the time is over.

    The sizes take turns, so that a mood of the machine meets them all. The first call goes ahead:
    it imports, connects and fills caches.

    Raises:
        Unfit: a call raised, or they take too long for that time.
    """

    def timed(size: int) -> float:
        try:
            batch = list(itertools.islice(items, size))
        except Exception as error:
            raise Unfit(f"the items raised {kind_of(error)}: {error}") from error
        began = clock()
        try:
            call(batch)
        except Exception as error:
            raise Unfit(
                f"the function raised {kind_of(error)} on a list of {size}: {error}"
            ) from error
        return clock() - began

    timed(1)
    end = clock() + seconds
    points: list[Point] = []
    for size in sizes:
        points.append(Point(size, [timed(size)]))
        if points[-1].times[0] > seconds * MOST_OF_A_TURN or clock() > end:
            break
    if len(points) < min(3, len(sizes)):
        raise Unfit(f"a call takes {brief(points[-1].time)}: more --seconds are needed")
    turns = itertools.cycle(points)
    while clock() < end:
        point = next(turns)
        point.times.append(timed(point.size))
    return points


# ---- the line through the figures ----


@dataclass(frozen=True)
class Line:
    """`time = fixed + per_item * n`, in seconds.

    Attributes:
        off: by how much of itself the time of a call differs from the line, in the median.
    """

    fixed: float
    per_item: float
    off: float

    def time(self, size: float) -> float:
        """What a call with `size` items takes."""
        return self.fixed + self.per_item * size


def fitted(points: Sequence[Point]) -> Line:
    """The line through the medians, by least squares of the relative errors.

    Small and large batches count alike, as their times differ by orders of magnitude. Neither part
    is negative: a line that would go below 0 at size 0 goes through it.
    """
    if len(points) == 1:
        return Line(0.0, points[0].time / points[0].size, 0.0)
    weights = [1 / max(point.time, 1e-12) ** 2 for point in points]
    total = sum(weights)
    mean_n = sum(w * p.size for w, p in zip(weights, points, strict=True)) / total
    mean_t = sum(w * p.time for w, p in zip(weights, points, strict=True)) / total
    spread = sum(w * (p.size - mean_n) ** 2 for w, p in zip(weights, points, strict=True))
    both = sum(
        w * (p.size - mean_n) * (p.time - mean_t) for w, p in zip(weights, points, strict=True)
    )
    per_item = max(0.0, both / spread)
    fixed = mean_t - per_item * mean_n
    if fixed < 0:
        squares = sum(w * p.size**2 for w, p in zip(weights, points, strict=True))
        fixed = 0.0
        per_item = sum(w * p.size * p.time for w, p in zip(weights, points, strict=True)) / squares
    line = Line(fixed, per_item, 0.0)
    off = statistics.median(abs(line.time(p.size) / max(p.time, 1e-12) - 1) for p in points)
    return Line(fixed, per_item, off)


# ---- the advice ----


@dataclass(frozen=True)
class Advice:
    """What to write into the decorator, and what that gains.

    Attributes:
        size: the size from which on larger batches gain little; the largest one tried where even
            that leaves much.
        linger: seconds.
        workers: how many keep up with `rate`; 1 where none was given.
        gain: how many times as many items a second as with one call for each.
        is_largest: no larger size was tried, and it may gain more.
    """

    size: int
    linger: float
    workers: int
    gain: float
    is_largest: bool

    @property
    def pays(self) -> bool:
        """Is it worth it?"""
        return self.gain >= WORTH_IT


def advised(points: Sequence[Point], line: Line, own: Own, rate: float | None = None) -> Advice:
    """What suits a function with these costs.

    With `linger=0` a batch is what came while the one before ran. At `rate` items a second that is
    `n = rate * time(n)`, so there is no need to wait, unless more than half of the gain is left:
    then a linger of at most the fixed cost of a call, which never more than doubles what a call
    takes (the rule of ski rental: wait for as long as what you save by it).

    Args:
        points: what was measured.
        line: through those.
        own: what the way through the queue takes.
        rate: items a second that come, if known.
    """
    largest = points[-1].size
    fixed, each = line.fixed + own.batch, line.per_item + own.item
    size = min(largest, max(1, math.ceil(fixed / (LEFT_OVER * each))))
    size = _round(size, largest)
    gain = line.time(1) / (fixed / size + each)
    workers, linger = 1, 0.0
    if rate is not None:
        busy = rate * (line.per_item + line.fixed / size)  # workers that full batches keep busy
        workers = max(1, math.ceil(busy * 1.2))
        by_itself = min(size, _natural(rate / workers, line))
        if line.time(1) / line.time(by_itself) * by_itself < gain / 2:
            linger = min(line.fixed, size / rate)
    is_largest = size == largest and fixed > 2 * LEFT_OVER * each * size
    return Advice(size, linger, workers, gain, is_largest)


def _natural(rate: float, line: Line) -> float:
    """How large batches are that nobody waits for, at `rate` items a second."""
    share = rate * line.per_item
    return math.inf if share >= 1 else max(1.0, rate * line.fixed / (1 - share))


def _round(size: int, largest: int) -> int:
    """A number that one would write: 1, 2 or 5 times a power of ten, or the largest tried."""
    if size <= 1 or size >= largest:
        return max(1, size)
    power: int = 10 ** math.floor(math.log10(size))
    return min(largest, *(digit * power for digit in (1, 2, 5, 10) if digit * power >= size))


@dataclass(frozen=True)
class Own:
    """Seconds that the way through the queue takes: of a batch of one, of an item among many."""

    batch: float
    item: float


def own_cost() -> Own:
    """What the way through the queue takes on this machine."""
    call = batched(lambda items: items)
    alone = []
    with call:
        for n in range(300):
            began = time.perf_counter()
            call(n).result()
            alone.append(time.perf_counter() - began)
        began = time.perf_counter()
        for future in [call(n) for n in range(5000)]:
            future.result()
        together = (time.perf_counter() - began) / 5000
    return Own(statistics.median(alone), together)


# ---- showing ----


def brief(seconds: float) -> str:
    """A time, with its unit."""
    for unit, least in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= least:
            return f"{seconds / least:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(points: Sequence[Point], line: Line) -> Table:
    """The figures and the line."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("size", "calls", "a call", "by the line", "an item", "items/s", "gain"):
        shown.add_column(name, justify="right", no_wrap=True)
    alone = points[0].time / points[0].size
    for point in points:
        each = point.time / point.size
        shown.add_row(
            f"{point.size:,}", f"{len(point.times):,}", brief(point.time),
            brief(line.time(point.size)), brief(each), f"{1 / max(each, 1e-12):,.0f}",
            f"{alone / max(each, 1e-12):.1f}x",
        )  # fmt: skip
    return shown


def verdict(advice: Advice, line: Line, own: Own, rate: float | None) -> list[str]:
    """The advice in words."""
    told = [
        f"a call takes {brief(line.fixed)} + {brief(line.per_item)} an item "
        f"(off by {line.off:.0%} in the median)"
    ]
    if not advice.pays:
        told.append(
            f"Batching does not pay: {advice.gain:.2f}x as many items a second at best, with "
            f"{brief(own.batch)} for a batch's way through the queue. Call the function as it is."
        )
        return told
    workers = f", workers={advice.workers}" if advice.workers > 1 else ""
    told.append(f"@batched(size={advice.size}, linger={advice.linger:.3g}{workers})")
    told.append(f"{advice.gain:.1f}x as many items a second as with a call for each")
    if advice.is_largest:
        told.append("larger batches would gain more: try a larger --most")
    if rate is None:
        told.append(
            "with --rate (items a second) it says whether a linger helps, and how many workers it "
            f"takes; more than {brief(line.fixed)} is never worth waiting for"
        )
    else:
        by_itself = min(advice.size, _natural(rate / advice.workers, line))
        told.append(f"at {rate:,g} items a second batches of {by_itself:,.0f} form by themselves")
    told.append(f"a caller that is alone gains nothing, and pays {brief(own.batch)} for the queue")
    return told


def pyplot_of() -> Any:
    """What draws; imported only where there is something to draw.

    Raises:
        Unfit: it is not installed.
    """
    try:
        importlib.import_module("matplotlib").use("Agg")
        return importlib.import_module("matplotlib.pyplot")
    except ImportError:
        raise Unfit('a plot needs matplotlib: pip install "batchify-py[tune]"') from None


def draw(path: Path, points: Sequence[Point], line: Line, advice: Advice, name: str) -> None:
    """The time of an item by the size, measured and by the line, as SVG or PNG."""
    pyplot = pyplot_of()
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    sizes = [point.size for point in points]
    axes.plot(sizes, [p.time / p.size * 1e6 for p in points], "o", label="measured")
    curve = [sizes[0] * (sizes[-1] / sizes[0]) ** (at / 100) for at in range(101)]
    text = f"{brief(line.fixed)} + {brief(line.per_item)} an item"
    axes.plot(curve, [line.time(n) / n * 1e6 for n in curve], label=text)
    if advice.pays:
        axes.axvline(advice.size, linestyle="--", color="grey", label=f"size={advice.size}")
    axes.set(xscale="log", yscale="log", xlabel="items in a call", ylabel="us an item", title=name)
    axes.legend()
    axes.grid(which="both", alpha=0.2)
    figure.savefig(path)
    pyplot.close(figure)


def run(
    target: str, *, items: str | None, most: int, seconds: float, rate: float | None,
    plot: Path | None,
) -> int:  # fmt: skip
    """Measure, fit, advise; see `__main__` for the arguments. Gives the exit status."""
    console = Console(highlight=False)
    sizes = [2**n for n in range(most.bit_length()) if 2**n < most] + [most]
    try:
        if plot is not None:
            pyplot_of()  # before anything is called in vain
        function, given = plain(found(target)), items_of(items)
        with called(function) as call:
            points = measured(call, given, sizes, seconds)
        line, own = fitted(points), own_cost()
        advice = advised(points, line, own, rate)
        console.print(table(points, line))
        for text in verdict(advice, line, own, rate):
            console.print(text, markup=False, soft_wrap=True)
        if plot is not None:
            draw(plot, points, line, advice, target)
            console.print(f"plot: {plot}", markup=False, soft_wrap=True)
    except Unfit as error:
        print(error, file=sys.stderr)
        return 2
    return 0
