"""The loops of `map` and `amap`: submit, wait, yield.

A loop waits only if it can neither yield nor submit. `Bulk` knows which items are in flight.
Callers are the methods in `view`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterator, Sized
from typing import Any

from . import waits
from .bulk import Bulk, MapOptions, SizedResults, Submitter, are_results
from .engine.seam import THREADS
from .errors import Deadlock
from .future import Alone, BatchFuture
from .loopfuture import port_of
from .options import kind


def _iterator(name: str, items: Any) -> Iterator[Any]:
    try:
        return iter(items)
    except TypeError:
        if hasattr(type(items), "__iter__") or hasattr(type(items), "__getitem__"):
            raise  # its own `__iter__` has raised it
        raise TypeError(f"{name}: items must be an iterable, got {kind(items)}") from None


# ---- map ----


def mapped(submitter: Submitter, items: Any, options: MapOptions) -> Iterator[Any]:
    """Return the iterator of `Maps.map`."""
    bulk = Bulk(submitter, items, options, is_watched=not options.is_ordered)
    bulk.source = _iterator(submitter._options().name, items)
    results = _Results.of(bulk)
    return results if options.progress is None else _with_bar(results, items, options.progress)


class _Results(itertools.chain[Any]):
    """Yield results from lists of results. It runs in C; a generator would resume once per item."""

    _bulk: Bulk
    _lists: Generator[list[Any], None, None]

    @classmethod
    def of(cls, bulk: Bulk) -> _Results:
        lists = _mapping(bulk)
        results: Any = cls.from_iterable(lists)  # the stubs do not know that it is of this class
        results._bulk, results._lists = bulk, lists
        return results  # type: ignore[no-any-return]

    def close(self) -> None:
        """Stop, as a generator does, and cancel the items that have not started."""
        self._lists.close()
        self._bulk.cancel_rest()  # also if the loop has not begun


def _with_bar(results: _Results, items: Any, progress: Any) -> Iterator[Any]:
    sized = isinstance(items, Sized)
    try:
        yield from progress(SizedResults(results, len(items)) if sized else results)
    finally:
        results.close()


def _mapping(bulk: Bulk) -> Generator[list[Any], None, None]:
    """Yield lists of results that are done at the same time."""
    bell = THREADS.bell()
    bulk.notify = bell.ring
    outcomes = outcome = items = item = None
    try:
        while True:
            outcomes = bulk.ready()
            if outcomes is None:
                items = bulk.pull()
                if items is not None:
                    for item in items:
                        _submit(bulk, item)
                elif bulk.parts:
                    bulk.before_wait()
                    _wait(bulk, bell)
                else:
                    bulk.raise_source_error()
                    return
            elif are_results(outcomes):
                yield outcomes
            else:
                for outcome in outcomes:
                    if type(outcome) is not Alone:
                        yield [bulk.result_of(outcome)]
                    elif bulk.options.is_ordered:
                        outcome.future.exception()
                        yield [bulk.result_of(outcome.future._v)]
                    else:
                        bulk.add(outcome.future)
    finally:
        bulk.cancel_rest()
        del bulk, outcomes, outcome, items, item  # else a cycle through this frame


def _submit(bulk: Bulk, item: Any) -> None:
    try:
        bulk.add(bulk.submitter._submit(item, (), {}))
    except Deadlock:
        raise
    except Exception as error:  # the call refused this item
        bulk.add(None, refused=error)


def _wait(bulk: Bulk, bell: Any) -> None:
    """Wait until the next part is done; if results may come in any order, until any is."""
    first = bulk.first
    try:
        if bulk.options.is_ordered and first is not None:
            first._wait(None, "map()")
        else:
            waits.check(bulk, "map()")
            with waits.waiting(bulk):
                bell.wait(None)
    finally:
        del bulk, first  # the error of a batch that ran in this thread refers to this frame


# ---- amap ----


def amapped(submitter: Submitter, items: Any, options: MapOptions) -> AsyncGenerator[Any, None]:
    """Return the async generator of `Maps.amap`."""
    is_async = isinstance(items, AsyncIterable)
    bulk = Bulk(submitter, items, options, is_watched=is_async or not options.is_ordered)
    if not is_async:
        bulk.source = _iterator(submitter._options().name, items)
    results = _amapping(bulk, items if is_async else None)
    return results if options.progress is None else _awith_bar(results, items, options.progress)


async def _awith_bar(
    results: AsyncGenerator[Any, None], items: Any, progress: Any
) -> AsyncGenerator[Any, None]:
    shown = _SizedBarView(results, len(items)) if isinstance(items, Sized) else _BarView(results)
    advancing: Any = None
    try:
        bar = progress(shown)
        advancing = bar if hasattr(bar, "__aiter__") else _advanced(bar, shown)
        async for result in advancing:
            yield result
    finally:
        if isinstance(advancing, AsyncGenerator):
            await advancing.aclose()
        await results.aclose()


class _BarView:
    """The results as a progress bar sees them, in a `for` or an `async for` loop.

    A bar that supports `async for` takes the results itself. Any other bar, such as a plain tqdm,
    is advanced by one step for each result.
    """

    def __init__(self, results: AsyncGenerator[Any, None]) -> None:
        self.results = results
        self.pending: list[Any] = []

    def __aiter__(self) -> AsyncGenerator[Any, None]:
        return self.results

    def __iter__(self) -> Iterator[Any]:
        while self.pending:
            yield self.pending.pop()


class _SizedBarView(_BarView):
    def __init__(self, results: AsyncGenerator[Any, None], count: int) -> None:
        super().__init__(results)
        self._count = count

    def __len__(self) -> int:
        return self._count


async def _advanced(bar: Any, shown: _BarView) -> AsyncGenerator[Any, None]:
    """Advance a bar that does not support `async for`, and yield the results."""
    steps = iter(bar)
    try:
        async for result in shown.results:
            shown.pending.append(result)
            step = next(steps, _END)
            if step is _END:  # the bar may end the loop, as in `map`
                return
            yield step
        next(steps, _END)  # the bar shows that it is complete
    finally:
        if isinstance(steps, Generator):
            steps.close()


_END = object()


async def _amapping(bulk: Bulk, items: Any) -> AsyncGenerator[Any, None]:
    port = port_of(asyncio.get_running_loop())
    changed, has_space = asyncio.Event(), asyncio.Event()
    bulk.notify = functools.partial(port.call, changed.set)
    feeder: asyncio.Task[None] | None = None
    outcomes = outcome = pulled = item = None
    if items is not None:
        feeder = asyncio.create_task(_feed(bulk, items, changed, has_space))
    try:
        while True:
            changed.clear()
            outcomes = bulk.ready()
            if outcomes is None:
                pulled = bulk.pull()
                if pulled is not None:
                    for item in pulled:
                        await _asubmit(bulk, item)
                elif feeder is not None and not feeder.done():
                    bulk.before_wait()
                    await _change(bulk, changed, is_fed=True)
                elif bulk.parts:
                    bulk.before_wait()
                    await _until_done(bulk, changed)
                else:
                    if feeder is not None:
                        feeder.result()  # an error of the iterable
                    bulk.raise_source_error()
                    return
                continue
            has_space.set()
            for outcome in outcomes:
                if type(outcome) is not Alone:
                    yield bulk.result_of(outcome)
                elif bulk.options.is_ordered:
                    with contextlib.suppress(Exception):
                        await outcome.future
                    yield bulk.result_of(outcome.future._v)
                else:
                    bulk.add(outcome.future)
    finally:
        if feeder is not None:
            feeder.cancel()
        bulk.cancel_rest()  # before the wait, which may be cancelled
        if feeder is not None:
            await asyncio.wait([feeder])
        del bulk, items, outcomes, outcome, pulled, item  # else a cycle through this frame


async def _asubmit(bulk: Bulk, item: Any) -> None:
    try:
        bulk.add(await bulk.submitter._asubmit(item, (), {}))
    except Deadlock:
        raise
    except Exception as error:  # the call refused this item
        bulk.add(None, refused=error)


async def _feed(
    bulk: Bulk, items: AsyncIterable[Any], changed: asyncio.Event, has_space: asyncio.Event
) -> None:
    """Submit the items of an async iterable in a task of its own: a slow one delays no results."""
    try:
        async for item in items:
            while bulk.space < 1:
                has_space.clear()
                await has_space.wait()
            await _asubmit(bulk, item)
            changed.set()
    finally:
        changed.set()


async def _until_done(bulk: Bulk, changed: asyncio.Event) -> None:
    """Wait until the next part is done; if results may come in any order, until any is."""
    first = bulk.first
    if bulk.is_watched or first is None:
        await _change(bulk, changed)
        return
    try:
        await first
    except Exception:
        if not first.done():  # a `Deadlock`; the outcome of the future is read later
            raise
    finally:
        del bulk, first  # else a cycle through this frame


async def _change(bulk: Bulk, changed: asyncio.Event, is_fed: bool = False) -> None:
    """Wait until a part is done or added; raise `Deadlock` in a batch where that cannot happen."""
    target: BatchFuture[Any] | Bulk | None = bulk.first
    if not bulk.options.is_ordered:
        target = None if is_fed and bulk.space >= 1 else bulk  # a new part may be done first
    batch = waits.serving_batch() if waits.serving_tasks else None
    if batch is None or target is None:
        await changed.wait()
        return
    waits.check_await(target, batch, "amap()")
    with waits.awaiting(target, batch):
        await changed.wait()
