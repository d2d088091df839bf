"""Keep the items of one `map` or `amap` that are submitted but not yielded yet.

A sized collection is submitted in full batches with one future each, which costs 0.1 us per item
instead of 1 us. All other items are submitted one by one, and share batches with other calls.
`mapping` has the loops that use this.
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
    """The methods of a batched function that this module calls."""

    def _options(self) -> Options: ...

    def _submit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]: ...

    async def _asubmit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]: ...

    def _submit_chunks(self, chunks: list[list[Any]]) -> list[BatchFuture[Any]]: ...

    def _dispatch_now(self) -> None: ...


@dataclass(frozen=True, slots=True)
class MapOptions:
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
    ) -> MapOptions:
        """Return the checked arguments.

        Raises:
            TypeError: An argument has a wrong type.
            ValueError: An argument has a wrong value.
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
    """An iterator of results with a length, so that a progress bar can show the total."""

    def __init__(self, results: Any, count: int) -> None:
        self._results = results
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        return self._results  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return self._count


# ---- items in flight ----

AT_ONCE = 16  # batches submitted together: 2 us instead of 6 us each


class _Part:
    """The future of one item or of one whole batch, or an item that could not be submitted."""

    __slots__ = ("count", "future", "is_chunk", "is_counted", "refused")

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
        self.is_counted = False

    def is_done(self) -> bool:
        return self.future is None or self.future.done()

    def outcomes(self) -> list[Any]:
        """Return the outcomes of its items once it is done: results, `Failure`s, `Alone`s."""
        future = self.future
        if future is None:
            assert self.refused is not None
            return [Failure(self.refused)]
        if future.cancelled():
            return [Failure(future._make_cancelled_error())] * self.count
        return future._v if self.is_chunk else [future._v]


class Bulk:
    """The source of the items, and the items that are submitted but not yielded yet."""

    def __init__(
        self, submitter: Submitter, items: Any, options: MapOptions, is_watched: bool
    ) -> None:
        self.submitter = submitter
        self.options = options
        self.is_collection = isinstance(items, Collection)
        self.source: Iterator[Any] | None = None
        self.source_error: Exception | None = None  # raised after all results
        self.in_flight = 0  # items
        self.parts: dict[_Part, None] = {}  # in order of submission
        self.is_watched = is_watched  # each part calls `notify` when it is done
        self.finished: deque[_Part] = deque()  # only if watched
        self.outcomes: list[Any] = []  # those that are being yielded now
        self.is_over = False
        self.has_raised = False  # the caller has got an exception
        self.notify: Callable[[], object] = _do_nothing

    @property
    def space(self) -> int:
        """The number of items that may still be submitted."""
        return self.options.window - self.in_flight

    @property
    def first(self) -> BatchFuture[Any] | None:
        """The oldest future, None if there is none."""
        part = next(iter(self.parts), None)
        return None if part is None else part.future

    def _function_name(self) -> str:
        return self.submitter._options().name

    def holders(self, me: Any) -> list[Any] | None:
        """Return the threads and batches that must act before any part can end; see `waits`."""
        found: list[Any] = []
        states: set[Any] = {getattr(part.future, "_s", None) for part in list(self.parts)}
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
        """Add the future of a submitted item or batch, or the error of an item that was refused."""
        if self.is_over and future is not None:  # `cancel_rest` was called
            future.cancel()
            return
        part = _Part(future, count, is_chunk, refused)
        self.parts[part] = None
        self.in_flight += count
        if not self.is_watched:
            return

        def finish(_: object) -> None:
            if not part.is_counted:
                part.is_counted = True
                self.finished.append(part)
            self.notify()

        if future is None or not future._watch((finish,)):
            finish(future)

    def ready(self) -> list[Any] | None:
        """Return the outcomes of the next part, or None if it is not done."""
        part: _Part | None
        if self.options.is_ordered:
            part = next(iter(self.parts), None)
            if part is None or not part.is_done():
                return None
        elif self.finished:
            part = self.finished.popleft()
        else:
            return None
        del self.parts[part]
        self.in_flight -= part.count
        self.outcomes = part.outcomes().copy()
        return self.outcomes

    def pull(self) -> list[Any] | None:
        """Return the items that must be submitted one by one now; None if there are none.

        If the source is a collection, submit as many full batches as possible first.
        """
        if self.source is None or self.space < 1:
            return None
        size = self.submitter._options().size
        if not self.is_collection or size > self.options.window:
            return self._next_items(1) or None
        chunks = min(self.space // size, AT_ONCE)
        if not chunks:
            return None
        items = self._next_items(size * chunks)
        if size == 1:
            return items or None
        whole = [items[at : at + size] for at in range(0, len(items) - size + 1, size)]
        futures = self.submitter._submit_chunks(whole) if whole else []
        for future in futures:
            self.add(future, size, is_chunk=True)
        return items[size * len(futures) :]

    def _next_items(self, count: int) -> list[Any]:
        """Take the next `count` items, or fewer if the source ends or raises."""
        items: list[Any] = []
        try:
            items.extend(islice(self.source, count))  # type: ignore[arg-type]
        except Exception as error:
            self.source_error = error
        if len(items) < count:
            self.source = None
        return items

    def raise_source_error(self) -> None:
        """Raise the error of the iterable, if it has raised one."""
        source_error, self.source_error = self.source_error, None
        try:
            if source_error is not None:
                raise source_error
        finally:
            del self, source_error  # else a cycle through this frame

    def before_wait(self) -> None:
        """Dispatch partial batches if `linger=None`: nothing that could fill them will come."""
        future = self.first
        is_lingering = future is not None and not (future.running() or future.done())
        if is_lingering and self.submitter._options().linger is None:
            self.submitter._dispatch_now()

    def cancel_rest(self) -> None:
        """Cancel all items that have not started, and all retries."""
        self.source = self.source_error = None
        self.is_over = True
        drop = _drop_asked if self.has_raised else _drop
        drop(self.outcomes)
        self.outcomes.clear()  # the loop that yields from it ends
        for part in list(self.parts):
            future = part.future
            # A running batch finishes, but items of it that it returns as `Retry` are cancelled.
            is_left = future is not None and not future.cancel()
            if future is not None and is_left and (part.is_chunk or self.has_raised):
                callback = partial(_when_done, drop)
                if not future._watch((callback,)):
                    callback(future)
        self.parts.clear()

    def result_of(self, outcome: Any) -> Any:
        """Return what the caller gets for an outcome, or raise its error."""
        try:
            if type(outcome) is not Failure:
                return outcome
            if not self.options.return_exceptions:
                self.has_raised = True
                outcome.throw()
            outcome.note_asked()
            return outcome.error
        finally:
            del self, outcome  # else a cycle through this frame


def _do_nothing() -> None:
    return


def _when_done(drop: Callable[[list[Any]], None], future: BatchFuture[Any]) -> None:
    """Drop the outcomes of a future that is done and that no caller holds."""
    if not future.cancelled():
        drop(future._v if future._is_chunk else [future._v])


def _drop(outcomes: list[Any]) -> None:
    """Cancel the retries among `outcomes`."""
    for outcome in outcomes:
        if type(outcome) is Alone:
            outcome.future.cancel()


def _drop_asked(outcomes: list[Any]) -> None:
    """Do the same as `_drop`, and log no further errors, because the caller has got one already."""
    _drop(outcomes)
    for outcome in outcomes:
        if type(outcome) is Failure:
            outcome.note_asked()


_NOT_RESULTS = {Failure, Alone}


def are_results(outcomes: list[Any]) -> bool:
    """Return True if all outcomes are results. It runs in C, and takes 20 ns per item."""
    return _NOT_RESULTS.isdisjoint(map(type, outcomes))
