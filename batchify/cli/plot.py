"""Draw what `tune` measured: the gain and the time of a call, by the number of items.

matplotlib is imported only here, and only if there is something to draw, because it is in an extra.
The caller is the command `tune`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .advice import Advice, Line, QueueCost
from .measure import Point
from .target import CommandError
from .units import format_time

MAX_TICKS = 11
CURVE = 100  # sections of the fitted curve


def check_path(path: Path) -> None:
    """Check, before anything is measured, that `draw` can write this file.

    Raises:
        CommandError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise CommandError('--plot needs matplotlib: pip install "batchify-py[tune]"') from error
    is_new = not path.exists()
    try:
        path.open("ab").close()
    except OSError as error:
        raise CommandError(f"--plot: cannot write {path}: {error.strerror}") from error
    if is_new:
        path.unlink()


def draw(
    path: Path,
    points: Sequence[Point],
    line: Line,
    queue: QueueCost,
    advice: Advice,
    name: str,
) -> None:
    """Write a picture with the gain and the latency for each size, as SVG or PNG.

    Args:
        path: the file to write; its suffix chooses the format.
        points: the measured times.
        line: the line through them.
        queue: the time that batchify takes.
        advice: the chosen options.
        name: the function, for the title.

    Raises:
        CommandError: the file cannot be written.
    """
    importlib.import_module("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    ticker = importlib.import_module("matplotlib.ticker")
    figure, (gains, times) = pyplot.subplots(
        2, 1, sharex=True, figsize=(7, 6), layout="constrained"
    )
    sizes = [point.size for point in points]
    single = points[0].time / points[0].size
    curve = [sizes[0] * (sizes[-1] / sizes[0]) ** (step / CURVE) for step in range(CURVE + 1)]

    def gain(size: float, time: float) -> float:
        return queue.gain(single, size, time)

    for axes, value in ((gains, gain), (times, queue.latency)):
        fitted = [value(size, line.time(size)) for size in curve]
        axes.plot(curve, fitted, color="C1", label="fitted")
        measured = [value(point.size, point.time) for point in points]
        axes.plot(sizes, measured, "o", color="C0", label="measured")
        if advice.pays and sizes[0] <= advice.size <= sizes[-1]:
            axes.axvline(advice.size, linestyle="--", color="grey", label=f"size={advice.size}")
        axes.grid(alpha=0.3)
    gains.axhline(1, color="black", linewidth=0.8, label="direct calls")
    _label_axes(gains, lambda gain: f"{gain:,g}x", ticker)
    gains.set(ylabel="gain in items per second", title=name)
    gains.legend()
    _label_axes(times, format_time, ticker)
    times.set(xscale="log", ylabel="latency of a batch", xlabel="items in a batch")
    shown = sizes[:: -(-len(sizes) // MAX_TICKS)]
    times.xaxis.set_major_locator(ticker.FixedLocator(shown))
    times.xaxis.set_major_formatter(_formatter(lambda size: f"{size:,.0f}", ticker))
    times.xaxis.set_minor_locator(ticker.NullLocator())
    try:
        figure.savefig(path)
    except OSError as error:
        raise CommandError(f"--plot: cannot write {path}: {error.strerror}") from error
    finally:
        pyplot.close(figure)


def _label_axes(axes: Any, text: Callable[[float], str], ticker: Any) -> None:
    """Make the vertical axis logarithmic, with labels such as "20 ms" or "5x"."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs = (1, 2, 5) if high < 1000 * low else (1,)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=20))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(_formatter(text, ticker))


def _formatter(text: Callable[[float], str], ticker: Any) -> Any:
    """Return a formatter of matplotlib that labels a tick with `text(value)`."""

    def label(value: float, position: int) -> str:  # noqa: ARG001
        return text(value)

    return ticker.FuncFormatter(label)
