"""What both drivers share of a batch that runs: taking it, settling it, and what ends early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import BatchAborted
from ..forming import Chunk, Route
from ..future import CANCELLED, ERROR, RESULT, Alone, BatchFuture, Failure
from ..loopfuture import WithErrors
from ..observe import EVERYWHERE, Observers
from ..options import Live
from ..outcome import Call, Settle, is_simple, retry_exhausted
from ..retry import Retry
from ..stats import AT_ONCE
from ..terms import NO_TERMS, Terms, flushed
from .batch import Batch
from .entry import Entry
from .looking import CLOSED, OPEN
from .mending import holding, mended
from .seam import Seam
from .telling import PENDING


class Running(Entry):
    """An engine as far as its batches go."""

    def __init__(self, live: Live, takes_more: bool, seam: Seam) -> None:
        super().__init__(live, takes_more, seam)
        self.batches: set[Batch] = set()
        self.observers = (EVERYWHERE, Observers(), Observers())
        self._is_stopping = False  # what would run again ends in Closed

    # ---- the driver's part ----

    def holders_of(self, batch: Batch, me: Any) -> list[Any] | None:
        """Who must act before `batch` can end."""
        raise NotImplementedError

    def _end_overdue(self, now: float) -> None:
        """End what has come to its deadline (under the lock)."""
        raise NotImplementedError

    # ---- what a driver does with a batch: call what is asked for, until nothing is ----

    can_await = False  # the driver awaits what it is asked to call

    def go_on(self, batch: Batch, answers: list[Any]) -> Call | None:
        """Settle what can be; gives what to call next, None when the batch is over.

        `answers` holds what the last call gave, if there was one, and is empty afterwards: who
        hears of the end may look at the frames, and must find nothing there.
        """
        if batch.talk is None:
            if not answers:
                first = batch.begin(self.can_await)
                if first is not None:
                    return first
            elif is_simple(answers[0], len(batch.given)):
                self.settle_all(batch, answers.pop())
                return None
            batch.begin_talk(answers)
        return self._hear(batch, answers)

    def _hear(self, batch: Batch, answers: list[Any]) -> Call | None:
        assert batch.talk is not None
        while True:
            try:
                asked = batch.talk.send(answers.pop() if answers else None)
            except StopIteration as end:
                batch.error = end.value
                return None
            if not isinstance(asked, Settle):
                return asked
            given = [asked]
            del asked
            self.settle(batch, given.pop())

    # ---- taking ----

    def _take(self) -> Batch | float | None:
        """The next batch for a free worker, or when to look again (under the lock)."""
        forming = self.forming
        if forming.is_idle():
            return None
        if forming.capacity is not None:
            self.need = 0
        told = forming.accept()
        if told:
            self._tell(told)
        now = self.seam.clock()  # not before: a deadline of 0 seconds would be to come
        if forming.minded:
            self._end_overdue(now)
            self._tell(forming.accept())  # there may be room now
        decision = forming.next(now)
        group = decision.group
        if group is None:
            return decision.when
        chunk: Chunk | None = None
        if forming.chunks and group is forming.chunks[0]:
            chunk = group._s
            if chunk.__class__ is not Chunk:  # a finalizer has cancelled it just now
                return self._take()
        batch = Batch(self, (chunk or group).route, decision.reason or "", now)
        if chunk is not None:
            batch.chunk = chunk.chunk
            batch.is_flushed = chunk.is_flushed
        self.batches.add(batch)  # first: what is in no queue any more is in a batch
        if chunk is None:
            forming.take(group, batch)
        else:
            forming.take_chunk(batch)
        if not batch.futures:  # cancelled meanwhile, by a finalizer that ran in this thread
            self.batches.discard(batch)
            self.forming.release(batch.route)
            self._recount()  # those were not taken for dead yet: there would be no end of it
            return self._take()
        batch.size = batch.left = len(batch.futures) if chunk is None else chunk.count
        self.counts.reasons[batch.reason] += 1
        return batch

    def _lost(self) -> list[Batch]:
        """Batches that nobody runs: an exception broke in before or after (under the lock)."""
        raise NotImplementedError

    def _put_back(self, batch: Batch) -> None:
        """The items of a lost batch wait again, before all others, if it never began."""
        if batch.has_begun:
            self._abort(batch, "an exception interrupted batchify itself; submit the items again")
            self.batches.discard(batch)
            return
        route: Route | None = batch.route
        live = []
        for future in batch.futures:
            state = future._s
            if state.__class__ is Route:
                route = state
            if state is batch or state.__class__ is Route:
                live.append(future)
        if batch.chunk is not None and live:
            chunk = Chunk(batch.route, batch.chunk, live[0]._t)
            chunk.is_flushed = batch.is_flushed
            self.forming.chunks.appendleft(live[0])  # first: who is in no place is lost
            live[0]._s = chunk
        elif live:
            if batch.is_flushed:
                for future in live:
                    future._terms = flushed(future._terms)
            self.forming._bring_in(live, route)
        self.batches.discard(batch)
        if batch.left:
            batch.left = 0
            self.forming.release(batch.route)

    # ---- settling ----

    @holding
    def settle(self, batch: Batch, give: Settle) -> None:
        """End items of `batch` with their values, then tell everyone."""
        is_whole = len(give.values) == len(batch.futures) and give.positions.__class__ is range
        if is_whole and give.is_clean and batch.chunk is None:
            self.settle_all(batch, give.values)
        else:
            self._settle_part(batch, give)

    @holding
    def settle_all(self, batch: Batch, values: Sequence[Any]) -> None:
        """`settle` where everybody has a result: the hot path."""
        if batch.chunk is not None:
            self._settle_chunk(batch, range(len(values)), values, is_clean=True)
            return
        futures: Sequence[BatchFuture[Any]] = batch.futures
        succeeded = 0
        with self._lock:
            self._begin()
            for future, value in zip(futures, values, strict=True):
                if future._s is batch:
                    future._v = value
                    future._s = RESULT
                    succeeded += 1
                elif future._s is CANCELLED:  # detached: it kept its item until here
                    future._v = None
            self._count(batch, len(values), succeeded, 0)
            if self.forming.is_pressed:
                self._look()
            self._end()
        if self.has_kinds:
            self._forget_routes()
        self._announce(futures)
        if self._nested:
            self._look_again()

    @holding
    def _settle_part(self, batch: Batch, give: Settle) -> None:
        values = give.values if give.is_clean else self._tried(batch, give)
        if batch.chunk is not None:
            self._settle_chunk(batch, give.positions, values, give.is_clean)
            return
        futures = [batch.futures[place] for place in give.positions]
        with self._lock:
            self._begin()
            succeeded, failed, retried = self._settle_mixed(batch, give.positions, values)
            self.counts.deduplicated += give.shared
            self._count(batch, len(values), succeeded, failed)
            if retried or self.forming.is_pressed:
                self._look()
            self._end()
        if self.has_kinds:
            self._forget_routes()
        self._announce(WithErrors(future for future in futures if future.done()))
        if self._nested:
            self._look_again()

    def _settle_mixed(
        self, batch: Batch, places: Sequence[int], values: Sequence[Any]
    ) -> tuple[int, int, int]:
        """End items with results and errors, and let run again what is to (under the lock)."""
        succeeded = failed = retried = 0
        now = self.seam.clock()
        for place, value in zip(places, values, strict=True):
            future = batch.futures[place]
            if future._s is not batch:
                if future._s is CANCELLED:
                    future._v = None
            elif issubclass(type(value), Retry) and not self._is_over():
                self._run_again(batch, future, place, now, value.after)
                retried += 1
            elif issubclass(type(value), (Failure, Retry)):
                failure = value if isinstance(value, Failure) else Failure(self._closed())
                if future._s is batch:
                    failed += 1
                    batch.report_error(failure)
                    future._v = failure
                    future._s = ERROR
            elif future._s is batch:  # no handler has cancelled it just now
                succeeded += 1
                future._v = value
                future._s = RESULT
        return succeeded, failed, retried

    def _count(self, batch: Batch, settled: int, succeeded: int, failed: int) -> None:
        counts = self.counts
        counts.succeeded += succeeded
        counts.failed += failed
        self.forming.running -= succeeded + failed
        batch.left -= settled
        if not batch.left:
            batch.ran = self.seam.clock() - batch.began
            ended = counts.ended
            ended.append((batch.size, batch.queued, batch.ran))
            if len(ended) >= AT_ONCE:
                counts.record()
            self.forming.release(batch.route)

    @holding
    def finish(self, batch: Batch, reason: str = "") -> None:
        """`batch` is over; what it left unsettled ends in `BatchAborted`, for `reason`."""
        with self._lock:
            if batch.left:
                self._begin()
                self._abort(batch, reason)
                self._end()
            self.batches.discard(batch)  # last: else nobody would find it after an interrupt

    def _abort(self, batch: Batch, reason: str) -> None:
        self._note_told(batch)
        left = [future for future in batch.futures if future._s is batch]
        for future in left:
            count = future._count
            self._end_with((future,), lambda: BatchAborted(f"{self.options.name}: {reason}"))
            self.forming.running -= count
            if future._s is not CANCELLED:  # by a handler
                self.counts.failed += count
        if batch.left:
            batch.left = 0
            self.forming.release(batch.route)

    def _note_told(self, batch: Batch) -> None:
        """Some of `batch` may be done and not told, as an exception broke in."""
        self._ended.update(dict.fromkeys(batch.futures))

    def is_observed(self) -> bool:
        """Is anybody to be told of batches?"""
        everywhere, function, own = self.observers
        return bool(everywhere.entries or function.entries or own.entries)

    @holding
    def tell_observers(self, batch: Batch, error: BaseException | None) -> None:
        """Tell of `batch`, which is over, and of what it failed with."""
        event = batch.event(error)
        errors = sum(observers.notify(event) for observers in self.observers)
        if errors:
            self.count_observer_errors(errors)

    @holding
    def count_observer_errors(self, errors: int) -> None:
        with self._lock:
            self.counts.observer_errors += errors
        self._after()

    # ---- what runs again ----

    def _tried(self, batch: Batch, give: Settle) -> list[Any]:
        """The values of `give`, with an error for who has run as often as it may.

        Not under the lock: the cause of an error lets go of what its frames hold.
        """
        values = list(give.values)
        for at, value in enumerate(values):
            if issubclass(type(value), Retry):
                tries = 1
                if batch.chunk is None:
                    tries += batch.futures[give.positions[at]]._terms.tries
                if tries >= value.attempts:
                    values[at] = retry_exhausted(value, tries, self.options.name)
        return values

    def _is_over(self) -> bool:
        """Does nothing start any more?"""
        return self._is_stopping or self.state is CLOSED

    def _run_again(
        self, batch: Batch, future: BatchFuture[Any], place: int, now: float, after: float
    ) -> None:
        """`future`'s item goes back to the queue (under the lock)."""
        terms = future._terms
        if terms is NO_TERMS:
            terms = future._terms = Terms()
        terms.tries += 1
        terms.again = now
        terms.order = terms.order or (future._t, batch.began, place)
        terms.is_flushed = terms.is_flushed or batch.is_flushed
        self.counts.retried += 1
        forming = self._sort()
        forming.put_back(future, batch.route, now, 0.0 if terms.is_flushed else after)
        if terms.deadline is not None:
            forming.mind(future)
            self._mind(terms.deadline)

    # ---- chunks ----

    @mended
    def submit_chunks(
        self, function: Callable[..., Any], chunks: list[list[Any]], batched: Callable[[], Any]
    ) -> list[BatchFuture[Any]]:
        """Submit up to `size` items each as batches of their own, as many as there is room for.

        The result of a future is the list of its items' outcomes: results, `Failure`s, and
        `Alone` for items that run again.
        """
        futures: list[BatchFuture[Any]] = []
        if self._is_nested():
            return futures
        route = Route(self, function, batched=batched)
        with self._lock:
            self._begin()
            self._look()
            self.need = 0  # the room shrinks
            is_open = self.state is OPEN and not self._is_ending
            for items in chunks:
                count = len(items)
                if not is_open or count > self.options.size or not self.forming.can_take(count):
                    break
                future = self._future(items, None)
                future._count = count
                future._is_chunk = True
                future._s = Chunk(route, [PENDING] * count, future._t)
                self.forming.add_chunk(future)
                futures.append(future)
            self._look()
            while futures and self._is_unserved():  # the calls one by one will tell
                self.forming.end(futures.pop())
            self._end()
        self._after()
        return futures

    @holding
    def _settle_chunk(
        self, batch: Batch, places: Sequence[int], values: Sequence[Any], is_clean: bool
    ) -> None:
        future, outcomes = batch.futures[0], batch.chunk
        assert outcomes is not None
        failed = retried = 0
        with self._lock:
            self._begin()
            is_wanted = future._s is batch
            if is_wanted:
                outcomes[places[0] : places[-1] + 1] = values
                future._count -= len(values)
                if not is_clean:
                    failed, retried = self._sort_out(batch, outcomes, places)
            succeeded = len(values) - failed - retried if is_wanted else 0
            if batch.left == len(values):
                future._v = outcomes if is_wanted else None
                future._s = RESULT if is_wanted else future._s
            self._count(batch, len(values), succeeded, failed)
            if retried or self.forming.is_pressed:
                self._look()
            self._end()
        if not batch.left:
            self._announce((future,))
        if self._nested:
            self._look_again()

    def _sort_out(
        self, batch: Batch, outcomes: list[Any], places: Sequence[int]
    ) -> tuple[int, int]:
        """Count the failures, and let run alone what is to run again (under the lock)."""
        failed = retried = 0
        future = batch.futures[0]
        now = self.seam.clock()
        for place in places:
            value = outcomes[place]
            if issubclass(type(value), Retry):
                if self._is_over():
                    value = outcomes[place] = Failure(self._closed())
                else:
                    alone = self._alone(future, future._v[place], batch.route)
                    outcomes[place] = Alone(alone)
                    self._run_again(batch, alone, place, now, value.after)
                    retried += 1
            if type(value) is Failure:
                batch.report_error(value)
                failed += 1
        return failed, retried

    def _break_up(self) -> None:
        """The items of chunks that are larger than a batch may be go one by one."""
        for future in reversed(list(self.forming.chunks)):
            state = future._s
            if state.__class__ is Chunk and state.count > self.options.size:
                alone = [self._alone(future, item, state.route) for item in future._v]
                if state.is_flushed:
                    for one in alone:
                        one._terms = flushed(one._terms)
                self._ended[future] = None
                self.forming.break_up(future, RESULT, [Alone(one) for one in alone], alone)

    def _alone(self, chunk: BatchFuture[Any], item: Any, route: Route) -> BatchFuture[Any]:
        """A future for one item of a chunk; it has the route for its state until it is in a place.

        So one that an exception left in none is found, see `_strays_of`.
        """
        future: BatchFuture[Any] = self._new_future()
        future._v = item
        future._t = chunk._t
        future._s = route
        if chunk._origin is not None:
            future._origin = chunk._origin
        return future

    def _new_future(self) -> BatchFuture[Any]:
        """A future for whoever waits for it."""
        future: BatchFuture[Any] = BatchFuture()
        return future
