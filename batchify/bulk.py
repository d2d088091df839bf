"""What is under way in a `map` or `amap`: submitted, and not yielded.

Of a collection, full batches are submitted at a time, each with one future for all its items
(0.1 instead of 1 us an item); what is left over, and the items of other iterables, go one by one
and share batches with everybody's calls.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
)
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

from .future import Alone, BatchFuture, Failure
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
            _progress(progress, options.name),
        )


def _progress(progress: object, name: str) -> Callable[[Any], Iterable[Any]] | None:
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
        log.warning('%s: progress=True needs tqdm: pip install "batchify-py[progress]"', name)
        return None
    wrap: Callable[[Any], Iterable[Any]] = tqdm
    return wrap


class SizedResults:
    """Results that are still to come, with their number, for a bar to show."""

    def __init__(self, results: Any, count: int) -> None:
        self._results = results
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        return self._results  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return self._count


# ---- what is under way ----

AT_ONCE = 16  # batches that are submitted at a time: 2 instead of 6 us each


class _Lot:
    """One future, for an item or for a batch of them; or an item that the call refused."""

    __slots__ = ("count", "future", "has_arrived", "is_chunk", "refused")

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
        self.has_arrived = False

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


class Bulk:
    """What is submitted and not yielded, and where more comes from."""

    def __init__(self, submitter: Submitter, items: Any, how: How, is_watched: bool) -> None:
        self.submitter = submitter
        self.how = how
        self.is_collection = isinstance(items, Collection)
        self.source: Iterator[Any] | None = None
        self.fault: Exception | None = None  # an error of the iterable, raised after all results
        self.under_way = 0  # items
        self.lots: dict[_Lot, None] = {}  # in order of submission
        self.is_watched = is_watched  # each lot tells when it is done
        self.arrived: deque[_Lot] = deque()  # those that did
        self.outcomes: list[Any] = []  # those that are being yielded
        self.is_over = False
        self.has_raised = False  # the caller knows that something failed
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

    def _function_name(self) -> str:
        return self.submitter._options().name

    def holders(self, me: Any) -> list[Any] | None:
        """Who must act before any lot can end, see `waits`."""
        found: list[Any] = []
        states: set[Any] = {getattr(lot.future, "_s", None) for lot in list(self.lots)}
        for state in states:
            holders = state.holders(me) if hasattr(state, "holders") else None
            if holders is None:
                return None
            found += holders
        return found

    def add(
        self,
        future: BatchFuture[Any] | None,
        count: int = 1,
        is_chunk: bool = False,
        refused: Exception | None = None,
    ) -> None:
        """Note a future that was submitted, or the refusal of an item."""
        if self.is_over and future is not None:  # it came too late
            future.cancel()
            return
        lot = _Lot(future, count, is_chunk, refused)
        self.lots[lot] = None
        self.under_way += count
        if not self.is_watched:
            return

        def arrive(_: object) -> None:
            if not lot.has_arrived:
                lot.has_arrived = True
                self.arrived.append(lot)
            self.notify()

        if future is None or not future._watch((arrive,)):
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
        self.outcomes = lot.outcomes().copy()
        return self.outcomes

    def pull(self) -> list[Any] | None:
        """The items that are to be submitted now, one by one; None when there are none.

        Of a collection it submits a full batch itself, where that is possible.
        """
        if self.source is None or self.room < 1:
            return None
        size = self.submitter._options().size
        if not self.is_collection or size > self.how.window:
            return self._next_items(1) or None
        chunks = min(self.room // size, AT_ONCE)
        if not chunks:
            return None
        items = self._next_items(size * chunks)
        if size == 1:
            return items or None
        whole = [items[at : at + size] for at in range(0, len(items) - size + 1, size)]
        futures = self.submitter._chunks(whole) if whole else []
        for future in futures:
            self.add(future, size, is_chunk=True)
        return items[size * len(futures) :]

    def _next_items(self, count: int) -> list[Any]:
        """The next `count` items, or those before the end of the source or its error."""
        items: list[Any] = []
        try:
            items.extend(islice(self.source, count))  # type: ignore[arg-type]
        except Exception as error:
            self.fault = error
        if len(items) < count:
            self.source = None
        return items

    def raise_fault(self) -> None:
        """Raise the error of the iterable, if there was one."""
        fault, self.fault = self.fault, None
        try:
            if fault is not None:
                raise fault
        finally:
            del self, fault  # no cycle through this frame

    def before_wait(self) -> None:
        """Nothing more can be submitted now: what is there must not wait for it for ever."""
        future = self.first
        is_lingering = future is not None and not (future.running() or future.done())
        if is_lingering and self.submitter._options().linger is None:
            self.submitter._push()

    def give_up(self) -> None:
        """Take out what has not started."""
        self.source = self.fault = None
        self.is_over = True
        drop = _drop_asked if self.has_raised else _drop
        drop(self.outcomes)
        self.outcomes.clear()  # who yields from it ends
        for lot in list(self.lots):
            future = lot.future
            # What has started goes on, but not what of it is to run again.
            is_left = future is not None and not future.cancel()
            if future is not None and is_left and (lot.is_chunk or self.has_raised):
                poke = partial(_when_done, drop)
                if not future._watch((poke,)):
                    poke(future)
        self.lots.clear()

    def told(self, outcome: Any) -> Any:
        """What is yielded for an outcome, or raised."""
        try:
            if type(outcome) is not Failure:
                return outcome
            if not self.how.return_exceptions:
                self.has_raised = True
                outcome.throw()
            outcome.note_asked()
            return outcome.error
        finally:
            del self, outcome  # no cycle through this frame


def _nobody() -> None:
    return


def _when_done(drop: Callable[[list[Any]], None], future: BatchFuture[Any]) -> None:
    """Drop the outcomes of a future that is done, and that no caller has."""
    if not future.cancelled():
        drop(future._v if future._is_chunk else [future._v])


def _drop(outcomes: list[Any]) -> None:
    """Cancel items that are to run again."""
    for outcome in outcomes:
        if type(outcome) is Alone:
            outcome.future.cancel()


def _drop_asked(outcomes: list[Any]) -> None:
    """Do the same after an error was raised: the caller knows, so log no others."""
    _drop(outcomes)
    for outcome in outcomes:
        if type(outcome) is Failure:
            outcome.note_asked()


_OTHERS = {Failure, Alone}


def are_results(outcomes: list[Any]) -> bool:
    """Nothing but results? All of it is C: 20 ns an item."""
    return _OTHERS.isdisjoint(map(type, outcomes))
