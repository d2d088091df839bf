"""`map` and `amap`: a whole iterable through a batched function, lazily.

Of a collection, full batches are submitted at a time, each with one future for all its items
(0.1 instead of 1 us an item); what is left over, and the items of other iterables, go one by one
and share batches with everybody's calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Sized,
)
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from . import waits
from .engine.seam import THREADS
from .errors import Deadlock
from .future import Alone, BatchFuture, Failure
from .loopfuture import port_of
from .options import UNSET, Options, capacity_of, flag, kind, whole

log = logging.getLogger("batchify")


class Submitter(Protocol):
    """What this module needs of a batched function."""

    def _options(self) -> Options: ...

    def _submit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]: ...

    async def _asubmit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]: ...

    def _chunks(self, chunks: list[list[Any]]) -> list[BatchFuture[Any]]: ...

    def _push(self) -> None: ...


@dataclass(frozen=True, slots=True)
class How:
    """The checked arguments of `map` and `amap`."""

    is_ordered: bool
    window: int
    return_exceptions: bool
    progress: Callable[[Any], Iterable[Any]] | None

    @classmethod
    def checked(
        cls,
        ordered: object,
        window: object,
        return_exceptions: object,
        progress: object,
        options: Options,
    ) -> How:
        """Check every argument.

        Raises:
            TypeError: an argument has a wrong type.
            ValueError: an argument has a wrong value.
        """
        if window is None:
            most = options.capacity or capacity_of(UNSET, options.size, options.workers)
        else:
            most = whole("window", window)
        assert most is not None
        return cls(
            flag("ordered", ordered),
            most,
            flag("return_exceptions", return_exceptions),
            _progress(progress),
        )


def _progress(progress: object) -> Callable[[Any], Iterable[Any]] | None:
    if progress is False:
        return None
    if progress is not True:
        if not callable(progress):
            raise TypeError(
                f"progress must be True, False or a function that wraps an iterable, "
                f"got {kind(progress)}"
            )
        given: Any = progress
        return given  # type: ignore[no-any-return]
    try:
        from tqdm.auto import tqdm
    except ImportError:
        log.warning("progress=True shows a bar where tqdm is installed: pip install tqdm")
        return None
    wrap: Callable[[Any], Iterable[Any]] = tqdm
    return wrap


class _Sized:
    """Results that are still to come, with their number, for a bar to show."""

    def __init__(self, results: Any, count: int) -> None:
        self._results = results
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        return self._results  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return self._count


class _ASized(_Sized):
    def __aiter__(self) -> Any:
        return self._results


# ---- what is under way ----

AT_ONCE = 16  # batches that are submitted at a time: 2 instead of 6 us each


class _Lot:
    """One future, for an item or for a batch of them; or an item that the call refused."""

    __slots__ = ("count", "future", "is_chunk", "refused")

    def __init__(
        self,
        future: BatchFuture[Any] | None,
        count: int = 1,
        is_chunk: bool = False,
        refused: Exception | None = None,
    ) -> None:
        self.future = future
        self.count = count
        self.is_chunk = is_chunk
        self.refused = refused

    def is_done(self) -> bool:
        return self.future is None or self.future.done()

    def outcomes(self) -> list[Any]:
        """The outcomes of its items, once it is done: results, `Failure`s, `Alone`s."""
        future = self.future
        if future is None:
            assert self.refused is not None
            return [Failure(self.refused)]
        if future.cancelled():
            return [Failure(future._make_cancelled_error())] * self.count
        return future._v if self.is_chunk else [future._v]


class _Bulk:
    """What is submitted and not yielded, and where more comes from."""

    def __init__(self, submitter: Submitter, items: Any, how: How, is_watched: bool) -> None:
        self.submitter = submitter
        self.how = how
        self.is_collection = isinstance(items, Collection)
        self.source: Iterator[Any] | None = None
        self.under_way = 0  # items
        self.lots: dict[_Lot, None] = {}  # in order of submission
        self.is_watched = is_watched  # each lot tells when it is done
        self.arrived: deque[_Lot] = deque()  # those that did
        self.outcomes: list[Any] = []  # those that are being yielded
        self.is_over = False
        self.notify: Callable[[], object] = _nobody

    @property
    def room(self) -> int:
        """How many items more may be submitted."""
        return self.how.window - self.under_way

    @property
    def first(self) -> BatchFuture[Any] | None:
        """The oldest future."""
        lot = next(iter(self.lots), None)
        return None if lot is None else lot.future

    def add(
        self,
        future: BatchFuture[Any] | None,
        count: int = 1,
        is_chunk: bool = False,
        refused: Exception | None = None,
    ) -> None:
        if self.is_over and future is not None:  # it came too late
            future.cancel()
            return
        lot = _Lot(future, count, is_chunk, refused)
        self.lots[lot] = None
        self.under_way += count
        if not self.is_watched:
            return

        def arrive(_: object) -> None:
            self.arrived.append(lot)
            self.notify()

        if future is None or not future._watch(arrive):
            arrive(future)

    def ready(self) -> list[Any] | None:
        """The outcomes of the next lot, if it is done."""
        lot: _Lot | None
        if self.how.is_ordered:
            lot = next(iter(self.lots), None)
            if lot is None or not lot.is_done():
                return None
        elif self.arrived:
            lot = self.arrived.popleft()
        else:
            return None
        del self.lots[lot]
        self.under_way -= lot.count
        self.outcomes = lot.outcomes()
        return self.outcomes

    def pull(self) -> list[Any] | None:
        """The items that are to be submitted now, one by one; None when there are none.

        Of a collection it submits a full batch itself, where that is possible.
        """
        if self.source is None or self.room < 1:
            return None
        size = self.submitter._options().size
        if not self.is_collection or size > self.how.window:
            items = list(islice(self.source, 1))
            if not items:
                self.source = None
            return items or None
        chunks = min(self.room // size, AT_ONCE)
        if not chunks:
            return None
        items = list(islice(self.source, size * chunks))
        if len(items) < size * chunks:
            self.source = None
        if size == 1:
            return items or None
        whole = [items[at : at + size] for at in range(0, len(items) - size + 1, size)]
        futures = self.submitter._chunks(whole) if whole else []
        for future in futures:
            self.add(future, size, is_chunk=True)
        return items[size * len(futures) :]

    def before_wait(self) -> None:
        """Nothing more can be submitted now: what is there must not wait for it for ever."""
        future = self.first
        is_lingering = future is not None and not (future.running() or future.done())
        if is_lingering and self.submitter._options().linger is None:
            self.submitter._push()

    def give_up(self) -> None:
        """Take out what has not started."""
        self.source = None
        self.is_over = True
        _cancel_rest(self.outcomes)
        for lot in list(self.lots):
            future = lot.future
            # What has started goes on, but not what of it is to run again.
            is_left = future is not None and not future.cancel() and lot.is_chunk
            if future is not None and is_left and not future._watch(_cancel_rest_of):
                _cancel_rest_of(future)
        self.lots.clear()

    def told(self, outcome: Any) -> Any:
        """What is yielded for an outcome, or raised."""
        if outcome.__class__ is not Failure:
            return outcome
        if not self.how.return_exceptions:
            outcome.throw()
        return outcome.error


def _iterator(items: Any) -> Iterator[Any]:
    try:
        return iter(items)
    except TypeError:
        raise TypeError(f"items must be an iterable, got {kind(items)}") from None


def _nobody() -> None:
    return


def _cancel_rest_of(chunk: BatchFuture[Any]) -> None:
    if not chunk.cancelled():
        _cancel_rest(chunk._v)


def _cancel_rest(outcomes: list[Any]) -> None:
    for outcome in outcomes:
        if outcome.__class__ is Alone:
            outcome.future.cancel()


_OTHERS = {Failure, Alone}


def _are_results(outcomes: list[Any]) -> bool:
    """Nothing but results? All of it is C: 20 ns an item."""
    return _OTHERS.isdisjoint(map(type, outcomes))


# ---- map ----


def mapped(submitter: Submitter, items: Any, how: How) -> Iterator[Any]:
    """See `Calls.map`."""
    bulk = _Bulk(submitter, items, how, is_watched=not how.is_ordered)
    bulk.source = _iterator(items)
    results = _mapped(bulk)
    return results if how.progress is None else _with_bar(results, items, how.progress)


def _with_bar(results: Generator[Any, None, None], items: Any, progress: Any) -> Iterator[Any]:
    sized = isinstance(items, Sized)
    try:
        yield from progress(_Sized(results, len(items)) if sized else results)
    finally:
        results.close()


def _mapped(bulk: _Bulk) -> Generator[Any, None, None]:
    bell = THREADS.bell()
    bulk.notify = bell.ring
    try:
        while True:
            outcomes = bulk.ready()
            if outcomes is None:
                items = bulk.pull()
                if items is not None:
                    for item in items:
                        _submit(bulk, item)
                elif bulk.lots:
                    bulk.before_wait()
                    _wait(bulk, bell)
                else:
                    return
            elif _are_results(outcomes):
                yield from outcomes
            else:
                for outcome in outcomes:
                    if outcome.__class__ is not Alone:
                        yield bulk.told(outcome)
                    elif bulk.how.is_ordered:
                        outcome.future.exception()
                        yield bulk.told(outcome.future._v)
                    else:
                        bulk.add(outcome.future)
    finally:
        bulk.give_up()


def _submit(bulk: _Bulk, item: Any) -> None:
    try:
        bulk.add(bulk.submitter._submit(item, (), {}))
    except Deadlock:
        raise
    except Exception as error:  # refused: the outcome of this item alone
        bulk.add(None, refused=error)


def _wait(bulk: _Bulk, bell: Any) -> None:
    """Wait until the next lot, or any, is done."""
    first = bulk.first
    assert first is not None
    if bulk.how.is_ordered:
        first._wait(None)
        return
    waits.check(first)
    with waits.waiting(first):
        bell.wait(None)


# ---- amap ----


def amapped(submitter: Submitter, items: Any, how: How) -> AsyncGenerator[Any, None]:
    """See `Calls.amap`."""
    is_async = isinstance(items, AsyncIterable)
    bulk = _Bulk(submitter, items, how, is_watched=is_async or not how.is_ordered)
    if not is_async:
        bulk.source = _iterator(items)
    results = _amapped(bulk, items if is_async else None)
    return results if how.progress is None else _awith_bar(results, items, how.progress)


async def _awith_bar(
    results: AsyncGenerator[Any, None], items: Any, progress: Any
) -> AsyncGenerator[Any, None]:
    sized = isinstance(items, Sized)
    try:
        async for result in progress(_ASized(results, len(items)) if sized else results):
            yield result
    finally:
        await results.aclose()


async def _amapped(bulk: _Bulk, items: Any) -> AsyncGenerator[Any, None]:
    port = port_of(asyncio.get_running_loop())
    changed, has_room = asyncio.Event(), asyncio.Event()
    bulk.notify = functools.partial(port.call, changed.set)
    feeder: asyncio.Task[None] | None = None
    if items is not None:
        feeder = asyncio.create_task(_feed(bulk, items, changed, has_room))
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
                    await _change(bulk, changed)
                elif bulk.lots:
                    bulk.before_wait()
                    await _until_done(bulk, changed)
                else:
                    if feeder is not None:
                        feeder.result()  # an error of the iterable
                    return
                continue
            has_room.set()
            for outcome in outcomes:
                if outcome.__class__ is not Alone:
                    yield bulk.told(outcome)
                elif bulk.how.is_ordered:
                    with contextlib.suppress(Exception):
                        await outcome.future
                    yield bulk.told(outcome.future._v)
                else:
                    bulk.add(outcome.future)
    finally:
        if feeder is not None:
            feeder.cancel()
        bulk.give_up()  # before the wait: it may be cancelled once more
        if feeder is not None:
            await asyncio.wait([feeder])


async def _asubmit(bulk: _Bulk, item: Any) -> None:
    try:
        bulk.add(await bulk.submitter._asubmit(item, (), {}))
    except Deadlock:
        raise
    except Exception as error:  # refused: the outcome of this item alone
        bulk.add(None, refused=error)


async def _feed(
    bulk: _Bulk, items: AsyncIterable[Any], changed: asyncio.Event, has_room: asyncio.Event
) -> None:
    """Submit from an async iterable, which may be slow, beside what is yielded."""
    try:
        async for item in items:
            while bulk.room < 1:
                has_room.clear()
                await has_room.wait()
            await _asubmit(bulk, item)
            changed.set()
    finally:
        changed.set()


async def _until_done(bulk: _Bulk, changed: asyncio.Event) -> None:
    """Wait until the next lot, or any, is done."""
    first = bulk.first
    if bulk.is_watched or first is None:
        await _change(bulk, changed)
        return
    try:
        await first
    except Exception:
        if not first.done():  # a Deadlock; its own outcome is looked at later
            raise


async def _change(bulk: _Bulk, changed: asyncio.Event) -> None:
    """Wait for a lot to be done, or to be added; inside a batch, where that can be."""
    first = bulk.first
    batch = waits.serving_batch() if waits.serving_tasks else None
    if batch is None or first is None:
        await changed.wait()
        return
    waits.check_await(first, batch)
    with waits.awaiting(first, batch):
        await changed.wait()
