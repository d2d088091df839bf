"""Measure how long calls of a function take, by the number of items.

The function is called directly, without a queue, and each kind of result is checked once per size.
The caller is the command `tune`.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import math
import statistics
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import BadResult, MissingResult, Retry, batched
from .target import CommandError, describe, is_method_of_class, load, type_name

# If a call takes longer than this share of the whole time, no larger size is tried.
MAX_SHARE_OF_A_CALL = 0.25
# Fewer sizes than these do not show a fixed cost.
MIN_SIZES = 3

Call = Callable[[list[Any]], Any]


# ---- the function and its items ----


def load_function(target: str) -> Callable[..., Any]:
    """Load the function that takes a list, and undo its decoration.

    Raises:
        CommandError: the target is not a function, or is a method without an instance.
    """
    thing = load(target)
    function = getattr(thing, "batch", None) if _is_batched(thing) else thing
    if not callable(function):
        raise CommandError(f"{target}: expected a function, got {type_name(thing)}")
    if is_method_of_class(target):
        module, _, name = target.rpartition(":")
        owner, _, method = name.rpartition(".")
        example = owner.rpartition(".")[2].lower()
        raise CommandError(
            f"{target} is a method and needs an instance; make one in {module}, such as "
            f"`{example} = {owner}(...)`, and write {module}:{example}.{method}"
        )
    return function  # type: ignore[no-any-return]


def _is_batched(thing: Any) -> bool:
    return hasattr(type(thing), "submit_nowait")  # also a view with options


def load_items(source: str | None) -> Iterator[Any]:
    """Return an endless iterator of items.

    Args:
        source: a file with one JSON value per line, which is read again and again;
            `MODULE:FUNCTION`, which returns item number 0, 1, 2, ...; None: these numbers.

    Raises:
        CommandError: there is no such file or function, or the file has no items.
    """
    if source is None:
        return itertools.count()
    path = Path(source)
    if path.is_file():
        return itertools.cycle(_read_items(path))
    if path.is_dir():
        raise CommandError(f"--items: {source} is a directory; expected a file of JSON lines")
    if ":" not in source or path.suffix in (".json", ".jsonl", ".ndjson", ".txt"):
        raise CommandError(
            f"--items: no such file: {source} (expected a file with one JSON value per line, or "
            "MODULE:FUNCTION)"
        )
    function = load(source)
    if _is_batched(function) or not callable(function):
        raise CommandError(
            f"--items: {source} must be a function that takes a number and returns an item"
        )
    return map(function, itertools.count())


def _read_items(path: Path) -> list[Any]:
    items: list[Any] = []
    try:
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.strip():
                items.append(_parsed(line, f"{path}, line {number}"))
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"--items: {path} cannot be read: {describe(error)}") from error
    if not items:
        raise CommandError(f"--items: {path} has no items; expected one JSON value per line")
    return items


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise CommandError(f"--items: {where} is not a JSON value: {error}") from error


@contextmanager
def open_call(function: Callable[..., Any]) -> Generator[Call, None, None]:
    """Yield a function that calls `function` with a list and waits until it is finished.

    It awaits coroutines and exhausts iterators, as a worker does. From an iterator it takes at most
    one result more than there are items.
    """
    with asyncio.Runner() as runner:

        async def finish(returned: Any, limit: int) -> Any:
            if inspect.isawaitable(returned):
                returned = await returned
            if not isinstance(returned, AsyncIterator):
                return returned
            results: list[Any] = []
            async for result in returned:
                results.append(result)
                if len(results) == limit:
                    break
            if isinstance(returned, AsyncGenerator):
                await returned.aclose()
            return results

        def call(items: list[Any]) -> Any:
            limit = len(items) + 1
            returned = Context().run(function, items)
            if inspect.isawaitable(returned) or isinstance(returned, AsyncIterator):
                returned = runner.run(finish(returned, limit))
            if isinstance(returned, Iterator):
                returned = list(itertools.islice(returned, limit))
            return returned

        yield call


# ---- measuring ----


@dataclass
class Point:
    """How long calls with `size` items took, in seconds."""

    size: int
    times: list[float]

    @property
    def time(self) -> float:
        """The median."""
        return statistics.median(self.times)


def measure(
    call: Call,
    items: Iterator[Any],
    sizes: Sequence[int],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    name: str = "the function",
) -> list[Point]:
    """Call with lists of each size in turn until the time is up.

    The sizes take turns, so that a slow phase of the machine affects all of them. The first call
    is not counted, because it may import modules, connect and fill caches.

    Args:
        call: calls the function with a list of items.
        items: yields as many items as are needed.
        sizes: the lengths of the lists, ascending.
        seconds: how long to measure.
        clock: returns the time in seconds.
        name: the function, for messages.

    Returns:
        A point for each size that was tried.

    Raises:
        CommandError: a call raised or returned bad results, or calls are too slow for `seconds`.
    """
    checked: set[int] = set()

    def timed(size: int) -> float:
        batch = _take(items, size)
        given = batch.copy()  # the function may change its list
        began = clock()
        try:
            returned = call(batch)
        except (Exception, SystemExit) as error:
            raise CommandError(
                f"{name} raised {type_name(error)} on a list of {size}: {error}"
            ) from error
        taken = clock() - began
        if size not in checked:
            checked.add(size)
            check_results(given, returned, name)
        return taken

    timed(1)
    end = clock() + seconds
    points: list[Point] = []
    for size in sizes:
        points.append(Point(size, [timed(size)]))
        is_slow = points[-1].times[0] > seconds * MAX_SHARE_OF_A_CALL
        if clock() > end or (is_slow and len(points) >= MIN_SIZES):
            break
    if len(points) < min(MIN_SIZES, len(sizes)):
        last = points[-1]
        raise CommandError(
            f"--seconds {seconds:g} is too short: a call with {last.size} "
            f"{'item' if last.size == 1 else 'items'} took {last.time:.3g} s; "
            f"try --seconds {math.ceil(10 * last.time)}"
        )
    turns = itertools.cycle(points)
    while clock() < end:
        point = next(turns)
        point.times.append(timed(point.size))
    return points


def _take(items: Iterator[Any], size: int) -> list[Any]:
    try:
        batch = list(itertools.islice(items, size))
    except (Exception, SystemExit) as error:
        raise CommandError(f"--items: the function raised {describe(error)}") from error
    return batch


def check_results(items: Iterable[Any], returned: Any, name: str) -> None:
    """Check what a call returned, by the rules of a batched function.

    Raises:
        CommandError: the callers of these items would get `BadResult` or `MissingResult`, or the
            items all failed.
    """
    items = list(items)
    returned = _without_retries(returned)

    @batched(size=len(items), linger=None, capacity=None, name=name)
    def results(_: list[Any]) -> Any:
        return returned

    with results:
        futures = [results(item) for item in items]
        results.flush()
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if isinstance(error, (BadResult, MissingResult)):
            raise CommandError(str(error)) from error
    if items and len(errors) == len(items):
        raise CommandError(
            f"{name} failed for every item, the first time with {describe(errors[0])}; "
            "choose other --items"
        )


def _without_retries(returned: Any) -> Any:
    """Replace `Retry` by None: a retried item is not an error, and must not run again here."""
    if isinstance(returned, (list, tuple)) and any(isinstance(one, Retry) for one in returned):
        return [None if isinstance(one, Retry) else one for one in returned]
    if isinstance(returned, dict) and any(isinstance(one, Retry) for one in returned.values()):
        return {key: None if isinstance(one, Retry) else one for key, one in returned.items()}
    return returned
